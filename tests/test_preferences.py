"""Lesson 01: Bradley–Terry, pairs from ratings, agreement of raters, splits and batches of pairs."""

from __future__ import annotations

import math
import subprocess
import sys

import oracles
import pytest
import torch
from cases import Draw, Entry, contract_tests
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_core.preferences import (
    cohen_kappa,
    collate_pairs,
    preference_pairs,
    preference_probability,
    rater_agreement,
    split_by_prompt,
)


def draw_ratings(draw: Draw) -> torch.Tensor:
    """Whole numbers with ties, about a quarter of them missing; at least one rater tells the first two items apart."""
    ratings = draw.integers(1, 5, draw.rows, 4).double()
    ratings[draw.normal(draw.rows, 4) > 0.7] = math.nan
    ratings[:2, :2] = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    return ratings


def draw_pairs(draw: Draw) -> torch.Tensor:
    pairs = draw.integers(0, draw.rows, 3 * draw.time, 2)
    pairs[0] = torch.tensor([0, 1])
    return pairs


def orient(keep, gap=lambda r, c: r[c[:, 0]] - r[c[:, 1]]):
    """preference_pairs with another rule for which pairs stay."""

    def pairs(ratings, candidates, min_gap):
        g = gap(ratings, candidates)
        return torch.where(g[:, None] > 0, candidates, candidates.flip(1))[keep(g, min_gap)]

    return pairs


def agreement(crowd, tie=0.5):
    """rater_agreement with another crowd and another credit for its ties."""

    def rate(ratings, pairs):
        votes = []
        for i, j in pairs.tolist():
            for k in range(ratings.shape[1]):
                own = (ratings[i, k] - ratings[j, k]).item()
                if math.isnan(own) or own == 0:
                    continue
                gap = (crowd(ratings, i, k) - crowd(ratings, j, k)).item()
                if not math.isnan(gap):
                    votes.append(tie if gap == 0 else float((gap > 0) == (own > 0)))
        return sum(votes) / len(votes)

    return rate


def others(ratings, i, k):
    return torch.cat([ratings[i, :k], ratings[i, k + 1 :]]).nanmean()


def kappa(chance):
    def rate(a, b):
        observed = (a == b).double().mean()
        expected = chance(a, b)
        return ((observed - expected) / (1 - expected)).item()

    return rate


def shares(labels):
    return torch.stack([(labels == label).double().mean() for label in range(3)])


