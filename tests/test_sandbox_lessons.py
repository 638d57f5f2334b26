"""Every exercise of every lesson in the sandbox: right code passes, known mistakes are named, the reference is not there."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autograder.exercise import LESSONS, Exercise, bank
from autograder.grade import Grader, Verdict
from autograder.isolation.redacted import modules_without
from autograder.runner import Worker
from course.functions import imports_for, solution_cell

if sys.platform != "linux":
    pytest.skip("the sandbox is Linux's", allow_module_level=True)

GRADED = {e.name for lesson in LESSONS for e in bank(lesson).EXERCISES}


@pytest.fixture(scope="module")
def worker():
    one = Worker(sandbox=True)
    yield one
    one.stop()


def graded(worker: Worker, lesson: str, exercise: Exercise, source: str, folder: Path) -> Verdict:
    """The verdict on a submission of one exercise."""
    file = folder / "submission.py"
    file.write_text(source)
    return Grader(lesson, file, worker).grade(exercise)


def solved(lesson: str) -> str:
    """A lesson's solutions as its notebook has them."""
    functions = [e.reference for e in bank(lesson).EXERCISES]
    imports = imports_for(functions, GRADED, {f.__name__ for f in functions}, {"import torch"})
    return "\n".join([*imports, *(solution_cell(f, GRADED) for f in functions)])


@pytest.mark.parametrize("lesson", LESSONS)
def test_solved_lessons_pass(worker, lesson, tmp_path):
    for exercise in bank(lesson).EXERCISES:
        verdict = graded(worker, lesson, exercise, solved(lesson), tmp_path)
        assert verdict.status == "passed", verdict


def as_submission(lesson: str, name: str, function: Callable) -> str | None:
    """A function of a lesson's bank as a submission, if it can be named and does not call the reference."""
    module = bank(lesson)
    names = [n for n, one in vars(module).items() if one is function]
    if not names or name in inspect.getsource(function):
        return None
    made = f"{names[0]}()" if isinstance(function, type) else names[0]
    return f"{inspect.getsource(module)}\n{name} = {made}\n"


@pytest.mark.parametrize("lesson", LESSONS)
def test_variants_pass_and_mistakes_are_named(worker, lesson, tmp_path):
    for exercise in bank(lesson).EXERCISES:
        variants = [as_submission(lesson, exercise.name, f) for f in exercise.variants]
        for source in list(filter(None, variants))[:1]:
            assert graded(worker, lesson, exercise, source, tmp_path).status == "passed", source[-80:]
        mistakes = [(m, as_submission(lesson, exercise.name, m.function)) for m in exercise.mistakes]
        for mistake, source in [pair for pair in mistakes if pair[1]][:1]:
            verdict = graded(worker, lesson, exercise, source, tmp_path)
            assert verdict.status != "passed", mistake.name
            if "RecursionError" not in verdict.message:  # its helper calls the reference, whose name it has taken
                assert verdict.diagnosis in (mistake.name, *mistake.twins), (mistake.name, verdict)


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_reference_earns_nothing(worker, lesson, tmp_path):
    for exercise in bank(lesson).EXERCISES:
        text = f"from {exercise.home} import {exercise.name}\n"
        verdict = graded(worker, lesson, exercise, text, tmp_path)
        assert (verdict.points, verdict.diagnosis) == (0, "uses-the-reference"), verdict


def test_what_is_sent_holds_no_reference_and_no_case():
    for lesson in LESSONS:
        for exercise in bank(lesson).EXERCISES:
            sources = modules_without(exercise.home, exercise.name)
            body = solution_cell(exercise.reference, GRADED).split("### BEGIN SOLUTION")[1].strip().splitlines()
            longest = max(body, key=len).strip()
            shared = {e.name for e in bank(lesson).EXERCISES if e.home == exercise.home} - {exercise.name}
            assert shared or longest not in sources[exercise.home]
            assert not [
                name for name in sources if name.startswith("autograder.lesson") or name.endswith((".judge", ".facts"))
            ]
