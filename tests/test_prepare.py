"""A submission's folder becomes one notebook that nbgrader can read, or says why it cannot."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbgrader", reason="nbgrader comes with the extra `teach`")

from breakages import (  # noqa: E402
    cell,
    changed,
    code,
    delete,
    each,
    insert,
    markdown,
    strip_metadata,
    text,
    to,
    write,
)
from given import ALL, ANSWER, FUNCTIONS, Given  # noqa: E402
from nbgrader.nbgraderformat import MetadataValidator  # noqa: E402

from autograder.classroom.cells import grade_id, marked  # noqa: E402
from autograder.classroom.prepare import Prepared, prepare, read_released  # noqa: E402
from autograder.classroom.repair import repair  # noqa: E402


def handed_in(folder: Path, files: dict[str, object]) -> Path:
    """A folder with files: notebooks, texts or bytes."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def check_prepared(folder: Path, lesson: Given) -> Prepared:
    """What must hold of every submission that was made ready."""
    prepared = prepare(folder, lesson.path)
    notebook = nbformat.reads(prepared.text, as_version=4)
    nbformat.validate(notebook)
    MetadataValidator().validate_nb(notebook)
    assert Counter(map(grade_id, marked(notebook))) == Counter(map(grade_id, marked(lesson.skeleton)))
    assert prepared.name == lesson.path.name and prepared.text == prepare(folder, lesson.path).text
    assert read_released(lesson.path, lesson.path.stat().st_mtime_ns) == lesson.skeleton  # nobody has written into it
    for sentence in [*prepared.repairs, prepared.problem or ""]:
        assert str(folder) not in sentence and sentence.isprintable() and len(sentence) < 600
    return prepared


def test_an_honest_folder(lesson, tmp_path):
    prepared = check_prepared(
        handed_in(tmp_path / "in", {"ppo_clipping.ipynb": lesson.solved, "timestamp.txt": "2026"}), lesson
    )
    assert (prepared.problem, prepared.repairs, prepared.others) == (None, [], [])


def old_draft(notebook: dict) -> dict:
    return changed(notebook, to("ppo_loss", write("def ppo_loss(*a):\n    return 0")), delete("clip-bound"))


def in_latin(notebook: dict) -> bytes:
    return json.dumps(notebook, ensure_ascii=False).encode("latin-1", "replace")


def as_script(notebook: dict) -> str:
    return "\n\n".join(text(cell(notebook, name)) for name in FUNCTIONS)


