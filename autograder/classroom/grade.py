"""`rlhf class grade`: verdicts on all submissions in parallel, while nbgrader's own autograde takes them as they come."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
from nbgrader.apps import AutogradeApp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from autograder.children import die_with_parent
from autograder.classroom.course import Course
from autograder.classroom.nbgrader_parts import CourseGrader
from autograder.classroom.verdicts import ungraded
from autograder.runner import Worker
from autograder.sandbox import LINUX, protections, require_all

COLUMNS = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


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
    worker: Worker

    @classmethod
    def start(cls, root: str, strict: bool, parent: int) -> None:
        """Called once in each process."""
        if LINUX:
            die_with_parent(parent)
        torch.set_num_threads(1)
        cls.course = course_of(Path(root), strict)
        cls.worker = cls.course.settings.new_worker()
        cls.worker.start()

    @classmethod
    def run(cls, job: Job) -> None:
        """Grade one submission."""
        cls.course.grade(job.lesson, job.student, cls.worker)


def missing_verdicts(course: Course, lesson: str) -> list[str]:
    """Students whose submission has no verdict yet, one for each content, in the order in which nbgrader asks for them."""
    seen, students = set(), []
    for student in course.submissions(lesson):
        key = course.prepare(lesson, student)[1]
        if key not in seen and course.store.load(key) is None:
            students.append(student)
        seen.add(key)
    return students


def verdicts(course: Course, lesson: str, students: list[str], jobs: int) -> Iterator[str]:
    """Start to grade in parallel; each verdict is kept as soon as it is there, and its student is yielded."""
    return as_they_come(course, lesson, set(students), in_processes(course, lesson, students, min(jobs, len(students))))


def as_they_come(course: Course, lesson: str, left: set[str], finished: Iterator[str]) -> Iterator[str]:
    """The students of `finished`; where a submission ends the process that reads and judges it, find out which."""
    try:
        for student in finished:
            left.discard(student)
            yield student
    except BrokenProcessPool:
        for student in sorted(left):
            try:
                yield from in_processes(course, lesson, [student], 1)
            except BrokenProcessPool:
                give_up(course, lesson, student)
                yield student


def in_processes(course: Course, lesson: str, students: list[str], jobs: int) -> Iterator[str]:
    """Start processes at once; the students whose verdict is there, as they come."""
    if not students:
        return iter(())
    # a fork has the modules that take seconds to load; elsewhere than on Linux not every library survives one
    context = multiprocessing.get_context("fork" if LINUX else "spawn")
    settings = str(course.root), course.settings.strict, os.getpid()
    pool = ProcessPoolExecutor(jobs, context, GradingProcess.start, settings)
    waiting = {pool.submit(GradingProcess.run, Job(lesson, s)): s for s in students}

    def finished() -> Iterator[str]:
        try:
            for one in as_completed(waiting):
                one.result()
                yield waiting[one]
        finally:
            pool.shutdown(cancel_futures=True)

    return finished()


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
    if strict:
        require_all()
    students = missing_verdicts(course, lesson)
    if not fill:
        random.SystemRandom().shuffle(students)  # machines that share the work seldom meet
    with contextlib.closing(verdicts(course, lesson, students, jobs)) as made:
        print_protections(console)  # while the processes start
        # no thread that draws: a process that ends is replaced by a fork
        with Progress(*COLUMNS, console=console, auto_refresh=False) as progress:
            task = progress.add_task(f"grading {lesson}", total=len(submitted))
            progress.update(task, completed=len(submitted) - len(students), refresh=True)
            coming = shown(made, progress, task)
            next(coming, None)  # what keeps all from being graded is said here, and not by nbgrader for each
            status = fill_gradebook(root, lesson, coming) if fill else 0
            for _ in coming:
                continue
    return status


def shown(made: Iterator[str], progress: Progress, task: TaskID) -> Iterator[str]:
    """The same students; the progress bar counts them."""
    for student in made:
        progress.update(task, advance=1, refresh=True)
        yield student


def fill_gradebook(root: Path, lesson: str, coming: Iterator[str]) -> int:
    """Let nbgrader write the marks, one submission after the other: its gradebook has one writer.

    Args:
        root: the course directory.
        lesson: such as lesson_04.
        coming: waits for verdicts that are being made, see `Course.grade`.
    """
    app = app_of(root, [lesson])
    CourseGrader.coming = coming
    try:
        app.start()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
