"""Lesson 06: win rate, Wilson interval, best-of-n, pass@k and the KL–reward front."""

from __future__ import annotations

import itertools
import math

import oracles
import pytest
import torch
from cases import Draw, Entry, contract_tests

from rlhf_core.evaluation import (
    best_of_n_kl,
    expected_best_of_n,
    pareto_front,
    pass_at_k,
    wilson_interval,
    win_rate,
)


def draw_ranks(draw: Draw) -> tuple:
    """Scores with ties."""
    return draw.integers(0, 3, draw.rows + 3).double(), draw.integers(0, 3, draw.rows + 3).double()


def draw_counts(draw: Draw) -> tuple:
    n = int(draw.integers(1, 60, 1))
    return int(draw.integers(0, 2 * n + 1, 1)) / 2, n, draw.number(0.5, 3.0)


def draw_samples(draw: Draw) -> tuple:
    """Six to nine rewards in any order, some of them equal."""
    rewards = draw.integers(-4, 5, 6 + draw.rows % 4).double() / 2
    return rewards, 3


def draw_passes(draw: Draw) -> tuple:
    n = int(draw.integers(4, 10, 1))
    return n, int(draw.integers(0, n + 1, 1)), int(draw.integers(1, n + 1, 1))


def draw_points(draw: Draw) -> tuple:
    """On a grid, so that there are equal points and equal coordinates."""
    return draw.integers(0, 4, 2 * draw.time).double(), draw.integers(0, 4, 2 * draw.time).double()


def wald(wins, n, z):
    half = z * math.sqrt(wins / n * (1 - wins / n) / n)
    return wins / n - half, wins / n + half


def scaled(change):
    """wilson_interval of changed arguments."""
    return lambda wins, n, z: wilson_interval(*change(wins, n, z))


def front(beats):
    """pareto_front with another rule: does point (k, r) beat (a, b)?"""

    def mark(kl, reward):
        points = list(zip(kl.tolist(), reward.tolist(), strict=True))
        return torch.tensor([not any(beats(k, r, a, b) for k, r in points) for a, b in points])

    return mark


test_contract, test_known_mistakes_are_told_apart = contract_tests([
    Entry(win_rate, oracles.win_rate, draw_ranks, "float", rows="same", row_args=(0, 1), mutants={
        "ties are lost": lambda a, b: (a > b).double().mean().item(),
        "ties are won": lambda a, b: (a >= b).double().mean().item(),
        "ties are dropped": lambda a, b: ((a > b).sum() / (a != b).sum()).item(),
        "b against a": lambda a, b: win_rate(b, a),
        "per cent": lambda a, b: 100 * win_rate(a, b),
        "all against all": lambda a, b: win_rate(a.repeat_interleave(len(b)), b.repeat(len(a))),
    }),
    Entry(wilson_interval, oracles.wilson_interval, draw_counts, mutants={
        "Wald": wald,
        "z not squared": scaled(lambda w, n, z: (w, n, math.sqrt(z))),
        "95% always": scaled(lambda w, n, z: (w, n, 1.96)),
        "share in place of wins": scaled(lambda w, n, z: (w / n, n, z)),
        "half the width": lambda w, n, z: tuple((x + w / n) / 2 for x in wilson_interval(w, n, z)),
        "the other way round": lambda w, n, z: wilson_interval(w, n, z)[::-1],
    }),
    Entry(expected_best_of_n, oracles.expected_best_of_n, draw_samples, "float", rows="same", row_args=(0,), mutants={
        "maximum of all": lambda r, n: r.max().item(),
        "maximum of the first n": lambda r, n: r[:n].max().item(),
        "mean": lambda r, n: r.mean().item(),
        "with replacement": lambda r, n: (r.sort().values * (
            (torch.arange(1, len(r) + 1) / len(r)) ** n - (torch.arange(len(r)) / len(r)) ** n)).sum().item(),
        "one too many": lambda r, n: expected_best_of_n(r, n + 1),
        "worst of n": lambda r, n: -expected_best_of_n(-r, n),
    }),
    Entry(pass_at_k, oracles.pass_at_k, draw_passes, "float", mutants={
        "with replacement": lambda n, c, k: 1 - (1 - c / n) ** k,
        "pass@1": lambda n, c, k: c / n,
        "k times pass@1": lambda n, c, k: min(1.0, k * c / n),
        "all k pass": lambda n, c, k: math.comb(c, k) / math.comb(n, k),
        "probability of failure": lambda n, c, k: 1 - pass_at_k(n, c, k),
    }),
    Entry(pareto_front, oracles.pareto_front, draw_points, rows="along", row_args=(0, 1), mutants={
        "equal points beat each other": front(lambda k, r, a, b: k <= a and r >= b),
        "only strictly better in both": front(lambda k, r, a, b: k < a and r > b),
        "more KL is better": front(lambda k, r, a, b: k >= a and r >= b and (k > a or r > b)),
        "less reward is better": front(lambda k, r, a, b: k <= a and r <= b and (k < a or r < b)),
        "reward alone": front(lambda k, r, a, b: r > b),
        "inverted": lambda kl, reward: ~pareto_front(kl, reward),
    }, styles=(front(lambda k, r, a, b: k <= a and r >= b and (k < a or r > b)),)),
])  # fmt: skip


