"""Lesson 04: the clipped losses of PPO and the numbers that watch over them."""

from __future__ import annotations

import math

import oracles
import pytest
import torch
from cases import Draw, Entry, contract_tests

from rlhf_core.ppo import approx_kl, clip_fraction, clipped_policy_loss, clipped_value_loss, ppo_loss


def draw_policy(draw: Draw) -> tuple:
    """Log-ratios of order ½ with both signs of A: all four combinations of clipped and not, inside and outside."""
    old = draw.tokens() - 2.0
    return old + draw.tokens(0.5), old, draw.tokens(), draw.mask(), 0.2


def draw_values(draw: Draw) -> tuple:
    old = draw.tokens()
    return old + draw.tokens(0.5), old, old + draw.tokens(), draw.mask(), 0.3


def surrogate(term, reduce=lambda x, m: x[m].mean(), ratio=lambda p, q: (p - q.detach()).exp()):
    """clipped_policy_loss with another term per token, another mean or another ratio."""
    return lambda p, q, a, m, e: reduce(-term(ratio(p, q).masked_fill(~m, 1.0), a.detach().masked_fill(~m, 0.0), e), m)


def ppo_term(ratio, a, e):
    return torch.minimum(ratio * a, ratio.clamp(1 - e, 1 + e) * a)


def counted(rule):
    """clip_fraction with another rule."""
    return lambda p, q, a, m, e: rule((p - q).exp(), a, e)[m].double().mean().item()


def value_term(term, reduce=lambda x, m: x[m].mean()):
    """clipped_value_loss with another error per token."""
    return lambda v, o, r, m, e: 0.5 * reduce(term(v, o.detach(), r.detach(), e), m)


def near(v, o, e):
    return o + (v - o).clamp(-e, e)


def row_means(x, m):
    return ((x * m).sum(1) / m.sum(1)).mean()


