"""Lesson 08: advantages within a group, leave-one-out, and the loss of GRPO."""

from __future__ import annotations

import itertools

import oracles
import pytest
import torch
from cases import Draw, Entry, contract_tests

from rlhf_core.grpo import group_advantages, grpo_loss, rloo_advantages
from rlhf_core.ppo import clipped_policy_loss

GROUP = 4


def draw_groups(draw: Draw) -> tuple:
    """Groups of different scales, the last of them tied when there are several."""
    scales = torch.logspace(-1, 1, draw.rows, dtype=torch.float64)[:, None]
    groups = scales * draw.normal(draw.rows, GROUP) + draw.normal(draw.rows, 1)
    if draw.rows > 1:
        groups[-1] = 0.5
    return groups.reshape(-1), GROUP


def draw_grpo(draw: Draw) -> tuple:
    old = draw.tokens() - 2.0
    return old + draw.tokens(0.5), old, old + draw.tokens(0.5), draw.normal(draw.rows), draw.mask(), 0.2, 0.3


def in_groups(change, layout=lambda r, g: r.view(-1, g), back=lambda x: x.reshape(-1)):
    return lambda rewards, group_size: back(change(layout(rewards, group_size)))


def standardised(r, std=lambda r: r.std(1, keepdim=True) + 1e-4):
    return (r - r.mean(1, keepdim=True)) / std(r)


def row_means(x, m):
    return ((x * m).sum(1) / m.sum(1)).mean()


def k3(p, ref):
    return (ref - p).expm1() + p - ref


def loss_with(reduce=row_means, kl=k3, sign=1.0, old=lambda p, q: q.detach(), surrogate=None):
    """grpo_loss with another mean, KL term or surrogate."""

    def clipped(ratio, a, e):
        return torch.minimum(ratio * a, ratio.clamp(1 - e, 1 + e) * a)

    def loss(p, q, ref, a, m, e, b):
        term = (surrogate or clipped)((p - old(p, q)).exp(), a.detach()[:, None], e)
        return reduce(sign * b * kl(p, ref.detach()) - term, m)

    return loss


GROUP_MUTANTS = {
    "strided groups": in_groups(lambda x: standardised(x.T).T, lambda r, g: r.view(g, -1)),
    "one group for all": lambda r, g: standardised(r[None])[0],
    "biased standard deviation": in_groups(
        lambda r: standardised(r, lambda r: r.std(1, correction=0, keepdim=True) + 1e-4)),
    "not divided": in_groups(lambda r: r - r.mean(1, keepdim=True)),
    "variance": in_groups(lambda r: standardised(r, lambda r: r.var(1, keepdim=True) + 1e-4)),
    "mean kept": in_groups(lambda r: r / (r.std(1, keepdim=True) + 1e-4)),
    "no ε, so 0/0": in_groups(lambda r: standardised(r, lambda r: r.std(1, keepdim=True))),
    "deviation of the batch": in_groups(lambda r: standardised(r, lambda r: r.std() + 1e-4)),
    "leave-one-out mean": lambda r, g: rloo_advantages(r, g) / (r.view(-1, g).std(1) + 1e-4).repeat_interleave(g),
    "sign": lambda r, g: -group_advantages(r, g),
    "median": in_groups(lambda r: (r - r.median(1, keepdim=True).values) / (r.std(1, keepdim=True) + 1e-4)),
}  # fmt: skip
RLOO_MUTANTS = {
    "own reward in the mean": in_groups(lambda r: r - r.mean(1, keepdim=True)),
    "strided groups": lambda r, g: rloo_advantages(r.view(g, -1).T.reshape(-1), g).view(-1, g).T.reshape(-1),
    "one group for all": lambda r, g: rloo_advantages(r, len(r)),
    "divided by G": in_groups(lambda r: r - (r.sum(1, keepdim=True) - r) / r.shape[1]),
    "scaled by the deviation": in_groups(lambda r: standardised(r) * r.shape[1] / (r.shape[1] - 1)),
    "sign": lambda r, g: -rloo_advantages(r, g),
}
LOSS_MUTANTS = {
    "token mean": loss_with(lambda x, m: x[m].mean()),
    "sum over tokens": loss_with(lambda x, m: (x * m).sum(1).mean()),
    "divided by the width": loss_with(lambda x, m: (x * m).mean()),
    "unmasked": loss_with(lambda x, m: x.mean()),
    "KL subtracted": loss_with(sign=-1.0),
    "k1": loss_with(kl=lambda p, ref: p - ref),
    "k2": loss_with(kl=lambda p, ref: (p - ref) ** 2 / 2),
    "k3 the other way round": loss_with(kl=lambda p, ref: (p - ref).expm1() - p + ref),
    "KL as data": loss_with(kl=lambda p, ref: k3(p.detach(), ref)),
    "KL without its weight": lambda p, q, ref, a, m, e, b: grpo_loss(p, q, ref, a, m, e, 1.0),
    "no KL": lambda p, q, ref, a, m, e, b: grpo_loss(p, q, ref, a, m, e, 0.0),
    "KL to the old policy": lambda p, q, ref, a, m, e, b: grpo_loss(p, q, q, a, m, e, b),
    "ratio to the reference": lambda p, q, ref, a, m, e, b: grpo_loss(p, ref, ref, a, m, e, b),
    "old is now": loss_with(old=lambda p, q: p.detach()),
    "old is trained": loss_with(old=lambda p, q: q),
    "reference is trained": lambda p, q, ref, a, m, e, b: (
        grpo_loss(p, q, ref, a, m, e, 0.0) + b * row_means(k3(p, ref), m)
    ),
    "not clipped": loss_with(surrogate=lambda r, a, e: r * a),
    "clipped term only": loss_with(surrogate=lambda r, a, e: r.clamp(1 - e, 1 + e) * a),
    "advantage split over the tokens": lambda p, q, ref, a, m, e, b: grpo_loss(p, q, ref, a / m.sum(1), m, e, b),
    "sign": lambda *args: -grpo_loss(*args),
}

