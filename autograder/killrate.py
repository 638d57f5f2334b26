"""The proof that the grader grades: every known mistake is rejected and named, every accepted variant passes, on many seeds.

`python -m autograder.killrate` prints the table, `--markdown` as the README shows it. The test suite holds the same proof,
on fewer seeds.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated

import torch
import tyro
from torch import Tensor

from autograder import probes
from autograder.calls import Calls, cases_of, expected_of, order_of, watch
from autograder.exercise import LESSONS, Case, Exercise, Mistake, bank
from autograder.judge import judge
from autograder.naming import GRADIENT_SLACK, alike
from autograder.observe import Observation, observe

SEEDS = 20
CLEAR = 100  # times the tolerance, by which a mistake must differ somewhere


@dataclass
class Proof:
    """What came out for one exercise.

    Attributes:
        seeds: on which it was tried.
        cases: calls that were compared with the reference, for one function on all seeds.
        mistakes, variants: how many there are; a mistake in several forms counts for each of them.
        accepted: mistakes that a seed let through.
        misnamed: mistakes that a seed gave another name, or none.
        refused: variants that a seed rejected, and why.
        gap: of all mistakes in values or gradients, the smallest difference from the reference, each on its best case, as a
            multiple of the tolerance.
        spread: the largest difference among right answers, in float32 and float64, as a multiple of the tolerance.
    """

    lesson: str
    exercise: str
    seeds: int = 0
    cases: int = 0
    mistakes: int = 0
    variants: int = 0
    accepted: set[str] = field(default_factory=set)
    misnamed: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    gap: float = math.inf
    closest: str = ""
    spread: float = 0.0

    def add(self, other: Proof) -> None:
        """The same exercise on other seeds."""
        self.seeds, self.cases = self.seeds + other.seeds, self.cases + other.cases
        self.mistakes, self.variants = other.mistakes, other.variants
        self.accepted |= other.accepted
        self.misnamed |= other.misnamed
        self.refused |= other.refused
        if other.gap < self.gap:
            self.gap, self.closest = other.gap, other.closest
        self.spread = max(self.spread, other.spread)

    @property
    def problems(self) -> list[str]:
        """What is not as it must be, in words."""
        found = [f"{name} is accepted" for name in sorted(self.accepted)]
        found += [f"{name} is not named" for name in sorted(self.misnamed)]
        found += [f"a right function is rejected: {why}" for why in sorted(self.refused)]
        if self.gap < CLEAR:
            found.append(f"{self.closest} differs by only {self.gap:.3g} times the tolerance")
        if self.spread >= 1:
            found.append(f"right answers differ by {self.spread:.3g} times the tolerance")
        return found


def prove(lesson: str, exercise: Exercise, seeds: Sequence[int]) -> Proof:
    """Try the reference, all variants and all mistakes on some seeds."""
    proof = Proof(lesson, exercise.name, mistakes=len(exercise.mistakes), variants=len(exercise.variants))
    for seed in seeds:
        proof.seeds, proof.cases = proof.seeds + 1, proof.cases + len(cases_of(exercise, seed))
        try_right_ones(proof, exercise, seed)
        for place, mistake in enumerate(exercise.mistakes):
            try_mistake(proof, exercise, mistake, f"{mistake.name} ({place})", seed)
    return proof


def try_right_ones(proof: Proof, exercise: Exercise, seed: int) -> None:
    """The reference and the variants, and the reference in float64."""
    cases, expected = expected_of(exercise, seed)
    order = order_of(cases) if seed == 0 else range(len(cases))
    for name, function in [("reference", exercise.reference), *enumerate(exercise.variants)]:
        seen = watch(exercise, function, cases, order)
        finding = judge(exercise, seed, seen)
        if finding:
            proof.refused.add(f"{name} with seed {seed}: {finding.text}")
        proof.spread = max(proof.spread, *map(distance_on(exercise, cases, expected), order, seen))
    if exercise.probe == "call":
        wide = [in_float64(exercise, case) for case in cases]
        proof.spread = max(proof.spread, *map(distance_on(exercise, cases, expected), range(len(cases)), wide))


def in_float64(exercise: Exercise, case: Case) -> Observation:
    """What the reference does with the same numbers in float64."""
    args = tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in case.args)
    return observe(exercise.reference, args, probes.call, exercise.parts, exercise.asks_gradient(case))


def try_mistake(proof: Proof, exercise: Exercise, mistake: Mistake, label: str, seed: int) -> None:
    """It must be rejected and named, and differ clearly."""
    cases, expected = expected_of(exercise, seed)
    order = order_of(cases)
    if seed == 0 or isinstance(mistake.function, type):
        seen = watch(exercise, mistake.function, cases, order)
    else:  # a function without memory, which seed 0 has shown to answer twice alike
        calls = Calls.of(exercise, mistake, seed)
        seen = [calls[place] for place in range(len(order))]
    finding = judge(exercise, seed, seen)
    if finding is None:
        proof.accepted.add(label)
    elif finding.diagnosis not in (mistake.name, *mistake.twins):
        proof.misnamed.add(label)
    best = max(map(distance_on(exercise, cases, expected), order, seen))
    if 1 <= best < proof.gap:  # below 1 it is no mistake in numbers, but one of form or side effect
        proof.gap, proof.closest = best, label


def distance_on(
    exercise: Exercise, cases: Sequence[Case], expected: Sequence[Observation]
) -> Callable[[int, Observation], float]:
    """A function of case and answer: how far the answer is from the reference's, as a multiple of the tolerance."""
    return lambda index, got: distance(exercise, cases[index], expected[index], got)


