"""Seeded inputs for the cases, chosen so that known mistakes show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

NAN = math.nan


class Draw:
    """Random inputs in float32; what is drawn depends on the seed alone."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Standard normal numbers, times `scale`."""
        return scale * torch.randn(shape, generator=self.generator)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Evenly between two bounds."""
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def number(self, low: float, high: float) -> float:
        """One number with three digits, so that it can be read in feedback."""
        return round(self.uniform(low, high).item(), 3)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """From `low` to `high`, exclusive."""
        return torch.randint(low, high, shape, generator=self.generator)

    def signs(self, *shape: int) -> Tensor:
        """−1 or 1."""
        return self.integers(0, 2, *shape).float() * 2 - 1

    def away_from_zero(self, *shape: int, low: float = 0.3, high: float = 1.5) -> Tensor:
        """Of either sign, and never close to 0."""
        return self.signs(*shape) * self.uniform(low, high, *shape)

    def ragged(self, rows: int, time: int) -> Tensor:
        """Masks that begin at column 0: a full row, one of length 1, the others of any length."""
        lengths = self.integers(1, time + 1, rows)
        lengths[0] = time
        if rows > 1:
            lengths[1] = max(1, time - 2)
        if rows > 2:
            lengths[2] = 1
        return torch.arange(time) < lengths[:, None]

    def anywhere(self, rows: int, time: int) -> Tensor:
        """Contiguous masks that begin anywhere: a full row, then one that begins at column 1."""
        mask = torch.zeros(rows, time, dtype=torch.bool)
        for row in range(rows):
            start = int(self.integers(0, time - 1, 1))
            stop = int(self.integers(start + 1, time + 1, 1))
            mask[row, start:stop] = True
        mask[0] = True
        if rows > 1:
            mask[1] = False
            mask[1, 1 : time - 1] = True
        return mask

    def inside(self, rows: int, time: int) -> Tensor:
        """Contiguous masks that leave the first and the last column empty: the first row is the shortest and ends first."""
        mask = torch.zeros(rows, time, dtype=torch.bool)
        mask[0, 1] = True
        for row in mask[1:]:
            row[int(self.integers(1, time // 2, 1)) : time - 1] = True
        return mask


@dataclass(frozen=True)
class TokenMask:
    """A mask, what fills the numbers outside of it, and how to say it.

    Attributes:
        fill: what the first argument holds outside of the mask; the others hold multiples, so that differences show too.
    """

    mask: Tensor
    fill: float
    label: str

    def hide(self, *numbers: Tensor) -> tuple[Tensor, ...]:
        """Garbage outside of the mask, another in each argument."""
        return tuple(x.masked_fill(~self.mask, self.fill * (1, -2, 3)[i]) for i, x in enumerate(numbers))


def token_masks(draw: Draw, least: int = 1) -> Iterator[TokenMask]:
    """The kinds of masks that every function over tokens meets."""
    yield TokenMask(torch.ones(2, 4, dtype=torch.bool), 0.0, "every position real")
    yield TokenMask(draw.ragged(3, 5), 9.0, "rows of different length, and other numbers behind their end")
    yield TokenMask(draw.anywhere(4, 6), -7.0, "masks that begin at any column, and other numbers around them")
    yield TokenMask(draw.anywhere(3, 5), NAN, "NaN outside of the mask")
    yield TokenMask(draw.ragged(3, 5), math.inf, "infinities outside of the mask")
    yield TokenMask(draw.inside(3, 6), 5.0, "masks that leave the first and the last column empty")
    yield TokenMask(draw.anywhere(4, 4), 1e30, "as many rows as columns, and huge numbers around the masks")
    one_row = torch.tensor([[False, True, True, True, False]])
    yield TokenMask(one_row, -3.0, "a single row, and other numbers on both sides")
    yield TokenMask(torch.ones(3, 1, dtype=torch.bool), 0.0, "a single column")
    yield TokenMask(torch.ones(1, least, dtype=torch.bool), 0.0, "a single token" if least == 1 else "a single row")
