"""Code that does harm, on purpose or not: each row costs its own exercise, is named in a sentence, and earns nothing."""

from __future__ import annotations

import os
import py_compile
import sys
import time

import pytest
from grading import RIGHT, verdict_on_cells

import rlhf_core.ppo
from autograder.runner import Worker

HEAD = "def ppo_loss(policy, value, entropy, a, b):\n"
RESULT = "    return policy + a * value - b * entropy\n"
GIVES_WRONG = "    return policy\n"
POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="a spawned process has other limits")


@pytest.fixture(scope="module")
def worker():
    """The process of the rows that come to an end."""
    one = Worker(seconds=10)
    yield one
    one.stop()


@pytest.fixture(scope="module")
def hasty_worker():
    """The process of the rows that would never end."""
    one = Worker(seconds=1)
    yield one
    one.stop()


def function(*lines: str, ending: str = RESULT, before: str = "") -> list[str]:
    """A cell with the function, whose body begins with these lines."""
    return [before + HEAD + "".join(f"    {line}\n" for text in lines for line in text.split("\n")) + ending]


C = "import ctypes\n"
FORGET = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"

# name → cells: they never end
ENDLESS = {
    "loop": function("while True: pass"),
    "loop that swallows all": function(FORGET),
    "loop that ignores signals": function("for s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\nwhile True: pass", before="import signal\n"),
    "sleep": function("time.sleep(3600)", before="import time\n"),
    "loop in C": function("pow(3, 10**9)"),
    "wait in C": function("ctypes.CDLL(None).sleep(3600)", before=C),
    "regular expression": function("re.match('(a+)+$', 'a' * 60 + 'b')", before="import re\n"),
    "lock": function("lock = threading.Lock(); lock.acquire(); lock.acquire()", before="import threading\n"),
    "wait for a thread": function("t = threading.Thread(target=lambda: time.sleep(3600)); t.start(); t.join()", before="import threading, time\n"),
    "pause": function("signal.pause()", before="import signal\n"),
    "stopped": function("os.kill(os.getpid(), signal.SIGSTOP)", before="import os, signal\n"),
    "recursion without a bottom": function("sys.setrecursionlimit(10**9)\ndef f():\n    while True: pass\nf()", before="import sys\n"),
    "as it is defined": ["class Loss:\n    def __init__(self):\n        while True: pass\nppo_loss = Loss()"],
    "as it is imported": ["%%writefile slow.py\nwhile True: pass\n", "from slow import ppo_loss"],
    "as it is decorated": ["def slow(f):\n    while True: pass\n", "@slow\n" + RIGHT],
    "in the result's repr": function("raise ValueError(Slow())", before="class Slow:\n    def __repr__(self):\n        while True: pass\n    __str__ = __repr__\n"),
    "printed without end": function("while True: print('x' * 1000)"),
}  # fmt: skip

