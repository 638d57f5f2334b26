"""Data between processes: JSON for the structure, safetensors for the arrays. Nothing that is read can run."""

from __future__ import annotations

import json
import struct

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from autograder.observe import Observation, same_observation

AS_BEFORE = "as before"
MAX_NUMBERS = 4_000_000
LENGTH = struct.Struct("<Q")


def pack(tree: object) -> bytes:
    """Nested lists, tuples, dicts, tensors and plain values as bytes."""
    tensors: dict[str, Tensor] = {}

    def encode(one: object) -> object:
        if isinstance(one, Tensor):
            tensors[str(len(tensors))] = one.detach().contiguous().clone()
            return {"tensor": str(len(tensors) - 1)}
        if isinstance(one, dict):
            return {"dict": {k: encode(v) for k, v in one.items()}}
        if isinstance(one, tuple):
            return {"tuple": [encode(v) for v in one]}
        return [encode(v) for v in one] if isinstance(one, list) else one

    header = json.dumps(encode(tree)).encode()
    return LENGTH.pack(len(header)) + header + safetensors.torch.save(tensors)


def unpack(frame: bytes) -> object:
    """What `pack` packed.

    Raises:
        ValueError: the bytes are something else.
    """

    def decode(one: object) -> object:
        if isinstance(one, list):
            return [decode(v) for v in one]
        if not isinstance(one, dict):
            return one
        ((kind, content),) = one.items()
        if kind == "tensor":
            return tensors[content]
        return {k: decode(v) for k, v in content.items()} if kind == "dict" else tuple(decode(v) for v in content)

    try:
        (size,) = LENGTH.unpack_from(frame)
        start = LENGTH.size + size
        tensors = safetensors.torch.load(bytes(frame[start:]))
        return decode(json.loads(frame[LENGTH.size : start]))
    except (struct.error, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("not data that this grader writes") from error


def pack_observation(seen: Observation, before: Observation | None = None) -> bytes:
    """One observation as bytes; of one that is as it was before, only that."""
    if before is not None and same_observation(before, seen):
        return pack({AS_BEFORE: True})
    return pack(dict(vars(seen)))


def unpack_observation(frame: bytes, before: Observation | None = None) -> Observation:
    """An observation from bytes that may come from anybody; the one from before, if they say that it is the same.

    Raises:
        ValueError: it is none.
    """
    fields = unpack(frame)
    try:
        if before is not None and fields.get(AS_BEFORE) is True:
            return before
        tensors = [t for t in [*fields["values"].values(), *fields["grads"]] if isinstance(t, Tensor)]
        if sum(t.numel() for t in tensors) > MAX_NUMBERS:
            raise ValueError("more numbers than any answer has")
        return Observation(
            values={str(k): tensor(v) for k, v in fields["values"].items()},
            kinds={str(k): str(v)[:200] for k, v in fields["kinds"].items()},
            grads=[None if g is None else tensor(g) for g in fields["grads"]],
            changed=[int(i) for i in fields["changed"]],
            state=[str(s)[:100] for s in fields["state"]],
            error=None if fields["error"] is None else str(fields["error"])[:300],
            where=None if fields["where"] is None else str(fields["where"])[:100],
            missing=fields["missing"] is True,
            reference_used=fields["reference_used"] is True,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError("not an observation") from error


def tensor(one: object) -> Tensor:
    """A tensor of float64, or an error."""
    if type(one) is not Tensor:
        raise ValueError("not a tensor")
    return one.double()


def framed(content: bytes) -> bytes:
    """A frame: its length, then its bytes."""
    return LENGTH.pack(len(content)) + content


def frames_of(stream: bytes) -> list[bytes]:
    """All whole frames of a stream; a last one that was cut off is left out."""
    frames, place = [], 0
    while place + LENGTH.size <= len(stream):
        (size,) = LENGTH.unpack_from(stream, place)
        if place + LENGTH.size + size > len(stream):
            break
        frames.append(stream[place + LENGTH.size : place + LENGTH.size + size])
        place += LENGTH.size + size
    return frames
