"""Lesson 06: did it get better?"""

from __future__ import annotations

import math
from itertools import combinations

import torch

from autograder.draws import Draw
from autograder.exercise import Case, Exercise, Mistake
from rlhf_core.evaluation import best_of_n_kl, expected_best_of_n, pareto_front, pass_at_k, wilson_interval, win_rate

# win_rate


def win_cases(seed: int) -> list[Case]:
    d = Draw(seed)

    def scores(rows, ties):
        a, b = d.normal(rows, scale=3.0), d.normal(rows, scale=3.0)
        b[:ties] = a[:ties]
        a[ties] = b[ties] + 1
        order = torch.randperm(rows, generator=d.generator)
        return a[order], b[order]

    return [
        Case((torch.tensor([1.0, 2.0, 3.0, 0.5]), torch.tensor([0.5, 3.0, 1.0, 0.0])), "three wins in four"),
        Case(scores(7, 2), "two ties among seven prompts"),
        Case(scores(9, 1), "one tie among nine prompts"),
        Case(scores(8, 0), "no ties"),
        Case((torch.full((4,), 1.5), torch.full((4,), 1.5)), "ties only"),
        Case((torch.zeros(3), torch.ones(3)), "no win at all"),
        Case((torch.ones(3), torch.zeros(3)), "wins only"),
        Case((torch.tensor([-2.0]), torch.tensor([-1.0])), "a single prompt and negative scores"),
        Case((torch.tensor([0.1, -5.0, 0.2]), torch.tensor([0.0, 10.0, 0.1])), "two close wins and a heavy loss"),
        Case((torch.tensor([5.00001, 2.0]), torch.tensor([5.0, 2.0])), "a very close win"),
    ]


def win(count, divide=lambda x, a, b: x / len(a)):
    """win_rate by another count."""
    return lambda scores_a, scores_b: float(divide(count(scores_a, scores_b), scores_a, scores_b))


def win_half(a, b):
    return (a > b).sum() + 0.5 * (a == b).sum()


def win_in_place(scores_a, scores_b):
    scores_a -= scores_b
    return win_rate(scores_a, torch.zeros_like(scores_a))


def win_by_sign(scores_a, scores_b):
    return ((torch.sign(scores_a - scores_b) + 1) / 2).mean()


def win_by_loop(scores_a, scores_b):
    points = [
        1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(scores_a.tolist(), scores_b.tolist(), strict=True)
    ]
    return sum(points) / len(points)


def win_by_where(scores_a, scores_b):
    import numpy

    a, b = scores_a.numpy(), scores_b.numpy()
    return numpy.where(a > b, 1.0, numpy.where(a < b, 0.0, 0.5)).mean()