def test_a_model_against_itself_and_in_either_order():
    a, b = Draw(0).normal(9), Draw(1).normal(9)
    assert win_rate(a, a) == 0.5
    assert win_rate(a, b) + win_rate(b, a) == pytest.approx(1.0)


@pytest.mark.parametrize("n", [1, 2, 10, 1000, 10**7])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_wilson_interval_stays_inside_and_has_width(n, share):
    wins = share * n
    low, high = wilson_interval(wins, n)
    assert 0.0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1.0 and high - low > 0.5 / n
    mirrored = wilson_interval(n - wins, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high))
    assert isinstance(low, float) and isinstance(high, float)


def test_wilson_interval_of_a_known_table():
    """8 of 10: the textbook's 0.490 to 0.943."""
    assert wilson_interval(8, 10) == pytest.approx((0.4901, 0.9433), abs=1e-4)


def test_wilson_interval_covers_as_often_as_it_says():
    """Exact coverage at n = 40: near 95% for every p, where p ± z√(p(1−p)/n) falls to 33% at p = 0.01."""
    for p in (0.01, 0.1, 0.3, 0.5, 0.8):
        covered = {True: 0.0, False: 0.0}
        for wins in range(41):
            probability = math.comb(40, wins) * p**wins * (1 - p) ** (40 - wins)
            low, high = wilson_interval(wins, 40)
            covered[low <= p <= high] += probability
        assert 0.92 < covered[True] < 0.995


def exact_best_of_n_kl(probabilities: list[float], n: int) -> float:
    """KL(best-of-n ‖ reference) over outcomes in the order of their rewards."""
    kl, below = 0.0, 0.0
    for p in probabilities:
        best = (below + p) ** n - below**n
        below += p
        kl += best * math.log(best / p) if best > 0 else 0.0
    return kl


@pytest.mark.parametrize("n", [1, 2, 4, 16, 64])
def test_best_of_n_kl_is_exact_without_ties_and_a_bound_with_them(n):
    many = 20_000
    assert best_of_n_kl(n) == pytest.approx(exact_best_of_n_kl([1 / many] * many, n), abs=2e-3)
    for probabilities in ([0.5, 0.5], [0.9, 0.1], [0.2] * 5):
        assert exact_best_of_n_kl(probabilities, n) <= best_of_n_kl(n) + 1e-12
    assert isinstance(best_of_n_kl(n), float)


