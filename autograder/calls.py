"""Call a function on all cases of a seed: the learner's in this process, the reference, a known mistake."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch

from autograder import facts, probes
from autograder.exercise import Case, Exercise, Mistake
from autograder.observe import Observation, observe


def cases_of(exercise: Exercise, seed: int) -> list[Case]:
    """The cases of several draws."""
    return [case for draw in range(exercise.draws) for case in exercise.cases(100 * seed + draw)]


def order_of(cases: Sequence[Case]) -> list[int]:
    """Every case once, then all again in another order: the same inputs must give the same answer."""
    count = len(cases)
    return [*range(count), *reversed(range(count))]


def watch(exercise: Exercise, function: Callable, cases: Sequence[Case], order: Sequence[int]) -> list[Observation]:
    """What a function of our own does, in this process. A class is a function with a memory: it starts afresh."""
    function = function() if isinstance(function, type) else function
    probe, seen = getattr(probes, exercise.probe), []
    for index in order:
        case = cases[index]
        found = observe(function, case.args, probe, exercise.parts, exercise.asks_gradient(case))
        seen.append(with_facts(exercise, case, found))
        if seen[-1].missing or seen[-1].reference_used:
            break
    return seen


def with_facts(exercise: Exercise, case: Case, seen: Observation) -> Observation:
    """A probe's recordings as facts; where the result had another form, the observation as it is."""
    if not exercise.facts or not seen.values or "result" in seen.values:
        return seen
    try:
        found = getattr(facts, exercise.facts)(case.args, seen.values)
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError):  # recordings of no use
        found = {"result": torch.tensor(float("nan"))}
    kind = dict.fromkeys(found, "float tensor") if "result" not in found else {"result": "something of another form"}
    return dataclasses.replace(seen, values=found, kinds=kind)


@functools.lru_cache(maxsize=64)
def expected_of(exercise: Exercise, seed: int) -> tuple[tuple[Case, ...], tuple[Observation, ...]]:
    """The cases of a seed, and what the reference does on each."""
    cases = cases_of(exercise, seed)
    expected = watch(exercise, exercise.reference, cases, range(len(cases)))
    for case, want in zip(cases, expected, strict=True):
        if want.missing or bool(want.error) != bool(case.raises):
            raise AssertionError(f"the reference of {exercise.name} fails with {case.label}: {want.error}")
    return tuple(cases), tuple(expected)


class Calls:
    """What a known mistake does on the cases of a seed, call by call; each is made when it is first asked for."""

    def __init__(self, exercise: Exercise, mistake: Mistake, seed: int):
        self.exercise, self.cases = exercise, expected_of(exercise, seed)[0]
        self.remembers = isinstance(mistake.function, type)
        self.function = mistake.function() if self.remembers else mistake.function
        self.order, self.made = order_of(self.cases), {}

    @staticmethod
    @functools.lru_cache(maxsize=256)
    def of(exercise: Exercise, mistake: Mistake, seed: int) -> Calls:
        """The calls of a mistake; they are the same for every learner."""
        return Calls(exercise, mistake, seed)

    def __getitem__(self, place: int) -> Observation:
        """The observation at a place of the order; a function without memory answers a repeated case as it did before."""
        if not self.remembers:
            return self.call(self.order[place], self.order[place])
        for earlier in range(len(self.made), place + 1):
            self.call(earlier, self.order[earlier])
        return self.made[place]

    def call(self, key: int, index: int) -> Observation:
        """The answer that is kept under a key, made from a case if it is not there."""
        if key not in self.made:
            (self.made[key],) = watch(self.exercise, self.function, self.cases, [index])
        return self.made[key]