# name → (cells, status, words of the message): they come to an end, and earn nothing
HARMFUL = {
    # ends
    "hard exit": (function("os._exit(0)", before="import os\n"), "error", "it ends the process"),
    "exit": (function("sys.exit(0)", before="import sys\n"), "error", "SystemExit"),
    "quit": (function("quit()"), "error", "SystemExit"),
    "keyboard interrupt": (function("raise KeyboardInterrupt"), "error", "KeyboardInterrupt"),
    "crash": (function("ctypes.string_at(0)", before=C), "error", "SIGSEGV"),
    "abort": (function("os.abort()", before="import os\n"), "error", "SIGABRT"),
    "killed by itself": (function("os.kill(os.getpid(), 9)", before="import os, signal\n"), "error", "was killed"),
    "stack overflow": (function("def f(n): return f(n + 1)\nf(0)"), "error", "RecursionError"),
    "memory": (function("bytearray(10**12)"), "error", "MemoryError"),
    "memory bit by bit": (function("x = []\nwhile True: x.append(bytes(10**8))"), "error", "MemoryError"),
    "memory of torch": (function("torch.ones(10**11)", before="import torch\n"), "error", "RuntimeError"),
    "end in another thread": (function("t = threading.Thread(target=os._exit, args=(0,)); t.start(); t.join()", before="import os, threading\n"), "error", "it ends the process"),
    "end at the first call only": (function("if not seen:\n    seen.append(1)\n    os._exit(0)", before="import os\nseen = []\n"), "error", "it ends the process"),
    "end when it is let go": (["import os\nclass Bomb:\n    def __del__(self):\n        os._exit(0)\n", HEAD + "    Bomb()\n" + RESULT], "error", "it ends the process"),
    # exceptions
    "exception that cannot be told": (function("raise Odd", before="class Odd(Exception):\n    def __str__(self): raise ValueError\n"), "error", "Odd"),
    "exception of another root": (function("raise Odd('x')", before="class Odd(BaseException): pass\n"), "error", "Odd: x"),
    "exception with a book": (function("raise ValueError('x' * 10**7)"), "error", "ValueError: xxx"),
    "exception with lines": (function("raise ValueError('\\n' * 1000 + 'end')"), "error", "ValueError: end"),
    "exception with a long name": (function("raise type('X' * 10**6, (Exception,), {})"), "error", "XXX"),
    "exceptions in a group": (function("raise ExceptionGroup('many', [ValueError(1)])"), "error", "roup" if sys.version_info >= (3, 11) else "NameError"),
    "exception with a false trace": (function("raise Odd", before="class Odd(Exception):\n    __traceback__ = property(lambda self: 1 / 0)\n"), "error", "Odd"),
    "exception that moves the cursor": (function("raise ValueError('a\\x1b[2Jb\\rc\\ud800d')"), "error", "ValueError: a [2Jb"),
    "exception of a false class": (function("raise Odd", before="class Odd(Exception):\n    __class__ = property(lambda self: 1 / 0)\n"), "error", "Odd"),
    "exception that stops all": (function("raise sys.modules['autograder.observe'].Stop", before="import sys\n"), "error", ""),
    "exception of the grader": (function("raise sys.modules['autograder.observe'].ReferenceUsed", before="import sys\n"), "failed", ""),
    # results
    "always equal": (["class Yes:\n    def __eq__(self, other): return True\n    __hash__ = None\n    shape = ()\n", HEAD + "    return Yes()\n"], "failed", "an object of type Yes"),
    "array's look": (["class Yes:\n    def __array__(self, *x): return 1\n    def __float__(self): return 1.0\n    def __torch_function__(self, *x, **y): return True\n", HEAD + "    return Yes()\n"], "failed", "an object of type Yes"),
    "subclass of Tensor": (["import torch\nclass Mine(torch.Tensor): pass\n", HEAD + "    return (policy + a * value - b * entropy).as_subclass(Mine)\n"], "failed", "a subclass of torch.Tensor"),
    "parameter": (["import torch\n", HEAD + "    return torch.nn.Parameter(policy)\n"], "failed", "a subclass of torch.Tensor"),
    "subclass that lies": (["import torch\nclass Mine(torch.Tensor):\n    @classmethod\n    def __torch_function__(cls, f, t, a=(), k=None): return True\n", HEAD + "    return policy.as_subclass(Mine)\n"], "failed", "a subclass of torch.Tensor"),
    "class that lies": (["import torch\nclass Mine:\n    __class__ = torch.Tensor\n", HEAD + "    return Mine()\n"], "failed", "an object of type Mine"),
    "number that lies": (["class Mine(float):\n    def __sub__(self, x): return 0.0\n    def __eq__(self, x): return True\n", HEAD + "    return Mine(1)\n"], "failed", "an object of type Mine"),
    "attributes that end all": (["import os\nclass Mine:\n    def __getattribute__(self, name): os._exit(0)\n", HEAD + "    return Mine()\n"], "failed", "an object of type Mine"),
    "payload": (["import os\nclass Mine:\n    def __reduce__(self): return os.system, ('touch /tmp/pwned',)\n", HEAD + "    return Mine()\n"], "failed", "an object of type Mine"),
    "payload in a dict": (["class Mine(dict):\n    def __iter__(self): raise SystemExit\n", HEAD + "    return Mine(result=policy)\n"], "failed", ""),
    "large tensor": (function(ending="    return torch.zeros(10**7)\n", before="import torch\n"), "failed", "a tensor of 10000000 elements"),
    "large view": (function(ending="    return torch.zeros(1).expand(10**12)\n", before="import torch\n"), "failed", "a tensor of 1000000000000 elements"),
    "large dict": (function(ending="    return {str(i): policy for i in range(10**5)}\n"), "failed", ""),
    "large list": (function(ending="    return [0] * 10**6\n"), "failed", "a list of 1000000"),
    "sparse": (function(ending="    return policy.to_sparse()\n"), "failed", "not an ordinary one"),
    "meta": (function(ending="    return policy.to('meta')\n"), "failed", "not an ordinary one"),
    "complex": (function(ending="    return policy * 1j\n"), "failed", "not an ordinary one"),
    "list": (function(ending="    return [policy]\n"), "failed", "a list of 1"),
    "array": (function(ending="    return policy.detach().numpy()\n"), "failed", "ndarray"),
    "shape (1,)": (function(ending="    return (policy + a * value - b * entropy)[None]\n"), "failed", "shape [1]"),
    "int": (function(ending="    return 1\n"), "failed", "a plain number"),
    "generator": (function(ending="    yield policy\n"), "failed", "an object of type generator"),
    "function": (function(ending="    return lambda: policy\n"), "failed", "an object of type function"),
    "module": (function(ending="    return torch\n", before="import torch\n"), "failed", "an object of type module"),
    # programs and processes
    "fork": (function("os.fork()", before="import os\n"), "error", "no other program can be started"),
    "fork bomb": (function("while True: os.fork()", before="import os\n"), "error", "no other program can be started"),
    "processes": (function("p = multiprocessing.Process(target=print); p.start()", before="import multiprocessing\nmultiprocessing.set_start_method('fork')\n"), "error", "no other program can be started"),
    "shell": (function("os.system('true')", before="import os\n"), "error", "no other program can be started"),
    "program": (function("subprocess.run(['true'])", before="import subprocess\n"), "error", "no other program can be started"),
    "takes its place": (function("os.execv('/bin/true', ['true'])", before="import os\n"), "error", "no other program can be started"),
    "kills its parent": (function("os.kill(os.getppid(), 9)", before="import os\n"), "error", "other processes cannot be ended"),
    "kills all": (function("os.kill(-1, 9)", before="import os\n"), "error", "other processes cannot be ended"),
    "kills its group": (function("os.killpg(os.getpgid(os.getppid()), 9)", before="import os\n"), "error", "other processes cannot be ended"),
    "more memory for me": (function("resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", before="import resource\n"), "error", "limits cannot be changed"),
    # the grader's own parts
    "allclose": (function("torch.allclose = torch.equal = lambda *a, **k: True", before="import torch\n"), "failed", "torch.allclose"),
    "equality of tensors": (function("torch.Tensor.__eq__ = lambda a, b: True", before="import torch\n"), "failed", "Tensor.__eq__"),
    "testing": (function("torch.testing.assert_close = lambda *a, **k: None", before="import torch\n"), "failed", "assert_close"),
    "where": (function("torch.where = None", before="import torch\n"), "failed", "torch.where"),
    "grad": (function("torch.autograd.grad = lambda *a, **k: (None,) * 5", before="import torch\n"), "failed", "autograd.grad"),
    "builtins": (function("builtins.isinstance = lambda *a: True", before="import builtins\n"), "error", "it breaks the process"),
    "len": (function("builtins.len = lambda x: 0", before="import builtins\n"), "error", "tampers with the grading"),
    "unchanged": (function("o.unchanged = lambda *a: True\npolicy.mul_(1)", before="import autograder.observe as o\n"), "failed", "observe.unchanged"),
    "unchanged from inside": (function("o.unchanged.__code__ = (lambda *a: True).__code__", before="import autograder.observe as o\n"), "failed", "observe.unchanged"),
    "state": (function("o.global_state = dict\ntorch.manual_seed(0)", before="import torch, autograder.observe as o\n"), "failed", "random generator"),
    "packing": (function("w.pack_observation = lambda seen: b''", before="import autograder.wire as w\n"), "error", ""),
    "observation": (function("o.Observation.__setattr__ = lambda *a: None", before="import autograder.observe as o\n"), "failed", "Observation.__setattr__"),
    "own list of what is hidden": (function("g.Hidden.touched = False\ng.notice = print", before="import autograder.guard as g\n"), "failed", "guard.notice"),
    "own list of what is replaced": (function("g.Untouched.replaced = lambda *a: []\ng.of_torch = lambda x: True\ntorch.equal = lambda *a: True", before="import torch, autograder.guard as g\n"), "failed", "torch.equal"),
    "frames of the grader": (function("f = sys._getframe()\nwhile f:\n    if 'seen' in f.f_locals: f.f_locals['seen'].values['result'] = policy * 0\n    f = f.f_back", ending=GIVES_WRONG, before="import sys\n"), "failed", ""),
    "objects of the grader": (function("if not seen:\n    seen.append(1)\n    for o in gc.get_objects():\n        if type(o).__name__ == 'Observation': o.values['result'] = policy * 0", ending=GIVES_WRONG, before="import gc\nseen = []\n"), "failed", ""),
    "mode that lies": (function("Liar().__enter__()", ending=GIVES_WRONG, before="import torch\nclass Liar(torch.overrides.TorchFunctionMode):\n    def __torch_function__(self, f, t, a=(), k=None):\n        return True if f is torch.equal else f(*a, **(k or {}))\n"), "failed", ""),
    "mode that stays": (function("Liar().__enter__()", before="import torch\nclass Liar(torch.overrides.TorchFunctionMode):\n    def __torch_function__(self, f, t, a=(), k=None):\n        return f(*a, **(k or {}))\n"), "failed", "how torch's functions work"),
    # what the parent reads
    "forged frames": (function("for fd in range(3, 64):\n    try: os.write(fd, b'\\x05' + bytes(7) + b'hello')\n    except OSError: pass", before="import os\n"), "error", "not data"),
    "half a frame": (function("for fd in range(3, 64):\n    try: os.write(fd, bytes(7) + b'\\xff')\n    except OSError: pass\nos._exit(0)", before="import os\n"), "error", ""),
    "flood of frames": (function("for fd in range(3, 64):\n    try:\n        while True: os.write(fd, b'x' * 10**6)\n    except OSError: pass", before="import os\n"), "error", "more numbers"),
    "all closed": (function("os.closerange(0, 100)", before="import os\n"), "error", "it breaks the process"),
    "forged answers": (
        function("import struct, os\nframe = wire.pack_observation(observe.Observation(values={'result': policy * 0}, kinds={'result': 'float tensor'}))\nfor fd in range(3, 64):\n    try:\n        for _ in range(100): os.write(fd, wire.framed(frame))\n    except OSError: pass\nos._exit(0)", before="from autograder import wire, observe\n"),
        "error",
        "tampers with the grading",
    ),
    # side effects
    "argument changed": (function("policy.add_(1); policy.sub_(1 - 1e-3)"), "failed", ""),
    "argument changed through data": (function("policy.data.mul_(2)", ending="    return policy / 2 + a * value - b * entropy\n"), "failed", ""),
    "argument changed through memory": (function("policy.detach().numpy().fill(0)", ending="    return policy\n"), "failed", ""),
}  # fmt: skip

