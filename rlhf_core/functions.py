"""Train with your own building blocks: which of them may replace the reference, and why the others may not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import SimpleNamespace

import torch

from rlhf_core.experience import Experience, PolicyOutput
from rlhf_core.loop import REFERENCE, UpdateConfig


def _tokens() -> dict[str, torch.Tensor]:
    """A small batch: two rows of different length, garbage where the mask is False."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    names = ("logprobs", "old", "ref", "values", "old_values", "advantages", "returns", "rewards")
    numbers = {name: torch.randn(2, 5, generator=generator).masked_fill(~mask, 1e4) for name in names}
    logits = torch.randn(2, 6, 7, generator=generator)
    return {**numbers, "mask": mask, "logits": logits, "ids": torch.randint(7, (2, 6), generator=generator)}


class _TinyPolicy(torch.nn.Module):
    """A policy of one table, with the interface that `ppo_update` uses."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(7))

    def forward(self, batch: Experience) -> PolicyOutput:
        logprobs = torch.log_softmax(self.table, -1)[batch.tokens[:, -batch.mask.shape[1] :]]
        return PolicyOutput(logprobs, logprobs.detach().abs(), logprobs * 0 + self.table.sum())


def _update(update: Callable) -> torch.Tensor:
    """Where the weights are after a tiny update: one step, so that the order of the rows does not matter."""
    x, policy = _tokens(), _TinyPolicy()
    attention = torch.cat([torch.ones(2, 1, dtype=torch.bool), x["mask"]], dim=1)
    old = torch.full((2, 5), -torch.tensor(7.0).log().item())
    experience = Experience(x["ids"], attention, x["mask"], old, old * 0, x["advantages"], x["returns"])
    config = UpdateConfig(epochs=1, minibatch_size=2, generator=torch.Generator().manual_seed(0))
    update(policy, torch.optim.SGD(policy.parameters(), lr=0.1), experience, config)
    return policy.table.detach()


def _write(sample: Callable) -> torch.Tensor:
    """A greedy sample of a fixed chain of tokens."""
    table = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    return sample(lambda tokens: table[tokens[:, -1]], torch.tensor([[1], [2]]), 4, 0.0, 0, 4, None)


def _epochs(minibatches: Callable) -> torch.Tensor:
    """Every row once in each epoch."""
    rows = torch.cat(list(minibatches(6, 4, 2, torch.Generator().manual_seed(0))))
    return rows.reshape(2, 6).sort(dim=1).values


# name → what a function makes of a small example; it is compared with what the reference makes of it
PROBES: dict[str, Callable[[Callable, dict], object]] = {
    "token_logprobs": lambda f, x: f(x["logits"], x["ids"], 0.7),
    "response_mask": lambda f, x: f(torch.tensor([[5, 0, 3, 0, 0]]), torch.tensor([2]), 0),
    "masked_mean": lambda f, x: f(x["values"], x["mask"]),
    "token_entropy": lambda f, x: f(x["logits"]),
    "shaped_rewards": lambda f, x: f(torch.tensor([1.0, -9.0]), x["logprobs"], x["ref"], x["mask"], 0.3, 5.0),
    "gae": lambda f, x: f(x["rewards"], x["values"], x["mask"], 0.9, 0.8),
    "masked_whiten": lambda f, x: f(x["values"], x["mask"], False),
    "clipped_policy_loss": lambda f, x: f(x["logprobs"], x["old"], x["advantages"], x["mask"], 0.2),
    "clip_fraction": lambda f, x: f(x["logprobs"], x["old"], x["advantages"], x["mask"], 0.2),
    "approx_kl": lambda f, x: f(x["logprobs"], x["old"], x["mask"]),
    "clipped_value_loss": lambda f, x: f(x["values"], x["old_values"], x["returns"], x["mask"], 0.2),
    "ppo_loss": lambda f, x: f(x["values"][0, 0], x["values"][0, 1], x["values"][0, 2], 0.5, 0.1),
    "sample_responses": lambda f, x: _write(f),
    "minibatch_indices": lambda f, x: _epochs(f),
    "adaptive_kl_coef": lambda f, x: f(0.2, 3.0, 6.0, 64, 1000.0),
    "score_responses": lambda f, x: f(
        lambda p, r: [1.0, 2.0], ["a", "b"], ["c", "d"], torch.tensor([True, False]), 0.5
    ),
    "ppo_update": lambda f, x: _update(f),
}


def _numbers(result: object) -> list[torch.Tensor]:
    """A result as a list of float64 tensors."""
    parts = result if isinstance(result, tuple) else (result,)
    return [torch.as_tensor(part).detach().double() for part in parts]


def disagreement(name: str, function: Callable) -> str | None:
    """Why a function may not stand in for the reference of that name, in one sentence; None if it may."""
    expected = _numbers(PROBES[name](getattr(REFERENCE, name), _tokens()))
    try:
        got = _numbers(PROBES[name](function, _tokens()))
    except Exception as error:  # a learner's function may raise anything
        return f"it raises {type(error).__name__}: {error}"
    if [g.shape for g in got] != [e.shape for e in expected]:
        return "its result has another shape"
    if not all(torch.allclose(g, e, rtol=1e-4, atol=1e-5) for g, e in zip(got, expected, strict=True)):
        return "its numbers differ from the reference on a small example"
    return None


def choose_functions(given: Mapping[str, Callable] | None) -> SimpleNamespace:
    """The building blocks to train with: those given where they agree with the reference, the reference elsewhere.

    Raises:
        ValueError: a name is none of the loop's building blocks.
    """
    chosen = dict(vars(REFERENCE))
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
