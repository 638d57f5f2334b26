"""The process that runs learners' code: it is handed code and inputs, and hands back numbers. It never judges.

`python -m autograder.worker` loads torch once, then takes jobs on its standard input. Where the system can fork, each job runs
in a forked child with limits, so that a crash or an endless loop costs that job only; elsewhere the process takes one job and
ends, and the judge starts another.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import tempfile
import time
from collections.abc import Callable
from typing import BinaryIO

import torch

from autograder import probes, wire
from autograder.children import BROKEN, adopt_orphans, die_with_parent, end_all, how_it_ended, set_limits, status_of
from autograder.guard import Hidden, Untouched, hide_reference
from autograder.loading import load
from autograder.observe import Observation, observe

MAX_RESULT = 256 * 2**20
CAN_FORK = hasattr(os, "fork")


def main() -> None:
    """Take jobs until the input ends."""
    jobs, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    silence()
    torch.set_num_threads(1)
    adopt_orphans()
    while True:
        frames = read_frame(jobs), read_frame(jobs)
        if None in frames:
            return
        job = job_of(*frames)
        for module in job["preload"]:
            importlib.import_module(module)
        if CAN_FORK and not job["one_process"]:
            Untouched.before()
            gc.freeze()  # a child then looks for garbage among its own objects only
            answer, ending = run_in_child(job, [jobs.fileno(), results.fileno()])
            results.write(wire.framed(wire.pack({"ending": ending})) + wire.framed(answer))
            results.flush()
        else:
            run_in_place(job, results)


def job_of(calls: bytes, own: bytes) -> dict:
    """A job from its two frames: what is asked of everybody, and what is the learner's own."""
    return {**wire.unpack(calls), **wire.unpack(own)}


def run_in_place(job: dict, results: BinaryIO) -> None:
    """Run a job in this process, and end it: threads that go on and what waits for the exit are not waited for."""
    status = BROKEN
    try:
        set_limits(job["seconds"])
        run_job(job, lambda content: (results.write(wire.framed(content)), results.flush()))
        status = 0
    finally:
        os._exit(status)


def read_frame(stream: BinaryIO) -> bytes | None:
    """One frame, None at the end of the stream."""
    head = stream.read(wire.LENGTH.size)
    if len(head) < wire.LENGTH.size:
        return None
    return stream.read(wire.LENGTH.unpack(head)[0])


def silence() -> None:
    """Nobody answers questions here, and nobody reads what is printed."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    if null > 2:
        os.close(null)


def run_in_child(job: dict, close: list[int]) -> tuple[bytes, str]:
    """Run a job in a forked child; its frames, and how it ended: "done", "timeout", "flood" or what killed it."""
    with tempfile.TemporaryDirectory(prefix="grading-", ignore_cleanup_errors=True) as scratch:
        (reading, writing), parent = os.pipe(), os.getpid()
        child = os.fork()
        if child == 0:
            status = BROKEN
            try:
                die_with_parent(parent)
                os.setsid()
                for fd in [reading, *close]:
                    os.close(fd)
                os.chdir(scratch)
                set_limits(job["seconds"])
                run_job(job, lambda content: write_all(writing, wire.framed(content)))
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        answer, ending = collect(reading, time.monotonic() + job["seconds"])
        status = status_of(child) if ending == "done" else None
        end_all(child, status is not None)
        os.close(reading)
        return answer, how_it_ended(status) if ending == "done" else ending


def write_all(fd: int, content: bytes) -> None:
    """Write to a pipe."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def collect(fd: int, deadline: float) -> tuple[bytes, str]:
    """All bytes until the pipe closes, the time is up, or there are too many."""
    chunks, size = [], 0
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return b"".join(chunks), "timeout"
        chunk = os.read(fd, 2**20)
        if not chunk:
            return b"".join(chunks), "done"
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_RESULT:
            return b"".join(chunks), "flood"


def run_job(job: dict, send: Callable[[bytes], object]) -> None:
    """Load the learner's code, call the function on every case, send what happened after each step."""
    replaced = Untouched.before().replaced
    hide_reference(**job["reference"])
    loaded = load(job["cells"], job["beside"], job["keep"], lambda place: send(wire.pack({"at": place})))
    function, probe = loaded.names.get(job["name"]), getattr(probes, job["probe"])
    head = {"trouble": loaded.trouble, "notes": loaded.notes, "found": callable(function)}
    send(wire.pack({**head, "reference_used": loaded.reference_used or Hidden.touched}))
    if not callable(function):
        return
    before: dict[int, Observation] = {}
    for place, index in enumerate(job["order"]):
        case, gradients = job["cases"][index], job["gradients"][index]
        seen = observe(function, case, probe, tuple(job["parts"]), gradients, interruptible=False)
        seen.reference_used |= Hidden.touched
        if place in (0, len(job["order"]) - 1):  # it takes as long as the call
            seen.state += [f"what {name} is" for name in replaced()]
        send(wire.pack_observation(seen, before.get(index)))
        before.setdefault(index, seen)
        if seen.missing or seen.reference_used or seen.error and seen.error.startswith("MemoryError"):
            return


if __name__ == "__main__":
    main()
