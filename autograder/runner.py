"""The judge's side of the worker: send a job, read back what happened."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from autograder import wire
from autograder.exercise import Case, Exercise
from autograder.observe import Observation
from autograder.submission import Submission

SECONDS = 20.0
PATIENCE = 10.0  # for the worker itself, beyond the learner's time


@dataclass
class Outcome:
    """What came back from a job.

    Attributes:
        seen: an observation for each call that was finished, in the order asked.
        ending: "done", "timeout", "flood", the name of a signal, or "gone".
        found: the function exists after the code has run.
        trouble: statements that failed while the code was loaded, in words.
    """

    seen: list[Observation] = field(default_factory=list)
    ending: str = "done"
    found: bool = False
    trouble: list[str] = field(default_factory=list)


class Worker:
    """A process that runs learners' code; started before it is needed, and again when it has died."""

    def __init__(self, seconds: float = SECONDS, fork: bool = hasattr(os, "fork")):
        self.seconds, self.fork = seconds, fork
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Begin to load torch, beside whatever this process does."""
        if self.process is None or self.process.poll() is not None:
            packages = str(Path(__file__).parent.parent)
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1", "PYTHONPATH": packages}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "autograder.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            atexit.register(self.stop)

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                pipe.close()
            self.process = None
            atexit.unregister(self.stop)

    def run(
        self,
        exercise: Exercise,
        submission: Submission,
        cases: Sequence[Case],
        order: Sequence[int],
        stand_ins: dict[str, str] | None = None,
    ) -> Outcome:
        """Call a submission's function on cases.

        Args:
            exercise: the exercise; its name is the function's.
            submission: the learner's code.
            cases: the calls.
            order: indices of the cases, in the order in which they are called; an index may come several times.
            stand_ins: names of other functions whose reference takes the learner's place, with their modules.
        """
        self.start()
        stand_ins = stand_ins or {}
        job = {
            "name": exercise.name,
            "cells": cells_for(submission, exercise.name, stand_ins),
            "reference": {"module": exercise.home, "name": exercise.name},
            "preload": sorted({exercise.home, *stand_ins.values()}),
            "probe": exercise.probe,
            "parts": list(exercise.parts),
            "gradients": [exercise.asks_gradient(case) for case in cases],
            "cases": [case.args for case in cases],
            "order": list(order),
            "seconds": self.seconds,
            "one_process": not self.fork,
        }
        try:
            self.process.stdin.write(wire.framed(wire.pack(job)))
            self.process.stdin.flush()
        except (BrokenPipeError, OSError):
            self.stop()
            return Outcome(ending="gone")
        return self.read_forked() if self.fork else self.read_single()

    def read_forked(self) -> Outcome:
        """Two frames from a worker that forks: how the child ended, and all that it sent."""
        content, ending = self.within_time(lambda stream: (read_frame(stream), read_frame(stream)))
        if ending != "done" or content is None or None in content:
            self.stop()
            return Outcome(ending="gone" if ending == "done" else ending)
        return outcome(wire.frames_of(content[1]), str(wire.unpack(content[0])["ending"]))

    def read_single(self) -> Outcome:
        """All that a worker sends before it ends."""
        content, ending = self.within_time(lambda stream: stream.read())
        status = self.process.poll() if ending == "done" else None
        self.stop()
        self.start()  # ready for the next
        if ending == "done" and status not in (0, None):
            ending = f"exit code {status}"
        return outcome(wire.frames_of(content or b""), ending)

    def within_time(self, read) -> tuple[object, str]:
        """Read from the worker in a thread, so that the clock is kept on every system."""
        found: list = []
        thread = threading.Thread(target=lambda: found.append(attempt(read, self.process.stdout)), daemon=True)
        thread.start()
        thread.join(self.seconds + PATIENCE)
        if thread.is_alive():
            self.process.kill()
            thread.join(PATIENCE)
            return None, "timeout"
        return found[0], "done"


def attempt(read, stream: BinaryIO) -> object:
    """What could be read, None if the stream broke."""
    try:
        return read(stream)
    except (OSError, ValueError):
        return None


def read_frame(stream: BinaryIO) -> bytes | None:
    """One frame; None at the end of the stream."""
    head = stream.read(wire.LENGTH.size)
    if len(head) < wire.LENGTH.size:
        return None
    size = wire.LENGTH.unpack(head)[0]
    content = stream.read(size)
    return content if len(content) == size else None


def outcome(frames: list[bytes], ending: str) -> Outcome:
    """The frames of a job in order: what the loading brought, then an observation for each call."""
    found = Outcome(ending=ending)
    try:
        if frames:
            head = wire.unpack(frames[0])
            found.found, found.trouble = head["found"] is True, [str(t)[:300] for t in head["trouble"]]
            found.seen = [wire.unpack_observation(frame) for frame in frames[1:]]
    except (ValueError, KeyError, TypeError):
        found.ending = "not data"
    return found


def cells_for(submission: Submission, name: str, stand_ins: dict[str, str]) -> list[dict]:
    """The cells that a function needs, each with the places of the statements to run."""
    chosen = {id(s) for s in submission.needed_for(name, frozenset(stand_ins))}
    imports = "\n".join(f"from {module} import {one}" for one, module in sorted(stand_ins.items()))
    cells = [{"name": "references", "source": imports, "statements": list(range(len(stand_ins)))}]
    for cell in submission.cells:
        places = [s.place for s in cell.statements if id(s) in chosen]
        if places:
            cells.append({"name": cell.name, "source": cell.source, "statements": places})
    return cells