def test_best_of_n_kl_of_one_and_of_many():
    assert best_of_n_kl(1) == 0.0
    assert best_of_n_kl(10**6) == pytest.approx(math.log(10**6) - 1, abs=1e-5)
    assert exact_best_of_n_kl([0.5, 0.5], 16) == pytest.approx(math.log(2), abs=1e-3)  # the docstring's example


def test_expected_best_of_n_is_unbiased():
    """The estimate for n = 2 from four samples, averaged over all draws of four from three outcomes."""
    outcomes, p = [0.0, 1.0, 5.0], [0.5, 0.3, 0.2]
    estimate = sum(
        math.prod(p[i] for i in draw) * expected_best_of_n(torch.tensor([outcomes[i] for i in draw]), 2)
        for draw in itertools.product(range(3), repeat=4)
    )
    exact = sum(p[i] * p[j] * max(outcomes[i], outcomes[j]) for i in range(3) for j in range(3))
    assert estimate == pytest.approx(exact)


def test_expected_best_of_n_limits():
    rewards = Draw(2).normal(50)
    assert expected_best_of_n(rewards, 1) == pytest.approx(rewards.mean().item())
    assert expected_best_of_n(rewards, 50) == rewards.max().item()
    curve = [expected_best_of_n(rewards, n) for n in range(1, 51)]
    assert curve == sorted(curve)
    assert expected_best_of_n(3 * rewards - 1, 7) == pytest.approx(3 * expected_best_of_n(rewards, 7) - 1)
    assert expected_best_of_n(torch.tensor([-math.inf, 1.0, 2.0]), 2) == pytest.approx(5 / 3)


def test_expected_best_of_n_of_ten_thousand_uniform_rewards():
    """E[max of n] of a uniform variable is n/(n + 1); the binomials would overflow a float."""
    rewards = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    for n in (1, 10, 1000, 9999):
        assert expected_best_of_n(rewards, n) == pytest.approx(n / (n + 1), abs=1e-4)


def test_pass_at_k_is_unbiased():
    n, p = 8, 0.3
    for k in range(1, n + 1):
        estimate = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
        assert estimate == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize(("c", "k"), [(0, 1), (1, 1), (1, 10_000), (37, 100), (9_950, 50), (5000, 5000), (10_000, 1)])
def test_pass_at_k_of_ten_thousand(c, k):
    exact = 1 - math.comb(10_000 - c, k) / math.comb(10_000, k)  # Python's integers do not overflow
    assert pass_at_k(10_000, c, k) == pytest.approx(exact, rel=1e-9, abs=1e-12)


def test_pareto_front_by_hand():
    kl = torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0, 3.0])
    reward = torch.tensor([0.0, 2.0, 2.0, 2.0, 3.0, 1.0])
    marked = pareto_front(kl, reward)
    assert marked.tolist() == [True, True, True, False, True, False] and marked.dtype == torch.bool
    assert pareto_front(kl[:1], reward[:1]).tolist() == [True]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: win_rate(torch.zeros(2), torch.zeros(3)), "scores_a"),
        (lambda: win_rate(torch.zeros(2, 1), torch.zeros(2)), "scores_a"),
        (lambda: win_rate(torch.zeros(0), torch.zeros(0)), "scores_a"),
        (lambda: wilson_interval(0, 0), "n must"),
        (lambda: wilson_interval(3, 2), "wins"),
        (lambda: wilson_interval(-1, 2), "wins"),
        (lambda: wilson_interval(1, 2, 0.0), "z must"),
        (lambda: best_of_n_kl(0), "n must"),
        (lambda: expected_best_of_n(torch.zeros(3), 4), "n must"),
        (lambda: expected_best_of_n(torch.zeros(3), 0), "n must"),
        (lambda: pass_at_k(5, 6, 1), "c must"),
        (lambda: pass_at_k(5, -1, 1), "c must"),
        (lambda: pass_at_k(5, 1, 0), "k must"),
        (lambda: pass_at_k(5, 1, 6), "k must"),
        (lambda: pareto_front(torch.zeros(2), torch.zeros(3)), "kl"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
