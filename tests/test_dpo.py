"""Lesson 07: sequence log-probabilities, DPO, implicit rewards and IPO."""

from __future__ import annotations

import math

import oracles
import pytest
import torch
import torch.nn.functional as F
from cases import Draw, Entry, contract_tests

from rlhf_core.dpo import dpo_loss, implicit_rewards, ipo_loss, sequence_logprobs


def draw_pairs(draw: Draw, *more: float) -> tuple:
    """Sequence log-probabilities of policy and reference, of which the chosen ones are not always the likelier."""
    return *(draw.normal(draw.rows, scale=2.0) - 5.0 for _ in range(4)), *more


def on_gap(loss, gap=lambda pc, pr, rc, rr: (pc - pr) - (rc - rr).detach()):
    """A loss of the log-ratio gap; extra arguments (β, ε) follow."""
    return lambda pc, pr, rc, rr, *more: loss(gap(pc, pr, rc, rr), *more)


def smoothed(h, e):
    return -(1 - e) * F.logsigmoid(h) - e * F.logsigmoid(-h)


SEQUENCE_MUTANTS = {
    "mean": lambda x, m: torch.where(m, x, 0.0).sum(1) / m.sum(1),
    "mean over the width": lambda x, m: torch.where(m, x, 0.0).mean(1),
    "unmasked": lambda x, m: x.sum(1),
    "probability": lambda x, m: torch.where(m, x, 0.0).sum(1).exp(),
    "over rows": lambda x, m: torch.where(m, x, 0.0).sum(0),
    "last token": lambda x, m: x[torch.arange(len(x)), m.shape[1] - 1 - m.flip(1).int().argmax(1)],
}
DPO_MUTANTS = {
    "no reference": on_gap(lambda g, b, e: smoothed(b * g, e).mean(), lambda pc, pr, rc, rr: pc - pr),
    "reference added": on_gap(
        lambda g, b, e: smoothed(b * g, e).mean(), lambda pc, pr, rc, rr: pc - pr + (rc - rr).detach()),
    "chosen and rejected exchanged": lambda pc, pr, rc, rr, b, e: dpo_loss(pr, pc, rr, rc, b, e),
    "reference exchanged": lambda pc, pr, rc, rr, b, e: dpo_loss(pc, pr, rr, rc, b, e),
    "reference is trained": on_gap(
        lambda g, b, e: smoothed(b * g, e).mean(), lambda pc, pr, rc, rr: pc - pr - (rc - rr)),
    "β outside": on_gap(lambda g, b, e: b * smoothed(g, e).mean()),
    "β divides": on_gap(lambda g, b, e: smoothed(g / b, e).mean()),
    "no β": on_gap(lambda g, b, e: smoothed(g, e).mean()),
    "sign": on_gap(lambda g, b, e: -smoothed(b * g, e).mean()),
    "no logarithm": on_gap(lambda g, b, e: -torch.sigmoid(b * g).mean()),
    "loss of the mean": on_gap(lambda g, b, e: smoothed((b * g).mean(), e)),
    "sum over pairs": on_gap(lambda g, b, e: smoothed(b * g, e).sum()),
    "no smoothing": on_gap(lambda g, b, e: smoothed(b * g, 0.0).mean()),
    "smoothing the wrong way round": on_gap(lambda g, b, e: smoothed(b * g, 1 - e).mean()),
    "robust": on_gap(
        lambda g, b, e: ((-(1 - e) * F.logsigmoid(b * g) + e * F.logsigmoid(-b * g)) / (1 - 2 * e)).mean()),
    "hinge": on_gap(lambda g, b, e: (1 - b * g).relu().mean()),
}  # fmt: skip
IPO_MUTANTS = {
    "target 1/β": on_gap(lambda g, b: (g - 1 / b).square().mean()),
    "target β/2": on_gap(lambda g, b: (g - b / 2).square().mean()),
    "β h − ½": on_gap(lambda g, b: (b * g - 0.5).square().mean()),
    "half of the square": on_gap(lambda g, b: (g - 1 / (2 * b)).square().mean() / 2),
    "target added": on_gap(lambda g, b: (g + 1 / (2 * b)).square().mean()),
    "no reference": on_gap(lambda g, b: (g - 1 / (2 * b)).square().mean(), lambda pc, pr, rc, rr: pc - pr),
    "reference is trained": on_gap(
        lambda g, b: (g - 1 / (2 * b)).square().mean(), lambda pc, pr, rc, rr: pc - pr - (rc - rr)),
    "square of the mean": on_gap(lambda g, b: (g - 1 / (2 * b)).mean().square()),
    "sum over pairs": on_gap(lambda g, b: (g - 1 / (2 * b)).square().sum()),
}  # fmt: skip

