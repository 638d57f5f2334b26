"""The library without the exercise: modules as source in which the exercise's function cannot be found.

The judge cuts; the process that runs the learner's code gets only what is left, and imports it from memory.
"""

from __future__ import annotations

import ast
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
STUB = """
def {name}(*args, **kwargs):
    from autograder.guard import refused
    refused()
"""


@functools.lru_cache(maxsize=128)
def modules_without(module: str, function: str) -> dict[str, str]:
    """The library's modules and those of the probes by name, as source.

    Args:
        module: the module of `rlhf_core` that holds the exercise.
        function: the exercise.
    """
    sources = all_sources()
    return {**sources, module: without(sources[module], function)}


@functools.cache
def all_sources() -> dict[str, str]:
    """Source of every module that a job may import, by name."""
    files = {f"rlhf_core.{path.stem}": path for path in sorted((HERE / "rlhf_core").glob("*.py"))}
    files["rlhf_core"] = files.pop("rlhf_core.__init__")
    sources = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    return sources | probes_need("autograder.probes")


def probes_need(name: str) -> dict[str, str]:
    """Source of the grader's modules that a module of it imports, and so on; what is not named there does not come along."""
    source = (HERE / (name.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    found = {name: source}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autograder."):
            found |= probes_need(node.module)
    return found


def without(source: str, name: str) -> str:
    """A module's source in which a refusal stands in place of a function."""
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            lines[first - 1 : node.end_lineno] = STUB.format(name=name).strip().splitlines()
            return "\n".join(lines) + "\n"
    raise ValueError(f"there is no function {name} to cut out")


class Finder(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Imports modules from sources in memory."""

    def __init__(self, sources: dict[str, str]):
        self.sources = sources

    def find_spec(self, name, path=None, target=None):
        """Says that a module of ours comes from here."""
        if name not in self.sources:
            return None
        spec = importlib.machinery.ModuleSpec(
            name, self, origin=self.get_filename(name), is_package=self.is_package(name)
        )
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(str(HERE / name))  # its data is in files
        return spec

    def get_filename(self, name: str) -> str:
        """Where the module's file is in an installation; here only its folder `data` is there."""
        return str(HERE / name.replace(".", "/")) + ("/__init__.py" if self.is_package(name) else ".py")

    def is_package(self, name: str) -> bool:
        """Whether a module has modules below it."""
        return any(other.startswith(name + ".") for other in self.sources)

    def get_source(self, name: str) -> str:
        """What is left of the source."""
        return self.sources[name]


def install(sources: dict[str, str]) -> None:
    """Import from these sources from now on."""
    sys.meta_path.insert(0, Finder(sources))
