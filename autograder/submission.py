"""Read a submission: which functions it defines, and what of its code each of them needs. Nothing is run here.

Notebooks of any format, Python files and folders are read as text. Functions are found by name among the code cells; what
they need (imports, helpers, constants) is followed by name through the code.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from autograder.statements import Statement, read_statements

MAX_BYTES = 20 * 2**20
PYTHON_MAGICS = re.compile(r"\s*%%(time|timeit|capture|prun)\b[^\n]*\n")
PERCENT = re.compile(r"^# ?%%.*$", re.MULTILINE)
BLOCK = re.compile(r"^(?=(?:async def|def|class|@|import|from|[A-Za-z_]\w* *=)[ \w(.])", re.MULTILINE)


class SubmissionError(ValueError):
    """The submission cannot be read; the message says why."""


@dataclass
class Cell:
    """One code cell: where it stands, its statements, and its syntax error if it has one."""

    name: str
    file: Path
    source: str
    statements: list[Statement]
    error: str | None = None


@dataclass
class Submission:
    """All code of a submission, in order."""

    cells: list[Cell]

    @property
    def statements(self) -> list[Statement]:
        """All top-level statements, in order."""
        return [statement for cell in self.cells for statement in cell.statements]

    def definitions(self, name: str) -> list[Statement]:
        """The statements that give a name its meaning."""
        return [s for s in self.statements if name in s.binds]

    def broken_cell_with(self, name: str) -> Cell | None:
        """A cell that does not parse and seems to define the name."""
        pattern = re.compile(rf"^\s*(?:(?:async\s+)?def\s+{name}\b|{name}\s*=)", re.MULTILINE)
        return next((c for c in self.cells if c.error and pattern.search(c.source)), None)

    def needed_for(self, name: str, without: frozenset[str] = frozenset()) -> list[Statement]:
        """The statements that a name needs, in their order; those of the names in `without` are left out."""
        imported = {n for s in self.statements if s.is_import for n in s.binds}
        wanted, chosen = {name}, set()
        grown = True
        while grown:
            grown = False
            for i, statement in enumerate(self.statements):
                if i in chosen or statement.asks_somebody or statement.binds & without:
                    continue
                if statement.binds & wanted or "*" in statement.binds or statement.alters & wanted - imported:
                    chosen.add(i)
                    wanted |= statement.needs
                    grown = True
        return [s for i, s in enumerate(self.statements) if i in chosen]

    def names_needed_for(self, name: str) -> set[str]:
        """All names that the statements of a name read."""
        return {n for s in self.needed_for(name) for n in s.needs}


def read_submission(path: Path, lesson: str | None = None) -> Submission:
    """Read a notebook, a Python file, or a folder of them (or of lessons).

    Raises:
        SubmissionError: nothing is there, or it cannot be read.
    """
    path = Path(path)
    if lesson and (path / lesson).is_dir():
        path = path / lesson
    return read_files(files_of(path))


def read_files(files: list[Path]) -> Submission:
    """Read notebooks or Python files, in this order; where several define a name, the last one counts.

    Raises:
        SubmissionError: one of them cannot be read.
    """
    cells = [cell for file in files for cell in cells_of(file, several=len(files) > 1)]
    for cell in cells:
        try:
            cell.statements = read_statements(cell.name, cell.source)
        except SyntaxError as error:
            cell.error = f"{error.msg} ({cell.name}, line {error.lineno})"
    if len(files) > 1:
        drop_stubs_written_elsewhere(cells)
    return Submission(cells)


def files_of(path: Path) -> list[Path]:
    """The notebooks (or Python files) of a path."""
    if path.is_symlink():
        raise SubmissionError(f"{path} is a link; hand in the file itself")
    if path.is_file():
        return [path]
    if not path.is_dir():
        exists = "is neither a file nor a folder" if path.exists() else "does not exist"
        raise SubmissionError(f"{path} {exists}")
    inside = [p for p in sorted(path.rglob("*")) if not any(x.startswith(".") for x in p.relative_to(path).parts)]
    for suffix in (".ipynb", ".py"):
        files = [p for p in inside if p.suffix == suffix]
        for file in files:
            if file.is_symlink() or not file.is_file():
                raise SubmissionError(f"{file} is a link or a special file; hand in the file itself")
        if files:
            return files
    raise SubmissionError(f"{path} holds no notebook and no Python file")


def cells_of(path: Path, several: bool) -> list[Cell]:
    """The code cells of a file."""
    if path.stat().st_size > MAX_BYTES:
        raise SubmissionError(f"{path.name} is larger than {MAX_BYTES // 2**20} MB")
    text = path.read_bytes().decode("utf-8-sig", "replace").replace("\0", "")
    if path.suffix == ".py":
        return script_cells(path, text)
    cells = []
    for number, source in enumerate(code_of_notebook(path, text), start=1):
        name = f"{path.name} cell {number}" if several else f"cell {number}"
        cells.append(Cell(name, path, without_magics(source), []))
    return cells


def raw_cells(path: Path, text: str) -> list[dict]:
    """A notebook's cells as they are in the file; formats before 4 keep them in worksheets.

    Read by hand: nbformat refuses notebooks whose metadata an editor has stripped or mangled.

    Raises:
        SubmissionError: it is no notebook.
    """
    try:
        notebook = json.loads(text)
        if not isinstance(notebook, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        what = "it is empty" if not text.strip() else "it is not valid JSON"
        raise SubmissionError(f"{path.name} is not a notebook: {what}; save it again from Jupyter") from error
    found = []
    for sheet in notebook.get("worksheets") or [notebook]:
        cells = sheet.get("cells") if isinstance(sheet, dict) else None
        found += [cell for cell in cells if isinstance(cell, dict)] if isinstance(cells, list) else []
    return found


def source_of(cell: dict) -> str:
    """A cell's text: a string, or a list of lines."""
    source = cell.get("source", cell.get("input", ""))
    return "".join(map(str, source)) if isinstance(source, list) else str(source)


