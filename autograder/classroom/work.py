"""What is known while a notebook is repaired, and what is said of it afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field

from nbformat import NotebookNode

from autograder.classroom.cells import grade_id, marked, words

SENTENCES = {
    "split": "cells that had been split were put together again: {}",
    "type": "cells had become cells of another type, and were changed back: {}",
    "marks": "nbgrader's marks were missing or changed, and were brought back: {}",
    "elsewhere": "these were written in other cells than those released for them, and count: {}",
    "shared": "these functions share a cell with others, and count: {}",
    "locked": "check cells had been changed; they are as released again, and what stood there is kept before them: {}",
    "missing": "cells were missing, and were put back: {}",
    "copies": "some cells were there several times, and one of them was marked: {}",
    "stubs": "empty copies stood behind functions that are written, and do not count: {}",
    "foreign": "marks of another notebook were taken off: {}",
}
SHOWN = 6


@dataclass
class Work:
    """A repair at work.

    Attributes:
        skeleton: the released notebook.
        cells: the student's; those that are changed have been copied.
        chosen: which cell of the student's stands for which of the released.
        behind: the cell behind which a missing one is to stand.
        notes: what was done, by kind: names of cells.
    """

    skeleton: NotebookNode
    cells: list[NotebookNode]
    chosen: dict[str, NotebookNode] = field(default_factory=dict)
    behind: dict[str, NotebookNode] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self):
        self.known = {grade_id(cell): cell for cell in marked(self.skeleton)}
        self.released = {words(cell.source) for cell in self.skeleton.cells}
        self.taken: set[int] = set()

    def choose(self, name: str, cell: NotebookNode) -> None:
        """Let a cell stand for one of the released."""
        self.chosen[name] = cell
        self.taken.add(id(cell))

    def free(self, cell: NotebookNode) -> bool:
        """Whether a cell stands for none yet."""
        return id(cell) not in self.taken

    def note(self, kind: str, name: str) -> None:
        """Remember what was done."""
        if name not in self.notes.setdefault(kind, []):
            self.notes[kind].append(name)

    def said(self) -> list[str]:
        """What was done, in sentences."""
        return [sentence.format(some(self.notes[kind])) for kind, sentence in SENTENCES.items() if kind in self.notes]


def some(names: list[str]) -> str:
    """The first few names."""
    more = len(names) - SHOWN
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:SHOWN])} and {more} more"


def place_for(wanted: NotebookNode, work: Work) -> int:
    """Where a missing cell belongs: behind what stood in its place, or behind the last released cell before it."""
    places = {id(cell): place for place, cell in enumerate(work.cells)}
    by_words = {words(cell.source): place for place, cell in enumerate(work.cells) if grade_id(cell) is None}
    if grade_id(wanted) in work.behind:
        return places[id(work.behind[grade_id(wanted)])] + 1
    for earlier in reversed(work.skeleton.cells[: work.skeleton.cells.index(wanted)]):
        cell = work.chosen.get(grade_id(earlier))
        place = places.get(id(cell)) if cell is not None else by_words.get(words(earlier.source))
        if place is not None:
            return place + 1
    return 0
