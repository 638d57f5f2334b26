"""Build the notebooks: course/NN_name.md → solutions/lesson_NN/name.ipynb (solved, executed) → lessons/ (stubs, by nbgrader).

`make lessons` builds all of them, `python -m course.build 04` one. A text is a notebook in jupytext's Markdown; of its own are

    ### Exercise · gae · 20 minutes          a heading that gets its number and points
    ```python exercise="gae"                 the function's source in rlhf_core as the solution, then a cell check(gae)
    <!-- #region answer="why" points=2 -->   a written answer, marked by a person; it ends with <!-- #endregion -->
    ```python quick=["40 => 4"]              what a cell changes where tests run it with fewer steps
"""

from __future__ import annotations

import base64
import importlib
import logging
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path

import jupytext
import nbformat
import tyro
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from nbgrader.apps.generateassignmentapp import GenerateAssignmentApp

from course.functions import imports_for, solution_cell

COURSE = Path(__file__).parent
ROOT = COURSE.parent
MODULES = ("policy", "preferences", "reward", "advantages", "ppo", "rollout", "loop", "evaluation", "dpo", "grpo")
HEADING = re.compile(r"^### Exercise · (\w+) · (\d+) minutes$", re.MULTILINE)
FENCE = re.compile(r'^```python exercise="(\w+)"$', re.MULTILINE)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
EVERYWHERE = {
    "import torch",
    "import torch.nn.functional as F",
    "import matplotlib.pyplot as plt",
    "from jaxtyping import Bool",
    "from jaxtyping import Float",
    "from jaxtyping import Int",
    "from torch import Tensor",
    "from autograder import check",
}


@dataclass(frozen=True)
class Lesson:
    """A lesson's text: `number` is "03", `name` is "gae"."""

    number: str
    name: str

    @property
    def id(self) -> str:
        """nbgrader's name of the assignment."""
        return f"lesson_{self.number}"

    @property
    def text(self) -> str:
        """The source."""
        return (COURSE / f"{self.number}_{self.name}.md").read_text(encoding="utf-8")

    def notebook(self, folder: Path) -> Path:
        """Where its notebook stands in `solutions` or `lessons`."""
        return folder / self.id / f"{self.name}.ipynb"


def lessons() -> list[Lesson]:
    """All lessons, in order."""
    return [Lesson(*path.stem.split("_", 1)) for path in sorted(COURSE.glob("[0-9][0-9]_*.md"))]


def reference(name: str) -> Callable:
    """The reference implementation of an exercise, wherever in rlhf_core it lives."""
    for module in map(importlib.import_module, [f"rlhf_core.{m}" for m in MODULES]):
        found = getattr(module, name, None)
        if found is not None and found.__module__ == module.__name__:
            return found
    raise ValueError(f"rlhf_core has no function {name!r}")


def exercises_of(lesson: Lesson) -> list[str]:
    """Names of the functions to write, in order."""
    return FENCE.findall(lesson.text)


def repository() -> str:
    """The address that Colab installs from: it stands in pyproject.toml alone."""
    urls = dict(line.split(", ") for line in metadata("rlhf-from-scratch").get_all("Project-URL"))
    return f"rlhf-from-scratch @ git+{urls['Repository']}"


def setup_cell(lesson: Lesson) -> str:
    """The first code cell: install where needed, and import."""
    own = exercises_of(lesson)
    graded = {name for other in lessons() for name in exercises_of(other)}
    imports = imports_for([reference(name) for name in own], graded, set(own), EVERYWHERE)
    return "\n".join(
        [
            "# Sets everything up, in Colab, on a laptop and in JupyterHub alike.",
            "import importlib.util",
            "",
            'if importlib.util.find_spec("rlhf_core") is None:',
            f'    %pip install --quiet "{repository()}"',
            "",
            *imports,
        ]
    )