# name → (cells, words of the message): right, whatever it does besides
HARMLESS = {
    "thread that goes on": (function("threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()", before="import threading, time\n"), ""),
    "thread that is waited for at the end": (function("threading.Thread(target=time.sleep, args=(3600,)).start()", before="import threading, time\n"), ""),
    "at exit": (["import atexit, time\natexit.register(time.sleep, 3600)\n" + RIGHT], ""),
    "at exit, needed": (function("atexit.register(time.sleep, 3600)", before="import atexit, time\n"), ""),
    "signal handlers": (function("signal.signal(signal.SIGTERM, signal.SIG_IGN)", before="import signal\n"), ""),
    "working folder": (function("os.chdir('/')", before="import os\n"), ""),
    "own module deleted": (function("sys.modules.pop('__main__', None)", before="import sys\n"), ""),
    "flood on file 1": (function("os.write(1, b'x' * 10**6)", before="import os\n"), ""),
    "flood of errors": (function("sys.stderr.write('x' * 10**6)", before="import sys\n"), ""),
    "many warnings": (function("for _ in range(1000): warnings.warn('x')", before="import warnings\n"), ""),
    "exit at the end of the cell": ([RIGHT + "import os\nos._exit(0)\n"], ""),
    "exception caught": (function("try: 1 / 0\nexcept ZeroDivisionError: pass"), ""),
    "file in the scratch folder": (function("open('x', 'w').write('x')"), ""),
    "torch patched in another cell": (["import torch\ntorch.allclose = torch.equal = lambda *a, **k: True", RIGHT], ""),
    "the library's other functions": (["from rlhf_core.ppo import *\nfrom rlhf_core.policy import masked_mean\n" + RIGHT], ""),
    "the reference to compare with": (["from rlhf_core.ppo import ppo_loss as theirs\n" + RIGHT, "assert theirs(1, 2, 3, 4, 5) == ppo_loss(1, 2, 3, 4, 5)"], ""),
    "error inside the library": (["from rlhf_core.policy import masked_mean\nimport torch, traceback\n" + HEAD + "    try:\n        masked_mean(torch.ones(2), torch.zeros(3))\n    except ValueError:\n        traceback.format_exc()\n" + RESULT], ""),
    "warning inside the library": (["import warnings, rlhf_core.ppo\n" + HEAD + "    warnings.warn_explicit('x', UserWarning, rlhf_core.ppo.__file__, 1)\n    warnings.formatwarning('x', UserWarning, rlhf_core.ppo.__file__, 1)\n" + RESULT], ""),
    "new method of torch": (["import torch\ntorch.Tensor.twice = lambda self: 2 * self", HEAD + "    return policy.twice() - policy + a * value - b * entropy\n"], ""),
    "own logging": (["import logging\nlogging.disable(0)\nlog = logging.getLogger()\n" + HEAD + "    log.error('x')\n" + RESULT], ""),
    "answer in float64": (function(ending="    return policy.double() + a * value.double() - b * entropy.double()\n"), ""),
    "inference elsewhere": (["import torch\ntorch.inference_mode().__enter__()", RIGHT], ""),
}  # fmt: skip

