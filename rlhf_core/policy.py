"""Lesson 00: a language model is a policy. It reads a state (the tokens so far) and chooses an action (the next token).

Everything that follows is built from four quantities: the log-probability of the tokens that were chosen, the mask that
says which of them are the policy's own, the mean over that mask, and the entropy of the choice.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_core.checks import require, require_mask, require_positive, require_same_shape, require_shape


def at_least_float32(logits: Tensor) -> Tensor:
    """bfloat16 and float16 as float32; float32 and float64 as they are."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def token_logprobs(
    logits: Float[Tensor, "batch time vocab"],
    tokens: Int[Tensor, "batch time"],
    temperature: float = 1.0,
) -> Float[Tensor, "batch time-1"]:
    """Log-probability of each token given the tokens before it.

    Args:
        logits: the model's output; `logits[:, t]` scores the token at position t + 1.
        tokens: the token ids that the model was fed.
        temperature: the temperature of the distribution that is sampled from. Logits are divided by it.

    Returns:
        `out[:, t]` = log π(tokens[:, t+1] | tokens[:, :t+1]) in nats, computed in float32 at least: in bfloat16 the
        error reaches 0.1 nats, more than a PPO step changes.

    Raises:
        ValueError: the shapes do not fit or the temperature is not positive.

    Source: Ziegler et al. 2019 (arXiv 1909.08593), section 2, whose code also divides by the temperature. Several
    libraries left it out when recomputing, so that the ratio of PPO was not 1 before the first update.
    """
    require_positive(temperature=temperature)
    require_shape("tokens", tokens, None, None)
    require_shape("logits", logits, *tokens.shape, None)
    log_distribution = torch.log_softmax(at_least_float32(logits[:, :-1]) / temperature, dim=-1)
    return log_distribution.gather(-1, tokens[:, 1:, None]).squeeze(-1)


def response_mask(
    tokens: Int[Tensor, "batch time"],
    prompt_lengths: Int[Tensor, "batch"],
    eos_id: int,
) -> Bool[Tensor, "batch time"]:
    """True from the first response token up to and including the first EOS of the response.

    Args:
        tokens: prompt and response, row by row.
        prompt_lengths: columns before the response (≥ 1), left padding included.
        eos_id: the id that ends a response. It may also be the padding id, and may occur in the prompt.

    Returns:
        The mask. A response without EOS reaches to the end of its row.

    Raises:
        ValueError: `prompt_lengths` is not one number in 1 … time for each row.

    Source: the convention of Ouyang et al. 2022 and of verl and TRL's GRPO: ending is an action, so EOS counts. Masks
    made from `tokens != pad_id` lose that EOS wherever the tokenizer pads with it.
    """
    require_shape("tokens", tokens, None, None)
    require_shape("prompt_lengths", prompt_lengths, len(tokens))
    time = tokens.shape[1]
    in_range = bool(((prompt_lengths >= 1) & (prompt_lengths <= time)).all())
    require(in_range, f"prompt_lengths must lie in 1 … {time}, got {prompt_lengths.tolist()}")
    in_response = torch.arange(time, device=tokens.device) >= prompt_lengths[:, None]
    is_eos = (tokens == eos_id) & in_response
    eos_before = is_eos.long().cumsum(dim=1) - is_eos.long()
    return in_response & (eos_before == 0)


def masked_mean(
    values: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    dim: int | None = None,
) -> Float[Tensor, "*reduced"]:
    """Mean of the values where the mask is True.

    Args:
        values: anything; what stands at masked-out positions (NaN and inf included) has no influence.
        mask: True where a value counts; same shape.
        dim: the dimension to average over, which is removed; None averages over everything.

    Returns:
        The mean, in the values' unit. Along `dim`, a slice without any True gives 0.

    Raises:
        ValueError: the shapes differ, the mask is not bool, or it has no True and `dim` is None.

    Source: the token mean of Ziegler et al. 2019. `values * mask` would let NaN through (NaN · 0 = NaN).
    """
    require_same_shape(values=values, mask=mask)
    require_mask(mask)
    kept = torch.where(mask, values, 0.0)
    if dim is None:
        require(bool(mask.any()), "mask has no True, so there is nothing to average over")
        return kept.sum() / mask.sum()
    return kept.sum(dim) / mask.sum(dim).clamp(min=1)


def token_entropy(logits: Float[Tensor, "batch time vocab"]) -> Float[Tensor, "batch time"]:
    """Entropy of each next-token distribution.

    Args:
        logits: unnormalised log-probabilities; -inf forbids a token.

    Returns:
        H = −Σ p log p in nats, between 0 and log(vocab). Value and gradient stay finite where p underflows to 0, with
        the limit p log p → 0.

    Source: Shannon 1948. TRL's metric `objective/entropy` is something else, −log p of the sampled tokens: an estimate
    of this from one sample.
    """
    log_p = torch.log_softmax(at_least_float32(logits), dim=-1)
    p = log_p.exp()
    return -(p * log_p.masked_fill(p == 0, 0.0)).sum(dim=-1)


def sft_loss(
    logits: Float[Tensor, "batch time vocab"],
    tokens: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, ""]:
    """Negative log-likelihood of the response tokens: what supervised fine-tuning minimises.

    Args:
        logits: the model's output for `tokens`.
        tokens: prompt and response.
        mask: True on response tokens, aligned with `tokens`. Column 0 is never counted, since nothing predicts it.

    Returns:
        The mean over all response tokens of the batch, in nats per token.

    Raises:
        ValueError: the shapes do not fit, or no token after column 0 is masked True.

    Source: Ouyang et al. 2022 (arXiv 2203.02155), section 3.5. Some trainers average over the prompt's tokens too.
    """
    require_same_shape(tokens=tokens, mask=mask)
    require_mask(mask)
    counted = torch.where(mask, tokens, 0)  # what stands at other positions need not be a token, -100 for instance
    return -masked_mean(token_logprobs(logits, counted), mask[:, 1:])
