"""A policy of a few numbers, a rollout for it and an optimizer that records: what `ppo_update` is watched with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autograder.draws import Draw
from autograder.observe import is_number
from rlhf_core.experience import Experience
from rlhf_core.loop import UpdateConfig
from rlhf_core.ppo import clipped_policy_loss, clipped_value_loss

VOCAB, PROMPT, TIME = 6, 2, 5
LEARNING_RATE = 3.0  # large, so that ratios leave the clip range within a few steps
GARBAGE = 7.0  # what the policy says of tokens outside of the mask
NAMES = ("epochs", "minibatch_size", "clip_range", "value_clip_range", "value_coef", "entropy_coef", "max_grad_norm")


class Output(NamedTuple):
    """What the policy says of response tokens, [batch, time] each: by name, by position, or taken apart."""

    logprobs: Tensor
    entropy: Tensor
    values: Tensor


class TinyPolicy(nn.Module):
    """A table of logits and one of values, both indexed by the token before; a part of it is frozen.

    Attributes:
        total: rows of the whole rollout.
        used: numbers of the rows whose loss has sent back a gradient since the last step.
    """

    def __init__(self, seed: int, total: int):
        super().__init__()
        draw = Draw(seed)
        self.table = nn.Parameter(draw.normal(VOCAB, VOCAB))
        self.critic = nn.Parameter(draw.normal(VOCAB))
        self.frozen = nn.Parameter(draw.normal(VOCAB), requires_grad=False)
        self.register_buffer("fixed", draw.normal(VOCAB))
        self.total, self.used = total, set()

    def forward(self, batch: Experience) -> Output:
        """Log-probs and entropies of the response tokens, and the values of the states before them."""
        time = batch.mask.shape[1]
        before = batch.tokens[:, -time - 1 : -1] % VOCAB
        logprobs = torch.log_softmax(self.table[before] + self.frozen + self.fixed, dim=-1)
        chosen = logprobs.gather(-1, batch.tokens[:, -time:, None] % VOCAB).squeeze(-1)
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
        # the prompt's last token says which row it is
        rows = batch.tokens[:, -time - 1] // VOCAB
        said = torch.where(batch.mask, torch.stack([chosen, entropy, self.critic[before]]), GARBAGE)
        if said.requires_grad:
            said.register_hook(lambda grad: self.used.update(self.reached(rows, grad)))
        return Output(*said.unbind())

    def reached(self, rows: Tensor, grad: Tensor) -> list[int]:
        """All rows of a minibatch; where the whole rollout ran, those that a gradient comes from."""
        return (rows if len(rows) < self.total else rows[(grad != 0).any(dim=2).any(dim=0)]).tolist()

    def numbers(self) -> Tensor:
        """The trained parameters in one row."""
        return torch.cat([self.table.detach().flatten(), self.critic.detach()])

    def put(self, numbers: Tensor) -> None:
        """The reverse of `numbers`."""
        with torch.no_grad():
            self.table.copy_(numbers[: self.table.numel()].reshape_as(self.table))
            self.critic.copy_(numbers[self.table.numel() :])

    def rest(self) -> tuple:
        """The numbers of the policy that an update must leave alone."""
        return self.frozen.tolist(), self.fixed.tolist(), self.frozen.grad is None

    def flags(self) -> list[bool]:
        """Which parameters are trained."""
        return [p.requires_grad for p in self.parameters()]


class Recorder(torch.optim.SGD):
    """Plain gradient steps; keeps for each of them the rows, the parameters before it and the gradient."""

    def __init__(self, policy: TinyPolicy):
        super().__init__([policy.table, policy.critic], lr=LEARNING_RATE, foreach=False)
        self.policy = policy
        self.rows, self.before, self.grads = [], [], []

    def step(self, closure: Callable | None = None):
        """Record, then step."""
        loss = closure() if closure is not None else None
        parts = [self.policy.table, self.policy.critic]
        self.rows.append(sorted(self.policy.used))
        self.policy.used = set()
        self.before.append(self.policy.numbers())
        grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parts]
        self.grads.append(torch.cat([g.flatten() for g in grads]))
        super().step()
        return loss

    def settings(self) -> list[dict]:
        """Learning rate and all other options."""
        return [{name: one for name, one in group.items() if name != "params"} for group in self.param_groups]


@functools.lru_cache(maxsize=256)
def rollout_numbers(seed: int, rows: int, garbage: float) -> tuple[Tensor, ...]:
    """Responses of different length with all numbers of a rollout; what stands outside of the mask is garbage."""
    draw, policy = Draw(seed + 7), TinyPolicy(seed, rows)
    mask = draw.ragged(rows, TIME)
    tokens = draw.integers(0, VOCAB, rows, PROMPT + TIME)
    tokens[:, PROMPT - 1] += VOCAB * torch.arange(rows)
    prompt = torch.ones(rows, PROMPT, dtype=torch.bool)
    prompt[1::2, 0] = False
    attention = torch.cat([prompt, mask], dim=1)
    blank = torch.zeros(rows, TIME)
    with torch.no_grad():
        logprobs, _, values = policy(Experience(tokens, attention, mask, blank, blank, blank, blank))
    advantages = draw.away_from_zero(rows, TIME)
    numbers = logprobs, values, advantages, values + draw.away_from_zero(rows, TIME)
    return tokens, attention, mask, *(x.masked_fill(~mask, garbage) for x in numbers)


def rollout(seed: int, rows: int, garbage: float) -> Experience:
    """A rollout of its own."""
    return Experience(*(x.clone() for x in rollout_numbers(seed, rows, garbage)))


def config_of(seed: int | None, numbers: list) -> UpdateConfig:
    """The configuration of a case, in the order of `NAMES`."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return UpdateConfig(**dict(zip(NAMES, numbers, strict=True)), generator=generator)


