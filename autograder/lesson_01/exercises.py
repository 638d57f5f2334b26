"""Lesson 01: what people prefer."""

from __future__ import annotations

import hashlib
import random

import torch
import torch.nn.functional as F

from autograder.draws import NAN, Draw
from autograder.exercise import Case, Exercise, Mistake, forms
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
        Case((extreme, -extreme.roll(1), 1.0), "scores of ±10,000", None, 1e-3),
        Case((d.normal(3) + 90, d.normal(3) + 90, 1.0), "scores that are both large", None, 1e-4),
        Case((d.normal(3), d.normal(3) * 0, 1.0), "a score of 0"),
        Case((d.normal(1), d.normal(1), 0.7), "a single pair"),
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


def probability_odds_overflow(a, b, temperature=1.0):
    odds = torch.exp((a - b) / temperature)
    return odds / (1 + odds)


def probability_by_tanh(a, b, temperature=1.0):
    return (torch.tanh((a - b) / temperature) + 1) / 2


def probability_normal(a, b, temperature=1.0):
    return torch.special.ndtr((a - b) / temperature)


def probability_over_pairs(a, b, temperature=1.0):
    return torch.softmax((a - b) / temperature, 0)


def probability_one_cooled(a, b, temperature=1.0):
    return torch.sigmoid(a / temperature - b)


def probability_squeezed(a, b, temperature=1.0):
    return torch.sigmoid((a - b) / temperature).squeeze()


def probability_averaged(a, b, temperature=1.0):
    return torch.sigmoid((a - b) / temperature).mean()


def probability_clipped(a, b, temperature=1.0):
    return torch.sigmoid((a - b) / temperature).clamp(0.2, 0.8)


def probability_all_pairs(a, b, temperature=1.0):
    return torch.sigmoid((a[..., None] - b) / temperature)


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
        *forms("exponential-overflows", (probability_overflow, probability_odds_overflow), "The exponential of a large score overflows.",
               "For a gap of 10,000, which of the steps gives a number that is too large to hold?"),
        Mistake("tanh-not-logistic", probability_by_tanh, "The curve is a hyperbolic tangent, which is twice as steep.",
                "What are the odds of a against b when a leads by 1?"),
        Mistake("normal-not-logistic", probability_normal, "The curve is that of the normal distribution, which is Thurstone's model.",
                "Which function of the gap does the Bradley–Terry model use?"),
        Mistake("softmax-over-the-pairs", probability_over_pairs, "The pairs compete with each other, and their probabilities add up to 1.",
                "Which two texts does one probability compare?"),
        Mistake("cools-one-score", probability_one_cooled, "Only one of the two scores is divided by the temperature.",
                "What should two equal scores give, at any temperature?"),
        Mistake("squeezes-everything", probability_squeezed, "A squeeze also removes a batch of size 1.", "What is the shape of your answer for a single pair?"),
        Mistake("averaged", probability_averaged, "All pairs are averaged into one number.", "How many probabilities are asked for?"),
        Mistake("clipped", probability_clipped, "Probabilities near 0 and 1 are cut off.", "How sure should the model be of a gap of 10,000?"),
        Mistake("every-a-against-every-b", probability_all_pairs, "Each a is compared with every b.", "With which b is the first a to be compared?"),
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
    nearly = 2 + 1e-3 * torch.randperm(6, generator=d.generator)
    return [
        Case((torch.tensor([3.0, 1.0, 2.0]), torch.tensor([[1, 0], [0, 2], [1, 2]])), "three items"),
        Case((quarters, shuffled), "items of equal rating among the candidates"),
        Case((quarters, shuffled, 0.5), "gaps that equal min_gap exactly"),
        Case((quarters, shuffled, 1.25), "a large min_gap"),
        Case((quarters, torch.tensor([[0, 2], [2, 0]]), 0.0), "nothing but ties"),
        Case((torch.tensor([-2.5, 1.5]), torch.tensor([[0, 1]]), 1.0), "a single pair"),
        Case((nearly, torch.tensor([[0, 1], [2, 3], [4, 5], [3, 0]])), "items that are nearly equal"),
    ]


