"""Lesson 02: the scalar head, the pairwise loss, accuracy and calibration of a reward model."""

from __future__ import annotations

import math

import oracles
import pytest
import torch
import torch.nn.functional as F
from cases import Draw, Entry, contract_tests

from rlhf_core.reward import calibration_error, last_token_index, pairwise_accuracy, pairwise_loss, sequence_scores

WIDTH = 3


def draw_scores(draw: Draw) -> tuple:
    return (
        draw.normal(draw.rows, draw.time, WIDTH), draw.normal(WIDTH), draw.normal(1)[0], draw.mask()
    )  # fmt: skip


def draw_ranks(draw: Draw) -> tuple:
    """Scores with ties."""
    return draw.integers(0, 3, draw.rows + 3).double(), draw.integers(0, 3, draw.rows + 3).double()


def draw_forecasts(draw: Draw) -> tuple:
    """Probabilities on and between the edges of 8 bins, 0 and 1 among them; eighths are exact in every dtype."""
    points = 5 * draw.time
    probabilities = draw.integers(0, 17, points).double() / 16
    probabilities[:2] = torch.tensor([0.0, 1.0])
    return probabilities, draw.integers(0, 2, points), 8


def binned(weight=lambda inside, n: inside / n, error=lambda p, y: abs(p - y), right=True, edges=8):
    """calibration_error with another weight, error or border."""

    def rate(probabilities, outcomes, num_bins):
        bins = torch.bucketize(probabilities, torch.arange(1, edges) / edges, right=right)
        total = 0.0
        for k in bins.unique():
            p, y = probabilities[bins == k], outcomes[bins == k].double()
            total += weight(len(p), len(probabilities)) * error(p.mean().item(), y.mean().item())
        return total

    return rate


def ranking(term):
    """pairwise_loss with another loss of the gap."""
    return lambda c, r, m, k: term(c - r, m).mean() + k * (c + r).square().mean()