test_contract, test_known_mistakes_are_told_apart = contract_tests([
    Entry(group_advantages, oracles.group_advantages, draw_groups, mutants=GROUP_MUTANTS,
          styles=(in_groups(standardised),)),
    Entry(rloo_advantages, oracles.rloo_advantages, draw_groups, mutants=RLOO_MUTANTS,
          styles=(in_groups(lambda r: (r - r.mean(1, keepdim=True)) * r.shape[1] / (r.shape[1] - 1)),)),
    Entry(grpo_loss, oracles.grpo_loss, draw_grpo, "loss", mask=4, masked=(0, 1, 2), trained=(0,), frozen=(1, 2, 3),
          rows="same", row_args=(0, 1, 2, 3, 4), mutants=LOSS_MUTANTS, styles=(loss_with(),)),
])  # fmt: skip


@pytest.mark.parametrize("function", [group_advantages, rloo_advantages])
def test_groups_are_independent_and_rows_within_move_along(function):
    rewards, size = draw_groups(Draw(0, rows=3))
    whole = function(rewards, size)
    torch.testing.assert_close(whole, torch.cat([function(part, size) for part in rewards.split(size)]))
    order = torch.tensor([2, 0, 3, 1, 8, 11, 10, 9, 4, 5, 7, 6])
    torch.testing.assert_close(function(rewards[order], size), whole[order])
    torch.testing.assert_close(function(rewards + 5, size), whole)
    assert whole.view(-1, size).sum(1).abs().max() < 1e-10


@pytest.mark.parametrize("value", [0.0, 1.0, -3.3, 7.7, 100.1, 1000.1])
@pytest.mark.parametrize("size", [2, 3, 7, 11, 16])
def test_equal_rewards_give_0(value, size):
    """Dust of float32 over ε would not be small: 100.1 eleven times gave 0.15."""
    assert group_advantages(torch.full((2 * size,), value), size).abs().max() < 1e-3
    assert rloo_advantages(torch.full((2 * size,), value), size).abs().max() < 1e-3


