"""What editors, front ends and people do to a notebook: functions that change its content, as it is in the file, in place."""

from __future__ import annotations

import copy
import os
import re


def name_of(cell: dict) -> str | None:
    """nbgrader's name of a cell."""
    marks = cell.get("metadata")
    marks = marks.get("nbgrader") if isinstance(marks, dict) else None
    return marks.get("grade_id") if isinstance(marks, dict) else None


def place_of(notebook: dict, name: str) -> int:
    """Where a marked cell is."""
    return next(i for i, cell in enumerate(notebook["cells"]) if name_of(cell) == name)


def cell(notebook: dict, name: str) -> dict:
    """A marked cell."""
    return notebook["cells"][place_of(notebook, name)]


def text(one: dict) -> str:
    """A cell's text."""
    return "".join(one["source"]) if isinstance(one["source"], list) else one["source"]


def code(source: str, marks: dict | None = None) -> dict:
    """A code cell as in a file."""
    metadata = {"nbgrader": marks} if marks else {}
    return {"cell_type": "code", "source": source, "metadata": metadata, "outputs": [], "execution_count": None}


def markdown(source: str) -> dict:
    """A markdown cell as in a file."""
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def each(change):
    """Do something to every cell."""
    return lambda notebook: [change(one) for one in notebook["cells"]]


def to(name: str, change):
    """Do something to one cell."""
    return lambda notebook: change(cell(notebook, name))


def strip_metadata(one: dict) -> None:
    one["metadata"] = {}


def drop_metadata(one: dict) -> None:
    one.pop("metadata", None)


def strip_id(one: dict) -> None:
    one.pop("id", None)


def random_id(one: dict) -> None:
    one["id"] = os.urandom(4).hex()


def bad_id(one: dict) -> None:
    one["id"] = "no id, since it has blanks\n"


def retype(kind: object):
    def change(one: dict) -> None:
        one["cell_type"] = kind
        for key in ("outputs", "execution_count"):
            one.pop(key, None)

    return change


def set_metadata(value: object):
    return lambda one: one.update(metadata=value)


def set_marks(value: object):
    return lambda one: one.update(metadata={"nbgrader": copy.deepcopy(value)})


def update_marks(**values):
    return lambda one: one["metadata"]["nbgrader"].update(values)


def write(source: str):
    return lambda one: one.update(source=source)


def add(source: str):
    return lambda one: one.update(source=text(one) + source)


def replace(old: str, new: str):
    return lambda one: one.update(source=text(one).replace(old, new))


def as_list(one: dict) -> None:
    one["source"] = text(one).splitlines(keepends=True)


def delete(*names: str):
    def change(notebook: dict) -> None:
        notebook["cells"] = [one for one in notebook["cells"] if name_of(one) not in names]

    return change


def delete_all_but(keep):
    def change(notebook: dict) -> None:
        notebook["cells"] = [one for one in notebook["cells"] if keep(one)]

    return change


def insert(place, *new: dict):
    """Put cells before (-1), behind (0) or at the name of a cell; a number is a place."""

    def change(notebook: dict) -> None:
        at = place if isinstance(place, int) else place_of(notebook, place[0]) + place[1]
        notebook["cells"][at:at] = [copy.deepcopy(one) for one in new]

    return change


def duplicate(name: str, shift: int, edit=lambda one: None):
    """Copy a cell with its marks: shift 0 puts the copy before it, 1 behind it."""

    def change(notebook: dict) -> None:
        new = copy.deepcopy(cell(notebook, name))
        edit(new)
        notebook["cells"].insert(place_of(notebook, name) + shift, new)

    return change


def split(name: str, *marks: str, copied: bool = True):
    """Split a cell before some texts, as JupyterLab does: blank lines at the cut go, and the marks are copied."""

    def change(notebook: dict) -> None:
        place, rest = place_of(notebook, name), text(cell(notebook, name))
        pieces = []
        for mark in marks:
            before, _, after = rest.partition(mark)
            pieces.append(before.rstrip("\n"))
            rest = (mark + after).lstrip("\n")
        whole = notebook["cells"].pop(place)
        for number, source in enumerate([*pieces, rest]):
            piece = copy.deepcopy(whole) | {"source": source}
            if number and not copied:
                piece["metadata"] = {}
            notebook["cells"].insert(place + number, piece)

    return change


def merge(*names: str, between: str = "\n\n"):
    """Merge cells into the first of them."""

    def change(notebook: dict) -> None:
        cell(notebook, names[0])["source"] = between.join(text(cell(notebook, name)) for name in names)
        delete(*names[1:])(notebook)

    return change


def swap_marks(one: str, other: str):
    def change(notebook: dict) -> None:
        first, second = cell(notebook, one), cell(notebook, other)
        first["metadata"], second["metadata"] = second["metadata"], first["metadata"]

    return change


def move(name: str, to: int):
    def change(notebook: dict) -> None:
        notebook["cells"].insert(to, notebook["cells"].pop(place_of(notebook, name)))

    return change


def reverse(notebook: dict) -> None:
    notebook["cells"].reverse()


def old_format(notebook: dict) -> None:
    """Format 3: worksheets, headings, `input`; and marks, which it could have, too."""
    cells = []
    for one in notebook.pop("cells"):
        source, new = text(one), {key: one[key] for key in ("cell_type", "metadata")}
        heading = re.match(r"(#+) ([^\n]*)\n", source)
        if one["cell_type"] == "code":
            cells.append({**new, "input": source, "outputs": [], "language": "python", "collapsed": False})
        elif heading:
            title = {"cell_type": "heading", "level": len(heading.group(1)), "source": heading.group(2), "metadata": {}}
            cells += [title, {**new, "source": source[heading.end() :]}]
        else:
            cells.append({**new, "source": source})
    notebook.update(nbformat=3, nbformat_minor=0, worksheets=[{"cells": cells, "metadata": {}}])


def changed(notebook: dict, *operations) -> dict:
    """A changed copy."""
    notebook = copy.deepcopy(notebook)
    for operation in operations:
        operation(notebook)
    return notebook
