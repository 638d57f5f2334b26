"""Verdicts on whole submissions: made once for each content, kept as files that several processes and machines can share."""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import autograder
import rlhf_core
from autograder.classroom.prepare import Prepared
from autograder.exercise import Exercise, bank
from autograder.files import content_of
from autograder.grade import SEED, Grader, Verdict
from autograder.runner import Worker
from autograder.submission import Submission, SubmissionError, read_files

SECRET_FILE = Path.home() / ".config" / "rlhf-from-scratch" / "course_secret"
PREPARED = "prepared"  # becomes a diagnosis: right for the public inputs, wrong for the hidden ones


@dataclass
class Graded:
    """What a submission has earned.

    Attributes:
        exercises: a verdict for each, in the lesson's order.
        problem: why nothing could be graded, if so.
        repairs: what was mended before, in sentences.
        key: see `key_of`.
    """

    lesson: str
    key: str
    exercises: list[Verdict]
    problem: str | None = None
    repairs: list[str] = field(default_factory=list)

    def verdict(self, name: str) -> Verdict | None:
        """The verdict on an exercise."""
        return next((v for v in self.exercises if v.name == name), None)


def course_secret(path: Path | None = None) -> bytes:
    """The course's secret, from which hidden inputs are drawn; made when there is none.

    Args:
        path: the file; without one, the environment variable RLHF_COURSE_SECRET or a file in the teacher's home.
    """
    given = os.environ.get("RLHF_COURSE_SECRET")
    if given and path is None:
        return given.encode()
    path = path or SECRET_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        pass
    return path.read_bytes().strip()


def hidden_seed(secret: bytes, lesson: str) -> int:
    """The seed that draws a lesson's hidden inputs."""
    return int.from_bytes(hmac.new(secret, lesson.encode(), "sha256").digest()[:5], "big")


@functools.cache
def grader_version() -> str:
    """Changes whenever the grader or the reference does: older verdicts then no longer count."""
    digest = hashlib.sha256()
    for package in (autograder, rlhf_core):
        for path in sorted(Path(package.__file__).parent.rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def key_of(prepared: Prepared, lesson: str, secret: bytes, conditions: str) -> str:
    """A name for all that a verdict depends on: the code, the grader, the hidden inputs and how it is shut in."""
    digest = hmac.new(secret, f"{lesson} {grader_version()} {conditions}".encode(), "sha256")
    digest.update(prepared.text.encode())
    for path in prepared.others:
        digest.update(os.fsencode(path.name) + b"\0" + path.read_bytes())
    return digest.hexdigest()[:32]


class VerdictStore:
    """A folder of verdicts. A file is there whole or not at all, so that several graders may share it."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Where a verdict is."""
        return self.folder / f"{key}.json"

    def load(self, key: str) -> Graded | None:
        """A verdict; None if there is none, or the file is damaged."""
        try:
            data = json.loads(self.path(key).read_text(encoding="utf-8"))
            data["exercises"] = [Verdict(**one) for one in data["exercises"]]
            return Graded(**data)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def save(self, graded: Graded) -> None:
        """Keep a verdict."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".part")
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(asdict(graded), file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, self.path(graded.key))


def grade_prepared(prepared: Prepared, lesson: str, key: str, worker: Worker, secret: bytes) -> Graded:
    """Grade a submission on hidden inputs; reasons are given with public ones, which a student can draw again."""
    if prepared.problem:
        return ungraded(prepared, lesson, key)
    submission = read_prepared(prepared)
    hidden = Grader(lesson, submission, worker, hidden_seed(secret, lesson))
    public = Grader(lesson, submission, worker, SEED)
    exercises = [grade_exercise(exercise, hidden, public) for exercise in bank(lesson).EXERCISES]
    return Graded(lesson, key, exercises, repairs=prepared.repairs)


def ungraded(prepared: Prepared, lesson: str, key: str) -> Graded:
    """No points, and the reason with every exercise."""
    text = f"ungraded: {prepared.problem}"
    exercises = [Verdict(e.name, "missing", 0.0, e.points, None, text) for e in bank(lesson).EXERCISES]
    return Graded(lesson, key, exercises, prepared.problem, prepared.repairs)


def read_prepared(prepared: Prepared) -> Submission:
    """The code of a prepared notebook, after that of the student's other files; modules of theirs stand beside it."""
    with tempfile.TemporaryDirectory() as folder:
        main = Path(folder) / prepared.name
        main.write_text(prepared.text, encoding="utf-8")
        try:
            for path in prepared.others:
                if path.suffix.lower() == ".py":
                    main.with_name(path.name).write_bytes(content_of(path))
            return read_files([*prepared.others, main])
        except SubmissionError:
            return read_files([main])


def grade_exercise(exercise: Exercise, hidden: Grader, public: Grader) -> Verdict:
    """The mark comes from hidden inputs; nothing of them is told."""
    verdict = hidden.grade(exercise)
    if verdict.status in ("passed", "missing", "timeout") or verdict.diagnosis == "uses-the-reference":
        verdict.seed = SEED
        return verdict
    shown = public.grade(exercise)
    if shown.status != "passed":
        return shown
    text = "right on the public inputs, wrong on hidden ones. Is an answer prepared for inputs that are known?"
    return public.verdict(exercise, "failed", text, diagnosis=PREPARED)
