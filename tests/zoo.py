"""Submissions of lesson 04 of every kind, each with the marks that it must get.

An entry changes either a notebook in which everything is right and both questions are answered (`whole`), or the released
one, into which only some functions are written (`part`, which is quick to grade). `files` hands in anything. In sources
@NAMES@ stand for places and marks of the class that is graded, see `Place`.
"""

from __future__ import annotations

import copy
import json
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
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

POINTS = {"clipped_policy_loss": 5, "clip_fraction": 3, "approx_kl": 2, "clipped_value_loss": 4, "ppo_loss": 1}
EVERYTHING = tuple(POINTS)
ANSWERS = ("clip-bound", "first-minibatch")
NAME = "ppo_clipping.ipynb"


@dataclass
class Place:
    """What a hostile submission would like to know.

    Attributes:
        course: the course directory.
        secret: the file with the course's secret.
        home: the teacher's home.
        canary: a folder in which nothing may appear; it holds a file `read_me`.
        temporary: a folder for temporary files, which is empty before and after.
        port: a server on this machine that nobody should reach.
        judge: number of a process outside.
        mark: a text that nothing else has in its name.
        solved, stub: notebooks.
    """

    course: Path
    secret: Path
    home: Path
    canary: Path
    temporary: Path
    port: int
    judge: int
    mark: str
    solved: dict
    stub: dict

    def fill(self, source: str) -> str:
        """A source with the names of places."""
        for name in ("course", "secret", "home", "canary", "port", "judge", "mark"):
            source = source.replace(f"@{name.upper()}@", str(getattr(self, name)))
        return source


@dataclass(frozen=True)
class Entry:
    """A submission and its verdict.

    Attributes:
        name: the student's.
        hand_in: writes the submission into a folder.
        earns: the exercises that get their points; all others get none.
        why: exercise → a word of status, diagnosis or message.
        answers: the questions that wait for a mark.
        problem: a word of the reason why nothing could be read.
        repaired: a word of what was repaired; None: nothing was.
        needs: the protection without which this is not tried, a key of `autograder.sandbox.PROMISES`.
    """

    name: str
    hand_in: Callable[[Place, Path], None]
    earns: tuple[str, ...] = ()
    why: dict[str, str] = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    problem: str = ""
    repaired: str | None = None
    needs: str = ""


ZOO: list[Entry] = []


def whole(name: str, *operations, lost: dict[str, str] | None = None, answers=ANSWERS, file=NAME, **golden) -> None:
    """Everything is right but for what is done to it; `lost` says which exercises get no points, and why."""
    earns = tuple(one for one in EVERYTHING if one not in (lost or {}))

    def hand_in(place: Place, folder: Path) -> None:
        write_file(folder / file, changed(place.solved, *operations))

    ZOO.append(Entry(name, hand_in, earns, lost or {}, answers, **golden))


def part(name: str, functions: dict[str, str], earns=(), why=None, cells=(), **golden) -> None:
    """Only some functions are written, after some more cells; a function that earns something has none of `why`."""

    def hand_in(place: Place, folder: Path) -> None:
        written = [to(one, write(place.fill(source))) for one, source in functions.items()]
        more = insert(2, *(code(place.fill(source)) for source in cells))
        write_file(folder / NAME, changed(place.stub, *written, more))

    ZOO.append(Entry(name, hand_in, tuple(earns), why or {}, **golden))


def files(name: str, make: Callable[[Place], dict[str, object]], **golden) -> None:
    """Files: notebooks, texts, bytes."""

    def hand_in(place: Place, folder: Path) -> None:
        for path, content in make(place).items():
            write_file(folder / path, content)

    ZOO.append(Entry(name, hand_in, **golden))


def folder(name: str, make: Callable[[Place, Path], object], **golden) -> None:
    """Whatever `make` does to the folder."""
    ZOO.append(Entry(name, make, **golden))


def mutant(source: str, *changes: tuple[str, str]) -> str:
    """A function with some of its text replaced; the text must be there."""
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    return source


def before_return(source: str, *lines: str) -> str:
    """A function that does something first."""
    return mutant(source, ("    return ", "".join(f"    {line}\n" for line in lines) + "    return "))


