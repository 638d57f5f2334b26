"""What learners' code must not do in the process that runs it: use the reference, start programs, mend the grader.

This makes the shortest ways impossible and says so; it shuts nobody in. For that there is `autograder.sandbox`.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import os
import random
import sys
import types
from collections.abc import Callable, Iterator
from operator import attrgetter, is_

import safetensors.torch
import torch

from autograder.observe import ReferenceUsed

TORCH = os.path.dirname(torch.__file__)
PACKAGE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = frozenset(
    ["subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile"]
    + ["os.fork", "os.forkpty", "pty.spawn"]
)
LIMITS = frozenset(["resource.setrlimit", "resource.prlimit"])
code_of = attrgetter("__code__")
HIDDEN = "the reference implementation of this exercise is hidden while your code is graded"


class Hidden:
    """What is hidden, and whether the learner's code has touched it."""

    touched = False
    names: frozenset[str] = frozenset()
    places: frozenset[tuple[int, int]] = frozenset()
    folders: tuple[str, ...] = ()


def refused():
    """Called in place of the reference."""
    Hidden.touched = True
    raise ReferenceUsed


def refuse(*args, **kwargs):
    """Its code takes the place of the reference's; the names here are no globals of that function."""
    __import__("sys").modules["autograder.guard"].refused()


@contextlib.contextmanager
def hidden(reference: Callable) -> Iterator[None]:
    """Refuse calls of a reference for a while, in the process that judges."""
    before = reference.__code__, reference.__defaults__, reference.__kwdefaults__
    Hidden.touched = False
    try:
        reference.__code__, reference.__defaults__, reference.__kwdefaults__ = refuse.__code__, None, None
        yield
    finally:
        reference.__code__, reference.__defaults__, reference.__kwdefaults__ = before


def hide_reference(module: str, name: str) -> None:
    """Make the reference of an exercise unusable in this process: calling it, or reading its file, is noticed.

    Args:
        module: where it stands; it may not have been imported.
        name: of the function.
    """
    home = sys.modules.get(module)
    sys.addaudithook(notice)
    if home is None:
        return
    function = getattr(home, name)
    # whoever looks for its source is led to the file, and is noticed there
    place = {"co_filename": home.__file__, "co_firstlineno": function.__code__.co_firstlineno, "co_name": name}
    function.__code__, function.__defaults__, function.__kwdefaults__ = refuse.__code__.replace(**place), None, None
    files = [home.__file__, *compiled_files(home.__file__)]
    Hidden.names = frozenset(map(os.path.basename, files))
    Hidden.places = frozenset(place_of(file) for file in files if os.path.exists(file))
    Hidden.folders = folders_with_answers()


def compiled_files(source: str) -> list[str]:
    """The compiled files of a module, whichever Python made them."""
    folder, stem = os.path.join(os.path.dirname(source), "__pycache__"), os.path.basename(source).removesuffix(".py")
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder) if name.startswith(stem + ".")]
    except OSError:
        return []


def folders_with_answers() -> tuple[str, ...]:
    """Where right implementations stand: the exercises, and in a checkout the solutions and the tests."""
    root = os.path.dirname(PACKAGE)
    found = [os.path.join(PACKAGE, f"lesson_{number:02d}") for number in range(9)]
    if os.path.exists(os.path.join(root, "pyproject.toml")):
        found += [os.path.join(root, "solutions"), os.path.join(root, "tests")]
    return tuple(os.path.realpath(folder) + os.sep for folder in found)


def place_of(file: str) -> tuple[int, int]:
    """What a file is, by whatever name it goes."""
    info = os.stat(file)
    return info.st_dev, info.st_ino


def notice(event: str, arguments: tuple) -> None:
    """Called by Python at every file that is opened, every module that is imported, every program that is started."""
    if event == "open":
        if is_hidden(arguments[0]):
            Hidden.touched |= not only_formats_a_message()
            raise PermissionError(HIDDEN)
    elif event == "import":
        if str(arguments[0]).startswith("autograder.lesson_"):
            Hidden.touched = True
            raise PermissionError("the grader's exercises are hidden while your code is graded")
    elif event in PROGRAMS:
        raise PermissionError("no other program can be started while your code is graded")
    elif event in ("os.kill", "os.killpg"):
        if arguments[0] != os.getpid():
            raise PermissionError("other processes cannot be ended while your code is graded")
    elif event in LIMITS:
        raise PermissionError("limits cannot be changed while your code is graded")


def is_hidden(path: object) -> bool:
    """Whether a path, in whatever form, leads to a hidden file."""
    if isinstance(path, int):
        return False
    try:
        name = os.fsdecode(path)
        if os.path.realpath(name).startswith(Hidden.folders):
            return True
        return place_of(name) in Hidden.places
    except (OSError, ValueError):
        # it is not there, unless it is relative to a folder that was opened before
        return not os.path.isabs(name) and os.path.basename(name) in Hidden.names
    except TypeError:
        return False


def only_formats_a_message() -> bool:
    """Whether the file is read for a line to print in a warning or a traceback."""
    frame = sys._getframe(1)
    while frame is not None and os.path.basename(frame.f_code.co_filename) in (
        "guard.py",
        "tokenize.py",
        "linecache.py",
    ):
        frame = frame.f_back
    return frame is not None and os.path.basename(frame.f_code.co_filename) in ("traceback.py", "warnings.py")


def of_torch(one: object) -> bool:
    """Torch wraps some of its own functions when parts of it are imported late."""
    code = getattr(one, "__code__", None)
    return isinstance(code, types.CodeType) and code.co_filename.startswith(TORCH)


class Untouched:
    """Torch's functions and the grader's own as they were, to tell which of them have been replaced."""

    @classmethod
    @functools.cache
    def before(cls) -> Untouched:
        """As they are when this is first called: before anybody's code runs."""
        return cls()

    def __init__(self):
        started = sys.modules.get("__main__")  # in a worker this is its own module
        mine = [m for name, m in sorted(sys.modules.items()) if name.startswith("autograder.") and m]
        mine += [started] if started and getattr(started, "__package__", "") == "autograder" else []
        classes = [c for m in mine for c in vars(m).values() if isinstance(c, type) and c.__module__ == m.__name__]
        library = [torch, torch.Tensor, torch.nn.functional, torch.autograd, torch.testing, torch.random, builtins]
        self.were = []
        for owner in [*library, random, safetensors.torch, *mine, *classes]:
            functions = {name: one for name, one in vars(owner).items() if callable(one)}
            written = {name: one for name, one in functions.items() if type(one) is types.FunctionType}
            code = dict(zip(written, map(code_of, written.values()), strict=True))
            self.were.append((owner, functions, written, code))
        self.inherited = {c: frozenset(dir(c)) - frozenset(vars(c)) for c in [torch.Tensor, *classes]}

    def replaced(self, code_of: Callable = code_of, of_torch: Callable = of_torch) -> list[str]:
        """Names of functions that are not what they were."""
        found = []
        for owner, functions, written, code in self.were:
            now = vars(owner).get
            # nearly always all are: no loop in Python
            if all(map(is_, map(now, functions), functions.values())) and all(
                map(is_, map(code_of, written.values()), code.values())
            ):
                continue
            for name, was in functions.items():
                other = now(name) is not was and not of_torch(now(name))
                if other or (name in written and code_of(was) is not code[name]):
                    found.append(f"{owner.__name__}.{name}")
        for owner, names in self.inherited.items():
            found += [f"{owner.__name__}.{name}" for name in names & vars(owner).keys()]
        return found
