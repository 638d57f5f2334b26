"""Lesson 05, first half: the policy writes, the reward function reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_core.checks import require


def draw_tokens(
    logits: Float[Tensor, "batch vocab"], temperature: float, uniforms: Float[Tensor, "batch"]
) -> Int[Tensor, "batch"]:
    """One token per row by inverting the cumulative distribution at a uniform number in [0, 1)."""
    # float64: in float32 the sum over a large vocabulary is off by more than rare tokens are likely; MPS has none
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    cumulative = torch.softmax(logits.to(wide) / temperature, dim=-1).cumsum(dim=-1)
    # the first token whose cumulative probability exceeds u · total, so that one of probability 0 is never drawn
    targets = uniforms.to(wide).to(logits.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


@torch.no_grad()
def write_until_eos(
    next_logits: Callable[[Int[Tensor, "batch time"]], Float[Tensor, "batch vocab"]],
    prompts: Int[Tensor, "batch prompt_time"],
    choose: Callable[[Float[Tensor, "batch vocab"], int], Int[Tensor, "batch"]],
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
) -> Int[Tensor, "batch new_time"]:
    """One token at a time, `choose(logits, step)`, until every row has ended; only pads follow a row's EOS."""
    tokens = prompts
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
    for step in range(max_new_tokens):
        chosen = torch.where(ended, pad_id, choose(next_logits(tokens), step))
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        ended = ended | (chosen == eos_id)
        if ended.all():
            break
    return tokens[:, prompts.shape[1] :]


def choose_by(temperature: float, uniforms: Float[Tensor, "batch max_new_tokens"]) -> Callable[[Tensor, int], Tensor]:
    """`choose` for `write_until_eos` from given random numbers: a row is sampled alike on whichever process it lands."""
    return lambda logits, step: (
        draw_tokens(logits, temperature, uniforms[:, step]) if temperature > 0 else logits.argmax(dim=-1)
    )


def sample_responses(
    next_logits: Callable[[Int[Tensor, "batch time"]], Float[Tensor, "batch vocab"]],
    prompts: Int[Tensor, "batch prompt_time"],
    max_new_tokens: int,
    temperature: float,
    eos_id: int,
    pad_id: int,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch new_time"]:
    """Ancestral sampling: one token at a time, each drawn from the policy given everything so far.

    Args:
        next_logits: gets prompt and response so far, [batch, t] (finished rows continued with `pad_id`), and returns the
            logits of the next token. It may keep a key–value cache: tokens only ever grow by one column.
        prompts: token ids, left-padded.
        max_new_tokens: at most this many steps (≥ 1).
        temperature: divides the logits; 0 takes the most likely token.
        eos_id: ends a row.
        pad_id: fills a row after its EOS.
        generator: source of randomness; None is torch's default generator.

    Returns:
        The response tokens, without the prompt. As wide as the steps taken: it stops when every row has ended.

    Raises:
        ValueError: `max_new_tokens` is below 1 or the temperature is negative.

    Source: Ziegler et al. 2019 (arXiv 1909.08593), section 2. Top-p and top-k are left out on purpose: they sample from
    another distribution than the one whose log-probabilities PPO then compares.
    """
    require(max_new_tokens >= 1, f"max_new_tokens must be at least 1, got {max_new_tokens}")
    require(temperature >= 0, f"temperature must be at least 0, got {temperature}")

    def choose(logits: Float[Tensor, "batch vocab"], step: int) -> Int[Tensor, "batch"]:
        if temperature == 0:
            return logits.argmax(dim=-1)
        device = generator.device if generator is not None else "cpu"
        uniforms = torch.rand(len(prompts), dtype=torch.float64, device=device, generator=generator)
        return draw_tokens(logits, temperature, uniforms)

    return write_until_eos(next_logits, prompts, choose, max_new_tokens, eos_id, pad_id)


def score_responses(
    reward_fn: Callable[[list[str], list[str]], Sequence[float] | Float[Tensor, "batch"]],
    prompts: list[str],
    responses: list[str],
    ended: Bool[Tensor, "batch"],
    missing_eos_penalty: float,
) -> Float[Tensor, "batch"]:
    """Score a batch of responses, and charge those that did not come to an end.

    Args:
        reward_fn: called once as `reward_fn(prompts, responses)` with the whole batch; returns one number per response.
            It may be a reward model or any Python function.
        prompts, responses: texts, row i with row i.
        ended: True where the response ended with EOS.
        missing_eos_penalty: subtracted where it did not, in the unit of the scores.

    Returns:
        One score per response. A tensor that `reward_fn` returns is left unchanged.

    Raises:
        ValueError: the arguments differ in length, or `reward_fn` returns another number of scores.

    Source: TRL since 2024 subtracts; Ziegler et al. 2019 and trl issue 2012 tell of replacing the score by a constant,
    which hides from the policy how good its unfinished text was.
    """
    rows = len(prompts)
    require(
        len(responses) == rows and len(ended) == rows,
        f"prompts, responses and ended must have the same length, got {rows}, {len(responses)} and {len(ended)}",
    )
    require(
        ended.dtype == torch.bool and ended.dim() == 1,
        f"ended must be a bool tensor with one value for each response, got {ended.dtype} of shape {list(ended.shape)}",
    )
    raw = reward_fn(prompts, responses)
    scores = raw.detach() if isinstance(raw, Tensor) else torch.tensor([float(number) for number in raw])
    require(scores.shape == (rows,), f"reward_fn must return {rows} scores, got shape {tuple(scores.shape)}")
    return torch.where(ended.to(scores.device), scores, scores - missing_eos_penalty)
