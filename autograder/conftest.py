"""`pytest autograder/lesson_04`: every exercise is a test that grades the learner's function."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SUBMISSIONS = "lessons"
SLOW = "hypothesispytest"  # loads all of Hypothesis for its summary, which takes a second
WORKER = pytest.StashKey()
SUBMITTED = pytest.StashKey()
GRADERS = pytest.StashKey()
VERDICTS = pytest.StashKey()
TROUBLE = pytest.StashKey()


def pytest_addoption(parser):
    group = parser.getgroup("grading")
    group.addoption(
        "--submission", type=Path, help="notebook, .py file or folder to grade (default: lessons/lesson_NN)"
    )
    group.addoption("--report-json", type=Path, metavar="PATH", help="write the verdicts to this file")
    group.addoption("--seed", type=int, default=0, help="draws other inputs (default: 0)")


def pytest_configure(config):
    config.stash.setdefault(TROUBLE, [])
    for key in (SUBMITTED, GRADERS, VERDICTS):
        config.stash[key] = {}
    asked = [is_ours(argument, config) for argument in config.args]
    if getattr(config.option, "collectonly", False) or not any(asked):
        return
    if any(anything_written(config, lesson) for lesson in lessons_in(config.args)):
        worker_of(config).start()  # it loads torch while this process does
    if all(asked):
        config.option.tbstyle = "no"  # the report says it shorter
        config.option.reportchars = ""
        if config.pluginmanager.hasplugin(SLOW):
            config.pluginmanager.unregister(name=SLOW)


def is_ours(argument: str, config) -> bool:
    """Whether an argument asks for exercises, rather than for somebody's tests."""
    here, place = Path(__file__).parent, str(argument).split("::")[0]
    if config.option.pyargs and place.split(".")[0] == here.name:
        return True
    path = (config.invocation_params.dir / place).resolve()
    return path == here or here in path.parents


def lessons_in(arguments) -> list[str]:
    """The lessons that are named, all if none is."""
    from autograder.exercise import LESSONS

    named = [lesson for lesson in LESSONS if any(lesson in str(argument) for argument in arguments)]
    return named or list(LESSONS)


def anything_written(config, lesson) -> bool:
    """Whether code will have to run, as far as can be seen without loading the exercises, which load torch."""
    from autograder.submission import SubmissionError

    source = (Path(__file__).parent / lesson / "exercises.py").read_text(encoding="utf-8")
    names = re.findall(r"Exercise\(\s*(\w+),", source)
    try:
        submission = submission_of(config, lesson)
    except SubmissionError:
        return False
    defined = [submission.definitions(name) for name in names]
    return any(statements and not statements[-1].is_stub for statements in defined)


def submission_of(config, lesson):
    """The submission, which is read once.

    Raises:
        SubmissionError: it cannot be read.
    """
    from autograder.submission import read_submission

    if lesson not in config.stash[SUBMITTED]:
        path = config.getoption("--submission", None) or default_submission(config, lesson)
        config.stash[SUBMITTED][lesson] = read_submission(path, lesson)
    return config.stash[SUBMITTED][lesson]


def worker_of(config):
    """The process that runs the code."""
    from autograder.runner import Worker

    if WORKER not in config.stash:
        config.stash[WORKER] = Worker()
    return config.stash[WORKER]


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
    """The exercise is not passed; the message says why."""


class Graded(pytest.Item):
    """One exercise; its outcome is the verdict."""

    def __init__(self, *, lesson, exercise, **kwargs):
        super().__init__(**kwargs)
        self.lesson, self.exercise = lesson, exercise

    def runtest(self):
        verdict = grader_of(self.config, self.lesson).grade(self.exercise)
        self.config.stash[VERDICTS].setdefault(self.lesson, []).append(verdict)
        if verdict.status != "passed":
            raise Wrong(verdict.message)

    def repr_failure(self, excinfo, style=None):
        if isinstance(excinfo.value, Wrong):
            return str(excinfo.value)
        return super().repr_failure(excinfo, "short")

    def reportinfo(self):
        return self.path, None, f"{self.lesson}::{self.name}"


def grader_of(config, lesson):
    """One grader for a lesson: the submission is read once."""
    from autograder.grade import Grader
    from autograder.submission import Submission, SubmissionError

    graders = config.stash[GRADERS]
    if lesson not in graders:
        seed, given = config.getoption("--seed", 0), config.getoption("--submission", None)
        try:
            graders[lesson] = Grader(lesson, submission_of(config, lesson), worker_of(config), seed)
        except SubmissionError as error:
            graders[lesson] = Grader(lesson, Submission([]), worker_of(config), seed)
            hint = "" if given else "; say where yours is with --submission PATH"
            graders[lesson].problem = f"{error}{hint}"
    return graders[lesson]


def default_submission(config, lesson) -> Path:
    """The learner's notebooks: where pytest was called, or in the repository."""
    here = config.invocation_params.dir
    places = [here / SUBMISSIONS / lesson, Path(__file__).parent.parent / SUBMISSIONS / lesson, here / lesson]
    places += [here] if any(here.glob("*.ipynb")) else []
    return next((place for place in places if place.exists()), places[0])


def pytest_report_teststatus(report, config):
    if WORKER in config.stash and report.when == "call":
        return ("passed", "✔", "PASSED") if report.passed else ("failed", "✘", "FAILED")
    return None


def reports_of(config):
    """The verdicts of this session by lesson."""
    from autograder.grade import LessonReport

    return [LessonReport(lesson, verdicts) for lesson, verdicts in config.stash[VERDICTS].items()]


def pytest_sessionfinish(session):
    path = session.config.getoption("--report-json", None)
    if path and session.config.stash[VERDICTS]:
        from autograder.report import write_json

        try:
            write_json(reports_of(session.config), path)
        except OSError as error:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
            session.config.stash[TROUBLE].append(f"the report could not be written: {error}")


def pytest_terminal_summary(terminalreporter, config):
    if not config.stash[VERDICTS]:
        return
    from autograder.children import not_in_force
    from autograder.report import closing_line, lines_of

    reports = reports_of(config)
    for report in reports:
        terminalreporter.write_line("")
        for line, style in lines_of(report):
            terminalreporter.write_line(line, **style)
    missing = not_in_force(worker_of(config).fork)
    if missing:
        terminalreporter.write_line("")
        terminalreporter.write_line(f"not in force on this system: {'; '.join(missing)}")
    for trouble in config.stash[TROUBLE]:
        terminalreporter.write_line(trouble, red=True)
    terminalreporter.write_line("")
    given = config.getoption("--submission", None)
    terminalreporter.write_line(closing_line(reports, f" --submission {given}" if given else ""), bold=True)
