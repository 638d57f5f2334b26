"""A policy of a few numbers, a rollout for it and an optimizer that records: what `ppo_update` is watched with."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from autograder.draws import Draw
from rlhf_core.experience import Experience
from rlhf_core.loop import UpdateConfig
from rlhf_core.ppo import clipped_policy_loss, clipped_value_loss

VOCAB, TIME = 6, 5
LEARNING_RATE = 3.0  # large, so that ratios leave the clip range within a few steps
NAMES = ("epochs", "minibatch_size", "clip_range", "value_clip_range", "value_coef", "entropy_coef", "max_grad_norm")


class TinyPolicy(nn.Module):
    """A table of logits and one of values, both indexed by the token before; a part of it is frozen.

    Attributes:
        used: numbers of the rows whose log-probs have received a gradient since the last step.
    """

    def __init__(self, seed: int):
        super().__init__()
        draw = Draw(seed)
        self.table = nn.Parameter(draw.normal(VOCAB, VOCAB))
        self.critic = nn.Parameter(draw.normal(VOCAB))
        self.frozen = nn.Parameter(draw.normal(VOCAB), requires_grad=False)
        self.used: list[int] = []

    def forward(self, batch: Experience) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs and entropies of the response tokens, and the values of the states before them."""
        time = batch.mask.shape[1]
        before = batch.tokens[:, -time - 1 : -1] % VOCAB
        logprobs = torch.log_softmax(self.table[before] + self.frozen, dim=-1)
        chosen = logprobs.gather(-1, batch.tokens[:, -time:, None] % VOCAB).squeeze(-1)
        rows = (batch.tokens[:, 0] // VOCAB).tolist()  # the first token says which row it is
        if chosen.requires_grad:
            chosen.register_hook(lambda grad: self.used.extend(rows))
        return chosen, -(logprobs.exp() * logprobs).sum(dim=-1), self.critic[before]

    def numbers(self) -> Tensor:
        """The trained parameters in one row."""
        return torch.cat([self.table.detach().flatten(), self.critic.detach()])


class Recorder(torch.optim.SGD):
    """Plain gradient steps; keeps for each of them the rows, the parameters before it and the gradient."""

    def __init__(self, policy: TinyPolicy):
        super().__init__([policy.table, policy.critic], lr=LEARNING_RATE)
        self.policy = policy
        self.rows, self.before, self.grads = [], [], []

    def step(self, closure: Callable | None = None):
        """Record, then step."""
        if closure is not None:
            closure()
        parts = [self.policy.table, self.policy.critic]
        self.rows.append(self.policy.used)
        self.policy.used = []
        self.before.append(self.policy.numbers())
        grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parts]
        self.grads.append(torch.cat([g.flatten() for g in grads]))
        return super().step()


def rollout(seed: int, rows: int, policy: TinyPolicy) -> Experience:
    """Responses of different length with all numbers of a rollout; what stands outside of the mask is garbage."""
    draw = Draw(seed + 7)
    mask = draw.ragged(rows, TIME)
    first = torch.arange(rows)[:, None] * VOCAB + draw.integers(0, VOCAB, rows, 1)
    tokens = torch.cat([first, draw.integers(0, VOCAB, rows, TIME)], dim=1)
    attention = torch.cat([torch.ones(rows, 1, dtype=torch.bool), mask], dim=1)
    blank = torch.zeros(rows, TIME)
    with torch.no_grad():
        logprobs, _, values = policy(Experience(tokens, attention, mask, blank, blank, blank, blank))
    advantages = draw.away_from_zero(rows, TIME)
    returns = values + draw.away_from_zero(rows, TIME)
    return Experience(
        tokens, attention, mask, *(x.masked_fill(~mask, 3.0) for x in (logprobs, values, advantages, returns))
    )


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


def watched_update(function: Callable, seed: int, rows: int, generator_seed: int | None, numbers: list) -> object:
    """Run an update twice, and write down every step of the first and where both end."""
    ends = []
    state = torch.get_rng_state()
    for _ in range(2):
        if generator_seed is None:
            torch.set_rng_state(state)
        policy = TinyPolicy(seed)
        optimizer, experience = Recorder(policy), rollout(seed, rows, policy)
        given = {name: value.clone() for name, value in vars(experience).items()}
        policy.used = []
        metrics = function(policy, optimizer, experience, config_of(generator_seed, numbers))
        ends.append(policy.numbers())
    torch.set_rng_state(state)
    if not isinstance(metrics, dict) or not metrics or not all(isinstance(name, str) for name in metrics):
        return metrics
    used = torch.zeros(len(optimizer.rows), rows)
    for step, which in enumerate(optimizer.rows):
        used[step, which] = 1
    fixed = TinyPolicy(seed).frozen
    same = [(a == b) | (a.isnan() & b.isnan()) for a, b in ((getattr(experience, n), given[n]) for n in given)]
    return {
        "used": used,
        "before": torch.stack(optimizer.before) if optimizer.before else torch.zeros(0, len(ends[0])),
        "grads": torch.stack(optimizer.grads) if optimizer.grads else torch.zeros(0, len(ends[0])),
        "end": ends[0],
        "end_again": ends[1],
        "numbers": torch.tensor(float(all(is_finite(value) for value in metrics.values()))),
        "approx_kl": number_of(metrics, "approx_kl"),
        "clip_fraction": number_of(metrics, "clip_fraction"),
        "nothing_else": torch.tensor(float(torch.equal(policy.frozen, fixed) and policy.frozen.grad is None)),
        "experience": torch.tensor(float(all(bool(s.all()) for s in same))),
        "settings": torch.tensor(float(optimizer.param_groups[0]["lr"] == LEARNING_RATE)),
    }


def is_finite(value: object) -> bool:
    """A number, in any of the forms that numbers have, and not NaN."""
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def number_of(metrics: dict, name: str) -> Tensor:
    """A metric, 0 where it is not reported."""
    value = metrics.get(name, 0.0)
    return torch.tensor(float(value) if is_finite(value) else 1.0)
