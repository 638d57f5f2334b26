"""Lesson 00: log-probabilities, response mask, masked mean, entropy and SFT loss."""

from __future__ import annotations

import itertools
import math

import oracles
import pytest
import torch
import torch.nn.functional as F
from cases import Draw, Entry, contract_tests

from rlhf_core.policy import masked_mean, response_mask, sft_loss, token_entropy, token_logprobs

VOCAB, EOS = 5, 2


def draw_logits_tokens(draw: Draw, temperature: tuple = ()) -> tuple:
    logits = draw.normal(draw.rows, draw.time, VOCAB, scale=2.0)
    return logits, draw.integers(0, VOCAB, draw.rows, draw.time), *temperature


def draw_response(draw: Draw) -> tuple:
    """Prompts of differing lengths that contain EOS too, as they do when padded with it."""
    return draw.integers(0, 4, draw.rows, draw.time), draw.integers(1, draw.time + 1, draw.rows), EOS


def draw_sft(draw: Draw) -> tuple:
    mask = draw.mask()
    mask[0, -1] = True  # something after column 0
    return *draw_logits_tokens(draw), mask


def log_p(logits, tokens, temperature=1.0):
    return torch.log_softmax(logits / temperature, -1)[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)


def until_eos(tokens, lengths, eos, count):
    """The response mask with a rule for which tokens after the first EOS count."""
    inside = torch.arange(tokens.shape[1]) >= lengths[:, None]
    return inside & count((tokens == eos) & inside)


LOGPROB_MUTANTS = {
    "not shifted": lambda x, y, T: torch.log_softmax(x / T, -1)[:, :-1].gather(-1, y[:, :-1, None]).squeeze(-1),
    "logits shifted right": lambda x, y, T: torch.log_softmax(x / T, -1)[:, 1:].gather(-1, y[:, :-1, None]).squeeze(-1),
    "raw logits": lambda x, y, T: (x / T)[:, :-1].gather(-1, y[:, 1:, None]).squeeze(-1),
    "softmax over time": lambda x, y, T: torch.log_softmax(x / T, 1)[:, :-1].gather(-1, y[:, 1:, None]).squeeze(-1),
    "no temperature": lambda x, y, T: log_p(x, y),
    "temperature multiplies": lambda x, y, T: log_p(x, y, 1 / T),
    "temperature after the softmax": lambda x, y, T: log_p(x, y) / T,
    "negative": lambda x, y, T: -log_p(x, y, T),
    "probabilities": lambda x, y, T: log_p(x, y, T).exp(),
}
MASK_MUTANTS = {
    "excludes EOS": lambda x, n, e: until_eos(x, n, e, lambda is_eos: is_eos.cumsum(1) == 0),
    "keeps everything after EOS": lambda x, n, e: torch.arange(x.shape[1]) >= n[:, None],
    "last EOS": lambda x, n, e: until_eos(x, n, e, lambda is_eos: is_eos.flip(1).cumsum(1).flip(1) > 0),
    "first EOS of the row": lambda x, n, e: (
        (torch.arange(x.shape[1]) >= n[:, None]) & ((x == e).cumsum(1) - (x == e).long() == 0)
    ),
    "tokens that are not EOS": lambda x, n, e: (torch.arange(x.shape[1]) >= n[:, None]) & (x != e),
    "prompt included": lambda x, n, e: (x == e).cumsum(1) - (x == e).long() == 0,
    "drops the first response token": lambda x, n, e: response_mask(x, n, e) & (torch.arange(x.shape[1]) > n[:, None]),
    "no EOS means the first token only": lambda x, n, e: (
        (torch.arange(x.shape[1]) <= ((x == e) & (torch.arange(x.shape[1]) >= n[:, None])).int().argmax(1)[:, None])
        & (torch.arange(x.shape[1]) >= n[:, None])
    ),
}
MEAN_MUTANTS = {
    "masking is zeroing": lambda x, m: (x * m).mean(),
    "unmasked": lambda x, m: x.mean(),
    "mean of row means": lambda x, m: ((x * m).sum(1) / m.sum(1)).mean(),
    "inverted mask": lambda x, m: x[~m].mean(),
    "sum": lambda x, m: x[m].sum(),
}
ENTROPY_MUTANTS = {
    "sign": lambda x: -token_entropy(x),
    "base 2": lambda x: token_entropy(x) / math.log(2),
    "over time": lambda x: -(torch.softmax(x, 1) * torch.log_softmax(x, 1)).sum(-1),
    "of the logits": lambda x: -(torch.softmax(x, -1) * x).sum(-1),
    "mean over the vocabulary": lambda x: token_entropy(x) / x.shape[-1],
}
SFT_MUTANTS = {
    "mask not shifted": lambda x, y, m: -log_p(x, y)[m[:, :-1]].mean(),
    "prompt included": lambda x, y, m: -log_p(x, y).mean(),
    "masking is zeroing": lambda x, y, m: -(log_p(x, y) * m[:, 1:]).mean(),
    "sum": lambda x, y, m: -log_p(x, y)[m[:, 1:]].sum(),
    "sign": lambda x, y, m: log_p(x, y)[m[:, 1:]].mean(),
    "mean of row means": lambda x, y, m: -((log_p(x, y) * m[:, 1:]).sum(1) / m[:, 1:].sum(1).clamp(min=1)).mean(),
    "tokens not shifted": lambda x, y, m: F.cross_entropy(x[m], y[m]),
}

