"""Lesson 01: what people prefer."""

from __future__ import annotations

import hashlib
import random

import torch
import torch.nn.functional as F

from autograder.draws import NAN, Draw
from autograder.exercise import Case, Exercise, Mistake
from rlhf_core.preferences import (
    cohen_kappa,
    collate_pairs,
    preference_pairs,
    preference_probability,
    rater_agreement,
    split_by_prompt,
)

# preference_probability


def probability_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    extreme = torch.tensor([1e4, -1e4, 1e4, -1e4, 0.0])
    return [
        Case((d.normal(4), d.normal(4)), "temperature left at 1"),
        Case((d.normal(4), d.normal(4), 0.5), "temperature 0.5"),
        Case((d.normal(2, 3), d.normal(2, 3), 2.5), "temperature 2.5 and two dimensions"),
        Case((extreme, -extreme.roll(1), 1.0), "scores of ±10,000"),
        Case((d.normal(3) + 90, d.normal(3) + 90, 1.0), "scores that are both large", None, 1e-4),
        Case((d.normal(3), d.normal(3) * 0, 1.0), "a score of 0"),
    ]


def share_of_score(a, b, temperature=1.0):
    return a / (a + b)


def probability_reversed(a, b, temperature=1.0):
    return torch.sigmoid((b - a) / temperature)


def probability_times_temperature(a, b, temperature=1.0):
    return torch.sigmoid((a - b) * temperature)


def probability_no_temperature(a, b, temperature=1.0):
    return torch.sigmoid(a - b)


def probability_overflow(a, b, temperature=1.0):
    return torch.exp(a / temperature) / (torch.exp(a / temperature) + torch.exp(b / temperature))


def probability_hard(a, b, temperature=1.0):
    return (a > b).float() + 0.5 * (a == b).float()


def probability_logit(a, b, temperature=1.0):
    return (a - b) / temperature


def probability_log(a, b, temperature=1.0):
    return F.logsigmoid((a - b) / temperature)


def probability_divided_after(a, b, temperature=1.0):
    return torch.sigmoid(a - b) / temperature


def probability_in_place(a, b, temperature=1.0):
    a -= b
    return torch.sigmoid(a / temperature)


def probability_of_one(a, b, temperature=1.0):
    return torch.sigmoid(a / temperature)


PROBABILITY = Exercise(
    preference_probability,
    points=2,
    cases=probability_cases,
    variants=(
        lambda a, b, temperature=1.0: torch.softmax(torch.stack([a, b]) / temperature, 0)[0],
        lambda a, b, t=1.0: 1 / (1 + torch.exp((b - a) / t)),
        lambda a, b, t=1.0: F.logsigmoid((a.double() - b.double()) / t).exp(),
    ),
    mistakes=(
        Mistake("share-of-the-score", share_of_score, "The probability is taken as a's share of the two scores.",
                "What would that give for scores of −1 and 3, or 0 and 0?"),
        Mistake("reversed", probability_reversed, "This is the probability that b is preferred.",
                "If a scores higher, should your number be above or below one half?"),
        Mistake("multiplies-by-temperature", probability_times_temperature, "The gap is multiplied by the temperature.",
                "Should a noisy rater, with a high temperature, come closer to one half or move away from it?"),
        Mistake("ignores-temperature", probability_no_temperature, "The temperature is left out.",
                "How does a rater who nearly guesses differ from a careful one?"),
        Mistake("exponential-overflows", probability_overflow, "The exponential of a large score overflows.",
                "Does the probability depend on both scores, or only on their difference?"),
        Mistake("hard-choice", probability_hard, "The better text is always preferred, without any doubt.",
                "Do people always choose the better of two nearly equal texts?"),
        Mistake("gap-not-probability", probability_logit, "The gap of the scores comes back, not a probability.",
                "Between which two numbers does a probability lie?"),
        Mistake("log-probability", probability_log, "The logarithm of the probability comes back.",
                "Between which two numbers does a probability lie?"),
        Mistake("temperature-outside", probability_divided_after, "The probability itself is divided by the temperature.",
                "Could your number exceed 1 for a small temperature?"),
        Mistake("changes-the-scores", probability_in_place, "The result is right, but score_a is overwritten.",
                "Who else is going to read these scores?"),
        Mistake("ignores-b", probability_of_one, "Only a's score counts.", "Whom is a compared with?"),
    ),
)  # fmt: skip

# preference_pairs


