"""Odd and broken files and folders: each row is a submission, with the verdict that it earns and what must be said."""

from __future__ import annotations

import json
import os

import pytest
from grading import RIGHT, STUB, WRONG, code_cell, notebook, verdict_of

HEAD = "def ppo_loss(policy, value, entropy, a, b):\n"


def bare(*sources: object, **more) -> str:
    """A notebook of cells that hold nothing but what they must."""
    return json.dumps({"cells": [{"cell_type": "code", "source": s} for s in sources], **more})


def older(*sources: object, **more) -> str:
    """A notebook of a format before 4."""
    cells = [{"cell_type": "code", "language": "python", "input": source, "outputs": []} for source in sources]
    return json.dumps({"worksheets": [{"cells": cells}], "metadata": {"name": ""}, **more})


def with_type(kind: str, source: str) -> str:
    """A notebook with one cell that is no code cell."""
    return json.dumps({"cells": [{"cell_type": kind, "source": source, "metadata": {}}], "nbformat": 4})


LINES = RIGHT.splitlines(keepends=True)
BIG = [{"output_type": "stream", "name": "stdout", "text": ["x" * 10**6] * 25}]

# name → (file name, its content, status, words of the message)
FILES = {
    "format 4.5": ("a.ipynb", json.dumps({"cells": [code_cell(RIGHT, id="a1")], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}), "passed", ""),
    "format 4.0": ("a.ipynb", notebook(RIGHT, nbformat_minor=0), "passed", ""),
    "format 3": ("a.ipynb", older(RIGHT, nbformat=3, nbformat_minor=0), "passed", ""),
    "format 3 in lines": ("a.ipynb", older(LINES, nbformat=3, nbformat_minor=0), "passed", ""),
    "format 2": ("a.ipynb", older(RIGHT, nbformat=2), "passed", ""),
    "format 1": ("a.ipynb", json.dumps({"cells": [{"cell_type": "code", "input": RIGHT}], "nbformat": 1}), "passed", ""),
    "no types": ("a.ipynb", json.dumps({"cells": [{"source": "# Some text"}, {"source": RIGHT}]}), "passed", ""),
    "types in capitals": ("a.ipynb", json.dumps({"cells": [{"cell_type": "Code", "source": RIGHT}]}), "passed", ""),
    "format of the future": ("a.ipynb", notebook(RIGHT, nbformat=9), "passed", ""),
    "no format": ("a.ipynb", bare(RIGHT), "passed", ""),
    "metadata of another form": ("a.ipynb", bare(RIGHT, metadata=[1], nbformat="4"), "passed", ""),
    "source in lines": ("a.ipynb", notebook(LINES), "passed", ""),
    "source in lines without ends": ("a.ipynb", notebook(RIGHT.splitlines()), "passed", ""),
    "source with odd parts": ("a.ipynb", bare([LINES[0], None, 3, LINES[1]]), "passed", ""),
    "source of another form": ("a.ipynb", bare({"text": "x"}, 3, None, RIGHT), "passed", ""),
    "cells of another form": ("a.ipynb", json.dumps({"cells": [None, 3, "x", [], code_cell(RIGHT)]}), "passed", ""),
    "worksheets of another form": ("a.ipynb", bare(RIGHT, worksheets=3), "passed", ""),
    "same id twice": ("a.ipynb", json.dumps({"cells": [code_cell("x = 1", id="a"), code_cell(RIGHT, id="a")]}), "passed", ""),
    "keys twice": ("a.ipynb", '{"cells": [], "cells": ' + json.dumps([code_cell(RIGHT)]) + "}", "passed", ""),
    "large outputs": ("a.ipynb", json.dumps({"cells": [code_cell(RIGHT, outputs=BIG)]}), "passed", ""),
    "code in a markdown cell": ("a.ipynb", with_type("markdown", RIGHT), "missing", "ppo_loss stands in a markdown cell"),
    "code in a raw cell": ("a.ipynb", with_type("raw", RIGHT), "missing", "ppo_loss stands in a raw cell"),
    "mark of the byte order": ("a.ipynb", b"\xef\xbb\xbf" + notebook(RIGHT).encode(), "passed", ""),
    "UTF-16": ("a.ipynb", notebook(RIGHT + "# λ").encode("utf-16"), "passed", ""),
    "UTF-16 without a mark": ("a.ipynb", notebook(RIGHT).encode("utf-16-le"), "passed", ""),
    "UTF-32": ("a.ipynb", notebook(RIGHT).encode("utf-32"), "passed", ""),
    "Latin-1": ("a.ipynb", json.dumps({"cells": [code_cell(RIGHT + "# é")]}, ensure_ascii=False).encode("latin-1"), "passed", ""),
    "NUL bytes": ("a.ipynb", b"\0\0" + notebook(RIGHT).encode() + b"\0", "passed", ""),
    "Windows line ends": ("a.ipynb", notebook(RIGHT.replace("\n", "\r\n"), indent=1).replace("\n", "\r\n"), "passed", ""),
    "old Mac line ends": ("a.ipynb", notebook(RIGHT.replace("\n", "\r")), "passed", ""),
    "raw line ends in texts": ("a.ipynb", notebook(RIGHT).replace("\\n", "\n"), "passed", ""),
    "no suffix": ("homework", notebook(RIGHT), "passed", ""),
    "capital suffix": ("A.IPYNB", notebook(RIGHT), "passed", ""),
    "odd name": ("a\udcff\x1b[2J.ipynb", "", "missing", "it is empty"),
    "copy's name": ("ppo clipping (1)-Copy2.ipynb", notebook(RIGHT), "passed", ""),
    "empty": ("a.ipynb", "", "missing", "it is empty"),
    "blanks": ("a.ipynb", " \n", "missing", "it is empty"),
    "no JSON": ("a.ipynb", "hello", "missing", "not valid JSON"),
    "cut off": ("a.ipynb", notebook(RIGHT)[:-20], "missing", "not valid JSON"),
    "merge conflict": ("a.ipynb", "{\n<<<<<<< HEAD\n" + notebook(RIGHT) + "\n=======\n}\n>>>>>>> mine\n", "missing", "merge conflict"),
    "deep JSON": ("a.ipynb", '{"cells": ' + "[" * 10**5 + "]" * 10**5 + "}", "missing", "is not a notebook"),
    "JSON list": ("a.ipynb", json.dumps([code_cell(RIGHT)]), "missing", "is not a notebook"),
    "JSON number": ("a.ipynb", "3", "missing", "is not a notebook"),
    "no cells": ("a.ipynb", "{}", "missing", "without cells"),
    "empty cells": ("a.ipynb", '{"cells": []}', "missing", "without cells"),
    "binary": ("a.ipynb", bytes(range(256)) * 10, "missing", "is not a notebook"),
    "picture": ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "missing", "neither a notebook nor a Python file"),
    # Python files
    "script": ("a.py", RIGHT, "passed", ""),
    "script without suffix": ("homework.txt", RIGHT, "passed", ""),
    "script with a mark": ("a.py", b"\xef\xbb\xbf" + RIGHT.encode(), "passed", ""),
    "script in UTF-16": ("a.py", RIGHT.encode("utf-16"), "passed", ""),
    "script in Latin-1": ("a.py", "# -*- coding: latin-1 -*-\n# é\n".encode("latin-1") + RIGHT.encode(), "passed", ""),
    "script with Windows line ends": ("a.py", RIGHT.replace("\n", "\r\n"), "passed", ""),
    "script with cells": ("a.py", "# %% [markdown]\n# text\n# %%\n" + RIGHT, "passed", ""),
    "script with a broken cell": ("a.py", "# %%\ndef broken(:\n# %%\n" + RIGHT, "passed", ""),
    "script with magics": ("a.py", "%matplotlib inline\n!ls\n" + RIGHT, "passed", ""),
    "script exported": ("a.py", "#!/usr/bin/env python\n# In[1]:\nget_ipython().run_line_magic('time', '')\n# In[2]:\n" + RIGHT, "passed", ""),
    "script with a broken function": ("a.py", "def other(x):\n    return (x\n\n" + RIGHT, "passed", ""),
    "script broken here": ("a.py", "import torch\n\n" + HEAD + "    return (policy\n\ndef other():\n    return 1\n", "error", "a.py, line"),
    "script that ends": ("a.py", RIGHT + "import sys\nsys.exit()\n", "passed", ""),
    "main guard": ("a.py", RIGHT + f"if __name__ == '__main__':\n    import time\n    time.sleep(3600)\n    {WRONG.splitlines()[0]}\n        return 1\n", "passed", ""),
    "empty script": ("a.py", "", "missing", "no code cell defines"),
    "notebook called a script": ("a.py", notebook(RIGHT), "passed", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_file(name, tmp_path, worker):
    file, content, status, words = FILES[name]
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    verdict = verdict_of(path, worker)
    assert (verdict.status, words in verdict.message) == (status, True), verdict
    assert status != "passed" or words or not verdict.message, verdict


HELPER = "def total(p, v, a):\n    return p + a * v\n"
USES_HELPER = "    return total(policy, value, a) - b * entropy\n"
OTHER = "def approx_kl(logprobs, old, mask):\n    d = (logprobs - old)[mask]\n    return (d.exp() - 1 - d).mean()\n"

# name → (path in the folder → content, status, words of the message)
FOLDERS = {
    "one notebook": ({"a.ipynb": notebook(RIGHT)}, "passed", ""),
    "folder of lessons": ({"lesson_03/a.ipynb": notebook(WRONG), "lesson_04/a.ipynb": notebook(RIGHT)}, "passed", ""),
    "only other lessons": ({"lesson_03/a.ipynb": notebook("x = 1")}, "missing", "no code cell defines"),
    "folder in a folder": ({"homework/final/a.ipynb": notebook(RIGHT)}, "passed", ""),
    "checkpoints": ({"a.ipynb": notebook(RIGHT), ".ipynb_checkpoints/z.ipynb": notebook(WRONG)}, "passed", ""),
    "only checkpoints": ({".ipynb_checkpoints/a.ipynb": notebook(RIGHT)}, "missing", "no notebook"),
    "a copy of the stub": ({"a.ipynb": notebook(RIGHT), "z.ipynb": notebook(STUB)}, "passed", ""),
    "a stub and a script": ({"z.ipynb": notebook(STUB), "a.py": RIGHT}, "passed", ""),
    "two notebooks": ({"a.ipynb": notebook(WRONG), "z.ipynb": notebook(RIGHT)}, "passed", "the last one, in z.ipynb cell 1, was graded"),
    "two halves": ({"a.ipynb": notebook(OTHER), "z.ipynb": notebook(RIGHT)}, "passed", ""),
    "a namesake": ({"a/x.ipynb": notebook(WRONG), "b/x.ipynb": notebook(RIGHT)}, "passed", "in b/x.ipynb cell 1"),
    "each with its helper": ({"a.ipynb": notebook(HELPER, HEAD + USES_HELPER), "z.ipynb": notebook("def total(): pass", OTHER)}, "passed", ""),
    "helper in another notebook": ({"a.ipynb": notebook(HELPER), "z.ipynb": notebook(HEAD + USES_HELPER)}, "passed", ""),
    "one that is broken": ({"a.ipynb": notebook(RIGHT), "z.ipynb": "hello"}, "passed", ""),
    "the one that is broken": ({"a.ipynb": notebook(OTHER), "z.ipynb": "hello"}, "missing", "z.ipynb is not a notebook"),
    "all are broken": ({"a.ipynb": "", "z.ipynb": "hello"}, "missing", "a.ipynb is not a notebook"),
    "module beside": ({"a.ipynb": notebook("from helpers import total", HEAD + USES_HELPER), "helpers.py": HELPER}, "passed", ""),
    "module's function": ({"a.ipynb": notebook("from helpers import ppo_loss"), "helpers.py": RIGHT}, "passed", ""),
    "module's stars": ({"a.ipynb": notebook("from helpers import *"), "helpers.py": RIGHT}, "passed", ""),
    "module as a name": ({"a.ipynb": notebook("import helpers as h", HEAD + "    return h.total(policy, value, a) - b * entropy\n"), "helpers.py": HELPER}, "passed", ""),
    "module of a module": ({"a.ipynb": notebook("from one import total", HEAD + USES_HELPER), "one.py": "from two import total", "two.py": HELPER}, "passed", ""),
    "module that is run": ({"a.ipynb": notebook("%run helpers.py", HEAD + USES_HELPER), "helpers.py": HELPER}, "passed", ""),
    "module that is missing": ({"a.ipynb": notebook("from helpers import ppo_loss")}, "error", "helpers"),
    "module that is broken": ({"a.ipynb": notebook("from helpers import ppo_loss"), "helpers.py": "def ("}, "error", "helpers"),
    "only text": ({"readme.md": "hello"}, "missing", "no notebook and no Python file"),
    "nothing": ({}, "missing", "no notebook and no Python file"),
    "somebody's packages": ({"a.ipynb": notebook(RIGHT), "venv/lib/x.py": WRONG, "node_modules/y.py": WRONG}, "passed", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_folder(name, tmp_path, worker):
    files, status, words = FOLDERS[name]
    for place, content in files.items():
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    verdict = verdict_of(tmp_path, worker)
    assert (verdict.status, words in verdict.message) == (status, True), verdict
    assert status != "passed" or words or not verdict.message, verdict


def linked(folder, target="elsewhere.ipynb"):
    """A link to a right notebook outside of the submission."""
    outside = folder.parent / "elsewhere.ipynb"
    outside.write_text(notebook(RIGHT))
    (folder / "a.ipynb").symlink_to(folder.parent / target)


def beside_a_link(folder):
    linked(folder)
    (folder / "b.ipynb").write_text(notebook(RIGHT))


def linked_folder(folder):
    outside = folder.parent / "there"
    outside.mkdir()
    (outside / "a.ipynb").write_text(notebook(RIGHT))
    (folder / "more").symlink_to(outside, target_is_directory=True)


def loop(folder):
    (folder / "a.ipynb").write_text(notebook(RIGHT))
    (folder / "up").symlink_to(folder, target_is_directory=True)
    (folder / "up.ipynb").symlink_to(folder)


def pipe(folder):
    os.mkfifo(folder / "a.ipynb")


def pipe_and_notebook(folder):
    os.mkfifo(folder / "a.ipynb")
    (folder / "b.ipynb").write_text(notebook(RIGHT))


def folder_called_notebook(folder):
    (folder / "a.ipynb").mkdir()
    (folder / "a.ipynb" / "b.ipynb").write_text(notebook(RIGHT))


def crowd(folder):
    for number in range(301):
        (folder / f"{number}.ipynb").write_text(notebook(RIGHT))


# name → (what makes the folder, which path is handed in, status, words of the message)
SPECIAL = {
    "link in the folder": (linked, ".", "missing", "is a link; hand in the file itself"),
    "link itself": (linked, "a.ipynb", "missing", "is a link"),
    "link to nothing": (lambda folder: linked(folder, "gone"), "a.ipynb", "missing", "is a link"),
    "notebook beside a link": (beside_a_link, ".", "passed", ""),
    "link to a folder": (linked_folder, ".", "missing", "is a link"),
    "link to a folder itself": (linked_folder, "more", "missing", "is a link"),
    "links upwards": (loop, ".", "passed", ""),
    "pipe": (pipe, ".", "missing", "neither a file nor a folder"),
    "pipe itself": (pipe, "a.ipynb", "missing", "neither a file nor a folder"),
    "notebook beside a pipe": (pipe_and_notebook, ".", "passed", ""),
    "folder called notebook": (folder_called_notebook, ".", "passed", ""),
    "too many": (crowd, ".", "missing", "more than 300"),
    "device": (lambda folder: None, "/dev/zero", "missing", "neither a file nor a folder"),
    "nothing there": (lambda folder: None, "no_such_file.ipynb", "missing", "does not exist"),
    "no path": (lambda folder: None, "a\0b", "missing", "does not exist"),
    "long path": (lambda folder: None, "x" * 5000, "missing", "name too long"),
}  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="links and pipes need rights there")
@pytest.mark.parametrize("name", SPECIAL)
def test_special(name, tmp_path, worker):
    make, place, status, words = SPECIAL[name]
    folder = tmp_path / "homework"
    folder.mkdir()
    make(folder)
    verdict = verdict_of(folder / place, worker)
    assert (verdict.status, words in verdict.message) == (status, True), verdict
