"""Lesson 08: groups instead of a critic. Several answers to one prompt are each other's baseline."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf_core.advantages import kl_estimate
from rlhf_core.checks import require, require_mask, require_positive, require_same_shape, require_shape
from rlhf_core.policy import masked_mean
from rlhf_core.ppo import probability_ratio


def in_groups(rewards: Float[Tensor, "batch"], group_size: int) -> Float[Tensor, "groups group_size"]:
    """View the rewards as groups of consecutive rows."""
    require_shape("rewards", rewards, None)
    require(group_size >= 1, f"group_size must be at least 1, got {group_size}")
    require(len(rewards) % group_size == 0, f"group_size {group_size} does not divide the {len(rewards)} rewards")
    return rewards.reshape(-1, group_size)


def group_advantages(rewards: Float[Tensor, "batch"], group_size: int, eps: float = 1e-4) -> Float[Tensor, "batch"]:
    """Advantage of each response within the group of answers to its prompt.

    Args:
        rewards: one per response; the `group_size` answers to a prompt are consecutive rows.
        group_size: answers per prompt, G.
        eps: added to the standard deviation.

    Returns:
        (r − mean) / (std + eps) within each group, std unbiased. Equal rewards, and groups of one, give 0.

    Raises:
        ValueError: `group_size` does not divide the number of rewards.

    Source: Shao et al. 2024 (arXiv 2402.03300), section 4.1.2; eps of TRL. Dr. GRPO (arXiv 2503.20783) leaves out the
    division, which favours prompts whose answers are nearly equal.
    """
    groups = in_groups(rewards, group_size)
    if group_size == 1:
        return torch.zeros_like(rewards)
    groups = groups - groups[:, :1]  # equal rewards become exact zeros, which float32's mean would miss by an ulp
    centered = groups - groups.mean(dim=1, keepdim=True)
    return (centered / (groups.std(dim=1, keepdim=True) + eps)).reshape(-1)


def rloo_advantages(rewards: Float[Tensor, "batch"], group_size: int) -> Float[Tensor, "batch"]:
    """REINFORCE leave-one-out: each response against the mean of the others.

    Args:
        rewards: one per response; the `group_size` answers to a prompt are consecutive rows.
        group_size: answers per prompt, at least 2.

    Returns:
        r_i − mean of the other rewards of its group, in the rewards' unit. A baseline that does not contain r_i keeps
        the policy gradient unbiased.

    Raises:
        ValueError: `group_size` is below 2 or does not divide the number of rewards.

    Source: Kool et al. 2019; Ahmadian et al. 2024 (arXiv 2402.14740), equation 7.
    """
    require(
        group_size >= 2, f"group_size must be at least 2, so that there are others to compare with, got {group_size}"
    )
    groups = in_groups(rewards, group_size)
    mean_of_others = (groups.sum(dim=1, keepdim=True) - groups) / (group_size - 1)
    return (groups - mean_of_others).reshape(-1)


def grpo_loss(
    logprobs: Float[Tensor, "batch time"],
    old_logprobs: Float[Tensor, "batch time"],
    ref_logprobs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch"],
    mask: Bool[Tensor, "batch time"],
    clip_range: float,
    kl_coef: float,
) -> Float[Tensor, ""]:
    """GRPO's loss: the clipped surrogate with one advantage per response, and the KL penalty in the loss.

    Args:
        logprobs: log π of the sampled tokens, in nats. The gradient flows here only.
        old_logprobs, ref_logprobs: the same under the sampling policy and the reference; data.
        advantages: one per response, shared by its tokens.
        mask: True on response tokens.
        clip_range: ε of the ratio.
        kl_coef: β, weight of the k3 estimate of KL(π ‖ π_ref), per nat.

    Returns:
        −min(ρA, clip(ρ, 1−ε, 1+ε)A) + β · k3, averaged over the tokens of each response and then over responses.

    Raises:
        ValueError: the shapes do not fit, `clip_range` is not positive or `kl_coef` is negative.

    Source: Shao et al. 2024 (arXiv 2402.03300), equation 3. Averaging per response makes a token of a long response
    count less; DAPO and Dr. GRPO average over all tokens instead. TRL multiplies the k3 term by the ratio by default
    (use_bias_correction_kl), which corrects its gradient once the policy has moved.
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, ref_logprobs=ref_logprobs, mask=mask)
    require_mask(mask)
    require_shape("mask", mask, None, None)
    require_shape("advantages", advantages, len(mask))
    require_positive(clip_range=clip_range)
    require(kl_coef >= 0, f"kl_coef must be at least 0, got {kl_coef}")
    require(bool(mask.any(dim=1).all()), "mask has a row without any True, which has no tokens to average over")
    ratio = probability_ratio(logprobs, old_logprobs, mask)
    advantages = advantages.detach()[:, None]
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages)
    kl = kl_estimate(torch.where(mask, logprobs, 0.0), torch.where(mask, ref_logprobs, 0.0), "k3")
    return masked_mean(kl_coef * kl - surrogate, mask, dim=1).mean()