def gap_of(ratings, candidates):
    return ratings[candidates[:, 0]] - ratings[candidates[:, 1]]


def better_first(ratings, candidates):
    return torch.where(gap_of(ratings, candidates)[:, None] >= 0, candidates, candidates.flip(1))


def pairs_at_least(ratings, candidates, min_gap=0.0):
    return better_first(ratings, candidates)[gap_of(ratings, candidates).abs() >= min_gap]


def pairs_at_least_but_ties(ratings, candidates, min_gap=0.0):
    gap = gap_of(ratings, candidates).abs()
    return better_first(ratings, candidates)[(gap >= min_gap) & (gap > 0)]


def pairs_all(ratings, candidates, min_gap=0.0):
    return better_first(ratings, candidates)


def pairs_close_dropped(ratings, candidates, min_gap=0.0):
    gap = gap_of(ratings, candidates).abs()
    return better_first(ratings, candidates)[(gap > min_gap) & (gap > 1e-2)]


def pairs_in_two_blocks(ratings, candidates, min_gap=0.0):
    gap = gap_of(ratings, candidates)
    return torch.cat([candidates[gap > min_gap], candidates[-gap > min_gap].flip(1)])


def pairs_as_list(ratings, candidates, min_gap=0.0):
    return [tuple(pair) for pair in preference_pairs(ratings, candidates, min_gap).tolist()]


def pairs_without_shape(ratings, candidates, min_gap=0.0):
    return torch.tensor(preference_pairs(ratings, candidates, min_gap).tolist(), dtype=torch.int64)


def pairs_float_when_empty(ratings, candidates, min_gap=0.0):
    return torch.tensor(preference_pairs(ratings, candidates, min_gap).tolist())


def pairs_stacked(ratings, candidates, min_gap=0.0):
    return torch.stack(list(preference_pairs(ratings, candidates, min_gap)))


def pairs_of_ranks(ratings, candidates, min_gap=0.0):
    return preference_pairs(ratings.argsort().argsort().float(), candidates, min_gap)


def pairs_numbers(ratings, candidates, min_gap=0.0):
    return (gap_of(ratings, candidates).abs() > min_gap).nonzero().squeeze(1)


def pairs_float(ratings, candidates, min_gap=0.0):
    return preference_pairs(ratings, candidates, min_gap).float()


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
        Mistake("gap-equal-kept", pairs_at_least_but_ties, "Pairs whose gap only equals min_gap are kept.",
                "Does a gap of 0.5 exceed a min_gap of 0.5?"),
        Mistake("near-ties-dropped", pairs_close_dropped, "Small gaps are taken for ties.", "By how much must two ratings differ when min_gap is 0?"),
        Mistake("order-lost", pairs_in_two_blocks, "Pairs that had to be turned round come behind those that had not.",
                "In which order should the pairs come back?"),
        Mistake("list-not-tensor", pairs_as_list, "A list comes back where a tensor is asked for.", "How will the caller index with it?"),
        *forms("empty-has-no-shape", (pairs_without_shape, pairs_float_when_empty, pairs_stacked),
               "When no pair is left, what comes back is no list of pairs of whole numbers any more.",
               "What should the shape be when 0 pairs are left, and what the dtype?"),
        Mistake("ranks-not-ratings", pairs_of_ranks, "Ranks are compared in place of ratings.", "Do two items of equal rating have equal ranks?"),
        Mistake("numbers-of-pairs", pairs_numbers, "The positions of the pairs come back, not the pairs.", "Which two items does each row of the answer name?"),
        Mistake("float-indices", pairs_float, "Item indices come back as floats.", "What does a tensor accept as an index?"),
        Mistake("file-order", pairs_unoriented, "The pairs stay in the order in which they came.",
                "Which column should hold the better-rated item?"),
        Mistake("worse-first", pairs_worse_first, "The worse item comes first.", "Which of the two did people prefer?"),
        Mistake("one-direction-only", pairs_signed, "Pairs whose second item is better are dropped instead of turned round.",
                "What should happen to a candidate pair whose second item is rated higher?"),
        *forms("ignores-min-gap", (pairs_no_gap, pairs_all), "min_gap is ignored.", "Which pairs are too close to call?"),
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

    # without the first, the others' means are 1.0 and 1.1
    close = torch.tensor([[2.0, *[1.0] * 10], [-1.0, *[1.0] * 9, 2.0]])
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
        Case((ratings(3, 1, 0.0), torch.tensor([[0, 1], [1, 2]])), "a single rater", raises="ValueError"),
        Case((ratings(6, 4, 0.0) + 0.5 * ratings(6, 4, 0.0).sign(), pairs(6, 9)), "ratings in steps of a half"),
        Case((close, torch.tensor([[0, 1], [1, 0]])), "others whose means differ by a tenth"),
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


