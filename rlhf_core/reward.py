"""Lesson 02: a model of taste. A scalar head on a language model, trained so that chosen texts score above rejected ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_core.checks import require, require_mask, require_same_shape, require_shape


def last_token_index(mask: Bool[Tensor, "batch time"]) -> Int[Tensor, "batch"]:
    """Index of the last True of each row, for left- and right-padded rows alike.

    Args:
        mask: True on real tokens.

    Returns:
        One column index per row (int64).

    Raises:
        ValueError: the mask is not bool, or a row has no True.

    Source: OpenRLHF finds it the same way. `mask.sum(1) - 1`, often seen, is right for right-padded rows only.
    """
    require_mask(mask)
    require_shape("mask", mask, None, None)
    require(bool(mask.any(dim=1).all()), "mask has a row without any True, which has no last token")
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)


def sequence_scores(
    hidden: Float[Tensor, "batch time width"],
    weight: Float[Tensor, "width"],
    bias: Float[Tensor, ""] | float,
    mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch"]:
    """Score of each text: the scalar head applied to the hidden state of its last real token.

    Args:
        hidden: the trunk's last hidden states.
        weight, bias: the head.
        mask: True on real tokens.

    Returns:
        One score per row, on the log-odds scale of Bradley–Terry.

    Raises:
        ValueError: the shapes do not fit, or a row has no real token.

    Source: Ziegler et al. 2019 (arXiv 1909.08593), section 2.1. In a causal model only the last token has read it all.
    """
    require_shape("hidden", hidden, *mask.shape, None)
    require_shape("weight", weight, hidden.shape[-1])
    require(not isinstance(bias, Tensor) or bias.numel() == 1, "bias must be a single number")
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, last_token_index(mask)] @ weight + (bias.reshape(()) if isinstance(bias, Tensor) else bias)


def pairwise_loss(
    chosen: Float[Tensor, "batch"],
    rejected: Float[Tensor, "batch"],
    margin: Float[Tensor, "batch"] | float | None = None,
    centering: float = 0.0,
) -> Float[Tensor, ""]:
    """Negative log-likelihood of the human choices under Bradley–Terry.

    Args:
        chosen, rejected: scores of the two texts of each pair.
        margin: by how much chosen should lead, in nats; one number or one per pair. It is data: no gradient.
        centering: weight of mean (chosen + rejected)², which pins the otherwise free offset of the scores near 0.

    Returns:
        −mean log σ(chosen − rejected − margin) + centering · mean (chosen + rejected)², finite for gaps of ±1e4.

    Raises:
        ValueError: the scores (or a margin tensor) are not all of one shape [batch], or there are no pairs.

    Source: Ouyang et al. 2022 (arXiv 2203.02155), equation 1; margin: Touvron et al. 2023 (arXiv 2307.09288), equation 2;
    centering: Eisenstein et al. 2023 (arXiv 2312.09244), as in TRL.
    """
    require_same_shape(chosen=chosen, rejected=rejected)
    require_shape("chosen", chosen, None)
    require(chosen.numel() > 0, "chosen and rejected are empty, so there is no loss")
    gap = chosen - rejected
    if isinstance(margin, Tensor):
        require(margin.dim() == 0 or margin.shape == gap.shape, f"margin must be [batch], got {tuple(margin.shape)}")
        margin = margin.detach()
    if margin is not None:
        gap = gap - margin
    loss = -F.logsigmoid(gap).mean()
    if centering:
        loss = loss + centering * (chosen + rejected).square().mean()
    return loss


def pairwise_accuracy(chosen: Float[Tensor, "batch"], rejected: Float[Tensor, "batch"]) -> float:
    """Share of pairs that the scores rank as people did.

    Args:
        chosen, rejected: scores of the two texts of each pair.

    Returns:
        A share in [0, 1]; equal scores count ½, so that a constant model gets 0.5.

    Raises:
        ValueError: the shapes differ or there are no pairs.

    Source: the usual metric; TRL and OpenRLHF count a tie as wrong.
    """
    require_same_shape(chosen=chosen, rejected=rejected)
    require(chosen.numel() > 0, "chosen and rejected are empty, so there is no accuracy")
    return ((chosen > rejected).double() + 0.5 * (chosen == rejected).double()).mean().item()


def calibration_error(
    probabilities: Float[Tensor, "points"],
    outcomes: Float[Tensor, "points"] | Int[Tensor, "points"] | Bool[Tensor, "points"],
    num_bins: int = 10,
) -> float:
    """Expected calibration error: how far predicted probabilities are from observed frequencies.

    Args:
        probabilities: predictions in [0, 1].
        outcomes: 1 or True where the predicted event happened.
        num_bins: number n of equal bins [k/n, (k+1)/n), the last one closed.

    Returns:
        Σ over bins of (share of the points in it) · |mean probability − mean outcome|, in [0, 1].

    Raises:
        ValueError: the shapes differ, there are no points, a probability is outside [0, 1] or `num_bins` is below 1.

    Source: Naeini et al. 2015, Obtaining Well Calibrated Probabilities Using Bayesian Binning, equation 3. With pairs,
    shuffle which text comes first: if chosen always does, every outcome is 1 and there is nothing to calibrate.
    """
    require_same_shape(probabilities=probabilities, outcomes=outcomes)
    require(probabilities.numel() > 0, "probabilities are empty, so there is nothing to calibrate")
    require_shape("probabilities", probabilities, None)
    require(bool(((outcomes == 0) | (outcomes == 1)).all()), "outcomes must be 0 or 1")
    require(num_bins >= 1, f"num_bins must be at least 1, got {num_bins}")
    in_range = bool(((probabilities >= 0) & (probabilities <= 1)).all())
    require(in_range, "probabilities must lie in [0, 1]")
    inner_edges = torch.tensor([k / num_bins for k in range(1, num_bins)], dtype=probabilities.dtype)
    bins = torch.bucketize(probabilities, inner_edges.to(probabilities.device), right=True)
    # |Σ p − Σ y| of a bin is already its share of the points times the gap of the means, up to 1/N
    gap = torch.zeros(num_bins, dtype=torch.float64, device=probabilities.device)
    gap.index_add_(0, bins, probabilities.double() - outcomes.double())
    return (gap.abs().sum() / probabilities.numel()).item()