test_contract, test_known_mistakes_are_told_apart = contract_tests([
    Entry(last_token_index, oracles.last_token_index, lambda d: (d.mask(),), rows="along", row_args=(0,), mutants={
        "count minus one": lambda m: m.sum(1) - 1,
        "last column": lambda m: torch.full((len(m),), m.shape[1] - 1),
        "first False minus one": lambda m: (~m).int().argmax(1) - 1,
        "first True": lambda m: m.int().argmax(1),
        "one end for all": lambda m: torch.full((len(m),), int(m.any(0).nonzero()[-1])),
    }),
    Entry(sequence_scores, oracles.sequence_scores, draw_scores, mask=3, masked=(0,), trained=(0, 1, 2), rows="along",
          row_args=(0, 3), mutants={
              "last column": lambda h, w, b, m: h[:, -1] @ w + b,
              "mean over tokens": lambda h, w, b, m: (h * m[..., None]).sum(1) / m.sum(1, keepdim=True) @ w + b,
              "count minus one": lambda h, w, b, m: h[torch.arange(len(h)), m.sum(1) - 1] @ w + b,
              "no bias": lambda h, w, b, m: h[torch.arange(len(h)), last_token_index(m)] @ w,
              "sum over tokens": lambda h, w, b, m: ((h @ w + b) * m).sum(1),
          }),
    Entry(pairwise_loss, oracles.pairwise_loss,
          lambda d: (d.normal(d.rows, scale=2.0), d.normal(d.rows, scale=2.0), d.normal(d.rows).abs(), 0.3), "loss",
          trained=(0, 1), frozen=(2,), rows="same", row_args=(0, 1, 2),
          styles=(ranking(lambda gap, m: F.softplus(m.detach() - gap)),), mutants={
              "margin added": ranking(lambda gap, m: -F.logsigmoid(gap + m)),
              "margin ignored": ranking(lambda gap, m: -F.logsigmoid(gap)),
              "margin is trained": ranking(lambda gap, m: -F.logsigmoid(gap - m)),
              "sign": ranking(lambda gap, m: F.logsigmoid(gap - m.detach())),
              "rejected above chosen": ranking(lambda gap, m: -F.logsigmoid(-gap - m.detach())),
              "no logarithm": ranking(lambda gap, m: -torch.sigmoid(gap - m.detach())),
              "hinge": ranking(lambda gap, m: (1 - gap + m.detach()).relu()),
              "loss of the mean gap": lambda c, r, m, k: pairwise_loss(c, r, m, k) * 0
              - F.logsigmoid((c - r - m.detach()).mean()) + k * (c + r).square().mean(),
              "all pairs": lambda c, r, m, k: pairwise_loss(c, r, m, k) * 0
              - F.logsigmoid(c[:, None] - r - m.detach()).mean() + k * (c + r).square().mean(),
              "sum": lambda c, r, m, k: pairwise_loss(c, r, m, k) * len(c),
              "no centering": lambda c, r, m, k: pairwise_loss(c, r, m),
              "centering the difference": lambda c, r, m, k: pairwise_loss(c, r, m) + k * (c - r).square().mean(),
              "centering the mean": lambda c, r, m, k: pairwise_loss(c, r, m) + k * ((c + r) / 2).square().mean(),
              "centering as data": lambda c, r, m, k: pairwise_loss(c, r, m) + k * (c + r).detach().square().mean(),
          }),
    Entry(pairwise_accuracy, oracles.pairwise_accuracy, draw_ranks, "float", rows="same", row_args=(0, 1), mutants={
        "ties are wrong": lambda c, r: (c > r).double().mean().item(),
        "ties are right": lambda c, r: (c >= r).double().mean().item(),
        "ties are dropped": lambda c, r: ((c > r).sum() / (c != r).sum()).item(),
        "the wrong way round": lambda c, r: 1 - pairwise_accuracy(c, r),
        "per cent": lambda c, r: 100 * pairwise_accuracy(c, r),
    }),
    Entry(calibration_error, oracles.calibration_error, draw_forecasts, "float", rows="same", row_args=(0, 1),
          styles=(binned(),), mutants={
        "bins count alike": binned(weight=lambda inside, n: 1 / 8),
        "signed": binned(error=lambda p, y: p - y),
        "squared": binned(error=lambda p, y: (p - y) ** 2),
        "bins closed above": binned(right=False),
        "ten bins always": binned(edges=10),
        "one bin": binned(edges=1),
        "per point": lambda p, y, n: (p - y).abs().mean().item(),
        "1 in a bin of its own": lambda p, y, n: calibration_error(p[p < 1], y[p < 1], n),
    }),
])  # fmt: skip


@pytest.mark.parametrize(
    ("row", "expected"), [("110", 1), ("011", 2), ("111", 2), ("010", 1), ("100", 0), ("001", 2), ("1", 0)]
)
def test_last_token_of_left_and_right_padded_rows(row, expected):
    index = last_token_index(torch.tensor([[c == "1" for c in row]]))
    assert index.tolist() == [expected] and index.dtype == torch.int64


def test_loss_without_options_is_the_plain_one():
    chosen, rejected = Draw(0).normal(6), Draw(1).normal(6)
    plain = pairwise_loss(chosen, rejected)
    torch.testing.assert_close(plain, -F.logsigmoid(chosen - rejected).mean())
    assert plain == pairwise_loss(chosen, rejected, None, 0.0) == pairwise_loss(chosen, rejected, 0.0)
    torch.testing.assert_close(
        pairwise_loss(chosen, rejected, 0.5), pairwise_loss(chosen, rejected, torch.full((6,), 0.5))
    )


def test_loss_is_log_2_without_a_gap_and_ignores_a_common_shift():
    chosen, rejected = Draw(2).normal(5), Draw(3).normal(5)
    assert pairwise_loss(chosen, chosen).item() == pytest.approx(math.log(2))
    torch.testing.assert_close(pairwise_loss(chosen + 100, rejected + 100), pairwise_loss(chosen, rejected))
    assert pairwise_loss(chosen + 100, rejected + 100, centering=0.1) > pairwise_loss(chosen, rejected, centering=0.1)


