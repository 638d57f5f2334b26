"""What the tests of repairing and preparing start from."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
from class_course import make_course, released, solved

FUNCTIONS = ("clipped_policy_loss", "clip_fraction", "approx_kl", "clipped_value_loss", "ppo_loss")
ANSWERS = ("clip-bound", "first-minibatch")
ALL = {*FUNCTIONS, *ANSWERS}
ANSWER = "The first one, because its gradient is cut."


class Given:
    """A released notebook, and one that a student has solved, both as they are in their files."""

    def __init__(self, folder: Path):
        self.course = make_course(folder / "course")
        self.path = next((self.course / "lessons" / "lesson_04").glob("*.ipynb"))
        self.skeleton = released(self.course)
        self.stub = json.loads(self.path.read_text())
        self.solved = json.loads(nbformat.writes(solved(self.course, answer=ANSWER)))
