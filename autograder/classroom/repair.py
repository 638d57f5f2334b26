"""Bring back the marks by which nbgrader knows its cells, whatever an editor has done to them.

The released notebook says which cells there must be. For each of them the student's cell is looked for by its mark, by its
cell id and by what stands in it. No cell of the student's is dropped, and no text of theirs is changed.
"""

from __future__ import annotations

import ast
import copy
import re

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_raw_cell

OUTER = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}


def marks(cell: NotebookNode) -> dict:
    """nbgrader's marks of a cell, empty where it has none."""
    found = cell.metadata.get("nbgrader")
    return found if isinstance(found, dict) else {}


def grade_id(cell: NotebookNode) -> str | None:
    """nbgrader's name of a cell."""
    name = marks(cell).get("grade_id")
    return name if isinstance(name, str) else None


def marked(skeleton: NotebookNode) -> list[NotebookNode]:
    """The cells that nbgrader needs, in order."""
    return [cell for cell in skeleton.cells if grade_id(cell)]


def is_function(cell: NotebookNode) -> bool:
    """A cell of the released notebook in which a function is to be written."""
    return cell.cell_type == "code" and bool(marks(cell).get("solution"))


def is_answer(cell: NotebookNode) -> bool:
    """A cell of the released notebook for a written answer."""
    return cell.cell_type == "markdown" and bool(marks(cell).get("solution"))


def defines(source: str, name: str) -> bool:
    """Whether code seems to define a name at its top level, parse or not."""
    return bool(re.search(rf"^(?:(?:async +)?def|class) +{name}\b|^{name} *=(?!=)", source, re.MULTILINE))


def parses(source: str) -> bool:
    """Whether a text is Python."""
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def same_text(one: NotebookNode, other: NotebookNode) -> bool:
    """Equal but for white space."""
    return one.source.split() == other.source.split()


def is_written(cells: list[NotebookNode], skeleton: NotebookNode) -> int:
    """How many of the released notebook's functions and answers have been written."""
    count = 0
    for wanted in marked(skeleton):
        found = find(wanted, cells, skeleton)
        count += (is_function(wanted) or is_answer(wanted)) and found is not None and not same_text(found, wanted)
    return count


def find(wanted: NotebookNode, cells: list[NotebookNode], skeleton: NotebookNode) -> NotebookNode | None:
    """The student's cell that stands for a cell of the released notebook; None if there is none."""
    name = grade_id(wanted)
    by_mark = [c for c in cells if grade_id(c) == name]
    by_id = [c for c in cells if c["id"] == wanted["id"] and not grade_id(c)]
    if is_function(wanted):
        return find_function(wanted, cells, by_mark + by_id)
    if is_answer(wanted):
        return find_answer(wanted, cells, by_mark or by_id, skeleton)
    by_text = [c for c in cells if not grade_id(c) and same_text(c, wanted)]
    right_type = [c for c in by_mark if c.cell_type == wanted.cell_type]
    return next(iter((right_type or by_mark or by_id or by_text)[-1:]), None)


def find_function(wanted: NotebookNode, cells: list[NotebookNode], known: list[NotebookNode]) -> NotebookNode | None:
    """The last cell that defines the function; among cells that are no code, one that was code once."""
    name = grade_id(wanted)
    code = [c for c in cells if c.cell_type == "code" and defines(c.source, name)]
    written = [c for c in code if not same_text(c, wanted)]
    retyped = [c for c in cells if c.cell_type != "code" and defines(c.source, name) and parses(c.source)]
    rest = [c for c in known if grade_id(c) == name or not grade_id(c)]
    for group in (written, [c for c in retyped if not same_text(c, wanted)], code, retyped, rest):
        if group:
            return group[-1]
    return None


def find_answer(
    wanted: NotebookNode, cells: list[NotebookNode], known: list[NotebookNode], skeleton: NotebookNode
) -> NotebookNode | None:
    """The cell with the written answer: by its mark or id, else the text that follows the question."""
    written = [c for c in known if not same_text(c, wanted)]
    if written or known:
        return (written or known)[-1]
    place = skeleton.cells.index(wanted)
    question = skeleton.cells[place - 1] if place else None
    released = [c.source.split() for c in skeleton.cells if c is not wanted]
    after = False
    for cell in cells:
        if question is not None and same_text(cell, question):
            after = True
        elif after and (cell.cell_type == "code" or cell.source.lstrip().startswith("#")):
            return None
        elif after and not grade_id(cell) and cell.source.split() not in released:
            return cell
    return None


