"""Which known mistake a learner's function makes: the one that does the same on several draws."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from autograder.calls import Calls, expected_of, order_of
from autograder.exercise import Case, Exercise, Mistake
from autograder.observe import Observation

GRADIENT_SLACK = 10  # gradients lose about a digit more than values
MOST = 0.5  # of the cases; two functions must agree on more than that to be called by the same name


def known_mistake(exercise: Exercise, seed: int, seen: Sequence[Observation], label: str | None) -> Mistake | None:
    """The known mistake that a learner's function makes, as far as its answers tell.

    Args:
        exercise, seed: what was asked for.
        seen: the learner's answers, in the order of `order_of`.
        label: of the first kind of case that went wrong; None if the function gives different answers to the same arguments.
    """
    cases, expected = expected_of(exercise, seed)
    order = order_of(cases)[: len(seen)]

    def same(mistake: Mistake, data_too: bool) -> bool:
        calls = Calls.of(exercise, mistake, seed)
        return all(alike(exercise, cases[i], calls[p], seen[p], data_too) for p, i in enumerate(order))

    found = next((mistake for mistake in exercise.mistakes if same(mistake, True)), None)
    if found or all(alike(exercise, cases[i], expected[i], seen[p], False) for p, i in enumerate(order)):
        return found
    # wrong in itself, and a gradient flows into data besides: the first is the one to name
    found = next((mistake for mistake in exercise.mistakes if same(mistake, False)), None)
    return found if found or label is None else nearest_mistake(exercise, seed, seen, label)


def nearest_mistake(exercise: Exercise, seed: int, seen: Sequence[Observation], label: str) -> Mistake | None:
    """For a function with more than one flaw: the mistake that does the same wherever the first kind of case that goes
    wrong is drawn, and on most of the cases, most of those that the function gets wrong, most of those that it itself gets
    wrong."""
    cases, expected = expected_of(exercise, seed)
    places = range(min(len(cases), len(seen)))
    first = [p for p in places if cases[p].label == label]

    def wrong(calls: Sequence[Observation] | Calls) -> list[int]:
        return [p for p in places if not alike(exercise, cases[p], expected[p], calls[p], data_too=False)]

    failed = wrong(seen)
    if not set(first) & set(failed):
        return None
    best, share = None, MOST
    for mistake in exercise.mistakes:
        calls = Calls.of(exercise, mistake, seed)
        agrees = functools.partial(agree, exercise, cases, calls, seen)
        if calls.remembers or not all(agrees(p) for p in first):
            continue
        agreement = min(sum(map(agrees, some)) / len(some) for some in (places, failed, wrong(calls)))
        if agreement > share:
            best, share = mistake, agreement
    return best


def agree(exercise: Exercise, cases: Sequence[Case], calls: Calls, seen: Sequence[Observation], place: int) -> bool:
    """Whether a mistake and a learner's function answered a case alike."""
    return alike(exercise, cases[place], calls[place], seen[place], data_too=False)


def alike(exercise: Exercise, case: Case, one: Observation, other: Observation, data_too: bool = True) -> bool:
    """Whether two functions did the same; `data_too`: also in the gradients of arguments that are data."""
    if one is other:
        return True
    if one.error or other.error:
        return bool(one.error and other.error) and one.error.split(":")[0] == other.error.split(":")[0]
    if (one.kinds, one.changed, one.state, one.missing) != (other.kinds, other.changed, other.state, other.missing):
        return False
    rtol, atol = exercise.limits(case)
    if not all(close(one.values[name], other.values[name], 5 * rtol, 5 * atol) for name in one.values):
        return False
    if not all(bool(value.isfinite().all()) for value in one.values.values()):
        return True  # what gradient comes out of NaN or infinity says nothing
    slack = 5 * GRADIENT_SLACK
    return len(one.grads) == len(other.grads) and all(
        both_broken(a, b) or same_gradient(a, b, slack * rtol, slack * atol)
        for i, (a, b) in enumerate(zip(one.grads, other.grads, strict=True))
        if data_too or i in exercise.trained
    )


def both_broken(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two gradients have NaN or infinity in them; where, depends on details."""
    return all(grad is not None and not bool(grad.isfinite().all()) for grad in (one, other))


def close(left: Tensor, right: Tensor, rtol: float, atol: float) -> bool:
    """Equal shape and numbers; NaN equals NaN."""
    return left.shape == right.shape and torch.allclose(left, right, rtol=rtol, atol=atol, equal_nan=True)


def same_gradient(one: Tensor | None, other: Tensor | None, rtol: float, atol: float) -> bool:
    """A missing gradient equals one that is zero everywhere."""
    if one is None and other is None:
        return True
    left = torch.zeros_like(other) if one is None else one
    right = torch.zeros_like(left) if other is None else other
    return close(left, right, rtol, atol)
