"""What must hold of every repaired notebook."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from pathlib import Path

import nbformat
from given import FUNCTIONS, Given
from nbgrader.nbgraderformat import MetadataValidator

from autograder.classroom.cells import cells_from, grade_id, marked
from autograder.classroom.repair import repair
from autograder.submission import read_files


def raw(notebook: dict) -> list[dict]:
    """A notebook's cells as they are read from its file."""
    sheets = notebook.get("worksheets", [notebook])
    return [one for sheet in sheets for one in json.loads(json.dumps(sheet))["cells"]]


def squeezed(source: str) -> str:
    """A text without white space, as it can be in a file."""
    return "".join(re.sub("[\ud800-\udfff]", "\ufffd", source).replace("\0", "").split())


def check_sound(notebook: dict, lesson: Given):
    """What must hold of every repair; returns it."""
    cells = cells_from(raw(notebook))
    before = copy.deepcopy(cells)
    repaired = repair(cells, lesson.skeleton)
    assert cells == before, "what was given has been changed"
    result = repaired.notebook
    nbformat.validate(nbformat.reads(nbformat.writes(result), as_version=4))
    MetadataValidator().validate_nb(result)
    marks = {grade_id(one): one.metadata for one in marked(lesson.skeleton)}
    assert [name for name, count in Counter(map(grade_id, marked(result))).items() if count > 1] == []
    assert {grade_id(one): one.metadata for one in marked(result)} == marks
    types = {grade_id(one): one.cell_type for one in marked(lesson.skeleton)}
    assert {grade_id(one): one.cell_type for one in marked(result)} == types
    released_texts = {squeezed(one.source) for one in lesson.skeleton.cells}
    everything = "\n".join(squeezed(one.source) for one in result.cells)
    for one in before:
        assert squeezed(one.source) in released_texts or squeezed(one.source) in everything, one.source
    again = repair(result.cells, lesson.skeleton)
    assert again.notebook == result and again.said == [] and again.written == repaired.written
    assert repair(cells_from(raw(notebook)), lesson.skeleton).notebook == result, "the same file gave another notebook"
    for sentence in repaired.said:
        assert len(sentence) < 400 and sentence[0].islower() and not sentence.endswith(".")
    return repaired


def graded_code(prepared_text: str, folder: Path) -> dict[str, str]:
    """The definitions that the grader takes, squeezed: name → cell."""
    path = folder / "ppo_clipping.ipynb"
    path.write_text(prepared_text, encoding="utf-8")
    submission = read_files([path])
    found = {name: (submission.defining_cells(name), submission.definitions(name)) for name in FUNCTIONS}
    return {name: squeezed(cells[-1].source) for name, (cells, how) in found.items() if cells and not how[-1].is_stub}
