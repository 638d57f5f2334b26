"""What this machine can do: the device, the memory allocator, and whether bfloat16 pays."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # names and numbers of malloc.h


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks in place of returning them to the system.

    Each activation of a small model is a few megabytes: fetched anew every step, its page faults cost as much as the
    arithmetic. Measured with `make bench`; does nothing where the C library is another.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 64 * 2**20)


def pick_device(name: str = "auto") -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU.

    Raises:
        ValueError: the name is none of a device, or torch finds no such device here.
    """
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, here in found.items() if here))
    kind, _, index = name.partition(":")
    if kind not in found or not (index or "0").isdecimal():
        raise ValueError(f"--device must be auto, cpu, cuda, cuda:0 or mps, got {name}")
    if not found[kind] or kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: torch finds no such device on this machine")
    return torch.device(name)


def attention_for(device: torch.device) -> str:
    """Which attention of transformers to load a model with.

    On a CPU the plain one is faster at a few dozen tokens: the fused kernel's backward took 17 ms a layer, this one 2.
    """
    return "eager" if device.type == "cpu" else "sdpa"


def faster_precision(step: Callable[[bool], None], device: torch.device, repeats: int = 3) -> str:
    """`"bfloat16"` or `"float32"`, whichever runs `step(use_bfloat16)` faster on this machine."""

    def seconds(bfloat16: bool) -> float:
        step(bfloat16)  # warm-up
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            step(bfloat16)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return min(times)

    return "bfloat16" if seconds(True) < seconds(False) else "float32"
