"""`python -m autograder.isolation.serve SECONDS`: takes the place of `python -m autograder.worker`, shut in.

Before it takes a job it moves into namespaces of its own. For each job it forks a child, which gives up its rights and only
then reads the job. The serving process never sees a job or an answer, it passes answers on inside the kernel: what learners'
code might find in the memory that it inherits says nothing of other learners.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import sys
import time

from autograder.children import BROKEN, how_it_ended, status_of
from autograder.isolation import namespaces
from autograder.isolation.limits import MEGABYTE, Limits
from autograder.isolation.room import Room

# what a job needs, or often imports: once the machine's file tree is left, the grader's own modules cannot be loaded
TO_SERVE = ("numpy.random", "jaxtyping", "yaml", "autograder.worker", "autograder.isolation.redacted")
TO_REPORT = ("autograder.isolation.checks",)
START = 10.0  # seconds for a child to lock itself in and read its job
STARTED = b"+"


def main() -> None:
    """Serve jobs, or with more arguments say what cannot be done in here."""
    seconds, *outside = sys.argv[1:]
    jobs, results = os.dup(0), os.dup(1)
    room = Room(Limits(float(seconds)))
    try:
        room.enter()
        for module in TO_REPORT if outside else TO_SERVE:
            importlib.import_module(module)
        ask_the_machine()
        room.close()
        room.renew_scratch()
        forget_where_from()
    except Exception as error:
        write(results, json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode())
        return
    try:
        if outside:
            report(room, results, *outside)
        else:
            write(results, json.dumps({"layers": room.layers()}).encode())
            serve(room, jobs, results)
    finally:
        room.remove_scratch()


def ask_the_machine() -> None:
    """Torch looks up what the processor can do when it first needs to know, in files that cannot be read later."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.ones(1).half().float()


def forget_where_from() -> None:
    """Learners' code need not know where the grader is, nor how it was started."""
    sys.path[:] = [path for path in sys.path if path != os.environ.get("PYTHONPATH")]
    os.environ.pop("PYTHONPATH", None)
    sys.argv[:] = [""]
    sys.orig_argv[:] = [sys.executable]
    # the first process of a tree gets no signal from inside that it has no handler for, and Python has one for this
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def serve(room: Room, jobs: int, results: int) -> None:
    """Job after job, until the judge is gone."""
    from autograder import wire
    from autograder.guard import Untouched

    waiting = select.poll()
    waiting.register(jobs, select.POLLIN)
    while any(event & select.POLLIN for _, event in waiting.poll()):
        load_ahead(json.loads(read_frame(jobs)))  # the first of a job's three frames says nothing of the learner
        Untouched.before()
        gc.freeze()  # a job then looks for garbage among its own objects only, and copies less of the memory it shares
        room.renew_scratch()
        kept = os.memfd_create("answer")
        ending = run(room, jobs, results, kept)
        write(results, wire.pack({"ending": ending}))
        pass_on(kept, results)
        os.close(kept)


def load_ahead(modules: list[str]) -> None:
    """Import what many jobs would import anew, each for itself."""
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception:  # then they do
            continue


def run(room: Room, jobs: int, results: int, kept: int) -> str:
    """Run one job; how it ended, as an ordinary worker says it. The answer is in `kept`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = BROKEN
        try:
            room.lock(keep=(jobs, writing))
            take_job(jobs, writing)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    if not select.select([reading], [], [], START)[0] or os.read(reading, 1) != STARTED:
        raise SystemExit("a job could not be started")
    ending = gather(reading, kept, time.monotonic() + room.bounds.seconds, room.bounds.output * MEGABYTE)
    status = status_of(child) if ending == "done" else None
    os.close(reading)
    if status is None:
        os.kill(child, signal.SIGKILL)
    if namespaces.own_tree:
        namespaces.end_all_others()
    reap()
    return how_it_ended(status) if ending == "done" else ending


def take_job(jobs: int, writing: int) -> None:
    """Everything that happens in a job's process, after it has been locked in."""
    from autograder import wire, worker
    from autograder.isolation import redacted

    job = worker.job_of(read_frame(jobs), read_frame(jobs))
    os.close(jobs)
    redacted.install(job["modules"])
    worker.write_all(writing, STARTED)
    worker.run_job(job, lambda content: worker.write_all(writing, wire.framed(content)))


def gather(reading: int, kept: int, deadline: float, most: int) -> str:
    """Move what a job sends into a file in memory, without looking at it."""
    size = 0
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reading], [], [], left)[0]:
            return "timeout"
        moved = os.splice(reading, kept, MEGABYTE)
        size += moved
        if not moved or size > most:
            return "flood" if moved else "done"


def pass_on(kept: int, results: int) -> None:
    """Send a file as one frame."""
    size, place = os.fstat(kept).st_size, 0
    os.write(results, size.to_bytes(8, "little"))
    while place < size:
        place += os.splice(kept, results, size - place, offset_src=place)


def read_frame(jobs: int) -> bytes:
    """One frame, and not a byte of what follows."""

    def read(size: int) -> bytes:
        content = bytearray()
        while len(content) < size:
            more = os.read(jobs, size - len(content))
            if not more:
                raise EOFError("the judge is gone")
            content += more
        return bytes(content)

    return read(int.from_bytes(read(8), "little"))


def write(results: int, content: bytes) -> None:
    """Send one small frame."""
    os.write(results, len(content).to_bytes(8, "little") + content)


def reap() -> None:
    """Take leave of every child that has ended."""
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


def report(room: Room, results: int, outside: str, judge: str) -> None:
    """Try in a child what must not be possible, and send what was found."""
    from autograder.isolation import checks

    child = os.fork()
    if child == 0:
        try:
            room.lock(keep=(results,))
            found = checks.run(outside, int(judge), room.bounds)
        except BaseException as error:
            found = dict.fromkeys(room.layers(), f"the sandbox fails: {error}")
        reasons = f" ({'; '.join(room.why)})" if room.why else ""
        found = {name: trouble and trouble + reasons for name, trouble in found.items()}
        write(results, json.dumps({"checks": found, "by": room.layers()}).encode())
        os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
    os._exit(0)  # torch takes a second to be taken apart