test_contract, test_known_mistakes_are_told_apart = contract_tests([
    Entry(preference_probability, oracles.preference_probability,
          lambda d: (d.normal(d.rows), d.normal(d.rows), d.number(0.3, 3.0)),
          trained=(0, 1), rows="along", row_args=(0, 1), mutants={
              "temperature multiplies": lambda a, b, T: torch.sigmoid((a - b) * T),
              "no temperature": lambda a, b, T: torch.sigmoid(a - b),
              "b preferred": lambda a, b, T: torch.sigmoid((b - a) / T),
              "share of the scores": lambda a, b, T: a / (a + b),
              "temperature of the result": lambda a, b, T: torch.sigmoid(a - b) / T,
          }),
    Entry(preference_pairs, lambda *args: torch.tensor(oracles.preference_pairs(*args)).double().reshape(-1, 2),
          lambda d: (d.integers(0, 6, d.rows).double() / 2, draw_pairs(d), 0.5), min_rows=2,
          styles=(orient(lambda g, gap: g.abs() > gap),), mutants={
              "ties kept": orient(lambda g, gap: (g.abs() > gap) | (g == 0)),
              "gap reached is enough": orient(lambda g, gap: g.abs() >= gap),
              "no gap": orient(lambda g, gap: g != 0),
              "only pairs in order": orient(lambda g, gap: g > gap),
              "not oriented": lambda r, c, gap: c[(r[c[:, 0]] - r[c[:, 1]]).abs() > gap],
              "(rejected, chosen)": lambda r, c, gap: preference_pairs(r, c, gap).flip(1),
              "sorted by gap": lambda r, c, gap: preference_pairs(r, c, gap).flip(0),
          }),
    Entry(rater_agreement, oracles.rater_agreement, lambda d: (draw_ratings(d), draw_pairs(d)), "float", min_rows=2,
          rows="same", row_args=(1,), styles=(agreement(others),), mutants={
              "rater is part of the crowd": agreement(lambda r, i, k: r[i].nanmean()),
              "a tie of the crowd is agreement": agreement(others, 1.0),
              "a tie of the crowd is disagreement": agreement(others, 0.0),
              "sum instead of mean": agreement(lambda r, i, k: torch.cat([r[i, :k], r[i, k + 1 :]]).nansum()),
              "missing ratings are 0": agreement(
                  lambda r, i, k: torch.cat([r[i, :k], r[i, k + 1 :]]).nan_to_num().mean()),
          }),
    Entry(cohen_kappa, oracles.cohen_kappa, lambda d: (d.integers(0, 3, 9), d.integers(0, 3, 9) // 2 * 2), "float",
          rows="same", row_args=(0, 1), styles=(kappa(lambda a, b: (shares(a) * shares(b)).sum()),), mutants={
              "raw agreement": lambda a, b: (a == b).double().mean().item(),
              "chance is a half": kappa(lambda a, b: torch.tensor(0.5)),
              "chance is one in the number of labels": kappa(lambda a, b: torch.tensor(1 / 3)),
              "chance from one rater": kappa(lambda a, b: (shares(a) ** 2).sum()),
              "chance from both raters pooled": kappa(lambda a, b: (shares(torch.cat([a, b])) ** 2).sum()),
          }),
])  # fmt: skip


def test_probability_of_extreme_scores():
    a = torch.tensor([1e4, -1e4, 0.0, 1e4], requires_grad=True)
    result = preference_probability(a, torch.tensor([-1e4, 1e4, 0.0, 1e4]))
    assert result.tolist() == [1.0, 0.0, 0.5, 0.5]
    result.sum().backward()
    assert a.grad.isfinite().all()


def test_probabilities_of_both_orders_add_up_to_one():
    a, b = Draw(0).normal(50), Draw(1).normal(50)
    both = preference_probability(a, b, 0.7) + preference_probability(b, a, 0.7)
    torch.testing.assert_close(both, torch.ones_like(a))


def test_pairs_keep_order_duplicates_and_dtype():
    candidates = torch.tensor([[2, 0], [0, 1], [0, 2], [2, 0], [1, 1]])
    pairs = preference_pairs(torch.tensor([1.0, 1.0, 3.0]), candidates)
    assert pairs.tolist() == [[2, 0], [2, 0], [2, 0]] and pairs.dtype == torch.int64
    assert preference_pairs(torch.tensor([1.0, 1.0]), torch.tensor([[0, 1]])).shape == (0, 2)
    assert preference_pairs(torch.tensor([1.0]), torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 2)


def test_agreement_by_hand():
    nan = math.nan
    ratings = torch.tensor([[5.0, 4.0, nan], [1.0, 2.0, 3.0], [4.0, nan, nan]])
    # items 0, 1: rater 0 (others 4 > 2.5) and rater 1 (others 5 > 2) agree; rater 2 has not rated item 0
    assert rater_agreement(ratings, torch.tensor([[0, 1]])) == 1.0
    # items 1, 2: only rater 0 rated both, and item 2 has no other rater: no vote
    with pytest.raises(ValueError, match="vote"):
        rater_agreement(ratings, torch.tensor([[1, 2]]))
    # such a pair adds nothing, and order within a pair does not matter
    assert rater_agreement(ratings, torch.tensor([[1, 2], [1, 0], [0, 0]])) == 1.0
    # against the crowd, and a crowd that ties
    assert rater_agreement(torch.tensor([[1.0, 3.0], [2.0, 1.0]]), torch.tensor([[0, 1]])) == 0.0
    assert rater_agreement(torch.tensor([[1.0, 3.0], [2.0, 3.0]]), torch.tensor([[0, 1]])) == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(derandomize=True, deadline=None, max_examples=30, database=None)
@given(st.integers(0, 2**31))
def test_agreement_sees_ties_of_decimal_ratings(dtype, seed):
    """0.1 + 0.2 is not 0.3 in floating point, but two crowds with these ratings do tie."""
    draw = Draw(seed, 4, 4)
    ratings = draw.integers(0, 4, 4, 4) / torch.tensor(10.0, dtype=dtype)
    ratings[:2, :2] = torch.tensor([[0.1, 0.2], [0.3, 0.2]], dtype=dtype)
    pairs = draw_pairs(draw)
    assert rater_agreement(ratings, pairs) == pytest.approx(oracles.rater_agreement(ratings, pairs), abs=1e-12)


def test_kappa_of_known_tables():
    a = torch.tensor([0] * 25 + [1] * 25)
    b = torch.tensor([0] * 20 + [1] * 5 + [0] * 10 + [1] * 15)
    assert cohen_kappa(a, b) == pytest.approx(0.4)  # the textbook example
    assert cohen_kappa(a, 1 - a) == pytest.approx(-1.0)
    assert cohen_kappa(a, a) == 1.0
    assert cohen_kappa(torch.zeros(3).long(), torch.zeros(3).long()) == 1.0
    assert cohen_kappa(torch.zeros(3).long(), torch.ones(3).long()) == 0.0
    assert cohen_kappa(7 - 9 * a, 7 - 9 * b) == pytest.approx(0.4)  # labels are names


def test_split_depends_on_prompt_and_seed_alone():
    prompts = [f"prompt {i}" for i in range(300)] + ["", "prompt 1", "naïve 🙂", "a\nb", "\ud800"]
    split = split_by_prompt(prompts, 0.3, 7)
    assert split.dtype == torch.bool and split.shape == (len(prompts),)
    assert split_by_prompt(prompts[::-1], 0.3, 7).flip(0).equal(split)
    assert torch.cat([split_by_prompt([prompt], 0.3, 7) for prompt in prompts]).equal(split)
    assert split[1] == split[301]


def test_split_is_the_same_in_another_process():
    """Python's own `hash` of a string is not."""
    prompts = [f"prompt {i}" for i in range(50)]
    code = f"from rlhf_core.preferences import split_by_prompt as s; print(s({prompts}, 0.5, 1).int().tolist())"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == str(split_by_prompt(prompts, 0.5, 1).int().tolist())


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.2, 0.5, 0.9, 1.0])
def test_split_has_the_share_that_was_asked_for(fraction):
    for prompts in ([str(i) for i in range(3000)], [f"Review: the same beginning {i:05d}" for i in range(3000)]):
        assert split_by_prompt(prompts, fraction, 0).double().mean().item() == pytest.approx(fraction, abs=0.03)