def test_known_groups():
    rewards = torch.tensor([1.0, 3.0, 0.0, 0.0])
    standard = torch.tensor([-1.0, 1.0, 0.0, 0.0]) / (2**0.5 + 1e-4)
    torch.testing.assert_close(group_advantages(rewards, 2), standard)
    assert rloo_advantages(rewards, 2).tolist() == [-2.0, 2.0, 0.0, 0.0]
    assert group_advantages(rewards, 1).tolist() == [0.0] * 4
    torch.testing.assert_close(group_advantages(rewards, 2, 1.0)[:2], torch.tensor([-1.0, 1.0]) / (2**0.5 + 1))


def test_leave_one_out_keeps_the_policy_gradient_unbiased_and_the_group_mean_shrinks_it():
    """Exact expectation over all groups of three answers out of four: Σ π(group) mean_i A_i ∇log π(y_i) = ∇E[r]."""
    logits, rewards = Draw(1).normal(4).requires_grad_(), Draw(2).normal(4)
    log_p = logits.log_softmax(-1)

    def gradient(total):
        return torch.autograd.grad(total, logits, retain_graph=True)[0]

    exact = gradient((log_p.exp() * rewards).sum())
    groups = torch.tensor(list(itertools.product(range(4), repeat=3)))
    weight = log_p.detach()[groups].sum(1).exp()
    advantages = rloo_advantages(rewards[groups].reshape(-1), 3).view(-1, 3)
    torch.testing.assert_close(gradient((weight[:, None] * advantages * log_p[groups]).sum() / 3), exact)
    centered = rewards[groups] - rewards[groups].mean(1, keepdim=True)
    torch.testing.assert_close(gradient((weight[:, None] * centered * log_p[groups]).sum() / 3), exact * 2 / 3)


def test_every_response_counts_alike_whatever_its_length():
    p, q, ref, a, m, e, b = draw_grpo(Draw(3))
    rows = [grpo_loss(*(x[i : i + 1] for x in (p, q, ref, a, m)), e, b) for i in range(len(m))]
    torch.testing.assert_close(grpo_loss(p, q, ref, a, m, e, b), torch.stack(rows).mean())


def test_without_kl_and_at_equal_lengths_it_is_the_loss_of_ppo():
    p, q, ref, a, m, e, _ = draw_grpo(Draw(4))
    m = torch.ones_like(m)
    torch.testing.assert_close(
        grpo_loss(p, q, ref, a, m, e, 0.0), clipped_policy_loss(p, q, a[:, None].expand_as(p), m, e)
    )


def test_extreme_ratio_does_not_poison_the_gradient():
    logprobs = torch.tensor([[100.0]], requires_grad=True)
    loss = grpo_loss(logprobs, torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1), torch.ones(1, 1).bool(), 0.2, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(0.1 * 99 - 1.2) and logprobs.grad.item() == pytest.approx(0.1)


Z, T = torch.zeros(2, 3), torch.ones(2, 3).bool()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: group_advantages(torch.zeros(5), 2), "group_size"),
        (lambda: group_advantages(torch.zeros(4), 0), "group_size"),
        (lambda: group_advantages(torch.zeros(2, 2), 2), "rewards"),
        (lambda: rloo_advantages(torch.zeros(5), 2), "group_size"),
        (lambda: rloo_advantages(torch.zeros(4), 1), "group_size"),
        (lambda: rloo_advantages(torch.zeros(2, 2), 2), "rewards"),
        (lambda: grpo_loss(Z, Z, Z, torch.zeros(2, 3), T, 0.2, 0.1), "advantages"),
        (lambda: grpo_loss(Z, Z, Z, torch.zeros(3), T, 0.2, 0.1), "advantages"),
        (lambda: grpo_loss(Z, Z, Z[:, :2], torch.zeros(2), T, 0.2, 0.1), "ref_logprobs"),
        (lambda: grpo_loss(Z, Z, Z, torch.zeros(2), T, 0.0, 0.1), "clip_range"),
        (lambda: grpo_loss(Z, Z, Z, torch.zeros(2), T, 0.2, -0.1), "kl_coef"),
        (lambda: grpo_loss(Z, Z, Z, torch.zeros(2), T.long(), 0.2, 0.1), "mask"),
        (lambda: grpo_loss(Z, Z, Z, torch.zeros(2), torch.tensor([[True] * 3, [False] * 3]), 0.2, 0.1), "mask"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
