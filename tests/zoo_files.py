"""Notebooks and files that editors, front ends and people have broken."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

from breakages import (
    cell,
    changed,
    code,
    delete,
    duplicate,
    each,
    insert,
    markdown,
    merge,
    move,
    old_format,
    random_id,
    retype,
    reverse,
    set_metadata,
    split,
    strip_id,
    strip_metadata,
    swap_marks,
    to,
    update_marks,
    write,
)
from zoo import (
    ANSWERS,
    EVERYTHING,
    FRACTION,
    KL,
    LOSS,
    NAME,
    SHORT,
    ZOO,
    Entry,
    Place,
    files,
    folder,
    mutant,
    whole,
    write_file,
    written,
)

# notebooks that editors, front ends and people have broken

# what acts if a page shows it as it is
MARKUP = (
    "<script>act()</script> <img src=x onerror=act()> <iframe srcdoc='<script>act()</script>'></iframe> "
    "<svg onload=act()></svg> <a href='javascript:act()'>here</a> <form action=act><input name=act></form> <b>bold</b>"
)


def notebook(name: str, *operations, lost=(), **golden) -> None:
    """Three functions and both answers are right; then something is done to the notebook."""
    functions = {name: SHORT[name] for name in ("approx_kl", "clip_fraction", "ppo_loss")}

    def hand_in(place: Place, folder: Path) -> None:
        answers = [to(one, write("My answer.")) for one in ANSWERS]
        write_file(folder / NAME, changed(place.stub, written(**functions), *answers, *operations))

    earns = tuple(one for one in functions if one not in lost)
    golden.setdefault("answers", ANSWERS)
    ZOO.append(Entry(f"notebook-{name}", hand_in, earns, dict.fromkeys(lost, "missing"), **golden))


notebook("metadata-stripped", each(strip_metadata), repaired="brought back")
notebook("all-stripped", each(strip_metadata), each(strip_id), repaired="brought back")
notebook("random-ids", each(random_id))
notebook("metadata-is-null", each(set_metadata(None)), repaired="brought back")
notebook("checks-deleted", delete(*(f"check-{name}" for name in EVERYTHING)), repaired="missing")
notebook("function-deleted", delete("clip_fraction"), lost=["clip_fraction"], repaired="missing")
notebook("answer-deleted", delete("clip-bound"), answers=("first-minibatch",), repaired="missing")
notebook("function-duplicated", duplicate("approx_kl", 1), repaired="several times")
notebook("cell-split", split("approx_kl", "    return"), repaired="split")
notebook("cell-split-without-marks", split("clip_fraction", "    return", copied=False), repaired="split")
notebook("cells-merged", merge("clip_fraction", "approx_kl"), repaired="share a cell")
notebook("function-as-markdown", to("approx_kl", retype("markdown")), repaired="another type")
notebook("check-as-markdown", to("check-approx_kl", retype("markdown")), repaired="another type")
notebook("answer-as-code", to("clip-bound", retype("code")), repaired="another type")
notebook("check-edited", to("check-approx_kl", write("assert True")), repaired="check cells")
notebook("reversed", reverse)
notebook("function-moved", move("clip_fraction", 99))
notebook("marks-swapped", swap_marks("approx_kl", "clip_fraction"), repaired="brought back")
notebook("points-edited", to("check-ppo_loss", update_marks(points=100)), repaired="brought back")
notebook("format-3", old_format)
notebook("lone-surrogate", insert(2, code("x = '\ud800'")))
notebook("many-cells", insert(2, *(code(f"x = {i}") for i in range(1000))))
notebook("everything-twice", lambda n: n.update(cells=n["cells"] + copy.deepcopy(n["cells"])), repaired="several times")
notebook(
    "answer-below",
    to("clip-bound", write("YOUR ANSWER HERE")),
    insert(("clip-bound", 1), markdown("Mine.")),
    repaired="other cells",
)
notebook(
    "markup",
    insert(2, markdown(MARKUP), code("# " + MARKUP), {"cell_type": "raw", "source": MARKUP, "metadata": {}}),
    insert(2, markdown("![plot](attachment:gone.png) <script>act()</script>")),
    to("clip-bound", write(MARKUP)),
)

# files


def with_loss(place: Place) -> dict:
    """The released notebook with one function."""
    return changed(place.stub, written(ppo_loss=LOSS))


whole("file-renamed", written(**SHORT), file="ppo_clipping (1).ipynb", repaired="called ppo_clipping.ipynb again")
files(
    "file-with-txt",
    lambda p: {f"{NAME}.txt": with_loss(p)},
    earns=("ppo_loss",),
    repaired="called ppo_clipping.ipynb again",
)
files(
    "file-in-folder",
    lambda p: {f"my/homework/{NAME}": with_loss(p)},
    earns=("ppo_loss",),
    repaired="found in the folder",
)
files(
    "file-beside-stub",
    lambda p: {NAME: p.stub, "b.ipynb": with_loss(p)},
    earns=("ppo_loss",),
    repaired="several notebooks",
)
files(
    "file-stub-behind",
    lambda p: {NAME: changed(with_loss(p), insert(99, cell(p.stub, "ppo_loss")))},
    earns=("ppo_loss",),
    repaired="empty copies",
)
files(
    "file-answers-elsewhere",
    lambda p: {NAME: with_loss(p), "a.ipynb": changed(p.stub, to("clip-bound", write("Mine.")))},
    earns=("ppo_loss",),
    answers=("clip-bound",),
    repaired="comes from a.ipynb",
)
files(
    "file-functions-in-two",
    lambda p: {
        NAME: changed(with_loss(p), written(approx_kl=KL)),
        "b.ipynb": changed(p.stub, written(clip_fraction=FRACTION)),
    },
    earns=("ppo_loss", "approx_kl", "clip_fraction"),
    repaired="several notebooks",
)
files(
    "file-module-beside",
    lambda p: {
        NAME: changed(
            p.stub, written(ppo_loss="import helpers\n\ndef ppo_loss(*args):\n    return helpers.total(*args)")
        ),
        "helpers.py": mutant(LOSS, ("ppo_loss", "total")),
    },
    earns=("ppo_loss",),
)
files(
    "file-script",
    lambda p: {"a.py": f"import torch\n\n\n{LOSS}\n\n\n{KL}"},
    earns=("ppo_loss", "approx_kl"),
    repaired="Python files",
)
files("file-BOM", lambda p: {NAME: b"\xef\xbb\xbf" + json.dumps(with_loss(p)).encode()}, earns=("ppo_loss",))
files(
    "file-bad-timestamp",
    lambda p: {NAME: with_loss(p), "timestamp.txt": "yesterday"},
    earns=("ppo_loss",),
    repaired="holds no time",
)
files(
    "file-another-lesson",
    lambda p: {"gae.ipynb": {"cells": [code("def gae(*a):\n    return a")]}},
    repaired="another lesson",
)
files("file-empty", lambda p: {NAME: ""}, problem="empty")
files("file-no-json", lambda p: {NAME: "{'cells': []}"}, problem="JSON")
files("file-cut-short", lambda p: {NAME: json.dumps(p.solved)[:5000]}, problem="JSON")
files("file-bytes", lambda p: {NAME: bytes(range(256)) * 100}, problem="JSON")
files("file-nested", lambda p: {NAME: "[" * 500_000}, problem="nested")
files("file-endless", lambda p: {NAME: changed(p.stub, insert(2, code("x = 1\n" * 20_000)))}, problem="lines of code")
files("file-zip", lambda p: {"homework.zip": b"PK\3\4"}, problem="archive")
files("file-word", lambda p: {"homework.docx": b"PK\3\4"}, problem="homework.docx")
folder("folder-empty", lambda p, f: None, problem="no notebook")
folder("folder-called-ipynb", lambda p, f: (f / NAME).mkdir(), problem="no notebook")
if hasattr(os, "mkfifo"):
    folder("folder-pipe", lambda p, f: os.mkfifo(f / NAME), problem="neither a file nor a folder")
folder(
    "link-to-solution", lambda p, f: (f / NAME).symlink_to(p.course / "solutions/lesson_04" / NAME), problem="is a link"
)
folder("link-to-folder", lambda p, f: (f / "work").symlink_to(p.course / "solutions/lesson_04"), problem="is a link")
folder("link-to-gradebook", lambda p, f: (f / NAME).symlink_to(p.course / "gradebook.db"), problem="is a link")


def link_as_module(place: Place, folder: Path) -> None:
    """A module that is a link to what the teacher has."""
    source = "import stolen\n\ndef ppo_loss(*args):\n    return stolen.total(*args)"
    write_file(folder / NAME, changed(place.stub, written(ppo_loss=source)))
    write_file(place.canary / "stolen.py", mutant(LOSS, ("ppo_loss", "total")))
    (folder / "stolen.py").symlink_to(place.canary / "stolen.py")


folder("link-as-module", link_as_module, why={"ppo_loss": "stolen"}, repaired="is a link")
