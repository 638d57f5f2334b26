"""Lesson 05: one PPO update, all epochs and minibatches of a rollout."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from cases import Draw
from torch import nn

from rlhf_core.experience import Experience
from rlhf_core.loop import UpdateConfig, minibatch_indices, ppo_update
from rlhf_core.policy import masked_mean, token_entropy, token_logprobs
from rlhf_core.ppo import approx_kl, clip_fraction, clipped_policy_loss, clipped_value_loss


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Bigram(nn.Module):
    """A policy and critic that look at the previous token only, with the interface that `ppo_update` asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.values = nn.Parameter(Draw(2).normal(5, 5)), nn.Parameter(Draw(3).normal(5))
        self.seen: list[Experience] = []

    def forward(self, batch: Experience):
        self.seen.append(batch)
        start = batch.tokens.shape[1] - batch.mask.shape[1] - 1
        tokens = batch.tokens[:, start:]
        logits = self.logits[tokens]
        return token_logprobs(logits, tokens), token_entropy(logits[:, :-1]), self.values[tokens[:, :-1]]


def rollout(policy: Bigram, rows: int = 6, time: int = 5) -> Experience:
    """Ragged responses with advantages of both signs; garbage behind the mask."""
    draw = Draw(4, rows, time)
    tokens = draw.integers(0, 5, rows, 2 + time)
    mask = torch.arange(time) < draw.integers(1, time + 1, rows)[:, None]
    mask[0] = True
    attention = torch.cat([torch.ones(rows, 2, dtype=torch.bool), mask], 1)
    empty = torch.zeros(rows, time, dtype=torch.float64)
    with torch.no_grad():
        logprobs, _, values = policy(Experience(tokens, attention, mask, empty, empty, empty, empty))
    policy.seen.clear()
    numbers = (logprobs, values, draw.tokens(), values + draw.tokens())
    return Experience(tokens, attention, mask, *(x.masked_fill(~mask, math.nan) for x in numbers))


def config(**changes) -> UpdateConfig:
    options = {"epochs": 3, "minibatch_size": 4, "value_coef": 0.5, "entropy_coef": 0.1, "max_grad_norm": 1e9}
    return UpdateConfig(**{**options, **changes, "generator": seeded(changes.get("generator", 0))})


def update(lr: float = 3.0, **changes) -> tuple[Bigram, Experience, dict[str, float]]:
    policy = Bigram()
    experience = rollout(policy)
    optimizer = torch.optim.SGD(policy.parameters(), lr)
    return policy, experience, ppo_update(policy, optimizer, experience, config(**changes))


def test_nothing_is_clipped_on_the_first_minibatch():
    _, experience, metrics = update(epochs=1, minibatch_size=6)
    assert metrics["clip_fraction"] == 0.0 and abs(metrics["approx_kl"]) < 1e-12
    assert metrics["policy_loss"] == pytest.approx(-experience.advantages[experience.mask].mean().item())
    assert all(isinstance(number, float) and math.isfinite(number) for number in metrics.values())


@pytest.mark.parametrize("microbatch", [None, 1, 2])
def test_all_epochs_and_minibatches_by_hand(microbatch):
    """The same update step by step: old log-probabilities and returns of the rollout, one step per minibatch."""
    policy, experience, metrics = update(microbatch_size=microbatch)
    mine, history = Bigram(), []
    optimizer = torch.optim.SGD(mine.parameters(), 3.0)
    whole = rollout(mine)
    for rows in minibatch_indices(6, 4, 3, seeded()):
        batch = whole[rows]
        logprobs, entropy, values = mine(batch)
        policy_loss = clipped_policy_loss(logprobs, batch.logprobs, batch.advantages, batch.mask, 0.2)
        value_loss = clipped_value_loss(values, batch.values, batch.returns, batch.mask, 0.2)
        mean_entropy = masked_mean(entropy, batch.mask)
        loss = policy_loss + 0.5 * value_loss - 0.1 * mean_entropy
        optimizer.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in mine.parameters()]).norm()
        clipped = clip_fraction(logprobs, batch.logprobs, batch.advantages, batch.mask, 0.2)
        moved = approx_kl(logprobs, batch.logprobs, batch.mask)
        losses = [x.item() for x in (loss, policy_loss, value_loss, mean_entropy)]
        history.append([*losses, clipped, moved, norm.item()])
        optimizer.step()
    for got, expected in zip(policy.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(got, expected)
    names = ("loss", "policy_loss", "value_loss", "entropy", "clip_fraction", "approx_kl", "grad_norm")
    means = torch.tensor(history, dtype=torch.float64).mean(0).tolist()
    assert {name: metrics[name] for name in names} == pytest.approx(dict(zip(names, means, strict=True)), abs=1e-6)
    assert metrics["approx_kl"] > 1e-3 and metrics["clip_fraction"] > 0


def test_the_policy_moves_and_nothing_else_does():
    policy = Bigram()
    experience = rollout(policy)
    bystander = nn.Linear(2, 2)
    before = copy.deepcopy((experience, bystander.state_dict(), dict(policy.named_parameters())))
    state = torch.get_rng_state()
    ppo_update(policy, torch.optim.Adam(policy.parameters(), 0.1), experience, config())
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()
    for name in ("tokens", "attention_mask", "mask", "logprobs", "values", "advantages", "returns"):
        torch.testing.assert_close(getattr(experience, name), getattr(before[0], name), rtol=0, atol=0, equal_nan=True)
    assert all(a.equal(b) for a, b in zip(bystander.state_dict().values(), before[1].values(), strict=True))
    assert all(not parameter.equal(before[2][name]) for name, parameter in policy.named_parameters())


def test_old_numbers_stay_frozen_through_all_epochs():
    policy, experience, _ = update(minibatch_size=6, epochs=4)
    assert len(policy.seen) == 4
    for batch in policy.seen:
        by_row = {tuple(row): i for i, row in enumerate(experience.tokens.tolist())}
        rows = torch.tensor([by_row[tuple(row)] for row in batch.tokens.tolist()])
        for name in ("logprobs", "values", "advantages", "returns", "mask"):
            torch.testing.assert_close(
                getattr(batch, name), getattr(experience, name)[rows], rtol=0, atol=0, equal_nan=True
            )


@pytest.mark.parametrize("limit", [0.01, 0.1])
def test_gradient_norm_is_clipped(limit):
    start, (policy, _, metrics) = Bigram(), update(lr=1.0, epochs=1, minibatch_size=6, max_grad_norm=limit)
    moved = torch.cat([(a - b).flatten() for a, b in zip(policy.parameters(), start.parameters(), strict=True)]).norm()
    assert moved.item() == pytest.approx(limit, rel=1e-4)
    assert metrics["grad_norm"] > limit  # reported before clipping


def test_same_seed_same_result():
    one, two, other = (list(update(generator=seed)[0].parameters()) for seed in (0, 0, 1))
    assert all(a.equal(b) for a, b in zip(one, two, strict=True))
    assert not all(a.equal(b) for a, b in zip(one, other, strict=True))


def test_a_minibatch_keeps_all_tokens_of_masks_that_start_late():
    mask = torch.tensor([[False, False, True, True], [False, True, False, False]])
    numbers = torch.arange(8.0).reshape(2, 4)
    whole = Experience(torch.arange(12).reshape(2, 6), torch.ones(2, 6, dtype=torch.bool), mask, *[numbers] * 4)
    kept = whole[torch.tensor([0])]
    assert kept.logprobs[kept.mask].tolist() == [2.0, 3.0]
    assert whole[torch.tensor([1])].logprobs[whole[torch.tensor([1])].mask].tolist() == [5.0]
