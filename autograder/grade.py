"""Grade a submission: exercise by exercise, from the learner's code to a verdict that teaches."""

from __future__ import annotations

import ast
import dis
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from autograder.calls import expected_of, order_of, watch, with_facts
from autograder.exercise import Case, Exercise, bank
from autograder.guard import Hidden, hidden
from autograder.judge import Finding, judge
from autograder.observe import Observation
from autograder.runner import Outcome, Worker
from autograder.submission import Submission, SubmissionError, read_submission, seems_to_define

SEED = 0
NOT_WRITTEN = "not written yet"
USES_REFERENCE = "this calls or reads rlhf_core's own implementation. Which line of it could you write yourself first?"
ENDINGS = {
    "flood": "it hands back more numbers than the exercise can need",
    "gone": "the process that ran it was ended from inside",
    "no worker": "the process for your code does not start; python -m autograder.worker says why",
    "closed": "it closes the files over which its answers are handed in",
    "broken": "it breaks the process in which it is graded",
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
        verdict, others = self.run(exercise), self.leans_on(exercise)
        if verdict.status != "passed" and others:
            again = self.attempt(exercise, others)
            if again.status == "passed":
                again.message = joined(f"right, given a right {', '.join(sorted(others))}", again.message)
                return again
        return verdict

    def not_there(self, exercise: Exercise) -> Verdict | None:
        """A verdict for a function that is not defined, or still a stub."""
        name, submission = exercise.name, self.submission
        defined, cells = submission.definitions(name), submission.defining_cells(name)
        broken = submission.broken_cell_with(name)
        if broken and (not cells or submission.cells.index(cells[-1]) < submission.cells.index(broken)):
            return self.verdict(exercise, "error", f"its cell does not parse: {broken.error}")
        if not defined and not any("*" in s.binds or s.is_dynamic or name in s.sets for s in submission.statements):
            return self.verdict(exercise, "missing", self.why_missing(name))
        if not defined or not defined[-1].is_stub:
            return None
        others = [cell.name for cell, s in zip(cells, defined, strict=True) if not s.is_stub]
        hides = f": the last {name}, in {cells[-1].name}, is still the stub and hides the one in " + "".join(
            others[-1:]
        )
        return self.verdict(exercise, "missing", NOT_WRITTEN + (hides if others else ""))

    def why_missing(self, name: str) -> str:
        """In words, why no function of a name was found."""
        submission = self.submission
        bound = [(cell.name, s) for cell in submission.cells for s in cell.statements if name in s.binds]
        if any(s.is_stub for _, s in bound):
            return NOT_WRITTEN
        if bound:
            return f"{NOT_WRITTEN}: what {bound[-1][0]} calls {name} is no function"
        where = next((kind for kind, text in submission.texts if seems_to_define(text, name)), None)
        if where:
            return f"{NOT_WRITTEN}: {name} stands in {where}; only code cells are graded"
        refused = f"; {submission.refused[0]}" if submission.refused else ""
        return f"{NOT_WRITTEN}: no code cell defines {name}{refused}"

    def leans_on(self, exercise: Exercise) -> dict[str, str]:
        """Other exercises of the lesson that the function calls in the learner's own version, with their reference's module."""
        needed = self.submission.names_needed_for(exercise.name)
        others = {e.name: e.home for e in bank(self.lesson).EXERCISES if e.name != exercise.name and e.name in needed}
        return {name: home for name, home in others.items() if self.submission.definitions(name)}

    def run(self, exercise: Exercise) -> Verdict:
        """Run with what the function needs; if it is not right then, once more with what it only may need."""
        verdict = self.attempt(exercise, {})
        if verdict.status in ("passed", "timeout"):
            return verdict
        narrow, broad = (self.submission.needed_for(exercise.name, broad=b) for b in (False, True))
        if narrow == broad:
            return verdict
        again = self.attempt(exercise, {}, broad=True)
        further = {"failed": ("passed",), "error": ("passed", "failed", "error")}
        return again if again.status in further.get(verdict.status, (again.status,)) else verdict

    def attempt(self, exercise: Exercise, stand_ins: dict[str, str], broad: bool = False) -> Verdict:
        """Run the function on all cases and judge what it did."""
        cases, _ = expected_of(exercise, self.seed)
        outcome = self.worker.run(exercise, self.submission, cases, order_of(cases), stand_ins, broad)
        verdict = self.judged(exercise, outcome, cases)
        if verdict.status != "missing":
            verdict.message = joined(verdict.message, *outcome.notes[:1] or [self.note(exercise)])
        return verdict

    def judged(self, exercise: Exercise, outcome: Outcome, cases: Sequence[Case]) -> Verdict:
        """From what happened to a verdict."""
        seen, trouble = outcome.seen, "; ".join(outcome.trouble[:2])
        if outcome.reference_used or seen and seen[-1].reference_used:
            return self.verdict(exercise, "failed", self.reference_text(exercise.name), diagnosis="uses-the-reference")
        if seen and seen[-1].missing:
            return self.verdict(exercise, "missing", not_implemented(seen[-1]))
        if outcome.ending == "timeout":
            return self.verdict(exercise, "timeout", self.too_slow(outcome))
        if outcome.ending == "done" and not outcome.found:
            return self.not_loaded(exercise, outcome, trouble)
        order = order_of(cases)
        try:
            finding = self.finding(exercise, cases, order, seen)
        except Exception:  # what came back has a form that no call of a function gives
            return self.verdict(exercise, "error", ENDINGS["not data"])
        if finding is None and len(seen) < len(order):
            return self.verdict(exercise, "error", how_it_ended(outcome))
        if finding is None:
            return self.verdict(exercise, "passed", "")
        return self.from_finding(exercise, finding, trouble)

    def finding(
        self, exercise: Exercise, cases: Sequence[Case], order: list[int], seen: list[Observation]
    ) -> Finding | None:
        """What is wrong with the answers.

        Raises:
            ValueError: they are not answers to these calls.
        """
        if len(seen) > len(order) or not all(fits(cases[i], one) for i, one in zip(order, seen, strict=False)):
            raise ValueError("these are not answers to the calls")
        told: dict[int, Observation] = {}  # an observation that was made twice is one object
        for index, one in zip(order, seen, strict=False):
            if id(one) not in told:
                told[id(one)] = with_facts(exercise, cases[index], one)
        return judge(exercise, self.seed, [told[id(one)] for one in seen])

    def not_loaded(self, exercise: Exercise, outcome: Outcome, trouble: str) -> Verdict:
        """A verdict where the function is not there after its cells have run."""
        name = exercise.name
        if outcome.at and not outcome.loaded:
            return self.verdict(
                exercise, "error", f"{how_it_ended(outcome)}, in {outcome.at}, before it could be called"
            )
        if trouble:
            return self.verdict(
                exercise, "error", f"its code could not be loaded: {trouble}{self.broken_helper(trouble)}"
            )
        if self.submission.definitions(name):
            return self.verdict(exercise, "missing", f"{NOT_WRITTEN}: what your code calls {name} is no function")
        return self.verdict(exercise, "missing", self.why_missing(name))

    def from_finding(self, exercise: Exercise, finding: Finding, trouble: str = "") -> Verdict:
        """A verdict on a wrong function."""
        text = finding.text + (f"; before that, its code stumbled: {trouble}" if trouble and finding.raised else "")
        status = "error" if finding.raised and not finding.diagnosis else "failed"
        text += self.broken_helper(text) if finding.raised else ""
        return self.verdict(exercise, status, text, finding.example, finding.diagnosis)

    def broken_helper(self, text: str) -> str:
        """Where a missed name is: in a cell that does not parse, or nowhere."""
        missed = re.search(r"NameError: name '(\w+)' is not defined", text)
        if not missed:
            return ""
        name, statements = missed.group(1), self.submission.statements
        broken = self.submission.broken_cell_with(name)
        if broken:
            return f"; {name} stands in a cell that does not parse: {broken.error}"
        return "" if any(name in s.binds for s in statements) else f"; no code cell defines {name}"

    def reference_text(self, name: str) -> str:
        """What is said where the reference is used."""
        defined = self.submission.definitions(name)
        own = [s for s in defined if not s.is_import and not s.is_stub]
        if own and defined[-1].is_import:
            return (
                f"{defined[-1].cell} imports {name} over the one that you have written. Which of the two do you want?"
            )
        return USES_REFERENCE

    def too_slow(self, outcome: Outcome) -> str:
        """In words, where the time went."""
        finished, limit = len(outcome.seen), f"stopped after {self.worker.seconds:g} seconds"
        if not outcome.loaded and outcome.at:
            return f"{limit}, in {outcome.at}, before it could be called: what takes so long there?"
        where = "before its first answer" if finished == 0 else f"after {finished} answers"
        return f"{limit}, {where}: is there a loop that never ends?"

    def note(self, exercise: Exercise) -> str:
        """What a learner should know besides the mark."""
        defined = [s for s in self.submission.definitions(exercise.name) if not s.is_import]
        texts = {ast.dump(s.node) for s in defined}
        if len(texts) > 1:
            return f"{exercise.name} is defined {len(defined)} times; the last one, in {defined[-1].cell}, was graded"
        return ""

    def verdict(
        self, exercise: Exercise, status: str, message: str, example: str = "", diagnosis: str | None = None
    ) -> Verdict:
        """A verdict; only a passed exercise earns its points."""
        points = exercise.points if status == "passed" else 0.0
        texts = printable(message), printable(example)
        return Verdict(exercise.name, status, points, exercise.points, diagnosis, *texts, self.seed)


def joined(*sentences: str) -> str:
    """Sentences in one line, without the empty ones."""
    text = ""
    for sentence in filter(None, sentences):
        text += (" " if text.endswith(("?", ".")) else "; " if text else "") + sentence
    return text


def printable(text: str) -> str:
    """A text without what moves a terminal's cursor or cannot be written; a learner's exception may hold anything."""
    return "".join(c if c.isprintable() else " " for c in text)


def fits(case: Case, seen: Observation) -> bool:
    """Whether an observation can be one of this call."""
    args = case.args
    shapes = [a.shape if isinstance(a, Tensor) else None for a in args]
    grads = zip(seen.grads, shapes, strict=False)
    return (
        set(seen.kinds) == set(seen.values)
        and all(0 <= place < len(args) for place in seen.changed)
        and len(seen.grads) in (0, len(args))
        and all(grad is None or grad.shape == shape for grad, shape in grads)
    )


def not_implemented(seen: Observation) -> str:
    """What is said of a function that raises NotImplementedError."""
    return f"{NOT_WRITTEN}: it raises NotImplementedError" + (f" in {seen.where}" if seen.where else "")


def how_it_ended(outcome: Outcome) -> str:
    """In words, how the process that ran the code came to its end."""
    if outcome.ending == "done":
        return "it ends the process (sys.exit, os._exit or a crash)"
    return ENDINGS.get(outcome.ending, f"the process that ran it died ({outcome.ending})")


def grade_function(exercise: Exercise, function: Callable, seed: int = SEED) -> Verdict:
    """Grade a function of this very process, as `check` does."""
    grader = Grader(exercise.home, Submission([]), seed=seed)
    if getattr(function, "__code__", None) is exercise.reference.__code__:
        return grader.verdict(exercise, "failed", USES_REFERENCE, diagnosis="uses-the-reference")
    if is_empty(function):
        return grader.verdict(exercise, "missing", NOT_WRITTEN)
    cases = list(expected_of(exercise, seed)[0])  # the reference answers before it is hidden
    called = (lambda *args: function(*args)) if isinstance(function, type) else function
    with hidden(exercise.reference):
        seen = watch(exercise, called, cases, order_of(cases))
    if seen[-1].reference_used or Hidden.touched:
        return grader.verdict(exercise, "failed", USES_REFERENCE, diagnosis="uses-the-reference")
    if seen[-1].missing:
        return grader.verdict(exercise, "missing", not_implemented(seen[-1]))
    finding = judge(exercise, seed, seen)
    return grader.verdict(exercise, "passed", "") if finding is None else grader.from_finding(exercise, finding)


def is_empty(function: Callable) -> bool:
    """Whether a function does nothing but to return None: a stub with `pass` or with a docstring only."""
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    steps = [(i.opname, i.argval) for i in dis.get_instructions(code) if i.opname not in ("RESUME", "NOP")]
    return steps in ([("LOAD_CONST", None), ("RETURN_VALUE", None)], [("RETURN_CONST", None)])
