"""A course directory as the course's grader sees it: what was collected, what was released, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from autograder.classroom.prepare import Prepared, prepare
from autograder.classroom.verdicts import Graded, VerdictStore, course_secret, grade_prepared, key_of
from autograder.runner import Worker

if TYPE_CHECKING:
    from nbgrader.coursedir import CourseDirectory

    from autograder.classroom.nbgrader_parts import CourseGrader

NOTHING: Iterator[str] = iter(())
WORK = ".grading"  # in the course directory: verdicts, prepared notebooks, what is in the gradebook


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
        self.submitted = Path(coursedir.format_path(coursedir.submitted_directory, ".", ".")).resolve()
        self.store = VerdictStore(self.work / "verdicts")

    def submissions(self, lesson: str, student: str = "*") -> dict[str, Path]:
        """Student → the folder that was collected.

        Args:
            lesson: such as lesson_04.
            student: a pattern.
        """
        found = sorted(self.submitted.glob(f"{student}/{lesson}"))
        return {path.parent.name: path for path in found if path.parent.is_dir()}

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

    def prepare(self, lesson: str, student: str) -> tuple[Prepared, str]:
        """A submission that can be read, and the key of its verdict."""
        prepared = prepare(self.submitted / student / lesson, self.released(lesson))
        return prepared, key_of(prepared, lesson, self.secret, self.settings.conditions())

    def grade(self, lesson: str, student: str, worker: Worker, coming: Iterator[str] = NOTHING) -> Graded:
        """The verdict on a submission, made now if there is none.

        Args:
            lesson: such as lesson_04.
            student: whose.
            worker: runs the code.
            coming: yields whenever another process has made a verdict; as long as it does, this one may be among them.
        """
        prepared, key = self.prepare(lesson, student)
        graded = self.store.load(key)
        while graded is None and next(coming, None) is not None:
            graded = self.store.load(key)
        if graded is None:
            graded = grade_prepared(prepared, lesson, key, worker, self.secret)
            self.store.save(graded)
        return graded

    def filled(self, lesson: str, student: str) -> Path:
        """Notes which verdict of a student is in the gradebook."""
        return self.work / "filled" / lesson / f"{student}.json"
