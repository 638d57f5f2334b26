"""Whatever is done to a notebook, in whatever order: its repair is sound, and the student's last version counts."""

from __future__ import annotations

import copy
import re

import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("nbgrader", reason="nbgrader comes with the extra `teach`")

from breakages import (  # noqa: E402
    add,
    cell,
    changed,
    code,
    each,
    retype,
    set_metadata,
    strip_id,
    strip_metadata,
    text,
)
from given import FUNCTIONS, Given  # noqa: E402
from soundness import check_sound, graded_code, squeezed  # noqa: E402


def random_operations(lesson: Given):
    """Strategies for operations on whatever cells there are; each leaves at least one."""
    index = st.integers(0, 40)
    stubs = [code(text(cell(lesson.stub, name))) for name in FUNCTIONS]
    kinds = st.sampled_from(["code", "markdown", "raw", "sql", None])
    metadata = st.sampled_from([None, [], "x", {}, {"nbgrader": []}, {"nbgrader": {"grade_id": "gae"}}])

    def at(change):
        return lambda i: lambda n: change(n["cells"], i % len(n["cells"]))

    def two(change):
        return lambda i, j: lambda n: change(n["cells"], i % len(n["cells"]), j % len(n["cells"]))

    def merged(cells, i):
        if i + 1 < len(cells) and cells[i].get("cell_type") == cells[i + 1].get("cell_type"):
            cells[i]["source"] = text(cells[i]) + "\n\n" + text(cells.pop(i + 1))

    def swapped(cells, i, j):
        cells[i]["metadata"], cells[j]["metadata"] = cells[j].get("metadata", {}), cells[i].get("metadata", {})

    one = [
        at(lambda cells, i: strip_metadata(cells[i])),
        at(lambda cells, i: strip_id(cells[i])),
        at(lambda cells, i: add("\n\n# mine")(cells[i])),
        at(lambda cells, i: cells.pop(i) if len(cells) > 1 else None),
        at(merged),
    ]
    pairs = [
        two(lambda cells, i, j: cells.insert(j, copy.deepcopy(cells[i]))),
        two(lambda cells, i, j: cells.insert(j, cells.pop(i))),
        two(swapped),
    ]
    others = [
        st.builds(lambda i, kind: at(lambda cells, i: retype(kind)(cells[i]))(i), index, kinds),
        st.builds(
            lambda i, value: at(lambda cells, i: set_metadata(copy.deepcopy(value))(cells[i]))(i), index, metadata
        ),
        st.builds(
            lambda i, new: at(lambda cells, i: cells.insert(i, copy.deepcopy(new)))(i), index, st.sampled_from(stubs)
        ),
        st.just(each(strip_metadata)),
    ]
    return st.one_of(
        *(st.builds(make, index) for make in one), *(st.builds(make, index, index) for make in pairs), *others
    )


def last_written(notebook: dict, name: str, lesson: Given) -> tuple[str | None, bool]:
    """A plain search for the cell whose function is the student's last; False: it is not clear which that is."""
    pattern = re.compile(rf"^def {name}\(", re.MULTILINE)
    stubs = {squeezed(text(one)) for one in lesson.stub["cells"]}
    cells = [one for one in notebook["cells"] if pattern.search(text(one))]
    own = [one for one in cells if squeezed(text(one)) not in stubs]
    if any(one["cell_type"] != "code" for one in own) or any(text(one).count("YOUR CODE HERE") for one in own):
        return None, False
    return (squeezed(text(own[-1])) if own else None), True


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_sequences(data, lesson, tmp_path_factory):
    operations = data.draw(st.lists(random_operations(lesson), max_size=8))
    notebook = changed(lesson.solved, *operations)
    repaired = check_sound(notebook, lesson)
    found = graded_code(nbformat.writes(repaired.notebook), tmp_path_factory.getbasetemp())
    for name in FUNCTIONS:
        expected, clear = last_written(notebook, name, lesson)
        if clear:
            assert found.get(name) == expected
