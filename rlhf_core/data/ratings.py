"""The packaged human ratings: 10,605 movie-review sentences, each rated from −4 to 4 by 15 to 29 people.

Cite Hutto & Gilbert 2014, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text, ICWSM.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_core.data.build import RATINGS_FILE, unpack
from rlhf_core.preferences import preference_pairs, split_by_prompt

if TYPE_CHECKING:  # importing datasets takes seconds, and lessons that only look at ratings do without
    from datasets import Dataset

PROMPT = "Review:"
SPLITS = ("reward", "judge", "test")
TEST_FRACTION = 0.15  # of all sentences: no model has been trained on these, the pocket model included
JUDGE_FRACTION = 0.45  # of the others: the judge learns from other sentences than the policy's reward model
SPLIT_SEED = 0


def split_names(texts: list[str]) -> list[str]:
    """Which part each sentence belongs to; equal sentences belong together."""
    test = split_by_prompt(texts, TEST_FRACTION, seed=SPLIT_SEED).tolist()
    judge = split_by_prompt(texts, JUDGE_FRACTION, seed=SPLIT_SEED + 1).tolist()
    return ["test" if t else "judge" if j else "reward" for t, j in zip(test, judge, strict=True)]


@cache
def rated_sentences() -> tuple[dict, ...]:
    """The packaged rows as plain dictionaries: id, text, ratings, mean_rating, split."""
    rows = unpack(RATINGS_FILE)
    names = split_names([row["text"] for row in rows])
    return tuple(
        {**row, "mean_rating": sum(row["ratings"]) / len(row["ratings"]), "split": name}
        for row, name in zip(rows, names, strict=True)
    )


def sentences_of(split: str) -> list[dict]:
    """The rows of one part."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    return [row for row in rated_sentences() if row["split"] == split]


def load_ratings() -> Dataset:
    """All rated sentences as a data set: id, text, ratings (one whole number per rater), mean_rating, split."""
    from datasets import Dataset

    return Dataset.from_list(list(rated_sentences()))


def rating_matrix(rows: Sequence[dict]) -> Float[Tensor, "items raters"]:
    """The ratings as a matrix, filled up with NaN, as `rater_agreement` takes them.

    The source gives each sentence's ratings as a list without names, so a column is not one person.
    """
    width = max(len(row["ratings"]) for row in rows)
    return torch.tensor([[*row["ratings"], *[float("nan")] * (width - len(row["ratings"]))] for row in rows])


def random_pairs(num_items: int, num_pairs: int, seed: int) -> Tensor:
    """Random pairs of two different items, [num_pairs, 2]."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(num_items, (num_pairs,), generator=generator)
    step = torch.randint(1, num_items, (num_pairs,), generator=generator)
    return torch.stack([first, (first + step) % num_items], dim=1)


def rating_pairs(split: str, num_pairs: int, seed: int = 0, min_gap: float = 0.0) -> Dataset:
    """Preference pairs made from the ratings, in the explicit-prompt form that TRL documents.

    Args:
        split: "reward", "judge" or "test".
        num_pairs: pairs to draw; fewer are left, since ties and pairs within `min_gap` are dropped.
        seed: of the draw.
        min_gap: the mean ratings differ by strictly more than this (scale −4 … 4).

    Returns:
        Rows of prompt ("Review:"), chosen, rejected (each with its leading space), chosen_rating, rejected_rating.
    """
    from datasets import Dataset

    rows = sentences_of(split)
    ratings = torch.tensor([row["mean_rating"] for row in rows], dtype=torch.float64)
    pairs = preference_pairs(ratings, random_pairs(len(rows), num_pairs, seed), min_gap)
    return Dataset.from_list(
        [
            {
                "prompt": PROMPT,
                "chosen": " " + rows[chosen]["text"],
                "rejected": " " + rows[rejected]["text"],
                "chosen_rating": rows[chosen]["mean_rating"],
                "rejected_rating": rows[rejected]["mean_rating"],
            }
            for chosen, rejected in pairs.tolist()
        ]
    )


def rating_rankings(split: str, size: int, seed: int = 0, min_gap: float = 0.0) -> list[tuple[list[str], Tensor]]:
    """All sentences of a part in random groups, each with every pair in it: many comparisons from few texts.

    Args:
        split: "reward", "judge" or "test".
        size: sentences of a group; the last few that fill no group are left out.
        seed: of the grouping.
        min_gap: pairs whose mean ratings differ by no more than this are left out (scale −4 … 4).

    Returns:
        Per group its texts (with leading space) and the pairs as (chosen, rejected) positions, [pairs, 2].
    """
    rows = sentences_of(split)
    ratings = torch.tensor([row["mean_rating"] for row in rows], dtype=torch.float64)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    # within stretches of 32 groups sentences of similar length come together, which saves padding
    stretches = [order[i : i + 32 * size] for i in range(0, len(order), 32 * size)]
    order = [i for stretch in stretches for i in sorted(stretch, key=lambda i: len(rows[i]["text"]))]
    groups = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    every_pair = torch.combinations(torch.arange(size))
    return [
        ([" " + rows[i]["text"] for i in group], preference_pairs(ratings[group], every_pair, min_gap))
        for group in groups
    ]


def scramble(text: str, vocabulary: list[str], generator: torch.Generator) -> str:
    """A broken copy of a sentence, in the ways in which a policy breaks: its words shuffled, some replaced by any others,
    a phrase repeated, or a handful of its words over and over."""

    def draw(below: int) -> int:
        return int(torch.randint(max(1, below), (), generator=generator))

    words = text.split()
    kind = draw(4)
    if kind == 0:
        words = [words[i] for i in torch.randperm(len(words), generator=generator).tolist()]
    elif kind == 1:
        words = [vocabulary[draw(len(vocabulary))] if draw(10) < 4 else word for word in words]
    elif kind == 2:
        few = [words[draw(len(words))] for _ in range(6)]
        words = [few[draw(len(few))] for _ in range(6 + draw(12))]
    else:
        start, length = draw(len(words) - 2), 1 + draw(3)
        phrase = words[start : start + length]
        words = (words[:start] + phrase * len(words))[: max(len(words), start + 2 * length)]
    return " " + " ".join(words)


def opening_prompts(split: str, num_words: int = 3, num_prompts: int | None = None, seed: int = 0) -> list[str]:
    """Prompts for the policy to continue: "Review:" and the first words of that part's sentences, in random order.

    Sentences that go on for fewer words than the opening has are left out, and equal openings are given once.
    """
    words = [row["text"].split() for row in sentences_of(split)]
    openings = dict.fromkeys(" ".join(w[:num_words]) for w in words if len(w) >= 2 * num_words)
    prompts = [f"{PROMPT} {opening}" for opening in openings]
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed))
    return [prompts[i] for i in order.tolist()][:num_prompts]