def mean_of_common(ratings, pairs):
    """The others are only those who rated both items."""
    known = ratings.isfinite()
    votes = []
    for i, j in pairs.tolist():
        both = torch.where(known[i] & known[j], ratings[[i, j]], NAN)
        try:
            votes += votes_of(both, torch.tensor([[0, 1]]))
        except ValueError:
            continue
    if not votes:
        raise ValueError("no vote")
    return share(votes)


def signs(ratings, pairs):
    """Per pair, the raters' signs that are not 0."""
    rows = (torch.sign(ratings[i] - ratings[j]).tolist() for i, j in pairs.tolist())
    return [[s for s in row if s == s and s != 0] for row in rows]


def majority_of_others(ratings, pairs):
    votes = [0.5 + 0.5 * (s > 0) - 0.5 * (s < 0) for row in signs(ratings, pairs) for k, v in enumerate(row)
             for s in [v * sum(row[:k] + row[k + 1 :])]]  # fmt: skip
    if not votes:
        raise ValueError("no vote")
    return sum(votes) / len(votes)


def rater_against_rater(ratings, pairs):
    same = [float(a == b) for row in signs(ratings, pairs) for k, a in enumerate(row) for b in row[k + 1 :]]
    if not same:
        raise ValueError("no vote")
    return sum(same) / len(same)


def sum_of_others(ratings, item, rater):
    others = [x for r, x in enumerate(ratings[item].tolist()) if r != rater and x == x]
    return sum(others) if others else None


def agreement_sums(ratings, pairs):
    return share(votes_of(ratings, pairs, sum_of_others))


def agreement_own_ties_half(ratings, pairs):
    clear, everyone = votes_of(ratings, pairs), votes_of(ratings, pairs, own_ties=True)
    return (sum(v for v, _, _ in clear) + 0.5 * (len(everyone) - len(clear))) / len(everyone)


def agreement_alone(points):
    def agreement(ratings, pairs):
        some, every = votes_of(ratings, pairs), votes_of(ratings, pairs, zero_when_alone)
        return (sum(v for v, _, _ in some) + points * (len(every) - len(some))) / len(every)

    return agreement


def agreement_number(otherwise):
    def agreement(ratings, pairs):
        try:
            return rater_agreement(ratings, pairs)
        except ValueError:
            return otherwise

    return agreement