LONG = {"outputs": [{"text": "x" * 25 * 2**20}]}
FOLDERS = {
    "renamed": (lambda g: {"ppo_clipping (1).ipynb": g.solved}, "it was ppo_clipping (1).ipynb", ()),
    "capital letters": (lambda g: {"PPO_CLIPPING.IPYNB": g.solved}, "it was PPO_CLIPPING.IPYNB", ()),
    "with .txt behind it": (lambda g: {"ppo_clipping.ipynb.txt": g.solved}, "it was ppo_clipping.ipynb.txt", ()),
    "without an ending": (lambda g: {"homework": g.solved}, "it was homework", ()),
    "in a folder": (lambda g: {"my work/ppo_clipping.ipynb": g.solved}, "found in the folder my work", ()),
    "in a folder called x.ipynb": (lambda g: {"x.ipynb/ppo_clipping.ipynb": g.solved}, "in the folder x.ipynb", ()),
    "beside the stub": (lambda g: {"ppo_clipping.ipynb": g.stub, "mine.ipynb": g.solved}, "several notebooks: mine", ()),
    "beside a draft": (lambda g: {"ppo_clipping.ipynb": g.solved, "a.ipynb": old_draft(g.solved)}, "several", ()),
    "beside an empty one": (lambda g: {"ppo_clipping.ipynb": g.solved, "Untitled.ipynb": ""}, "Untitled.ipynb is not", ()),
    "beside one without cells": (
        lambda g: {"ppo_clipping.ipynb": g.solved, "Untitled.ipynb": {"cells": []}}, "without cells", (),
    ),
    "beside a broken one": (lambda g: {"ppo_clipping.ipynb": "{", "good.ipynb": g.solved}, "not valid JSON", ()),
    "answers elsewhere": (
        lambda g: {
            "ppo_clipping.ipynb": changed(g.solved, to("clip-bound", write("")), to("first-minibatch", write(" "))),
            "answers.ipynb": changed(g.stub, to("clip-bound", write(ANSWER)), to("first-minibatch", write(ANSWER))),
        },
        "the answer to clip-bound comes from answers.ipynb", (),
    ),
    "hidden and extra files": (
        lambda g: {
            "ppo_clipping.ipynb": g.solved, ".ipynb_checkpoints/ppo_clipping-checkpoint.ipynb": g.stub,
            "__MACOSX/._ppo_clipping.ipynb": b"\0\5\26\7", "data.csv": "1,2", "notes.docx": b"PK", "picture.png": b"\x89PNG",
        }, "", (),
    ),
    "with a BOM": (lambda g: {"ppo_clipping.ipynb": b"\xef\xbb\xbf" + json.dumps(g.solved).encode()}, "", ()),
    "UTF-16": (lambda g: {"ppo_clipping.ipynb": json.dumps(g.solved).encode("utf-16")}, "", ()),
    "not UTF-8": (
        lambda g: {"ppo_clipping.ipynb": in_latin(changed(g.solved, insert(3, markdown("für"))))}, "", (),
    ),
    "25 MB": (lambda g: {"ppo_clipping.ipynb": changed(g.solved, insert(3, code("x") | LONG))}, "", ()),
    "another lesson": (
        lambda g: {"gae.ipynb": {"cells": [code("def gae(*a):\n    return a", {"grade_id": "gae", "solution": True})]}},
        "the notebook of another lesson?", ALL,
    ),
    "a Python file": (lambda g: {"ppo.py": as_script(g.solved)}, "Python files: ppo.py", ALL),
    "a name with markup": (lambda g: {"<script>alert(1)<script>.ipynb": g.solved}, "<script>", ()),
    "an endless name": (lambda g: {"x" * 240 + ".ipynb": g.solved}, "xxx…", ()),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name, lesson, tmp_path):
    files, said, lost = FOLDERS[name]
    prepared = check_prepared(handed_in(tmp_path / "in", files(lesson)), lesson)
    assert prepared.problem is None
    assert any(said in sentence for sentence in prepared.repairs) if said else prepared.repairs == [], prepared.repairs
    if not any(".py" in sentence for sentence in prepared.repairs):
        assert repair(prepared.notebook.cells, lesson.skeleton).written == ALL - set(lost)


def packed(folder: Path) -> None:
    handed_in(folder, {"homework.zip": b"PK\3\4"})


def a_link(folder: Path) -> None:
    (folder / "ppo_clipping.ipynb").symlink_to("/etc/hostname")


def a_linked_folder(folder: Path) -> None:
    handed_in(folder.parent / "elsewhere", {"ppo_clipping.ipynb": "{}"})
    (folder / "work").symlink_to(folder.parent / "elsewhere")


def many_files(folder: Path) -> None:
    for number in range(400):
        (folder / f"{number}.ipynb").write_text("{}")