test_contract, test_known_mistakes_are_told_apart = contract_tests([
    Entry(sequence_logprobs, oracles.sequence_logprobs, lambda d: (d.tokens() - 2.0, d.mask()), mask=1, masked=(0,),
          trained=(0,), rows="along", row_args=(0, 1), mutants=SEQUENCE_MUTANTS),
    Entry(dpo_loss, oracles.dpo_loss, lambda d: draw_pairs(d, 0.3, 0.15), "loss", trained=(0, 1), frozen=(2, 3),
          rows="same", row_args=(0, 1, 2, 3), mutants=DPO_MUTANTS, styles=(
              on_gap(lambda g, b, e: F.binary_cross_entropy_with_logits(b * g, torch.full_like(g, 1 - e))),
              on_gap(lambda g, b, e: smoothed(b * g, e).mean(),
                     lambda pc, pr, rc, rr: pc - rc.detach() - (pr - rr.detach())),
          )),
    Entry(implicit_rewards, oracles.implicit_rewards, lambda d: (*draw_pairs(d)[:2], 0.3), rows="along",
          row_args=(0, 1), mutants={
              "sign": lambda p, q, b: b * (q - p),
              "β divides": lambda p, q, b: (p - q) / b,
              "no β": lambda p, q, b: p - q,
              "no reference": lambda p, q, b: b * p,
              "ratio of probabilities": lambda p, q, b: b * (p - q).exp(),
          }),
    Entry(ipo_loss, oracles.ipo_loss, lambda d: draw_pairs(d, 0.4), "loss", trained=(0, 1), frozen=(2, 3), rows="same",
          row_args=(0, 1, 2, 3), mutants=IPO_MUTANTS),
])  # fmt: skip


def test_dpo_of_a_policy_that_is_its_reference():
    c, r = Draw(0).normal(4), Draw(1).normal(4)
    assert dpo_loss(c, r, c, r, 0.1).item() == pytest.approx(math.log(2))
    assert dpo_loss(c, r, c, r, 0.1, 0.2).item() == pytest.approx(math.log(2))
    assert ipo_loss(c, r, c, r, 0.1).item() == pytest.approx(25.0)


def test_no_smoothing_is_the_default():
    pairs = draw_pairs(Draw(2), 0.3)
    assert dpo_loss(*pairs) == dpo_loss(*pairs, 0.0)


@pytest.mark.parametrize("gap", [1e4, -1e4])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_gaps_have_finite_loss_and_gradient(gap, smoothing):
    chosen = torch.tensor([gap], requires_grad=True)
    zero = torch.zeros(1)
    loss = dpo_loss(chosen, zero, zero, zero, 1.0, smoothing)
    loss.backward()
    assert loss.item() == pytest.approx((1 - smoothing) * max(-gap, 0.0) + smoothing * max(gap, 0.0))
    assert chosen.grad.item() == pytest.approx(smoothing if gap > 0 else smoothing - 1)


def test_the_optimal_policy_of_rlhf_is_stationary_for_dpo():
    """π* ∝ π_ref exp(r/β), preferences drawn from Bradley–Terry on r: the exact expected DPO loss has no gradient."""
    beta, rewards, reference = 0.5, Draw(3).normal(4), Draw(4).normal(4).log_softmax(-1)
    logits = (reference + rewards / beta).requires_grad_()
    policy = logits.log_softmax(-1)
    better = torch.sigmoid(rewards[:, None] - rewards)
    expected = sum(
        better[i, j] * dpo_loss(policy[i, None], policy[j, None], reference[i, None], reference[j, None], beta)
        for i in range(4)
        for j in range(4)
        if i != j
    )
    assert torch.autograd.grad(expected, logits)[0].abs().max() < 1e-12
    implied = implicit_rewards(policy, reference, beta)
    torch.testing.assert_close(implied - implied[0], rewards - rewards[0])


def test_ipo_pulls_the_gap_to_its_target_from_both_sides():
    zero = torch.zeros(1)
    for gap, slope in ((0.0, -10.0), (5.0, 0.0), (7.0, 4.0)):
        chosen = torch.tensor([gap], requires_grad=True)
        ipo_loss(chosen, zero, zero, zero, 0.1).backward()
        assert chosen.grad.item() == pytest.approx(slope)


def test_implicit_rewards_carry_no_graph():
    policy, reference = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    assert not implicit_rewards(policy, reference, 0.1).requires_grad


def test_an_empty_response_has_log_probability_0():
    assert sequence_logprobs(torch.full((1, 2), math.nan), torch.zeros(1, 2, dtype=torch.bool)).tolist() == [0.0]


Z = torch.zeros(3)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: sequence_logprobs(torch.zeros(2, 3), torch.ones(2, 2).bool()), "mask"),
        (lambda: sequence_logprobs(torch.zeros(2, 3), torch.ones(2, 3).long()), "mask"),
        (lambda: sequence_logprobs(torch.zeros(3), torch.ones(3).bool()), "token_logprobs|mask"),
        (lambda: dpo_loss(Z, Z[:2], Z, Z, 0.1), "policy_rejected"),
        (lambda: dpo_loss(Z[:, None], Z, Z, Z, 0.1), "policy_chosen"),
        (lambda: dpo_loss(Z, Z, Z, Z, 0.0), "beta"),
        (lambda: dpo_loss(Z, Z, Z, Z, 0.1, -0.1), "label_smoothing"),
        (lambda: dpo_loss(Z, Z, Z, Z, 0.1, 1.0), "label_smoothing"),
        (lambda: dpo_loss(Z[:0], Z[:0], Z[:0], Z[:0], 0.1), "policy_chosen"),
        (lambda: implicit_rewards(Z, Z[:2], 0.1), "ref"),
        (lambda: implicit_rewards(Z, Z, -1.0), "beta"),
        (lambda: ipo_loss(Z, Z, Z[:2], Z, 0.1), "ref_chosen"),
        (lambda: ipo_loss(Z, Z, Z, Z, 0.0), "beta"),
        (lambda: ipo_loss(Z[:0], Z[:0], Z[:0], Z[:0], 0.1), "policy_chosen"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
