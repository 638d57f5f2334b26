"""The judge's side of the worker: send a job, read back what happened."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from autograder import wire
from autograder.children import BROKEN, GRACE
from autograder.exercise import Case, Exercise
from autograder.isolation.redacted import modules_without
from autograder.observe import Observation
from autograder.sandbox import LINUX, READY, SandboxError, clean_environment, command, remove_scratch_of, require_all
from autograder.statements import Statement
from autograder.submission import Submission

SECONDS = 20.0
MAX_RESULT = 256 * 2**20
PATIENCE = 60.0  # for the worker itself, which loads torch first
LOADED_FOR = {"update": ["torch._dynamo"]}  # every optimizer imports it, which takes a second or two; by the probe


@dataclass
class Outcome:
    """What came back from a job.

    Attributes:
        seen: an observation for each call that was finished, in the order asked.
        ending: "done", "timeout", "flood", the name of a signal, or "gone".
        found: the function exists after the code has run.
        trouble: statements that failed while the code was loaded, in words.
        notes: what else there is to say of the loading.
        at: the place in the code that was reached last while it was loaded.
        loaded: all of the code has been run that the function needs.
        reference_used: the code used the reference meanwhile.
    """

    seen: list[Observation] = field(default_factory=list)
    ending: str = "done"
    found: bool = False
    trouble: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    at: str = ""
    loaded: bool = False
    reference_used: bool = False


class Worker:
    """A process that runs learners' code; started before it is needed, and again when it has died."""

    def __init__(
        self,
        seconds: float = SECONDS,
        fork: bool = hasattr(os, "fork"),
        sandbox: bool = False,
        strict: bool = False,
    ):
        """A worker, not yet started.

        Args:
            seconds: for one exercise.
            fork: run each job in a forked child.
            sandbox: behind everything that this machine has to shut code in with, see `autograder.sandbox`.
            strict: refuse where one of the protections is missing.

        Raises:
            SandboxError: the machine lacks a protection, and `strict` asks for all.
        """
        if strict:
            require_all()
        self.shut_in = sandbox and LINUX
        self.seconds, self.fork = seconds, fork or self.shut_in
        self.process: subprocess.Popen | None = None
        self.greeted = self.has_run = False
        self.scratch = ""
        self.kept: dict[tuple[str, int], tuple[Sequence[Case], bytes]] = {}

    def start(self) -> None:
        """Begin to load torch, beside whatever this process does."""
        if self.process is None or self.process.poll() is not None:
            packages = str(Path(__file__).resolve().parent.parent)
            self.scratch = "" if self.fork else tempfile.mkdtemp(prefix="grading-")  # a fork has a folder for each job
            self.process = subprocess.Popen(
                command(self.seconds) if self.shut_in else [sys.executable, "-m", "autograder.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=clean_environment() if self.shut_in else environment_with(packages),
                # before Python 3.11 the working folder comes first where modules are looked for
                cwd=self.scratch or packages,
            )
            self.greeted = False
            atexit.register(self.stop)

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                pipe.close()
            if self.shut_in:
                remove_scratch_of(self.process.pid)
            self.process = None
            shutil.rmtree(self.scratch or "no-such-folder", ignore_errors=True)
            atexit.unregister(self.stop)

    def run(
        self,
        exercise: Exercise,
        submission: Submission,
        cases: Sequence[Case],
        order: Sequence[int],
        stand_ins: dict[str, str] | None = None,
        broad: bool = False,
    ) -> Outcome:
        """Call a submission's function on cases.

        Args:
            exercise: the exercise; its name is the function's.
            submission: the learner's code.
            cases: the calls.
            order: indices of the cases, in the order in which they are called; an index may come several times.
            stand_ins: names of other functions whose reference takes the learner's place, with their modules.
            broad: also run what only may matter, see `autograder.selection`.
        """
        self.start()
        stand_ins = stand_ins or {}
        selection = submission.selection(exercise.name, frozenset(stand_ins), broad)
        own = {
            "cells": cells_for(submission, selection.statements, stand_ins),
            "beside": submission.modules,
            "keep": sorted(selection.functions_only),
            "preload": sorted({exercise.home, *stand_ins.values(), *LOADED_FOR.get(exercise.probe, [])}),
            "seconds": self.seconds,
            "one_process": not self.fork,
        }
        if self.shut_in and not self.greeted:
            self.greet()
        before = wire.framed(json.dumps(LOADED_FOR.get(exercise.probe, [])).encode()) if self.shut_in else b""
        job = wire.framed(self.calls(exercise, cases, order)) + wire.framed(wire.pack(own))
        found = self.send(before + job, order)
        self.has_run |= found.loaded
        if self.fork and not (self.shut_in or self.has_run) and found.ending.startswith("SIG") and not found.at:
            # on some systems a process that has loaded much does not survive a fork
            self.stop()
            self.fork = False
            return self.run(exercise, submission, cases, order, stand_ins, broad)
        return found

    def calls(self, exercise: Exercise, cases: Sequence[Case], order: Sequence[int]) -> bytes:
        """The part of a job that is the same for every learner; it is large, so it is kept."""
        key = exercise.name, id(cases)
        if key not in self.kept:
            packed = wire.pack(
                {
                    "name": exercise.name,
                    "reference": {"module": exercise.home, "name": exercise.name},
                    "probe": exercise.probe,
                    "parts": list(exercise.parts),
                    "gradients": [exercise.asks_gradient(case) for case in cases],
                    "cases": [case.args for case in cases],
                    "order": list(order),
                    "modules": modules_without(exercise.home, exercise.name) if self.shut_in else {},
                }
            )
            self.kept[key] = cases, packed  # with the cases, so that no others get their id
        return self.kept[key][1]

    def send(self, content: bytes, order: Sequence[int]) -> Outcome:
        """Hand over a job and wait for what comes of it."""
        try:
            self.process.stdin.write(content)
            self.process.stdin.flush()
        except (BrokenPipeError, OSError):
            self.stop()
            return Outcome(ending="gone" if self.has_run else "no worker")
        return self.read_forked(order) if self.fork else self.read_single(order)

    def greet(self) -> None:
        """Wait until the process is shut in.

        Raises:
            SandboxError: it cannot be.
        """
        content, ending = self.within_time(read_frame, READY)
        found = json.loads(content) if content else {}
        if "layers" not in found:
            self.stop()
            raise SandboxError(f"learners' code cannot be shut in: {found.get('failed', ending)}")
        self.greeted = True

    def read_forked(self, order: Sequence[int]) -> Outcome:
        """Two frames from a worker that forks: how the child ended, and all that it sent."""
        content, ending = self.within_time(lambda stream: (read_frame(stream), read_frame(stream)))
        if ending != "done" or content is None or None in content:
            self.stop()
            gone = "gone" if self.has_run else "no worker"
            return Outcome(ending=gone if ending == "done" else ending)
        return outcome(wire.frames_of(content[1]), str(wire.unpack(content[0])["ending"]), order)

    def read_single(self, order: Sequence[int]) -> Outcome:
        """All that a worker sends before it ends."""
        content, ending = self.within_time(lambda stream: stream.read1(2**20), PATIENCE)
        if content and ending == "done":  # the code has begun to run
            rest, ending = self.within_time(read_all, self.seconds)
            content += rest or b""
        content = content or b""
        try:
            status = self.process.wait(GRACE) if ending == "done" else None
        except subprocess.TimeoutExpired:
            ending = "flood" if len(content) > MAX_RESULT else "closed"
        self.stop()
        self.start()  # ready for the next
        if ending == "done" and status != 0:
            ending = ended_with(status)
        return outcome(wire.frames_of(content), ending, order)

    def within_time(self, read, seconds: float | None = None) -> tuple[object, str]:
        """Read from the worker in a thread, so that the clock is kept on every system."""
        found: list = []
        thread = threading.Thread(target=lambda: found.append(attempt(read, self.process.stdout)), daemon=True)
        thread.start()
        thread.join(self.seconds + (READY if self.shut_in else PATIENCE) if seconds is None else seconds)
        if thread.is_alive():
            self.process.kill()
            thread.join(PATIENCE)
            return (found[0] if found else None), "timeout"
        return found[0], "done"


def environment_with(packages: str) -> dict[str, str]:
    """The worker's environment."""
    path = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
    # compiling would start compilers and take its time; decorated functions run as they are written
    settings = {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", "PYTHONSAFEPATH": "1", "PYTHONPATH": path}
    return {**os.environ, **settings}


def attempt(read, stream: BinaryIO) -> object:
    """What could be read, None if the stream broke."""
    try:
        return read(stream)
    except (OSError, ValueError):
        return None


def read_all(stream: BinaryIO) -> bytes:
    """All bytes until the end of the stream, or until they are too many."""
    content = bytearray()
    while len(content) <= MAX_RESULT:
        chunk = stream.read1(2**20)
        if not chunk:
            break
        content += chunk
    return bytes(content)


def ended_with(status: int) -> str:
    """The end of a process in a word."""
    if os.name == "posix" and status < 0:
        return signal.Signals(-status).name
    return "broken" if status in (1, BROKEN) else f"exit code {status}"


def read_frame(stream: BinaryIO) -> bytes | None:
    """One frame; None at the end of the stream."""
    head = stream.read(wire.LENGTH.size)
    if len(head) < wire.LENGTH.size:
        return None
    size = wire.LENGTH.unpack(head)[0]
    content = stream.read(size)
    return content if len(content) == size else None


def outcome(frames: list[bytes], ending: str, order: Sequence[int]) -> Outcome:
    """The frames of a job: where the loading stood, what it brought, then an observation for each call, in this order."""
    found = Outcome(ending=ending)
    try:
        for place, frame in enumerate(frames):
            head = wire.unpack(frame)
            if "at" in head:
                found.at = str(head["at"])[:100]
                continue
            found.loaded = True
            found.found, found.reference_used = head["found"] is True, head["reference_used"] is True
            found.trouble, found.notes = ([str(t)[:300] for t in head[key][:20]] for key in ("trouble", "notes"))
            add_observations(found, frames[place + 1 :], order)
            break
    except (ValueError, KeyError, TypeError):
        found.ending = "not data"
    return found


def add_observations(found: Outcome, frames: list[bytes], order: Sequence[int]) -> None:
    """An observation for each frame, up to one that is none.

    Raises:
        ValueError: there is one, or there are more frames than calls.
    """
    if len(frames) > len(order):
        raise ValueError("more answers than calls")
    before: dict[int, Observation] = {}
    for frame, index in zip(frames, order, strict=False):
        found.seen.append(wire.unpack_observation(frame, before.get(index)))
        before.setdefault(index, found.seen[-1])


def cells_for(submission: Submission, statements: list[Statement], stand_ins: dict[str, str]) -> list[dict]:
    """The cells that hold statements, each with the places of the statements to run."""
    imports = "\n".join(f"from {module} import {one}" for one, module in sorted(stand_ins.items()))
    cells = {None: {"name": "references", "source": imports, "statements": list(range(len(stand_ins)))}}
    cell_of = {statement: cell for cell in submission.cells for statement in cell.statements}
    for statement in statements:
        cell = cell_of[statement]
        cells.setdefault(cell, {"name": cell.name, "source": cell.source, "statements": []})
        cells[cell]["statements"].append(statement.place)
    return list(cells.values())
