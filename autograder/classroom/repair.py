"""Bring back the marks by which nbgrader knows its cells, whatever an editor has done to them.

The released notebook says which cells there must be. For each of them the student's cell is looked for: functions by their
name, check cells by what stands in them, answers by mark, by cell id and by the question before them. No text of a student's
is lost or changed: what stands in the way is kept in a cell of its own.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from nbformat import NotebookNode

from autograder.classroom.answers import find_answer
from autograder.classroom.cells import (
    definition,
    give_ids,
    grade_id,
    is_answer,
    is_function,
    is_locked,
    marks,
    new_cell,
    notebook_of,
    words,
)
from autograder.classroom.split import join_split_functions
from autograder.classroom.work import Work, place_for


@dataclass
class Repaired:
    """What came of a repair.

    Attributes:
        notebook: every cell that nbgrader needs is there once.
        written: names of functions and answers in which something is written.
        found: how many of the released cells the student's notebook has.
        said: what was done, in sentences.
    """

    notebook: NotebookNode
    written: set[str]
    found: int
    said: list[str]


def repair(cells: list[NotebookNode], skeleton: NotebookNode) -> Repaired:
    """A notebook in which every cell that nbgrader needs is there once.

    Args:
        cells: the student's, as `cells_from` gives them; they are left as they are.
        skeleton: the released notebook.
    """
    work = Work(skeleton, [copy_of(cell) for cell in cells])
    for name in join_split_functions(work.cells, [n for n, cell in work.known.items() if is_function(cell)]):
        work.note("split", name)
    set_edited_apart(work)
    choose_functions(work)
    choose_locked(work)
    choose_answers(work)
    take_other_marks(work)
    found = len(work.chosen)
    put_back(work)
    give_ids(work.cells)
    return Repaired(notebook_of(work.cells, skeleton), work.written, found, work.said())


def copy_of(cell: NotebookNode) -> NotebookNode:
    """A copy whose metadata may be changed; what is not nbgrader's is left out."""
    found = NotebookNode(cell)
    found.metadata = NotebookNode({"nbgrader": marks(cell)} if marks(cell) else {})
    return found


def set_edited_apart(work: Work) -> None:
    """A locked cell that was changed becomes the student's own; the released one will stand behind it."""
    for cell in work.cells:
        name, text = grade_id(cell), words(cell.source)
        wanted = work.known.get(name)
        if wanted is None or not is_locked(wanted) or text in ("", words(wanted.source)):
            continue
        del cell.metadata["nbgrader"]
        if text not in work.released:
            work.behind[name] = cell


def choose_functions(work: Work) -> None:
    """The last cell that defines a function has its mark. A cell that defines several has one of theirs."""
    functions = {name: cell for name, cell in work.known.items() if is_function(cell)}
    best = {name: last_definition(name, cell, work) for name, cell in functions.items()}
    for name, (cell, how) in best.items():
        if how == "written":
            work.written.add(name)
        sharing = [n for n, (other, _) in best.items() if other is cell]
        if cell is not None and name == (grade_id(cell) if grade_id(cell) in sharing else sharing[0]):
            work.choose(name, cell)
    for name, wanted in functions.items():
        cell, how = best[name]
        if name not in work.chosen:
            seat(name, wanted, cell is not None, work)
        if how == "written":
            set_stubs_aside(name, wanted, cell, work)


def last_definition(name: str, wanted: NotebookNode, work: Work) -> tuple[NotebookNode | None, str | None]:
    """The cell whose definition of a function counts, and whether it is written.

    Code counts before other cells, which may have been code once; what is written before a stub.
    """
    found: dict[tuple[str, bool], NotebookNode] = {}
    for cell in reversed(work.cells):
        how = definition(cell.source, name, broken_too=cell.cell_type == "code")
        if how is None:
            continue
        how = "released" if words(cell.source) == words(wanted.source) else how
        if how != "released" and cell.cell_type == "code":  # the student's own words, be it a stub
            return cell, how
        found.setdefault((how, cell.cell_type == "code"), cell)
    for kind in (("written", False), ("released", True), ("stub", False), ("released", False)):
        if kind in found:
            return found[kind], kind[0]
    return None, None


def seat(name: str, wanted: NotebookNode, shared: bool, work: Work) -> None:
    """Give a function's mark to a cell that does not define it, where none does, or one that has another's mark."""
    free = [c for c in work.cells if work.free(c) and is_no_other_function(name, c, work)]
    marked_so = [c for c in free if grade_id(c) == name]
    found = marked_so or [c for c in free if c["id"] == wanted.get("id") and not grade_id(c) and c.cell_type == "code"]
    if found:
        work.choose(name, found[-1])
        if shared and words(found[-1].source) == words(wanted.source):
            found[-1].source = in_another_cell(name)
            work.note("shared", name)
    elif shared:
        work.choose(name, stand_in(wanted, in_another_cell(name)))
        work.cells.insert(place_for(wanted, work), work.chosen[name])
        work.note("shared", name)