def solved_notebook(lesson: Lesson, draft: bool = False) -> NotebookNode:
    """The notebook with solutions, not yet executed."""
    points = points_of(lesson, draft)
    order = {name: f"{int(lesson.number)}.{i}" for i, name in enumerate(exercises_of(lesson), start=1)}
    graded = {name for other in lessons() for name in exercises_of(other)}

    def heading(match: re.Match) -> str:
        name, minutes = match.groups()
        worth = f"{points[name]:g} point{'' if points[name] == 1 else 's'}"
        return f"### Exercise {order[name]} · `{name}` · {worth} · about {minutes} minutes"

    notebook = jupytext.reads(HEADING.sub(heading, lesson.text), fmt="md")
    cells = []
    for cell in notebook.cells:
        cell.metadata, marks = NotebookNode(), cell.metadata
        if "quick" in marks:
            cell.metadata["quick"] = marks["quick"]
        if "exercise" in marks:
            name = marks["exercise"]
            cell.source = solution_cell(reference(name), graded)
            cell.metadata["nbgrader"] = nbgrader_marks(name, solution=True)
            cells.append(cell)
            if not draft:
                marks = nbgrader_marks(f"check-{name}", grade=True, locked=True, points=points[name])
                cells.append(new_code_cell(f"check({name})", metadata={"nbgrader": marks}))
            continue
        if "answer" in marks:
            cell.metadata["nbgrader"] = nbgrader_marks(
                marks["answer"], grade=True, solution=True, points=marks["points"]
            )
        cells.append(cell)
    cells.insert(1, new_code_cell(setup_cell(lesson)))
    for i, cell in enumerate(cells):
        cell["id"] = f"{lesson.number}-{i:03d}"
    notebook.cells = cells
    notebook.metadata = NotebookNode(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def points_of(lesson: Lesson, draft: bool) -> dict[str, float]:
    """Points of each exercise; they stand in the grader."""
    if draft:
        return dict.fromkeys(exercises_of(lesson), 0)
    bank = importlib.import_module(f"autograder.{lesson.id}.exercises")
    return {exercise.name: exercise.points for exercise in bank.EXERCISES}


def nbgrader_marks(grade_id: str, grade=False, solution=False, locked=False, points: float | None = None) -> dict:
    """nbgrader's metadata of a cell."""
    marks = {"grade": grade, "grade_id": grade_id, "locked": locked, "schema_version": 3, "solution": solution}
    return {**marks, "task": False, **({"points": points} if grade else {})}


def execute(notebook: NotebookNode, beside: list[Lesson], timeout: int = 600) -> NotebookNode:
    """Run a notebook in an empty folder, with the solved notebooks of other lessons in folders beside it."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            for lesson in beside:
                path = lesson.notebook(Path(folder))
                path.parent.mkdir()
                nbformat.write(solved_notebook(lesson, draft=True), path)
            here = Path(folder) / "here"
            here.mkdir()
            resources = {"metadata": {"path": here}}
            NotebookClient(
                notebook, timeout=timeout, resources=resources, record_timing=False, coalesce_streams=True
            ).execute()
    finally:
        notebook.metadata = NotebookNode(METADATA)  # the kernel adds its Python's version
    return notebook


def shrink(notebook: NotebookNode) -> NotebookNode:
    """The same experiments with fewer steps, for tests: a cell's `quick` lists what changes, each as "old => new".

    Raises:
        ValueError: a cell does not hold exactly one of what is to be changed.
    """
    for cell in notebook.cells:
        for change in cell.metadata.get("quick", []):
            old, new = change.split(" => ")
            if cell.source.count(old) != 1:
                raise ValueError(f"cell {cell.id} holds {cell.source.count(old)} of {old!r}")
            cell.source = cell.source.replace(old, new)
    return notebook


def keep_outputs(notebook: NotebookNode, path: Path) -> NotebookNode:
    """What the cells of the notebook at `path` showed, in place of a run.

    Raises:
        ValueError: the code has changed since then.
    """
    now, then = ([c for c in nb.cells if c.cell_type == "code"] for nb in (notebook, nbformat.read(path, as_version=4)))
    if [cell.source for cell in now] != [cell.source for cell in then]:
        raise ValueError(f"the code of {path} has changed, so it has to run again")
    for cell, run in zip(now, then, strict=True):
        cell.outputs, cell.execution_count = run.outputs, run.execution_count
    return notebook


def save_figures(notebook: NotebookNode, stem: Path) -> None:
    """Every picture of a notebook as a file, to look at."""
    images = [
        o["data"]["image/png"] for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})
    ]
    for k, image in enumerate(images):
        stem.with_name(f"{stem.name}_fig{k}.png").write_bytes(base64.b64decode(image))


def release(solutions: Path, output: Path, ids: list[str]) -> None:
    """Stubs from solved notebooks, by nbgrader's own `generate_assignment`."""
    folders = [f"--CourseDirectory.source_directory={solutions}", f"--CourseDirectory.release_directory={output}"]
    for one in ids:
        app = GenerateAssignmentApp(log_level=logging.ERROR)
        app.initialize([one, "--force", "--no-db", *folders])
        app.start()


def main(
    numbers: tyro.conf.Positional[tuple[str, ...]] = (), draft: bool = False, prose: bool = False, output: Path = ROOT
) -> None:
    """Build lessons.

    Args:
        numbers: which lessons, such as 04; none means all.
        draft: only the solved notebook, executed without checks, and its figures, all straight into the output folder.
        prose: only prose has changed since the last build; the code is not run again.
        output: where `solutions` and `lessons` are.
    """
    output = output.resolve()
    for lesson in lessons():
        if numbers and lesson.number not in numbers:
            continue
        print(f"lesson {lesson.number}: {lesson.name}", end="", flush=True)
        notebook, begin = solved_notebook(lesson, draft), time.monotonic()
        path = output / f"{lesson.number}.ipynb" if draft else lesson.notebook(output / "solutions")
        path.parent.mkdir(parents=True, exist_ok=True)
        if prose:
            nbformat.write(keep_outputs(notebook, path), path)
        else:
            try:
                execute(notebook, [other for other in lessons() if other.number < lesson.number])
            finally:
                nbformat.write(notebook, path)
        print(f", {time.monotonic() - begin:.0f} s, {path.stat().st_size / 2**20:.2f} MB", flush=True)
        if draft:
            save_figures(notebook, output / lesson.number)
        else:
            release(output / "solutions", output / "lessons", [lesson.id])


if __name__ == "__main__":
    tyro.cli(main)
