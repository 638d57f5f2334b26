"""Read a submission: which functions it defines, and what of its code each of them needs. Nothing is run here.

Notebooks of any format, Python files and folders are read as text. Functions are found by name among the code cells; what
they need (imports, helpers, constants) is followed by name through the code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autograder.files import MAX_BYTES, SubmissionError, files_of, notebook_in, raw_cells, source_of, text_of
from autograder.magics import parses, without_magics, written_module
from autograder.selection import Selection
from autograder.statements import Statement, read_statements

__all__ = [
    "MAX_BYTES",
    "Cell",
    "Submission",
    "SubmissionError",
    "raw_cells",
    "read_files",
    "read_submission",
    "source_of",
]

MAX_MODULES = 50
MAX_CODE = 2**20  # characters of a submission; data belongs into files
CELL_STARTS = re.compile(r"^# ?(?:%%.*|In ?\[[\d ]*\]:.*)$", re.MULTILINE)
BLOCK = re.compile(r"^(?=(?:async def|def|class|@|import|from|[A-Za-z_]\w* *=)[ \w(.])", re.MULTILINE)


@dataclass(eq=False)
class Cell:
    """One code cell: where it stands, its statements, and its syntax error if it has one."""

    name: str
    file: Path
    source: str
    statements: list[Statement] = field(default_factory=list)
    error: str | None = None


@dataclass
class Submission:
    """All code of a submission, in order.

    Attributes:
        cells: the code cells.
        texts: name and text of the cells that are no code.
        modules: name → text of the Python files that lie beside the notebooks, which they may import.
        refused: why some files are not read, in sentences.
    """

    cells: list[Cell]
    texts: list[tuple[str, str]] = field(default_factory=list)
    modules: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    @property
    def statements(self) -> list[Statement]:
        """All top-level statements, in order."""
        return [statement for cell in self.cells for statement in cell.statements]

    def definitions(self, name: str) -> list[Statement]:
        """The statements that make a name something to call; the last of them counts."""
        return [s for s in self.statements if name in s.defines]

    def defining_cells(self, name: str) -> list[Cell]:
        """The cells of the definitions."""
        return [cell for cell in self.cells for s in cell.statements if name in s.defines]

    def broken_cell_with(self, name: str) -> Cell | None:
        """The last cell that does not parse and seems to define the name."""
        found = [cell for cell in self.cells if cell.error and seems_to_define(cell.source, name)]
        return found[-1] if found else None

    def needed_for(self, name: str, without: frozenset[str] = frozenset(), broad: bool = False) -> list[Statement]:
        """The statements that a name needs, in their order."""
        return self.selection(name, without, broad).statements

    def selection(self, name: str, without: frozenset[str] = frozenset(), broad: bool = False) -> Selection:
        """What a name needs; see `Selection`."""
        return Selection(self.files_last(name), name, without, broad)

    def files_last(self, name: str) -> list[list[Statement]]:
        """Statements file by file; the file whose definition of a name counts comes last."""
        by_file: dict[Path, list[Statement]] = {}
        for cell in self.cells:
            by_file.setdefault(cell.file, []).extend(cell.statements)
        home = self.defining_cells(name)[-1:]
        if not home:
            return [self.statements]
        by_file[home[0].file] = by_file.pop(home[0].file)
        return list(by_file.values())

    def names_needed_for(self, name: str) -> set[str]:
        """All names that the statements of a name read."""
        return {n for s in self.needed_for(name) for n in s.needs}


def seems_to_define(source: str, name: str) -> bool:
    """Whether a text that may be no Python defines or imports a name."""
    word = re.escape(name)
    ways = (
        rf"(?:async\s+)?def\s+{word}\b",
        rf"class\s+{word}\b",
        rf"{word}\s*=(?!=)",
        rf"(?:from|import)\b.*\b{word}\b",
    )
    return bool(re.search(rf"^[ \t]*(?:{'|'.join(ways)})", source, re.MULTILINE))


def read_submission(path: Path, lesson: str | None = None) -> Submission:
    """Read a notebook, a Python file, or a folder of them (or of lessons).

    Raises:
        SubmissionError: nothing is there, or it cannot be read.
    """
    path = Path(path)
    try:
        if lesson and (path / lesson).is_dir():
            path = path / lesson
        found = files_of(path)
    except OSError as error:
        raise SubmissionError(f"{str(path)[:80]} cannot be looked at: {error.strerror}") from error
    submission = read_files(found.files)
    submission.refused = found.refused + submission.refused
    return submission


def read_files(files: Sequence[Path]) -> Submission:
    """Read notebooks or Python files, in this order; where several define a name, the last one counts.

    Raises:
        SubmissionError: none of them can be read.
    """
    submission = Submission([])
    for path in files:
        try:
            read_file(Path(path), label_of(Path(path), files), submission)
        except SubmissionError as error:
            submission.refused.append(str(error))
    if len(submission.refused) == len(files):
        raise SubmissionError("; ".join(submission.refused[:2]))
    size = 0
    for cell in submission.cells:
        size += len(cell.source)
        if size > MAX_CODE:
            cell.error = f"there is more code before it than is read ({cell.name})"
            continue
        try:
            cell.statements = read_statements(cell.name, cell.source)
            if cell.file.suffix.lower() == ".py":
                cell.statements = [s for s in cell.statements if not s.is_script_only]
        except SyntaxError as error:
            cell.error = f"{error.msg} ({cell.name}, line {error.lineno})"
    for path in files:
        submission.modules.update(modules_beside(Path(path), submission))
    if len(files) > 1:
        drop_stubs_written_elsewhere(submission.cells)
    return submission


def label_of(path: Path, files: Sequence[Path]) -> str:
    """How a file is called in sentences: not at all if it is the only one."""
    if len(files) == 1:
        return ""
    namesakes = [p for p in files if Path(p).name == path.name]
    return path.name if len(namesakes) == 1 else f"{path.parent.name}/{path.name}"


def read_file(path: Path, label: str, submission: Submission) -> None:
    """Add a file's cells.

    Raises:
        SubmissionError: it cannot be read.
    """
    text = text_of(path)
    if path.suffix.lower() == ".ipynb" or is_notebook(text):
        read_notebook(path, text, label, submission)
    elif path.suffix.lower() == ".py" or parses(text) and text.strip():
        submission.cells += script_cells(path, label or path.name, text)
    else:
        raise SubmissionError(f"{path.name} is neither a notebook nor a Python file")


def is_notebook(text: str) -> bool:
    """A notebook under another name."""
    content = notebook_in(text) if text.lstrip()[:1] == "{" else None
    return content is not None and bool({"cells", "worksheets"} & set(content))


def read_notebook(path: Path, text: str, label: str, submission: Submission) -> None:
    """Add a notebook's cells.

    Raises:
        SubmissionError: it is no notebook, or has no cells.
    """
    cells = raw_cells(path, text)
    if not cells:
        raise SubmissionError(f"{path.name} is a notebook without cells; save it again from Jupyter")
    number, prefix = 0, f"{label} " if label else ""
    for cell in cells:
        source = source_of(cell)
        if not is_code(cell, source):
            submission.texts.append((f"a {cell.get('cell_type') or 'nameless'} cell", source))
            continue
        number += 1
        name = f"{prefix}cell {number}"
        written = written_module(source)
        if written:
            submission.modules[written[0]] = written[1]
        submission.cells.append(Cell(name, path, without_magics(source)))


def is_code(cell: dict, source: str) -> bool:
    """Whether a cell is a code cell; one whose type was lost is one if it looks like it."""
    kind = cell.get("cell_type")
    if isinstance(kind, str):
        return kind.lower() == "code"
    return bool({"outputs", "execution_count", "input"} & set(cell)) or parses(source)


def script_cells(path: Path, name: str, text: str) -> list[Cell]:
    """A Python file as one cell; one that does not parse is cut so that an error costs only what stands around it."""
    whole = Cell(name, path, without_magics(text))
    try:
        read_statements(name, whole.source)
    except SyntaxError:
        text = whole.source
        starts = [m.start() for m in (CELL_STARTS if CELL_STARTS.search(text) else BLOCK).finditer(text)]
        starts = sorted({0, *(decorated(text, start) for start in starts)})
        pieces = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
        lines_before = [text[:a].count("\n") for a in starts]
        return [Cell(name, path, "\n" * n + p) for n, p in zip(lines_before, pieces, strict=True)]
    return [whole]


def decorated(text: str, start: int) -> int:
    """The start of a block's decorators, if it has any."""
    before = text[:start].splitlines(keepends=True)
    while before and before[-1].startswith("@"):
        start -= len(before.pop())
    return start


def modules_beside(path: Path, submission: Submission) -> dict[str, str]:
    """The Python files in a file's folder that its code imports, and those that they import."""
    found: dict[str, str] = {}
    pending = [s for cell in submission.cells if cell.file == path for s in cell.statements]
    while pending and len(found) < MAX_MODULES:
        for name in imported_modules(pending.pop()):
            beside = path.parent / f"{name}.py"
            if name in found or name in submission.modules or not beside.is_file() or beside == path:
                continue
            try:
                found[name] = text_of(beside)
                pending += read_statements(name, found[name])
            except (SubmissionError, SyntaxError):
                continue
    return found


def imported_modules(statement: Statement) -> set[str]:
    """Names of modules that a statement imports."""
    names = set()
    for node in ast.walk(statement.node):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def drop_stubs_written_elsewhere(cells: list[Cell]) -> None:
    """Among several files, a stub does not hide the function that another of them has written."""
    written = {(cell.file, n) for cell in cells for s in cell.statements if not s.is_stub for n in s.defines}
    for cell in cells:
        cell.statements = [
            s
            for s in cell.statements
            if not (s.is_stub and any(n in s.binds and file != cell.file for file, n in written))
        ]
