"""Functions out of a learner's own notebooks, for use in a later lesson of the same learner."""

from __future__ import annotations

import ast
import types
from collections.abc import Callable, Iterable
from pathlib import Path

from autograder.exercise import find
from autograder.observe import LEARNER, describe
from autograder.submission import Submission, SubmissionError, read_submission


def load_functions(folder: Path | str, names: Iterable[str]) -> dict[str, Callable | None]:
    """The learner's functions by name; None for one that is not written, or does not load.

    The code runs in this process: it is meant for one's own notebooks.

    Args:
        folder: holds a folder or notebooks for each lesson.
        names: of exercises.
    """
    read: dict[str, Submission] = {}
    found: dict[str, Callable | None] = {}
    for name in names:
        lesson = find(name)[0]
        if lesson not in read:
            try:
                read[lesson] = read_submission(Path(folder) / lesson, lesson)
            except SubmissionError:
                read[lesson] = Submission([])
        found[name] = load_function(read[lesson], name)
    return found


def load_function(submission: Submission, name: str) -> Callable | None:
    """Run the statements that a function needs, in a namespace of its own."""
    defined = submission.definitions(name)
    if not defined or defined[-1].is_stub:
        return None
    module = types.ModuleType(f"lesson_of_{name}")
    for statement in submission.needed_for(name):
        code = compile(ast.Module([statement.node], []), LEARNER + statement.cell, "exec", dont_inherit=True)
        try:
            exec(code, module.__dict__)
        except Exception as error:  # one broken cell costs what needs it
            print(f"{statement.cell}: {describe(error)}")
    return module.__dict__.get(name)
