"""Compare what a function did with what the reference does, and say which idea is wrong."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autograder import facts, probes
from autograder.exercise import Case, Exercise, Mistake
from autograder.observe import Observation, observe

GRADIENT_SLACK = 10  # gradients lose about a digit more than values


@dataclass(frozen=True)
class Finding:
    """What is wrong.

    Attributes:
        text: one sentence, without the function's name.
        example: the call that shows it, if it is small.
        diagnosis: name of the known mistake, if it is one.
        raised: the function raised an exception.
    """

    text: str
    example: str = ""
    diagnosis: str | None = None
    raised: bool = False


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


def judge(exercise: Exercise, seed: int, seen: Sequence[Observation]) -> Finding | None:
    """None if every observation, made in the order of `order_of`, is that of a right function."""
    cases, expected = expected_of(exercise, seed)
    order = order_of(cases)[: len(seen)]
    wrong = {}
    for place, (index, got) in enumerate(zip(order, seen, strict=True)):
        text = difference(exercise, cases[index], expected[index], got)
        if text:
            wrong[place] = text
    if not wrong:
        return None
    place = first_and_smallest(cases, order, wrong)
    case = cases[order[place]]
    text = wrong[place] + f" (with {case.label})"
    if place >= len(cases):
        text = f"the same arguments gave the right answer once and another one later: {text}"
    mistake = known_mistake(exercise, seed, seen)
    if mistake:
        return Finding(
            f"{mistake.misconception} {mistake.hint}", f"{example_of(exercise, case)}{wrong[place]}", mistake.name
        )
    return Finding(text, example_of(exercise, case), raised=bool(seen[place].error))


def first_and_smallest(cases: Sequence[Case], order: Sequence[int], wrong: dict[int, str]) -> int:
    """The first kind of case that fails, in its smallest example."""
    first = min(wrong)
    label = cases[order[first]].label
    same = [p for p in wrong if cases[order[p]].label == label and (p < len(cases)) == (first < len(cases))]
    return min(same, key=lambda p: size_of(cases[order[p]]))


def size_of(case: Case) -> int:
    """How many numbers a case shows."""
    return sum(a.numel() for a in case.args if isinstance(a, Tensor))


def known_mistake(exercise: Exercise, seed: int, seen: Sequence[Observation]) -> Mistake | None:
    """The known mistake that did on every call just what the learner's function did."""
    cases, expected = expected_of(exercise, seed)
    order = order_of(cases)[: len(seen)]

    def same(mistake: Mistake, data_too: bool) -> bool:
        calls = Calls.of(exercise, mistake, seed)
        return all(alike(exercise, cases[i], calls[p], seen[p], data_too) for p, i in enumerate(order))

    found = next((mistake for mistake in exercise.mistakes if same(mistake, True)), None)
    if found or all(alike(exercise, cases[i], expected[i], seen[p], False) for p, i in enumerate(order)):
        return found
    # wrong in itself, and a gradient flows into data besides: the first is the one to name
    return next((mistake for mistake in exercise.mistakes if same(mistake, False)), None)


class Calls:
    """What a known mistake does on the cases of a seed, call by call; each is made when it is first asked for."""

    def __init__(self, exercise: Exercise, mistake: Mistake, seed: int):
        self.exercise, self.cases = exercise, expected_of(exercise, seed)[0]
        self.function = mistake.function() if isinstance(mistake.function, type) else mistake.function
        self.order, self.made = order_of(self.cases), []

    @staticmethod
    @functools.lru_cache(maxsize=256)
    def of(exercise: Exercise, mistake: Mistake, seed: int) -> Calls:
        """The calls of a mistake; they are the same for every learner."""
        return Calls(exercise, mistake, seed)

    def __getitem__(self, place: int) -> Observation:
        while len(self.made) <= place:
            self.made += watch(self.exercise, self.function, self.cases, [self.order[len(self.made)]])
        return self.made[place]


def close(left: Tensor, right: Tensor, rtol: float, atol: float) -> bool:
    """Equal shape and numbers; NaN equals NaN."""
    return left.shape == right.shape and torch.allclose(left, right, rtol=rtol, atol=atol, equal_nan=True)


