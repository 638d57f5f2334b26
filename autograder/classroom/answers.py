"""Find a student's answer to a written question."""

from __future__ import annotations

from collections.abc import Iterator

from nbformat import NotebookNode

from autograder.classroom.cells import grade_id, is_answer, is_code, words
from autograder.classroom.work import Work, place_for

CLEAR = 20  # letters from which on a text is no other by chance


def find_answer(wanted: NotebookNode, work: Work) -> NotebookNode | None:
    """The cell with an answer, by its mark or id; else the student's own text where it belongs; None if there is none."""
    name, empty = grade_id(wanted), ("", words(wanted.source))
    free = [c for c in work.cells if work.free(c) and not is_other_answer(c, wanted, work)]
    by_id = [c for c in free if c["id"] == wanted.get("id") and not is_released(c, wanted, work)]
    known = [c for c in free if grade_id(c) == name and is_text(c)] or [c for c in by_id if is_text(c)]
    written = [c for c in known if words(c.source) not in empty]
    if written:
        return written[-1]
    near = list(own_texts(wanted, known[-1:], work))
    written = [c for c in near if words(c.source) not in empty] or in_question(wanted, work)
    return next(iter(written or known[-1:] or near), None)


def is_text(cell: NotebookNode) -> bool:
    """A text, be it in a code cell."""
    return cell.cell_type != "code" or not is_code(cell.source)


def is_other_answer(cell: NotebookNode, wanted: NotebookNode, work: Work) -> bool:
    """Whether a cell has the mark of another answer."""
    other = work.known.get(grade_id(cell))
    return other is not None and other is not wanted and is_answer(other)


def is_released(cell: NotebookNode, wanted: NotebookNode, work: Work) -> bool:
    """Whether a cell is another of the released ones, as it was, or a part of it."""
    text = words(cell.source)
    if text == words(wanted.source):
        return False
    return text in work.released or len(text) >= CLEAR and any(text in other for other in work.released)


def question_of(wanted: NotebookNode, work: Work) -> str:
    """The text of the cell before an answer's."""
    place = work.skeleton.cells.index(wanted)
    return words(work.skeleton.cells[place - 1].source) if place else ""


def is_question(cell: NotebookNode, question: str) -> bool:
    """The cell with a question, or with the end of it."""
    text = words(cell.source)
    return text == question != "" or len(text) >= CLEAR and question.endswith(text)


def own_texts(wanted: NotebookNode, known: list[NotebookNode], work: Work) -> Iterator[NotebookNode]:
    """Texts that stand where the answer belongs: behind the question or the cell for it, before the next released cell."""
    question, inside = question_of(wanted, work), False
    before = [i for i, c in enumerate(work.cells) if is_question(c, question) or any(c is one for one in known)]
    starts = {place + 1 for place in before} or {place_for(wanted, work)}
    for place, cell in enumerate(work.cells):
        inside = inside or place in starts
        if place in before:
            continue
        if not work.free(cell) or is_other_answer(cell, wanted, work) or is_released(cell, wanted, work):
            inside = False
        if inside and cell.source.strip() and is_text(cell):
            yield cell


def in_question(wanted: NotebookNode, work: Work) -> list[NotebookNode]:
    """The question's own cell, if something was written below the question."""
    question = question_of(wanted, work)
    return [
        cell
        for cell in work.cells
        if question
        and cell.cell_type == "markdown"
        and grade_id(cell) is None
        and work.free(cell)
        and words(cell.source).startswith(f"{question} ")
        and words(cell.source) not in work.released
    ]