WIN = Exercise(
    win_rate,
    points=1,
    cases=win_cases,
    result="float",
    variants=(win_by_sign, win_by_loop, win_by_where),
    mistakes=(
        Mistake("half-a-win-rounded", win(lambda a, b: (a > b).sum() + (a == b).sum() // 2), "Half of an odd number of ties is rounded.", "What are three ties worth?"),
        Mistake("ties-lost", win(lambda a, b: (a > b).sum()), "A tie counts as a loss.", "Which win rate should a model have against itself?"),
        Mistake("ties-won", win(lambda a, b: (a >= b).sum()), "A tie counts as a win.", "Which win rate should a model have against itself?"),
        Mistake("ties-dropped", win(lambda a, b: (a > b).sum(), lambda x, a, b: x / (a != b).sum().clamp(min=1)), "Ties are left out.", "Two models tie on 99 prompts of 100. How much does the last one say?"),
        Mistake("swapped", win(lambda a, b: win_half(b, a)), "It is b's win rate.", "Who beats whom?"),
        Mistake("mean-difference", win(lambda a, b: (a - b).sum()), "The differences are averaged.", "Should a narrow win count like a clear one?"),
        Mistake("mean-probability", win(lambda a, b: torch.sigmoid(a - b).sum()), "Probabilities are averaged.", "Is a score of 0.1 more a win, or half a win?"),
        Mistake("net-wins", win(lambda a, b: (a > b).sum() - (a < b).sum()), "Losses are subtracted from wins.", "Between which numbers must a share be?"),
        Mistake("counted", win(win_half, lambda x, a, b: x), "The wins are counted, and not their share.", "Between which numbers must a share be?"),
        Mistake("percent", win(win_half, lambda x, a, b: 100 * x / len(a)), "It is given in percent.", "Between which numbers must a share be?"),
        Mistake("means-compared", lambda a, b: float((a.mean() > b.mean()) + 0.5 * (a.mean() == b.mean())), "The mean scores are compared, not the answers.", "A model wins narrowly on 9 prompts and loses badly on one. What is its win rate?"),
        Mistake("close-is-a-tie", win(lambda a, b: (a > b + 1e-3).sum() + 0.5 * ((a - b).abs() <= 1e-3).sum()), "Close scores count as ties.", "What is a tie?"),
        Mistake("a-win-is-half", win(lambda a, b: 0.5 * (a > b).sum() + (a == b).sum()), "A win counts ½ and a tie 1.", "Which counts more?"),
        Mistake("in-place", win_in_place, "It writes into the scores.", "Who reads the scores afterwards?"),
    ),
)  # fmt: skip


# wilson_interval


def wilson_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    n = int(d.integers(20, 200, 1))
    wins = int(d.integers(3, n - 3, 1))
    return [
        Case((7, 10), "7 wins in 10"),
        Case((wins, n), f"{wins} wins in {n}"),
        Case((wins + 0.5, n), "half a win, from a tie"),
        Case((wins, n, 2.576), "a z of 2.576"),
        Case((4, 12, 1.0), "a z of 1"),
        Case((1, 10), "1 win in 10"),
        Case((0.5, 9), "half a win, from a single tie"),
        Case((9.5, 10), "all wins but half of one"),
        Case((0, 20), "no win"),
        Case((20, 20), "wins only"),
        Case((0, 1), "a single prompt, lost"),
        Case((1, 1), "a single prompt, won"),
        Case((5000, 10_000), "10,000 prompts"),
        Case((0, 100_000), "no win in 100,000", 1e-6, 1e-9),
    ]


def wilson(center=lambda p, n, z: p + z * z / (2 * n), half=lambda p, n, z: z * math.sqrt(max(p * (1 - p) / n + z * z / (4 * n * n), 0)),
           scale=lambda n, z: 1 + z * z / n, ends=lambda c, h: (max(0.0, c - h), min(1.0, c + h)), z_of=lambda z: z):  # fmt: skip
    """wilson_interval with some of its parts replaced."""

    def interval(wins, n, z=1.96):
        z, p = z_of(z), wins / n
        return ends(center(p, n, z) / scale(n, z), half(p, n, z) / scale(n, z))

    return interval


def wilson_wald(wins, n, z=1.96):
    p = wins / n
    half = z * math.sqrt(p * (1 - p) / n)
    return p - half, p + half


def wilson_wald_clipped(wins, n, z=1.96):
    low, high = wilson_wald(wins, n, z)
    return max(0.0, low), min(1.0, high)


def wilson_agresti(wins, n, z=1.96):
    total = n + z * z
    p = (wins + z * z / 2) / total
    half = z * math.sqrt(p * (1 - p) / total)
    return max(0.0, p - half), min(1.0, p + half)


def wilson_continuity(wins, n, z=1.96):
    p = wins / n
    low = (2 * n * p + z**2 - (z * math.sqrt(max(z**2 - 1 / n + 4 * n * p * (1 - p) + (4 * p - 2), 0)) + 1)) / (
        2 * (n + z**2)
    )
    high = (2 * n * p + z**2 + (z * math.sqrt(max(z**2 - 1 / n + 4 * n * p * (1 - p) - (4 * p - 2), 0)) + 1)) / (
        2 * (n + z**2)
    )
    return max(0.0, low), min(1.0, high)


def wilson_by_counts(wins, n, z=1.96):
    middle = (wins + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(wins * (n - wins) / n + z**2 / 4)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def wilson_by_roots(wins, n, z=1.96):
    # the interval's ends solve (p̂ − p)² = z² p(1 − p)/n
    p = wins / n
    a, b, c = 1 + z**2 / n, -(2 * p + z**2 / n), p * p
    root = math.sqrt(max(b * b - 4 * a * c, 0.0))
    return [max((-b - root) / (2 * a), 0.0), min((-b + root) / (2 * a), 1.0)]


def wilson_by_torch(wins, n, z=1.96):
    p, n, z = (torch.tensor(x, dtype=torch.float64) for x in (wins / n, n, z))
    denominator = 1 + z**2 / n
    center = (p + z**2 / (2 * n)) / denominator
    half = z * torch.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / denominator
    return (center - half).clamp(0, 1), (center + half).clamp(0, 1)


def wilson_plus_four(wins, n, z=1.96):
    share = (wins + 2) / (n + 4)
    half = z * math.sqrt(share * (1 - share) / (n + 4))
    return max(0.0, share - half), min(1.0, share + half)


WILSON = Exercise(
    wilson_interval,
    points=2,
    cases=wilson_cases,
    result="float",
    parts=("low", "high"),
    asks="(low, high), a pair of numbers,",
    variants=(wilson_by_counts, wilson_by_roots, wilson_by_torch),
    mistakes=(
        Mistake("textbook-interval", wilson_wald, "This is the textbook interval p ± z√(p(1−p)/n), which has no width at 0 wins and may leave [0, 1].", "0 wins in 20: how sure is it that the rate is exactly 0?"),
        Mistake("half-wins-cut", lambda wins, n, z=1.96: wilson_interval(int(wins), n, z), "Half a win is cut off.", "What does a tie count?"),
        Mistake("plus-four", wilson_plus_four, "Two wins and two losses are added, whatever z is.", "What stands under the root: the shifted share, or the observed one?"),
        Mistake("center-shifted-twice", wilson(center=lambda p, n, z: p + z * z / n), "The center is shifted by z²/n instead of half of it.", "If nothing is known, with n tiny, where should the center be?"),
        Mistake("scale-without-square", wilson(scale=lambda n, z: 1 + z / n), "z is not squared in the denominator.", "Which powers of z are in the formula?"),
        Mistake("textbook-interval-cut-off", wilson_wald_clipped, "This is the textbook interval, cut off at 0 and 1.", "0 wins in 20: how sure is it that the rate is exactly 0?"),
        Mistake("agresti-coull", wilson_agresti, "This is the Agresti–Coull interval, which looks alike but is wider.", "What stands under the root: the shifted share, or the observed one?"),
        Mistake("continuity-correction", wilson_continuity, "A continuity correction has been added.", "Which formula does the exercise ask for?"),
        Mistake("center-not-shifted", wilson(center=lambda p, n, z: p), "The center is not shifted towards ½.", "With few prompts, should the interval be symmetric around the observed share?"),
        Mistake("center-unscaled", wilson(center=lambda p, n, z: (p + z * z / (2 * n)) * (1 + z * z / n)), "The center is not divided.", "Which parts are divided by 1 + z²/n?"),
        Mistake("width-unscaled", wilson(half=lambda p, n, z: z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) * (1 + z * z / n)), "The half-width is not divided.", "Which parts are divided by 1 + z²/n?"),
        Mistake("nothing-scaled", wilson(scale=lambda n, z: 1.0), "Nothing is divided by 1 + z²/n.", "Which number makes the interval stay inside [0, 1]?"),
        Mistake("z-not-squared", wilson(center=lambda p, n, z: p + z / (2 * n)), "z is not squared in the center.", "Which powers of z are in the formula?"),
        Mistake("correction-missing-under-the-root", wilson(half=lambda p, n, z: z * math.sqrt(p * (1 - p) / n)), "z²/4n² is missing under the root, so that 0 wins have no width.", "What is left under the root when p is 0?"),
        Mistake("n-not-squared-under-the-root", wilson(half=lambda p, n, z: z * math.sqrt(p * (1 - p) / n + z * z / (4 * n))), "n is not squared under the root.", "How should the width at 0 wins shrink with n?"),
        Mistake("z-fixed", wilson(z_of=lambda z: 1.96), "z is always 1.96.", "What if somebody asks for 99%?"),
        Mistake("no-root", wilson(half=lambda p, n, z: z * (p * (1 - p) / n + z * z / (4 * n * n))), "The root is missing.", "Is the width a standard deviation or a variance?"),
        Mistake("n-minus-one", wilson(half=lambda p, n, z: z * math.sqrt(p * (1 - p) / max(n - 1, 1) + z * z / (4 * n * n))), "The variance is divided by n − 1.", "What is the variance of a share?"),
        Mistake("half-width-returned", wilson(ends=lambda c, h: (c, h)), "Center and half-width are returned.", "Which two numbers are asked for?"),
        Mistake("ends-swapped", wilson(ends=lambda c, h: (min(1.0, c + h), max(0.0, c - h))), "The upper end comes first.", "In which order do the ends come?"),
        Mistake("one-sided", wilson(half=lambda p, n, z: 1.645 / 1.96 * z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))), "The width is that of a one-sided interval.", "How much probability lies on each side?"),
    ),
)  # fmt: skip


