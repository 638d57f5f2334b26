"""Grade a submission: exercise by exercise, from the learner's code to a verdict that teaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from autograder.exercise import Case, Exercise, bank
from autograder.judge import Finding, cases_of, judge, order_of, watch, with_facts
from autograder.runner import Outcome, Worker
from autograder.submission import Submission, SubmissionError, read_submission

SEED = 0
NOT_WRITTEN = "not written yet"
ENDINGS = {
    "flood": "it hands back more numbers than the exercise can need",
    "gone": "the process that ran it was ended from inside",
    "not data": "what came back was not data: the function, or code around it, tampers with the grading process",
    "SIGSEGV": "the process that ran it crashed (SIGSEGV)",
    "SIGXCPU": "it used more processor time than it is given",
    "SIGKILL": "the process that ran it was killed, perhaps for the memory it took",
}


@dataclass
class Verdict:
    """The mark of one exercise, with its reason.

    Attributes:
        status: "passed", "failed", "missing", "error" or "timeout".
        diagnosis: name of the known mistake, if it is one.
        message: one or two sentences for the learner.
        example: the smallest call found that shows it.
        seed: draws the same cases again.
    """

    name: str
    status: str
    points: float
    max_points: float
    diagnosis: str | None = None
    message: str = ""
    example: str = ""
    seed: int = SEED


@dataclass
class LessonReport:
    """The verdicts of a lesson."""

    lesson: str
    exercises: list[Verdict] = field(default_factory=list)

    @property
    def points(self) -> float:
        """Points earned."""
        return sum(v.points for v in self.exercises)

    @property
    def max_points(self) -> float:
        """Points that there are."""
        return sum(v.max_points for v in self.exercises)


class Grader:
    """Grades the exercises of one lesson in one submission, which is read from a path unless it has been read already."""

    def __init__(self, lesson: str, path: Path | Submission, worker: Worker | None = None, seed: int = SEED):
        self.lesson, self.seed = lesson, seed
        self.worker = worker or Worker()
        self.problem: str | None = None
        try:
            self.submission = path if isinstance(path, Submission) else read_submission(Path(path), lesson)
        except SubmissionError as error:
            self.problem, self.submission = str(error), Submission([])

    def grade_all(self) -> LessonReport:
        """Every exercise."""
        return LessonReport(self.lesson, [self.grade(exercise) for exercise in bank(self.lesson).EXERCISES])

    def grade(self, exercise: Exercise) -> Verdict:
        """One exercise; whatever the learner's code does costs this exercise only."""
        if self.problem:
            return self.verdict(exercise, "missing", self.problem)
        why_not = self.not_there(exercise)
        if why_not:
            return why_not
        verdict = self.run(exercise, {})
        others = self.leans_on(exercise)
        if verdict.status != "passed" and others:
            again = self.run(exercise, others)
            if again.status == "passed":
                names = ", ".join(sorted(others))
                again.message = (
                    f"right, given a right {names}; " + again.message
                    if again.message
                    else f"right, given a right {names}"
                )
                return again
        return verdict

    def not_there(self, exercise: Exercise) -> Verdict | None:
        """A verdict for a function that is not defined, or still a stub."""
        defined = self.submission.definitions(exercise.name)
        broken = self.submission.broken_cell_with(exercise.name)
        if broken and (not defined or self.comes_before(defined[-1].cell, broken.name)):
            return self.verdict(exercise, "error", f"its cell does not parse: {broken.error}")
        if not defined:
            if any("*" in s.binds for s in self.submission.statements):
                return None
            return self.verdict(exercise, "missing", f"{NOT_WRITTEN}: no code cell defines {exercise.name}")
        return self.verdict(exercise, "missing", NOT_WRITTEN) if defined[-1].is_stub else None

    def comes_before(self, one: str, other: str) -> bool:
        """Whether a cell stands before another."""
        names = [cell.name for cell in self.submission.cells]
        return names.index(one) < names.index(other)

    def leans_on(self, exercise: Exercise) -> dict[str, str]:
        """Other exercises of the lesson that the function calls in the learner's own version, with their reference's module."""
        needed = self.submission.names_needed_for(exercise.name)
        others = {e.name: e.home for e in bank(self.lesson).EXERCISES if e.name != exercise.name and e.name in needed}
        return {name: home for name, home in others.items() if self.submission.definitions(name)}

    def run(self, exercise: Exercise, stand_ins: dict[str, str]) -> Verdict:
        """Run the function on all cases and judge what it did."""
        cases = cases_of(exercise, self.seed)
        outcome = self.worker.run(exercise, self.submission, cases, order_of(cases), stand_ins)
        verdict = self.judged(exercise, outcome, cases)
        notes = self.notes(exercise)
        if notes and verdict.status != "missing":
            verdict.message = "; ".join([*([verdict.message] if verdict.message else []), notes])
        return verdict

    def judged(self, exercise: Exercise, outcome: Outcome, cases: list[Case]) -> Verdict:
        """From what happened to a verdict."""
        seen, trouble = outcome.seen, "; ".join(outcome.trouble[:2])
        if seen and seen[-1].reference_used:
            text = (
                "this calls or reads rlhf_core's own implementation. Which line of it could you write yourself first?"
            )
            return self.verdict(exercise, "failed", text, diagnosis="uses-the-reference")
        if seen and seen[-1].missing:
            where = f" ({seen[-1].where})" if seen[-1].where else ""
            return self.verdict(exercise, "missing", f"{NOT_WRITTEN}{where}")
        if outcome.ending == "timeout":
            return self.verdict(exercise, "timeout", self.too_slow(len(seen)))
        order = order_of(cases)[: len(seen)]
        seen = [with_facts(exercise, cases[index], one) for index, one in zip(order, seen, strict=True)]
        finding = judge(exercise, self.seed, seen)
        if outcome.ending == "done" and not outcome.found:
            text = (
                f"its code could not be loaded: {trouble}"
                if trouble
                else f"{exercise.name} is not there after its cells have run"
            )
            return self.verdict(exercise, "error", text)
        if finding is None and len(seen) < len(order_of(cases)):
            text = ENDINGS.get(outcome.ending, "it ends the process (sys.exit, os._exit or a crash)")
            if outcome.ending not in ("done", *ENDINGS):
                text = f"the process that ran it died ({outcome.ending})"
            return self.verdict(exercise, "error", text)
        if finding is None:
            return self.verdict(exercise, "passed", "")
        return self.from_finding(exercise, finding, trouble)

    def from_finding(self, exercise: Exercise, finding: Finding, trouble: str = "") -> Verdict:
        """A verdict on a wrong function."""
        text = finding.text + (f"; before that, its code stumbled: {trouble}" if trouble and finding.raised else "")
        status = "error" if finding.raised and not finding.diagnosis else "failed"
        return self.verdict(exercise, status, text, finding.example, finding.diagnosis)

    def too_slow(self, finished: int) -> str:
        """In words, where the time went."""
        where = "before its first answer" if finished == 0 else f"after {finished} answers"
        return f"stopped after {self.worker.seconds:g} seconds, {where}: is there a loop that never ends?"

    def notes(self, exercise: Exercise) -> str:
        """What a learner should know besides the mark."""
        defined = [s for s in self.submission.definitions(exercise.name) if not s.is_import]
        if len(defined) > 1:
            return f"{exercise.name} is defined {len(defined)} times; the last one, in {defined[-1].cell}, was graded"
        return ""

    def verdict(
        self, exercise: Exercise, status: str, message: str, example: str = "", diagnosis: str | None = None
    ) -> Verdict:
        """A verdict; only a passed exercise earns its points."""
        points = exercise.points if status == "passed" else 0.0
        return Verdict(exercise.name, status, points, exercise.points, diagnosis, message, example, self.seed)


def grade_function(exercise: Exercise, function: Callable, seed: int = SEED) -> Verdict:
    """Grade a function of this very process, as `check` does."""
    grader = Grader.__new__(Grader)
    grader.seed = seed
    if getattr(function, "__code__", None) is exercise.reference.__code__:
        text = "this is rlhf_core's own implementation. Which line of it could you write yourself first?"
        return grader.verdict(exercise, "failed", text, diagnosis="uses-the-reference")
    cases = cases_of(exercise, seed)
    seen = watch(exercise, function, cases, order_of(cases))
    if seen[-1].missing:
        return grader.verdict(exercise, "missing", NOT_WRITTEN)
    finding = judge(exercise, seed, seen)
    return grader.verdict(exercise, "passed", "") if finding is None else grader.from_finding(exercise, finding)