def alike(exercise: Exercise, case: Case, one: Observation, other: Observation, data_too: bool = True) -> bool:
    """Whether two functions did the same; `data_too`: also in the gradients of arguments that are data."""
    if one.error or other.error:
        return bool(one.error and other.error) and one.error.split(":")[0] == other.error.split(":")[0]
    if (one.kinds, one.changed, one.state, one.missing) != (other.kinds, other.changed, other.state, other.missing):
        return False
    rtol, atol = exercise.limits(case)
    if not all(close(one.values[name], other.values[name], 5 * rtol, 5 * atol) for name in one.values):
        return False
    slack = 5 * GRADIENT_SLACK
    return len(one.grads) == len(other.grads) and all(
        same_gradient(a, b, slack * rtol, slack * atol)
        for i, (a, b) in enumerate(zip(one.grads, other.grads, strict=True))
        if data_too or i in exercise.trained
    )


def same_gradient(one: Tensor | None, other: Tensor | None, rtol: float, atol: float) -> bool:
    """A missing gradient equals one that is zero everywhere."""
    if one is None and other is None:
        return True
    left = torch.zeros_like(other) if one is None else one
    right = torch.zeros_like(left) if other is None else other
    return close(left, right, rtol, atol)


def difference(exercise: Exercise, case: Case, want: Observation, got: Observation) -> str | None:
    """The first property that fails, in words."""
    if got.reference_used:
        return "it uses the reference implementation"
    if case.raises:
        right = got.error and case.raises in ("Exception", got.error.split(":")[0])
        return None if right else f"it must raise {'an error' if case.raises == 'Exception' else case.raises} here"
    if got.error:
        return f"it raises {got.error}" + (f" in {got.where}" if got.where else "")
    return (
        difference_of_kind(exercise, want, got)
        or difference_of_values(exercise, case, want, got)
        or difference_of_gradients(exercise, case, want, got)
        or side_effect(exercise, got)
    )


def difference_of_kind(exercise: Exercise, want: Observation, got: Observation) -> str | None:
    """What is returned: a tensor or a number, of what shape, how many of them."""
    if set(got.values) != set(want.values):
        kind = (
            next(iter(got.kinds.values()), "nothing")
            if set(got.kinds) == {"result"}
            else f"a dict of {', '.join(got.kinds)}"
        )
        return f"it returns {said(kind)}, where {exercise.asks or ' and '.join(want.values)} is asked for"
    for name, wanted in want.kinds.items():
        kind, here = got.kinds[name], "it returns" if len(want.kinds) == 1 else f"{name} is"
        if exercise.result == "float" and exercise.probe == "call":
            shape = list(got.values[name].shape)
            if kind not in ("number", "float tensor", "int tensor"):
                return f"{here} {said(kind)} where a number is asked for"
            if shape:
                return f"{here} a tensor of shape {shape} where a single number is asked for"
        elif kind != wanted:
            return f"{here} {said(kind)} where {said(wanted)} is asked for"
        elif got.values[name].shape != want.values[name].shape:
            shapes = list(got.values[name].shape), list(want.values[name].shape)
            return f"{here} a tensor of shape {shapes[0]} where shape {shapes[1]} is asked for"
    return None


def said(kind: str) -> str:
    """A kind with its article."""
    if kind == "None":
        return "None (is a return missing?)"
    return {"number": "a plain number", "int tensor": "an int tensor"}.get(
        kind, f"a {kind}" if kind in ("float tensor", "bool tensor") else kind
    )


def difference_of_values(exercise: Exercise, case: Case, want: Observation, got: Observation) -> str | None:
    """The numbers."""
    rtol, atol = exercise.limits(case)
    for name, wanted in want.values.items():
        value = got.values[name]
        if not close(value, wanted, rtol, atol):
            if " " in name:  # a fact, in words
                return f"this does not hold: {name}"
            which = "" if len(want.values) == 1 else f"{name}: "
            return which + compared(value, wanted, rtol, atol) + pattern(value, wanted, rtol, atol)
    return None


