"""The committed notebooks are what the build makes of the texts; the released ones hold no trace of a solution."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the build is no part of the package

from autograder.exercise import bank  # noqa: E402
from course.build import exercises_of, lessons, reference, release, solved_notebook  # noqa: E402
from course.functions import BEGIN, END, function_node, solution_cell  # noqa: E402

LESSONS = lessons()
GRADED = {name for lesson in LESSONS for name in exercises_of(lesson)}
STUB = "    # YOUR CODE HERE\n    raise NotImplementedError()"
EVERYDAY = {"@torch.no_grad()", "optimizer.zero_grad()", "optimizer.step()"}  # any training loop has these lines
every_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.id)


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook, which must be valid."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def solved(lesson):
    """The committed solved notebook."""
    return read(lesson.notebook(ROOT / "solutions"))


def released(lesson):
    """The committed notebook with stubs."""
    return read(lesson.notebook(ROOT / "lessons"))


def marks(cell) -> dict:
    """nbgrader's metadata of a cell."""
    return cell.metadata.get("nbgrader", {})


def structure(notebook) -> dict:
    """All of a notebook but what running it adds."""
    kept = ("id", "cell_type", "metadata", "source")
    cells = [{key: cell[key] for key in kept} for cell in notebook.cells]
    return {"cells": cells, "metadata": notebook.metadata, "format": (notebook.nbformat, notebook.nbformat_minor)}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """A folder with `solutions`, not executed, and `lessons`, both built just now."""
    folder = tmp_path_factory.mktemp("fresh")
    for lesson in LESSONS:
        path = lesson.notebook(folder / "solutions")
        path.parent.mkdir(parents=True)
        nbformat.write(solved_notebook(lesson), path)
    release(folder / "solutions", folder / "lessons", [lesson.id for lesson in LESSONS])
    return folder


def test_there_are_nine_lessons():
    assert [lesson.number for lesson in LESSONS] == [f"{n:02d}" for n in range(9)]


@every_lesson
def test_the_committed_notebooks_are_what_the_build_makes(lesson, fresh):
    again = "the committed notebook is stale: run `make lessons`"
    assert structure(solved(lesson)) == structure(read(lesson.notebook(fresh / "solutions"))), again
    assert released(lesson) == read(lesson.notebook(fresh / "lessons")), again


@every_lesson
def test_nothing_else_stands_beside_the_notebooks(lesson):
    for kind in ("solutions", "lessons"):
        assert [path.name for path in (ROOT / kind / lesson.id).iterdir() if path.name[0] != "."] == [
            f"{lesson.name}.ipynb"
        ]


@every_lesson
def test_the_solved_notebook_has_run_from_top_to_bottom(lesson):
    code = [cell for cell in solved(lesson).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for cell in code for o in cell.outputs), "no picture"
    for exercise in bank(lesson.id).EXERCISES:
        cell = next(cell for cell in code if marks(cell).get("grade_id") == f"check-{exercise.name}")
        shown = "".join(o.get("data", {}).get("text/plain", "") for o in cell.outputs)
        assert shown == f"✔ {exercise.name} {exercise.points:g}/{exercise.points:g}"
    assert lesson.notebook(ROOT / "solutions").stat().st_size < 1.5 * 2**20


@every_lesson
def test_an_exercise_is_a_stub_followed_by_its_check(lesson):
    cells = released(lesson).cells
    exercises = bank(lesson.id).EXERCISES
    assert [marks(c)["grade_id"] for c in cells if marks(c).get("solution") and c.cell_type == "code"] == [
        exercise.name for exercise in exercises
    ]
    for exercise in exercises:
        place = next(i for i, cell in enumerate(cells) if marks(cell).get("grade_id") == exercise.name)
        stub, check = cells[place], cells[place + 1]
        above, rest = stub.source.split("\n    # YOUR CODE HERE")
        node = function_node(exercise.reference)
        assert f"\n    # YOUR CODE HERE{rest}" == f"\n{STUB}"
        assert solution_cell(exercise.reference, GRADED).startswith(above) and node.body[0].value.value in above
        assert check.source == f"check({exercise.name})"
        assert marks(check)["grade"] and marks(check)["locked"] and marks(check)["points"] == exercise.points


