"""`rlhf class grade`: verdicts on all submissions in parallel, then nbgrader's own autograde, which finds them made."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from nbgrader.apps import AutogradeApp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from autograder.classroom.course import Course
from autograder.classroom.nbgrader_parts import CourseGrader
from autograder.classroom.verdicts import ungraded
from autograder.sandbox import protections, require_all


@dataclass(frozen=True)
class Job:
    """One submission to grade, as it is sent to a grading process."""

    lesson: str
    student: str


def app_of(root: Path, arguments: list[str] | None = None) -> AutogradeApp:
    """nbgrader's autograde with the course's configuration.

    Raises:
        FileNotFoundError: the folder is no course directory.
    """
    if not (root / "nbgrader_config.py").exists():
        raise FileNotFoundError(f"{root} holds no nbgrader_config.py: call this in the course directory, or name it")
    AutogradeApp.clear_instance()
    app = AutogradeApp.instance()
    app.log_level = "WARN"
    os.chdir(root)
    app.initialize(arguments or [], root=str(root))
    return app


def course_of(root: Path, strict: bool = False) -> Course:
    """The course in a directory."""
    app = app_of(root, ["--CourseGrader.strict=True"] if strict else [])
    return Course(app.coursedir, CourseGrader(parent=app))


class GradingProcess:
    """What a process of the pool keeps between submissions."""

    course: Course
    worker = None

    @classmethod
    def start(cls, root: str, strict: bool) -> None:
        """Called once in each process."""
        cls.course = course_of(Path(root), strict)
        cls.worker = cls.course.settings.new_worker()
        cls.worker.start()

    @classmethod
    def run(cls, job: Job) -> None:
        """Grade one submission."""
        cls.course.grade(job.lesson, job.student, cls.worker)


def missing_verdicts(course: Course, lesson: str) -> list[str]:
    """Students whose submission has no verdict yet, one for each content, in an order that differs between machines."""
    seen, students = set(), []
    for student in course.submissions(lesson):
        key = course.prepare(lesson, student)[1]
        if key not in seen and course.store.load(key) is None:
            students.append(student)
        seen.add(key)
    random.SystemRandom().shuffle(students)
    return students


def verdicts(course: Course, lesson: str, students: list[str], jobs: int) -> Iterator[str]:
    """Grade submissions in parallel; each verdict is kept as soon as it is there, and its student is yielded."""
    left = set(students)
    try:
        for student in in_processes(course, lesson, students, min(jobs, len(students))):
            left.discard(student)
            yield student
    except BrokenProcessPool:  # a submission ended the process that reads and judges it: find out which
        for student in sorted(left):
            try:
                yield from in_processes(course, lesson, [student], 1)
            except BrokenProcessPool:
                give_up(course, lesson, student)
                yield student


def in_processes(course: Course, lesson: str, students: list[str], jobs: int) -> Iterator[str]:
    """Students whose verdict is there, as they come."""
    context = multiprocessing.get_context("spawn")
    settings = str(course.root), course.settings.strict
    with ProcessPoolExecutor(jobs, context, GradingProcess.start, settings) as pool:
        waiting = {pool.submit(GradingProcess.run, Job(lesson, s)): s for s in students}
        for one in as_completed(waiting):
            one.result()
            yield waiting[one]


def give_up(course: Course, lesson: str, student: str) -> None:
    """Keep a verdict on a submission that cannot be judged."""
    prepared, key = course.prepare(lesson, student)
    prepared.problem = "reading its code ended the grading process"
    course.store.save(ungraded(prepared, lesson, key))


def print_protections(console: Console) -> None:
    """What shuts students' code in on this machine, and what is missing."""
    console.print("students' code is shut in; tried on this machine:")
    for one in protections():
        line = f"  {'✔' if one.in_force else '✘'} {one.name} ({one.how})"
        console.print(line, style="" if one.in_force else "red", highlight=False, soft_wrap=True)


def grade_class(root: Path, lesson: str, jobs: int, strict: bool = False, fill: bool = True) -> int:
    """Grade all that was collected of a lesson; returns 0, or 1 where nbgrader met an error.

    Args:
        root: the course directory.
        lesson: such as lesson_04.
        jobs: how many submissions are graded at once.
        strict: refuse where the machine lacks a protection.
        fill: also hand the marks to nbgrader; without, only verdicts are made, as on a second machine.
    """
    console = Console()
    course = course_of(root, strict)
    submitted = course.submissions(lesson)
    if not submitted:
        console.print(f"nothing has been collected for {lesson}; collect with: nbgrader collect {lesson}")
        return 1
    print_protections(console)
    if strict:
        require_all()
    students = missing_verdicts(course, lesson)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"grading {lesson}", total=len(submitted), completed=len(submitted) - len(students))
        if students:
            for _ in verdicts(course, lesson, students, jobs):
                progress.advance(task)
    return fill_gradebook(root, lesson) if fill else 0


def fill_gradebook(root: Path, lesson: str) -> int:
    """Let nbgrader write the marks, one submission after the other: its gradebook has one writer."""
    app = app_of(root, [lesson])
    try:
        app.start()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