POLICY_MUTANTS = {
    "clipped term only": surrogate(lambda r, a, e: r.clamp(1 - e, 1 + e) * a),
    "not clipped": surrogate(lambda r, a, e: r * a),
    "maximum": surrogate(lambda r, a, e: torch.maximum(r * a, r.clamp(1 - e, 1 + e) * a)),
    "minimum before the advantage": surrogate(lambda r, a, e: torch.minimum(r, r.clamp(1 - e, 1 + e)) * a),
    "log-ratio clipped": surrogate(lambda r, a, e: torch.minimum(r * a, r.log().clamp(-e, e).exp() * a)),
    "ratio upside down": surrogate(ppo_term, ratio=lambda p, q: (q.detach() - p).exp()),
    "ratio of log-probabilities": surrogate(ppo_term, ratio=lambda p, q: p / q.detach()),
    "no exponential": surrogate(ppo_term, ratio=lambda p, q: p - q.detach()),
    "old is now": surrogate(ppo_term, ratio=lambda p, q: (p - p.detach()).exp()),
    "old is trained": surrogate(ppo_term, ratio=lambda p, q: (p - q).exp()),
    "sign": surrogate(lambda r, a, e: -ppo_term(r, a, e)),
    "masking is zeroing": surrogate(ppo_term, lambda x, m: (x * m).mean()),
    "mean of row means": surrogate(ppo_term, row_means),
    "sum": surrogate(ppo_term, lambda x, m: x[m].sum()),
    "second clip for A < 0": surrogate(
        lambda r, a, e: torch.where(a < 0, torch.maximum(ppo_term(r, a, e), 1.5 * a), ppo_term(r, a, e))),
    "advantages are trained": lambda p, q, a, m, e: -torch.minimum(
        ((p - q.detach()).exp() * a)[m], ((p - q.detach()).exp().clamp(1 - e, 1 + e) * a)[m]).mean(),
    "ratio of the sequence": lambda p, q, a, m, e: -ppo_term(
        ((p - q.detach()) * m).sum(1, keepdim=True).exp().expand_as(p), a.detach(), e)[m].mean(),
}  # fmt: skip
FRACTION_MUTANTS = {
    "whatever the sign of A": counted(lambda r, a, e: (r - 1).abs() > e),
    "signs exchanged": counted(lambda r, a, e: ((r > 1 + e) & (a < 0)) | ((r < 1 - e) & (a > 0))),
    "above only": counted(lambda r, a, e: (r > 1 + e) & (a > 0)),
    "below only": counted(lambda r, a, e: (r < 1 - e) & (a < 0)),
    "the clipped ratio against the bound": counted(lambda r, a, e: (r.clamp(1 - e, 1 + e) - 1).abs() > e + 1e-9),
    "in log space": counted(lambda r, a, e: ((r.log() > e) & (a > 0)) | ((r.log() < -e) & (a < 0))),
    "unmasked": lambda p, q, a, m, e: clip_fraction(p, q, a, torch.ones_like(m), e),
    "share that is not clipped": lambda *args: 1 - clip_fraction(*args),
    "count": lambda p, q, a, m, e: clip_fraction(p, q, a, m, e) * m.sum().item(),
}
KL_MUTANTS = {
    "k1": lambda p, q, m: (q - p)[m].mean().item(),
    "k2": lambda p, q, m: (p - q).square()[m].mean().item() / 2,
    "roles exchanged": lambda p, q, m: approx_kl(q, p, m),
    "unmasked": lambda p, q, m: approx_kl(p, q, torch.ones_like(m)),
    "diluted by padding": lambda p, q, m: approx_kl(p, q, m) * m.double().mean().item(),
    "sum over tokens": lambda p, q, m: approx_kl(p, q, m) * m.sum().item() / len(m),
    "mean of row means": lambda p, q, m: row_means((p - q).expm1() - (p - q), m).item(),
}
VALUE_MUTANTS = {
    "minimum": value_term(lambda v, o, r, e: torch.minimum((v - r) ** 2, (near(v, o, e) - r) ** 2)),
    "clipped around the return": value_term(lambda v, o, r, e: torch.maximum((v - r) ** 2, (near(v, r, e) - r) ** 2)),
    "ε as a factor": value_term(
        lambda v, o, r, e: torch.maximum((v - r) ** 2, (o + (v - o).clamp(-(e * o).abs(), (e * o).abs()) - r) ** 2)),
    "maximum before the square": value_term(lambda v, o, r, e: torch.maximum(v - r, near(v, o, e) - r) ** 2),
    "clipped only": value_term(lambda v, o, r, e: (near(v, o, e) - r) ** 2),
    "not clipped": value_term(lambda v, o, r, e: (v - r) ** 2),
    "no half": lambda *args: 2 * clipped_value_loss(*args),
    "old is now": value_term(lambda v, o, r, e: torch.maximum((v - r) ** 2, (near(v, v.detach(), e) - r) ** 2)),
    "absolute error": value_term(lambda v, o, r, e: torch.maximum((v - r).abs(), (near(v, o, e) - r).abs())),
    "masking is zeroing": value_term(
        lambda v, o, r, e: torch.maximum((v - r) ** 2, (near(v, o, e) - r) ** 2), lambda x, m: (x * m).mean()),
    "mean of row means": value_term(
        lambda v, o, r, e: torch.maximum((v - r) ** 2, (near(v, o, e) - r) ** 2), row_means),
    "returns are trained": lambda v, o, r, m, e: 0.5 * torch.maximum(
        (v - r) ** 2, (near(v, o.detach(), e) - r) ** 2)[m].mean(),
}  # fmt: skip

