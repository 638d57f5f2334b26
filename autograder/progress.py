"""`rlhf progress` and `rlhf watch`: where a learner stands."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autograder.exercise import LESSONS, bank
from autograder.grade import Grader, LessonReport
from autograder.report import COLORS, closing_line, example_lines, headline
from autograder.runner import Worker


def submission_of(folder: Path, lesson: str) -> Path:
    """Where a lesson's notebook should be."""
    return folder / lesson if (folder / lesson).exists() or not list(folder.glob("*.ipynb")) else folder


def show(folder: str = "lessons") -> None:
    """Every lesson and exercise with its state and points."""
    console, worker = Console(), Worker()
    table = Table("lesson", "exercise", "state", "points", title=f"Progress in {folder}")
    reports = []
    try:
        with console.status("grading your notebooks") as status:
            for lesson in LESSONS:
                status.update(f"grading {lesson}")
                reports.append(Grader(lesson, submission_of(Path(folder), lesson), worker).grade_all())
    finally:
        worker.stop()
    for report in reports:
        for place, verdict in enumerate(report.exercises):
            state = f"[{COLORS[verdict.status]}]{verdict.diagnosis or verdict.status}[/]"
            points = f"{verdict.points:g}/{verdict.max_points:g}"
            table.add_row(report.lesson if place == 0 else "", verdict.name, state, points)
        table.add_section()
    console.print(table)
    console.print(f"[bold]{escape(closing_line(reports))}[/bold]")


def watch(lesson: str, folder: str = "lessons") -> None:
    """Grade a lesson again whenever one of its files is saved; Ctrl-C ends it.

    Raises:
        ValueError: there is no such lesson.
    """
    bank(lesson)
    console, worker, before = Console(), Worker(), None
    path = submission_of(Path(folder), lesson)
    console.print(f"watching {path}; Ctrl-C ends it")
    try:
        while True:
            now = {p: p.stat().st_mtime_ns for p in sorted(path.rglob("*")) if p.suffix in (".ipynb", ".py")}
            if now != before:
                before = now
                print_report(console, Grader(lesson, path, worker).grade_all())
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        worker.stop()


def print_report(console: Console, report: LessonReport) -> None:
    """A lesson's verdicts."""
    console.rule(f"{report.lesson} · {time.strftime('%H:%M:%S')}")
    for verdict in report.exercises:
        console.print(f"[{COLORS[verdict.status]}]{escape(headline(verdict))}[/]")
        for line in example_lines(verdict):
            console.print(escape(line))
    console.print(f"[bold]{escape(closing_line([report]))}[/bold]")
