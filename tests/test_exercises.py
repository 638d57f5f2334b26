"""The exercises are proved: stubs are missing, right functions pass, every known mistake is rejected and named."""

import ast
import inspect
import textwrap
from collections.abc import Iterator

import pytest

from autograder import killrate
from autograder.exercise import LESSONS, Exercise, bank
from autograder.grade import Grader, grade_function
from autograder.runner import Worker

CENTRAL = {
    "response_mask", "shaped_rewards", "gae", "masked_whiten", "clipped_policy_loss", "clipped_value_loss",
    "pairwise_loss", "dpo_loss", "grpo_loss", "ppo_update", "sample_responses",
}  # fmt: skip
JOBS = [(lesson, exercise) for lesson in LESSONS for exercise in bank(lesson).EXERCISES]
SEEDS = range(5)  # `make killrate` holds the same proof on more
each_exercise = pytest.mark.parametrize(("lesson", "exercise"), JOBS, ids=[exercise.name for _, exercise in JOBS])


@each_exercise
def test_proof(lesson: str, exercise: Exercise):
    """On several seeds: right functions pass, mistakes fail and are named, tolerances lie between with room to spare."""
    proof = killrate.prove(lesson, exercise, SEEDS)
    assert proof.seeds == len(SEEDS)
    assert not proof.problems


@each_exercise
def test_there_are_enough(lesson: str, exercise: Exercise):
    names = {mistake.name for mistake in exercise.mistakes}
    assert len(names) >= (10 if exercise.name in CENTRAL else 6)
    assert len(exercise.variants) >= 3
    for name in names:  # a mistake in several forms is one misconception
        assert len({(m.misconception, m.hint) for m in exercise.mistakes if m.name == name}) == 1, name


@each_exercise
def test_texts_teach_and_give_nothing_away(lesson: str, exercise: Exercise):
    lines = solution_lines(exercise)
    for mistake in exercise.mistakes:
        assert mistake.misconception.endswith(".") and len(mistake.misconception) > 10, mistake.name
        assert "?" in mistake.hint, mistake.name
        text = squeezed(mistake.misconception + mistake.hint)
        assert not [line for line in lines if line in text], mistake.name


def solution_lines(exercise: Exercise) -> list[str]:
    """Lines of code of the reference, without spaces; those that say something."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(exercise.reference)))
    body = [node for node in tree.body[0].body if not isinstance(node, ast.Expr)]
    lines = [line for node in body for line in ast.unparse(node).splitlines()]
    return [squeezed(line) for line in lines if len(squeezed(line)) >= 12]


def squeezed(text: str) -> str:
    """Without spaces."""
    return "".join(text.split())


@each_exercise
def test_twins_are_twins(lesson: str, exercise: Exercise):
    if any(mistake.twins for mistake in exercise.mistakes):
        assert not killrate.untrue_twins(exercise, 0)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    one = Worker()
    yield one
    one.stop()


STUBS = {
    "a docstring": '"""Says what it does."""',
    "raise": '"""Says what it does."""\n    raise NotImplementedError',
    "raise with words": "raise NotImplementedError('your code here')",
    "dots": "...",
    "pass": "pass",
}


@pytest.mark.parametrize("lesson", LESSONS)
@pytest.mark.parametrize("body", STUBS.values(), ids=STUBS)
def test_stubs_are_not_written_yet(lesson: str, body: str, tmp_path, worker: Worker):
    exercises = bank(lesson).EXERCISES
    code = "\n\n".join(f"def {e.name}({', '.join(e.parameters)}):\n    {body}\n" for e in exercises)
    path = tmp_path / "lesson.py"
    path.write_text(code)
    for verdict in Grader(lesson, path, worker).grade_all().exercises:
        assert (verdict.status, verdict.points, verdict.message) == ("missing", 0, "not written yet")


@each_exercise
def test_raising_stub_is_not_written_yet_where_it_stands(lesson: str, exercise: Exercise):
    def stub(*args):
        raise NotImplementedError

    verdict = grade_function(exercise, stub)
    assert verdict.status == "missing"
    assert verdict.message.startswith("not written yet")
