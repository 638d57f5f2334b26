"""Lesson 01: what people prefer. Ratings become pairs, pairs become training data, and raters tell how far to trust it."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_core.checks import require, require_positive, require_same_shape, require_shape


def preference_probability(
    score_a: Float[Tensor, "*shape"],
    score_b: Float[Tensor, "*shape"],
    temperature: float = 1.0,
) -> Float[Tensor, "*shape"]:
    """Bradley–Terry probability that a is preferred to b, elementwise.

    Args:
        score_a, score_b: scores on a log-odds scale, of equal shape.
        temperature: how noisy the rater is, in units of the score; large means nearly a coin flip.

    Returns:
        σ((score_a − score_b) / temperature), in [0, 1]; no overflow for scores of ±1e4.

    Raises:
        ValueError: the shapes differ or the temperature is not positive.

    Source: Bradley & Terry 1952; Christiano et al. 2017 (arXiv 1706.03741), equation 1.
    """
    require_same_shape(score_a=score_a, score_b=score_b)
    require_positive(temperature=temperature)
    return torch.sigmoid((score_a - score_b) / temperature)


def preference_pairs(
    mean_ratings: Float[Tensor, "items"],
    candidates: Int[Tensor, "pairs 2"],
    min_gap: float = 0.0,
) -> Int[Tensor, "kept 2"]:
    """Orient candidate pairs as (chosen, rejected) and drop those too close to call.

    Args:
        mean_ratings: one mean rating per item.
        candidates: pairs of item indices.
        min_gap: keep a pair only if its ratings differ by strictly more than this (≥ 0, unit of the ratings).

    Returns:
        The kept pairs in the candidates' order, the better-rated item first. Exact ties are never kept. None kept: [0, 2].

    Raises:
        ValueError: `min_gap` is negative or `candidates` is not a list of pairs.

    Source: Stiennon et al. 2020 (arXiv 2009.01325), section 3.2, where people compare directly; here ratings do.
    """
    require(min_gap >= 0, f"min_gap must be at least 0, got {min_gap}")
    require_shape("mean_ratings", mean_ratings, None)
    require_shape("candidates", candidates, None, 2)
    gap = mean_ratings[candidates[:, 0]] - mean_ratings[candidates[:, 1]]
    oriented = torch.where(gap[:, None] > 0, candidates, candidates.flip(1))
    return oriented[gap.abs() > min_gap]


def rater_agreement(ratings: Float[Tensor, "items raters"], pairs: Int[Tensor, "pairs 2"]) -> float:
    """How often one person agrees with the crowd on which of two items is better: the ceiling for a reward model.

    Args:
        ratings: NaN where a rater gave none.
        pairs: item indices to compare.

    Returns:
        Over every pair and every rater who rated both items and does not tie them: the share of votes for which the
        mean of all *other* raters orders the items the same way. A tie among the others counts ½. A vote is skipped
        where one of the items has no other rater.

    Raises:
        ValueError: no rater casts a vote on any pair.

    Source: leave-one-out agreement as in Ziegler et al. 2019 (arXiv 1909.08593), section 4. Counting the rater in the
    crowd that judges them would overstate it.
    """
    require_shape("ratings", ratings, None, None)
    require_shape("pairs", pairs, None, 2)
    rated = ~ratings.isnan()
    filled = torch.where(rated, ratings, 0.0).double()
    others_sum = filled.sum(1, keepdim=True) - filled
    others_count = (rated.sum(1, keepdim=True) - rated.long()).double()
    first, second = pairs[:, 0], pairs[:, 1]
    own_gap = filled[first] - filled[second]
    # mean_i > mean_j as sum_i · n_j > sum_j · n_i: exact for whole-number ratings; others may miss a tie by rounding
    left, right = others_sum[first] * others_count[second], others_sum[second] * others_count[first]
    crowd_gap = torch.where((left - right).abs() <= 1e-6 * (left.abs() + right.abs()), 0.0, left - right)
    votes = rated[first] & rated[second] & (own_gap != 0) & (others_count[first] > 0) & (others_count[second] > 0)
    require(bool(votes.any()), "no rater rated both items of any pair differently, so there is no vote to count")
    agreement = (1.0 + own_gap.sign() * crowd_gap.sign()) / 2
    return agreement[votes].mean().item()


def cohen_kappa(labels_a: Int[Tensor, "items"], labels_b: Int[Tensor, "items"]) -> float:
    """Agreement of two raters beyond what their own habits would give by chance.

    Args:
        labels_a, labels_b: one label per item from each rater; any integers.

    Returns:
        κ = (p_o − p_e) / (1 − p_e), with p_e from both raters' own marginals; 1.0 when both always give the same single
        label (where the formula is 0/0).

    Raises:
        ValueError: the shapes differ or there are no items.

    Source: Cohen 1960, A coefficient of agreement for nominal scales.
    """
    require_same_shape(labels_a=labels_a, labels_b=labels_b)
    require_shape("labels_a", labels_a, None)
    require(labels_a.numel() > 0, "labels_a and labels_b are empty, so there is no agreement to measure")
    observed = (labels_a == labels_b).double().mean()
    labels = torch.cat([labels_a, labels_b]).unique()
    share_a = (labels_a[:, None] == labels).double().mean(0)
    share_b = (labels_b[:, None] == labels).double().mean(0)
    if len(labels) == 1:
        return 1.0
    by_chance = (share_a * share_b).sum()
    return ((observed - by_chance) / (1 - by_chance)).item()


def split_by_prompt(prompts: list[str], test_fraction: float, seed: int) -> Bool[Tensor, "rows"]:
    """Mark the test rows, so that no prompt is on both sides.

    Args:
        prompts: one prompt per row; prompts may repeat.
        test_fraction: expected share of the *distinct prompts* that goes to the test side, in [0, 1].
        seed: another seed gives an unrelated split.

    Returns:
        True for test rows. A prompt's side depends on the prompt and the seed alone, so that adding, removing or
        reordering rows moves nobody across.

    Raises:
        ValueError: `test_fraction` is outside [0, 1].

    Source: a hash in place of a shuffle; OpenRLHF issue 1089 tells of an evaluation set drawn from the training rows.
    """
    require(0 <= test_fraction <= 1, f"test_fraction must lie in [0, 1], got {test_fraction}")

    def position(prompt: str) -> float:
        """A number in [0, 1) that looks random and belongs to this prompt and seed."""
        digest = hashlib.sha256(f"{seed}\n{prompt}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    return torch.tensor([position(prompt) < test_fraction for prompt in prompts], dtype=torch.bool)


def collate_pairs(chosen: list[list[int]], rejected: list[list[int]], pad_id: int) -> dict[str, Tensor]:
    """Right-pad token lists into a batch.

    Args:
        chosen, rejected: token ids, row i of one against row i of the other.
        pad_id: fills the rest of a row. It may also occur as a real token.

    Returns:
        `chosen_ids`, `rejected_ids` (int64) and `chosen_mask`, `rejected_mask` (bool), all [rows, width] with one width:
        the longest row of either side. Masks come from the lengths.

    Raises:
        ValueError: the two lists differ in length or are empty.

    Source: the layout that lets chosen and rejected share one forward pass, as in TRL's RewardTrainer.
    """
    require(len(chosen) == len(rejected), f"got {len(chosen)} chosen rows but {len(rejected)} rejected rows")
    require(len(chosen) > 0, "chosen and rejected are empty, so there is nothing to collate")
    width = max(len(row) for row in [*chosen, *rejected])

    def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows], dtype=torch.int64)
        lengths = torch.tensor([len(row) for row in rows])
        return ids, torch.arange(width) < lengths[:, None]

    chosen_ids, chosen_mask = pad(chosen)
    rejected_ids, rejected_mask = pad(rejected)
    return {
        "chosen_ids": chosen_ids,
        "chosen_mask": chosen_mask,
        "rejected_ids": rejected_ids,
        "rejected_mask": rejected_mask,
    }