# best_of_n_kl


def bound_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    n = int(d.integers(5, 60, 1))
    return [Case((k,), f"n = {k}") for k in (4, 2, n, 1, 3, 16, 1000, 10**6)]


def bound_numerically(n):
    if n == 1:
        return 0.0
    # ∫ n u^(n−1) log(n u^(n−1)) du, with u^n = v: log n + (n−1)/n ∫ log v dv
    return math.log(n) + (n - 1) / n * -1.0


BOUND = Exercise(
    best_of_n_kl,
    points=1,
    cases=bound_cases,
    result="float",
    variants=(
        bound_numerically,
        lambda n: math.log(n) - 1 + 1 / n,
        lambda n: torch.log(torch.tensor(float(n), dtype=torch.float64)) + torch.tensor(1 / n, dtype=torch.float64) - 1,
    ),
    mistakes=(
        Mistake("log-n", lambda n: math.log(n), "Only log n is there.", "What is the KL of best-of-1? And how sure is the choice among two samples?"),
        Mistake("log-n-minus-one", lambda n: math.log(n) - 1, "1 is subtracted, so that n = 1 has a negative KL.", "What is the KL of best-of-1?"),
        Mistake("log2", lambda n: math.log2(n) - (n - 1) / n, "The logarithm has base 2.", "In which unit is the KL of this course?"),
        Mistake("log10", lambda n: math.log10(n) - (n - 1) / n, "The logarithm has base 10.", "In which unit is the KL of this course?"),
        Mistake("added", lambda n: math.log(n) + (n - 1) / n, "The second term is added.", "Can the KL be larger than log n?"),
        Mistake("n-over-n-minus-one", lambda n: math.log(n) - n / max(n - 1, 1), "The fraction is upside down.", "What is (n − 1)/n when n is 1?"),
        Mistake("one-over-n", lambda n: math.log(n) - 1 / n, "1/n is subtracted.", "What is the KL of best-of-1?"),
        Mistake("n-plus-one", lambda n: math.log(n) - (n - 1) / (n + 1), "The denominator is n + 1.", "For a large n, what does the second term tend to, and how fast?"),
        Mistake("without-logarithm", lambda n: (n - 1) / n, "The logarithm is missing.", "Does the KL go on growing with n?"),
        Mistake("share", lambda n: (n - 1) / (n + 1), "This is the win rate against one sample, rescaled.", "Does the KL go on growing with n?"),
        Mistake("negative", lambda n: (n - 1) / n - math.log(n), "The sign is wrong.", "Can a KL be negative?"),
        Mistake("half", lambda n: 0.5 * (math.log(n) - (n - 1) / n), "There is a factor ½ too many.", "What is the KL for n = 2: 0.193 or half of it?"),
        Mistake("log-of-n-minus-one", lambda n: math.log(max(n - 1, 1)), "It is the logarithm of n − 1.", "What is log 2 − ½?"),
    ),
)  # fmt: skip