def agreement_disagreement(ratings, pairs):
    return 1 - rater_agreement(ratings, pairs)


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
        *forms("own-ties-counted", (agreement_own_ties, agreement_own_ties_half), "A rater who gives both items the same rating is counted as voting.",
               "Has this rater said which one is better?"),
        Mistake("others-who-rated-both", mean_of_common, "The others are only those who rated both items.",
                "Whose ratings make up the mean of one item?"),
        Mistake("majority-of-the-others", majority_of_others, "The others vote pair by pair, in place of their mean ratings.",
                "What is compared with the rater's choice: the number of others who agree, or their means?"),
        Mistake("rater-against-rater", rater_against_rater, "Two raters are compared with each other.", "With whom is one person compared here?"),
        Mistake("sum-of-the-others", agreement_sums, "The others' ratings are added up, so that much-rated items look better.",
                "What if one item was rated by two people and the other by ten?"),
        Mistake("missing-is-zero", agreement_missing_zero, "A missing rating is read as 0.",
                "What does 0 mean on a scale from −4 to 4?"),
        Mistake("median-of-the-others", agreement_median, "The others are summed up by their median.",
                "Which average of the other ratings is asked for?"),
        *forms("alone-counted", (agreement_alone(0.5), agreement_alone(0.0), agreement_alone(1.0)),
               "A vote counts although nobody else rated one of the items.", "With whom could this rater agree?"),
        Mistake("alone-against-zero", agreement_alone_zero, "An item that nobody else rated gets a mean of 0.",
                "Is there anybody to agree with?"),
        Mistake("mean-of-rater-means", averaged_by(2), "Each rater is averaged first, and then the raters.",
                "Should somebody who voted once weigh as much as somebody who voted a hundred times?"),
        Mistake("mean-of-pair-means", averaged_by(1), "Each pair is averaged first, and then the pairs.",
                "Over what is the share taken: pairs, or votes?"),
        Mistake("disagreement", agreement_disagreement, "This is how often the rater disagrees.",
                "What should come out when everybody ranks alike?"),
        *forms("number-without-votes", (agreement_number(NAN), agreement_number(0.0), agreement_number(0.5)),
               "Without any vote a number comes back, without a word.",
               "Would you rather be told that there was nothing to count?"),
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
        Case((a - 1, b - 1), "labels −1, 0 and 1"),
        Case((d.integers(0, 2, 20), d.integers(1, 4, 20)), "labels that only one of them uses"),
        Case((a, a.clone()), "raters who always agree"),
        Case((torch.full((6,), 2), torch.full((6,), 2)), "raters who both give one single label"),
        Case((torch.tensor([0, 1, 0, 1]), torch.tensor([1, 0, 1, 0])), "raters who always disagree"),
        Case((a, (a + 1) % 3), "three labels and no agreement"),
        Case((torch.full((30,), 1), b), "a rater who always gives the same label"),
        Case((b, torch.full((30,), 1)), "a second rater who always gives the same label"),
        Case((torch.full((4,), 1), torch.full((4,), 3)), "raters who each give one label, but not the same"),
        Case((torch.tensor([2]), torch.tensor([2])), "a single item"),
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


def kappa_other_rater(a, b):
    return kappa_one_rater(b, a)


def kappa_division(a, b):
    observed, chance = (a == b).double().mean().item(), (a[:, None] == b).double().mean().item()
    return (observed - chance) / (1 - chance)


def kappa_one_constant(a, b):
    return 1.0 if len(a.unique()) == 1 or len(b.unique()) == 1 else cohen_kappa(a, b)


def kappa_two_constants(a, b):
    return 1.0 if len(a.unique()) == 1 and len(b.unique()) == 1 else cohen_kappa(a, b)


def kappa_weighted(a, b):
    seen, chance = (a - b).abs().double().mean(), (a[:, None] - b).abs().double().mean()
    return 1.0 if chance == 0 else (1 - seen / chance).item()


def kappa_two_labels(a, b):
    return cohen_kappa((a > 0).long(), (b > 0).long())


def kappa_labels_from_zero(a, b):
    count = max(int(a.max()), int(b.max())) + 1
    share_a, share_b = torch.bincount(a, minlength=count) / len(a), torch.bincount(b, minlength=count) / len(b)
    chance = (share_a * share_b).sum()
    return 1.0 if chance == 1 else (((a == b).float().mean() - chance) / (1 - chance)).item()


def kappa_of_counts(a, b):
    return cohen_kappa(a.sort().values, b.sort().values)


