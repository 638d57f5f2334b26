"""Lesson 05: sampling, scoring, minibatches and the KL controller."""

from __future__ import annotations

import copy
import math

import oracles
import pytest
import torch
from cases import SEEDED, Draw, Entry, contract_tests
from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.loop import adaptive_kl_coef, minibatch_indices
from rlhf_core.policy import response_mask
from rlhf_core.rollout import draw_tokens, sample_responses, score_responses

EOS, PAD = 3, 0


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# sampling


def script(*columns: list[int]):
    """A next_logits that writes the given columns, and the list of what it was shown."""
    seen = []

    def next_logits(tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tokens.clone())
        return 1e4 * torch.nn.functional.one_hot(torch.tensor(columns[len(seen) - 1]), 6).float()

    return next_logits, seen


def bigram(tokens: torch.Tensor) -> torch.Tensor:
    """Logits that depend on the last token."""
    return Draw(1).normal(5, 5)[tokens[:, -1]]


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("pad", [PAD, EOS])
def test_only_pads_follow_an_end_and_the_width_is_the_number_of_steps(temperature, pad):
    next_logits, seen = script([1, EOS, 2], [2, 5, 4], [EOS, 5, EOS], [1, 1, 1])
    prompts = torch.tensor([[EOS, 1], [2, 2], [2, EOS]])  # an EOS in the prompt ends nothing
    responses = sample_responses(next_logits, prompts, 10, temperature, EOS, pad)
    assert responses.tolist() == [[1, 2, EOS], [EOS, pad, pad], [2, 4, EOS]] and responses.dtype == torch.int64
    whole = torch.cat([prompts, responses], 1)
    assert [x.tolist() for x in seen] == [whole[:, : 2 + step].tolist() for step in range(3)]
    assert response_mask(whole, torch.full((3,), 2), EOS)[:, 2:].sum(1).tolist() == [3, 1, 3]


@pytest.mark.parametrize("steps", [1, 2])
def test_sampling_stops_at_max_new_tokens(steps):
    next_logits, seen = script([1, EOS], [2, 2], [1, 1])
    assert sample_responses(next_logits, torch.tensor([[1], [1]]), steps, 1.0, EOS, PAD).shape == (2, steps)
    assert len(seen) == steps


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_two_tokens_come_as_often_as_their_exact_probability(temperature):
    """20,000 rows against the joint distribution of both steps, within 4.5 standard errors of each of its 25 cells."""
    rows = 20_000
    responses = sample_responses(bigram, torch.zeros(rows, 1).long(), 2, temperature, -1, PAD, seeded())
    p = (Draw(1).normal(5, 5) / temperature).softmax(-1)
    joint = p[0][:, None] * p
    counts = torch.zeros(5, 5, dtype=torch.float64)
    counts.index_put_(tuple(responses.T), torch.ones(rows, dtype=torch.float64), accumulate=True)
    assert ((counts / rows - joint).abs() <= 4.5 * (joint * (1 - joint) / rows).sqrt()).all()


def test_a_forbidden_token_is_never_drawn_and_extreme_logits_are_no_problem():
    logits = torch.tensor([[-math.inf, 1e4, -1e4, 1e4, -math.inf]])
    prompts = torch.zeros(5000, 1).long()
    responses = sample_responses(lambda x: logits.expand(len(x), 5), prompts, 1, 0.01, -1, PAD, seeded())
    assert set(responses.flatten().tolist()) == {1, 3}
    assert responses.eq(1).double().mean().item() == pytest.approx(0.5, abs=0.03)
    lowest = draw_tokens(logits, 1.0, torch.zeros(1).double())
    assert lowest.item() == 1  # the smallest random number there is


def test_greedy_takes_the_most_likely_token_and_no_randomness():
    state = torch.get_rng_state()
    responses = sample_responses(bigram, torch.tensor([[0], [1], [2]]), 3, 0, -1, PAD)
    assert torch.equal(torch.get_rng_state(), state)
    token = torch.tensor([0, 1, 2])
    for step in range(3):
        token = Draw(1).normal(5, 5)[token].argmax(-1)
        assert responses[:, step].equal(token)


