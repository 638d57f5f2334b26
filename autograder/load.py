"""Functions out of a learner's own notebooks, for use in a later lesson of the same learner: graded first, then used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from autograder.exercise import find
from autograder.grade import Grader, Verdict
from autograder.loading import load
from autograder.notebook import quietly_graded
from autograder.runner import Worker, cells_for
from autograder.submission import Submission, SubmissionError, read_submission


@dataclass(frozen=True)
class Block:
    """A function to train with.

    Attributes:
        lesson: such as "lesson_03".
        function: the learner's; None where the reference has to stand in.
        why: a sentence on what was found, empty where there is nothing to say.
    """

    name: str
    lesson: str
    function: Callable | None
    why: str = ""

    def __str__(self) -> str:
        whose = "yours" if self.function else "rlhf_core's"
        return f"{self.lesson}  {self.name:20} {whose}" + (f" — {self.why}" if self.why else "")


def graded_functions(folder: Path | str, names: Iterable[str]) -> list[Block]:
    """Grade the functions of one's own notebooks, and load those that are right.

    They are graded in a process of their own, as by `pytest autograder/lesson_03`: a loop without end in a notebook costs
    the functions that need it, and no more. What has passed runs in this process.

    Args:
        folder: holds a folder for each lesson, or the notebooks themselves.
        names: of exercises.
    """
    worker, graders, blocks = Worker(), {}, []
    try:
        for name in names:
            lesson, exercise = find(name)
            path = notebooks_of(Path(folder), lesson)
            if lesson not in graders:
                graders[lesson] = Grader(lesson, path, worker)
            grader = graders[lesson]
            verdict = grader.grade(exercise)
            if not path.exists():
                verdict.message = "no notebook of this lesson was found"
            blocks.append(block_of(lesson, verdict, lambda g=grader, n=name: load_function(g.submission, n)))
    finally:
        worker.stop()
    return blocks


def graded_here(functions: Mapping[str, Callable]) -> list[Block]:
    """Grade functions of this process, by name."""
    blocks = []
    for name, function in functions.items():
        lesson, exercise = find(name)
        blocks.append(block_of(lesson, quietly_graded(exercise, function), lambda f=function: f))
    return blocks


def block_of(lesson: str, verdict: Verdict, load: Callable[[], Callable | None]) -> Block:
    """The learner's function where it has passed and stands on its own, else why not."""
    if verdict.status != "passed":
        return Block(verdict.name, lesson, None, verdict.message)
    function = load()
    return Block(
        verdict.name, lesson, function, verdict.message or ("" if function else "its code could not be loaded")
    )


def notebooks_of(folder: Path, lesson: str) -> Path:
    """Where a lesson's notebook should be: in its folder, or among others in one."""
    return folder if not (folder / lesson).exists() and list(folder.glob("*.ipynb")) else folder / lesson


def load_functions(folder: Path | str, names: Iterable[str]) -> dict[str, Callable | None]:
    """The learner's functions by name, as they are; None for one that is not written, or does not load.

    The code runs in this process, and is not graded: it is meant for one's own notebooks.

    Args:
        folder: holds a folder for each lesson, or the notebooks themselves.
        names: of exercises.
    """
    read: dict[str, Submission] = {}
    found: dict[str, Callable | None] = {}
    for name in names:
        lesson = find(name)[0]
        if lesson not in read:
            try:
                read[lesson] = read_submission(notebooks_of(Path(folder), lesson), lesson)
            except SubmissionError:
                read[lesson] = Submission([])
        found[name] = load_function(read[lesson], name)
    return found


def load_function(submission: Submission, name: str) -> Callable | None:
    """Run the statements that a function needs, in a module of its own."""
    defined = submission.definitions(name)
    if not defined or defined[-1].is_stub:
        return None
    selection = submission.selection(name)
    cells = cells_for(submission, selection.statements, {})
    loaded = load(cells, submission.modules, selection.functions_only, name=f"lesson_of_{name}")
    for line in loaded.trouble:  # one broken cell costs what needs it
        print(line)
    function = loaded.names.get(name)
    return function if callable(function) else None