# expected_best_of_n


def best_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    return [
        Case((torch.tensor([1.0, 4.0, 2.0]), 2), "the best of 2 of three rewards"),
        Case((d.normal(6, scale=2.0), 3), "the best of 3 of six"),
        Case((d.normal(7, scale=2.0), 1), "the best of 1"),
        Case((d.normal(5, scale=2.0), 5), "the best of all five"),
        Case((d.normal(8, scale=2.0) - 10, 2), "negative rewards"),
        Case((torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]), 2), "rewards of 0 and 1"),
        Case((d.normal(1), 1), "a single reward"),
        Case((d.normal(120, scale=2.0), 16), "120 rewards", 1e-3, 1e-3),
        # beyond the range of float32, but not of float64: whoever sums before dividing is right, too
        Case((d.normal(1000, scale=2.0), 64), "the best of 64 of 1,000", 1e-2, 1e-2),
    ]


def best_by_subsets(rewards, n):
    if math.comb(len(rewards), n) > 2000:
        return best_by_weights(rewards, n)
    tops = [max(c) for c in combinations(rewards.double().tolist(), n)]
    return sum(tops) / len(tops)


def best_by_weights(rewards, n):
    ordered, total = sorted(rewards.double().tolist()), len(rewards)
    return sum(math.comb(i, n - 1) / math.comb(total, n) * r for i, r in enumerate(ordered))


def best_by_logs(rewards, n):
    total = rewards.numel()
    ordered = torch.sort(rewards.double()).values
    i = torch.arange(n - 1, total, dtype=torch.float64)
    log_weights = torch.lgamma(i + 1) - torch.lgamma(torch.tensor(float(n))).double() - torch.lgamma(i - n + 2)
    log_total = math.lgamma(total + 1) - math.lgamma(n + 1) - math.lgamma(total - n + 1)
    return ((log_weights - log_total).exp() * ordered[n - 1 :]).sum()


def best_with_replacement(rewards, n):
    ordered, total = sorted(rewards.double().tolist()), len(rewards)
    return sum((((i + 1) / total) ** n - (i / total) ** n) * r for i, r in enumerate(ordered))


