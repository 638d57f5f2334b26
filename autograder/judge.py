"""Compare what a function did with what the reference does, and say which idea is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autograder.calls import expected_of, order_of
from autograder.exercise import Case, Exercise
from autograder.naming import GRADIENT_SLACK, close, known_mistake, same_gradient
from autograder.observe import Observation


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


def judge(exercise: Exercise, seed: int, seen: Sequence[Observation]) -> Finding | None:
    """None if every observation, made in the order of `order_of`, is that of a right function."""
    cases, expected = expected_of(exercise, seed)
    order = order_of(cases)[: len(seen)]
    found: dict[tuple[int, int], str | None] = {}  # the same answer to the same case is judged once

    def wrong(place: int) -> str | None:
        index, one = order[place], seen[place]
        if (index, id(one)) not in found:
            found[index, id(one)] = difference(exercise, cases[index], expected[index], one)
        return found[index, id(one)]

    first = next((place for place in range(len(seen)) if wrong(place)), None)
    if first is None:
        return None
    # a case that was answered rightly the one time and wrongly the other
    twice = [(p, q) for p, q in enumerate(range(len(seen) - 1, len(cases) - 1, -1)) if order[p] == order[q]]
    unsteady = next((p if wrong(p) else q for p, q in twice if bool(wrong(p)) != bool(wrong(q))), None)
    # of the first kind of case that fails, the smallest example
    kind = [p for p, i in enumerate(order) if cases[i].label == cases[order[first]].label and wrong(p)]
    place = min(kind, key=lambda p: size_of(cases[order[p]])) if unsteady is None else unsteady
    case, what = cases[order[place]], wrong(place)
    mistake = known_mistake(exercise, seed, seen, case.label if unsteady is None else None)
    if mistake:
        shown = example_of(exercise, case)
        example = f"{shown}{what}" if shown else f"with {case.label}, {what}"
        return Finding(f"{mistake.misconception} {mistake.hint}", example, mistake.name)
    text = f"{what} (with {case.label})"
    if unsteady is not None:
        when = "and another one later" if place >= len(cases) else "later, and another one before"
        text = f"the same arguments gave the right answer {'once ' if place >= len(cases) else ''}{when}: {text}"
    return Finding(text, example_of(exercise, case), raised=bool(seen[place].error))


def size_of(case: Case) -> int:
    """How many numbers a case shows."""
    return sum(a.numel() for a in case.args if isinstance(a, Tensor))


def difference(exercise: Exercise, case: Case, want: Observation, got: Observation) -> str | None:
    """The first property that fails, in words."""
    if got.reference_used:
        return "it uses the reference implementation"
    if case.raises:
        raised = got.error and got.error.split(":")[0]
        if raised and case.raises in ("Exception", raised):
            return None
        asked = "an error" if case.raises == "Exception" else case.raises
        return f"it raises {raised} where {asked} is asked for" if raised else f"it must raise {asked} here"
    if got.error:
        return f"it raises {got.error}" + (f" in {got.where}" if got.where else "")
    return (
        difference_of_kind(exercise, want, got)
        or difference_of_values(exercise, case, want, got)
        or side_effect(exercise, got)
        or difference_of_gradients(exercise, case, want, got)
    )


def difference_of_kind(exercise: Exercise, want: Observation, got: Observation) -> str | None:
    """What is returned: a tensor or a number, of what shape, how many of them."""
    if set(got.values) != set(want.values):
        kind = (
            next(iter(got.kinds.values()), "nothing")
            if set(got.kinds) == {"result"}
            else f"a dict of {', '.join(got.kinds)}"
        )
        if "result" in got.values and kind.endswith("tensor"):
            kind += f" of shape {list(got.values['result'].shape)}"
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
    kind = "int64" + kind.removeprefix("int") if kind.startswith("int tensor") else kind
    if " tensor" in kind and " a" not in kind:
        return f"an {kind}" if kind[0] in "iu" else f"a {kind}"
    return "a plain number" if kind == "number" else kind


def difference_of_values(exercise: Exercise, case: Case, want: Observation, got: Observation) -> str | None:
    """The numbers."""
    rtol, atol = exercise.limits(case)
    for name, wanted in want.values.items():
        value = got.values[name]
        if not close(value, wanted, rtol, atol):
            if " " in name:  # a fact, in words
                return f"this does not hold: {name}"
            which = "" if len(want.values) == 1 else f"{name}: "
            if want.kinds[name] == "bool tensor":
                return which + compared_truth(value, wanted)
            said_more = "" if exercise.facts else pattern(value, wanted, rtol, atol)
            return which + compared(value, wanted, rtol, atol) + said_more
    return None


def compared(value: Tensor, wanted: Tensor, rtol: float, atol: float) -> str:
    """The first place that differs, with both numbers."""
    wrong = ~torch.isclose(value, wanted, rtol=rtol, atol=atol, equal_nan=True)
    place = wrong.nonzero()[0].tolist() if value.dim() else []
    mine, theirs = two_numbers(value[tuple(place)].item(), wanted[tuple(place)].item())
    return f"{'at ' + str(place) + ' ' if place else ''}it gives {mine}, expected {theirs}"


def compared_truth(value: Tensor, wanted: Tensor) -> str:
    """The first truth value that differs, and whether all that differ are of this kind."""
    wrong = (value != wanted).nonzero()
    place = tuple(wrong[0].tolist())
    kinds = {bool(value[tuple(other.tolist())]) for other in wrong}
    only = f"; every place that differs should be {not kinds.pop()}" if len(kinds) == 1 and len(wrong) > 1 else ""
    return f"at {list(place)} it gives {bool(value[place])}, expected {bool(wanted[place])}{only}"


def two_numbers(mine: float, theirs: float) -> tuple[str, str]:
    """Two numbers with four digits, or as many as it takes to tell them apart; no −0."""
    digits = next((d for d in range(4, 12) if f"{mine:.{d}g}" != f"{theirs:.{d}g}"), 12)
    digits = max(digits, 7) if max(abs(mine), abs(theirs)) >= 1e4 else digits
    return f"{mine + 0.0:.{digits}g}", f"{theirs + 0.0:.{digits}g}"


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
    if (
        value.numel() > 1
        and ratio.abs() > 1e-3
        and (ratio - 1).abs() > 0.01
        and close(value, ratio * wanted, 10 * rtol, 10 * atol)
    ):
        return (
            f"; everything is {ratio.item():.3g} times too large"
            if ratio > 1
            else f"; everything is {ratio.item():.3g} of it"
        )
    outside = (wanted == 0) & (value != 0)
    if bool(outside.any()) and close(value.masked_fill(outside, 0), wanted, rtol, atol):
        return "; only places where 0 is expected differ"
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
    if exercise.probe not in ("call", "collated"):
        return ""
    shown, digits = [], digits_of([a for a in case.args if isinstance(a, Tensor) and a.is_floating_point()])
    for name, argument in zip(exercise.parameters, case.args, strict=False):
        if isinstance(argument, Tensor):
            shown.append(f"{name}={rounded(argument, digits)}")
        else:
            shown.append(f"{name}={argument!r}")
    text = f"{exercise.name}({', '.join(shown)}): "
    return text if len(text) <= 400 else ""


def digits_of(tensors: Sequence[Tensor]) -> int:
    """How many digits keep apart all numbers that differ; four at least."""
    numbers = torch.cat([torch.zeros(0), *(t.flatten().float() for t in tensors)]).unique().tolist()
    return next((d for d in range(4, 9) if len({f"{x:.{d}g}" for x in numbers}) == len(numbers)), 9)


def rounded(tensor: Tensor, digits: int) -> str:
    """A tensor as nested lists; a large one as its shape."""
    if tensor.numel() > 24:
        return f"<shape {list(tensor.shape)}>"
    if not tensor.is_floating_point():
        return str(tensor.tolist())
    return nested(tensor, digits)


def nested(tensor: Tensor, digits: int) -> str:
    """Lists of lists of rounded numbers."""
    if tensor.dim() == 0:
        return f"{tensor.item():.{digits}g}"
    return "[" + ", ".join(nested(row, digits) for row in tensor) + "]"