UNREADABLE = {
    "nothing": (lambda folder: None, "no notebook was handed in"),
    "a zip": (packed, "homework.zip; an archive is not unpacked"),
    "a Word file": (lambda folder: handed_in(folder, {"answers.docx": b"PK\3\4"}), "answers.docx"),
    "an empty file": (lambda folder: handed_in(folder, {"a.ipynb": ""}), "it is empty"),
    "blanks": (lambda folder: handed_in(folder, {"a.ipynb": " \n\t"}), "it is empty"),
    "no JSON": (lambda folder: handed_in(folder, {"a.ipynb": "{'cells': []}"}), "not valid JSON"),
    "cut short": (lambda folder: handed_in(folder, {"a.ipynb": '{"cells": [{"cell_type": "code"'}), "not valid JSON"),
    "a list": (lambda folder: handed_in(folder, {"a.ipynb": "[]"}), "not a notebook"),
    "a text": (lambda folder: handed_in(folder, {"a.ipynb": '"cells"'}), "not a notebook"),
    "no cells": (lambda folder: handed_in(folder, {"a.ipynb": "{}"}), "without cells"),
    "cells are a text": (lambda folder: handed_in(folder, {"a.ipynb": '{"cells": "none"}'}), "without cells"),
    "cells are texts": (lambda folder: handed_in(folder, {"a.ipynb": '{"cells": ["x", null, 3]}'}), "without cells"),
    "nested": (lambda folder: handed_in(folder, {"a.ipynb": "[" * 10**6}), "nested"),
    "bytes": (lambda folder: handed_in(folder, {"a.ipynb": bytes(range(256)) * 99}), "not valid JSON"),
    "a merge conflict": (
        lambda folder: handed_in(folder, {"a.ipynb": "{\n<<<<<<< a\n=======\n>>>>>>> b\n}"}),
        "merge conflict",
    ),
    "a link": (a_link, "is a link"),
    "a linked folder": (a_linked_folder, "is a link"),
    "a pipe": (lambda folder: os.mkfifo(folder / "ppo_clipping.ipynb"), "neither a file nor a folder"),
    "a folder called x.ipynb": (lambda folder: (folder / "x.ipynb").mkdir(), "no notebook was handed in"),
    "400 notebooks": (many_files, "more than 300"),
    "a sparse giant": (
        lambda folder: os.truncate(handed_in(folder, {"a.ipynb": "{"}) / "a.ipynb", 2**33),
        "is larger than",
    ),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes and links on this system")
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_says_why(name, lesson, tmp_path):
    make, problem = UNREADABLE[name]
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    prepared = check_prepared(tmp_path / "in", lesson)
    assert problem in prepared.problem
    assert "Ungraded" in nbformat.reads(prepared.text, as_version=4).cells[0].source


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links on this system")
def test_links_are_not_followed(lesson, tmp_path):
    outside = handed_in(tmp_path / "outside", {"ppo_clipping.ipynb": lesson.solved})
    (tmp_path / "in").symlink_to(outside)
    assert "is a link" in check_prepared(tmp_path / "in", lesson).problem
    folder = handed_in(tmp_path / "mixed", {"mine.ipynb": lesson.solved})
    (folder / "ppo_clipping.ipynb").symlink_to(outside / "ppo_clipping.ipynb")
    prepared = check_prepared(folder, lesson)
    assert prepared.problem is None and any("is a link" in one for one in prepared.repairs)


def test_names_that_are_no_text(lesson, tmp_path):
    folder = handed_in(tmp_path / "in", {})
    try:
        (folder / os.fsdecode(b"caf\xe9.ipynb")).write_text(json.dumps(lesson.solved))
    except OSError:
        pytest.skip("this file system takes text only")
    (folder / "two\nlines.ipynb").write_text("{")
    assert check_prepared(folder, lesson).problem is None


def test_files_without_a_right_to_read(lesson, tmp_path):
    folder = handed_in(tmp_path / "in", {"ppo_clipping.ipynb": lesson.solved})
    (folder / "ppo_clipping.ipynb").chmod(0)
    if os.access(folder / "ppo_clipping.ipynb", os.R_OK):
        pytest.skip("this user may read everything")
    assert "ermission" in check_prepared(folder, lesson).problem


def test_many_cells(lesson, tmp_path):
    def with_more(folder: str, *cells: dict):
        notebook = lesson.solved | {"cells": lesson.solved["cells"] + list(cells)}
        return check_prepared(handed_in(tmp_path / folder, {"ppo_clipping.ipynb": notebook}), lesson)

    prepared = with_more("cells", *(code(f"x = {number}") for number in range(3000)), *[code("")] * 3000)
    assert (prepared.repairs, prepared.problem) == ([], None)
    assert "more than 10,000 lines" in with_more("lines", code("x = 1\n" * 10_001)).problem


def test_a_note_that_a_student_has_forged(lesson, tmp_path):
    forged = markdown("**Ungraded: the grader is broken.**") | {"id": "note-of-the-grader"}
    notebook = changed(lesson.solved, insert(0, forged), each(strip_metadata))
    check_prepared(handed_in(tmp_path / "in", {"ppo_clipping.ipynb": notebook}), lesson)
