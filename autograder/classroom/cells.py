"""Cells as nbformat has them now, from whatever stands in a notebook's file; and what is asked of them everywhere here."""

from __future__ import annotations

import ast
import copy
import functools
import re
import warnings
from collections.abc import Iterable

import nbformat
from nbformat import NotebookNode

from autograder.files import source_of
from autograder.magics import parses, without_magics
from autograder.statements import Statement, read_statements
from autograder.submission import seems_to_define

KINDS = ("code", "markdown", "raw")
CELL_ID = re.compile(r"[a-zA-Z0-9\-_]{1,64}")
SURROGATE = re.compile("[\ud800-\udfff]")
DOES_SOMETHING = (ast.Call, ast.Await, ast.Yield, ast.NamedExpr)


def new_cell(kind: str, source: str, marks: dict | None = None, cell_id: object = None) -> NotebookNode:
    """A cell without outputs; `give_ids` mends its id. nbformat's own functions check each cell, which takes long."""
    metadata = NotebookNode({"nbgrader": copy.deepcopy(marks)} if marks else {})
    cell = NotebookNode(cell_type=kind, id=cell_id, metadata=metadata, source=source)
    return NotebookNode(cell, execution_count=None, outputs=[]) if kind == "code" else cell


def cells_from(raw: Iterable[dict]) -> list[NotebookNode]:
    """Cells as they stand in the file, of any format, as cells of the present one. The same file gives the same cells."""
    cells = [cell_from(one) for one in raw]
    give_ids(cells)
    return cells


def cell_from(raw: dict) -> NotebookNode:
    """A cell without its outputs; of its metadata only nbgrader's marks are kept."""
    kind, source = raw.get("cell_type"), text_in(raw)
    if kind == "heading":  # formats before 4
        level = raw.get("level")
        kind, source = "markdown", "#" * (level if isinstance(level, int) and 0 < level < 7 else 1) + " " + source
    if kind not in KINDS:
        kind = "code" if "outputs" in raw or is_code(source) else "markdown"
    metadata = raw.get("metadata")
    found = marks_in(metadata.get("nbgrader") if isinstance(metadata, dict) else None)
    cell = new_cell(kind, source, found, raw.get("id"))
    attached = attachments_in(raw) if kind != "code" else {}
    if attached:
        cell["attachments"] = attached
    return cell


def text_in(raw: dict) -> str:
    """A cell's text, without what no file or Python program can hold."""
    return SURROGATE.sub("\ufffd", source_of(raw)).replace("\0", "")


def marks_in(found: object) -> dict:
    """nbgrader's marks, if that is what it is."""
    name = found.get("grade_id") if isinstance(found, dict) else None
    return found if isinstance(name, str) and name else {}


def attachments_in(raw: dict) -> dict:
    """Pictures that were pasted into a cell: name → kind → content."""
    found = raw.get("attachments")
    kept = {}
    for name, bundle in found.items() if isinstance(found, dict) else ():
        pictures = {
            kind: content
            for kind, content in (bundle.items() if isinstance(bundle, dict) else ())
            if kind.startswith("image/") and isinstance(content, str)
        }
        if pictures:
            kept[name] = pictures
    return kept


def give_ids(cells: list[NotebookNode]) -> None:
    """An id for each cell that has none, or one that has been there before: the same for the same cells."""
    known = {one for cell in cells if isinstance(one := cell.get("id"), str)}
    seen = set()
    for place, cell in enumerate(cells):
        one = cell.get("id")
        if not isinstance(one, str) or not CELL_ID.fullmatch(one) or one in seen:
            number = place
            while (one := f"cell-{number}") in known or one in seen:
                number += len(cells)
            cell["id"] = one
        seen.add(one)


def marks(cell: NotebookNode) -> dict:
    """nbgrader's marks of a cell, empty where it has none."""
    return marks_in(cell.metadata.get("nbgrader"))


def grade_id(cell: NotebookNode) -> str | None:
    """nbgrader's name of a cell."""
    return marks(cell).get("grade_id")


def marked(skeleton: NotebookNode) -> list[NotebookNode]:
    """The cells that nbgrader needs, in order."""
    return [cell for cell in skeleton.cells if grade_id(cell)]


def is_function(cell: NotebookNode) -> bool:
    """A cell of the released notebook in which a function is to be written."""
    return cell.cell_type == "code" and bool(marks(cell).get("solution"))


def is_answer(cell: NotebookNode) -> bool:
    """A cell of the released notebook for a written answer."""
    return cell.cell_type != "code" and bool(marks(cell).get("solution"))


def is_locked(cell: NotebookNode) -> bool:
    """A cell of the released notebook that students leave as it is."""
    return not marks(cell).get("solution")


@functools.lru_cache(maxsize=4096)
def words(text: str) -> str:
    """A text but for its white space."""
    return " ".join(text.split())


@functools.lru_cache(maxsize=1024)
def statements_of(source: str) -> list[Statement] | None:
    """The statements of a code cell; None if it does not compile."""
    try:
        return read_statements("cell", without_magics(source))
    except SyntaxError:
        return None


def definition(source: str, name: str, broken_too: bool = True) -> str | None:
    """How a cell defines a function: "written", "stub" or not at all.

    Args:
        source: the code.
        name: the function.
        broken_too: a cell that does not compile counts if it seems to define the name.
    """
    if name not in source:
        return None
    statements = statements_of(source)
    if statements is None:
        return "written" if broken_too and seems_to_define(source, name) else None
    found = [s for s in statements if s.may_define(name)]
    return None if not found else "stub" if found[-1].is_stub else "written"


def is_code(source: str) -> bool:
    """Whether a text is a program, and not a word or a number that happens to be Python."""
    if not parses(source):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = ast.parse(source).body
    nodes = [node for one in body for node in ast.walk(one)]
    return any(not isinstance(one, ast.Expr) for one in body) or any(isinstance(n, DOES_SOMETHING) for n in nodes)


def notebook_of(cells: list[NotebookNode], skeleton: NotebookNode) -> NotebookNode:
    """A notebook with these cells, in all else like the released one."""
    minor = max(5, skeleton.nbformat_minor)  # formats before have no ids of cells
    return nbformat.from_dict({**skeleton, "cells": cells, "nbformat_minor": minor})