def expected_gradient(policy: TinyPolicy, experience: Experience, rows: Tensor, config: UpdateConfig) -> Tensor:
    """The gradient of the loss on some rows, before clipping."""
    batch = experience[rows]
    logprobs, entropy, values = policy(batch)
    loss = clipped_policy_loss(logprobs, batch.logprobs, batch.advantages, batch.mask, config.clip_range)
    value_loss = clipped_value_loss(values, batch.values, batch.returns, batch.mask, config.value_clip_range)
    loss = loss + config.value_coef * value_loss - config.entropy_coef * entropy[batch.mask].mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [policy.table, policy.critic])])


class Run(NamedTuple):
    """One update that was watched."""

    policy: TinyPolicy
    optimizer: Recorder
    metrics: object
    kept: dict[str, bool]


def run(function: Callable, seed: int, rows: int, config: UpdateConfig, garbage: float) -> Run:
    """Update a fresh policy on a fresh rollout."""
    policy, experience = TinyPolicy(seed, rows), rollout(seed, rows, garbage)
    optimizer = Recorder(policy)
    rest, flags, settings, mode = policy.rest(), policy.flags(), optimizer.settings(), policy.training
    options = [getattr(config, name) for name in NAMES]
    metrics = function(policy, optimizer, experience, config)
    wanted = rollout_numbers(seed, rows, garbage)
    same = (
        torch.equal(a.nan_to_num(0.5), b.nan_to_num(0.5))
        for a, b in zip(vars(experience).values(), wanted, strict=True)
    )
    kept = {
        "nothing_else": policy.rest() == rest,
        "flags": policy.flags() == flags,
        "mode": policy.training == mode,
        "experience": all(same),
        "settings": optimizer.settings() == settings,
        "config": [getattr(config, name) for name in NAMES] == options,
    }
    return Run(policy, optimizer, metrics, kept)


def watched_update(
    function: Callable, seed: int, rows: int, generator_seed: int | None, numbers: list, garbage: float, twice: bool
) -> object:
    """Run an update, and write down every step and where it ends.

    If asked, run it again: with the same seed, with the generator that has been used, and with another seed.
    """
    state, config = torch.get_rng_state(), config_of(generator_seed, numbers)
    first = run(function, seed, rows, config, garbage)
    moved = not torch.equal(torch.get_rng_state(), state)
    if not isinstance(first.metrics, dict):
        return first.metrics
    again, others = first, []
    if twice:
        again = run(function, seed, rows, config_of(generator_seed, numbers), garbage)
        others = [run(function, seed, rows, c, garbage) for c in (config, config_of(generator_seed + 1, numbers))]
    if generator_seed is None:
        torch.set_rng_state(state)
    optimizer, end = first.optimizer, first.policy.numbers()
    used = torch.zeros(len(optimizer.rows), rows)
    for step, which in enumerate(optimizer.rows):
        used[step, which] = 1
    metrics = dict(numbers_of(first.metrics))
    return {
        "used": used,
        "before": torch.stack(optimizer.before) if optimizer.before else torch.zeros(0, len(end)),
        "grads": torch.stack(optimizer.grads) if optimizer.grads else torch.zeros(0, len(end)),
        "end": end,
        "end_again": again.policy.numbers(),
        "differs": torch.tensor(float(all(other.optimizer.rows != optimizer.rows for other in others))),
        "default_moves": torch.tensor(float(moved)),
        "numbers": torch.tensor(float(bool(metrics) and all(map(math.isfinite, metrics.values())))),
        "approx_kl": torch.tensor(metrics.get("approx_kl", 0.0)),
        "clip_fraction": torch.tensor(metrics.get("clip_fraction", 0.0)),
        **{name: torch.tensor(float(holds)) for name, holds in first.kept.items()},
    }


def numbers_of(metrics: dict) -> Iterator[tuple[str, float]]:
    """Metrics as floats; what is no single number is NaN."""
    for name, value in dict.items(metrics):
        single = is_number(value) or (type(value) is Tensor and value.dim() == 0 and value.dtype != torch.bool)
        yield name, float(value) if single and type(name) is str else math.nan