def test_whose_random_state_moves():
    prompts = torch.zeros(50, 2).long()
    state = torch.get_rng_state()
    one = sample_responses(bigram, prompts, 5, 1.0, EOS, PAD, seeded(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.equal(sample_responses(bigram, prompts, 5, 1.0, EOS, PAD, seeded(1)))
    assert not one.equal(sample_responses(bigram, prompts, 5, 1.0, EOS, PAD, seeded(2)))
    try:
        drawn = [sample_responses(bigram, prompts, 5, 1.0, EOS, PAD) for _ in range(2) if torch.manual_seed(0)]
        assert drawn[0].equal(drawn[1]) and not torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_rng_state(state)


def test_sampling_leaves_prompts_and_grad_mode_and_carries_no_graph():
    table, prompts = torch.randn(5, 5, generator=seeded(), requires_grad=True), torch.zeros(3, 2).long()
    responses = sample_responses(lambda x: table[x[:, -1]], prompts, 2, 1.0, -1, PAD, seeded())
    assert torch.is_grad_enabled() and table.grad is None and not responses.requires_grad
    assert prompts.eq(0).all()


@SEEDED
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 6), st.sampled_from([PAD, EOS]))
def test_rows_are_tokens_then_an_end_then_pads(seed, rows, steps, pad):
    responses = sample_responses(bigram, torch.zeros(rows, 1).long(), steps, 1.0, EOS, pad, seeded(seed))
    for row in responses.tolist():
        if EOS in row:
            assert row[row.index(EOS) + 1 :] == [pad] * (len(row) - row.index(EOS) - 1)
    ended_at = [row.index(EOS) + 1 if EOS in row else steps for row in responses.tolist()]
    assert responses.shape == (rows, max(ended_at))


# scoring


@pytest.mark.parametrize(
    "kind", [list, torch.tensor, lambda x: torch.tensor(x).numpy(), lambda x: [torch.tensor(v) for v in x]]
)
@pytest.mark.parametrize("raw", [[1.5, -2.0, 0.25], [1, 2, 3]])
def test_the_penalty_is_subtracted_where_the_end_is_missing(kind, raw):
    calls, returned = [], kind(raw)
    prompts, responses = ["a", "b", "c"], ["x", "y", "z"]

    def reward_fn(prompts, responses):
        calls.append((list(prompts), list(responses)))
        return returned

    before = copy.deepcopy(returned)
    scores = score_responses(reward_fn, prompts, responses, torch.tensor([True, False, True]), 2.0)
    assert scores.tolist() == [raw[0], raw[1] - 2.0, raw[2]] and scores.is_floating_point()
    assert calls == [(["a", "b", "c"], ["x", "y", "z"])]
    scores += 1  # what the caller does with the scores is not the reward function's business
    assert all(a == b for a, b in zip(returned, before, strict=True))
    assert (prompts, responses) == (["a", "b", "c"], ["x", "y", "z"])


def test_one_response_and_none_ended():
    score = score_responses(lambda p, r: [3.0], ["a"], ["x"], torch.tensor([False]), 1.0)
    assert score.tolist() == [2.0]


# minibatches and the controller


