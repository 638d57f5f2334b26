"""`pytest autograder/lesson_04`: every exercise is a test that grades the learner's function."""

from __future__ import annotations

from pathlib import Path

import pytest

SUBMISSIONS = "lessons"


def pytest_addoption(parser):
    group = parser.getgroup("grading")
    group.addoption(
        "--submission", type=Path, help="notebook, .py file or folder to grade (default: lessons/lesson_NN)"
    )
    group.addoption("--report-json", type=Path, metavar="PATH", help="write the verdicts to this file")
    group.addoption("--seed", type=int, default=0, help="draws other inputs (default: 0)")


def pytest_configure(config):
    if getattr(config.option, "collectonly", False) or not grades_something(config):
        return
    from autograder.runner import Worker

    config.stash[WORKER] = Worker()
    config.stash[WORKER].start()  # it loads torch while pytest collects
    config.option.tbstyle = "no"  # the report says it shorter
    config.option.reportchars = ""


def grades_something(config) -> bool:
    """Whether the exercises are asked for, rather than the project's own tests."""
    here = Path(__file__).parent
    asked = [Path(str(arg).split("::")[0]).resolve() for arg in config.args]
    return any(path == here or here in path.parents for path in asked)


def pytest_unconfigure(config):
    if WORKER in config.stash:
        config.stash[WORKER].stop()


def pytest_collect_file(file_path, parent):
    if file_path.name == "exercises.py" and file_path.parent.parent == Path(__file__).parent:
        return LessonFile.from_parent(parent, path=file_path)
    return None


class LessonFile(pytest.File):
    """The exercises of a lesson."""

    def collect(self):
        from autograder.exercise import bank

        lesson = self.path.parent.name
        for exercise in bank(lesson).EXERCISES:
            yield Graded.from_parent(self, name=exercise.name, lesson=lesson, exercise=exercise)


class Wrong(Exception):
    """The exercise is not passed."""


class Graded(pytest.Item):
    """One exercise; its outcome is the verdict."""

    def __init__(self, *, lesson, exercise, **kwargs):
        super().__init__(**kwargs)
        self.lesson, self.exercise = lesson, exercise

    def runtest(self):
        verdict = grader_of(self.config, self.lesson).grade(self.exercise)
        self.config.stash[VERDICTS].setdefault(self.lesson, []).append(verdict)
        if verdict.status != "passed":
            raise Wrong

    def repr_failure(self, excinfo, style=None):
        if isinstance(excinfo.value, Wrong):
            return ""
        return super().repr_failure(excinfo, "short")

    def reportinfo(self):
        return self.path, None, f"{self.lesson}::{self.name}"


def grader_of(config, lesson):
    """One grader for a lesson: the submission is read once."""
    from autograder.grade import Grader

    graders = config.stash[GRADERS]
    if lesson not in graders:
        path = config.getoption("--submission") or default_submission(config, lesson)
        graders[lesson] = Grader(lesson, path, config.stash[WORKER], config.getoption("--seed"))
    return graders[lesson]


def default_submission(config, lesson) -> Path:
    """The learner's notebooks: beside the place where pytest was called, or in the repository."""
    here = config.invocation_params.dir / SUBMISSIONS / lesson
    return here if here.exists() else Path(__file__).parent.parent / SUBMISSIONS / lesson


WORKER = pytest.StashKey()
GRADERS = pytest.StashKey()
VERDICTS = pytest.StashKey()


def pytest_sessionstart(session):
    session.config.stash[GRADERS] = {}
    session.config.stash[VERDICTS] = {}


def pytest_report_teststatus(report, config):
    if WORKER in config.stash and report.when == "call":
        return ("passed", "✔", "PASSED") if report.passed else ("failed", "✘", "FAILED")
    return None


def reports_of(config):
    """The verdicts of this session by lesson."""
    from autograder.grade import LessonReport

    return [LessonReport(lesson, verdicts) for lesson, verdicts in config.stash[VERDICTS].items()]


def pytest_sessionfinish(session):
    path = session.config.getoption("--report-json")
    if path and session.config.stash.get(VERDICTS, None):
        from autograder.report import write_json

        write_json(reports_of(session.config), path)


def pytest_terminal_summary(terminalreporter, config):
    from autograder.report import COLORS, closing_line, example_lines, headline

    reports = reports_of(config) if config.stash.get(VERDICTS, None) else []
    for report in reports:
        terminalreporter.write_line("")
        terminalreporter.write_line(report.lesson, bold=True)
        for verdict in report.exercises:
            terminalreporter.write_line(headline(verdict), **{COLORS[verdict.status]: True})
            for line in example_lines(verdict):
                terminalreporter.write_line(line)
    if reports:
        terminalreporter.write_line("")
        terminalreporter.write_line(closing_line(reports), bold=True)
