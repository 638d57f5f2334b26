"""Lesson 04: small, safe steps. The losses of proximal policy optimisation and the numbers that show whether it is safe."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf_core.checks import require_mask, require_positive, require_same_shape
from rlhf_core.policy import masked_mean


def masked_log_ratio(
    logprobs: Float[Tensor, "batch time"],
    old_logprobs: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """log ρ = log π − log π_old on response tokens, 0 elsewhere; π_old is data."""
    require_mask(mask)
    return torch.where(mask, logprobs - old_logprobs.detach(), 0.0)


def probability_ratio(
    logprobs: Float[Tensor, "batch time"],
    old_logprobs: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """ρ = π / π_old on response tokens, 1 elsewhere."""
    # beyond e^80 float32 would give inf, whose gradient is NaN even where the clip cuts it
    return masked_log_ratio(logprobs, old_logprobs, mask).clamp(max=80).exp()


def clipped_policy_loss(
    logprobs: Float[Tensor, "batch time"],
    old_logprobs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    clip_range: float,
) -> Float[Tensor, ""]:
    """PPO's clipped surrogate, as a loss.

    Args:
        logprobs: log π of the sampled tokens under the policy being trained, in nats. The gradient flows here only.
        old_logprobs: the same under the policy that sampled them, frozen for the whole rollout.
        advantages: one per token.
        mask: True on response tokens.
        clip_range: ε, how far the ratio may move before the gradient is cut.

    Returns:
        −E[min(ρA, clip(ρ, 1−ε, 1+ε)A)], ρ = exp(logprobs − old_logprobs), averaged over all response tokens of the batch.

    Raises:
        ValueError: the shapes differ, `clip_range` is not positive, or no token is a response token.

    Source: Schulman et al. 2017 (arXiv 1707.06347), equation 7. GRPO averages per response first; verl adds a second
    clip for A < 0.
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, mask=mask)
    require_positive(clip_range=clip_range)
    ratio = probability_ratio(logprobs, old_logprobs, mask)
    advantages = torch.where(mask, advantages.detach(), 0.0)
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range) * advantages
    return -masked_mean(torch.minimum(unclipped, clipped), mask)


def clip_fraction(
    logprobs: Float[Tensor, "batch time"],
    old_logprobs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    clip_range: float,
) -> float:
    """Share of response tokens whose gradient the clip cuts.

    Args:
        logprobs, old_logprobs, advantages, mask, clip_range: as in `clipped_policy_loss`.

    Returns:
        The share of response tokens with ρ > 1 + ε and A > 0, or ρ < 1 − ε and A < 0. Elsewhere the minimum takes the
        unclipped term, so a ratio may be out of range without being clipped. On the bound, or with A = 0: not counted.

    Raises:
        ValueError: as `clipped_policy_loss`.

    Source: the `clipfrac` of OpenAI's code. TRL's GRPO counted |ρ − 1| > ε whatever the sign until trl pull request 3175.
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, mask=mask)
    require_positive(clip_range=clip_range)
    ratio = probability_ratio(logprobs, old_logprobs, mask)
    raised = (ratio > 1 + clip_range) & (advantages > 0)
    lowered = (ratio < 1 - clip_range) & (advantages < 0)
    return masked_mean((raised | lowered).float(), mask).item()


def approx_kl(
    logprobs: Float[Tensor, "batch time"],
    old_logprobs: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
) -> float:
    """How far the policy has moved since the rollout: KL(π_old ‖ π), from tokens sampled from π_old.

    Args:
        logprobs, old_logprobs, mask: as in `clipped_policy_loss`.

    Returns:
        E[(ρ − 1) − log ρ] over response tokens, in nats per token; never negative.

    Raises:
        ValueError: the shapes differ or no token is a response token.

    Source: k3 of Schulman 2020, http://joschu.net/blog/kl-approx.html, with the roles of `kl_estimate` exchanged, because
    here the samples come from the old policy. TRL logs ½(log ρ)² and averages over padding too.
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, mask=mask)
    log_ratio = masked_log_ratio(logprobs, old_logprobs, mask)
    return masked_mean(log_ratio.expm1() - log_ratio, mask).item()


def clipped_value_loss(
    values: Float[Tensor, "batch time"],
    old_values: Float[Tensor, "batch time"],
    returns: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    clip_range: float,
) -> Float[Tensor, ""]:
    """Squared error of the critic, without reward for moving far from its old prediction.

    Args:
        values: the critic's predictions V now. The gradient flows here only.
        old_values: its predictions at the rollout.
        returns: the targets G = A + V_old.
        mask: True on response tokens.
        clip_range: ε in the unit of the values: an absolute distance, not a ratio.

    Returns:
        ½ E[max((V − G)², (V_old + clip(V − V_old, ±ε) − G)²)] over all response tokens of the batch.

    Raises:
        ValueError: the shapes differ, `clip_range` is not positive, or no token is a response token.

    Source: OpenAI's ppo2 (openai/baselines); not in the PPO paper. It takes the *larger* error, a pessimist like the
    policy loss: RLlib shipped the smaller one (ray issue 2233).
    """
    require_same_shape(values=values, old_values=old_values, returns=returns, mask=mask)
    require_mask(mask)
    require_positive(clip_range=clip_range)
    values = torch.where(mask, values, 0.0)
    old_values = torch.where(mask, old_values.detach(), 0.0)
    returns = torch.where(mask, returns.detach(), 0.0)
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    errors = torch.maximum((values - returns).square(), (clipped - returns).square())
    return 0.5 * masked_mean(errors, mask)


def ppo_loss(
    policy_loss: Float[Tensor, ""],
    value_loss: Float[Tensor, ""],
    entropy: Float[Tensor, ""],
    value_coef: float,
    entropy_coef: float,
) -> Float[Tensor, ""]:
    """The total that one PPO step minimises.

    Args:
        policy_loss, value_loss: the two losses above.
        entropy: mean entropy of the policy in nats; more of it keeps exploring, so it is subtracted.
        value_coef, entropy_coef: weights of the two.

    Returns:
        policy_loss + value_coef · value_loss − entropy_coef · entropy.

    Source: Schulman et al. 2017 (arXiv 1707.06347), equation 9, with the sign of a loss. RLHF mostly sets
    entropy_coef = 0, since the KL penalty already keeps the policy from collapsing.
    """
    return policy_loss + value_coef * value_loss - entropy_coef * entropy
