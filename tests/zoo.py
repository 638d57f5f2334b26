"""Submissions of lesson 04 of every kind, each with the marks that it must get.

An entry changes either a notebook in which everything is right and both questions are answered (`whole`), or the released
one, into which only some functions are written (`part`, which is quick to grade). `files` hands in anything. In sources
@NAMES@ stand for places and marks of the class that is graded, see `Place`.

The entries stand in `zoo_work`, `zoo_files`, `zoo_tampering` and `zoo_outside`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from breakages import cell, changed, code, insert, to, write

POINTS = {"clipped_policy_loss": 5, "clip_fraction": 3, "approx_kl": 2, "clipped_value_loss": 4, "ppo_loss": 1}
EVERYTHING = tuple(POINTS)
ANSWERS = ("clip-bound", "first-minibatch")
NAME = "ppo_clipping.ipynb"


@dataclass
class Place:
    """What a hostile submission would like to know.

    Attributes:
        course: the course directory.
        secret: the file with the course's secret.
        home: the teacher's home.
        canary: a folder in which nothing may appear; it holds a file `read_me`.
        temporary: a folder for temporary files, which is empty before and after.
        port: a server on this machine that nobody should reach.
        judge: number of a process outside.
        mark: a text that nothing else has in its name.
        solved, stub: notebooks.
    """

    course: Path
    secret: Path
    home: Path
    canary: Path
    temporary: Path
    port: int
    judge: int
    mark: str
    solved: dict
    stub: dict

    def fill(self, source: str) -> str:
        """A source with the names of places."""
        for name in ("course", "secret", "home", "canary", "port", "judge", "mark"):
            source = source.replace(f"@{name.upper()}@", str(getattr(self, name)))
        return source


@dataclass(frozen=True)
class Entry:
    """A submission and its verdict.

    Attributes:
        name: the student's.
        hand_in: writes the submission into a folder.
        earns: the exercises that get their points; all others get none.
        why: exercise → a word of status, diagnosis or message.
        answers: the questions that wait for a mark.
        problem: a word of the reason why nothing could be read.
        repaired: a word of what was repaired; None: nothing was.
        needs: the protection without which this is not tried, a key of `autograder.sandbox.PROMISES`.
    """

    name: str
    hand_in: Callable[[Place, Path], None]
    earns: tuple[str, ...] = ()
    why: dict[str, str] = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    problem: str = ""
    repaired: str | None = None
    needs: str = ""


ZOO: list[Entry] = []


def whole(name: str, *operations, lost: dict[str, str] | None = None, answers=ANSWERS, file=NAME, **golden) -> None:
    """Everything is right but for what is done to it; `lost` says which exercises get no points, and why."""
    earns = tuple(one for one in EVERYTHING if one not in (lost or {}))

    def hand_in(place: Place, folder: Path) -> None:
        write_file(folder / file, changed(place.solved, *operations))

    ZOO.append(Entry(name, hand_in, earns, lost or {}, answers, **golden))


def part(name: str, functions: dict[str, str], earns=(), why=None, cells=(), **golden) -> None:
    """Only some functions are written, after some more cells; a function that earns something has none of `why`."""

    def hand_in(place: Place, folder: Path) -> None:
        written = [to(one, write(place.fill(source))) for one, source in functions.items()]
        more = insert(2, *(code(place.fill(source)) for source in cells))
        write_file(folder / NAME, changed(place.stub, *written, more))

    ZOO.append(Entry(name, hand_in, tuple(earns), why or {}, **golden))


def files(name: str, make: Callable[[Place], dict[str, object]], **golden) -> None:
    """Files: notebooks, texts, bytes."""

    def hand_in(place: Place, folder: Path) -> None:
        for path, content in make(place).items():
            write_file(folder / path, content)

    ZOO.append(Entry(name, hand_in, **golden))


def folder(name: str, make: Callable[[Place, Path], object], **golden) -> None:
    """Whatever `make` does to the folder."""
    ZOO.append(Entry(name, make, **golden))


def mutant(source: str, *changes: tuple[str, str]) -> str:
    """A function with some of its text replaced; the text must be there."""
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    return source


def before_return(source: str, *lines: str) -> str:
    """A function that does something first."""
    return mutant(source, ("    return ", "".join(f"    {line}\n" for line in lines) + "    return "))


def write_file(path: Path, content: object) -> None:
    """A notebook, a text or bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


# right functions, short

LOSS = """def ppo_loss(policy_loss, value_loss, entropy, value_coef, entropy_coef):
    return policy_loss + value_coef * value_loss - entropy_coef * entropy"""
KL = """def approx_kl(logprobs, old_logprobs, mask):
    d = (logprobs - old_logprobs)[mask]
    return (d.expm1() - d).mean().item()"""
POLICY = """def clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio = torch.exp(logprobs[mask] - old_logprobs[mask].detach())
    a = advantages[mask].detach()
    return -torch.min(ratio * a, torch.clamp(ratio, 1 - clip_range, 1 + clip_range) * a).mean()"""
FRACTION = """def clip_fraction(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio, a = torch.exp((logprobs - old_logprobs)[mask]), advantages[mask]
    cut = (ratio > 1 + clip_range) & (a > 0) | (ratio < 1 - clip_range) & (a < 0)
    return cut.float().mean().item()"""
VALUE = """def clipped_value_loss(values, old_values, returns, mask, clip_range):
    v, old, r = values[mask], old_values[mask].detach(), returns[mask].detach()
    near = old + (v - old).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((v - r) ** 2, (near - r) ** 2).mean()"""
SHORT = dict(zip(EVERYTHING, (POLICY, FRACTION, KL, VALUE, LOSS), strict=True))


def written(**functions: str):
    """Write functions into a notebook."""

    def change(notebook: dict) -> None:
        for name, source in functions.items():
            cell(notebook, name)["source"] = source

    return change