def is_no_other_function(name: str, cell: NotebookNode, work: Work) -> bool:
    """Whether a cell defines none of the other functions."""
    others = [n for n, wanted in work.known.items() if is_function(wanted) and n != name]
    return not any(definition(cell.source, other) for other in others)


def stand_in(wanted: NotebookNode, source: str) -> NotebookNode:
    """A released cell with another text."""
    cell = copy.deepcopy(wanted)
    cell.source = source
    return cell


def in_another_cell(name: str) -> str:
    """What stands in a function's cell if its code does not."""
    return f"# {name} is written in another cell."


def set_stubs_aside(name: str, wanted: NotebookNode, written: NotebookNode, work: Work) -> None:
    """A copy of the released stub does not hide the function that was written before it."""
    behind = False
    for cell in work.cells:
        behind |= cell is written
        if behind and cell.cell_type == "code" and words(cell.source) == words(wanted.source):
            cell.cell_type = "raw"
            cell.metadata = NotebookNode()
            del cell["outputs"], cell["execution_count"]
            work.note("stubs", name)


def choose_locked(work: Work) -> None:
    """A check cell is known by its text."""
    for name, wanted in work.known.items():
        if not is_locked(wanted):
            continue
        same = [c for c in work.cells if work.free(c) and words(c.source) == words(wanted.source)]
        found = [c for c in same if grade_id(c) == name] or [c for c in same if grade_id(c) is None] or same
        empty = [c for c in work.cells if work.free(c) and grade_id(c) == name and not c.source.strip()]
        if found or empty:
            work.choose(name, (found or empty)[-1])
        if name in work.behind:
            work.note("copies" if found else "locked", name)


def choose_answers(work: Work) -> None:
    """Answers; one in which nothing is written is as it was released."""
    for name, wanted in work.known.items():
        if not is_answer(wanted):
            continue
        found = find_answer(wanted, work)
        if found is None:
            continue
        work.choose(name, found)
        if words(found.source) in ("", words(wanted.source)):
            found.source = wanted.source
        else:
            work.written.add(name)


def take_other_marks(work: Work) -> None:
    """Take nbgrader's marks from all cells that have not been chosen."""
    for cell in work.cells:
        name = grade_id(cell)
        if name is None or not work.free(cell):
            continue
        del cell.metadata["nbgrader"]
        wanted = work.known.get(name)
        if wanted is None:
            work.note("foreign", name)
        elif name in work.chosen and grade_id(work.chosen[name]) != name:
            work.note("elsewhere", name)
        else:
            work.note("copies", name)


def put_back(work: Work) -> None:
    """Give the chosen cells type, marks and, where they are locked, the text of the released; add what is missing."""
    for name, wanted in work.known.items():
        cell = work.chosen.get(name)
        if cell is None:
            work.choose(name, missing_cell(name, wanted))
            work.cells.insert(place_for(wanted, work), work.chosen[name])
            if name not in work.behind:
                work.note("missing", name)
            continue
        if not same_marks(marks(cell), marks(wanted)) and name not in work.notes.get("elsewhere", []):
            work.note("marks", name)
        if cell.cell_type != wanted.cell_type:
            retype(cell, wanted.cell_type)
            work.note("type", name)
        if is_locked(wanted):
            cell.source = wanted.source
        cell.metadata = copy.deepcopy(wanted.metadata)


def missing_cell(name: str, wanted: NotebookNode) -> NotebookNode:
    """In place of a cell that is not there. A stub is not put back: it could hide what other code defines."""
    if is_function(wanted):
        return stand_in(wanted, f"# The cell of {name} was missing.")
    return copy.deepcopy(wanted)


def retype(cell: NotebookNode, kind: str) -> None:
    """Change a cell's type in place."""
    fresh = new_cell(kind, cell.source, cell_id=cell.get("id"))
    if kind != "code" and "attachments" in cell:
        fresh["attachments"] = cell["attachments"]
    cell.clear()
    cell.update(fresh)


def same_marks(one: dict, other: dict) -> bool:
    """Equal in all that nbgrader goes by."""
    keys = ("grade_id", "grade", "solution", "locked", "points")
    return all(one.get(key) == other.get(key) for key in keys)