test_contract, test_known_mistakes_are_told_apart = contract_tests([
    Entry(token_logprobs, oracles.token_logprobs, lambda d: draw_logits_tokens(d, (d.number(0.3, 2.0),)),
          trained=(0,), rows="along", row_args=(0, 1), mutants=LOGPROB_MUTANTS, styles=(log_p,)),
    Entry(response_mask, oracles.response_mask, draw_response, rows="along", row_args=(0, 1), mutants=MASK_MUTANTS,
          styles=(lambda x, n, e: until_eos(x, n, e, lambda is_eos: is_eos.cumsum(1) - is_eos.long() == 0),)),
    Entry(masked_mean, oracles.masked_mean, lambda d: (d.tokens(), d.mask()), "loss", mask=1, masked=(0,),
          trained=(0,), rows="same", row_args=(0, 1), mutants=MEAN_MUTANTS, styles=(lambda x, m: x[m].mean(),)),
    Entry(token_entropy, oracles.token_entropy, lambda d: (d.normal(d.rows, d.time, VOCAB, scale=2.0),),
          trained=(0,), rows="along", row_args=(0,), mutants=ENTROPY_MUTANTS),
    Entry(sft_loss, oracles.sft_loss, draw_sft, "loss", trained=(0,), rows="same", row_args=(0, 1, 2),
          mutants=SFT_MUTANTS, styles=(lambda x, y, m: F.cross_entropy(x[:, :-1][m[:, 1:]], y[:, 1:][m[:, 1:]]),),
          min_time=2),
])  # fmt: skip