def code_of_notebook(path: Path, text: str) -> list[str]:
    """The sources of a notebook's code cells."""
    return [source_of(cell) for cell in raw_cells(path, text) if cell.get("cell_type") == "code"]


def without_magics(source: str) -> str:
    """A cell as plain Python with the same line numbers: IPython's magics become calls that are never made."""
    timed = PYTHON_MAGICS.match(source)
    if timed:
        return "\n" * timed.group().count("\n") + source[timed.end() :]
    if source.lstrip().startswith("%%"):
        return ""
    try:
        compile(source, "cell", "exec", 0x400)  # 0x400: only parse
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        lines = source.splitlines()
        if any(re.match(r"\s*[%!?]|.*=\s*[%!]|.*\?\s*$", line) for line in lines):
            from IPython.core.inputtransformer2 import TransformerManager  # slow to import, seldom needed

            changed = TransformerManager().transform_cell(source)
            return changed if changed.count("\n") <= source.count("\n") + 1 else source
    return source


def script_cells(path: Path, text: str) -> list[Cell]:
    """A Python file as one cell; one that does not parse is cut so that an error costs only what stands around it."""
    try:
        compile(text, path.name, "exec", 0x400)
        return [Cell(path.name, path, text, [])]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        starts = [m.start() for m in (PERCENT if PERCENT.search(text) else BLOCK).finditer(text)]
        starts = sorted({0, *(decorated(text, start) for start in starts)})
        pieces = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
        lines_before = [text[:a].count("\n") for a in starts]
        return [Cell(path.name, path, "\n" * n + p, []) for n, p in zip(lines_before, pieces, strict=True)]


def decorated(text: str, start: int) -> int:
    """The start of a block's decorators, if it has any."""
    before = text[:start].splitlines(keepends=True)
    while before and before[-1].startswith("@"):
        start -= len(before.pop())
    return start


def drop_stubs_written_elsewhere(cells: list[Cell]) -> None:
    """Among several notebooks, a stub does not hide the function that another of them has written."""
    written = {(cell.file, n) for cell in cells for s in cell.statements for n in s.binds if not s.is_stub}
    for cell in cells:
        cell.statements = [
            s
            for s in cell.statements
            if not (s.is_stub and any(n in s.binds and file != cell.file for file, n in written))
        ]
