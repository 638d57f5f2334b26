"""From whatever a student has handed in to one notebook that nbgrader can read."""

from __future__ import annotations

import functools
import html
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.utils import parse_utc

from autograder.classroom.cells import cells_from, give_ids, is_answer, marked, marks, new_cell
from autograder.classroom.repair import Repaired, repair
from autograder.classroom.work import some
from autograder.files import SubmissionError, files_of, raw_cells, text_of
from autograder.submission import is_notebook

MAX_FILES = 1000
MAX_LINES = 10_000
NAME = 60  # letters of a file's name that are shown
STAMP = "timestamp.txt"  # nbgrader writes it
PACKED = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
NOTE = "note-of-the-grader"


@dataclass
class Prepared:
    """A submission that nbgrader can read.

    Attributes:
        name: the released notebook's file name.
        notebook: the student's notebook with its marks, or the released one where nothing could be read.
        others: further files of the student; what they define counts where the notebook does not define it.
        repairs: what was brought back, in sentences.
        problem: why nothing could be read, if so.
    """

    name: str
    notebook: NotebookNode
    others: list[Path] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)
    problem: str | None = None

    @functools.cached_property
    def text(self) -> str:
        """The notebook as a file, with a note of what happened on top."""
        notes = [f"**Ungraded: {plain(self.problem)}.**"] if self.problem else []
        if self.repairs:
            notes.append("**Repaired before grading:**\n\n" + "\n".join(f"- {plain(one)}" for one in self.repairs))
        notebook = nbformat.from_dict(self.notebook)
        if notes:
            notebook.cells.append(new_cell("markdown", "\n\n".join(notes), cell_id=NOTE))
            give_ids(notebook.cells)
            notebook.cells.insert(0, notebook.cells.pop())
        return nbformat.v4.writes(notebook)  # cells from here are valid, and looking again takes half the time


def plain(text: str) -> str:
    """A sentence that Markdown and HTML leave as it is."""
    return re.sub(r"([\[*`$])", r"\\\1", html.escape(text, quote=False))


def prepare(folder: Path, released: Path) -> Prepared:
    """Read a submission's folder; every way in which that can fail ends in a notebook that says so.

    Args:
        folder: what was collected from a student.
        released: the notebook that students were given.
    """
    skeleton = read_released(released, released.stat().st_mtime_ns)
    try:
        files, said = files_in(folder)
        read, scripts, unread = read_all(files, skeleton)
        if not read and (unread or not scripts):
            raise SubmissionError("; ".join(unread[:2]))
    except (SubmissionError, OSError) as error:
        return Prepared(released.name, skeleton, problem=without_paths(error, folder))
    said = [without_paths(one, folder) for one in said + unread]
    if os.path.lexists(folder / STAMP) and not holds_time(folder / STAMP):
        said.append(f"{STAMP} holds no time: when was this handed in?")
    if not read:
        return from_scripts(scripts, released.name, skeleton, said)
    main = main_notebook(read, released.name)
    repaired, more = read[main], {path: one for path, one in read.items() if path != main}
    if any(one.found for one in read.values()):
        said += about_files(main, list(more), released.name, folder)
        said += repaired.said + take_answers(repaired, more, skeleton)
    else:
        said.append(f"nothing of {released.name} was found in {shown(main)}: is it the notebook of another lesson?")
    return Prepared(released.name, repaired.notebook, [*scripts, *more], said)


@functools.lru_cache(maxsize=16)
def read_released(path: Path, changed: int) -> NotebookNode:
    """The notebook that students were given, as it was when it changed; it is the same for all of them."""
    return nbformat.read(path, as_version=4)


def read_all(files: list[Path], skeleton: NotebookNode) -> tuple[dict[Path, Repaired], dict[Path, str], list[str]]:
    """The notebooks that can be read, repaired; the texts of Python files; and why others cannot be read."""
    read, scripts, unread = {}, {}, []
    for path in files:
        try:
            text = text_of(path)
            if path.suffix.lower() == ".py":
                refuse_endless_code(path, text)
                scripts[path] = text
                continue
            cells = cells_from(raw_cells(path, text))
            if not cells:
                raise SubmissionError(f"{path.name} is a notebook without cells; save it again from Jupyter")
            refuse_endless_code(path, "\n".join(cell.source for cell in cells if cell.cell_type == "code"))
            read[path] = repair(cells, skeleton)
        except (SubmissionError, OSError) as error:
            unread.append(str(error))
    return read, scripts, unread


def refuse_endless_code(path: Path, source: str) -> None:
    """More code than anybody writes would keep the grader busy with reading.

    Raises:
        SubmissionError: there is more of it.
    """
    if sum(1 for line in source.splitlines() if line.strip()) > MAX_LINES:
        raise SubmissionError(f"{path.name} holds more than {MAX_LINES:,} lines of code")