def lines_of_solutions() -> dict[str, str]:
    """Every line of a reference's body with its exercise, but for signatures (of helpers too) and docstrings."""
    cells = {name: solution_cell(reference(name), GRADED) for name in GRADED}
    shown = {line.strip() for cell in cells.values() for line in cell.split(BEGIN)[0].splitlines()}
    hidden = {line.strip(): name for name, cell in cells.items() for line in cell.split(BEGIN)[1].splitlines()}
    shown |= {line for line in hidden if line.startswith(") ->")}
    return {line: name for line, name in hidden.items() if len(line) >= 15 and line not in {*shown, *EVERYDAY, END}}


@every_lesson
def test_no_released_notebook_holds_a_line_of_a_solution(lesson):
    notebook = released(lesson)
    text = "\n".join(cell.source for cell in notebook.cells)
    hidden = lines_of_solutions()
    assert len(hidden) > 100 and not {line: name for line, name in hidden.items() if line in text}
    assert "SOLUTION" not in text
    assert not [c for c in notebook.cells if c.get("outputs") or c.get("execution_count")]


@every_lesson
def test_written_questions_are_for_a_person_to_mark(lesson):
    written = [cell for cell in solved(lesson).cells if cell.cell_type == "markdown" and marks(cell)]
    blank = [cell for cell in released(lesson).cells if cell.cell_type == "markdown" and marks(cell)]
    assert 1 <= len(written) <= 3 and len(blank) == len(written)
    text = "\n".join(cell.source for cell in released(lesson).cells)
    for answer, cell in zip(written, blank, strict=True):
        assert cell.source == "YOUR ANSWER HERE"
        assert marks(cell)["grade"] and marks(cell)["solution"] and marks(cell)["points"] >= 1
        sentences = [s for s in re.split(r"(?<=[.:;])\s", answer.source) if len(s) > 30]
        assert sentences and not [s for s in sentences if s in text]


@every_lesson
def test_what_needs_a_network_is_off(lesson):
    source = "\n".join(cell.source for cell in released(lesson).cells if cell.cell_type == "code")
    assert re.search(r"^BIGGER_MODEL = None\b", source, re.MULTILINE)
    assert "pip install" in released(lesson).cells[1].source


def grade(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    """`pytest autograder/…` as a learner calls it."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_fresh_clone_has_nothing_written(tmp_path):
    result = grade(*(f"autograder/{lesson.id}" for lesson in LESSONS), f"--report-json={tmp_path / 'report.json'}")
    assert result.returncode == 1 and "Traceback" not in result.stdout + result.stderr
    reports = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [report["lesson"] for report in reports] == [lesson.id for lesson in LESSONS]
    verdicts = [verdict for report in reports for verdict in report["exercises"]]
    assert {(v["status"], v["points"], v["message"]) for v in verdicts} == {("missing", 0.0, "not written yet")}


def test_the_solutions_earn_all_points(tmp_path):
    result = grade("autograder", "--submission=solutions", f"--report-json={tmp_path / 'report.json'}")
    assert result.returncode == 0, result.stdout
    reports = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert len(reports) == 9 and all(report["points"] == report["max_points"] > 0 for report in reports)


def test_one_lesson_as_the_readme_calls_it():
    missing = grade("autograder/lesson_04")
    assert missing.returncode == 1 and missing.stdout.count("not written yet") == 5 and "0 of" in missing.stdout
    right = grade("autograder/lesson_04", "--submission", "solutions/lesson_04")
    assert right.returncode == 0 and right.stdout.count("✔") >= 5 and "✘" not in right.stdout