def best_in_blocks(rewards, n):
    usable = rewards[: len(rewards) // n * n]
    return usable.reshape(-1, n).max(dim=1).values.mean().item()


def best_weights_shifted(rewards, n):
    ordered, total = sorted(rewards.double().tolist()), len(rewards)
    return sum(math.comb(i + 1, n) / math.comb(total, n) * r for i, r in enumerate(ordered))


def best_worst(rewards, n):
    return -expected_best_of_n(-rewards, n)


def best_of_random(rewards, n):
    generator = torch.Generator().manual_seed(0)
    draws = [rewards[torch.randperm(len(rewards), generator=generator)[:n]].max().item() for _ in range(50)]
    return sum(draws) / len(draws)


def best_unsorted(rewards, n):
    total = len(rewards)
    return sum(math.comb(i, n - 1) / math.comb(total, n) * r for i, r in enumerate(rewards.double().tolist()))


def best_weighted(weight):
    """expected_best_of_n with other weights of the i-th smallest of `total` rewards, counted from 0."""

    def best(rewards, n):
        ordered = sorted(rewards.double().tolist())
        return sum(weight(i, len(ordered), n) * r for i, r in enumerate(ordered))

    return best


def best_merged(rewards, n):
    distinct = rewards.unique()
    return best_by_weights(distinct if len(distinct) >= n else rewards, n)


def best_summed(rewards, n):
    total, ordered = len(rewards), sorted(rewards.tolist())
    return sum(math.comb(i, n - 1) * ordered[i] for i in range(n - 1, total)) / math.comb(total, n)


def best_in_place(rewards, n):
    rewards.copy_(rewards.sort().values)
    return best_by_weights(rewards, n)


def best_by_quantile(rewards, n):
    return torch.quantile(rewards.double(), n / (n + 1)).item()


BEST = Exercise(
    expected_best_of_n,
    points=3,
    cases=best_cases,
    result="float",
    variants=(best_by_subsets, best_by_weights, best_summed, best_by_logs),
    mistakes=(
        Mistake("plain-maximum", lambda r, n: r.max().item(), "The maximum of all samples is taken, whatever n is.", "You have 100 samples. Is the best of them what the best of 2 would be?"),
        Mistake("first-n", lambda r, n: r[:n].max().item(), "Only the first n samples are used.", "What do the other samples tell?"),
        Mistake("last-n", lambda r, n: r[-n:].max().item(), "Only the last n samples are used.", "What do the other samples tell?"),
        Mistake("blocks", best_in_blocks, "The samples are cut into blocks of n, so that the answer depends on their order.", "Should the estimate change if the same samples come in another order?"),
        Mistake("with-replacement", best_with_replacement, "The samples are drawn with replacement.", "Can the same sample be two of the n?"),
        Mistake("weights-too-low", best_weighted(lambda i, total, n: math.comb(i, n) / math.comb(total, n)), "The other members of a subset are counted as n, not as n − 1.", "If a reward is the largest of its subset, how many others are in it?"),
        Mistake("not-divided", best_weighted(lambda i, total, n: math.comb(i, n - 1)), "The weights do not sum to 1.", "In how many subsets is any of the rewards the largest?"),
        Mistake("ordered-subsets", best_weighted(lambda i, total, n: math.perm(i, n - 1) / math.perm(total, n)), "The order within a subset counts above, but not below.", "Does the order in which the n were drawn change which is the largest?"),
        Mistake("starts-one-late", best_weighted(lambda i, total, n: math.comb(i, n - 1) / math.comb(total, n) if i >= n else 0.0), "The smallest reward that can be a maximum is left out.", "Can the n-th smallest reward be the largest of n?"),
        Mistake("sliding-windows", lambda rewards, n: rewards.unfold(0, n, 1).amax(1).mean().item(), "Only subsets of neighbours are looked at.", "Which subsets of n are there besides those in a row?"),
        Mistake("equal-rewards-merged", best_merged, "Equal rewards are counted once.", "If half of the samples score 1, how likely is a 1 among two of them?"),
        Mistake("upper-quantile", lambda rewards, n: torch.quantile(rewards.double(), 1 - 1 / n).item(), "It is a quantile of the rewards.", "Is the largest of n always at the same place of the order?"),
        Mistake("random-subsets", best_of_random, "A few random subsets stand for all of them.", "Can the mean over all subsets be written down without drawing any?"),
        Mistake("top-n-mean", lambda r, n: r.topk(n).values.mean().item(), "The best n samples are averaged.", "Is the mean of the n best the best of n?"),
        Mistake("mean", lambda r, n: r.mean().item(), "It is the mean reward.", "For which n is the best of n the mean?"),
        Mistake("nth-best", lambda r, n: r.sort(descending=True).values[n - 1].item(), "It is the n-th best sample.", "For which n is the best of n the best of all?"),
        Mistake("weights-shifted", best_weights_shifted, "The weights are those of the next larger sample, and do not add up to 1.", "In how many subsets of n is the i-th smallest sample the largest?"),
        Mistake("best-of-n-minus-one", lambda r, n: expected_best_of_n(r, max(n - 1, 1)), "The weights are those of n − 1.", "In how many subsets of n is the i-th smallest sample the largest?"),
        Mistake("worst", best_worst, "It is the worst of n.", "In which direction are the samples sorted?"),
        Mistake("not-sorted", best_unsorted, "The weights meet the samples in the order in which they come.", "Which sample has the largest weight?"),
        Mistake("quantile", best_by_quantile, "A quantile stands for the mean.", "Is the typical maximum the mean maximum?"),
        Mistake("in-place", best_in_place, "It sorts the rewards that it was given.", "Which response does the first reward belong to now?"),
    ),
)  # fmt: skip


# pass_at_k


def pass_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    n = int(d.integers(12, 30, 1))
    c, k = int(d.integers(2, n // 2, 1)), int(d.integers(2, 5, 1))
    return [
        Case((5, 2, 2), "2 of 5 right, and 2 tries"),
        Case((n, c, k), f"{c} of {n} right, and {k} tries"),
        Case((10, 3, 1), "a single try"),
        Case((10, 0, 3), "no sample right"),
        Case((10, 10, 3), "all samples right"),
        Case((10, 8, 3), "fewer wrong samples than tries"),
        Case((10, 7, 3), "as many wrong samples as tries"),
        Case((6, 1, 6), "as many tries as samples"),
        Case((1, 1, 1), "one sample, and it is right"),
        Case((1, 0, 1), "one sample, and it is wrong"),
        Case((10_000, 20, 500), "10,000 samples", 1e-6, 1e-6),
        Case((10_000, 3, 9000), "10,000 samples and 9,000 tries"),
        Case((10_000, 5000, 5000), "10,000 samples, half of them right"),
    ]


def pass_by_floats(n, c, k):
    return 1.0 - math.gamma(n - c + 1) / math.gamma(n - c - k + 1) * math.gamma(n - k + 1) / math.gamma(n + 1)


def pass_by_lgamma_alone(n, c, k):
    fails = math.lgamma(n - c + 1) - math.lgamma(n - c - k + 1) - math.lgamma(n + 1) + math.lgamma(n - k + 1)
    return 1 - math.exp(fails)


def pass_by_lgamma32(n, c, k):
    if n - c < k:
        return 1.0
    wrong, most, all_of, rest = (torch.lgamma(torch.tensor(x + 1.0)) for x in (n - c, n - c - k, n, n - k))
    return (1 - torch.exp(wrong - most - all_of + rest)).item()


def pass_by_zero_factor(n, c, k):
    # where fewer are wrong than there are tries, one of the factors is 0: no special case is needed
    return 1 - math.prod(1 - k / i for i in range(n - c + 1, n + 1))


def pass_by_comb(n, c, k):
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def pass_by_lgamma(n, c, k):
    if n - c < k:
        return 1.0
    log = math.lgamma(n - c + 1) - math.lgamma(n - c - k + 1) - math.lgamma(n + 1) + math.lgamma(n - k + 1)
    return 1 - math.exp(log)


def pass_by_numpy(n, c, k):
    import numpy

    if n - c < k:
        return 1.0
    return 1.0 - numpy.prod(1.0 - k / numpy.arange(n - c + 1, n + 1))


def pass_by_tries(n, c, k):
    wrong = 1.0
    for i in range(k):
        wrong *= max(n - c - i, 0) / (n - i)
    return torch.tensor(1 - wrong, dtype=torch.float64)


PASS = Exercise(
    pass_at_k,
    points=2,
    cases=pass_cases,
    result="float",
    variants=(pass_by_comb, pass_by_lgamma, pass_by_numpy, pass_by_tries, pass_by_zero_factor),
    mistakes=(
        Mistake("with-replacement", lambda n, c, k: 1 - (1 - c / n) ** k, "The samples are drawn with replacement, which makes the estimate too small.", "Can the same sample be two of the k?"),
        Mistake("share-right", lambda n, c, k: c / n, "It is the share of right samples, whatever k is.", "Does it help to have more tries?"),
        Mistake("share-times-k", lambda n, c, k: min(1.0, c * k / n), "The share is multiplied by k.", "Is the chance of a hit in two tries twice that of one?"),
        Mistake("all-right", lambda n, c, k: math.comb(c, k) / math.comb(n, k), "It is the probability that all k are right.", "How many of the k have to be right?"),
        Mistake("none-right", lambda n, c, k: math.comb(n - c, k) / math.comb(n, k), "It is the probability that none is right.", "How many of the k have to be right?"),
        Mistake("exactly-one", lambda n, c, k: c * math.comb(n - c, k - 1) / math.comb(n, k), "It is the probability that exactly one is right.", "What if two of the k are right?"),
        Mistake("any-right", lambda n, c, k: float(c > 0), "It says whether any sample is right.", "What if k is smaller than n?"),
        Mistake("first-factor-missing", lambda n, c, k: 1 - math.prod(1 - k / i for i in range(n - c + 2, n + 1)) if n - c >= k else 1.0, "A factor of the product is missing.", "How many factors does the product have: c, or c − 1?"),
        Mistake("one-factor-too-many", lambda n, c, k: 1 - math.prod(1 - k / i for i in range(max(n - c, k), n + 1)) if n - c >= k else 1.0, "The product has one factor too many.", "How many factors does the product have?"),
        Mistake("log-gamma-below-zero", pass_by_lgamma_alone, "Where fewer samples are wrong than there are tries, log-gamma is asked at 0 or below, where it has no value.", "8 of 10 are right, and you have 3 tries. Can all three fail?"),
        Mistake("right-and-wrong-swapped", lambda n, c, k: 1 - math.comb(c, k) / math.comb(n, k), "It is the probability that not all of the k are right.", "Of which samples must all k be, so that none is right?"),
        Mistake("denominators-stay", lambda n, c, k: 1 - math.prod(max(0, n - c - i) / n for i in range(k)), "Every try draws from all n samples.", "How many samples are left for the second try?"),
        Mistake("zero-when-few-are-wrong", lambda n, c, k: 0.0 if n - c < k else pass_by_comb(n, c, k), "It says 0 where there are fewer wrong samples than tries.", "8 of 10 are right, and you have 3 tries. Can all three fail?"),
        Mistake("one-try-too-few", lambda n, c, k: pass_by_comb(n, c, k - 1), "One try too few is counted.", "With k = 1, how many factors does the product have?"),
        Mistake("log-gamma-in-float32", pass_by_lgamma32, "Log-gamma of 10,000 is about 82,000, and float32 has no digits left for what counts.", "How many digits does float32 hold?"),
        Mistake("one-too-early", lambda n, c, k: 1.0 if n - c <= k else pass_by_comb(n, c, k), "It says 1 where there are just as many wrong samples as tries.", "3 of 10 are wrong, and you have 3 tries. Can all three fail?"),
        Mistake("overflows", lambda n, c, k: 1.0 if n - c < k else pass_by_floats(n, c, k), "The factorials are too large for a float.", "How large is 10,000 factorial?"),
        Mistake("n-minus-c-over-n", lambda n, c, k: 1 - (n - c) / n**k, "Only one factor has a numerator.", "How likely is it that the first try fails? And the second, after that?"),
        Mistake("percent", lambda n, c, k: 100 * pass_at_k(n, c, k), "It is given in percent.", "Between which numbers must a probability be?"),
    ),
)  # fmt: skip


# pareto_front


def pareto_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    kl, reward = d.uniform(0, 10, 9), d.normal(9)
    return [
        Case((torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0])), "three points, the last of them beaten"),
        Case((kl, reward), "nine points"),
        Case((d.integers(0, 4, 12).float(), d.integers(0, 4, 12).float()), "many ties"),
        Case((torch.tensor([1.0, 1.0, 1.0]), torch.tensor([2.0, 2.0, 2.0])), "equal points"),
        Case((torch.tensor([1.0, 1.0, 2.0]), torch.tensor([2.0, 3.0, 3.0])), "points that tie in one of the two"),
        Case(
            (torch.tensor([1.0, 1.0, 2.0, 2.0]), torch.tensor([2.0, 2.0, 5.0, 5.0])), "two points, each of them twice"
        ),
        Case((torch.tensor([0.5]), torch.tensor([-1.0])), "a single point"),
        Case((torch.arange(5.0), torch.arange(5.0)), "more reward for more KL"),
        Case((torch.arange(5.0), -torch.arange(5.0)), "less reward for more KL"),
        Case((kl.flip(0), reward + torch.linspace(0, 2, 9)), "nine other points"),
        Case(
            (torch.tensor([1.0, 1.0001, 2.0, 3.0, 3.0]), torch.tensor([0.5, 0.5001, 0.5001, 0.9, 0.9001])),
            "points that hardly differ",
        ),
    ]


def pareto(beats):
    """pareto_front by another rule: beats(kl_i, kl_j, reward_i, reward_j) says whether i beats j."""

    def front(kl, reward):
        return ~beats(kl[:, None], kl[None, :], reward[:, None], reward[None, :]).any(dim=0)

    return front


def pareto_best_so_far(kl, reward):
    order = kl.argsort()
    best, front = -math.inf, torch.zeros(len(kl), dtype=torch.bool)
    for i in order.tolist():
        if reward[i] > best:
            best = reward[i].item()
            front[i] = True
    return front


def pareto_in_place(kl, reward):
    front = pareto_front(kl, reward)
    reward[~front] = 0.0
    return front


def pareto_by_loop(kl, reward):
    points = list(zip(kl.tolist(), reward.tolist(), strict=True))
    keep = []
    for k, r in points:
        keep.append(not any(k2 <= k and r2 >= r and (k2 < k or r2 > r) for k2, r2 in points))
    return torch.tensor(keep)


def pareto_by_sorting(kl, reward):
    front = torch.zeros(len(kl), dtype=torch.bool)
    best = -math.inf
    for value in kl.unique():
        here = kl == value
        top = reward[here].max().item()
        if top > best:
            front |= here & (reward == top)
            best = top
    return front


def pareto_by_envelope(kl, reward):
    cheaper = kl[None, :] < kl[:, None]
    as_cheap = kl[None, :] <= kl[:, None]
    beaten = (cheaper & (reward[None, :] >= reward[:, None])) | (as_cheap & (reward[None, :] > reward[:, None]))
    return torch.logical_not(beaten.any(1))


def pareto_nearly(kl, reward):
    better = (kl[:, None] < kl - 1e-3) | (reward[:, None] > reward + 1e-3)
    return ~((kl[:, None] <= kl + 1e-3) & (reward[:, None] >= reward - 1e-3) & better).any(dim=0)


PARETO = Exercise(
    pareto_front,
    points=2,
    cases=pareto_cases,
    variants=(pareto_by_loop, pareto_by_sorting, pareto_by_envelope),
    mistakes=(
        Mistake("strict-in-both", pareto(lambda ki, kj, ri, rj: (ki < kj) & (ri > rj)), "A point is only beaten by one that is better in both.", "Same KL, more reward: which of the two would you keep?"),
        Mistake("equal-points-beat-each-other", pareto(lambda ki, kj, ri, rj: (ki <= kj) & (ri >= rj) & ~torch.eye(ki.shape[0], dtype=torch.bool)), "Equal points beat each other, and both disappear.", "Two runs come out the same. Is one of them better?"),
        Mistake("beats-itself", pareto(lambda ki, kj, ri, rj: (ki <= kj) & (ri >= rj)), "Every point beats itself.", "Can a point be better than itself?"),
        Mistake("more-kl-is-better", pareto(lambda ki, kj, ri, rj: (ki >= kj) & (ri >= rj) & ((ki > kj) | (ri > rj))), "More KL counts as better.", "Is KL a cost or a gain?"),
        Mistake("less-reward-is-better", pareto(lambda ki, kj, ri, rj: (ki <= kj) & (ri <= rj) & ((ki < kj) | (ri < rj))), "Less reward counts as better.", "Is reward a cost or a gain?"),
        Mistake("either-is-enough", pareto(lambda ki, kj, ri, rj: (ki < kj) | (ri > rj)), "A point that is better in one of the two beats, however bad it is in the other.", "A point with a little less KL and far less reward: does it beat?"),
        Mistake("hardly-better-does-not-count", pareto_nearly, "A point that is only a little better does not beat.", "How much better must a point be?"),
        Mistake("first-of-equals", pareto_best_so_far, "Of points with the same KL or the same values, only one is kept.", "Two runs come out the same. Is one of them better?"),
        Mistake("kl-tie-ignored", pareto(lambda ki, kj, ri, rj: (ki < kj) & (ri >= rj)), "Points with the same KL do not beat each other.", "Same KL, more reward: which of the two would you keep?"),
        Mistake("reward-tie-ignored", pareto(lambda ki, kj, ri, rj: (ki <= kj) & (ri > rj)), "Points with the same reward do not beat each other.", "Same reward, less KL: which of the two would you keep?"),
        Mistake("best-ratio", lambda kl, reward: reward / kl.clamp(min=1e-6) >= (reward / kl.clamp(min=1e-6)).max(), "Only the best reward per nat is kept.", "Might somebody be willing to pay more for more?"),
        Mistake("best-reward-only", lambda kl, reward: reward == reward.max(), "Only the largest reward is kept.", "Is a point with almost the same reward and a tenth of the KL beaten?"),
        Mistake("negated", lambda kl, reward: ~pareto_front(kl, reward), "The beaten points are marked.", "Which points are asked for?"),
        Mistake("indices", lambda kl, reward: pareto_front(kl, reward).nonzero().squeeze(1), "Indices come back, not a mask.", "What shape should the result have?"),
        Mistake("floats", lambda kl, reward: pareto_front(kl, reward).float(), "Numbers come back, not truth values.", "Of what type is a mask?"),
        Mistake("everything", lambda kl, reward: torch.ones_like(kl, dtype=torch.bool), "Every point is marked.", "Which points are beaten?"),
        Mistake("in-place", pareto_in_place, "It writes into the rewards.", "Who plots the rewards afterwards?"),
    ),
)  # fmt: skip


EXERCISES = (WIN, WILSON, BOUND, BEST, PASS, PARETO)