def kappa_absolute(a, b):
    return abs(cohen_kappa(a, b))


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
        *forms("habits-of-one-rater", (kappa_one_rater, kappa_other_rater), "Both raters are taken to have the habits of one of them.",
               "Whose marginals belong into p_e?"),
        Mistake("pooled-habits", kappa_pooled, "The habits of both raters are averaged, which is Scott's π and not Cohen's κ.",
                "Should two raters of different habits be treated as one?"),
        Mistake("no-denominator", kappa_difference, "The agreement beyond chance is not divided by the most that was possible.",
                "What should κ be for raters who always agree?"),
        Mistake("single-label-divides-by-zero", kappa_division, "When both always give the same label, 0 is divided by 0.",
                "What is the agreement of two raters who always give the same label?"),
        *forms("one-constant-rater-is-enough", (kappa_one_constant, kappa_two_constants), "A rater who never changes the label gets 1, whatever the other says.",
               "When is there nothing left to agree on: if one rater is constant, or if both give the same single label?"),
        Mistake("weighted", kappa_weighted, "Near misses count as half an agreement, which is the weighted κ.",
                "Do the labels stand for quantities here, or only for kinds?"),
        *forms("labels-of-its-own", (kappa_two_labels, kappa_labels_from_zero), "Only certain labels are expected.",
               "Could a label be −5, or could there be three of them?"),
        Mistake("items-mixed-up", kappa_of_counts, "The labels are sorted, so that items are no longer compared with themselves.",
                "Which label of b belongs to the first label of a?"),
        Mistake("absolute-value", kappa_absolute, "A κ below 0 loses its sign.", "What should it say of raters who disagree more than by chance?"),
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
    # so many prompts that a right split leaves the 0.03 once in 50,000 times, or less often
    count, fraction, first_seed = ((4500, 0.75, 0), (5000, 0.45, 2), (5000, 0.65, 4))[seed // 100 % 3]
    # half of them differ in the middle only, neither in their first 20 characters nor in their last
    prompts = [f"Prompt {i % 50}: go on, please. {'é' * (i % 3)}{i} Thank you very much." for i in range(count)]
    rows = prompts + [prompts[i] for i in d.integers(0, count, 300).tolist()]
    rows = [rows[i] for i in torch.randperm(len(rows), generator=d.generator).tolist()]
    return [Case((rows, fraction, first_seed), f"{count:,} prompts, some of them twice")]


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


def split_flipped(prompts, test_fraction, seed):
    mask = int(unit(f"flip {seed}") * 2**32)
    return torch.tensor([(int(unit(p) * 2**32) ^ mask) / 2**32 < test_fraction for p in prompts])


def split_coarse(prompts, test_fraction, seed):
    return torch.tensor([int(1e6 * unit(f"{seed}/{p}")) % 10 < round(10 * test_fraction) for p in prompts])


def split_every_nth(prompts, test_fraction, seed):
    return torch.tensor([int(1e6 * unit(f"{seed}/{p}")) % round(1 / test_fraction) == 0 for p in prompts])


def split_beginning(prompts, test_fraction, seed):
    return torch.tensor([unit(f"{seed}/{p[:8]}") < test_fraction for p in prompts])


def split_numpy_random(prompts, test_fraction, seed):
    import numpy

    numpy.random.seed(seed)
    return split_by_prompt(prompts, test_fraction, seed)


def split_sorts(prompts, test_fraction, seed):
    result = split_by_prompt(prompts, test_fraction, seed)
    prompts.sort()
    return result


def split_numbers(prompts, test_fraction, seed):
    return split_by_prompt(prompts, test_fraction, seed).long()


def split_rows_found(prompts, test_fraction, seed):
    return split_by_prompt(prompts, test_fraction, seed).nonzero().squeeze(1)


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
                "If one row is added tomorrow, which prompts may change sides?",
                twins=("order-of-appearance",)),
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
        *forms("seed-shifts", (split_shifted, split_flipped), "The seed only moves or mirrors one fixed order of the prompts, so that the splits of two seeds are related.",
               "How many prompts should two unrelated splits have in common, and does your hash mix the seed with the whole prompt?"),
        *forms("coarse-share", (split_coarse, split_every_nth), "The share is rounded to what a few classes allow.",
               "What share of the prompts comes out when 45% are asked for?"),
        Mistake("by-the-beginning", split_beginning, "Only the beginning of a prompt decides.", "What of a prompt should decide its side?"),
        Mistake("sorts-the-prompts", split_sorts, "The split is right, but the caller's list is sorted.", "Do the rows still stand where the caller left them?"),
        Mistake("seeds-numpy", split_numpy_random, "The split is right, but NumPy's global random generator is seeded on the way.",
                "What will everybody else's random numbers be after this call?"),
        *forms("not-truth-values", (split_numbers, split_rows_found), "Numbers come back where truth values are asked for.",
               "What does x[split] do when it holds integers?"),
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
        Case(([[50_000, 70_001], [300]], [[40_003], [65_536, 129, 257]], 50_256), "ids of a large vocabulary"),
        Case((rows(1, 4, 2, 6, 1), rows(2, 3, 5, 1, 4), 0), "five pairs"),
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


