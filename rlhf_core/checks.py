"""Checks of arguments, shared by the reference implementations: one clear sentence instead of a wrong number."""

from __future__ import annotations

import torch
from torch import Tensor


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_same_shape(**tensors: Tensor) -> None:
    """All named tensors have one shape; broadcasting two different shapes is nearly always a bug here."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"these arguments must have the same shape, got {listed}")


def require_mask(mask: Tensor) -> None:
    """A mask is a bool tensor: 0/1 integers would gather rows when used as an index."""
    require(mask.dtype == torch.bool, f"mask must be a bool tensor, got {mask.dtype}; use mask.bool()")


def require_shape(name: str, tensor: Tensor, *shape: int | None) -> None:
    """A tensor has this shape; None stands for any length."""
    fits = tensor.dim() == len(shape) and all(
        want in (None, got) for want, got in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        listed = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have shape [{listed}], got {list(tensor.shape)}")


def require_positive(**numbers: float) -> None:
    """All named numbers are greater than zero."""
    for name, number in numbers.items():
        require(number > 0, f"{name} must be greater than 0, got {number}")