def compared(value: Tensor, wanted: Tensor, rtol: float, atol: float) -> str:
    """The first place that differs, with both numbers."""
    wrong = ~torch.isclose(value, wanted, rtol=rtol, atol=atol, equal_nan=True)
    place = wrong.nonzero()[0].tolist() if value.dim() else []
    mine, theirs = number(value[tuple(place)]), number(wanted[tuple(place)])
    return f"{'at ' + str(place) + ' ' if place else ''}it gives {mine}, expected {theirs}"


def number(one: Tensor) -> str:
    """Four digits, more where the number is large."""
    return f"{one.item():.4g}" if abs(one.item()) < 1e4 else f"{one.item():.7g}"


def pattern(value: Tensor, wanted: Tensor, rtol: float, atol: float) -> str:
    """How the numbers differ, where that says something."""
    if bool(value.isnan().any()) and not bool(wanted.isnan().any()):
        return "; it must be a number everywhere"
    scale = wanted.abs().max()
    if not bool(scale > 100 * atol) or not bool(value.isfinite().all()):
        return ""
    if close(-value, wanted, 10 * rtol, 10 * atol):
        return "; the sign is the wrong way round"
    ratio = (value * wanted).sum() / wanted.square().sum()
    if value.numel() > 1 and ratio.abs() > 1e-3 and close(value, ratio * wanted, 10 * rtol, 10 * atol):
        return (
            f"; everything is {ratio.item():.3g} times too large"
            if ratio > 1
            else f"; everything is {ratio.item():.3g} of it"
        )
    outside = (wanted == 0) & (value != 0)
    if bool(outside.any()) and close(value.masked_fill(outside, 0), wanted, rtol, atol):
        return "; only places that must be exactly 0 differ"
    return ""


def difference_of_gradients(exercise: Exercise, case: Case, want: Observation, got: Observation) -> str | None:
    """Who receives a gradient, and its value."""
    if exercise.trained is None:
        return None
    rtol, atol = (GRADIENT_SLACK * limit for limit in exercise.limits(case))
    for i, (name, grad, wanted) in enumerate(zip(exercise.parameters, got.grads, want.grads, strict=False)):
        reached = grad is not None and bool((grad != 0).any())
        if i not in exercise.trained:
            if reached:
                return f"a gradient flows into {name}, which is data here"
            continue
        if wanted is None or same_gradient(grad, wanted, rtol, atol):
            continue
        if not reached:
            return f"no gradient reaches {name}"
        if grad is not None and not bool(grad.isfinite().all()):
            return f"the value is right, but the gradient of {name} is not finite"
        return f"the value is right, but not the gradient of {name}: " + compared(grad, wanted, rtol, atol)
    return None


def side_effect(exercise: Exercise, got: Observation) -> str | None:
    """What the function left behind."""
    if got.changed:
        return f"the result is right, but it modifies its argument {exercise.parameters[got.changed[0]]}"
    return f"the result is right, but it changes {got.state[0]}" if got.state else None


def example_of(exercise: Exercise, case: Case) -> str:
    """A small call, as code; empty if it would not fit on two lines."""
    if exercise.probe != "call":
        return ""
    shown = []
    for name, argument in zip(exercise.parameters, case.args, strict=False):
        if isinstance(argument, Tensor):
            shown.append(f"{name}={rounded(argument)}")
        else:
            shown.append(f"{name}={argument!r}")
    text = f"{exercise.name}({', '.join(shown)}): "
    return text if len(text) <= 400 else ""


def rounded(tensor: Tensor) -> str:
    """A tensor as nested lists with few digits."""
    if tensor.numel() > 24:
        return f"[{', '.join(map(str, tensor.shape))}]"
    if not tensor.is_floating_point():
        return str(tensor.tolist())
    return str([round(x, 3) for x in tensor.flatten().tolist()]) if tensor.dim() == 1 else nested(tensor)


def nested(tensor: Tensor) -> str:
    """Lists of lists of rounded numbers."""
    if tensor.dim() == 0:
        return f"{tensor.item():.4g}"
    return "[" + ", ".join(nested(row) for row in tensor) + "]"
