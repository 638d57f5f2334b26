"""The course's grader in nbgrader: every autograde, from the command line or the formgrader, goes through here."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nbgrader.api
import nbgrader.apps.api
import nbgrader.apps.autogradeapp
from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.converters import Autograde
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import (
    AssignLatePenalties,
    ClearOutput,
    NbGraderPreprocessor,
    OverwriteCells,
    OverwriteKernelspec,
    SaveAutoGrades,
)
from nbgrader.utils import is_grade, is_solution, rmtree
from sqlalchemy import create_engine
from sqlalchemy.exc import SAWarning
from traitlets import Bool, Float, Unicode, default

from autograder.classroom.prepare import STAMP, holds_time

if TYPE_CHECKING:  # the grader needs torch, which most of nbgrader's commands can do without
    from autograder.classroom.course import Course
    from autograder.grade import Verdict
    from autograder.runner import Worker

CHECK = "check-"  # a check cell's grade_id is this and the exercise's name
NOTES = (STAMP, "submission_secret.txt")  # what nbgrader puts beside a submission


class CourseGrader(NbGraderPreprocessor):
    """Takes the place of nbgrader's Execute: runs no notebook, but grades its functions and shows the verdicts."""

    seconds = Float(help="How long one exercise may take.").tag(config=True)
    strict = Bool(False, help="Refuse to grade where the machine lacks a protection.").tag(config=True)
    secret_file = Unicode("", help="File with the course's secret (default: in your home folder).").tag(config=True)
    work_folder = Unicode("", help="Where verdicts are kept (default: .grading in the course).").tag(config=True)

    coming: Iterator[str] = iter(())  # waits for verdicts that other processes are making
    _worker: Worker | None = None

    @default("seconds")
    def _seconds_default(self) -> float:
        from autograder.runner import SECONDS

        return SECONDS

    def conditions(self) -> str:
        """What of the settings a verdict depends on."""
        return f"{self.seconds:g} s"

    def new_worker(self) -> Worker:
        """A worker whose process is shut in."""
        from autograder.runner import Worker

        return Worker(self.seconds, sandbox=True, strict=self.strict)

    @property
    def worker(self) -> Worker:
        """One worker for all notebooks of this process."""
        if CourseGrader._worker is None:
            CourseGrader._worker = self.new_worker()
        return CourseGrader._worker

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """Fill the check cells of a submitted notebook with verdicts."""
        where = resources["nbgrader"]
        course = course_of(CourseDirectory(parent=self.parent), self)
        graded = course.grade(where["assignment"], where["student"], self.worker, CourseGrader.coming)
        for place, cell in enumerate(nb.cells, start=1):
            name = cell.metadata.get("nbgrader", {}).get("grade_id", "").removeprefix(CHECK)
            verdict = graded.verdict(name)
            if verdict and cell.cell_type == "code" and is_grade(cell) and not is_solution(cell):
                cell.execution_count = place
                cell.outputs = [output_of(verdict, float(cell.metadata.nbgrader.points), place)]
        return nb, resources


def course_of(coursedir: CourseDirectory, settings: CourseGrader) -> Course:
    """The course in a directory."""
    from autograder.classroom.course import Course

    return Course(coursedir, settings)


def output_of(verdict: Verdict, most: float, count: int) -> NotebookNode:
    """A verdict as a cell's output: nbgrader reads the points from its plain text, people read the rest."""
    from autograder.report import as_html, headline

    share = verdict.points / verdict.max_points if verdict.max_points else 0.0
    data = {"text/plain": str(share * most), "text/html": as_html(verdict)}
    return new_output("execute_result", data, execution_count=count, metadata={"verdict": headline(verdict)})