def pairs_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    quarters = d.integers(-8, 9, 8).float() / 4
    quarters[2], quarters[5], quarters[1] = quarters[0], quarters[0] + 0.5, quarters[0] - 1.25
    among = torch.cat([torch.tensor([[0, 2], [0, 5], [5, 0], [1, 0], [0, 1], [2, 1]]), d.integers(0, 8, 8, 2)])
    shuffled = among[torch.randperm(len(among), generator=d.generator)]
    return [
        Case((torch.tensor([3.0, 1.0, 2.0]), torch.tensor([[1, 0], [0, 2], [1, 2]])), "three items"),
        Case((quarters, shuffled), "items of equal rating among the candidates"),
        Case((quarters, shuffled, 0.5), "gaps that equal min_gap exactly"),
        Case((quarters, shuffled, 1.25), "a large min_gap"),
        Case((quarters, torch.tensor([[0, 2], [2, 0]]), 0.0), "nothing but ties"),
        Case((torch.tensor([-2.5, 1.5]), torch.tensor([[0, 1]]), 1.0), "a single pair"),
    ]


def gap_of(ratings, candidates):
    return ratings[candidates[:, 0]] - ratings[candidates[:, 1]]


def better_first(ratings, candidates):
    return torch.where(gap_of(ratings, candidates)[:, None] >= 0, candidates, candidates.flip(1))


def pairs_at_least(ratings, candidates, min_gap=0.0):
    return better_first(ratings, candidates)[gap_of(ratings, candidates).abs() >= min_gap]


def pairs_unoriented(ratings, candidates, min_gap=0.0):
    return candidates[gap_of(ratings, candidates).abs() > min_gap]


def pairs_worse_first(ratings, candidates, min_gap=0.0):
    return preference_pairs(ratings, candidates, min_gap).flip(1)


def pairs_signed(ratings, candidates, min_gap=0.0):
    return candidates[gap_of(ratings, candidates) > min_gap]


def pairs_no_gap(ratings, candidates, min_gap=0.0):
    return preference_pairs(ratings, candidates)


def pairs_sorted(ratings, candidates, min_gap=0.0):
    kept = preference_pairs(ratings, candidates, min_gap)
    return kept[gap_of(ratings, kept).argsort(descending=True, stable=True)]


def pairs_unique(ratings, candidates, min_gap=0.0):
    return torch.unique(preference_pairs(ratings, candidates, min_gap), dim=0)


def pairs_ratings(ratings, candidates, min_gap=0.0):
    return ratings[preference_pairs(ratings, candidates, min_gap)]


def pairs_relative(ratings, candidates, min_gap=0.0):
    gap = gap_of(ratings, candidates).abs()
    return better_first(ratings, candidates)[gap > min_gap * ratings.std(correction=0) + 1e-6]


def pairs_in_place(ratings, candidates, min_gap=0.0):
    kept = preference_pairs(ratings, candidates, min_gap)
    candidates[:] = better_first(ratings, candidates)
    candidates.clamp_(max=0)
    return kept


def pairs_by_loop(ratings, candidates, min_gap=0.0):
    found = []
    for a, b in candidates.tolist():
        if abs(ratings[a].item() - ratings[b].item()) > min_gap:
            found.append([a, b] if ratings[a] > ratings[b] else [b, a])
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)


def pairs_by_sort(ratings, candidates, min_gap=0.0):
    scores = ratings[candidates]
    order = scores.argsort(dim=1, descending=True)
    keep = (scores.max(1).values - scores.min(1).values) > min_gap
    return candidates.gather(1, order)[keep]


def pairs_by_stack(ratings, candidates, min_gap=0.0):
    i, j = candidates.unbind(1)
    first_wins = ratings[i] > ratings[j]
    kept = torch.abs(ratings[i] - ratings[j]) > min_gap
    return torch.stack([torch.where(first_wins, i, j), torch.where(first_wins, j, i)], dim=1)[kept]


