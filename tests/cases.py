"""What the tests of the contract's functions share: seeded inputs, and the checks that hold for every function.

An `Entry` says of one function what its arguments are and where gradients may go; `CHECKS` are the house rules of the
contract, each of which runs on every entry with inputs drawn by hypothesis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

SEEDED = settings(derandomize=True, deadline=None, max_examples=30, database=None)
GARBAGE = (math.nan, math.inf, -math.inf, 1e30)


class Draw:
    """Seeded inputs in float64, of a given number of rows and columns."""

    def __init__(self, seed: int, rows: int = 4, time: int = 7):
        self.generator = torch.Generator().manual_seed(seed)
        self.rows, self.time = rows, time

    def normal(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(*shape, dtype=torch.float64, generator=self.generator)

    def integers(self, low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=self.generator)

    def number(self, low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), dtype=torch.float64, generator=self.generator).item()

    def tokens(self, scale: float = 1.0) -> torch.Tensor:
        """One number per token."""
        return self.normal(self.rows, self.time, scale=scale)

    def mask(self) -> torch.Tensor:
        """Contiguous in each row; a full row comes before one that starts at column 0 or 1, the others lie anywhere."""
        mask = torch.zeros(self.rows, self.time, dtype=torch.bool)
        for row in range(self.rows):
            start = int(self.integers(0, min(self.time, 2) if row == 1 else self.time, 1))
            stop = start + 1 + int(self.integers(0, self.time - start, 1))
            mask[row, start:stop] = True
        if self.rows > 1:
            mask[0] = True
        return mask


@dataclass(frozen=True)
class Entry:
    """One function of the contract.

    Attributes:
        inputs: draws valid arguments in float64.
        oracle: the same result from `oracles`, in plain Python.
        kind: "loss" (0-dim tensor), "float" (Python float) or "tensor".
        mask: position of the mask among the arguments.
        masked: positions of the tensors whose masked-out values are garbage.
        trained: positions of the arguments that receive a gradient.
        frozen: positions of the floating-point tensors that are data and receive none.
        rows: what a permutation of the rows does: "same" result, "along" (permuted result), or nothing is promised.
        row_args: positions of the arguments that have rows.
        mutants: name → wrong implementation that the inputs must tell apart.
        styles: right implementations in another style, those that the mutants are made from among them.
        min_rows, min_time: the smallest valid input.
    """

    function: Callable
    oracle: Callable
    inputs: Callable[[Draw], tuple]
    kind: str = "tensor"
    mask: int | None = None
    masked: tuple[int, ...] = ()
    trained: tuple[int, ...] = ()
    frozen: tuple[int, ...] = ()
    rows: str = ""
    row_args: tuple[int, ...] = ()
    mutants: dict[str, Callable] = field(default_factory=dict)
    styles: tuple[Callable, ...] = ()
    min_rows: int = 1
    min_time: int = 1

    def __str__(self) -> str:
        return self.function.__name__


def tensors_of(result) -> list[torch.Tensor]:
    """A result, whatever its type, as a list of float64 tensors."""
    if isinstance(result, tuple):
        return [tensor for part in result for tensor in tensors_of(part)]
    return [torch.as_tensor(result, dtype=torch.float64).detach()]


def value_and_gradients(entry: Entry, function: Callable, args: tuple) -> list[torch.Tensor]:
    """The result, then one gradient for each trained and frozen argument (zeros where none arrives)."""
    leaves = {i: args[i].detach().clone().requires_grad_() for i in entry.trained + entry.frozen}
    result = function(*[leaves.get(i, arg) for i, arg in enumerate(args)])
    outputs = tensors_of(result)
    if not entry.trained or not isinstance(result, torch.Tensor) or not result.requires_grad:
        return outputs + [torch.zeros_like(leaf) for leaf in leaves.values()]
    weights = torch.linspace(1.0, 2.0, result.numel(), dtype=result.dtype).reshape(result.shape)
    gradients = torch.autograd.grad((result * weights).sum(), list(leaves.values()), allow_unused=True)
    return outputs + [
        torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves.values(), gradients, strict=True)
    ]


def assert_equal(got: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def check_value(entry: Entry, draw: Draw) -> None:
    args = entry.inputs(draw)
    result = entry.function(*args)
    if entry.kind == "float":
        assert isinstance(result, float)
    if entry.kind == "loss":
        assert isinstance(result, torch.Tensor) and result.shape == ()
    tolerance = 1e-7 if entry.kind == "float" else 1e-9  # a number for people may come from float32
    for got, expected in zip(tensors_of(result), tensors_of(entry.oracle(*args)), strict=True):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def check_float32(entry: Entry, draw: Draw) -> None:
    args = entry.inputs(draw)
    short = [a.float() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
    result = entry.function(*short)
    if entry.kind == "loss":
        assert result.dtype == torch.float32
    for got, expected in zip(tensors_of(result), tensors_of(entry.function(*args)), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)


def check_garbage(entry: Entry, draw: Draw) -> None:
    """Values at masked-out positions reach neither value nor gradient; token-shaped outputs are 0 there."""
    args = entry.inputs(draw)
    if entry.mask is None:
        return
    mask = args[entry.mask]
    clean = value_and_gradients(entry, entry.function, args)
    for shaped in clean[: len(clean) - len(entry.trained) - len(entry.frozen)]:
        if shaped.shape == mask.shape:
            assert shaped[~mask].eq(0).all()
    for garbage in GARBAGE:
        poisoned = list(args)
        for i in entry.masked:
            hidden = ~mask.reshape(*mask.shape, *[1] * (args[i].dim() - mask.dim())).expand_as(args[i])
            poisoned[i] = args[i].masked_fill(hidden, garbage)
        assert_equal(value_and_gradients(entry, entry.function, tuple(poisoned)), clean)


def check_gradient(entry: Entry, draw: Draw) -> None:
    """Against central differences of the oracle; nothing flows to data, even when it carries a graph."""
    if not entry.trained:
        return
    args = entry.inputs(draw)
    gradients = value_and_gradients(entry, entry.function, args)[1:]
    for position, gradient in zip(entry.trained, gradients, strict=False):
        for index in torch.randint(0, gradient.numel(), (min(gradient.numel(), 6),), generator=draw.generator).tolist():
            ends = []
            for step in (1e-5, -1e-5):
                moved = list(args)
                moved[position] = args[position].clone()
                moved[position].view(-1)[index] += step
                value = torch.as_tensor(entry.oracle(*moved), dtype=torch.float64)
                ends.append((value.flatten() * torch.linspace(1.0, 2.0, value.numel(), dtype=torch.float64)).sum())
            slope = (ends[0] - ends[1]) / 2e-5
            torch.testing.assert_close(gradient.flatten()[index], slope, rtol=1e-5, atol=1e-6)
    for gradient in gradients[len(entry.trained) :]:
        assert gradient.eq(0).all()


def check_rows(entry: Entry, draw: Draw) -> None:
    if not entry.rows:
        return
    args = entry.inputs(draw)
    order = torch.randperm(len(args[entry.row_args[0]]), generator=draw.generator)
    permuted = entry.function(*[arg[order] if i in entry.row_args else arg for i, arg in enumerate(args)])
    for got, expected in zip(tensors_of(permuted), tensors_of(entry.function(*args)), strict=True):
        torch.testing.assert_close(got, expected[order] if entry.rows == "along" else expected)


def check_no_side_effects(entry: Entry, draw: Draw) -> None:
    """Arguments, random state and grad mode stay as they are, and the default dtype plays no part."""
    args = entry.inputs(draw)
    before = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
    state = torch.get_rng_state()
    plain = entry.function(*args)
    torch.set_default_dtype(torch.float64)
    try:
        again = entry.function(*args)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert_equal(tensors_of(again), tensors_of(plain))
    for arg, old in zip(args, before, strict=True):
        if isinstance(arg, torch.Tensor):
            torch.testing.assert_close(arg, old, rtol=0, atol=0, equal_nan=True)
        else:
            assert arg == old


CHECKS = (check_value, check_float32, check_garbage, check_gradient, check_rows, check_no_side_effects)


def distance(entry: Entry, other: Callable) -> float:
    """Largest difference in values and gradients between a function and another version of it, on ordinary inputs."""
    furthest = 0.0
    for seed in range(6):
        args = entry.inputs(Draw(seed))
        right = value_and_gradients(entry, entry.function, args)
        try:
            theirs = value_and_gradients(entry, other, args)
        except (RuntimeError, ValueError, IndexError):
            return math.inf
        for a, b in zip(right, theirs, strict=True):
            far = math.inf if a.shape != b.shape else (a - b).abs().nan_to_num(math.inf).max().item()
            furthest = max(furthest, far)
    return furthest


def contract_tests(entries: list[Entry]) -> tuple[Callable, Callable]:
    """The two tests that every module of contract functions has."""

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    @pytest.mark.parametrize("entry", entries, ids=str)
    def test_contract(entry: Entry, check: Callable) -> None:
        @SEEDED
        @given(st.integers(0, 2**31), st.integers(entry.min_rows, 5), st.integers(entry.min_time, 8))
        def holds(seed: int, rows: int, time: int) -> None:
            check(entry, Draw(seed, rows, time))

        holds()

    @pytest.mark.parametrize("entry", entries, ids=str)
    def test_known_mistakes_are_told_apart(entry: Entry) -> None:
        """A test of the tests: wrong versions are far from the right answer, right ones are not."""
        assert entry.mutants
        for name, mutant in entry.mutants.items():
            apart = distance(entry, mutant)
            assert apart > 1e-2, f"the inputs do not tell {entry} from the mistake {name!r} ({apart:.1e} apart)"
        for style in entry.styles:
            assert distance(entry, style) < 1e-7

    return test_contract, test_known_mistakes_are_told_apart