def write_file(path: Path, content: object) -> None:
    """A notebook, a text or bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


# right functions, short

LOSS = """def ppo_loss(policy_loss, value_loss, entropy, value_coef, entropy_coef):
    return policy_loss + value_coef * value_loss - entropy_coef * entropy"""
KL = """def approx_kl(logprobs, old_logprobs, mask):
    d = (logprobs - old_logprobs)[mask]
    return (d.expm1() - d).mean().item()"""
POLICY = """def clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio = torch.exp(logprobs[mask] - old_logprobs[mask].detach())
    a = advantages[mask].detach()
    return -torch.min(ratio * a, torch.clamp(ratio, 1 - clip_range, 1 + clip_range) * a).mean()"""
FRACTION = """def clip_fraction(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio, a = torch.exp((logprobs - old_logprobs)[mask]), advantages[mask]
    cut = (ratio > 1 + clip_range) & (a > 0) | (ratio < 1 - clip_range) & (a < 0)
    return cut.float().mean().item()"""
VALUE = """def clipped_value_loss(values, old_values, returns, mask, clip_range):
    v, old, r = values[mask], old_values[mask].detach(), returns[mask].detach()
    near = old + (v - old).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((v - r) ** 2, (near - r) ** 2).mean()"""
SHORT = dict(zip(EVERYTHING, (POLICY, FRACTION, KL, VALUE, LOSS), strict=True))


def written(**functions: str):
    """Write functions into a notebook."""

    def change(notebook: dict) -> None:
        for name, source in functions.items():
            cell(notebook, name)["source"] = source

    return change


# honest work in several styles

whole("honest")
whole("honest-short", written(**SHORT))
whole("honest-own-cells", insert(2, code("print('hello')"), markdown("My notes.")), insert(9, code("x = [1, 2]")))
whole(
    "honest-loops",
    written(
        clipped_policy_loss="""def clipped_policy_loss(lp, old, adv, mask, eps):
    terms = []
    for b in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            if mask[b, t]:
                rho = torch.exp(lp[b, t] - old[b, t].detach())
                a = adv[b, t].detach()
                terms.append(torch.minimum(rho * a, rho.clamp(1 - eps, 1 + eps) * a))
    return -sum(terms) / len(terms)""",
        approx_kl="""def approx_kl(lp, old, mask):
    total, count = 0.0, 0
    for row, other, keep in zip(lp.tolist(), old.tolist(), mask.tolist()):
        for a, b, k in zip(row, other, keep):
            if k:
                total += math.exp(a - b) - 1 - (a - b)
                count += 1
    return total / count""",
    ),
    insert(2, code("import math")),
)
whole(
    "honest-float64",
    written(
        clipped_value_loss="""def clipped_value_loss(values, old_values, returns, mask, clip_range):
    v, old, r = values[mask].double(), old_values[mask].detach().double(), returns[mask].detach().double()
    near = old + (v - old).clamp(-clip_range, clip_range)
    return (0.5 * torch.maximum((v - r) ** 2, (near - r) ** 2).mean()).float()""",
        clip_fraction=mutant(FRACTION, ("cut.float()", "cut.double()")),
    ),
)
whole(
    "honest-numpy",
    written(
        clip_fraction="""def clip_fraction(logprobs, old_logprobs, advantages, mask, clip_range):
    m = mask.numpy()
    rho, a = np.exp((logprobs - old_logprobs).numpy()[m]), advantages.numpy()[m]
    return np.mean(((rho > 1 + clip_range) & (a > 0)) | ((rho < 1 - clip_range) & (a < 0)))""",
        approx_kl="""def approx_kl(logprobs, old_logprobs, mask):
    d = (logprobs - old_logprobs).numpy()[mask.numpy()].astype(np.float64)
    return np.mean(np.expm1(d) - d)""",
    ),
    insert(2, code("import numpy as np")),
)
whole(
    "honest-helpers",
    written(
        clipped_policy_loss="""def clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio, a = my_ratio(logprobs, old_logprobs, mask), advantages[mask].detach()
    return -torch.min(ratio * a, ratio.clamp(ONE - clip_range, ONE + clip_range) * a).mean()""",
        approx_kl="""def approx_kl(logprobs, old_logprobs, mask):
    r = my_ratio(logprobs, old_logprobs, mask)
    return (r - ONE - r.log()).mean().item()""",
    ),
    insert(2, code("ONE = 1.0\n\n\ndef my_ratio(new, old, mask):\n    return (new[mask] - old[mask].detach()).exp()")),
)
whole(
    "honest-callables",
    written(
        ppo_loss="ppo_loss = lambda p, v, h, cv, ch: p + cv * v - ch * h",
        approx_kl="""class Estimate:
    def __call__(self, logprobs, old_logprobs, mask):
        d = (logprobs - old_logprobs)[mask]
        return torch.mean(torch.expm1(d) - d)

approx_kl = Estimate()""",
        clip_fraction="""from functools import partial, wraps

def plain(function):
    @wraps(function)
    def inner(*args):
        return function(*args)
    return inner

@plain
"""
        + mutant(FRACTION, ("def clip_fraction(", "def share(extra, "))
        + "\n\nclip_fraction = partial(share, None)",
    ),
)
whole("honest-all-in-one-cell", written(**SHORT), merge(*EVERYTHING), repaired="share a cell")
whole(
    "honest-unicode",
    written(ppo_loss="def ppo_loss(π, 値, Ñ, α, β):\n    λόγος = π + α * 値\n    return λόγος - β * Ñ"),
)
whole("honest-syntax-error-elsewhere", written(**SHORT), insert(2, code("for x in ((:\n")))
whole("honest-one-answer", written(**SHORT), to("clip-bound", write("YOUR ANSWER HERE")), answers=("first-minibatch",))
whole("honest-answer-erased", written(**SHORT), to("clip-bound", write("   ")), answers=("first-minibatch",))
whole(
    "honest-global-state",
    written(**SHORT),
    insert(2, code("torch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\ntorch.set_num_threads(4)")),
)
whole(
    "honest-experiments",
    written(**SHORT),
    insert(
        2,
        code("!pip install nothing\nname = input('who are you?')"),
        code("%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()"),
        code("while True:\n    pass"),
        code("import sys\nsys.exit(3)"),
        code("raise ValueError('stop')"),
        code("import urllib.request\nurllib.request.urlopen('http://example.org')"),
    ),
)
part("honest-magic", {"ppo_loss": "%%time\n" + LOSS}, ["ppo_loss"])
part("honest-exec", {"ppo_loss": f"exec('''{LOSS}''')"}, ["ppo_loss"])
part(
    "honest-warnings",
    {
        "ppo_loss": before_return(
            LOSS, "import sys, warnings", "warnings.warn('hm')", "print('no', file=sys.stderr)", "print(1)"
        )
    },
    ["ppo_loss"],
)
part(
    "honest-wrong-one-before",
    {"ppo_loss": LOSS},
    ["ppo_loss"],
    cells=[mutant(LOSS, ("- entropy_coef", "+ entropy_coef"))],
)
part("o'brien", {"ppo_loss": LOSS}, ["ppo_loss"])
part("Zoë Müller-Łuk", {"ppo_loss": LOSS}, ["ppo_loss"])

# partly done

part("part-nothing", {})
part("part-one", {"ppo_loss": LOSS}, ["ppo_loss"], {"approx_kl": "not written"})
part("part-two", {"ppo_loss": LOSS, "clip_fraction": FRACTION}, ["ppo_loss", "clip_fraction"])
part("part-pass", {"ppo_loss": "def ppo_loss(*args):\n    pass"}, (), {"ppo_loss": "missing"})
part("part-commented-out", {"ppo_loss": "# " + LOSS.replace("\n", "\n# ")}, (), {"ppo_loss": "missing"})
whole(
    "part-answers-only",
    written(**{name: f"def {name}(*args):\n    raise NotImplementedError" for name in EVERYTHING}),
    lost=dict.fromkeys(EVERYTHING, "missing"),
)

# wrong in known ways

CUT = "cut = (ratio > 1 + clip_range) & (a > 0) | (ratio < 1 - clip_range) & (a < 0)"
CLAMPED = "torch.clamp(ratio, 1 - clip_range, 1 + clip_range)"
PLUS = mutant(LOSS, ("- entropy_coef", "+ entropy_coef"))
whole(
    "wrong-known",
    written(
        clipped_policy_loss=mutant(POLICY, (f"torch.min(ratio * a, {CLAMPED} * a)", f"({CLAMPED} * a)")),
        clip_fraction=mutant(FRACTION, (CUT, "cut = (ratio - 1).abs() > clip_range")),
        approx_kl=mutant(KL, ("logprobs - old_logprobs", "old_logprobs - logprobs")),
        clipped_value_loss=mutant(VALUE, ("maximum", "minimum")),
        ppo_loss=PLUS,
    ),
    lost={
        "clipped_policy_loss": "clipped-term-only",
        "clip_fraction": "sign-ignored",
        "approx_kl": "reversed",
        "clipped_value_loss": "min-for-max",
        "ppo_loss": "entropy-added",
    },
)


def wrong(name: str, exercise: str, source: str, why: str, **golden) -> None:
    """One function is wrong."""
    part(f"wrong-{name}", {exercise: source}, (), {exercise: why}, **golden)


wrong("no-clip", "clipped_policy_loss", mutant(POLICY, (CLAMPED, "ratio")), "no-clip")
wrong("sign", "clipped_policy_loss", mutant(POLICY, ("-torch.min", "torch.min")), "wrong-sign")
wrong("mask-ignored", "approx_kl", mutant(KL, ("[mask]", "")), "mask-unused")
wrong(
    "no-gradient", "clipped_value_loss", mutant(VALUE, ("values[mask], old", "values[mask].detach(), old")), "gradient"
)
wrong(
    "into-data", "clipped_policy_loss", mutant(POLICY, ("advantages[mask].detach()", "advantages[mask]")), "advantages"
)
wrong(
    "in-place",
    "ppo_loss",
    mutant(LOSS, ("    return policy_loss +", "    policy_loss +=")) + "\n    return policy_loss",
    "in-place",
)
wrong("plain-number", "ppo_loss", mutant(LOSS, ("return ", "x = ")) + "\n    return x.item()", "a-plain-number")
wrong("last-of-two", "ppo_loss", f"{LOSS}\n\n\n{PLUS}", "entropy-added")

# wrong in ways of their own

wrong("constant", "ppo_loss", "def ppo_loss(*args):\n    return torch.tensor(0.5)", "failed")
wrong("none", "ppo_loss", mutant(LOSS, ("return ", "x = ")), "None")
wrong("shape", "ppo_loss", mutant(LOSS, ("return ", "return torch.ones(1) * ")), "shape")
wrong("nan", "approx_kl", "def approx_kl(*args):\n    return float('nan')", "number")
wrong("offset", "ppo_loss", LOSS + " + 1.0", "expected")
wrong("text", "approx_kl", "def approx_kl(*args):\n    return 'about 0.1'", "text")
wrong(
    "signature", "ppo_loss", "def ppo_loss(policy_loss, value_loss):\n    return policy_loss + value_loss", "TypeError"
)
wrong(
    "array",
    "ppo_loss",
    "import numpy\n\n" + mutant(LOSS, ("return ", "x = ")) + "\n    return numpy.asarray(x.detach())",
    "ndarray",
)
wrong(
    "half-precision",
    "approx_kl",
    mutant(KL, ("(logprobs - old_logprobs)", "(logprobs.half() - old_logprobs.half())")),
    "expected",
)
wrong("changes-state", "ppo_loss", before_return(LOSS, "torch.set_default_dtype(torch.float64)"), "default dtype")
wrong("changes-seed", "ppo_loss", before_return(LOSS, "torch.manual_seed(1)"), "random generator")


# broken code


def broken(name: str, exercise: str, source: str, why: str, **golden) -> None:
    """One function is broken; another, which is right, is not harmed."""
    other, right = ("ppo_loss", LOSS) if exercise == "approx_kl" else ("approx_kl", KL)
    part(f"broken-{name}", {exercise: source, other: right}, (other,), {exercise: why}, **golden)


broken("syntax", "ppo_loss", LOSS + " +", "parse")
broken("name", "ppo_loss", mutant(LOSS, ("entropy_coef * entropy", "coefficient * entropy")), "coefficient")
broken("helper-deleted", "approx_kl", "def approx_kl(a, b, m):\n    return my_helper(a, b, m)", "my_helper")
broken("recursion", "ppo_loss", "def ppo_loss(*args):\n    return ppo_loss(*args)", "RecursionError")
broken("import", "ppo_loss", "import no_such_package\n\n" + before_return(LOSS, "no_such_package.x"), "no_such_package")
broken("constant", "approx_kl", "SIZE = [][0]\n\n" + before_return(KL, "d = d * SIZE"), "IndexError")
broken("exit-while-loading", "approx_kl", "SIZE = exit()\n\n" + before_return(KL, "d = d * SIZE"), "error")
broken("input", "ppo_loss", before_return(LOSS, "input()"), "input()")

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
    "file-in-folder", lambda p: {f"my/work/{NAME}": with_loss(p)}, earns=("ppo_loss",), repaired="found in the folder"
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


# hostile: what tampers with the comparison

HEAD = "def ppo_loss(policy_loss, value_loss, entropy, value_coef, entropy_coef):\n"
WRONG = "    return policy_loss * 0"
RIGHT = "    return policy_loss + value_coef * value_loss - entropy_coef * entropy"


def indented(source: str) -> str:
    """A source, four columns further in."""
    return textwrap.indent(source.strip("\n"), "    ")


def tamper(name: str, source: str, why: str = "", cells=(), needs: str = "", earlier: str = "") -> None:
    """A wrong function that does something first; another exercise, which is right, is not harmed."""
    function = f"{earlier}{HEAD}{indented(source)}\n{WRONG}"
    part(name, {"ppo_loss": function, "approx_kl": KL}, ["approx_kl"], {"ppo_loss": why}, cells, needs=needs)


def spy(name: str, source: str, needs: str = "reading") -> None:
    """A function that is right only if it got something; another exercise is not harmed."""
    tamper(name, f"got = None\ntry:\n{indented(source)}\nexcept Exception:\n    pass\nif got:\n{RIGHT}", needs=needs)


def vandal(name: str, source: str, needs: str = "") -> None:
    """A right function that damages something on the way; what counts is that there is no trace of it."""
    body = f"try:\n{indented(source)}\nexcept BaseException:\n    pass"
    functions = {"ppo_loss": f"{HEAD}{indented(body)}\n{RIGHT}", "approx_kl": KL}
    part(name, functions, ["ppo_loss", "approx_kl"], needs=needs)


tamper(
    "patch-comparisons",
    """
import numpy, torch
nothing = lambda *args, **kwargs: None
numpy.testing.assert_allclose = numpy.testing.assert_equal = torch.testing.assert_close = nothing
torch.allclose = torch.equal = torch.isclose = numpy.allclose = lambda *args, **kwargs: True
""",
)
tamper("patch-doctest", "import doctest\ndoctest.OutputChecker.check_output = lambda *args: True")
tamper(
    "patch-grader",
    """
import sys
for name, module in list(sys.modules.items()):
    if name.startswith("autograder"):
        for key in ("judge", "difference", "alike", "close", "observe", "unchanged", "record", "describe", "named"):
            if hasattr(module, key):
                setattr(module, key, lambda *args, **kwargs: None)
""",
)
tamper("patch-tensor", "torch.Tensor.__eq__ = lambda self, other: True\ntorch.Tensor.detach = lambda self: self")
tamper(
    "patch-builtins",
    """
import builtins
builtins.abs = builtins.min = builtins.max = lambda *args: 0
builtins.isinstance = lambda *args: True
""",
)
tamper(
    "patch-asserts",
    "",
    cells=[
        """import ast
class NoAsserts(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()
get_ipython().ast_transformers.append(NoAsserts())
get_ipython().showtraceback = lambda *args, **kwargs: None"""
    ],
)
part(
    "always-equal",
    {"ppo_loss": "def ppo_loss(*args):\n    return Equal()", "approx_kl": "def approx_kl(*args):\n    return Equal()"},
    why=dict.fromkeys(("ppo_loss", "approx_kl"), "object of type Equal"),
    cells=[
        """class Equal(float):
    def __eq__(self, other):
        return True
    __ne__ = __lt__ = __gt__ = lambda self, other: False
    __le__ = __ge__ = __eq__
    __hash__ = float.__hash__
    def __array__(self, *args, **kwargs):
        raise SystemExit
    def __getattr__(self, name):
        return self
    def __call__(self, *args, **kwargs):
        return self"""
    ],
)
part(
    "tensor-subclass",
    {"ppo_loss": "def ppo_loss(p, *args):\n    return torch.zeros(()).as_subclass(Always)"},
    why={"ppo_loss": "subclass"},
    cells=[
        """class Always(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return torch.tensor(True)"""
    ],
)
tamper("exit-quietly", "import sys\nsys.exit(0)", "SystemExit")
tamper("exit-at-once", "import os\nos._exit(0)", "ends the process")
tamper("kill-itself", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "error")
tamper("segfault", "import ctypes\nctypes.string_at(0)", "SIGSEGV")
tamper("interrupt", "raise KeyboardInterrupt", "error")
tamper("strange-exception", "class Odd(BaseException):\n    def __str__(self):\n        raise self\nraise Odd", "Odd")
tamper("markup-in-message", "raise ValueError('<script>alert(1)</script>' * 3)", "alert")
tamper("endless-message", "raise ValueError('x' * 10**6)", "ValueError")
tamper("stub-in-disguise", "raise NotImplementedError", "missing")

# hostile: what depends on being graded

MODULES = ("judge", "classroom", "nbgrader")
VARIABLES = ("NBGRADER", "COURSE", "JUPYTERHUB")
tamper("knows-the-environment", f"import os\nif any(v in one for one in os.environ for v in {VARIABLES}):\n{RIGHT}")
tamper("knows-the-grader", f"import sys\nif any(m in one for one in sys.modules for m in {MODULES}):\n{RIGHT}")
tamper("guess-until-green", f"import os\nif os.urandom(1)[0] % 2:\n{RIGHT}", "failed")
tamper("first-call-only", f"calls.append(1)\nif len(calls) < 2:\n{RIGHT}", "failed", earlier="calls = []\n\n")
tamper("good-for-ten-calls", f"calls.append(1)\nif len(calls) < 11:\n{RIGHT}", "failed", earlier="calls = []\n\n")
tamper("good-until-2020", f"import time\nif time.time() < 1.58e9:\n{RIGHT}", "failed")


def prepared(place: Place, folder: Path) -> None:
    """Answers to the public inputs, by what stands in them."""
    from autograder.calls import cases_of
    from autograder.exercise import find

    exercise, table = find("approx_kl")[1], {}
    for case in cases_of(exercise, 0):
        new, old, mask = case.args
        table[str([round(x, 3) for x in new[mask].tolist()])] = exercise.reference(new, old, mask)
    source = f"""TABLE = {table!r}

def approx_kl(logprobs, old_logprobs, mask):
    return TABLE.get(str([round(x, 3) for x in logprobs[mask].tolist()]), 0.1)"""
    write_file(folder / NAME, changed(with_loss(place), written(approx_kl=source)))


folder("answers-prepared", prepared, earns=("ppo_loss",), why={"approx_kl": "prepared"})

# hostile: what wants to read

ARGUMENTS = "policy_loss, value_loss, entropy, value_coef, entropy_coef"
tamper(
    "reference-imported",
    f"from rlhf_core.ppo import ppo_loss as theirs\nreturn theirs({ARGUMENTS})",
    "uses-the-reference",
)
part(
    "reference-as-own",
    {
        "ppo_loss": "from rlhf_core.ppo import ppo_loss",
        "approx_kl": "import rlhf_core.ppo\napprox_kl = rlhf_core.ppo.approx_kl",
    },
    why=dict.fromkeys(("ppo_loss", "approx_kl"), "uses-the-reference"),
)
tamper(
    "reference-by-source",
    f"""
import inspect, rlhf_core.ppo
space = {{**globals(), **vars(rlhf_core.ppo)}}
exec(inspect.getsource(rlhf_core.ppo.ppo_loss), space)
return space["ppo_loss"]({ARGUMENTS})
""",
)
tamper(
    "reference-by-memory",
    f"""
import gc
if not calls:
    calls.append(1)
    for one in gc.get_objects():
        if type(one).__name__ == "function" and one.__name__ == "ppo_loss" and "rlhf_core" in str(one.__module__):
            calls.append(one)
if len(calls) > 1:
    return calls[1]({ARGUMENTS})
""",
    earlier="calls = []\n\n",
)
tamper(
    "reference-by-loader",
    f"""
import importlib.util
spec = importlib.util.find_spec("rlhf_core.ppo")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
return module.ppo_loss({ARGUMENTS})
""",
)
tamper(
    "banks-imported",
    f"""
from autograder.exercise import bank
one = next(e for e in bank("lesson_04").EXERCISES if e.name == "ppo_loss")
return one.reference({ARGUMENTS})
""",
)
spy(
    "banks-read",
    "import autograder, os\ngot = open(os.path.dirname(autograder.__file__) + '/lesson_04/exercises.py').read()",
)
tamper(
    "frames-searched",
    f"""
import sys
frame = sys._getframe()
while frame:
    for name, one in list(frame.f_locals.items()):
        if name in ("expected", "want", "reference") and callable(one):
            return one({ARGUMENTS})
        if name == "seen" and hasattr(one, "values"):
            one.values["result"] = policy_loss.detach().double() * 0
            one.kinds["result"] = "float tensor"
    frame = frame.f_back
""",
)
spy("own-notebook-read", "import glob\ngot = glob.glob('**/*.ipynb', recursive=True) + glob.glob('../*/*.ipynb')")
spy("solution-read", "got = open('@COURSE@/solutions/lesson_04/ppo_clipping.ipynb').read()")
spy("released-read", "got = open('@COURSE@/lessons/lesson_04/ppo_clipping.ipynb').read()")
spy("other-submission-read", "got = open('@COURSE@/submitted/early/lesson_04/ppo_clipping.ipynb').read()")
spy("other-submissions-listed", "import glob\ngot = glob.glob('@COURSE@/submitted/*/lesson_04/*')")
spy(
    "gradebook-read",
    """
import sqlite3
got = sqlite3.connect('file:@COURSE@/gradebook.db?mode=ro', uri=True).execute('select * from grade').fetchall()
""",
)
spy("verdicts-read", "import os\ngot = os.listdir('@COURSE@/.grading/verdicts')")
spy("secret-read", "got = open('@SECRET@').read()")
spy("secret-in-the-environment", "import os\ngot = os.environ.get('RLHF_COURSE_SECRET')")
spy("environment-of-others", "import os\ngot = open(f'/proc/{os.getppid()}/environ').read()")
spy("home-read", "import os\ngot = os.listdir('@HOME@')")
spy("passwords-read", "got = open('/etc/passwd').read()")
spy("canary-read", "got = open('@CANARY@/read_me').read()")
spy("canary-by-link", "import os\nos.path.lexists('l') or os.symlink('@CANARY@/read_me', 'l')\ngot = open('l').read()")
spy("judge-signalled", "import os\nos.kill(@JUDGE@, 0)\ngot = True", "processes")
spy("judge-read", "got = open('/proc/@JUDGE@/cmdline').read()", "processes")
spy(
    "network-loopback",
    "import socket\nsocket.create_connection(('127.0.0.1', @PORT@), 1).close()\ngot = True",
    "network",
)
spy(
    "network-datagram",
    """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'@MARK@', ('127.0.0.1', @PORT@))
got = True
""",
    "network",
)
spy(
    "network-by-url",
    "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:@PORT@/@MARK@', timeout=1)\ngot = True",
    "network",
)

# hostile: what wants to write, or to stay

vandal(
    "gradebook-written",
    """
import sqlite3
db = sqlite3.connect('@COURSE@/gradebook.db')
db.execute('update grade set manual_score = 5, auto_score = 5')
db.commit()
""",
    "writing",
)
vandal("gradebook-deleted", "import os\nos.unlink('@COURSE@/gradebook.db')", "writing")
vandal("gradebook-truncated", "open('@COURSE@/gradebook.db', 'w').close()", "writing")
vandal(
    "submission-overwritten",
    "open('@COURSE@/submitted/early/lesson_04/ppo_clipping.ipynb', 'w').write('{}')",
    "writing",
)
vandal("submission-of-its-own", "open('@COURSE@/submitted/early/lesson_04/@MARK@.ipynb', 'w').write('{}')", "writing")
vandal("verdicts-written", "open('@COURSE@/.grading/verdicts/@MARK@.json', 'w').write('{}')", "writing")
vandal(
    "verdicts-emptied",
    "import glob\nfor path in glob.glob('@COURSE@/.grading/verdicts/*'):\n    open(path, 'w').close()",
    "writing",
)
vandal("canary-written", "open('@CANARY@/@MARK@', 'w').write('x')", "writing")
vandal("home-written", "open('@HOME@/@MARK@', 'w').write('x')", "writing")
vandal("grader-overwritten", "import autograder\nopen(autograder.__path__[0] + '/@MARK@', 'w').close()", "writing")
vandal("packages-overwritten", "open(torch.__path__[0] + '/@MARK@', 'w').close()", "writing")
vandal(
    "files-for-later",
    """
import os, sys
for folder in ('/tmp', '/var/tmp', '/dev/shm', os.path.expanduser('~'), '.', *sys.path):
    try:
        open(os.path.join(folder, '@MARK@'), 'w').write('x')
    except OSError:
        pass
""",
    "writing",
)
vandal("files-by-thousands", "for i in range(2000):\n    open(f'file{i}', 'w').write('x')", "disk")
vandal(
    "a-giant-file",
    "with open('giant', 'wb') as file:\n    for i in range(100):\n        file.write(bytes(2**20))",
    "disk",
)
vandal("folders-without-end", "import os\nfor i in range(300):\n    os.mkdir('x')\n    os.chdir('x')")
vandal("fork-bomb", "import os\nfor i in range(6):\n    os.fork()", "programs")
vandal(
    "daemon",
    """
import os, time
if os.fork() == 0:
    os.setsid()
    os.chdir('@CANARY@')
    time.sleep(60)
    os._exit(0)
""",
    "programs",
)
vandal(
    "program-left",
    "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', '@MARK@'])",
    "programs",
)
vandal("shell", "import os\nos.system('touch @CANARY@/@MARK@')", "programs")
vandal(
    "threads",
    "import threading, time\nfor i in range(1000):\n    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "threads",
)
vandal("at-exit", "import atexit\natexit.register(lambda: open('@CANARY@/@MARK@', 'w').write('x'))", "writing")
vandal(
    "signals-ignored",
    """
import signal
for one in signal.valid_signals():
    try:
        signal.signal(one, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
""",
)
vandal("output-flood", "import sys\nfor i in range(100):\n    print('x' * 10**5)\n    sys.stderr.write('y' * 10**5)")
vandal("descriptors-closed", "import os\nos.closerange(0, 3)")

# hostile: what wants to be believed

tamper(
    "frames-forged",
    """
import os
from autograder import wire
head = wire.framed(wire.pack({"trouble": [], "found": True, "ending": "done", "loaded": True, "notes": []}))
for fd in range(3, 64):
    try:
        os.write(fd, head * 3 + wire.framed(b"{}") * 50)
    except OSError:
        pass
os._exit(0)
""",
)
tamper(
    "garbage-on-descriptors",
    """
import os
for fd in range(64):
    try:
        os.write(fd, bytes([255]) * 5000)
    except OSError:
        pass
""",
)
tamper(
    "pickle-returned",
    "return Bomb()",
    "object of type Bomb",
    cells=['class Bomb:\n    def __reduce__(self):\n        return open, ("@CANARY@/@MARK@", "w")'],
)
tamper("giant-result", "return torch.zeros(10**7)", "elements")
tamper("giant-list", "return [0] * 10**6", "list")
tamper("many-giant-results", "return {str(i): torch.zeros(10**6) for i in range(4)}", "dict")
tamper("memory-bomb", "kept = []\nwhile True:\n    kept.append(bytearray(2**28))", needs="memory")
tamper("memory-bomb-at-once", "torch.ones(10**12)", "error", needs="memory")

# hostile: what does not end

tamper("endless-loop", "while True:\n    pass", "timeout")
tamper(
    "endless-loop-that-swallows",
    """
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
""",
    "timeout",
)
tamper("endless-sleep", "import time\ntime.sleep(10**6)", "timeout")
broken(
    "endless-while-loading",
    "ppo_loss",
    "def slow():\n    while True:\n        pass\n\nTABLE = slow()\n\n" + before_return(LOSS, "TABLE"),
    "timeout",
)