def repair(cells: list[NotebookNode], skeleton: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """A notebook in which every cell that nbgrader needs is there once, and what was done for it, in sentences."""
    cells, said = list(cells), []
    chosen = {}
    for wanted in marked(skeleton):
        found = find(wanted, cells, skeleton)
        if found is not None and not any(found is other for other in chosen.values()):
            chosen[grade_id(wanted)] = found
    said += strip_other_marks(cells, skeleton, chosen)
    lost, missing = [], []
    for wanted in marked(skeleton):
        name = grade_id(wanted)
        if name not in chosen:
            chosen[name] = copy.deepcopy(wanted)
            cells.insert(place_for(wanted, cells, skeleton, chosen), chosen[name])
            missing.append(name)
            continue
        mended, note = restore(chosen[name], wanted)
        cells[next(i for i, cell in enumerate(cells) if cell is chosen[name])] = chosen[name] = mended
        if note == LOST:
            lost.append(name)
        elif note:
            said.append(f"the cell of {name} {note}")
    if missing:
        said.append(f"cells were missing, and stand there as they were released: {', '.join(missing)}")
    if lost:
        said.append(f"nbgrader's marks were missing or changed, and were brought back: {', '.join(lost)}")
    notebook = nbformat.from_dict({**skeleton, "cells": fresh_ids(cells)})
    return notebook, said


LOST = "lost its marks"


def strip_other_marks(cells: list[NotebookNode], skeleton: NotebookNode, chosen: dict[str, NotebookNode]) -> list[str]:
    """Take nbgrader's marks from all cells that have not been chosen."""
    said, known = [], {grade_id(cell) for cell in marked(skeleton)}
    for cell in cells:
        if not marks(cell) or any(cell is one for one in chosen.values()):
            continue
        name = grade_id(cell)
        if name in known:
            said.append(f"there was more than one cell of {name}; the others lost their mark")
        del cell.metadata["nbgrader"]
    return sorted(set(said))


def restore(cell: NotebookNode, wanted: NotebookNode) -> tuple[NotebookNode, str]:
    """A cell with the type, marks and, where it is locked, the text of the released one; and what that changed."""
    note = ""
    if not same_marks(marks(cell), marks(wanted)):
        note = LOST
    if cell.cell_type != wanted.cell_type:
        note = f"had become a {cell.cell_type} cell, and is a {wanted.cell_type} cell again"
        cell = OUTER[wanted.cell_type](cell.source, id=cell["id"])
    locked = marks(wanted).get("locked") and not marks(wanted).get("solution")
    if locked and cell.source != wanted.source:
        if not same_text(cell, wanted):
            note = "had been changed, and is as it was released again"
        cell.source = wanted.source
    cell.metadata = copy.deepcopy(wanted.metadata)
    return cell, note


def same_marks(one: dict, other: dict) -> bool:
    """Equal in all that nbgrader goes by."""
    keys = ("grade_id", "grade", "solution", "locked", "points")
    return all(one.get(key) == other.get(key) for key in keys)


def place_for(wanted: NotebookNode, cells: list, skeleton: NotebookNode, chosen: dict[str, NotebookNode]) -> int:
    """Where a missing cell belongs: behind the last cell before it in the released notebook that is there."""
    before = skeleton.cells[: skeleton.cells.index(wanted)]
    for earlier in reversed(before):
        stands_for = chosen.get(grade_id(earlier))
        for i, cell in enumerate(cells):
            if cell is stands_for or (stands_for is None and same_text(cell, earlier)):
                return i + 1
    return 0


def fresh_ids(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Cells with an id each."""
    seen = set()
    for cell in cells:
        while cell["id"] in seen:
            cell["id"] = new_raw_cell()["id"]
        seen.add(cell["id"])
    return cells
