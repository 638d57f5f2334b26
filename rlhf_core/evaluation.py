"""Lesson 06: did it get better? Win rates with honest intervals, and rewards seen against the KL that they cost."""

from __future__ import annotations

import math

from jaxtyping import Bool, Float
from torch import Tensor

from rlhf_core.checks import require, require_positive, require_same_shape


def win_rate(scores_a: Float[Tensor, "prompts"], scores_b: Float[Tensor, "prompts"]) -> float:
    """Share of prompts on which a's answer scores above b's.

    Args:
        scores_a, scores_b: a judge's scores of the two answers to each prompt.

    Returns:
        A share in [0, 1]; a tie counts ½, so that a model against itself gets 0.5.

    Raises:
        ValueError: the shapes differ or there are no prompts.

    Source: the convention of AlpacaEval and of Stiennon et al. 2020. Dropping ties makes rankings unstable.
    """
    require_same_shape(scores_a=scores_a, scores_b=scores_b)
    require(scores_a.numel() > 0, "scores_a and scores_b are empty, so there is no win rate")
    return ((scores_a > scores_b).double() + 0.5 * (scores_a == scores_b).double()).mean().item()


def wilson_interval(wins: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a win rate.

    Args:
        wins: number of wins, ties counting ½ (0 ≤ wins ≤ n).
        n: number of prompts.
        z: standard normal quantile; 1.96 for 95%.

    Returns:
        `(low, high)` inside [0, 1], with a width even at 0 wins, where the textbook p ± z√(p(1−p)/n) has none.

    Raises:
        ValueError: `n` is below 1, `wins` is outside 0 … n or `z` is not positive.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    require(n >= 1, f"n must be at least 1, got {n}")
    require(0 <= wins <= n, f"wins must lie in 0 … {n}, got {wins}")
    require_positive(z=z)
    share = wins / n
    center = share + z**2 / (2 * n)
    half_width = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return max(0.0, (center - half_width) / scale), min(1.0, (center + half_width) / scale)


def best_of_n_kl(n: int) -> float:
    """KL that best-of-n costs at most.

    Args:
        n: samples per prompt, of which the best-scoring is kept.

    Returns:
        log n − (n − 1)/n in nats: an upper bound on KL(best-of-n ‖ reference), exact when no two samples can tie in
        reward (continuous rewards, distinct texts); with two equally likely rewards and n = 16 the truth is 0.69, not 1.83.

    Raises:
        ValueError: `n` is below 1.

    Source: Stiennon et al. 2020 (arXiv 2009.01325), appendix G.3; as a bound: Beirami et al. 2024 (arXiv 2401.01879).
    """
    require(n >= 1, f"n must be at least 1, got {n}")
    return math.log(n) - (n - 1) / n


def expected_best_of_n(rewards: Float[Tensor, "samples"], n: int) -> float:
    """Expected reward of the best of n samples, estimated from N ≥ n of them.

    Args:
        rewards: rewards of N samples.
        n: samples that best-of-n draws.

    Returns:
        Σ_i r_(i) C(i−1, n−1)/C(N, n) over the sorted rewards: the mean of the maximum over all subsets of n, which is
        unbiased, in the rewards' unit.

    Raises:
        ValueError: `n` is not in 1 … N.

    Source: Nakano et al. 2021 (arXiv 2112.09332), appendix I.
    """
    total = rewards.numel()
    require(1 <= n <= total, f"n must lie in 1 … {total} (the number of rewards), got {n}")
    ordered = rewards.double().flatten().sort().values
    expected, weight = 0.0, n / total  # weight of the largest; each next one: C(i−2, n−1) = C(i−1, n−1)·(i−n)/(i−1)
    for i in range(total, n - 1, -1):
        expected += weight * ordered[i - 1].item()
        weight *= (i - n) / max(i - 1, 1)
    return expected


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k samples is correct, estimated from n samples of which c are.

    Args:
        n, c: samples drawn, and how many of them were correct.
        k: samples that one is allowed.

    Returns:
        1 − C(n−c, k)/C(n, k), as a product that does not overflow for n = 10,000.

    Raises:
        ValueError: `c` is not in 0 … n or `k` is not in 1 … n.

    Source: Chen et al. 2021 (arXiv 2107.03374), equation 1. 1 − (1 − c/n)^k, often seen, is biased.
    """
    require(0 <= c <= n, f"c must lie in 0 … n = {n}, got {c}")
    require(1 <= k <= n, f"k must lie in 1 … n = {n}, got {k}")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1 - k / i for i in range(n - c + 1, n + 1))


def pareto_front(kl: Float[Tensor, "points"], reward: Float[Tensor, "points"]) -> Bool[Tensor, "points"]:
    """Mark the points that no other point beats.

    Args:
        kl: cost of each point, in nats (lower is better).
        reward: its gain (higher is better).

    Returns:
        True where no other point has lower or equal KL and higher or equal reward, one of them strictly. Equal points
        do not beat each other.

    Raises:
        ValueError: the shapes differ.

    Source: Pareto dominance; the KL–reward frontier of Gao et al. 2022 (arXiv 2210.10760).
    """
    require_same_shape(kl=kl, reward=reward)
    no_worse = (kl[:, None] <= kl) & (reward[:, None] >= reward)
    better = (kl[:, None] < kl) | (reward[:, None] > reward)
    return ~(no_worse & better).any(dim=0)