@SEEDED
@given(st.integers(1, 20), st.integers(1, 25), st.integers(1, 4))
def test_every_epoch_is_a_permutation_in_pieces(batch, minibatch, epochs):
    pieces = list(minibatch_indices(batch, minibatch, epochs, seeded()))
    per_epoch = math.ceil(batch / minibatch)
    assert len(pieces) == epochs * per_epoch
    for epoch in range(epochs):
        of_epoch = pieces[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(torch.cat(of_epoch).tolist()) == list(range(batch))
        assert all(len(piece) == minibatch for piece in of_epoch[:-1])
        assert all(piece.dtype == torch.int64 for piece in of_epoch)


def test_epochs_are_shuffled_anew_by_the_generator_alone():
    state = torch.get_rng_state()
    one, two = minibatch_indices(50, 50, 2, seeded())
    assert not one.equal(two) and not one.equal(torch.arange(50))
    again = list(minibatch_indices(50, 50, 2, seeded()))
    assert again[0].equal(one) and again[1].equal(two)
    assert torch.equal(torch.get_rng_state(), state)
    try:
        drawn = [torch.cat(list(minibatch_indices(50, 7, 1))) for _ in range(2) if torch.manual_seed(0)]
        assert drawn[0].equal(drawn[1])
    finally:
        torch.set_rng_state(state)


def test_first_rows_are_uniform():
    first = torch.stack([next(iter(minibatch_indices(4, 2, 1, seeded(seed)))) for seed in range(2000)])
    assert (torch.bincount(first.flatten(), minlength=4) / 4000 - 0.25).abs().max() < 0.03


def controller(error):
    return lambda beta, kl, target, n, horizon: beta * (1 + error(kl, target) * n / horizon)


def clip(x):
    return min(max(x, -0.2), 0.2)


test_contract, test_known_mistakes_are_told_apart = contract_tests([
    Entry(adaptive_kl_coef, oracles.adaptive_kl_coef,
          lambda d: (d.number(1, 2), d.number(5, 9), 6.0 + d.number(0, 2), 64, 256.0), "float", mutants={
              "not clipped": controller(lambda kl, target: kl / target - 1),
              "difference": controller(lambda kl, target: clip(kl - target)),
              "upside down": controller(lambda kl, target: clip(target / kl - 1)),
              "no minus one": controller(lambda kl, target: clip(kl / target)),
              "sign": controller(lambda kl, target: -clip(kl / target - 1)),
              "added": lambda b, kl, t, n, h: b + clip(kl / t - 1) * n / h,
              "horizon ignored": lambda b, kl, t, n, h: b * (1 + clip(kl / t - 1)),
              "horizon upside down": lambda b, kl, t, n, h: b * (1 + clip(kl / t - 1) * h / n),
          }, styles=(controller(lambda kl, target: clip(kl / target - 1)),)),
])  # fmt: skip


def test_the_coefficient_comes_to_rest_at_the_target():
    assert adaptive_kl_coef(0.1, 6.0, 6.0, 64, 1e4) == 0.1
    assert adaptive_kl_coef(0.1, 1e9, 6.0, 100, 1000) == pytest.approx(0.102)
    assert adaptive_kl_coef(0.1, -5.0, 6.0, 100, 1000) == pytest.approx(0.098)


LOGITS, PROMPT = (lambda x: torch.zeros(len(x), 4)), torch.zeros(1, 1).long()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: sample_responses(LOGITS, PROMPT, 0, 1.0, EOS, PAD), "max_new_tokens"),
        (lambda: sample_responses(LOGITS, PROMPT, 1, -1.0, EOS, PAD), "temperature"),
        (lambda: minibatch_indices(0, 1, 1), "batch_size"),
        (lambda: minibatch_indices(4, 0, 1), "minibatch_size"),
        (lambda: minibatch_indices(4, 1, 0), "epochs"),
        (lambda: adaptive_kl_coef(0.1, 1.0, 0.0, 8, 100.0), "target_kl"),
        (lambda: adaptive_kl_coef(0.1, 1.0, 6.0, 8, 0.0), "horizon"),
        (lambda: score_responses(lambda p, r: [1.0], ["a"], ["x", "y"], torch.ones(1).bool(), 1.0), "responses"),
        (lambda: score_responses(lambda p, r: [1.0], ["a"], ["x"], torch.ones(2).bool(), 1.0), "ended"),
        (lambda: score_responses(lambda p, r: [1.0], ["a"], ["x"], torch.ones(1).long(), 1.0), "ended"),
        (lambda: score_responses(lambda p, r: [1.0, 2.0], ["a"], ["x"], torch.ones(1).bool(), 1.0), "reward_fn"),
        (lambda: score_responses(lambda p, r: torch.ones(1, 1), ["a"], ["x"], torch.ones(1).bool(), 1.0), "reward_fn"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
