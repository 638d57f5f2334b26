"""Ways to call a function that is graded by what must hold rather than by one result.

A probe gets the function and a case's arguments, runs where the function runs, and returns what it recorded as tensors by
name. Whether that is right is decided elsewhere, by the exercise's `facts`. A result of another form is handed back as it is.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from autograder.sampling import sample, used_generator  # noqa: F401

MANY = 10_000  # more minibatches or steps than any case asks for


def call(function: Callable, *args):
    """Most functions: one call, and its result."""
    return function(*args)


def collated(function: Callable, *args) -> object:
    """The four tensors of a batch of pairs, out of a dict; other keys in it do no harm."""
    result, asked = function(*args), ("chosen_ids", "chosen_mask", "rejected_ids", "rejected_mask")
    whole = isinstance(result, dict) and all(name in result for name in asked)
    return {name: result[name] for name in asked} if whole else result


def flag(condition: object) -> Tensor:
    """A truth value as a number."""
    return torch.tensor(float(bool(condition)))


def subset(prompts: list[str], seed: int) -> list[int]:
    """A third of the rows, in another order."""
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed)).tolist()
    return order[: len(order) // 3]


def salted(one: object) -> bool:
    """Whether Python's hash of something differs from process to process: texts, and what holds texts."""
    return isinstance(one, (str, bytes)) or isinstance(one, (tuple, frozenset)) and any(map(salted, one))


def split(function: Callable, prompts: list[str], fraction: float, seed: int) -> object:
    """The sides of a split: of all rows, twice; of some rows; and of two other seeds."""
    original, kept = builtins.hash, []
    salt = iter(range(1, 100))

    def side(rows: list[str], which_seed: int) -> object:
        # Python salts `hash` of texts anew in every process; here it does so at every call
        this = next(salt)
        builtins.hash = lambda one: original((this, one)) if salted(one) else original(one)
        given = list(rows)
        try:
            return function(given, fraction, which_seed)
        finally:
            builtins.hash = original
            kept.append(given == rows)

    first = side(prompts, seed)
    if not (type(first) is Tensor and first.dtype == torch.bool and first.shape == (len(prompts),)):
        return first
    return {
        "first": first,
        "again": side(prompts, seed),
        "some": side([prompts[i] for i in subset(prompts, seed)], seed),
        "one": side(prompts, seed + 1),
        "two": side(prompts, seed + 1000),
        "kept": flag(all(kept)),
    }


def joined(rows: list[Tensor]) -> Tensor:
    """One after another; there may be none."""
    return torch.cat([torch.zeros(0, dtype=torch.int64), *rows])


def minibatches(function: Callable, batch_size: int, minibatch_size: int, epochs: int, seed: int) -> object:
    """All minibatches one after another, their sizes, and what further calls make of the same and of another seed."""

    def rows(generator: torch.Generator | None) -> list:
        return list(islice(function(batch_size, minibatch_size, epochs, generator), MANY))

    generator = used_generator(seed)
    first = rows(generator)
    wrong = next((m for m in first if not (type(m) is Tensor and m.dtype == torch.int64 and m.dim() == 1)), None)
    if wrong is not None:
        return None if isinstance(wrong, dict) else wrong
    recorded = {"rows": joined(first), "sizes": torch.tensor([len(m) for m in first])}
    if epochs >= 1000:
        return recorded
    further = {"second": generator, "again": used_generator(seed), "other": used_generator(seed + 1)}
    recorded |= {name: joined(rows(this)) for name, this in further.items()}
    state = torch.get_rng_state()
    recorded |= {name: joined(rows(None)) for name in ("default_once", "default_twice")}
    torch.set_rng_state(state)
    recorded["default_again"] = joined(rows(None))
    torch.set_rng_state(state)
    return recorded


def score(
    function: Callable, scores: list, as_tensor: bool, prompts: list, responses: list, ended: Tensor, penalty: float
):
    """The result, and how the reward function was called."""
    calls, given = [], torch.tensor(scores) if as_tensor else scores
    kept = given.clone() if as_tensor else list(given)

    def reward_fn(*texts):
        calls.append([list(t) if isinstance(t, (list, tuple)) else t for t in texts])
        asked = texts[-1] if texts else None
        # asked for other rows than all, it answers for as many as it was asked
        return given[: len(asked)] if isinstance(asked, list) and len(asked) != len(given) else given

    handed = list(prompts), list(responses)
    result = function(reward_fn, *handed, ended, penalty)
    if type(result) is not Tensor or result.shape != (len(prompts),):
        return result
    return {
        "scores": result,
        "calls": torch.tensor(float(len(calls))),
        "prompts": flag(calls and calls[0][:1] == [prompts]),
        "responses": flag(calls and calls[0][1:] == [responses]),
        # only tells two mistakes apart
        "joined": flag(calls and calls[0][1:] == [[p + r for p, r in zip(prompts, responses, strict=True)]]),
        "kept": flag(torch.equal(given, kept) if as_tensor else given == kept),
        "texts": flag(handed == (prompts, responses)),
    }


def update(function: Callable, *args):
    """See `autograder.tiny_update`."""
    from autograder.tiny_update import watched_update  # needs rlhf_core.loop, which only this exercise needs

    return watched_update(function, *args)