def distance(exercise: Exercise, case: Case, want: Observation, got: Observation) -> float:
    """How far values and gradients are apart, as a multiple of the tolerance; 0 where the form or an error decides."""
    if want.error or got.error or set(want.values) != set(got.values):
        return 0.0
    rtol, atol = exercise.limits(case)
    if any(got.values[name].shape != wanted.shape for name, wanted in want.values.items()):
        return 0.0
    apart = [far(got.values[name], wanted, rtol, atol) for name, wanted in want.values.items()]
    for index, (one, other) in enumerate(zip(got.grads, want.grads, strict=False)):
        if index in exercise.trained and (one is not None or other is not None):
            one = torch.zeros_like(other) if one is None else one
            other = torch.zeros_like(one) if other is None else other
            apart.append(far(one, other, GRADIENT_SLACK * rtol, GRADIENT_SLACK * atol))
        elif one is not None:
            apart.append(far(one, torch.zeros_like(one), 0.0, GRADIENT_SLACK * atol))
    return max(apart, default=0.0)


def far(one: Tensor, other: Tensor, rtol: float, atol: float) -> float:
    """The largest difference as a multiple of the tolerance."""
    if one.shape != other.shape:
        return math.inf
    if not one.numel():
        return 0.0
    both_nan = one.isnan() & other.isnan()
    apart = ((one - other).abs() / (atol + rtol * other.abs())).masked_fill(both_nan | (one == other), 0.0)
    return apart.nan_to_num(nan=math.inf).max().item()


def untrue_twins(exercise: Exercise, seed: int) -> list[str]:
    """Twins that name each other on one side only, or do not do the same."""
    by_name: dict[str, list[Mistake]] = {}
    for mistake in exercise.mistakes:
        by_name.setdefault(mistake.name, []).append(mistake)
    cases, _ = expected_of(exercise, seed)
    found = []
    for mistake in exercise.mistakes:
        for twin in mistake.twins:
            others = by_name.get(twin, [])
            if not any(mistake.name in other.twins for other in others):
                found.append(f"{twin} does not name {mistake.name} as its twin")
            one, two = (Calls.of(exercise, m, seed) for m in (mistake, (others or [mistake])[0]))
            if not all(alike(exercise, case, one[p], two[p]) for p, case in enumerate(cases)):
                found.append(f"{mistake.name} and {twin} differ")
    return found


def prove_all(lessons: Sequence[str], seeds: int, processes: int) -> Iterator[Proof]:
    """One proof for each exercise, in order."""
    jobs = [(lesson, exercise.name) for lesson in lessons for exercise in bank(lesson).EXERCISES]
    blocks = [range(start, min(start + 5, seeds)) for start in range(0, seeds, 5)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = {job: [pool.submit(prove_by_name, *job, block) for block in blocks] for job in jobs}
        for job in jobs:
            proof = Proof(*job)
            for part in waiting.pop(job):
                proof.add(part.result())
            yield proof


def prove_by_name(lesson: str, name: str, seeds: Sequence[int]) -> Proof:
    """`prove` for an exercise that is named, as another process must be told."""
    return prove(lesson, next(e for e in bank(lesson).EXERCISES if e.name == name), seeds)


HEAD = ("lesson", "exercises", "mistakes rejected", "named", "variants accepted", "seeds", "cases", "smallest gap")


def row_of(name: str, proofs: Sequence[Proof]) -> tuple[str, ...]:
    """A row of the table: one lesson, or all."""
    mistakes, variants = sum(p.mistakes for p in proofs), sum(p.variants for p in proofs)
    rejected = mistakes - sum(len(p.accepted) for p in proofs)
    named = mistakes - sum(len(p.accepted | p.misnamed) for p in proofs)
    refused = len({(p.exercise, why.split(" ")[0]) for p in proofs for why in p.refused})
    return (
        name,
        str(len(proofs)),
        f"{rejected} of {mistakes}",
        f"{named} of {mistakes}",
        f"{variants - refused} of {variants}",
        str(max(p.seeds for p in proofs)),
        f"{sum(p.cases for p in proofs):,}",
        f"{min(p.gap for p in proofs):,.0f} × tolerance",
    )


def rows_of(proofs: Sequence[Proof]) -> list[tuple[str, ...]]:
    """A row for each lesson, and one for all of them."""
    lessons = list(dict.fromkeys(p.lesson for p in proofs))
    rows = [row_of(lesson[-2:], [p for p in proofs if p.lesson == lesson]) for lesson in lessons]
    return [*rows, row_of("all", proofs)]


def as_markdown(proofs: Sequence[Proof]) -> str:
    """The README's table."""
    lines = [HEAD, tuple("---" for _ in HEAD), *rows_of(proofs)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(proofs: Sequence[Proof]) -> None:
    """The table in a terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEAD, title="Known mistakes and accepted variants")
    for row in rows_of(proofs):
        table.add_row(*row)
    Console().print(table)


@dataclass(frozen=True)
class Options:
    """Prove that the grader grades."""

    lessons: Annotated[tuple[str, ...], tyro.conf.Positional] = LESSONS  # lesson_00 … lesson_08
    seeds: int = SEEDS
    processes: int = os.cpu_count() or 1
    markdown: bool = False  # print the README's table


def main(options: Options) -> int:
    """Print the table; the exit status is 1 if something is not as it must be."""
    proofs = list(prove_all(options.lessons, options.seeds, options.processes))
    if options.markdown:
        print(as_markdown(proofs))
    else:
        show(proofs)
    problems = [f"{p.lesson} {p.exercise}: {problem}" for p in proofs for problem in p.problems]
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, prog="python -m autograder.killrate")))
