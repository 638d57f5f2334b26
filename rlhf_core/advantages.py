"""Lesson 03: credit for each token. One score per response becomes a reward per token, and rewards become advantages."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf_core.checks import require, require_mask, require_positive, require_same_shape, require_shape
from rlhf_core.policy import masked_mean
from rlhf_core.reward import last_token_index


def kl_estimate(
    logprobs: Float[Tensor, "*shape"],
    ref_logprobs: Float[Tensor, "*shape"],
    kind: str,
) -> Float[Tensor, "*shape"]:
    """Per-token estimates of KL(π ‖ π_ref) from tokens sampled from π.

    Args:
        logprobs: log π of the sampled tokens, in nats. The gradient flows here.
        ref_logprobs: log π_ref of the same tokens; data.
        kind: with d = logprobs − ref_logprobs, `"k1"`: d (unbiased, either sign); `"k2"`: ½d²; `"k3"`: exp(−d) − 1 + d
            (unbiased and never negative); `"abs"`: |d|.

    Returns:
        The estimate in nats for each token. k3 goes through expm1, which keeps it accurate where d is tiny.

    Raises:
        ValueError: the shapes differ or the kind is unknown.

    Source: Schulman 2020, http://joschu.net/blog/kl-approx.html. As a reward use k1; as a loss, mind what the gradient
    is: that of k1 vanishes in expectation, that of k2 is the gradient of KL(π ‖ π_ref), k3's that of KL(π_ref ‖ π).
    """
    require_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs)
    d = logprobs - ref_logprobs.detach()
    if kind == "k1":
        return d
    if kind == "k2":
        return 0.5 * d.square()
    if kind == "k3":
        return torch.expm1(-d) + d
    if kind == "abs":
        return d.abs()
    raise ValueError(f'kind must be "k1", "k2", "k3" or "abs", got {kind!r}')


def shaped_rewards(
    scores: Float[Tensor, "batch"],
    logprobs: Float[Tensor, "batch time"],
    ref_logprobs: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    kl_coef: float,
    score_clip: float | None = None,
) -> Float[Tensor, "batch time"]:
    """Reward of each response token: a KL penalty everywhere, the score at the end.

    Args:
        scores: one score per response, from the reward model.
        logprobs, ref_logprobs: log-probabilities of the sampled tokens under π and π_ref, in nats.
        mask: True on response tokens.
        kl_coef: β, score units per nat.
        score_clip: scores are first clipped to ±score_clip; None leaves them.

    Returns:
        −β · k1 on every response token, plus the score on the last real token of the row; 0 elsewhere.

    Raises:
        ValueError: the shapes do not fit, a row has no response token, or `score_clip` is not positive.

    Source: Ziegler et al. 2019 (arXiv 1909.08593), equation 2. TRL's PPOTrainer puts the score one place later, on the
    first padding slot (trl issues 1893, 3750).
    """
    require_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs, mask=mask)
    require_mask(mask)
    require_shape("mask", mask, None, None)
    require_shape("scores", scores, len(mask))
    if score_clip is not None:
        require_positive(score_clip=score_clip)
        scores = scores.clamp(-score_clip, score_clip)
    rewards = torch.where(mask, -kl_coef * kl_estimate(logprobs, ref_logprobs, "k1"), 0.0)
    columns = torch.arange(mask.shape[1], device=mask.device)
    is_last = columns == last_token_index(mask)[:, None]
    return torch.where(is_last, rewards + scores[:, None], rewards)


def discounted_returns(
    rewards: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    gamma: float,
) -> Float[Tensor, "batch time"]:
    """Reward-to-go of each response token.

    Args:
        rewards: reward of each token.
        mask: True on response tokens.
        gamma: γ, the discount per token.

    Returns:
        G_t = r_t + γ G_{t+1}, with G = 0 after the last real token; 0 where the mask is False.

    Raises:
        ValueError: the shapes differ or the mask is not bool.

    Source: Sutton & Barto, Reinforcement Learning, 2nd edition, equation 3.9.
    """
    require_same_shape(rewards=rewards, mask=mask)
    require_mask(mask)
    require_shape("mask", mask, None, None)
    rewards = torch.where(mask, rewards, 0.0)
    returns = torch.zeros_like(rewards)
    next_return = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        next_return = (rewards[:, t] + gamma * next_return) * mask[:, t]
        returns[:, t] = next_return
    return returns


def gae(
    rewards: Float[Tensor, "batch time"],
    values: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    gamma: float,
    lam: float,
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """Generalized advantage estimation: how much better each token was than the critic expected.

    Args:
        rewards: reward of each token.
        values: `values[:, t]` is the value of the state before token t.
        mask: True on response tokens.
        gamma: γ, the discount per token.
        lam: λ, from 0 (trust the critic: one-step differences) to 1 (trust the sampled rewards).

    Returns:
        `(advantages, returns)`: δ_t = r_t + γV_{t+1} − V_t with V after the last real token = 0,
        A_t = δ_t + γλA_{t+1}, returns = A + V (before any whitening); both 0 where the mask is False.

    Raises:
        ValueError: the shapes differ or the mask is not bool.

    Source: Schulman et al. 2015 (arXiv 1506.02438), equations 11, 12 and 16. Truncated responses end like finished
    ones, as in OpenAI's code, TRL, OpenRLHF and verl.
    """
    require_same_shape(rewards=rewards, values=values, mask=mask)
    require_mask(mask)
    require_shape("mask", mask, None, None)
    rewards = torch.where(mask, rewards, 0.0)
    values = torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = (delta + gamma * lam * next_advantage) * mask[:, t]
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, torch.where(mask, advantages + values, 0.0)


def masked_whiten(
    values: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    shift_mean: bool = True,
) -> Float[Tensor, "*shape"]:
    """Rescale the values to mean 0 and variance 1 over the True positions of the whole batch.

    Args:
        values: anything, advantages or rewards.
        mask: True where a value counts.
        shift_mean: False keeps the mean, as reward whitening wants it: the sign of a reward means something.

    Returns:
        (x − μ) / √(σ² + 1e-8), with σ² unbiased (divided by n − 1), plus μ if `shift_mean` is False; 0 where the mask
        is False.

    Raises:
        ValueError: the shapes differ, or fewer than two positions are True.

    Source: TRL's PPOTrainer. OpenAI's original code used the biased variance: 5% apart at 10 tokens, 0.1% at 500.
    """
    require_same_shape(values=values, mask=mask)
    require_mask(mask)
    count = int(mask.sum())
    require(count >= 2, f"whitening needs at least two True positions in mask, got {count}")
    origin = values[mask][0]  # measured from here, equal values are exact zeros, which float32's mean would miss
    shifted = torch.where(mask, values - origin, 0.0)
    mean = masked_mean(shifted, mask)
    centered = torch.where(mask, shifted - mean, 0.0)
    variance = centered.square().sum() / (count - 1)
    whitened = centered * torch.rsqrt(variance + 1e-8)
    return whitened if shift_mean else torch.where(mask, whitened + (origin + mean), 0.0)