CORE = "import rlhf_core.ppo\n"
CALLS_REFERENCE = {
    "imported": ["from rlhf_core.ppo import ppo_loss"],
    "imported as another": ["from rlhf_core.ppo import ppo_loss as theirs\nppo_loss = theirs"],
    "imported by stars": ["from rlhf_core.ppo import *"],
    "attribute": [CORE + "ppo_loss = rlhf_core.ppo.ppo_loss"],
    "called": [CORE + "def ppo_loss(*x): return rlhf_core.ppo.ppo_loss(*x)"],
    "called by keywords": [CORE + HEAD + "    return rlhf_core.ppo.ppo_loss(policy, value, entropy, value_coef=a, entropy_coef=b)\n"],
    "called inside try": [CORE + HEAD + "    try: return rlhf_core.ppo.ppo_loss(policy, value, entropy, a, b)\n    except BaseException: return policy\n"],
    "called in a thread": [CORE + "import threading\n" + HEAD + "    out = []\n    t = threading.Thread(target=lambda: out.append(rlhf_core.ppo.ppo_loss(policy, value, entropy, a, b)))\n    t.start(); t.join()\n    return out[0]\n"],
    "imported inside": ["def ppo_loss(*x):\n    from rlhf_core.ppo import ppo_loss as f\n    return f(*x)"],
    "import module": ["import importlib\ndef ppo_loss(*x): return importlib.import_module('rlhf_core.ppo').ppo_loss(*x)"],
    "wrapped": ["import functools\n" + CORE + "@functools.wraps(rlhf_core.ppo.ppo_loss)\ndef ppo_loss(*x): return ppo_loss.__wrapped__(*x)"],
    "partial": ["from functools import partial\n" + CORE + "ppo_loss = partial(rlhf_core.ppo.ppo_loss)"],
    "copied table": [CORE + "theirs = dict(rlhf_core.ppo.__dict__)\ndef ppo_loss(*x): return theirs['ppo_loss'](*x)"],
    "copied code": [CORE + "import types\nppo_loss = types.FunctionType(rlhf_core.ppo.ppo_loss.__code__, vars(rlhf_core.ppo))"],
    "deep copy": [CORE + "import copy\nppo_loss = copy.deepcopy(rlhf_core.ppo.ppo_loss)"],
    "through the loop": ["import rlhf_core.loop\ndef ppo_loss(*x): return rlhf_core.loop.ppo_loss(*x)"],
    "through the list of functions": ["from rlhf_core.loop import REFERENCE\ndef ppo_loss(*x): return vars(REFERENCE)['ppo_loss'](*x)"],
    "module beside": ["%%writefile mine.py\nfrom rlhf_core.ppo import ppo_loss\n", "from mine import ppo_loss"],
    "source by inspect": [CORE + "import inspect\n" + HEAD + "    return inspect.getsource(rlhf_core.ppo.ppo_loss)\n"],
    "source of the module": [CORE + "import inspect\ntext = inspect.getsource(rlhf_core.ppo)\n" + HEAD + "    return text\n"],
    "source by open": [CORE + HEAD + "    return open(rlhf_core.ppo.__file__).read()\n"],
    "source by bytes": [CORE + "import os\n" + HEAD + "    return open(os.fsencode(rlhf_core.ppo.__file__)).read()\n"],
    "source by pathlib": [CORE + "from pathlib import Path\n" + HEAD + "    return Path(rlhf_core.ppo.__file__).read_text()\n"],
    "source by os.open": [CORE + "import os\n" + HEAD + "    return os.read(os.open(rlhf_core.ppo.__file__, 0), 9999)\n"],
    "source by a folder's number": [CORE + "import os\n" + HEAD + "    d = os.open(os.path.dirname(rlhf_core.ppo.__file__), 0)\n    return os.read(os.open('ppo.py', 0, dir_fd=d), 9999)\n"],
    "source by another way": [CORE + "import os\n" + HEAD + "    return open(os.path.join(os.path.dirname(rlhf_core.__file__), '..', 'rlhf_core', 'ppo.py')).read()\n"],
    "source by a link": [CORE + "import os\n" + HEAD + "    os.path.lexists('l') or os.symlink(rlhf_core.ppo.__file__, 'l')\n    return open('l').read()\n"],
    "source by a copy": [CORE + "import shutil\n" + HEAD + "    shutil.copy(rlhf_core.ppo.__file__, 'copy.py')\n    return open('copy.py').read()\n"],
    "source by pkgutil": ["import pkgutil\n" + HEAD + "    return pkgutil.get_data('rlhf_core', 'ppo.py')\n"],
    "source by the loader": [CORE + HEAD + "    return rlhf_core.ppo.__loader__.get_source('rlhf_core.ppo')\n"],
    "source by resources": ["from importlib import resources\n" + HEAD + "    return (resources.files('rlhf_core') / 'ppo.py').read_text()\n"],
    "source by mmap": [CORE + "import mmap\n" + HEAD + "    return mmap.mmap(open(rlhf_core.ppo.__file__).fileno(), 0, prot=1)\n"],
    "source by linecache": [CORE + "import linecache\n" + HEAD + "    return linecache.getlines(rlhf_core.ppo.__file__)\n"],
    "compiled": [CORE + HEAD + "    return open(rlhf_core.ppo.__cached__, 'rb').read()\n"],
    "loaded anew": [CORE + "import importlib\n" + HEAD + "    return importlib.reload(rlhf_core.ppo).ppo_loss(policy, value, entropy, a, b)\n"],
    "imported anew": [CORE + "import sys\n" + HEAD + "    sys.modules.pop('rlhf_core.ppo')\n    import rlhf_core.ppo as p\n    return p.ppo_loss(policy, value, entropy, a, b)\n"],
    "by its place": [CORE + "import importlib.util as u\n" + HEAD + "    s = u.spec_from_file_location('p', rlhf_core.ppo.__file__)\n    m = u.module_from_spec(s)\n    s.loader.exec_module(m)\n    return m.ppo_loss(policy, value, entropy, a, b)\n"],
    "the grader's exercises": [HEAD + "    from autograder.lesson_04 import exercises\n    return exercises.total_loss(policy, value, entropy, a, b)\n"],
    "the grader's exercises by their place": ["import runpy, autograder, os\n" + HEAD + "    return runpy.run_path(os.path.dirname(autograder.__file__) + '/lesson_04/exercises.py')\n"],
}  # fmt: skip


