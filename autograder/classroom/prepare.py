"""From whatever a student has handed in to one notebook that nbgrader can read."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_raw_cell

from autograder.classroom.repair import is_written, repair
from autograder.submission import MAX_BYTES, SubmissionError, raw_cells, source_of

MAX_FILES = 1000
CELL_ID = re.compile(r"^[a-zA-Z0-9\-_]{1,64}$")
NEW_CELL = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}


@dataclass
class Prepared:
    """A submission that nbgrader can read.

    Attributes:
        name: the released notebook's file name.
        notebook: the student's notebook with its marks, or the released one where nothing could be read.
        others: further notebooks of the student; what they define counts where the notebook does not define it.
        repairs: what was brought back, in sentences.
        problem: why nothing could be read, if so.
    """

    name: str
    notebook: NotebookNode
    others: list[Path] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)
    problem: str | None = None

    def text(self) -> str:
        """The notebook as a file, with a note of what happened on top."""
        notes = [f"**Ungraded: {self.problem}.**"] if self.problem else []
        if self.repairs:
            notes.append("**Repaired before grading:**\n\n" + "\n".join(f"- {one}" for one in self.repairs))
        notebook = nbformat.from_dict(self.notebook)
        if notes:
            notebook.cells.insert(0, new_markdown_cell("\n\n".join(notes), id="note-of-the-grader"))
        return nbformat.writes(notebook)


def prepare(folder: Path, released: Path) -> Prepared:
    """Read a submission's folder; every way in which that can fail ends in a notebook that says so.

    Args:
        folder: what was collected from a student.
        released: the notebook that students were given.
    """
    skeleton = nbformat.read(released, as_version=4)
    try:
        notebooks = notebooks_in(folder)
        read, broken = {}, []
        for path in notebooks:
            try:
                read[path] = cells_of(path)
            except SubmissionError as error:
                broken.append(str(error))
        if not read:
            raise SubmissionError(broken[0])
    except (SubmissionError, OSError) as error:
        return Prepared(released.name, skeleton, problem=said(error, folder))
    main = main_notebook(read, skeleton, released.name)
    repairs = list(broken)
    if main.name != released.name:
        repairs.append(f"the notebook is called {released.name} again; it was {main.name}")
    if len(read) > 1:
        others = ", ".join(path.name for path in read if path != main)
        repairs.append(f"{main.name} was graded first of several notebooks; what it lacks was looked for in {others}")
    notebook, mended = repair(read[main], skeleton)
    return Prepared(released.name, notebook, [path for path in read if path != main], repairs + mended)


def said(error: Exception, folder: Path) -> str:
    """A reason without the teacher's paths."""
    text = str(error.strerror or error) if isinstance(error, OSError) else str(error)
    return text.replace(f"{folder}/", "").replace(str(folder), "the folder")


def notebooks_in(folder: Path) -> list[Path]:
    """The notebooks below a folder, no links followed, hidden folders and checkpoints left out.

    Raises:
        SubmissionError: there is none, or something that is neither a file nor a folder.
    """
    if folder.is_symlink():
        raise SubmissionError("what was handed in is a link; hand in the file itself")
    found, seen, pending = [], 0, [folder]
    while pending:
        for path in sorted(pending.pop().iterdir()):
            seen += 1
            if seen > MAX_FILES:
                raise SubmissionError(f"more than {MAX_FILES} files were handed in")
            mode = path.lstat().st_mode
            if path.name.startswith("."):
                continue
            if stat.S_ISDIR(mode):
                pending.append(path)
            elif path.suffix == ".ipynb":
                if not stat.S_ISREG(mode):
                    raise SubmissionError(f"{path.name} is a link or a special file; hand in the file itself")
                found.append(path)
    if not found:
        raise SubmissionError("no notebook was handed in")
    return found


def cells_of(path: Path) -> list[NotebookNode]:
    """All cells of a notebook of any format, as cells of the present one.

    Raises:
        SubmissionError: it cannot be read.
    """
    if path.stat().st_size > MAX_BYTES:
        raise SubmissionError(f"{path.name} is larger than {MAX_BYTES // 2**20} MB")
    text = path.read_bytes().decode("utf-8-sig", "replace").replace("\0", "")
    return unique([cell_from(raw) for raw in raw_cells(path, text)])


def cell_from(raw: dict) -> NotebookNode:
    """A cell without its outputs; what is not understood is left out."""
    kind, source = raw.get("cell_type"), source_of(raw)
    if kind == "heading":  # formats before 4
        level = raw.get("level")
        kind, source = "markdown", "#" * (level if isinstance(level, int) and 0 < level < 7 else 1) + " " + source
    kind = kind if kind in NEW_CELL else "code" if "outputs" in raw else "raw"
    metadata = raw.get("metadata") if isinstance(raw.get("metadata"), dict) else {}
    marks = metadata.get("nbgrader")
    cell = NEW_CELL[kind](source, metadata={"nbgrader": marks} if isinstance(marks, dict) else {})
    if isinstance(raw.get("id"), str) and CELL_ID.match(raw["id"]):
        cell["id"] = raw["id"]
    return cell


def unique(cells: list[NotebookNode]) -> list[NotebookNode]:
    """The same cells; an id that has been there before is replaced."""
    seen = set()
    for cell in cells:
        if cell["id"] in seen:
            cell["id"] = new_raw_cell()["id"]
        seen.add(cell["id"])
    return cells


def main_notebook(read: dict[Path, list[NotebookNode]], skeleton: NotebookNode, name: str) -> Path:
    """The notebook in which most is written; among equals the one with the released name, then the newest."""

    def rank(path: Path) -> tuple:
        return is_written(read[path], skeleton), path.name == name, path.stat().st_mtime, path.name

    return max(read, key=rank)
