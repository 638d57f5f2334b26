"""An exercise is data: the reference, its cases, its known mistakes, its accepted variants, its points."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

LESSONS = tuple(f"lesson_{number:02d}" for number in range(9))


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        args: plain arguments: tensors, numbers, texts, lists of them.
        label: what is special about them, completing "with …".
        rtol, atol: relative and absolute tolerance in place of the exercise's.
        gradients: whether the gradient is graded too, where the exercise asks for it.
        raises: name of the exception that must be raised, "Exception" for any.
    """

    args: tuple
    label: str
    rtol: float | None = None
    atol: float | None = None
    gradients: bool = True
    raises: str = ""


@dataclass(frozen=True, eq=False)  # compared by identity, which is fast
class Mistake:
    """A known wrong implementation.

    Attributes:
        name: a short name, as in reports ("value-at-padding-leaks").
        function: the wrong implementation.
        misconception: what somebody who writes this believes, or what the code does, in one sentence.
        hint: a question that leads out of it, without the code.
        twins: names of mistakes that do exactly the same.
    """

    name: str
    function: Callable
    misconception: str
    hint: str
    twins: tuple[str, ...] = ()


def forms(name: str, functions: tuple[Callable, ...], misconception: str, hint: str) -> tuple[Mistake, ...]:
    """One mistake in several implementations, whose numbers differ."""
    return tuple(Mistake(name, function, misconception, hint) for function in functions)


@dataclass(frozen=True, eq=False)
class Exercise:
    """A function to write.

    Attributes:
        reference: the right implementation.
        points: for a right one.
        cases: seed → the calls of one draw, the plainest first.
        result: what comes back: "tensor", "loss" (a 0-dim tensor) or "float".
        parts: names of the results, where a tuple is asked for.
        trained: positions of the arguments that a gradient must reach; no other argument may receive one. None: the gradient
            is not graded.
        probe: name of a function in `autograder.probes` that calls the learner's function and records what it does, where a
            single call and its result would not do.
        facts: name of the function in `autograder.facts` that makes facts of a probe's recordings.
        asks: what must be returned, in words, where that is no tensor and no number.
        mistakes, variants: wrong implementations with their names, and right ones in another style.
        tolerance: relative and absolute, on float32 numbers.
        draws: how often the cases are drawn anew for one grading.
    """

    reference: Callable
    points: float
    cases: Callable[[int], list[Case]]
    result: str = "tensor"
    parts: tuple[str, ...] = ()
    trained: tuple[int, ...] | None = None
    probe: str = "call"
    facts: str = ""
    asks: str = ""
    mistakes: tuple[Mistake, ...] = ()
    variants: tuple[Callable, ...] = ()
    tolerance: float = 1e-5
    draws: int = 3

    @property
    def name(self) -> str:
        """The function's name."""
        return self.reference.__name__

    @property
    def home(self) -> str:
        """The module of rlhf_core that holds the reference."""
        return self.reference.__module__

    @property
    def parameters(self) -> list[str]:
        """Names of the arguments, in order."""
        return list(inspect.signature(self.reference).parameters)

    def asks_gradient(self, case: Case) -> bool:
        """Whether a case grades the gradient."""
        return self.trained is not None and case.gradients

    def limits(self, case: Case) -> tuple[float, float]:
        """Relative and absolute tolerance of a case."""
        return (
            self.tolerance if case.rtol is None else case.rtol,
            self.tolerance if case.atol is None else case.atol,
        )


def bank(lesson: str) -> ModuleType:
    """The exercises of a lesson: a module with EXERCISES, in the lesson's order.

    Raises:
        ValueError: there is no such lesson.
    """
    if lesson not in LESSONS:
        raise ValueError(f"there is no lesson {lesson!r}; there are {LESSONS[0]} to {LESSONS[-1]}")
    return importlib.import_module(f"autograder.{lesson}.exercises")


def find(name: str) -> tuple[str, Exercise] | None:
    """The lesson and exercise of a function's name."""
    for lesson in LESSONS:
        for exercise in bank(lesson).EXERCISES:
            if exercise.name == name:
                return lesson, exercise
    return None