test_contract, test_known_mistakes_are_told_apart = contract_tests([
    Entry(clipped_policy_loss, oracles.clipped_policy_loss, draw_policy, "loss", mask=3, masked=(0, 1, 2), trained=(0,),
          frozen=(1, 2), rows="same", row_args=(0, 1, 2, 3), mutants=POLICY_MUTANTS, styles=(
              surrogate(ppo_term),
              surrogate(lambda r, a, e: torch.where(a > 0, r.clamp(max=1 + e) * a, r.clamp(min=1 - e) * a)),
          )),
    Entry(clip_fraction, oracles.clip_fraction, draw_policy, "float", mask=3, masked=(0, 1, 2), rows="same",
          row_args=(0, 1, 2, 3), mutants=FRACTION_MUTANTS,
          styles=(counted(lambda r, a, e: r.clamp(1 - e, 1 + e) * a < r * a),)),
    Entry(approx_kl, oracles.approx_kl, lambda d: draw_policy(d)[:2] + (d.mask(),), "float", mask=2, masked=(0, 1),
          rows="same", row_args=(0, 1, 2), mutants=KL_MUTANTS),
    Entry(clipped_value_loss, oracles.clipped_value_loss, draw_values, "loss", mask=3, masked=(0, 1, 2), trained=(0,),
          frozen=(1, 2), rows="same", row_args=(0, 1, 2, 3), mutants=VALUE_MUTANTS, styles=(
              value_term(lambda v, o, r, e: torch.maximum((v - r) ** 2, (near(v, o, e) - r) ** 2)),
          )),
    Entry(ppo_loss, oracles.ppo_loss, lambda d: (*d.normal(3), 0.3, 0.2), "loss", trained=(0, 1, 2), mutants={
        "entropy added": lambda p, v, h, c, e: p + c * v + e * h,
        "value subtracted": lambda p, v, h, c, e: p - c * v - e * h,
        "coefficients swapped": lambda p, v, h, c, e: ppo_loss(p, v, h, e, c),
        "no entropy": lambda p, v, h, c, e: p + c * v,
        "half of the value loss": lambda p, v, h, c, e: p + c * v / 2 - e * h,
        "entropy as data": lambda p, v, h, c, e: ppo_loss(p, v, h.detach(), c, e),
    }),
])  # fmt: skip

ONE = torch.ones(1, 1, dtype=torch.bool)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "cut"),
    [  # ε = 0.2; slope with respect to the log-probability
        (1.5, 1.0, -1.2, 0.0, 1.0),
        (1.5, -1.0, 1.5, 1.5, 0.0),
        (0.5, 1.0, -0.5, -0.5, 0.0),
        (0.5, -1.0, 0.8, 0.0, 1.0),
        (1.1, 2.0, -2.2, -2.2, 0.0),
        (1.5, 0.0, 0.0, 0.0, 0.0),
        (0.5, 0.0, 0.0, 0.0, 0.0),
        (1.0, -3.0, 3.0, 3.0, 0.0),
    ],
)
def test_every_case_of_the_clip(ratio, advantage, loss, slope, cut):
    logprobs = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    old, advantages = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([[advantage]], dtype=torch.float64)
    result = clipped_policy_loss(logprobs, old, advantages, ONE, 0.2)
    result.backward()
    assert (result.item(), logprobs.grad.item()) == pytest.approx((loss, slope))
    assert clip_fraction(logprobs, old, advantages, ONE, 0.2) == cut


def test_before_the_first_step_the_gradient_is_the_policy_gradient():
    """Ratio 1: nothing is clipped, and the gradient is −A per token over their number."""
    logprobs, _, advantages, mask, clip_range = draw_policy(Draw(0))
    leaf = logprobs.clone().requires_grad_()
    clipped_policy_loss(leaf, logprobs, advantages, mask, clip_range).backward()
    torch.testing.assert_close(leaf.grad, torch.where(mask, -advantages / mask.sum(), 0.0))
    assert clip_fraction(logprobs, logprobs, advantages, mask, clip_range) == 0.0
    assert approx_kl(logprobs, logprobs, mask) == 0.0


def test_expected_gradient_is_that_of_the_importance_sampled_objective():
    """Wide clip, by enumeration: samples from π_old, E_old[ρ A] = E_π[A], so the gradient is ∇E_π[A]."""
    logits, old_logits, advantages = (Draw(seed).normal(5) for seed in (1, 2, 3))
    logits.requires_grad_()
    p, q = logits.log_softmax(-1), old_logits.log_softmax(-1)
    per_action = [
        clipped_policy_loss(p[a].view(1, 1), q[a].view(1, 1), advantages[a].view(1, 1), ONE, 1e3) for a in range(5)
    ]
    surrogate_loss = sum(q[a].exp() * loss for a, loss in enumerate(per_action))
    torch.testing.assert_close(
        torch.autograd.grad(surrogate_loss, logits, retain_graph=True)[0],
        torch.autograd.grad(-(p.exp() * advantages).sum(), logits)[0],
    )


