"""Whatever editors, front ends and people do to a notebook, nbgrader's marks come back, and nothing of a student's is lost."""

from __future__ import annotations

import copy

import nbformat
import pytest

pytest.importorskip("nbgrader", reason="nbgrader comes with the extra `teach`")

from breakages import (  # noqa: E402
    add,
    as_list,
    bad_id,
    cell,
    changed,
    code,
    delete,
    delete_all_but,
    drop_metadata,
    duplicate,
    each,
    insert,
    markdown,
    merge,
    move,
    name_of,
    old_format,
    place_of,
    random_id,
    replace,
    retype,
    reverse,
    set_marks,
    set_metadata,
    split,
    strip_id,
    strip_metadata,
    swap_marks,
    text,
    to,
    update_marks,
    write,
)
from given import ALL, ANSWERS, FUNCTIONS  # noqa: E402
from soundness import check_sound, graded_code, squeezed  # noqa: E402

from autograder.classroom.cells import grade_id, marked  # noqa: E402

SPLIT_INSIDE = "    return -masked_mean"
EDIT = "\n\n# second version\n"
SAID = {
    "marks": "marks were missing or changed",
    "type": "another type",
    "missing": "cells were missing",
    "copies": "several times",
    "split": "had been split",
    "shared": "share a cell",
    "locked": "check cells had been changed",
    "elsewhere": "written in other cells",
    "stubs": "empty copies",
    "foreign": "another notebook",
}

