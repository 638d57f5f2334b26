"""Verdicts as people read them: lines for a terminal, a box for a notebook, JSON for programs."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from autograder.exercise import LESSONS, bank
from autograder.grade import NOT_WRITTEN, LessonReport, Verdict

MARKS = {"passed": "✔", "failed": "✘", "missing": "·", "error": "✘", "timeout": "✘"}
COLORS = {"passed": "green", "failed": "red", "missing": "yellow", "error": "red", "timeout": "red"}


def headline(verdict: Verdict) -> str:
    """`✘ gae 0/4 — why`."""
    mark = f"{MARKS[verdict.status]} {verdict.name} {verdict.points:g}/{verdict.max_points:g}"
    return f"{mark} — {verdict.message}" if verdict.message else mark


def example_lines(verdict: Verdict) -> list[str]:
    """The smallest example found, and what draws it again."""
    if verdict.status not in ("failed", "error") or not verdict.example:
        return []
    return [f"  example: {verdict.example.rstrip(': ')}", f"  the same numbers again: --seed {verdict.seed}"]


def lines_of(report: LessonReport) -> list[tuple[str, dict]]:
    """A lesson's verdicts as lines, each with its style."""
    lines = [(f"{report.lesson} {report.points:g}/{report.max_points:g}", {"bold": True})]
    reasons = {verdict.message for verdict in report.exercises}
    if len(reasons) == 1 and len(report.exercises) > 1 and is_unreadable(report.exercises[0]):
        return [*lines, (f"{MARKS['missing']} {reasons.pop()}", {COLORS["missing"]: True})]
    for verdict in report.exercises:
        lines.append((headline(verdict), {COLORS[verdict.status]: True}))
        lines += [(line, {}) for line in example_lines(verdict)]
    return lines


def is_unreadable(verdict: Verdict) -> bool:
    """There was no submission to look for the function in."""
    return verdict.status == "missing" and not verdict.message.startswith(NOT_WRITTEN)


def closing_line(reports: Sequence[LessonReport], options: str = "") -> str:
    """What has been reached, and what to do next.

    Args:
        reports: the lessons.
        options: of the call, such as " --submission mine.ipynb", for the next one.
    """
    points, most = sum(r.points for r in reports), sum(r.max_points for r in reports)
    total = f"{points:g} of {most:g} points."
    for report in reports:
        for verdict in report.exercises:
            command = command_for(report.lesson) + options
            if is_unreadable(verdict):
                again = f"{command_for(report.lesson)} --submission PATH"
                return f"{total} Next: {again}, with a notebook that can be read."
            if verdict.status == "missing":
                return f"{total} Next: write {verdict.name}, then {command} -k {verdict.name}"
            if verdict.status != "passed":
                return f"{total} Next: {verdict.name}; try again with {command} -k {verdict.name}"
    return f"{total} All is right. Next: {after(reports)}"


def after(reports: Sequence[LessonReport]) -> str:
    """What comes after all that was graded is right."""
    last = reports[-1]
    if len(last.exercises) < len(bank(last.lesson).EXERCISES):
        return f"the rest of it, {command_for(last.lesson)}"
    following = LESSONS.index(last.lesson) + 1
    return f"{LESSONS[following]}." if following < len(LESSONS) else "nothing, that was the last lesson."


def command_for(lesson: str) -> str:
    """How a lesson is graded from where one stands: in the repository, or with the package alone."""
    return (
        f"pytest autograder/{lesson}" if Path("autograder", lesson).exists() else f"pytest --pyargs autograder.{lesson}"
    )


def as_data(report: LessonReport) -> dict:
    """What `--report-json` writes."""
    fields = ("name", "status", "points", "max_points", "diagnosis", "message", "seed")
    return {
        "lesson": report.lesson,
        "points": float(report.points),
        "max_points": float(report.max_points),
        "exercises": [
            {f: float(getattr(v, f)) if f.endswith("points") else getattr(v, f) for f in fields}
            for v in report.exercises
        ],
    }


def write_json(reports: Sequence[LessonReport], path: Path) -> None:
    """One lesson as an object, several as a list of them."""
    data = [as_data(report) for report in reports]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(
        json.dumps(data[0] if len(data) == 1 else data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def as_html(verdict: Verdict) -> str:
    """A box for a notebook, with colors that show on light and on dark pages."""
    color = {"green": "#2e9e5b", "red": "#d64545", "yellow": "#c98a00"}[COLORS[verdict.status]]
    name = f"<b style='color:{color}'>{MARKS[verdict.status]} {html.escape(verdict.name)}</b>"
    points = f" {verdict.points:g}/{verdict.max_points:g}"
    text = f" — {html.escape(verdict.message)}" if verdict.message else ""
    example = ""
    if verdict.status in ("failed", "error") and verdict.example:
        shown = html.escape(verdict.example.rstrip(": "))
        example = f"<br><code style='font-size:90%;white-space:pre-wrap'>{shown}</code>"
    return (
        f"<div style='border-left:4px solid {color};padding:2px 10px;margin:4px 0'>{name}{points}{text}{example}</div>"
    )
