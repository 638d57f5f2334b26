"""Hostile: what tampers with the comparison, or depends on being graded."""

from __future__ import annotations

import textwrap
from pathlib import Path

from breakages import changed
from zoo import KL, NAME, Place, folder, part, write_file, written
from zoo_files import with_loss

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
