"""Ways to call a function that is graded by what must hold rather than by one result.

A probe gets the function and a case's arguments, and returns named facts as tensors. It runs where the function runs.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable

import torch
from torch import Tensor


def call(function: Callable, *args):
    """Most functions: one call, and its result."""
    return function(*args)


def yes(condition: object) -> Tensor:
    """A fact that holds or not."""
    return torch.tensor(float(bool(condition)))


def split(function: Callable, prompts: list[str], fraction: float, seed: int) -> dict[str, Tensor]:
    """What must hold of a split, whichever prompts are on which side."""
    original = builtins.hash
    salt = iter(range(1, 100))

    def side(rows: list[str], which_seed: int) -> Tensor:
        # Python salts `hash` of texts anew in every process; here it does so at every call
        this = next(salt)
        builtins.hash = lambda one: original((this, one))
        try:
            return function(list(rows), fraction, which_seed)
        finally:
            builtins.hash = original

    first = side(prompts, seed)
    form = type(first) is Tensor and first.dtype == torch.bool and first.shape == (len(prompts),)
    if not form:
        return {"it returns a bool tensor with one truth value for each row": yes(False)}
    by_prompt: dict[str, set[bool]] = {}
    for prompt, test in zip(prompts, first.tolist()):
        by_prompt.setdefault(prompt, set()).add(test)
    distinct = sorted(by_prompt)
    sides = torch.tensor([True in by_prompt[p] for p in distinct])
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed)).tolist()
    some = order[: len(order) // 3]
    one, two = side(distinct, seed + 1), side(distinct, seed + 10)
    share = sides.double().mean().item()
    together = [(a & b).double().mean().item() for a, b in ((sides, one), (one, two), (sides, two))]
    return {
        "it returns a bool tensor with one truth value for each row": yes(form),
        "all rows of one prompt are on the same side": yes(all(len(found) == 1 for found in by_prompt.values())),
        "the same call gives the same split again, in another Python process too": yes(
            torch.equal(first, side(prompts, seed))
        ),
        "a prompt stays on its side when rows are left out or come in another order": yes(
            torch.equal(side([prompts[i] for i in some], seed), first[some])
        ),
        "prompts of the same length are on both sides": yes(
            len({test for p, test in zip(distinct, sides.tolist()) if len(p) == len(distinct[0])}) == 2
        ),
        "the share of test prompts is within 0.03 of test_fraction": yes(abs(share - fraction) <= 0.03),
        "another seed gives another split": yes(not torch.equal(sides, one)),
        "the splits of two seeds are unrelated": yes(all(abs(both - fraction**2) <= 0.025 for both in together)),
    }