PAIRS = Exercise(
    preference_pairs,
    points=3,
    cases=pairs_cases,
    variants=(pairs_by_loop, pairs_by_sort, pairs_by_stack),
    mistakes=(
        Mistake("ties-kept", pairs_at_least, "Pairs whose gap only equals min_gap are kept, ties among them.",
                "Which of two equally rated texts is the chosen one?"),
        Mistake("file-order", pairs_unoriented, "The pairs stay in the order in which they came.",
                "Which column should hold the better-rated item?"),
        Mistake("worse-first", pairs_worse_first, "The worse item comes first.", "Which of the two did people prefer?"),
        Mistake("one-direction-only", pairs_signed, "Pairs whose second item is better are dropped instead of turned round.",
                "What should happen to a candidate pair whose second item is rated higher?"),
        Mistake("ignores-min-gap", pairs_no_gap, "min_gap is ignored.", "Which pairs are too close to call?"),
        Mistake("sorted-by-gap", pairs_sorted, "The pairs come back sorted by their gap.",
                "In whose order are the pairs asked for?"),
        Mistake("duplicates-removed", pairs_unique, "Repeated pairs are merged, and the order is lost.",
                "May the same comparison occur twice in a data set?"),
        Mistake("ratings-not-indices", pairs_ratings, "Ratings come back where item indices are asked for.",
                "How will the caller find the texts of a pair?"),
        Mistake("gap-in-standard-deviations", pairs_relative, "min_gap is measured in standard deviations of the ratings.",
                "In which unit is min_gap given?"),
        Mistake("changes-the-candidates", pairs_in_place, "The result is right, but the candidates are overwritten.",
                "Who else is going to read the candidates?"),
    ),
)  # fmt: skip

# rater_agreement


def agreement_cases(seed: int) -> list[Case]:
    d = Draw(seed)

    def ratings(items: int, raters: int, missing: float) -> torch.Tensor:
        numbers = d.integers(-3, 4, items, raters).float()
        return numbers.masked_fill(torch.rand(items, raters, generator=d.generator) < missing, NAN)

    def pairs(items: int, count: int) -> torch.Tensor:
        first = d.integers(0, items, count)
        return torch.stack([first, (first + d.integers(1, items, count)) % items], 1)

    tied_crowd = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 1.0, 2.0]])
    alone = torch.tensor([[2.0, NAN, NAN], [1.0, 0.0, 3.0], [0.0, 1.0, 2.0], [3.0, 2.0, NAN]])
    outlier = torch.tensor([[3.0, -1.0, -1.0, -1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 0.0, 1.0]])
    return [
        Case((torch.tensor([[2.0, 1.0, 3.0], [0.0, 2.0, 1.0]]), torch.tensor([[0, 1]])), "two items and three raters"),
        Case((ratings(6, 4, 0.0), pairs(6, 9)), "everybody rating everything"),
        Case((ratings(6, 5, 0.4), pairs(6, 12)), "missing ratings"),
        Case((tied_crowd, torch.tensor([[0, 1], [1, 2], [2, 0]])), "a tie among the others"),
        Case((alone, torch.tensor([[0, 1], [1, 2], [2, 3], [3, 1]])), "an item that only one person rated"),
        Case((outlier, torch.tensor([[0, 1], [1, 2], [0, 2]])), "one rater far from the others"),
        Case((ratings(8, 3, 0.3), pairs(8, 20)), "few raters"),
        Case(
            (torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[0, 1]])),
            "raters who tie every pair",
            raises="ValueError",
        ),
    ]


def votes_of(ratings, pairs, crowd=None, own_ties=False, need_others=True):
    """(agreement of each vote, pair, rater): 1, ½ or 0; `crowd` gives the mean that judges a rater's vote on an item."""
    votes = []
    for k, (i, j) in enumerate(pairs.tolist()):
        for r in range(ratings.shape[1]):
            a, b = ratings[i, r].item(), ratings[j, r].item()
            if a != a or b != b or (a == b and not own_ties):
                continue
            mean_i, mean_j = (crowd or mean_of_others)(ratings, i, r), (crowd or mean_of_others)(ratings, j, r)
            if mean_i is None or mean_j is None:
                continue
            votes.append((0.5 if mean_i == mean_j else float((a > b) == (mean_i > mean_j)), k, r))
    if not votes:
        raise ValueError("no vote")
    return votes


def mean_of_others(ratings, item, rater):
    others = [x for r, x in enumerate(ratings[item].tolist()) if r != rater and x == x]
    return sum(others) / len(others) if others else None


def mean_of_all(ratings, item, rater):
    return sum(known := [x for x in ratings[item].tolist() if x == x]) / len(known)


def zero_for_missing(ratings, item, rater):
    others = [0.0 if x != x else x for r, x in enumerate(ratings[item].tolist()) if r != rater]
    return sum(others) / len(others)