@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_loss_of_extreme_gaps_is_finite(gap):
    chosen, rejected = torch.tensor([gap], requires_grad=True), torch.tensor([0.0], requires_grad=True)
    loss = pairwise_loss(chosen, rejected)
    loss.backward()
    assert loss.item() == pytest.approx(max(-gap, 0.0))
    slope = -1.0 if gap < 0 else 0.0
    assert (chosen.grad.item(), rejected.grad.item()) == (slope, -slope)


def test_minimising_the_loss_recovers_bradley_terry():
    """With preference shares p, the expected loss is least where the gap is the log-odds of p."""
    p = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    gap = (p / (1 - p)).log().requires_grad_()
    zero = torch.zeros(1, dtype=torch.float64)
    expected = sum(
        share * pairwise_loss(g[None], zero) + (1 - share) * pairwise_loss(zero, g[None])
        for share, g in zip(p, gap, strict=True)
    )
    assert torch.autograd.grad(expected, gap)[0].abs().max() < 1e-12


@pytest.mark.parametrize("outcomes", [[1, 0, 1, 1], [True, False, True, True], [1.0, 0.0, 1.0, 1.0]])
def test_calibration_by_hand(outcomes):
    probabilities = torch.tensor([0.75, 0.7, 1.0, 0.25])
    # n = 4: bin [½, ¾) has 0.7 (outcome 0); bin [¾, 1] has 0.75 and 1.0 (outcomes 1, 1); bin [¼, ½) has 0.25 (1)
    assert calibration_error(probabilities, torch.tensor(outcomes), 4) == pytest.approx((0.7 + 0.25 + 0.75) / 4)
    assert calibration_error(probabilities, torch.tensor(outcomes), 1) == pytest.approx(abs(2.7 - 3) / 4)


def test_a_constant_forecast_of_the_base_rate_is_calibrated():
    outcomes = torch.tensor([1, 0, 1, 1])
    assert calibration_error(torch.full((4,), 0.75), outcomes) == pytest.approx(0.0)
    assert calibration_error(outcomes.double(), outcomes) == 0.0
    assert calibration_error(1.0 - outcomes, outcomes) == 1.0


HIDDEN = torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: last_token_index(torch.tensor([[True, False], [False, False]])), "mask"),
        (lambda: last_token_index(torch.ones(2, 2).long()), "mask"),
        (lambda: last_token_index(torch.ones(2).bool()), "mask"),
        (lambda: sequence_scores(HIDDEN, torch.zeros(4), 0.0, torch.ones(2, 4).bool()), "hidden|mask"),
        (lambda: sequence_scores(HIDDEN, torch.zeros(5), 0.0, torch.ones(2, 3).bool()), "weight"),
        (lambda: sequence_scores(HIDDEN, torch.zeros(4), torch.zeros(2), torch.ones(2, 3).bool()), "bias"),
        (lambda: pairwise_loss(torch.zeros(3, 1), torch.zeros(3)), "chosen"),
        (lambda: pairwise_loss(torch.zeros(3, 1), torch.zeros(3, 1)), "chosen"),
        (lambda: pairwise_loss(torch.zeros(3), torch.zeros(3), torch.zeros(3, 1)), "margin"),
        (lambda: pairwise_loss(torch.zeros(0), torch.zeros(0)), "chosen"),
        (lambda: pairwise_accuracy(torch.zeros(3, 1), torch.zeros(3)), "chosen"),
        (lambda: pairwise_accuracy(torch.zeros(0), torch.zeros(0)), "chosen"),
        (lambda: calibration_error(torch.zeros(3), torch.zeros(2)), "probabilities"),
        (lambda: calibration_error(torch.zeros(0), torch.zeros(0)), "probabilities"),
        (lambda: calibration_error(torch.tensor([1.5]), torch.tensor([1])), "probabilities"),
        (lambda: calibration_error(torch.tensor([math.nan]), torch.tensor([1])), "probabilities"),
        (lambda: calibration_error(torch.tensor([0.5]), torch.tensor([7])), "outcomes"),
        (lambda: calibration_error(torch.tensor([0.5]), torch.tensor([1]), 0), "num_bins"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
