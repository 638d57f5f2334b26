"""`rlhf progress` and `rlhf watch`: where a learner stands."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autograder.exercise import LESSONS
from autograder.grade import NOT_WRITTEN, Grader, LessonReport, Verdict
from autograder.report import COLORS, closing_line, is_unreadable, lines_of
from autograder.runner import Worker

PAUSE = 0.5  # seconds between two looks at the files


def submission_of(folder: Path, lesson: str) -> Path:
    """Where a lesson's notebook should be: in its folder, or among others in one."""
    path = folder / lesson
    alone = folder.is_file() or folder.is_dir() and list(folder.glob("*.ipynb"))
    return folder if alone and not path.exists() else path


def show(folder: str = "lessons") -> None:
    """Every lesson and exercise with its state and points.

    Raises:
        ValueError: there is no such folder.
    """
    if not Path(folder).exists():
        raise ValueError(f"there is no folder {folder}; call this where your lessons are, or name their folder")
    console, worker = Console(), Worker()
    reports = []
    try:
        with console.status("grading your notebooks") as status:
            for lesson in LESSONS:
                status.update(f"grading {lesson}")
                reports.append(Grader(lesson, submission_of(Path(folder), lesson), worker).grade_all())
    finally:
        worker.stop()
    console.print(table_of(reports, folder))
    console.print(f"[bold]{escape(closing_line(reports))}[/bold]", soft_wrap=True)


def table_of(reports: list[LessonReport], folder: str) -> Table:
    """All lessons as a table."""
    table = Table("lesson", "exercise", "state", "points", title=f"Progress in {escape(folder)}")
    for report in reports:
        for place, verdict in enumerate(report.exercises):
            state = f"[{COLORS[verdict.status]}]{escape(state_of(verdict))}[/]"
            points = f"{verdict.points:g}/{verdict.max_points:g}"
            table.add_row(report.lesson if place == 0 else "", verdict.name, state, points)
        table.add_section()
    table.add_row("", "", "all", f"{sum(r.points for r in reports):g}/{sum(r.max_points for r in reports):g}")
    return table


def state_of(verdict: Verdict) -> str:
    """In a few words, how an exercise stands."""
    if verdict.status == "missing":
        return "no notebook" if is_unreadable(verdict) else NOT_WRITTEN
    return verdict.diagnosis or verdict.status


def watch(lesson: str, folder: str = "lessons") -> None:
    """Grade a lesson again whenever one of its files is saved; Ctrl-C ends it.

    Args:
        lesson: such as lesson_04.
        folder: holds the lesson's folder or its notebook; or the notebook itself.

    Raises:
        ValueError: there is no such lesson, or nothing to watch.
    """
    if lesson not in LESSONS:
        raise ValueError(f"there is no lesson {lesson!r}; there are {LESSONS[0]} to {LESSONS[-1]}")
    path = submission_of(Path(folder), lesson)
    if not os.path.lexists(path):
        raise ValueError(f"there is no {path}; call this in the folder of your course, or name the folder")
    console, worker, before = Console(), Worker(), None
    console.print(f"watching {path}; Ctrl-C ends it", soft_wrap=True, markup=False)
    try:
        while True:
            now = saved(path)
            if now != before:
                before = now
                print_report(console, Grader(lesson, path, worker).grade_all())
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        console.print()
    finally:
        worker.stop()


def saved(path: Path) -> dict[Path, int]:
    """When each notebook and Python file was saved last."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    times = {}
    for file in files:
        if file.suffix in (".ipynb", ".py") and ".ipynb_checkpoints" not in file.parts:
            try:
                times[file] = file.stat().st_mtime_ns
            except OSError:  # an editor is just replacing it
                continue
    return times


def print_report(console: Console, report: LessonReport) -> None:
    """A lesson's verdicts."""
    console.rule(time.strftime("%H:%M:%S"))
    for line, style in lines_of(report):
        console.print(line, style=" ".join(style), soft_wrap=True, markup=False, highlight=False)
    console.print(closing_line([report]), style="bold", soft_wrap=True, markup=False, highlight=False)
