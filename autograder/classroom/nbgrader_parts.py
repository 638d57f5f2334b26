"""The course's grader in nbgrader: every autograde, from the command line or the formgrader, goes through here."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
from pathlib import Path

import nbgrader.apps.api
import nbgrader.apps.autogradeapp
from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.converters import Autograde
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import AssignLatePenalties, CheckCellMetadata, NbGraderPreprocessor, SaveAutoGrades
from nbgrader.utils import is_grade, is_solution, rmtree
from traitlets import Bool, Float, Unicode

from autograder.classroom.prepare import Prepared, prepare
from autograder.classroom.verdicts import Graded, VerdictStore, course_secret, grade_prepared, key_of
from autograder.grade import Verdict
from autograder.report import as_html, headline
from autograder.runner import SECONDS, Worker

WORK = ".grading"  # in the course directory: verdicts, prepared notebooks, what is in the gradebook
NOTES = ("timestamp.txt", "submission_secret.txt")  # what nbgrader puts beside a submission
CHECK = "check-"  # a check cell's grade_id is this and the exercise's name


class Course:
    """Where a course keeps its things, and how it grades.

    Args:
        coursedir: nbgrader's course directory.
        settings: values of `CourseGrader`'s traits.
    """

    def __init__(self, coursedir: CourseDirectory, settings: CourseGrader):
        self.coursedir, self.settings = coursedir, settings
        self.root = Path(coursedir.root)
        self.work = Path(settings.work_folder) if settings.work_folder else self.root / WORK
        self.secret = course_secret(Path(settings.secret_file) if settings.secret_file else None)
        self.store = VerdictStore(self.work / "verdicts")

    def submissions(self, lesson: str, student: str = "*") -> dict[str, Path]:
        """Student → the folder that was collected."""
        base = Path(self.coursedir.format_path(self.coursedir.submitted_directory, ".", ".")).resolve()
        return {path.parent.name: path for path in sorted(base.glob(f"{student}/{lesson}")) if path.parent.is_dir()}

    def released(self, lesson: str) -> Path:
        """The notebook that students were given.

        Raises:
            FileNotFoundError: there is none yet.
        """
        folder = Path(self.coursedir.format_path(self.coursedir.release_directory, ".", lesson))
        found = sorted(folder.glob("*.ipynb"))
        if not found:
            raise FileNotFoundError(f"{folder} holds no notebook; make it with: nbgrader generate_assignment {lesson}")
        return found[0]

    def prepare(self, lesson: str, folder: Path) -> tuple[Prepared, str]:
        """A submission that can be read, and the key of its verdict."""
        prepared = prepare(folder, self.released(lesson))
        return prepared, key_of(prepared, lesson, self.secret, self.settings.conditions())

    def grade(self, lesson: str, folder: Path, worker: Worker) -> Graded:
        """The verdict on a submission, made now if there is none."""
        prepared, key = self.prepare(lesson, folder)
        graded = self.store.load(key)
        if graded is None:
            graded = grade_prepared(prepared, lesson, key, worker, self.secret)
            self.store.save(graded)
        return graded

    def filled(self, lesson: str, student: str) -> Path:
        """Notes which verdict of a student is in the gradebook."""
        return self.work / "filled" / lesson / f"{student}.json"


class CourseGrader(NbGraderPreprocessor):
    """Takes the place of nbgrader's Execute: runs no notebook, but grades its functions and shows the verdicts."""

    seconds = Float(SECONDS, help="How long one exercise may take.").tag(config=True)
    strict = Bool(False, help="Refuse to grade where the machine lacks a protection.").tag(config=True)
    secret_file = Unicode("", help="File with the course's secret (default: in your home folder).").tag(config=True)
    work_folder = Unicode("", help=f"Where verdicts are kept (default: {WORK} in the course directory).").tag(
        config=True
    )

    _worker: Worker | None = None

    def conditions(self) -> str:
        """What of the settings a verdict depends on."""
        return f"{self.seconds:g} s"

    def new_worker(self) -> Worker:
        """A worker whose process is shut in."""
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
        course = Course(CourseDirectory(parent=self.parent), self)
        graded = course.grade(
            where["assignment"], course.submissions(where["assignment"])[where["student"]], self.worker
        )
        for place, cell in enumerate(nb.cells, start=1):
            name = cell.metadata.get("nbgrader", {}).get("grade_id", "").removeprefix(CHECK)
            verdict = graded.verdict(name)
            if verdict and cell.cell_type == "code" and is_grade(cell) and not is_solution(cell):
                cell.execution_count = place
                cell.outputs = [output_of(verdict, float(cell.metadata.nbgrader.points), place)]
        return nb, resources


def output_of(verdict: Verdict, most: float, count: int) -> NotebookNode:
    """A verdict as a cell's output: nbgrader reads the points from its plain text, people read the rest."""
    share = verdict.points / verdict.max_points if verdict.max_points else 0.0
    data = {"text/plain": str(share * most), "text/html": as_html(verdict)}
    return new_output("execute_result", data, execution_count=count, metadata={"verdict": headline(verdict)})


class CourseAutograde(Autograde):
    """nbgrader's autograde on prepared submissions; what has not changed since is left as it is."""

    @functools.cached_property
    def course(self) -> Course:
        """The course at hand."""
        return Course(self.coursedir, CourseGrader(parent=self))

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
            prepared, self.keys[student] = course.prepare(lesson, folder)
            target = Path(self._format_source(lesson, student))
            target.mkdir(parents=True, exist_ok=True)
            (target / prepared.name).write_text(prepared.text(), encoding="utf-8")
            for note in (folder / name for name in NOTES):
                if note.is_file() and not note.is_symlink():
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
    config.Autograde.autograde_preprocessors = [CourseGrader, SaveAutoGrades, AssignLatePenalties, CheckCellMetadata]
    config.GenerateFeedback.post_convert_hook = feedback_for_renamed
    nbgrader.apps.autogradeapp.Autograde = nbgrader.apps.api.Autograde = CourseAutograde
    # nbgrader calls alembic by its bare name when it makes a gradebook
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