def median_of_others(ratings, item, rater):
    others = sorted(x for r, x in enumerate(ratings[item].tolist()) if r != rater and x == x)
    return None if not others else (others[(len(others) - 1) // 2] + others[len(others) // 2]) / 2


def zero_when_alone(ratings, item, rater):
    mean = mean_of_others(ratings, item, rater)
    return 0.0 if mean is None else mean


def share(votes):
    return sum(v for v, _, _ in votes) / len(votes)


def agreement_with_self(ratings, pairs):
    return share(votes_of(ratings, pairs, mean_of_all))


def agreement_missing_zero(ratings, pairs):
    return share(votes_of(ratings, pairs, zero_for_missing))


def agreement_median(ratings, pairs):
    return share(votes_of(ratings, pairs, median_of_others))


def agreement_alone_zero(ratings, pairs):
    return share(votes_of(ratings, pairs, zero_when_alone))


def agreement_tie_lost(ratings, pairs):
    votes = votes_of(ratings, pairs)
    return sum(v == 1 for v, _, _ in votes) / len(votes)


def agreement_tie_won(ratings, pairs):
    votes = votes_of(ratings, pairs)
    return sum(v > 0 for v, _, _ in votes) / len(votes)


def agreement_tie_skipped(ratings, pairs):
    votes = votes_of(ratings, pairs)
    clear = [v for v, _, _ in votes if v != 0.5]
    return sum(clear) / max(len(clear), 1)


def agreement_own_ties(ratings, pairs):
    votes_of(ratings, pairs)
    return share(votes_of(ratings, pairs, own_ties=True))


def averaged_by(place):
    def agreement(ratings, pairs):
        groups = {}
        for vote in votes_of(ratings, pairs):
            groups.setdefault(vote[place], []).append(vote[0])
        return sum(sum(g) / len(g) for g in groups.values()) / len(groups)

    return agreement


def agreement_disagreement(ratings, pairs):
    return 1 - rater_agreement(ratings, pairs)


def agreement_nan(ratings, pairs):
    try:
        return rater_agreement(ratings, pairs)
    except ValueError:
        return NAN


def agreement_vectorised(ratings, pairs):
    known = ratings.isfinite()
    total, count = ratings.nan_to_num().sum(1, keepdim=True), known.sum(1, keepdim=True)
    others = (total - ratings.nan_to_num()) / (count - known.long())
    own = torch.sign(ratings[pairs[:, 0]] - ratings[pairs[:, 1]])
    gap = others[pairs[:, 0]] - others[pairs[:, 1]]
    crowd = torch.sign(gap)
    use = known[pairs[:, 0]] & known[pairs[:, 1]] & (own != 0) & gap.isfinite()
    if not use.any():
        raise ValueError("nobody votes")
    return ((own * crowd + 1) / 2)[use].mean()


def agreement_by_rater(ratings, pairs):
    points, votes = 0.0, 0
    for r in range(ratings.shape[1]):
        rest = torch.cat([ratings[:, :r], ratings[:, r + 1 :]], 1)
        mean = torch.nanmean(rest.double(), 1)
        for i, j in pairs:
            gap, crowd = ratings[i, r] - ratings[j, r], mean[i] - mean[j]
            if torch.isnan(gap) or torch.isnan(crowd) or gap == 0:
                continue
            votes += 1
            points += 0.5 if crowd == 0 else float(torch.sign(gap) == torch.sign(crowd))
    if votes == 0:
        raise ValueError("nobody votes")
    return points / votes


AGREEMENT = Exercise(
    rater_agreement,
    points=4,
    cases=agreement_cases,
    result="float",
    variants=(agreement_vectorised, agreement_by_rater, lambda ratings, pairs: share(votes_of(ratings, pairs))),
    mistakes=(
        Mistake("rater-in-the-crowd", agreement_with_self, "The rater is also part of the crowd that judges them.",
                "Whose opinion should the mean hold when you ask whether one person agrees with the others?"),
        Mistake("tie-among-others-lost", agreement_tie_lost, "A tie among the others counts as a disagreement.",
                "If the others are undecided, how often would the rater agree by chance?"),
        Mistake("tie-among-others-won", agreement_tie_won, "A tie among the others counts as an agreement.",
                "If the others are undecided, how often would the rater agree by chance?"),
        Mistake("tie-among-others-skipped", agreement_tie_skipped, "A tie among the others is skipped.",
                "What does the contract give to a vote on which the others are undecided?"),
        Mistake("own-ties-counted", agreement_own_ties, "A rater who gives both items the same rating is counted as voting.",
                "Has this rater said which one is better?"),
        Mistake("missing-is-zero", agreement_missing_zero, "A missing rating is read as 0.",
                "What does 0 mean on a scale from −4 to 4?"),
        Mistake("median-of-the-others", agreement_median, "The others are summed up by their median.",
                "Which average of the other ratings is asked for?"),
        Mistake("alone-against-zero", agreement_alone_zero, "An item that nobody else rated gets a mean of 0.",
                "Is there anybody to agree with?"),
        Mistake("mean-of-rater-means", averaged_by(2), "Each rater is averaged first, and then the raters.",
                "Should somebody who voted once weigh as much as somebody who voted a hundred times?"),
        Mistake("mean-of-pair-means", averaged_by(1), "Each pair is averaged first, and then the pairs.",
                "Over what is the share taken: pairs, or votes?"),
        Mistake("disagreement", agreement_disagreement, "This is how often the rater disagrees.",
                "What should come out when everybody ranks alike?"),
        Mistake("nan-without-votes", agreement_nan, "Without any vote NaN comes back, without a word.",
                "How would somebody notice that there was nothing to count?"),
    ),
)  # fmt: skip

# cohen_kappa


def kappa_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    a = d.integers(0, 3, 30)
    b = torch.where(torch.rand(30, generator=d.generator) < 0.6, a, d.integers(0, 3, 30))
    skew = (torch.rand(40, generator=d.generator) < 0.8).long()
    other = (torch.rand(40, generator=d.generator) < 0.3).long()
    skew[:2], other[:2] = torch.tensor([0, 1]), torch.tensor([1, 0])
    return [
        Case((torch.tensor([0, 1, 1, 0, 1]), torch.tensor([0, 1, 0, 0, 1])), "two labels"),
        Case((a, b), "three labels"),
        Case((skew, other), "raters of different habits"),
        Case((a * 7 - 5, b * 7 - 5), "labels that are any integers"),
        Case((d.integers(0, 2, 20), d.integers(1, 4, 20)), "labels that only one of them uses"),
        Case((a, a.clone()), "raters who always agree"),
        Case((torch.full((6,), 2), torch.full((6,), 2)), "raters who both give one single label"),
        Case((torch.tensor([0, 1, 0, 1]), torch.tensor([1, 0, 1, 0])), "raters who always disagree"),
    ]


def observed_share(a, b):
    return (a == b).double().mean()


def marginals(a, b):
    labels = torch.cat([a, b]).unique()
    return (a[:, None] == labels).double().mean(0), (b[:, None] == labels).double().mean(0)


def kappa_from(p_o, p_e):
    return 1.0 if float(p_e) == 1 else float((p_o - p_e) / (1 - p_e))


def kappa_raw(a, b):
    return float(observed_share(a, b))


def kappa_half(a, b):
    return kappa_from(observed_share(a, b), torch.tensor(0.5))


def kappa_uniform(a, b):
    count = len(torch.cat([a, b]).unique())
    return kappa_from(observed_share(a, b), torch.tensor(1 / count))


def kappa_one_rater(a, b):
    pa, _ = marginals(a, b)
    return kappa_from(observed_share(a, b), (pa * pa).sum())


def kappa_pooled(a, b):
    pa, pb = marginals(a, b)
    return kappa_from(observed_share(a, b), ((pa + pb) / 2).square().sum())


def kappa_difference(a, b):
    pa, pb = marginals(a, b)
    return float(observed_share(a, b) - (pa * pb).sum()) if len(pa) > 1 else 1.0


def kappa_nan(a, b):
    pa, pb = marginals(a, b)
    p_e = (pa * pb).sum()
    return float((observed_share(a, b) - p_e) / (1 - p_e))


def kappa_zero(a, b):
    pa, _ = marginals(a, b)
    return 0.0 if len(pa) == 1 else cohen_kappa(a, b)


def kappa_clipped(a, b):
    return max(0.0, cohen_kappa(a, b))


def kappa_correlation(a, b):
    x, y = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = (x.square().sum() * y.square().sum()).sqrt()
    return 1.0 if scale == 0 else float((x * y).sum() / scale)


def kappa_by_table(a, b):
    labels = sorted(set(a.tolist()) | set(b.tolist()))
    table = torch.zeros(len(labels), len(labels), dtype=torch.float64)
    for x, y in zip(a.tolist(), b.tolist()):
        table[labels.index(x), labels.index(y)] += 1
    table /= table.sum()
    p_o, p_e = table.trace(), (table.sum(0) * table.sum(1)).sum()
    return 1.0 if p_e == 1 else ((p_o - p_e) / (1 - p_e)).item()


def kappa_by_counter(a, b):
    n, left, right = len(a), a.tolist(), b.tolist()
    p_o = sum(x == y for x, y in zip(left, right)) / n
    p_e = sum(left.count(v) * right.count(v) for v in set(left) | set(right)) / n**2
    return 1.0 if p_e >= 1 else (p_o - p_e) / (1 - p_e)


def kappa_in_float32(a, b):
    _, codes = torch.unique(torch.cat([a, b]), return_inverse=True)
    x, y = F.one_hot(codes[: len(a)]).float(), F.one_hot(codes[len(a) :], num_classes=int(codes.max()) + 1).float()
    width = max(x.shape[1], y.shape[1])
    x, y = F.pad(x, (0, width - x.shape[1])), F.pad(y, (0, width - y.shape[1]))
    p_o, p_e = (x * y).sum(1).mean(), (x.mean(0) * y.mean(0)).sum()
    return torch.tensor(1.0) if width == 1 else (p_o - p_e) / (1 - p_e)


KAPPA = Exercise(
    cohen_kappa,
    points=2,
    cases=kappa_cases,
    result="float",
    variants=(kappa_by_table, kappa_by_counter, kappa_in_float32),
    mistakes=(
        Mistake("raw-agreement", kappa_raw, "This is the share of equal labels, without any correction for chance.",
                "How often would two raters agree who both say yes nine times in ten, without looking?"),
        Mistake("chance-is-a-half", kappa_half, "Agreement by chance is taken to be one half.",
                "Does chance agreement depend on how often each rater uses each label?"),
        Mistake("chance-is-uniform", kappa_uniform, "Raters without a clue are taken to use all labels equally often.",
                "Does chance agreement depend on how often each rater uses each label?"),
        Mistake("habits-of-one-rater", kappa_one_rater, "Both raters are taken to have the first one's habits.",
                "Whose marginals belong into p_e?"),
        Mistake("pooled-habits", kappa_pooled, "The habits of both raters are averaged, which is Scott's π and not Cohen's κ.",
                "Should two raters of different habits be treated as one?"),
        Mistake("no-denominator", kappa_difference, "The agreement beyond chance is not divided by the most that was possible.",
                "What should κ be for raters who always agree?"),
        Mistake("single-label-is-nan", kappa_nan, "When both always give the same label, the formula is 0/0.",
                "What does the contract ask for there?"),
        Mistake("single-label-is-zero", kappa_zero, "Two raters who always give the same label get 0.",
                "What does the contract ask for there?"),
        Mistake("never-negative", kappa_clipped, "A κ below 0 is cut off.", "What should it say of raters who disagree more than by chance?"),
        Mistake("correlation", kappa_correlation, "This is the correlation of the labels, as if they were quantities.",
                "Would your number change if the labels got other names?"),
    ),
)  # fmt: skip

# split_by_prompt


def split_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    prompts = [f"Prompt {i}: {'é' * (i % 3)}" for i in range(3000)]
    rows = prompts + [prompts[i] for i in d.integers(0, 3000, 300).tolist()]
    rows = [rows[i] for i in torch.randperm(len(rows), generator=d.generator).tolist()]
    return [Case((rows, [0.2, 0.35, 0.1][seed % 3], int(d.integers(0, 1000, 1))), "3,000 prompts, some of them twice")]


def unit(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split_rows(prompts, test_fraction, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(prompts), generator=generator) < test_fraction


def split_shuffled_prompts(prompts, test_fraction, seed):
    names = sorted(set(prompts))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    test = {names[i] for i in order[: int(test_fraction * len(names))]}
    return torch.tensor([p in test for p in prompts])


def split_last(prompts, test_fraction, seed):
    return torch.arange(len(prompts)) >= (1 - test_fraction) * len(prompts)


def split_salted(prompts, test_fraction, seed):
    return torch.tensor([hash(f"{seed} {p}") % 1000 < 1000 * test_fraction for p in prompts])


def split_no_seed(prompts, test_fraction, seed):
    return torch.tensor([unit(p) < test_fraction for p in prompts])


def split_train(prompts, test_fraction, seed):
    return torch.tensor([unit(f"{seed}/{p}") >= test_fraction for p in prompts])


def split_global_torch(prompts, test_fraction, seed):
    torch.manual_seed(seed)
    return split_by_prompt(prompts, test_fraction, seed)


def split_global_random(prompts, test_fraction, seed):
    sides = []
    for p in prompts:
        random.seed(f"{seed}/{p}")
        sides.append(random.random() < test_fraction)
    return torch.tensor(sides)


def split_length(prompts, test_fraction, seed):
    return torch.tensor([unit(f"{seed}/{len(p)}") < test_fraction for p in prompts])


def split_shifted(prompts, test_fraction, seed):
    return torch.tensor([(unit(p) + seed / 1000) % 1 < test_fraction for p in prompts])


def split_list(prompts, test_fraction, seed):
    return [unit(f"{seed}/{p}") < test_fraction for p in prompts]


def split_memory(prompts, test_fraction, seed):
    seen, sides = {}, []
    generator = random.Random(seed)
    for p in prompts:
        seen.setdefault(p, generator.random() < test_fraction)
        sides.append(seen[p])
    return torch.tensor(sides)


SPLIT = Exercise(
    split_by_prompt,
    points=3,
    cases=split_cases,
    probe="split",
    facts="split_facts",
    asks="a bool tensor with one truth value for each row",
    draws=1,
    variants=(
        lambda prompts, f, seed: torch.tensor([random.Random(f"{seed}-{p}").random() < f for p in prompts]),
        lambda prompts, f, seed: torch.tensor(
            [int(hashlib.md5(f"{p}#{seed}".encode()).hexdigest(), 16) % 10_000 < f * 10_000 for p in prompts]
        ),
        lambda prompts, f, seed: torch.tensor([unit(f"{seed}:{p}") < f for p in prompts], dtype=torch.bool),
    ),
    mistakes=(
        Mistake("rows-not-prompts", split_rows, "Every row is drawn for itself.",
                "What happens to two rows with the same prompt, and what could the model then have seen?"),
        Mistake("depends-on-the-other-prompts", split_shuffled_prompts, "The prompts are shuffled as a list, so that each one's side depends on the others.",
                "If one row is added tomorrow, which prompts may change sides?"),
        Mistake("order-of-appearance", split_memory, "Each new prompt draws the next random number, so that the order of the rows decides.",
                "If the same rows come in another order, which prompts change sides?",
                twins=("depends-on-the-other-prompts",)),
        Mistake("last-rows", split_last, "The last rows are the test rows.", "What decides a prompt's side if the file is sorted?"),
        Mistake("salted-hash", split_salted, "Python's hash of a text differs from one process to the next.",
                "Will tomorrow's training run find the same test prompts?"),
        Mistake("ignores-the-seed", split_no_seed, "The seed has no influence.", "How would you draw a second, independent split?"),
        Mistake("train-for-test", split_train, "True marks the training rows.", "Which share of the rows should be True?"),
        Mistake("seeds-torch", split_global_torch, "The split is right, but torch's global random generator is seeded on the way.",
                "What will everybody else's random numbers be after this call?"),
        Mistake("seeds-random", split_global_random, "The split is right, but Python's global random generator is seeded on the way.",
                "What will everybody else's random numbers be after this call?"),
        Mistake("by-length", split_length, "Prompts of the same length always go to the same side.",
                "What of a prompt should decide its side?"),
        Mistake("seed-shifts", split_shifted, "The seed only moves the window, so that neighbouring seeds share their test prompts.",
                "How many prompts should two unrelated splits have in common?"),
        Mistake("list-not-tensor", split_list, "A list comes back where a bool tensor is asked for.",
                "How will the caller index with it?"),
    ),
)  # fmt: skip

# collate_pairs

KEYS = ("chosen_ids", "chosen_mask", "rejected_ids", "rejected_mask")


def collate_cases(seed: int) -> list[Case]:
    d = Draw(seed)

    def rows(*lengths: int) -> list[list[int]]:
        return [d.integers(1, 9, n).tolist() for n in lengths]

    with_pads = rows(4, 3)
    with_pads[0][1] = with_pads[0][3] = with_pads[1][0] = 0
    return [
        Case((rows(3, 1), rows(2, 2), 0), "chosen rows that are longer"),
        Case((rows(2, 1, 3), rows(5, 1, 4), 0), "rejected rows that are longer"),
        Case((with_pads, rows(2, 4), 0), "the pad id among the real tokens"),
        Case((rows(1, 4), rows(3, 2), 99), "a pad id of 99"),
        Case((rows(2), rows(3), 0), "a single pair"),
        Case((rows(3, 3), rows(3, 3), 7), "rows of equal length"),
    ]


def padded(rows, width, pad_id):
    return torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])


def lengths_mask(rows, width):
    return torch.arange(width) < torch.tensor([len(r) for r in rows])[:, None]


def widest(*sides):
    return max(len(row) for side in sides for row in side)


def collated(chosen, rejected, pad_id, pad=padded, mask=lengths_mask, widths=None):
    c, r = widths or (widest(chosen, rejected),) * 2
    return {
        "chosen_ids": pad(chosen, c, pad_id),
        "chosen_mask": mask(chosen, c),
        "rejected_ids": pad(rejected, r, pad_id),
        "rejected_mask": mask(rejected, r),
    }


def collate_by_pad_id(chosen, rejected, pad_id):
    batch = collated(chosen, rejected, pad_id)
    return {**batch, "chosen_mask": batch["chosen_ids"] != pad_id, "rejected_mask": batch["rejected_ids"] != pad_id}


def collate_two_widths(chosen, rejected, pad_id):
    return collated(chosen, rejected, pad_id, widths=(widest(chosen), widest(rejected)))


def collate_left(chosen, rejected, pad_id):
    return collated(
        chosen,
        rejected,
        pad_id,
        pad=lambda rows, width, pad: torch.tensor([[pad] * (width - len(r)) + r for r in rows]),
        mask=lambda rows, width: lengths_mask(rows, width).flip(1),
    )


def collate_zero(chosen, rejected, pad_id):
    return collated(chosen, rejected, 0)


def collate_swapped(chosen, rejected, pad_id):
    return collate_pairs(rejected, chosen, pad_id)


def collate_int_masks(chosen, rejected, pad_id):
    batch = collated(chosen, rejected, pad_id)
    return {k: v.long() for k, v in batch.items()}


def collate_truncates(chosen, rejected, pad_id):
    width = min(widest(chosen), widest(rejected))
    return collated([r[:width] for r in chosen], [r[:width] for r in rejected], pad_id, widths=(width, width))


def collate_inverted(chosen, rejected, pad_id):
    return {k: ~v if k.endswith("mask") else v for k, v in collated(chosen, rejected, pad_id).items()}


def collate_extends(chosen, rejected, pad_id):
    batch = collate_pairs(chosen, rejected, pad_id)
    width = widest(chosen, rejected)
    for row in [*chosen, *rejected]:
        row.extend([pad_id] * (width - len(row)))
    return batch


def collate_shared_mask(chosen, rejected, pad_id):
    batch = collated(chosen, rejected, pad_id)
    return {**batch, "rejected_mask": batch["chosen_mask"]}


def collate_float_ids(chosen, rejected, pad_id):
    return {k: v.float() if k.endswith("ids") else v for k, v in collated(chosen, rejected, pad_id).items()}


def collate_by_filling(chosen, rejected, pad_id):
    width = max(map(len, chosen + rejected))
    batch = {}
    for name, rows in (("chosen", chosen), ("rejected", rejected)):
        ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
        batch[f"{name}_ids"], batch[f"{name}_mask"] = ids, mask
    return batch


def collate_together(chosen, rejected, pad_id):
    everything = [torch.tensor(r) for r in (*chosen, *rejected)]
    ids = torch.nn.utils.rnn.pad_sequence(everything, batch_first=True, padding_value=pad_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r, dtype=torch.bool) for r in everything], batch_first=True)
    n = len(chosen)
    return dict(chosen_ids=ids[:n], chosen_mask=mask[:n], rejected_ids=ids[n:], rejected_mask=mask[n:])


