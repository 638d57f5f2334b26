"""Odd and broken submissions: each row is one, with the verdict that it earns and what must be said."""

from __future__ import annotations

import json
import os

import pytest
from grading import RIGHT, STUB, WRONG, code_cell, notebook, verdict_of, verdict_on_cells

from autograder.runner import Worker

HEAD = "def ppo_loss(policy, value, entropy, a, b):\n"
TYPED = "def ppo_loss(policy: Float[Tensor, ''], value: Unknown, entropy, a: float, b) -> Nowhere:\n"
BODY = "    return policy + a * value - b * entropy\n"
HOUR = "import time\ntime.sleep(3600)\n"


@pytest.fixture(scope="module")
def worker():
    """One process for all; it waits as long as no test needs, so that one that waits is found."""
    one = Worker(seconds=5)
    yield one
    one.stop()


# name → (the notebook's code cells, status, words of the message)
CELLS = {
    # what is not written yet
    "no cells that matter": (["x = 1"], "missing", "no code cell defines ppo_loss"),
    "stub that raises": ([STUB], "missing", "not written yet"),
    "stub with a message": ([HEAD + "    raise NotImplementedError('later')\n"], "missing", "not written yet"),
    "stub that raises the class": ([HEAD + "    raise NotImplementedError\n"], "missing", "not written yet"),
    "stub with pass": ([HEAD + "    pass\n"], "missing", "not written yet"),
    "stub with dots": ([HEAD + "    ...\n"], "missing", "not written yet"),
    "stub with a docstring": ([HEAD + '    """Loss."""\n'], "missing", "not written yet"),
    "stub that returns None": ([HEAD + '    """Loss."""\n    return None\n'], "missing", "not written yet"),
    "stub with a comment": ([HEAD + '    """Loss."""\n    # YOUR CODE HERE\n    pass\n'], "missing", "not written yet"),
    "stub with only a comment": ([HEAD + "    # YOUR CODE HERE\n"], "error", "does not parse"),
    "stub on one line": (["def ppo_loss(*args): ..."], "missing", "not written yet"),
    "async stub": (["async " + STUB], "missing", "not written yet"),
    "dots in place of a function": (["ppo_loss = ..."], "missing", "not written yet"),
    "None in place of a function": (["ppo_loss = None"], "missing", "not written yet"),
    "a number in place of a function": (["ppo_loss = 3"], "missing", "cell 1 calls ppo_loss is no function"),
    "a made number in place of a function": (["ppo_loss = int('3')"], "missing", "is no function"),
    "half written": ([HEAD + "    total = policy + a * value\n    raise NotImplementedError()\n"], "missing", "cell 1, line 3"),
    "a helper that is a stub": (["def total(*x):\n    raise NotImplementedError()\n", HEAD + "    return total(policy)\n"], "missing", "cell 1, line 2"),
    "no return": ([HEAD + "    total = policy + a * value - b * entropy\n"], "failed", "is a return missing"),
    "stub below the function": ([RIGHT, STUB], "missing", "cell 2, is still the stub and hides the one in cell 1"),
    "a branch left out": ([HEAD + "    if b > 0:\n        return policy + a * value - b * entropy\n"], "failed", "None"),
    # all the ways to make a function
    "plain": ([RIGHT], "passed", ""),
    "wrong": ([WRONG], "failed", ""),
    "lambda": (["ppo_loss = lambda p, v, h, a, b: p + a * v - b * h"], "passed", ""),
    "lambda with a type": (["ppo_loss: object = lambda p, v, h, a, b: p + a * v - b * h"], "passed", ""),
    "partial": (["from functools import partial\ndef all_in(s, p, v, h, a, b):\n    return s * (p + a * v - b * h)\nppo_loss = partial(all_in, 1)"], "passed", ""),
    "object that is called": (["class Loss:\n    def __call__(self, p, v, h, a, b):\n        return p + a * v - b * h\n", "ppo_loss = Loss()"], "passed", ""),
    "bound method": (["class Loss:\n    def f(self, p, v, h, a, b):\n        return p + a * v - b * h\nppo_loss = Loss().f"], "passed", ""),
    "static method": (["class Loss:\n    @staticmethod\n    def f(p, v, h, a, b):\n        return p + a * v - b * h\nppo_loss = Loss.f"], "passed", ""),
    "torch module": (["from torch import nn\nclass Loss(nn.Module):\n    def forward(self, p, v, h, a, b):\n        return p + a * v - b * h\nppo_loss = Loss()"], "passed", ""),
    "class with the name": (["class ppo_loss:\n    def __init__(self, *args): pass\n"], "failed", "an object of type ppo_loss"),
    "class that gives a result": (["class ppo_loss:\n    def __new__(cls, p, v, h, a, b):\n        return p + a * v - b * h\n"], "passed", ""),
    "async": (["async " + RIGHT], "failed", "coroutine"),
    "generator": ([RIGHT.replace("return", "yield")], "failed", "generator"),
    "closure": (["def make(sign):\n    def loss(p, v, h, a, b):\n        return p + a * v + sign * b * h\n    return loss\nppo_loss = make(-1)"], "passed", ""),
    "decorated": (["import functools\ndef quiet(f):\n    @functools.wraps(f)\n    def inner(*x):\n        return f(*x)\n    return inner\n", "@quiet\n" + RIGHT], "passed", ""),
    "decorated by torch": (["import torch\n@torch.enable_grad()\n" + RIGHT], "passed", ""),
    "decorated by no_grad": (["import torch\n@torch.no_grad()\n" + RIGHT], "failed", "No gradient"),
    "TorchScript": (["import torch\n@torch.jit.script\ndef ppo_loss(p, v, h, a: float, b: float):\n    return p + a * v - b * h\n"], "passed", ""),
    "compiled": (["import torch\n@torch.compile\n" + RIGHT], "passed", ""),
    "alias": (["def my_loss(p, v, h, a, b):\n    return p + a * v - b * h\n", "ppo_loss = my_loss"], "passed", ""),
    "two names at once": (["x, ppo_loss = 1, lambda p, v, h, a, b: p + a * v - b * h"], "passed", ""),
    "chained names": (["f = ppo_loss = lambda p, v, h, a, b: p + a * v - b * h"], "passed", ""),
    "walrus": (["(ppo_loss := lambda p, v, h, a, b: p + a * v - b * h)"], "passed", ""),
    "chosen by if": (["fast = True", "if fast:\n    ppo_loss = lambda p, v, h, a, b: p + a * v - b * h\nelse:\n    ppo_loss = None"], "passed", ""),
    "inside if": (["if True:\n" + "".join("    " + line + "\n" for line in RIGHT.splitlines())], "passed", ""),
    "inside try": (["try:\n    import no_such_module\nexcept ImportError:\n    ppo_loss = lambda p, v, h, a, b: p + a * v - b * h"], "passed", ""),
    "inside with": (["import torch\nwith torch.no_grad():\n    ppo_loss = lambda p, v, h, a, b: p + a * v - b * h"], "passed", ""),
    "inside for": (["for sign in (1, -1):\n    ppo_loss = lambda p, v, h, a, b, sign=sign: p + a * v + sign * b * h"], "passed", ""),
    "from a table": (["LOSSES = {'ppo': lambda p, v, h, a, b: p + a * v - b * h}", "ppo_loss = LOSSES['ppo']"], "passed", ""),
    "by exec": ([f"exec({RIGHT!r})"], "passed", ""),
    "by exec of a text": ([f"code = {RIGHT!r}\nexec(code)"], "passed", ""),
    "by exec with a helper": (["def total(p, v, a):\n    return p + a * v\n", "exec('def ppo_loss(p, v, h, a, b):\\n    return total(p, v, a) - b * h')"], "passed", ""),
    "by globals": (["globals()['ppo_loss'] = lambda p, v, h, a, b: p + a * v - b * h"], "passed", ""),
    "by a name put together": (["def build(p, v, h, a, b):\n    return p + a * v - b * h\n", "globals()['ppo' + '_loss'] = build"], "passed", ""),
    "by setattr": (["import sys\nsetattr(sys.modules['__main__'], 'ppo_loss', lambda p, v, h, a, b: p + a * v - b * h)"], "passed", ""),
    "by global": (["def define():\n    global ppo_loss\n    ppo_loss = lambda p, v, h, a, b: p + a * v - b * h\n", "define()"], "passed", ""),
    "arguments renamed": (["def ppo_loss(x, y, z, c, d): return x + c * y - d * z"], "passed", ""),
    "arguments as a tuple": (["def ppo_loss(*x): return x[0] + x[3] * x[1] - x[4] * x[2]"], "passed", ""),
    "too few arguments": (["def ppo_loss(p, v): return p + v"], "error", "TypeError"),
    "float64 inside": ([HEAD + "    return (policy.double() + a * value.double() - b * entropy.double()).float()"], "passed", ""),
    # several definitions
    "the last one counts": ([WRONG, RIGHT], "passed", "defined 2 times; the last one, in cell 2, was graded"),
    "the last one counts, wrong": ([RIGHT, WRONG], "failed", "the last one, in cell 2, was graded"),
    "the same twice": ([RIGHT, RIGHT], "passed", ""),
    "twice in a cell": ([WRONG + RIGHT], "passed", "defined 2 times"),
    "overwritten by its result": ([RIGHT, "import torch\nx = torch.ones(())\nppo_loss = ppo_loss(x, x, x, 1, 1)"], "passed", ""),
    "overwritten by a number": ([RIGHT, "ppo_loss = 3"], "passed", ""),
    "overwritten by something made": ([RIGHT, "ppo_loss = int('3')"], "passed", "no function any more after cell 2"),
    "overwritten in a loop": ([RIGHT, f"for step in range(3):\n    ppo_loss = step\n    {HOUR.splitlines()[0]}\n    time.sleep(3600)"], "passed", ""),
    "deleted": ([RIGHT, "del ppo_loss"], "passed", ""),
    "wrapped later": ([RIGHT, "import torch\nppo_loss = torch.no_grad()(ppo_loss)"], "failed", "No gradient"),
    "wrapped by hand": ([RIGHT, "old = ppo_loss\ndef ppo_loss(*x):\n    return old(*x)\n"], "passed", "the last one, in cell 2"),
    "made by a factory of the same name": (["def ppo_loss():\n    def loss(p, v, h, a, b):\n        return p + a * v - b * h\n    return loss\n", "ppo_loss = ppo_loss()"], "passed", ""),
    # helpers
    "helper above": (["def total(p, v, a):\n    return p + a * v\n", HEAD + "    return total(policy, value, a) - b * entropy\n"], "passed", ""),
    "helper below": ([HEAD + "    return total(policy, value, a) - b * entropy\n", "def total(p, v, a):\n    return p + a * v\n"], "passed", ""),
    "helper with the name of a builtin": (["def sum(p, v, a):\n    return p + a * v\n", HEAD + "    return sum(policy, value, a) - b * entropy\n"], "passed", ""),
    "builtin overwritten by a usage cell": ([HEAD + "    return sum([policy, a * value, -b * entropy])\n", "sum = 0\nfor x in range(3):\n    sum += x"], "passed", ""),
    "helper of a helper": (["def one(v, a):\n    return a * v\n", "def total(p, v, a):\n    return p + one(v, a)\n", HEAD + "    return total(policy, value, a) - b * entropy\n"], "passed", ""),
    "recursion": (["def total(xs):\n    return xs[0] + total(xs[1:]) if xs else 0\n", HEAD + "    return total([policy, a * value, -b * entropy])\n"], "passed", ""),
    "mutual recursion": (["def even(xs):\n    return xs[0] + odd(xs[1:]) if xs else 0\n", "def odd(xs):\n    return xs[0] + even(xs[1:]) if xs else 0\n", HEAD + "    return even([policy, a * value, -b * entropy])\n"], "passed", ""),
    "helper missing": ([HEAD + "    return total(policy)\n"], "error", "NameError: name 'total' is not defined in cell 1, line 2"),
    "helper in a broken cell": (["def total(x:\n    return x\n", HEAD + "    return total(policy)\n"], "error", "total stands in a cell that does not parse"),
    "import in a broken cell": (["import torch\nfor", HEAD + "    return torch.as_tensor(policy + a * value - b * entropy)\n"], "error", "torch stands in a cell that does not parse"),
    "helper defined anew": (["def total(p, v, a):\n    return p\n", HEAD + "    return total(policy, value, a) - b * entropy\n", "def total(p, v, a):\n    return p + a * v\n"], "passed", ""),
    "helper overwritten by its result": (["def total(p, v, a):\n    return p + a * v\n", HEAD + "    return total(policy, value, a) - b * entropy\n", "total = total(1, 2, 3)"], "passed", ""),
    "helper overwritten by training": (["def total(p, v, a):\n    return p + a * v\n", HEAD + "    return total(policy, value, a) - b * entropy\n", "import time\nfor step in range(9):\n    total = step\n    time.sleep(3600)"], "passed", ""),
    "helper overwritten by a tensor": (["import torch\ndef total(p, v, a):\n    return p + a * v\n", HEAD + "    return total(policy, value, a) - b * entropy\n", "total = torch.ones(3)"], "passed", "total is no function any more"),
    "value of the name of a helper": (["def scale(n):\n    return [1.0] * n\n", "scale = scale(3)", HEAD + "    return policy + scale[0] * a * value - b * entropy\n"], "passed", ""),
    "helper patched": (["def total(p, v, a):\n    return p + total.scale * a * v\n", "total.scale = 1", HEAD + "    return total(policy, value, a) - b * entropy\n"], "passed", ""),
    "counter in the function": ([HEAD + "    ppo_loss.calls += 1\n" + BODY, "ppo_loss.calls = 0"], "passed", ""),
    "global counter": (["calls = 0\n" + HEAD + "    global calls\n    calls += 1\n" + BODY], "passed", ""),
    "method added to torch": (["import torch\ntorch.Tensor.plus = lambda self, x: self + x", HEAD + "    return policy.plus(a * value) - b * entropy\n"], "passed", ""),
    "cached": (["from functools import lru_cache\n@lru_cache\ndef sign():\n    return -1\n", HEAD + "    return policy + a * value + sign() * b * entropy\n"], "passed", ""),
    # constants
    "constant": (["SIGN = -1", HEAD + "    return policy + a * value + SIGN * b * entropy\n"], "passed", ""),
    "constant below": ([HEAD + "    return policy + a * value + SIGN * b * entropy\n", "SIGN = -1"], "passed", ""),
    "constant set anew": (["SIGN = 1", HEAD + "    return policy + a * value + SIGN * b * entropy\n", "SIGN = -1"], "passed", ""),
    "constant of a loop": (["SIGN = 5\nfor _ in range(6):\n    SIGN -= 1", HEAD + "    return policy + a * value + SIGN * b * entropy\n"], "passed", ""),
    "constant of while": (["SIGN = 5\nwhile SIGN > -1:\n    SIGN = SIGN - 1", HEAD + "    return policy + a * value + SIGN * b * entropy\n"], "passed", ""),
    "constant reused by a long loop": (["SIGN = -1", HEAD + "    return policy + a * value + SIGN * b * entropy\n", "import time\nfor SIGN in (1, 2):\n    time.sleep(3600)"], "passed", ""),
    "table filled by a loop": (["SIGNS = {}\nfor name, sign in (('v', 1), ('h', -1)):\n    SIGNS[name] = sign", HEAD + "    return policy + SIGNS['v'] * a * value + SIGNS['h'] * b * entropy\n"], "passed", ""),
    "list filled by a loop": (["SIGNS = []\nfor sign in (1, -1):\n    SIGNS.append(sign)", HEAD + "    return policy + SIGNS[0] * a * value + SIGNS[1] * b * entropy\n"], "passed", ""),
    "table filled by a call": (["SIGNS = {}\ndef fill(table):\n    table['h'] = -1\n", "fill(SIGNS)", HEAD + "    return policy + a * value + SIGNS['h'] * b * entropy\n"], "passed", ""),
    "constant that needs a definition": (["def build():\n    return -1\n", "SIGN = build()", HEAD + "    return policy + a * value + SIGN * b * entropy\n"], "passed", ""),
    "constant from a tensor": (["import torch\nSIGN = torch.tensor([1.0, -1.0])[1]", HEAD + "    return policy + a * value + SIGN * b * entropy\n"], "passed", ""),
    "default that needs a constant": (["SIGN = -1", "def ppo_loss(p, v, h, a, b, sign=SIGN):\n    return p + a * v + sign * b * h\n"], "passed", ""),
    "constant with the name of a builtin": (["max = -1", HEAD + "    return policy + a * value + max * b * entropy\n"], "passed", ""),
    "enum": (["from enum import Enum\nclass Sign(Enum):\n    MINUS = -1\n", HEAD + "    return policy + a * value + Sign.MINUS.value * b * entropy\n"], "passed", ""),
    "dataclass": (["from dataclasses import dataclass\n@dataclass\nclass Weights:\n    a: float\n    b: float\n", HEAD + "    w = Weights(a, b)\n    return policy + w.a * value - w.b * entropy\n"], "passed", ""),
    "dataclass with late annotations": (["from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Weights:\n    a: float\n", HEAD + "    return policy + Weights(a).a * value - b * entropy\n"], "passed", ""),
    "named tuple": (["from typing import NamedTuple\nclass Weights(NamedTuple):\n    a: float\n", HEAD + "    return policy + Weights(a).a * value - b * entropy\n"], "passed", ""),
    "constant that takes an hour to fill": (["import time\nSIGNS = {}\ndef fill(table):\n    time.sleep(3600)\n", "fill(SIGNS)", HEAD + "    return policy + a * value + SIGNS['h'] * b * entropy\n"], "error", "KeyError"),
    # annotations and imports
    "jaxtyping": (["from jaxtyping import Float\nfrom torch import Tensor\n" + RIGHT.replace("policy,", "policy: Float[Tensor, ''],")], "passed", ""),
    "late annotations": (["from __future__ import annotations", TYPED + BODY], "passed", ""),
    "annotations of names that do not exist": ([TYPED + BODY], "passed", "line 1 has Float in an annotation, and nothing defines it"),
    "star import": (["from torch import *", HEAD + "    return add(policy, a * value) - b * entropy\n"], "passed", ""),
    "import inside": ([HEAD + "    import torch\n    return torch.add(policy, a * value) - b * entropy\n"], "passed", ""),
    "import in a try": (["try:\n    import cupy as xp\nexcept ImportError:\n    import torch as xp", HEAD + "    return xp.add(policy, a * value) - b * entropy\n"], "passed", ""),
    "import that installs": (["try:\n    import einops_of_old\nexcept ImportError:\n    !pip install einops_of_old\n    import torch as xp", HEAD + "    return xp.add(policy, a * value) - b * entropy\n"], "passed", ""),
    "import that is missing": (["import no_such_module as xp", HEAD + "    return xp.add(policy, value)\n"], "error", "no_such_module"),
    "import that nobody needs": (["import no_such_module", RIGHT], "passed", ""),
    "numpy": (["import numpy as np", HEAD + "    return policy + a * value - b * entropy + float(np.zeros(1)[0])\n"], "passed", ""),
    "dotted import": (["import torch.nn.functional as F\nimport torch.nn", HEAD + "    return policy + a * value - b * F.relu(entropy) + b * torch.nn.functional.relu(-entropy)\n"], "passed", ""),
    "own lesson's other function": (["from rlhf_core.policy import masked_mean", HEAD + BODY], "passed", ""),
    # magics and what else only a notebook has
    "time": (["%%time\n" + RIGHT], "passed", ""),
    "capture": (["%%capture out\n" + RIGHT], "passed", ""),
    "line magics": (["%load_ext autoreload\n%autoreload 2\n%matplotlib inline\n" + RIGHT], "passed", ""),
    "shell": (["!pip install -q torch \\\n  numpy\n" + RIGHT], "passed", ""),
    "pip without percent": (["pip install torch\n" + RIGHT], "passed", ""),
    "question": (["ppo_loss?\n" + RIGHT], "passed", ""),
    "shell into a name": (["files = !ls\n" + RIGHT], "passed", ""),
    "magic in a function": ([HEAD + "    %time total = 1\n" + BODY], "passed", ""),
    "a magic's look in a text": ([HEAD + '    """\n    %time is a magic, !ls too\n    """\n' + BODY], "passed", ""),
    "magics, brackets and texts": (["%matplotlib inline\nx = (3\n % 2)\ny = '''\n%time\n!ls don't\n'''\n" + RIGHT], "passed", ""),
    "bash cell": (["%%bash\nrm -rf everything", RIGHT], "passed", ""),
    "html cell": (["%%html\n<b>def ppo_loss(</b>", RIGHT], "passed", ""),
    "written module": (["%%writefile mine.py\n" + RIGHT, "from mine import ppo_loss"], "passed", ""),
    "get_ipython": (["if 'google.colab' in str(get_ipython()):\n    SIGN = 1\nelse:\n    SIGN = -1", HEAD + "    return policy + a * value + SIGN * b * entropy\n"], "passed", ""),
    "display inside": ([HEAD + "    display(policy)\n" + BODY], "passed", ""),
    "await": (["import asyncio\nawait asyncio.sleep(0)", RIGHT], "passed", ""),
    "prompt copied along": ([">>> def ppo_loss(p, v, h, a, b):\n...     return p + a * v - b * h\n"], "passed", ""),
    "indented cell": (["    def ppo_loss(p, v, h, a, b):\n        return p + a * v - b * h\n"], "passed", ""),
    "input at top level": (["name = input('your name')", RIGHT], "passed", ""),
    "input that is needed": (["SIGN = int(input('sign?'))", HEAD + "    return policy + SIGN * value\n"], "error", "SIGN"),
    "input inside": ([HEAD + "    input('go on?')\n" + BODY], "error", "nobody is there"),
    # work at top level
    "training of an hour": ([HOUR, RIGHT, "while True:\n    pass"], "passed", ""),
    "training that uses it": ([RIGHT, "import time\nfor _ in range(100):\n    loss = ppo_loss(1, 2, 3, 4, 5)\n    time.sleep(60)"], "passed", ""),
    "plots": (["import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()", RIGHT], "passed", ""),
    "exit at top level": (["import sys\nsys.exit(1)", RIGHT, "exit()", "quit()"], "passed", ""),
    "exit in the way": (["import sys\nSIGN = sys.exit(1)", HEAD + "    return SIGN * policy\n"], "error", "SIGN"),
    "hard exit in the way": (["import os\nSIGN = os._exit(1)", HEAD + "    return SIGN * policy\n"], "error", "cell 1, line 2"),
    "hangs in the way": (["import time\ndef wait():\n    time.sleep(3600)\nSIGN = wait()", HEAD + "    return SIGN * policy\n"], "timeout", "cell 1, line 4, before it could be called"),
    "check cells": ([RIGHT, "from autograder import check", "check(ppo_loss)"], "passed", ""),
    "main guard in a notebook": (["if __name__ == '__main__':\n    SIGN = -1", HEAD + "    return policy + a * value + SIGN * b * entropy\n"], "passed", ""),
    # broken cells
    "broken elsewhere": (["def other(:\n", RIGHT, "x = (1,\n"], "passed", ""),
    "broken here": (["import torch\n" + HEAD + "    return policy +\n"], "error", "(cell 1, line 3)"),
    "bad indentation": ([HEAD + "    total = policy\n  return total\n"], "error", "(cell 1, line 3)"),
    "tabs and spaces": ([HEAD + "    total = policy\n\treturn total\n"], "error", "does not parse"),
    "return outside": ([HEAD + "    total = policy\nreturn total\n"], "error", "'return' outside function (cell 1, line 3)"),
    "broken later": ([RIGHT, HEAD + "    return (policy\n"], "error", "(cell 2, line"),
    "mended later": ([HEAD + "    return (policy\n", RIGHT], "passed", ""),
    "Python 2": ([HEAD + "    print policy\n" + BODY], "error", "(cell 1, line 2)"),
    "far too much": ([RIGHT, "x = '" + "x" * 2**20 + "'", "def approx_kl(): return 1"], "passed", ""),
    "behind far too much": (["x = '" + "x" * 2**20 + "'", RIGHT], "error", "more code before it than is read (cell 2)"),
    "too deep": (["x = " + "(" * 5000 + ")" * 5000, RIGHT], "passed", ""),
    # state at top level neither helps nor hurts
    "float64 by default": (["import torch\ntorch.set_default_dtype(torch.float64)", RIGHT], "passed", ""),
    "no gradients": (["import torch\ntorch.set_grad_enabled(False)", RIGHT], "passed", ""),
    "seed": (["import torch, random\ntorch.manual_seed(1); random.seed(2)", RIGHT], "passed", ""),
    "device": (["import torch\nif True:\n    torch.set_default_device('meta')\n    def total(p, v, a): return p + a * v\n", HEAD + "    return total(policy, value, a) - b * entropy\n"], "passed", ""),
    "state that comes along": (["import torch, warnings, sys\nif True:\n    torch.set_default_dtype(torch.float64)\n    torch.set_grad_enabled(False)\n    torch.set_num_threads(3)\n    warnings.simplefilter('error')\n    sys.setrecursionlimit(10**6)\n    sys.stdout = None\n    def total(p, v, a): return p + a * v\n", HEAD + "    return total(policy, value, a) - b * entropy\n"], "passed", ""),
    "seed set inside": (["import torch\n" + HEAD + "    torch.manual_seed(0)\n" + BODY], "failed", "random generator"),
    "dtype set inside": (["import torch\n" + HEAD + "    torch.set_default_dtype(torch.float64)\n" + BODY], "failed", "default dtype"),
    "grad mode set inside": (["import torch\n" + HEAD + "    total = policy + a * value - b * entropy\n    torch.set_grad_enabled(False)\n    return total\n"], "failed", "grad mode"),
    "device set inside": (["import torch\n" + HEAD + "    torch.set_default_device('meta')\n" + BODY], "failed", "default device"),
    # noise
    "warning": (["import warnings\n" + HEAD + "    warnings.warn('careful')\n" + BODY], "passed", ""),
    "warnings are errors": (["import warnings\n" + HEAD + "    warnings.simplefilter('error')\n" + BODY], "passed", ""),
    "print": ([HEAD + "    print(policy)\n" + BODY], "passed", ""),
    "flood of output": ([HEAD + "    print('x' * 10**6)\n" + BODY], "passed", ""),
    "logging": (["import logging\nlogging.basicConfig(level=0)\nlog = logging.getLogger('mine')\n" + HEAD + "    log.warning('hello')\n" + BODY], "passed", ""),
    "progress bar": (["from tqdm import tqdm\n" + HEAD + "    for _ in tqdm(range(3)): pass\n" + BODY], "passed", ""),
    "output closed": (["import sys\n" + HEAD + "    sys.stdout = None\n    print('x')\n" + BODY], "passed", ""),
    "written file": ([HEAD + "    open('log.txt', 'a').write('x')\n" + BODY], "passed", ""),
    "traceback printed": (["import traceback\n" + HEAD + "    try:\n        1 / 0\n    except ZeroDivisionError:\n        traceback.print_exc()\n" + BODY], "passed", ""),
    # not the same every time
    "wrong on the second call": (["seen = []\n" + HEAD + "    seen.append(1)\n    return policy + a * value - b * entropy + (len(seen) > 20)\n"], "failed", "the same arguments gave the right answer once"),
    "wrong now and then": (["import random\nodd = random.Random(3)\n" + HEAD + "    return policy + a * value - b * entropy * (1 if odd.random() > 0.2 else 2)\n"], "failed", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CELLS)
def test_notebook(name, tmp_path, worker):
    cells, status, words = CELLS[name]
    verdict = verdict_on_cells(cells, tmp_path, worker)
    assert (verdict.status, words in verdict.message) == (status, True), verdict
    assert status != "passed" or words or not verdict.message, verdict


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