def test_approx_kl_has_the_kl_as_expectation():
    p, q = (Draw(seed).normal(5).log_softmax(-1) for seed in (4, 5))
    each = torch.tensor([approx_kl(p[a].view(1, 1), q[a].view(1, 1), ONE) for a in range(5)], dtype=torch.float64)
    torch.testing.assert_close((q.exp() * each).sum(), (q.exp() * (q - p)).sum())
    assert each.min() >= 0


def test_the_loss_scales_with_advantages_and_the_fraction_does_not():
    p, q, a, m, e = draw_policy(Draw(6))
    torch.testing.assert_close(clipped_policy_loss(p, q, 3 * a, m, e), 3 * clipped_policy_loss(p, q, a, m, e))
    assert clip_fraction(p, q, 3 * a, m, e) == clip_fraction(p, q, a, m, e)
    torch.testing.assert_close(clipped_policy_loss(p - 5, q - 5, a, m, e), clipped_policy_loss(p, q, a, m, e))


def test_a_wide_range_clips_no_value():
    v, o, r, m, _ = draw_values(Draw(7))
    torch.testing.assert_close(clipped_value_loss(v, o, r, m, 1e6), (v - r)[m].square().mean() / 2)
    torch.testing.assert_close(
        clipped_value_loss(10 * v, 10 * o, 10 * r, m, 3.0), 100 * clipped_value_loss(v, o, r, m, 0.3)
    )


@pytest.mark.parametrize(("value", "slope"), [(0.1, -0.9), (0.5, -0.5), (-0.5, -1.5), (2.5, 1.5)])
def test_value_gradient(value, slope):
    """V_old = 0, R = 1, ε = 0.2. Where the clipped error is larger, the gradient is 0: at V = 0.5 it is."""
    leaf = torch.tensor([[value]], requires_grad=True)
    clipped_value_loss(leaf, torch.zeros(1, 1), torch.ones(1, 1), ONE, 0.2).backward()
    clipped_wins = abs(max(min(value, 0.2), -0.2) - 1) > abs(value - 1)
    assert leaf.grad.item() == pytest.approx(0.0 if clipped_wins else slope)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_ratio", [100.0, 1e4, -1e4])
@pytest.mark.parametrize("advantage", [1.0, 0.0])
def test_extreme_ratios_do_not_poison_the_gradient(dtype, log_ratio, advantage):
    logprobs = torch.tensor([[log_ratio]], dtype=dtype, requires_grad=True)
    old, advantages = torch.zeros(1, 1, dtype=dtype), torch.full((1, 1), advantage, dtype=dtype)
    loss = clipped_policy_loss(logprobs, old, advantages, ONE, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(-1.2 * advantage if log_ratio > 0 else 0.0)
    assert logprobs.grad.item() == 0.0


def test_metrics_take_tensors_with_a_graph():
    p, q, a, m, e = draw_policy(Draw(8))
    assert clip_fraction(p.requires_grad_(), q, a, m, e) == clip_fraction(p.detach(), q, a, m, e)
    assert approx_kl(p, q, m) == approx_kl(p.detach(), q, m)


T, Z = torch.ones(2, 3).bool(), torch.zeros(2, 3)


@pytest.mark.parametrize("function", [clipped_policy_loss, clip_fraction, clipped_value_loss])
@pytest.mark.parametrize(
    ("args", "named"),
    [
        ((Z, Z, Z, T, 0.0), "clip_range"),
        ((Z, Z, Z, T, -0.2), "clip_range"),
        ((Z, Z, Z, ~T, 0.2), "mask"),
        ((Z, Z, Z, T.long(), 0.2), "mask"),
        ((Z, Z, Z, T.float(), 0.2), "mask"),
        ((Z, Z, Z, T[0], 0.2), "mask"),
        ((Z, Z[:, :2], Z, T, 0.2), "old_"),
        ((Z, Z, Z[:, 0], T, 0.2), "advantages|returns"),
    ],
)
def test_bad_input_is_named(function, args, named):
    with pytest.raises(ValueError, match=named):
        function(*args)


@pytest.mark.parametrize(
    ("args", "named"), [((Z, Z[0], T), "old_logprobs"), ((Z, Z, ~T), "mask"), ((Z, Z, T.long()), "mask")]
)
def test_bad_input_of_approx_kl_is_named(args, named):
    with pytest.raises(ValueError, match=named):
        approx_kl(*args)
