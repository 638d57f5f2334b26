"""What the tests of the sandbox share: an exercise with an honest answer, a run of it, and the processes below one."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from autograder.exercise import Case, bank
from autograder.isolation import namespaces
from autograder.runner import Outcome, Worker
from autograder.submission import read_submission

SECONDS = 4.0
EXERCISE = next(e for e in bank("lesson_06").EXERCISES if e.name == "win_rate")
CASE = Case((torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.0, 2.0, 1.0])), "three scores")
HONEST = "def win_rate(a, b):\n    return ((a > b).double() + 0.5 * (a == b)).mean()\n"
NO_NAMESPACES = namespaces.possible()[1]


def run(worker: Worker, source: str, tmp_path: Path) -> Outcome:
    """Run a submission on one case."""
    file = tmp_path / "submission.py"
    file.write_text(source)
    return worker.run(EXERCISE, read_submission(file), [CASE], [0])


def result(outcome: Outcome) -> float | str:
    """The number that came back, or what happened instead."""
    if not outcome.seen:
        return f"{outcome.ending}: {outcome.trouble}"
    return outcome.seen[0].error or outcome.seen[0].values["result"].item()


def children_of(pid: int) -> set[int]:
    """All processes below one."""
    below: dict[int, set[int]] = {}
    for entry in os.scandir("/proc"):
        try:
            text = Path(entry.path, "stat").read_text() if entry.name.isdigit() else ""
        except OSError:
            continue
        if text:
            below.setdefault(int(text.rpartition(")")[2].split()[1]), set()).add(int(entry.name))
    found, new = set(), {pid}
    while new:
        new = {child for one in new for child in below.get(one, ())}
        found |= new
    return found