COLLATE = Exercise(
    collate_pairs,
    points=3,
    cases=collate_cases,
    probe="collated",
    asks="a dict with " + ", ".join(KEYS),
    variants=(collate_by_filling, collate_together, lambda c, r, pad: collated(c, r, pad)),
    mistakes=(
        Mistake("mask-from-the-pad-id", collate_by_pad_id, "Every token that equals the pad id is masked out.",
                "What if the pad id also occurs as a real token, as EOS often does?"),
        Mistake("two-widths", collate_two_widths, "Chosen and rejected get widths of their own.",
                "Could the two be stacked and go through the model at once?"),
        Mistake("left-padding", collate_left, "The padding stands on the left.", "On which side does the contract put it?"),
        Mistake("pads-with-zero", collate_zero, "The rest of a row is filled with 0.", "What is pad_id for?"),
        Mistake("sides-swapped", collate_swapped, "Chosen and rejected are swapped.", "What would a reward model learn from this batch?"),
        Mistake("masks-are-numbers", collate_int_masks, "The masks hold numbers instead of truth values.",
                "What does x[mask] do when mask holds integers?"),
        Mistake("truncates", collate_truncates, "Long rows are cut to the shorter side.", "Which row decides the common width?"),
        Mistake("inverted-masks", collate_inverted, "The masks are True on the padding.", "Which tokens does True mark in this course?"),
        Mistake("extends-the-lists", collate_extends, "The batch is right, but the caller's lists are extended with padding.",
                "What will these lists look like in the next epoch?"),
        Mistake("one-mask-for-both", collate_shared_mask, "Rejected rows get the mask of the chosen rows.",
                "Are the two texts of a pair equally long?"),
        Mistake("float-ids", collate_float_ids, "Token ids come back as floats.", "What does an embedding table accept as an index?"),
    ),
)  # fmt: skip

EXERCISES = (PROBABILITY, PAIRS, AGREEMENT, KAPPA, SPLIT, COLLATE)