def test_logprobs_sum_to_one_over_every_continuation():
    logits = Draw(0).normal(1, 3, VOCAB)
    total = 0.0
    for a, b in itertools.product(range(VOCAB), repeat=2):
        total += token_logprobs(logits, torch.tensor([[0, a, b]])).sum().exp().item()
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_logprobs_of_extreme_logits_are_finite(temperature):
    logits = torch.tensor([[[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0]]], requires_grad=True)
    result = token_logprobs(logits, torch.tensor([[0, 1, 2]]), temperature)
    result.sum().backward()
    assert result.isfinite().all() and logits.grad.isfinite().all()
    torch.testing.assert_close(result, torch.tensor([[-2e4 / temperature, -math.log(2)]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logprobs_of_short_logits_are_computed_in_float32(dtype):
    logits = Draw(1).normal(2, 4, 2000, scale=3.0).to(dtype)
    tokens = Draw(2).integers(0, 2000, 2, 4)
    result = token_logprobs(logits, tokens, 0.7)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, token_logprobs(logits.float(), tokens, 0.7), rtol=0, atol=0)


def test_logprobs_of_one_column_are_empty():
    assert token_logprobs(torch.zeros(2, 1, 3), torch.zeros(2, 1, dtype=torch.int64)).shape == (2, 0)


def test_a_forbidden_token_does_not_spoil_the_others():
    logits = torch.tensor([[[0.0, 0.0, -math.inf], [0.0, 0.0, 0.0]]])
    assert token_logprobs(logits, torch.tensor([[0, 1]])).item() == pytest.approx(-math.log(2))


@pytest.mark.parametrize(
    ("tokens", "length", "expected"),
    [
        ([2, 7, 2, 2, 2], 2, [0, 0, 1, 0, 0]),  # padded with EOS on both sides
        ([7, 7, 7, 7, 7], 2, [0, 0, 1, 1, 1]),  # no EOS
        ([2, 2, 7, 7, 2], 2, [0, 0, 1, 1, 1]),  # EOS only in the prompt and as the last token
        ([7, 2, 7, 2, 7], 2, [0, 0, 1, 1, 0]),  # the prompt ends with EOS
        ([7, 7, 7], 3, [0, 0, 0]),  # no response at all
        ([7, 2], 1, [0, 1]),
    ],
)
def test_response_mask_by_hand(tokens, length, expected):
    mask = response_mask(torch.tensor([tokens]), torch.tensor([length]), EOS)
    assert mask.dtype == torch.bool and mask.tolist() == [[bool(x) for x in expected]]


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_masked_mean_along_a_dimension(dim):
    draw = Draw(3, 4, 6)
    values, mask = draw.tokens(), draw.mask()
    mask[2] = mask[:, 3] = False  # an empty row and an empty column
    mask[1] = torch.arange(6) == 4  # a single token
    values = values.masked_fill(~mask, math.nan).requires_grad_()
    result = masked_mean(values, mask, dim)
    expected = torch.tensor(oracles.masked_mean(values.detach(), mask, dim), dtype=torch.float64)
    torch.testing.assert_close(result, expected)
    result.sum().backward()
    assert values.grad.isfinite().all() and values.grad[~mask].eq(0).all()


def test_masked_mean_of_three_dimensions():
    values, mask = Draw(4).normal(2, 3, 4), Draw(5).normal(2, 3, 4) > 0
    torch.testing.assert_close(masked_mean(values, mask), values[mask].mean())
    torch.testing.assert_close(masked_mean(values, mask, 2)[0], masked_mean(values[0], mask[0], 1))


def test_entropy_of_known_distributions():
    logits = torch.tensor([[[0.0] * 4, [9e3, -9e3, -9e3, -9e3], [0.0, 0.0, -math.inf, -math.inf]]], requires_grad=True)
    entropy = token_entropy(logits)
    torch.testing.assert_close(entropy, torch.tensor([[math.log(4), 0.0, math.log(2)]]))
    entropy.sum().backward()
    assert logits.grad.isfinite().all()


def test_entropy_gradient_where_probabilities_underflow():
    logits = torch.tensor([[[0.0, 1.0, -1e4, -math.inf, -200.0]]], requires_grad=True)
    token_entropy(logits).sum().backward()
    kept = torch.tensor([[[0.0, 1.0]]], requires_grad=True)
    token_entropy(kept).sum().backward()
    torch.testing.assert_close(logits.grad[..., :2], kept.grad)
    assert logits.grad[..., 2:].eq(0).all()


def test_entropy_of_a_response_is_the_sum_of_expected_step_entropies():
    """Chain rule, by enumeration of all two-token responses of a policy whose second step depends on the first."""
    first, second = Draw(6).normal(1, 1, 3), Draw(7).normal(3, 1, 3)
    p, q = first.softmax(-1)[0, 0], second.softmax(-1)[:, 0]
    joint = [p[a] * q[a, b] for a in range(3) for b in range(3)]
    whole = -sum(x * x.log() for x in joint)
    by_steps = token_entropy(first).sum() + (p * token_entropy(second)[:, 0]).sum()
    torch.testing.assert_close(whole, by_steps)


def test_sft_ignores_column_0_and_finite_garbage():
    logits, tokens, mask = draw_sft(Draw(8))
    loss = sft_loss(logits, tokens, mask)
    flipped = mask.clone()
    flipped[:, 0] = ~flipped[:, 0]
    assert sft_loss(logits, tokens, flipped) == loss
    unused = torch.ones_like(mask)
    unused[:, :-1] = ~mask[:, 1:]
    wild = logits.masked_fill(unused[..., None], -1e30).requires_grad_()
    sft_loss(wild, tokens, mask).backward()
    assert wild.grad[unused].eq(0).all() and wild.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: token_logprobs(torch.zeros(1, 2, 3), torch.zeros(1, 2).long(), 0.0), "temperature"),
        (lambda: token_logprobs(torch.zeros(1, 2, 3), torch.zeros(1, 2).long(), -1.0), "temperature"),
        (lambda: token_logprobs(torch.zeros(1, 2, 3), torch.zeros(1, 3).long()), "logits"),
        (lambda: token_logprobs(torch.zeros(2, 3), torch.zeros(2, 3).long()), "logits"),
        (lambda: response_mask(torch.zeros(2, 3).long(), torch.tensor([1]), 0), "prompt_lengths"),
        (lambda: response_mask(torch.zeros(1, 3).long(), torch.tensor([0]), 0), "prompt_lengths"),
        (lambda: response_mask(torch.zeros(1, 3).long(), torch.tensor([4]), 0), "prompt_lengths"),
        (lambda: masked_mean(torch.zeros(2, 3), torch.zeros(2, 3).bool()), "mask"),
        (lambda: masked_mean(torch.zeros(2, 3), torch.ones(3).bool()), "mask"),
        (lambda: masked_mean(torch.zeros(2), torch.ones(2).long()), "mask"),
        (lambda: sft_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2).long(), torch.tensor([[True, False]])), "mask"),
        (lambda: sft_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2).long(), torch.ones(2, 2).bool()), "mask"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
