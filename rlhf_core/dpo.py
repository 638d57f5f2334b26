"""Lesson 07: preferences without a reward model. The policy's own log-ratio is the reward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf_core.checks import require, require_mask, require_positive, require_same_shape, require_shape


def sequence_logprobs(
    token_logprobs: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch"]:
    """Log-probability of each whole response.

    Args:
        token_logprobs: one per token, in nats.
        mask: True on response tokens.

    Returns:
        The sum over response tokens, in nats. Not the mean: a response's probability is a product.

    Raises:
        ValueError: the shapes differ or the mask is not bool.

    Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 7, where π(y | x) is that of the whole response.
    """
    require_same_shape(token_logprobs=token_logprobs, mask=mask)
    require_mask(mask)
    require_shape("mask", mask, None, None)
    return torch.where(mask, token_logprobs, 0.0).sum(dim=1)


def log_ratio_gap(
    policy_chosen: Float[Tensor, "batch"],
    policy_rejected: Float[Tensor, "batch"],
    ref_chosen: Float[Tensor, "batch"],
    ref_rejected: Float[Tensor, "batch"],
) -> Float[Tensor, "batch"]:
    """By how much more the policy prefers chosen to rejected than the reference does, in nats; the reference is data."""
    require_same_shape(
        policy_chosen=policy_chosen, policy_rejected=policy_rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected
    )
    require(policy_chosen.numel() > 0, "policy_chosen is empty, so there is no loss")
    return (policy_chosen - policy_rejected) - (ref_chosen - ref_rejected).detach()


def dpo_loss(
    policy_chosen: Float[Tensor, "batch"],
    policy_rejected: Float[Tensor, "batch"],
    ref_chosen: Float[Tensor, "batch"],
    ref_rejected: Float[Tensor, "batch"],
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Direct preference optimisation.

    Args:
        policy_chosen, policy_rejected: log π of the whole responses (sums over tokens, in nats). The gradient flows here.
        ref_chosen, ref_rejected: the same under the reference; data.
        beta: how strongly to stay near the reference, reward units per nat.
        label_smoothing: ε, the assumed share of labels that are the wrong way round, in [0, 1).

    Returns:
        With h = β[(π_c − π_r) − (ref_c − ref_r)]: −(1−ε) log σ(h) − ε log σ(−h), mean over pairs.

    Raises:
        ValueError: the shapes differ, there are no pairs, `beta` is not positive, or ε is outside [0, 1).

    Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 7; smoothing: Mitchell 2023, A note on DPO with noisy
    preferences, equation 3 (cDPO). TRL's robust variant also divides by 1 − 2ε.
    """
    require_positive(beta=beta)
    require(0 <= label_smoothing < 1, f"label_smoothing must lie in [0, 1), got {label_smoothing}")
    h = beta * log_ratio_gap(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    return -((1 - label_smoothing) * F.logsigmoid(h) + label_smoothing * F.logsigmoid(-h)).mean()


def implicit_rewards(
    policy: Float[Tensor, "batch"],
    ref: Float[Tensor, "batch"],
    beta: float,
) -> Float[Tensor, "batch"]:
    """The reward that a DPO policy stands for, up to a constant per prompt.

    Args:
        policy, ref: log-probabilities of whole responses under the policy and the reference, in nats.
        beta: as in training.

    Returns:
        β(policy − ref), as data: for logging, without a gradient.

    Raises:
        ValueError: the shapes differ or `beta` is not positive.

    Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 5.
    """
    require_same_shape(policy=policy, ref=ref)
    require_positive(beta=beta)
    return beta * (policy - ref).detach()


def ipo_loss(
    policy_chosen: Float[Tensor, "batch"],
    policy_rejected: Float[Tensor, "batch"],
    ref_chosen: Float[Tensor, "batch"],
    ref_rejected: Float[Tensor, "batch"],
    beta: float,
) -> Float[Tensor, ""]:
    """Identity preference optimisation: a square with a target in place of DPO's ever-decreasing sigmoid.

    Args:
        policy_chosen, policy_rejected, ref_chosen, ref_rejected: log-probabilities *averaged* over each response's
            tokens, in nats per token; the gradient flows to the policy's.
        beta: τ of the paper; the log-ratio gap is pulled to 1/(2β), neither less nor more.

    Returns:
        mean ((π_c − π_r) − (ref_c − ref_r) − 1/(2β))² over pairs.

    Raises:
        ValueError: the shapes differ, there are no pairs or `beta` is not positive.

    Source: Azar et al. 2023 (arXiv 2310.12036), equation 17. TRL averages over tokens, as here; OpenRLHF sums.
    """
    require_positive(beta=beta)
    gap = log_ratio_gap(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    return (gap - 1 / (2 * beta)).square().mean()