class CourseAutograde(Autograde):
    """nbgrader's autograde on prepared submissions; what has not changed since is left as it is."""

    @functools.cached_property
    def course(self) -> Course:
        """The course at hand."""
        return course_of(self.coursedir, CourseGrader(parent=self))

    @property
    def _input_directory(self) -> str:
        if self._sanitizing:
            return os.path.relpath(self.course.work / "prepared", self.coursedir.root)
        return self.coursedir.autograded_directory

    def init_notebooks(self) -> None:
        """Prepare every submission that is asked for, then let nbgrader look for notebooks."""
        course, lesson = self.course, self.coursedir.assignment_id
        self.keys = {}
        for student, folder in course.submissions(lesson, self.coursedir.student_id).items():
            prepared, self.keys[student] = course.prepare(lesson, student)
            target = Path(self._format_source(lesson, student))
            target.mkdir(parents=True, exist_ok=True)
            (target / prepared.name).write_text(prepared.text, encoding="utf-8")
            for note in (folder / name for name in NOTES):
                (target / note.name).unlink(missing_ok=True)
                if note.is_file() and not note.is_symlink() and (note.name != STAMP or holds_time(note)):
                    (target / note.name).write_bytes(note.read_bytes()[:1000])
        super().init_notebooks()

    def init_destination(self, assignment_id: str, student_id: str) -> bool:
        """Whether to grade a submission: unless the gradebook has just this verdict."""
        self.student = student_id
        done, dest = self.course.filled(assignment_id, student_id), Path(self._format_dest(assignment_id, student_id))
        if not self.force and dest.exists() and read_key(done) == self.keys.get(student_id):
            self.log.info("Nothing has changed: %s", student_id)
            return False
        done.unlink(missing_ok=True)
        if dest.exists():
            rmtree(str(dest))
        return super().init_destination(assignment_id, student_id)

    def set_permissions(self, assignment_id: str, student_id: str) -> None:
        """The last step for a submission: note that its verdict is in the gradebook."""
        super().set_permissions(assignment_id, student_id)
        done = self.course.filled(assignment_id, student_id)
        done.parent.mkdir(parents=True, exist_ok=True)
        done.write_text(json.dumps({"key": self.keys[student_id]}) + "\n", encoding="utf-8")


def read_key(path: Path) -> str | None:
    """The key in a note; None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def feedback_for_renamed(assignment: str, student: str, notebooks: list[str]) -> None:
    """Feedback under the name that a student's notebook has, too: `nbgrader fetch_feedback` asks for that."""
    for notebook in map(Path, notebooks):
        root = notebook.parents[3]
        page = root / "feedback" / notebook.parts[-3] / assignment / f"{notebook.stem}.html"
        for other in (root / "submitted" / notebook.parts[-3] / assignment).glob("*.ipynb"):
            if page.exists() and other.stem != notebook.stem:
                shutil.copyfile(page, page.with_name(f"{other.stem}.html"))


def install(config) -> None:
    """Put the course's grader into nbgrader: called by nbgrader_config.py.

    nbgrader lets a course choose its preprocessors, but not the class that reads what was collected; both places that
    use that class are given ours.
    """
    # what is prepared has whole marks and no id twice: nbgrader need not look at every cell again, before and after
    config.Autograde.sanitize_preprocessors = [ClearOutput, OverwriteKernelspec, OverwriteCells]
    config.Autograde.autograde_preprocessors = [CourseGrader, SaveAutoGrades, AssignLatePenalties]
    config.GenerateFeedback.post_convert_hook = feedback_for_renamed
    config.HTMLExporter.filters = {"markdown2html": "autograder.classroom.pages.markdown"}
    nbgrader.apps.autogradeapp.Autograde = nbgrader.apps.api.Autograde = CourseAutograde
    # nbgrader makes an engine for each of its nine looks into the gradebook at a submission; one that is kept knows its
    # statements already
    nbgrader.api.create_engine = functools.cache(create_engine)
    # nbgrader adds rows in an order that SQLAlchemy finds worth three warnings, and a teacher does not
    warnings.filterwarnings("ignore", category=SAWarning, module=r"nbgrader\.")
    # nbgrader calls alembic by its bare name when it makes a gradebook
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