def files_in(folder: Path) -> tuple[list[Path], list[str]]:
    """Notebooks and Python files below a folder, and what is to be said of the others.

    Raises:
        SubmissionError: there is nothing to read.
    """
    if folder.is_symlink():
        raise SubmissionError("what was handed in is a link; hand in the file itself")
    files, said, reason = [], [], None
    try:
        found = files_of(folder)
        files, said = found.files, found.refused
    except SubmissionError as error:
        reason = error
    if any(path.suffix.lower() == ".ipynb" for path in files):
        return files, said
    there = all_files(folder)
    renamed = [path for path in there if path not in files and holds_notebook(path)]
    if renamed or files:
        return files + renamed, said
    if there and "holds no notebook" in str(reason):
        packed = "; an archive is not unpacked" if any(path.suffix.lower() in PACKED for path in there) else ""
        names = ", ".join(shown(path) for path in there[:3])
        raise SubmissionError(f"no notebook was handed in, but {names}{packed}; hand in the notebook itself")
    raise SubmissionError("no notebook was handed in" if "holds no notebook" in str(reason) else str(reason))


def all_files(folder: Path) -> list[Path]:
    """Ordinary files below a folder, hidden ones and nbgrader's own left out."""
    found, pending = [], [folder]
    while pending and len(found) < MAX_FILES:
        for entry in sorted(os.scandir(pending.pop()), key=lambda entry: entry.name):
            mode = entry.stat(follow_symlinks=False).st_mode
            if entry.name.startswith(".") or entry.name == STAMP:
                continue
            if stat.S_ISDIR(mode):
                pending.append(Path(entry.path))
            elif stat.S_ISREG(mode):
                found.append(Path(entry.path))
    return found


def holds_notebook(path: Path) -> bool:
    """A notebook under a name that does not say so."""
    try:
        return is_notebook(text_of(path))
    except SubmissionError:
        return False


def holds_time(path: Path) -> bool:
    """Whether a file says when something was handed in; nbgrader stumbles over one that does not."""
    try:
        return not path.is_symlink() and parse_utc(text_of(path).strip()) is not None
    except (SubmissionError, ValueError, OverflowError):
        return False


def shown(path: Path) -> str:
    """A file's name, fit to be shown."""
    return printable(path.name if len(path.name) <= NAME else f"{path.name[:NAME]}…")


def printable(text: str) -> str:
    """A text without what no screen can show."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def without_paths(reason: Exception | str, folder: Path) -> str:
    """A reason without the teacher's paths."""
    text = str(reason.strerror or reason) if isinstance(reason, OSError) else str(reason)
    return printable(text.replace(f"{folder}/", "").replace(str(folder), "the folder"))


def main_notebook(read: dict[Path, Repaired], name: str) -> Path:
    """The notebook in which most is written; among equals the one with the released name, then the newest."""
    return max(read, key=lambda path: (len(read[path].written), path.name == name, path.stat().st_mtime, str(path)))


def about_files(main: Path, more: list[Path], name: str, folder: Path) -> list[str]:
    """What is to be said of names and folders."""
    said = []
    if main.name != name:
        said.append(f"the notebook is called {name} again; it was {shown(main)}")
    if main.parent != folder:
        said.append(f"the notebook was found in the folder {printable(str(main.parent.relative_to(folder)))}")
    if more:
        names = some([shown(path) for path in more])
        said.append(f"there were several notebooks: {shown(main)} counts, and what it lacks was looked for in {names}")
    return said


def take_answers(repaired: Repaired, others: dict[Path, Repaired], skeleton: NotebookNode) -> list[str]:
    """Answers that another notebook of the student's has, and this one has not."""
    said = []
    for name in [marks(cell)["grade_id"] for cell in marked(skeleton) if is_answer(cell)]:
        for path, other in others.items():
            if name in other.written and name not in repaired.written:
                theirs, mine = cell_of(name, other.notebook), cell_of(name, repaired.notebook)
                mine.update({key: theirs[key] for key in ("source", "attachments") if key in theirs})
                repaired.written.add(name)
                said.append(f"the answer to {name} comes from {shown(path)}")
    return said


def cell_of(name: str, notebook: NotebookNode) -> NotebookNode:
    """The cell with a mark."""
    return next(cell for cell in notebook.cells if marks(cell).get("grade_id") == name)


def from_scripts(scripts: dict[Path, str], name: str, skeleton: NotebookNode, said: list[str]) -> Prepared:
    """A submission of Python files: they are graded, and shown at the end of the released notebook."""
    notebook = nbformat.from_dict(skeleton)
    notebook.cells += cells_from({"cell_type": "raw", "source": text} for text in scripts.values())
    give_ids(notebook.cells)
    names = some([shown(path) for path in scripts])
    return Prepared(name, notebook, list(scripts), [*said, f"no notebook was handed in, but Python files: {names}"])