def test_splits_of_different_seeds_are_unrelated():
    prompts = [f"prompt {i}" for i in range(4000)]
    splits = [split_by_prompt(prompts, 0.5, seed).double() for seed in (0, 1, 2, 10, 12345)]
    for i, a in enumerate(splits):
        for b in splits[:i]:
            assert (a * b).mean().item() == pytest.approx(0.25, abs=0.03)


def test_smaller_test_fraction_is_contained_in_a_larger_one():
    prompts = [f"prompt {i}" for i in range(200)]
    small, large = split_by_prompt(prompts, 0.2, 0), split_by_prompt(prompts, 0.4, 0)
    assert (small <= large).all()


def test_collate_by_hand():
    chosen, rejected = [[5, 0, 5], [1]], [[0], [2, 0, 0, 0]]
    batch = collate_pairs(chosen, rejected, 0)
    assert set(batch) == {"chosen_ids", "chosen_mask", "rejected_ids", "rejected_mask"}
    assert batch["chosen_ids"].tolist() == [[5, 0, 5, 0], [1, 0, 0, 0]]
    assert batch["rejected_ids"].tolist() == [[0, 0, 0, 0], [2, 0, 0, 0]]
    assert batch["chosen_mask"].tolist() == [[True, True, True, False], [True, False, False, False]]
    assert batch["rejected_mask"].tolist() == [[True, False, False, False], [True] * 4]
    assert batch["chosen_ids"].dtype == torch.int64 and batch["chosen_mask"].dtype == torch.bool
    assert (chosen, rejected) == ([[5, 0, 5], [1]], [[0], [2, 0, 0, 0]])


TOKEN_LISTS = st.lists(st.integers(0, 9), min_size=1, max_size=6)


@settings(derandomize=True, deadline=None, max_examples=30, database=None)
@given(st.lists(st.tuples(TOKEN_LISTS, TOKEN_LISTS), min_size=1, max_size=5), st.integers(0, 9))
def test_collated_rows_can_be_read_back(rows, pad_id):
    chosen, rejected = [list(side) for side in zip(*rows, strict=True)]
    batch = collate_pairs(chosen, rejected, pad_id)
    width = max(map(len, chosen + rejected))
    for side, lists in (("chosen", chosen), ("rejected", rejected)):
        ids, mask = batch[f"{side}_ids"], batch[f"{side}_mask"]
        assert ids.shape == mask.shape == (len(rows), width)
        assert [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)] == lists
        assert ids[~mask].eq(pad_id).all()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: preference_probability(torch.zeros(2), torch.zeros(2), 0.0), "temperature"),
        (lambda: preference_probability(torch.zeros(2, 1), torch.zeros(2)), "score_a"),
        (lambda: preference_pairs(torch.zeros(2), torch.zeros(1, 2).long(), -0.1), "min_gap"),
        (lambda: preference_pairs(torch.zeros(2), torch.zeros(1, 3).long()), "candidates"),
        (lambda: rater_agreement(torch.ones(2, 3), torch.tensor([[0, 1]])), "vote"),
        (lambda: rater_agreement(torch.ones(2, 3), torch.tensor([[0, 1, 1]])), "pairs"),
        (lambda: rater_agreement(torch.ones(2), torch.tensor([[0, 1]])), "ratings"),
        (lambda: cohen_kappa(torch.zeros(2).long(), torch.zeros(3).long()), "labels_a"),
        (lambda: cohen_kappa(torch.zeros(0).long(), torch.zeros(0).long()), "labels_a"),
        (lambda: cohen_kappa(torch.zeros(2, 2).long(), torch.zeros(2, 2).long()), "labels_a"),
        (lambda: split_by_prompt(["a"], 1.1, 0), "test_fraction"),
        (lambda: split_by_prompt(["a"], -0.1, 0), "test_fraction"),
        (lambda: collate_pairs([[1]], [[1], [2]], 0), "chosen"),
        (lambda: collate_pairs([], [], 0), "chosen"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
