"""What the tests of the grader share: submissions made of a few lines, and their verdicts."""

from __future__ import annotations

import json
from pathlib import Path

from autograder.exercise import Exercise, find
from autograder.grade import Grader, Verdict
from autograder.runner import Worker

RIGHT = "def ppo_loss(policy, value, entropy, a, b):\n    return policy + a * value - b * entropy\n"
WRONG = "def ppo_loss(policy, value, entropy, a, b):\n    return policy + a * value + b * entropy\n"
STUB = 'def ppo_loss(policy, value, entropy, a, b):\n    """The total loss."""\n    raise NotImplementedError()\n'


def code_cell(source: object, **more) -> dict:
    """A code cell of a notebook."""
    return {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": source, **more}


def notebook(*sources: str, **more) -> str:
    """A notebook with these code cells."""
    cells = [code_cell(source) for source in sources]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4, **more})


def exercise(name: str) -> tuple[str, Exercise]:
    """An exercise and its lesson."""
    return find(name)


def verdict_of(path: Path, worker: Worker, name: str = "ppo_loss") -> Verdict:
    """The verdict on one function of a submission."""
    lesson, one = exercise(name)
    return Grader(lesson, path, worker).grade(one)


def verdict_on_cells(cells: list[str], tmp_path: Path, worker: Worker, name: str = "ppo_loss") -> Verdict:
    """The verdict on one function of a notebook with these code cells."""
    path = tmp_path / "homework.ipynb"
    path.write_text(notebook(*cells), encoding="utf-8")
    return verdict_of(path, worker, name)
