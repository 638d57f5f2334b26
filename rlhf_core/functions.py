"""Train with your own building blocks: which of them may replace the reference, and why the others may not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import SimpleNamespace

import torch
from torch import Tensor

from rlhf_core.examples import CALLS, TRAINED, WATCHED
from rlhf_core.loop import REFERENCE
from rlhf_core.preferences import collate_pairs
from rlhf_core.reward import pairwise_accuracy, pairwise_loss, sequence_scores

# what `train_reward` is built of, as `REFERENCE` is what `train` is built of
REWARD_REFERENCE = SimpleNamespace(
    collate_pairs=collate_pairs,
    sequence_scores=sequence_scores,
    pairwise_loss=pairwise_loss,
    pairwise_accuracy=pairwise_accuracy,
)
ALL = {**vars(REFERENCE), **vars(REWARD_REFERENCE)}


class SideEffect(Exception):
    """A function changed what it was given."""


def kind(value: object) -> str:
    """What a result is, so that a list is not taken for a tensor."""
    if not isinstance(value, Tensor):
        return "number"
    return "float" if value.is_floating_point() else str(value.dtype)


def described(results: list[Tensor | float]) -> list[tuple[str, Tensor]]:
    """Each result with its kind, as float64."""
    return [
        (kind(r), r.detach().double() if isinstance(r, Tensor) else torch.tensor(float(r)).double()) for r in results
    ]


def called(function: Callable, args: tuple, trained: set[int] | None) -> list[tuple[str, Tensor]]:
    """The results of one call; where something is trained, also the gradient that reaches each argument."""
    given = [a.clone() if isinstance(a, Tensor) else a for a in args]
    leaves = [a.requires_grad_() if trained and isinstance(a, Tensor) and a.is_floating_point() else a for a in given]
    passed = [a.clone() if isinstance(a, Tensor) and a.requires_grad else a for a in leaves]
    result = function(*passed)
    for before, after in zip(args, passed, strict=True):
        if isinstance(before, Tensor) and not torch.equal(before.nan_to_num(0.123), after.detach().nan_to_num(0.123)):
            raise SideEffect
    if isinstance(result, dict):
        result = tuple(result[key] for key in sorted(result))
    results = list(result) if isinstance(result, tuple) else [result]
    found = described(results)
    if trained:
        sources = [a for a in leaves if isinstance(a, Tensor) and a.requires_grad]
        cotangents = torch.linspace(1, 2, max(1, results[0].numel())).reshape(results[0].shape)
        grads = torch.autograd.grad((results[0].float() * cotangents).sum(), sources, allow_unused=True)
        found += [("gradient", torch.zeros(()).double() if g is None else g.double()) for g in grads]
    return found


def observed(name: str, function: Callable) -> list[tuple[str, Tensor]]:
    """What a function makes of all examples for its name."""
    if name in WATCHED:
        return described(WATCHED[name](function))
    return [one for args in CALLS[name] for one in called(function, args, TRAINED.get(name))]


def same(one: tuple[str, Tensor], other: tuple[str, Tensor]) -> bool:
    """Whether two results agree; no gradient is the same as zeros."""
    if one[0] == other[0] == "gradient":
        return torch.allclose(*torch.broadcast_tensors(one[1], other[1]), rtol=1e-3, atol=1e-5)
    agree = {one[0], other[0]} <= {"number", "float"} if one[1].dim() == 0 else one[0] == other[0]
    return agree and one[1].shape == other[1].shape and torch.allclose(one[1], other[1], rtol=1e-3, atol=1e-5)


def disagreement(name: str, function: Callable) -> str | None:
    """Why a function may not stand in for the reference of that name, in words; None if it may."""
    expected = observed(name, ALL[name])
    try:
        got = observed(name, function)
    except SideEffect:
        return "it changes its arguments"
    except NotImplementedError:
        return "it is not written yet"
    except Exception as error:  # a learner's function may raise anything
        return f"it raises {type(error).__name__}: {error}"
    if len(got) != len(expected):
        return "it does not return what the reference returns"
    for one, other in zip(got, expected, strict=True):
        if not same(one, other):
            what = "its gradient differs" if one[0] == "gradient" else "its result differs"
            return f"{what} from the reference's on a small example"
    return None


def choose_functions(
    given: Mapping[str, Callable | None] | None, reference: SimpleNamespace = REFERENCE
) -> SimpleNamespace:
    """The building blocks to train with: those given where they agree with the reference, the reference elsewhere.

    A warning names each block that was given and is not used, before anything is trained.

    Args:
        given: functions by name; None stands for one that is missing.
        reference: the blocks that there are.

    Raises:
        ValueError: a name is none of them.
    """
    chosen = dict(vars(reference))
    for name, function in (given or {}).items():
        if name not in chosen:
            raise ValueError(f"functions: there is no building block {name!r}; there are {', '.join(chosen)}")
        if function is None:
            warnings.warn(f"{name} is missing: the reference stands in for it", stacklevel=3)
            continue
        reason = disagreement(name, function)
        if reason is None:
            chosen[name] = function
        else:
            warnings.warn(f"{name} is not used, {reason}: the reference stands in for it", stacklevel=3)
    return SimpleNamespace(**chosen)