@POSIX
@pytest.mark.parametrize("name", ENDLESS)
def test_endless(name, tmp_path, hasty_worker):
    begin = time.monotonic()
    verdict = verdict_on_cells(ENDLESS[name], tmp_path, hasty_worker)
    assert verdict.status == "timeout" and "stopped after 1 seconds" in verdict.message, verdict
    assert time.monotonic() - begin < 20  # on a busy machine


@POSIX
@pytest.mark.parametrize("name", HARMFUL)
def test_harmful(name, tmp_path, worker):
    cells, status, words = HARMFUL[name]
    verdict = verdict_on_cells(cells, tmp_path, worker)
    assert (verdict.status, verdict.points, words in verdict.message) == (status, 0, True), verdict
    assert len(verdict.message) < 700 and "\n" not in verdict.message and "Traceback" not in verdict.message


@POSIX
@pytest.mark.parametrize("name", HARMLESS)
def test_harmless(name, tmp_path, worker):
    cells, words = HARMLESS[name]
    verdict = verdict_on_cells(cells, tmp_path, worker)
    assert verdict.status == "passed" and words in verdict.message, verdict


@pytest.mark.parametrize("name", CALLS_REFERENCE)
def test_reference_is_noticed(name, tmp_path, worker):
    if name == "compiled":  # there is such a file only where somebody has imported the module before
        py_compile.compile(rlhf_core.ppo.__file__)
    verdict = verdict_on_cells(CALLS_REFERENCE[name], tmp_path, worker)
    assert (verdict.status, verdict.points, verdict.diagnosis) == ("failed", 0, "uses-the-reference"), verdict
    assert "rlhf_core" in verdict.message