def collate_masks(mask_of):
    def collate(chosen, rejected, pad_id):
        batch = collate_pairs(chosen, rejected, pad_id)
        for side, rows in (("chosen", chosen), ("rejected", rejected)):
            batch[f"{side}_mask"] = mask_of(batch[f"{side}_ids"], torch.tensor([[len(r)] for r in rows]), pad_id)
        return batch

    return collate


collate_to_first_pad = collate_masks(lambda ids, lengths, pad_id: (ids != pad_id).long().cumprod(1).bool())
collate_to_last_token = collate_masks(lambda ids, n, pad_id: (ids != pad_id).flip(1).cummax(1).values.flip(1))
collate_all_real = collate_masks(lambda ids, lengths, pad_id: torch.ones_like(ids, dtype=torch.bool))
collate_one_more = collate_masks(lambda ids, lengths, pad_id: torch.arange(ids.shape[1]) <= lengths)


def collate_chosen_decide(chosen, rejected, pad_id):
    width = max(map(len, chosen))
    batch = collate_pairs([*chosen, [0] * width], [r[:width] for r in rejected] + [[0]], pad_id)
    return {name: rows[:-1] for name, rows in batch.items()}


def collate_one_wider(chosen, rejected, pad_id):
    batch = collate_pairs(chosen, rejected, pad_id)
    return {k: F.pad(v, (0, 1), value=False if v.dtype == torch.bool else pad_id) for k, v in batch.items()}


def collate_tuple(chosen, rejected, pad_id):
    return tuple(collate_pairs(chosen, rejected, pad_id).values())


def collate_nested_lists(chosen, rejected, pad_id):
    return {name: rows.tolist() for name, rows in collate_pairs(chosen, rejected, pad_id).items()}


def collate_other_names(chosen, rejected, pad_id):
    batch = collate_pairs(chosen, rejected, pad_id)
    return {name.replace("_mask", "_attention_mask"): rows for name, rows in batch.items()}


def collate_ids_only(chosen, rejected, pad_id):
    batch = collate_pairs(chosen, rejected, pad_id)
    return {name: rows for name, rows in batch.items() if name.endswith("ids")}


COLLATE = Exercise(
    collate_pairs,
    points=3,
    cases=collate_cases,
    probe="collated",
    asks="a dict with " + ", ".join(KEYS),
    variants=(collate_by_filling, collate_together, lambda c, r, pad: collated(c, r, pad)),
    mistakes=(
        *forms("mask-from-the-pad-id", (collate_by_pad_id, collate_to_first_pad, collate_to_last_token), "Tokens that equal the pad id are masked out.",
               "What if the pad id also occurs as a real token, as EOS often does?"),
        Mistake("everything-is-real", collate_all_real, "The masks are True on the padding too.", "What tells real tokens from padding later on?"),
        Mistake("mask-one-too-long", collate_one_more, "The masks reach one column into the padding.", "In which column does a row of 3 tokens end?"),
        Mistake("one-column-too-many", collate_one_wider, "There is one column more than the longest row needs.", "How wide must the batch be?"),
        Mistake("chosen-decide-the-width", collate_chosen_decide, "The longest chosen row decides the width.", "What if a rejected row is longer?"),
        Mistake("tuple-not-dict", collate_tuple, "A tuple comes back where a dict is asked for.", "By which names will the caller look up the tensors?"),
        Mistake("lists-not-tensors", collate_nested_lists, "Lists come back where tensors are asked for.", "What does a model take as its input?"),
        *forms("other-names", (collate_other_names, collate_ids_only), "Some of the four names are missing.", "By which names will the caller look up the tensors?"),
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
