"""Put functions together again whose cell was split in the middle of them."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from nbformat import NotebookNode

from autograder.classroom.cells import definition, grade_id, statements_of

MAX_PIECES = 5


def join_split_functions(cells: list[NotebookNode], names: Sequence[str]) -> list[str]:
    """Join the pieces of split functions, in place; the names of those functions.

    Args:
        cells: of a student.
        names: functions to look for.
    """
    joined, place = [], 0
    while place < len(cells):
        pieces, source, name = whole_function(cells, place, names)
        if name:
            first = cells[place]
            first.source = source
            own = [c for c in cells[place : place + pieces] if grade_id(c)]
            if own and not grade_id(first):
                first.metadata = own[0].metadata
            del cells[place + 1 : place + pieces]
            joined.append(name)
        else:  # what was joined may go on in the next cell
            place += 1
    return joined


def whole_function(cells: list[NotebookNode], place: int, names: Sequence[str]) -> tuple[int, str, str | None]:
    """How many cells from a place on are the pieces of one that was split, its text, and the function that was cut."""
    first = cells[place]
    named = [name for name in names if name in first.source] if first.cell_type == "code" else []
    if not named or not open_end(first.source):
        return 1, first.source, None
    texts = [first.source]
    for count in range(2, MAX_PIECES + 1):
        following = cells[place + count - 1 : place + count]
        if not following or following[0].cell_type != "code":
            break
        more = following[0].source
        if count == 2 and not goes_on(first, following[0], named):
            break
        texts = [text + between + more for text in texts for between in joints(text, more)]
        for text in texts:
            name = next((n for n in named if definition(text, n, broken_too=False) == "written"), None)
            if name:
                return count, text, name
    return 1, first.source, None


def goes_on(first: NotebookNode, more: NotebookNode, named: Sequence[str]) -> bool:
    """Whether a cell may be the rest of a function: indented, no Python by itself, or with the same mark and another text."""
    if grade_id(more) not in (None, grade_id(first)):
        return False
    if more.source.strip("\n")[:1].isspace() or statements_of(more.source) is None:
        return True
    return grade_id(more) is not None and not any(definition(more.source, n) for n in named)


def joints(text: str, more: str) -> tuple[str, ...]:
    """What may have been between two pieces, the likelier first: the end of a line, or nothing."""
    if "#" in text.rpartition("\n")[2]:
        return ("\n",)
    return ("\n", "") if more[:1].isspace() else ("", "\n")


def open_end(source: str) -> bool:
    """Whether a text may be the first part of a function: it does not compile, or ends in one that has no return yet."""
    statements = statements_of(source)
    if statements is None:
        return True
    last = statements[-1].node if statements else None
    return isinstance(last, (ast.FunctionDef, ast.AsyncFunctionDef)) and not isinstance(last.body[-1], ast.Return)
