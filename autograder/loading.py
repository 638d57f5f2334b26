"""Run the statements that a function needs, in a module of their own. Whatever they do, the next statement is run."""

from __future__ import annotations
import __future__

import ast
import builtins
import importlib.abc
import importlib.util
import linecache
import sys
import types
import warnings
from collections.abc import Callable, Iterable

from autograder.observe import LEARNER, ReferenceUsed, describe, own_line
from autograder.statements import PARSE

LATE_ANNOTATIONS = __future__.annotations.compiler_flag


class Loaded:
    """What became of a learner's code.

    Attributes:
        names: the global names.
        trouble: statements that failed, in words.
        notes: what a learner should know of the loading, in words.
        reference_used: the code used the reference as it was loaded.
    """

    def __init__(self, name: str, keep: Iterable[str], starting: Callable[[str], None]):
        module = sys.modules[name] = types.ModuleType(name)
        module.__dict__.update(__builtins__=builtins, __file__=f"{name}.py", input=no_input)
        module.__dict__.update(get_ipython=Quiet, display=Quiet())
        self.names = module.__dict__
        self.keep, self.starting = frozenset(keep), starting
        self.trouble: list[str] = []
        self.notes: list[str] = []
        self.reference_used = False
        self.flags = 0

    def run(self, cell: str, node: ast.stmt) -> None:
        """Run one statement. A name in `keep` stays a function, whatever else it is made."""
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Import)):
            self.starting(f"{cell}, line {node.lineno}")
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            self.flags |= flags_of(node)
        before = {name: self.names.get(name, getattr(builtins, name, None)) for name in self.keep}
        try:
            self.execute(cell, node)
        except ReferenceUsed:
            self.reference_used = True
        except BaseException as error:  # a learner's code may raise anything
            self.trouble.append(f"{describe(error)} ({own_line(error) or f'{cell}, line {node.lineno}'})")
        for name, function in before.items():
            if callable(function) and name in self.names and not callable(self.names[name]):
                self.names[name] = function
                self.notes.append(f"{name} is no function any more after {cell}; the function from before was used")

    def execute(self, cell: str, node: ast.stmt) -> None:
        """Run one statement; where its annotations name what does not exist, without looking at them."""
        module, file = ast.Module([node], []), LEARNER + cell
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                exec(compile(module, file, "exec", self.flags, dont_inherit=True), self.names)
            except NameError as error:
                if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    raise
                flags = self.flags | LATE_ANNOTATIONS
                exec(compile(module, file, "exec", flags, dont_inherit=True), self.names)
                self.notes.append(
                    f"{cell}, line {node.lineno} has {error.name} in an annotation, and nothing defines it"
                )


class Quiet:
    """Stands for IPython's own objects: whatever is asked of it, it does nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return Quiet()

    def __call__(self, *args, **kwargs):
        return Quiet()

    def __iter__(self):
        return iter(())

    def __bool__(self) -> bool:
        return False


def no_input(prompt: object = "") -> str:
    """In place of `input`."""
    raise EOFError("input() waits for somebody to type, and nobody is there while your code is graded")


class Beside(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the Python files that lie beside a notebook, from their text."""

    def __init__(self, modules: dict[str, str]):
        self.modules = modules

    def find_spec(self, name, path=None, target=None):
        """Part of Python's import."""
        if name not in self.modules or name in sys.stdlib_module_names:
            return None
        return importlib.util.spec_from_loader(name, self, origin=f"{LEARNER}{name}.py")

    def get_source(self, name):
        """Part of Python's import."""
        return self.modules[name]

    def exec_module(self, module):
        """Part of Python's import."""
        name = module.__name__
        show_source(f"{LEARNER}{name}.py", self.modules[name])
        module.__file__ = f"{name}.py"
        exec(compile(self.modules[name], f"{LEARNER}{name}.py", "exec", dont_inherit=True), module.__dict__)


def load(
    cells: list[dict],
    modules: dict[str, str],
    keep: Iterable[str],
    starting: Callable[[str], None] = lambda place: None,
    name: str = "__main__",
) -> Loaded:
    """Run the chosen statements of cells.

    Args:
        cells: each with its name, its source and the numbers of the statements to run.
        modules: name → text of what the code may import beside what is installed.
        keep: names that stay functions once they are, see `Loaded.run`.
        starting: is told where the code stands before anything that may take its time.
        name: of the module that is made.
    """
    loaded = Loaded(name, keep, starting)
    if modules:
        sys.meta_path.insert(0, Beside(modules))
    for cell in cells:
        show_source(LEARNER + cell["name"], cell["source"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = compile(cell["source"], LEARNER + cell["name"], "exec", PARSE, dont_inherit=True).body
        for place in cell["statements"]:
            loaded.run(cell["name"], nodes[place])
    return loaded


def show_source(file: str, source: str) -> None:
    """Let `inspect` and TorchScript find the learner's own code, as they do in a notebook."""
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file


def flags_of(node: ast.ImportFrom) -> int:
    """Compiler flags of a `from __future__` import, which hold for all later cells."""
    return sum(getattr(__future__, alias.name).compiler_flag for alias in node.names if hasattr(__future__, alias.name))