# what is done; what is said of it; what is not written any more
TABLE = {
    "nothing": ([], "", ()),
    "own cells added": ([insert(3, code("x = 1"), markdown("My note."))], "", ()),
    "metadata stripped": ([each(strip_metadata)], "marks", ()),
    "metadata and ids stripped": ([each(strip_metadata), each(strip_id)], "marks", ()),
    "metadata dropped": ([each(drop_metadata)], "marks", ()),
    "metadata stripped, random ids": ([each(strip_metadata), each(random_id)], "marks", ()),
    "metadata of one cell stripped": ([to("approx_kl", strip_metadata)], "marks", ()),
    "ids stripped": ([each(strip_id)], "", ()),
    "random ids": ([each(random_id)], "", ()),
    "bad ids": ([each(bad_id)], "", ()),
    "the same id everywhere": ([each(lambda one: one.update(id="a"))], "", ()),
    "metadata is a list": ([each(set_metadata([]))], "marks", ()),
    "metadata is a text": ([each(set_metadata("nbgrader"))], "marks", ()),
    "metadata is a number": ([each(set_metadata(4.0))], "marks", ()),
    "metadata is null": ([each(set_metadata(None))], "marks", ()),
    "marks are a list": ([to("ppo_loss", set_marks(["grade_id"]))], "marks", ()),
    "marks are a text": ([to("ppo_loss", set_marks("ppo_loss"))], "marks", ()),
    "marks are null": ([to("ppo_loss", set_marks(None))], "marks", ()),
    "grade_id is a number": ([to("ppo_loss", update_marks(grade_id=7))], "marks", ()),
    "grade_id is a list": ([to("check-ppo_loss", update_marks(grade_id=["a"]))], "marks", ()),
    "grade_id is empty": ([to("clip-bound", update_marks(grade_id=""))], "marks", ()),
    "grade_id unknown": ([to("clip_fraction", update_marks(grade_id="cell-1f3a"))], "marks", ()),
    "marks of another lesson": ([insert(3, code("def gae(): ...", {"grade_id": "gae", "solution": True}))], "foreign", ()),
    "points edited": ([to("check-approx_kl", update_marks(points=200))], "marks", ()),
    "points are no number": ([to("check-approx_kl", update_marks(points={"all": None}))], "marks", ()),
    "no longer locked": ([to("check-approx_kl", update_marks(locked=False, solution=True))], "marks", ()),
    "no longer graded": ([to("check-approx_kl", update_marks(grade=False))], "marks", ()),
    "an older schema": ([each(lambda one: name_of(one) and update_marks(schema_version=0)(one))], "", ()),
    "a newer schema": ([each(lambda one: name_of(one) and update_marks(schema_version=99, extra=[])(one))], "", ()),
    "sources as lists": ([each(as_list)], "", ()),
    "source is null": ([insert(3, code("") | {"source": None})], "", ()),
    "an answer is null": ([to("clip-bound", lambda one: one.update(source=None))], "", ("clip-bound",)),
    "no source": ([insert(3, {"cell_type": "code", "metadata": {}})], "", ()),
    "function duplicated, before": ([duplicate("approx_kl", 0)], "copies", ()),
    "function duplicated, behind": ([duplicate("approx_kl", 1)], "copies", ()),
    "function copied and edited": ([duplicate("approx_kl", 1, add(EDIT))], "copies", ()),
    "function copied twice": ([duplicate("approx_kl", 1, add(EDIT))] * 2, "copies", ()),
    "check duplicated": ([duplicate("check-approx_kl", 1)], "copies", ()),
    "check duplicated and edited": ([duplicate("check-approx_kl", 1, add("  # fine"))], "copies", ()),
    "answer duplicated": ([duplicate("clip-bound", 1)], "copies", ()),
    "empty answer behind the written": ([duplicate("clip-bound", 1, write("YOUR ANSWER HERE"))], "copies", ()),
    "empty answer before the written": ([duplicate("clip-bound", 0, write(""))], "copies", ()),
    "everything duplicated": ([lambda n: n.update(cells=n["cells"] + copy.deepcopy(n["cells"]))], "copies", ()),
    "split in the middle": ([split("clipped_policy_loss", SPLIT_INSIDE)], "split", ()),
    "split, marks not copied": ([split("clipped_policy_loss", SPLIT_INSIDE, copied=False)], "split", ()),
    "split behind the indentation": ([split("clipped_policy_loss", SPLIT_INSIDE.strip())], "split", ()),
    "split in a word": ([split("clipped_policy_loss", "turn -masked_mean")], "split", ()),
    "split in the signature": ([split("clipped_policy_loss", "    old_logprobs:")], "split", ()),
    "split in the docstring": ([split("clip_fraction", "Args:")], "split", ()),
    "split in three": ([split("clipped_value_loss", "    clipped =", "    return 0.5")], "split", ()),
    "split and stripped": ([split("approx_kl", "    return"), each(strip_metadata)], "split marks", ()),
    "split behind the function": ([to("ppo_loss", add("\n\nx = 1")), split("ppo_loss", "x = 1")], "copies", ()),
    "split before the function": (
        [to("ppo_loss", lambda one: one.update(source="x = 1\n\n" + text(one))), split("ppo_loss", "def ppo_loss")],
        "copies",
        (),
    ),
    "two functions in one cell": ([merge("clip_fraction", "approx_kl")], "shared", ()),
    "all functions in one cell": ([merge(*FUNCTIONS)], "shared", ()),
    "all functions in one cell, on top": ([merge(*FUNCTIONS), move(FUNCTIONS[0], 0)], "shared", ()),
    "all functions in one cell, stripped": ([merge(*FUNCTIONS), each(strip_metadata)], "shared marks", ()),
    "function and check in one cell": ([merge("approx_kl", "check-approx_kl")], "missing", ()),
    "check and function in one cell": ([merge("check-approx_kl", "approx_kl")], "locked", ()),
    "answer merged into its question": (
        [lambda n: add("\n\nMine.")(n["cells"][place_of(n, "first-minibatch") - 1]), delete("first-minibatch")],
        "marks",
        (),
    ),
    "function deleted": ([delete("approx_kl")], "missing", ("approx_kl",)),
    "check deleted": ([delete("check-approx_kl")], "missing", ()),
    "all checks deleted": ([delete(*(f"check-{name}" for name in FUNCTIONS))], "missing", ()),
    "answer deleted": ([delete("clip-bound")], "missing", ("clip-bound",)),
    "question deleted": ([lambda n: n["cells"].pop(place_of(n, "first-minibatch") - 1)], "", ()),
    "question deleted, stripped": (
        [lambda n: n["cells"].pop(place_of(n, "first-minibatch") - 1), each(strip_metadata)], "marks", (),
    ),
    "all text deleted": ([delete_all_but(lambda one: one["cell_type"] == "code" or name_of(one))], "", ()),
    "all but the functions deleted": ([delete_all_but(lambda one: name_of(one) in FUNCTIONS)], "missing", ANSWERS),
    "all but the functions deleted, stripped": (
        [delete_all_but(lambda one: name_of(one) in FUNCTIONS), each(strip_metadata)], "missing marks", ANSWERS,
    ),
    "everything deleted": ([delete_all_but(lambda one: False), insert(0, markdown(""))], "missing", ALL),
    "function as markdown": ([to("approx_kl", retype("markdown"))], "type", ()),
    "function as raw": ([to("approx_kl", retype("raw"))], "type", ()),
    "function as markdown, stripped": ([to("approx_kl", retype("markdown")), each(strip_metadata)], "type", ()),
    "check as markdown": ([to("check-approx_kl", retype("markdown"))], "type", ()),
    "check as raw, stripped": ([to("check-approx_kl", retype("raw")), each(strip_metadata)], "type", ()),
    "answer as code": ([to("clip-bound", retype("code"))], "type", ()),
    "answer as raw": ([to("clip-bound", retype("raw"))], "type", ()),
    "answer as code, stripped": ([to("clip-bound", retype("code")), each(strip_metadata)], "type", ()),
    "everything is markdown": ([each(retype("markdown"))], "type", ()),
    "everything is code": ([each(retype("code"))], "type", ()),
    "no cell types": ([each(lambda one: one.pop("cell_type"))], "", ()),
    "unknown cell types": ([each(lambda one: one.update(cell_type="sql"))], "", ()),
    "cell types are lists": ([each(lambda one: one.update(cell_type=["code"]))], "", ()),
    "reordered": ([reverse], "", ()),
    "reordered and stripped": ([reverse, each(strip_metadata)], "marks", ()),
    "reordered, all marks and ids gone": ([reverse, each(strip_metadata), each(strip_id)], "marks", ("clip-bound",)),
    "function moved to the end": ([move("clipped_policy_loss", 99)], "", ()),
    "helper moved above": ([insert(2, code("def my_ratio(a, b):\n    return (a - b).exp()"))], "", ()),
    "check edited": ([to("check-approx_kl", write("print(check(approx_kl))"))], "locked", ()),
    "check emptied": ([to("check-approx_kl", write(""))], "", ()),
    "check made true": ([to("check-approx_kl", write("assert True"))], "locked", ()),
    "function written in the check's cell": (
        [to("check-ppo_loss", write("def ppo_loss(*a):\n    return a")), delete("ppo_loss")], "locked marks", (),
    ),
    "marks swapped between functions": ([swap_marks("approx_kl", "clip_fraction")], "marks", ()),
    "marks swapped between checks": ([swap_marks("check-approx_kl", "check-clip_fraction")], "marks", ()),
    "marks swapped between function and check": ([swap_marks("approx_kl", "check-approx_kl")], "marks", ()),
    "marks swapped between function and answer": ([swap_marks("approx_kl", "clip-bound")], "marks", ()),
    "one mark on all cells": ([each(set_marks({"grade_id": "ppo_loss", "solution": True}))], "marks", ()),
    "a mark on a helper": (
        [insert(2, code("def my_ratio(a, b):\n    return a", {"grade_id": "clip-bound", "grade": True}))], "copies", (),
    ),
    "written in a cell below the stub": (
        [insert(("approx_kl", 1), code("def approx_kl(*a):\n    return 1.0")), to("approx_kl", write("pass"))], "elsewhere", (),
    ),
    "function renamed": ([to("ppo_loss", replace("ppo_loss", "my_loss"))], "", ("ppo_loss",)),
    "function as lambda": ([to("ppo_loss", write("ppo_loss = lambda p, v, e, a, b: p + a * v - b * e"))], "", ()),
    "function by assignment": ([to("ppo_loss", write("def total(*a):\n    return a[0]\n\nppo_loss, x = total, 1"))], "", ()),
    "function imported": ([to("ppo_loss", write("from rlhf_core.ppo import ppo_loss"))], "", ()),
    "a syntax error in a function": ([to("ppo_loss", add("\n    return (("))], "", ()),
    "a syntax error, stripped": ([to("ppo_loss", add("\n    return ((")), each(strip_metadata)], "marks", ()),
    "%%time on a function": ([to("ppo_loss", lambda one: one.update(source="%%time\n" + text(one)))], "", ()),
    "answer in a cell of its own": (
        [to("clip-bound", write("YOUR ANSWER HERE")), insert(("clip-bound", 1), markdown("My answer."))], "elsewhere", (),
    ),
    "answer behind a comment, as code": (
        [to("clip-bound", write("YOUR ANSWER HERE")), insert(("clip-bound", 1), code("# My answer."))], "elsewhere type", (),
    ),
    "answer erased": ([to("clip-bound", write("  \n"))], "", ("clip-bound",)),
    "answer untouched": ([to("clip-bound", write("YOUR ANSWER HERE\n"))], "", ("clip-bound",)),
    "format 3": ([old_format], "", ()),
    "format 3, stripped": ([each(strip_metadata), old_format], "marks", ()),
    "carriage returns": ([each(replace("\n", "\r\n"))], "", ()),
    "tabs": ([to("ppo_loss", replace("    ", "\t"))], "", ()),
    "lone surrogates and zeros": ([insert(3, code("x = '\ud800\0'")), to("clip-bound", add(" \udfff"))], "", ()),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_table(name, lesson, tmp_path):
    operations, said, lost = TABLE[name]
    notebook = changed(lesson.solved, *operations)
    repaired = check_sound(notebook, lesson)
    assert repaired.written == ALL - set(lost)
    for kind in said.split():
        assert any(SAID[kind] in sentence for sentence in repaired.said), repaired.said
    if not said:
        assert repaired.said == []
    found = graded_code(nbformat.writes(repaired.notebook), tmp_path)
    broken = {"ppo_loss"} if "syntax error" in name else set()
    assert set(found) == set(FUNCTIONS) - set(lost) - broken


def test_untouched(lesson):
    repaired = check_sound(lesson.stub, lesson)
    assert repaired.said == [] and repaired.written == set()
    assert repaired.notebook == lesson.skeleton


@pytest.mark.parametrize("place", ["before", "behind"])
def test_stub_beside_the_written_function(place, lesson, tmp_path):
    new = copy.deepcopy(cell(lesson.stub, "approx_kl"))
    notebook = changed(lesson.solved, insert(("approx_kl", 0 if place == "before" else 1), new))
    repaired = check_sound(notebook, lesson)
    assert graded_code(nbformat.writes(repaired.notebook), tmp_path)["approx_kl"] == squeezed(
        text(cell(lesson.solved, "approx_kl"))
    )
    assert len(repaired.said) == 1


def test_all_stubs_behind_all_functions(lesson, tmp_path):
    notebook = changed(lesson.solved, merge(*FUNCTIONS), move(FUNCTIONS[0], 0))
    notebook["cells"] += changed(lesson.stub)["cells"]
    repaired = check_sound(notebook, lesson)
    assert set(graded_code(nbformat.writes(repaired.notebook), tmp_path)) == set(FUNCTIONS)


@pytest.mark.parametrize("edited", ["copy", "original"])
def test_the_last_edited_copy_counts(edited, lesson, tmp_path):
    newest = add("\n    # the newest")
    operations = (
        [duplicate("approx_kl", 1, newest)]
        if edited == "copy"
        else [duplicate("approx_kl", 0), lambda n: newest(n["cells"][place_of(n, "approx_kl") + 1])]
    )
    repaired = check_sound(changed(lesson.solved, *operations), lesson)
    assert graded_code(nbformat.writes(repaired.notebook), tmp_path)["approx_kl"].endswith("#thenewest")
    marked_cell = next(one for one in marked(repaired.notebook) if grade_id(one) == "approx_kl")
    assert marked_cell.source.endswith("# the newest")


def test_pasted_pictures_stay(lesson):
    picture = {"plot.png": {"image/png": "iVBORw0KGgo="}, "page.html": {"text/html": "<script>"}, "bad": 3}
    notebook = changed(
        lesson.solved, to("clip-bound", lambda one: one.update(attachments=picture)), each(strip_metadata)
    )
    repaired = check_sound(notebook, lesson)
    answer = next(one for one in marked(repaired.notebook) if grade_id(one) == "clip-bound")
    assert answer.attachments == {"plot.png": {"image/png": "iVBORw0KGgo="}}


def test_sentences_are_few(lesson):
    operations = [each(strip_metadata), delete("check-approx_kl"), reverse, each(strip_id)]
    assert len(check_sound(changed(lesson.solved, *operations), lesson).said) <= 3
