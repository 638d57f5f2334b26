"""The files of a submission, as text: notebooks of any format, Python files, folders of them. Links are not followed."""

from __future__ import annotations

import codecs
import io
import json
import os
import stat
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

MAX_BYTES = 100 * 2**20
MAX_FILES = 300
SUFFIXES = (".ipynb", ".py")
NOT_THEIRS = frozenset(["__pycache__", "node_modules", "site-packages", "venv", "env", "build", "dist"])
CAREFUL = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"))
MARKS += ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class SubmissionError(ValueError):
    """The submission cannot be read; the message says why."""


@dataclass
class Found:
    """What a path holds.

    Attributes:
        files: notebooks and Python files; those that count most come last.
        refused: why others are not read, in sentences.
    """

    files: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def files_of(path: Path) -> Found:
    """The notebooks and Python files of a path.

    Raises:
        SubmissionError: there is nothing to read.
    """
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError) as error:
        there = exists(path)
        raise SubmissionError(f"{path} cannot be looked at: {error}" if there else f"{path} does not exist") from error
    if stat.S_ISREG(mode):
        return Found([path])
    if not stat.S_ISDIR(mode):
        raise SubmissionError(refusal(path, mode))
    found = Found()
    walk(path, found)
    if found.files:
        found.files.sort(key=lambda p: (p.suffix.lower() == ".ipynb", p))
        return found
    raise SubmissionError("; ".join(found.refused[:2]) or f"{path} holds no notebook and no Python file")


def exists(path: Path) -> bool:
    """Whether something is there."""
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def refusal(path: Path, mode: int) -> str:
    """Why something is not read."""
    if stat.S_ISLNK(mode):
        return f"{path} is a link; hand in the file itself"
    return f"{path} is neither a file nor a folder; hand in a notebook"


def walk(folder: Path, found: Found) -> None:
    """Look through a folder and the folders in it, but for hidden ones and those of tools."""
    try:
        inside = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        found.refused.append(f"{folder} cannot be read: {error.strerror}")
        return
    for entry in inside:
        path, mode = Path(entry.path), entry.stat(follow_symlinks=False).st_mode
        if entry.name.startswith(".") or entry.name in NOT_THEIRS:
            continue
        if stat.S_ISDIR(mode):
            walk(path, found)
        elif stat.S_ISREG(mode):
            if path.suffix.lower() in SUFFIXES:
                found.files.append(path)
        elif path.suffix.lower() in SUFFIXES or stat.S_ISLNK(mode) and path.is_dir():
            found.refused.append(refusal(path, mode))
        if len(found.files) > MAX_FILES:
            raise SubmissionError(
                f"{folder} holds more than {MAX_FILES} notebooks and Python files; name the one to grade"
            )


def content_of(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        SubmissionError: it is too large, or not readable.
    """
    try:
        # a link or a pipe that took the file's place meanwhile is not opened
        with os.fdopen(os.open(path, os.O_RDONLY | CAREFUL), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise SubmissionError(refusal(path, info.st_mode))
            if info.st_size > MAX_BYTES:
                raise SubmissionError(
                    f"{path.name} is larger than {MAX_BYTES // 2**20} MB; clear its outputs and save it again"
                )
            return file.read()
    except OSError as error:
        raise SubmissionError(f"{path.name} cannot be read: {error.strerror}") from error


def decoded(content: bytes, python: bool = False) -> str:
    """Bytes as text, whatever editor wrote them."""
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), None)
    if encoding is None and python:
        try:
            encoding = tokenize.detect_encoding(io.BytesIO(content).readline)[0]
        except SyntaxError:
            encoding = None
    if encoding is None:
        # a few NUL bytes are dirt, many are two bytes for each character
        encoding = json.detect_encoding(content) if content.count(0) > len(content) / 4 else "utf-8"
    text = content.decode(encoding, "replace")
    return text.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n")


def text_of(path: Path) -> str:
    """A file's text.

    Raises:
        SubmissionError: it cannot be read.
    """
    return decoded(content_of(path), path.suffix.lower() == ".py")


def raw_cells(path: Path, text: str) -> list[dict]:
    """A notebook's cells as they are in the file; formats before 4 keep them in worksheets.

    Read by hand: nbformat refuses notebooks whose metadata an editor has stripped or mangled.

    Raises:
        SubmissionError: it is no notebook.
    """
    notebook = notebook_in(text)
    if notebook is None:
        raise SubmissionError(f"{path.name} is not a notebook: {what_is_wrong(text)}; save it again from Jupyter")
    sheets = notebook.get("worksheets")
    found = []
    for sheet in sheets if isinstance(sheets, list) and sheets else [notebook]:
        cells = sheet.get("cells") if isinstance(sheet, dict) else None
        found += [cell for cell in cells if isinstance(cell, dict)] if isinstance(cells, list) else []
    return found


def notebook_in(text: str) -> dict | None:
    """The JSON object in a text."""
    try:
        notebook = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return notebook if isinstance(notebook, dict) else None


def what_is_wrong(text: str) -> str:
    """Why a text is no notebook."""
    if not text.strip():
        return "it is empty"
    if "\n<<<<<<< " in text and "\n>>>>>>> " in text:
        return "it holds the marks of a merge conflict"
    try:
        json.loads(text, strict=False)
    except RecursionError:
        return "it is too deeply nested"
    except ValueError as error:
        line = getattr(error, "lineno", None)
        return "it is not valid JSON" + (f" (line {line})" if line else "")
    return "it holds no cells"


def source_of(cell: dict) -> str:
    """A cell's text: a string, or a list of lines."""
    source = cell.get("source", cell.get("input", ""))
    if not isinstance(source, list):
        return source if isinstance(source, str) else ""
    lines = [line for line in source if isinstance(line, str)]
    # some tools write the lines without their ends
    return ("" if any("\n" in line for line in lines) else "\n").join(lines)


def code_of_notebook(path: Path, text: str) -> list[str]:
    """The sources of a notebook's code cells.

    Raises:
        SubmissionError: it is no notebook, or has no code.
    """
    return [source_of(cell) for cell in raw_cells(path, text) if cell.get("cell_type") == "code"]
