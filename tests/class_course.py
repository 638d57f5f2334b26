"""A course directory for tests: one lesson without its experiments, built and released with nbgrader's own commands."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course.build import Lesson, lessons, solved_notebook
from course.functions import BEGIN, END

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
LESSON = "lesson_04"


def environment(home: Path) -> dict[str, str]:
    """A user's environment: a home of their own, and nothing of the person's who runs the tests."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ}
    home.mkdir(parents=True, exist_ok=True)
    jupyter = {f"JUPYTER_{kind}_DIR": str(home / f".jupyter_{kind.lower()}") for kind in ("DATA", "RUNTIME", "CONFIG")}
    kept["PATH"] = f"{BIN}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, **jupyter, "HOME": str(home), "OMP_NUM_THREADS": "1"}


def run(
    command: str, folder: Path, home: Path, check: bool = True, timeout: float = 300
) -> subprocess.CompletedProcess:
    """A command of a user, in a folder."""
    words = command.split()
    done = subprocess.run(
        [str(BIN / words[0]), *words[1:]],
        cwd=folder,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def lesson_of(name: str = LESSON) -> Lesson:
    """A lesson's text."""
    return next(lesson for lesson in lessons() if lesson.id == name)


def without_experiments(notebook: NotebookNode) -> NotebookNode:
    """Only the text, the set-up cell and what is graded."""
    notebook = copy.deepcopy(notebook)
    setup = next(cell for cell in notebook.cells if cell.cell_type == "code")
    notebook.cells = [c for c in notebook.cells if c.cell_type == "markdown" or "nbgrader" in c.metadata or c is setup]
    return notebook


def make_course(folder: Path, more_config: str = "", lesson: str = LESSON) -> Path:
    """The course directory of a teacher, with one assignment generated."""
    text = lesson_of(lesson)
    source = text.notebook(folder / "solutions")
    source.parent.mkdir(parents=True)
    nbformat.write(without_experiments(solved_notebook(text)), source)
    shutil.copy(ROOT / "nbgrader_config.py", folder)
    with (folder / "nbgrader_config.py").open("a", encoding="utf-8") as file:
        file.write(more_config)
    run(f"nbgrader generate_assignment {lesson}", folder, folder.parent / "home_of_teacher")
    return folder


def released(folder: Path, lesson: str = LESSON) -> NotebookNode:
    """The notebook that students are given."""
    return nbformat.read(lesson_of(lesson).notebook(folder / "lessons"), as_version=4)


def solved(
    folder: Path, lesson: str = LESSON, answer: str = "The first one, because its gradient is cut."
) -> NotebookNode:
    """A student's notebook with everything right, and an answer to each question."""
    solution = nbformat.read(lesson_of(lesson).notebook(folder / "solutions"), as_version=4)
    right = {c.metadata.nbgrader.grade_id: c.source for c in solution.cells if "nbgrader" in c.metadata}
    notebook = released(folder, lesson)
    for cell in notebook.cells:
        marks = cell.metadata.get("nbgrader")
        if marks and marks.solution:
            lines = right[marks.grade_id].splitlines()
            code = "\n".join(line for line in lines if line.strip() not in (BEGIN, END))
            cell.source = code if cell.cell_type == "code" else answer
    return notebook


def cell_of(notebook: NotebookNode, grade_id: str) -> NotebookNode:
    """A marked cell."""
    return next(c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == grade_id)


def hand_in(course: Path, student: str, notebook: NotebookNode, lesson: str = LESSON, name: str | None = None) -> Path:
    """Put a notebook where `nbgrader collect` would."""
    folder = course / "submitted" / student / lesson
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "timestamp.txt").write_text("2026-01-05 12:00:00.000000 UTC")
    path = folder / (name or lesson_of(lesson).notebook(course).name)
    nbformat.write(notebook, path)
    return path


def marks(course: Path, lesson: str = LESSON) -> dict[str, dict[str, float | None]]:
    """Student → cell → the points in the gradebook; None where a mark is missing."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        return {
            one.student.id: {
                g.name: None if g.needs_manual_grade and g.manual_score is None else g.score
                for book in one.notebooks
                for g in book.grades
            }
            for one in gradebook.assignment_submissions(lesson)
        }
