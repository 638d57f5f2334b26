"""From a reference implementation to a notebook cell: its source, what it imports, and the helpers that it brings along."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from types import ModuleType

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"


def module_of(function: Callable) -> ModuleType:
    """The module that defines a function."""
    return sys.modules[function.__module__]


def names_in(node: ast.AST) -> set[str]:
    """Names that a piece of code reads, annotations included."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - set(dir(builtins))


def function_node(function: Callable) -> ast.FunctionDef:
    """The syntax tree of a function."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


def is_helper(name: str, module: ModuleType, graded: set[str]) -> bool:
    """Whether a name is a function of the module that is nobody's exercise."""
    found = getattr(module, name, None)
    return inspect.isfunction(found) and found.__module__ == module.__name__ and name not in graded


def helpers_of(function: Callable, graded: set[str]) -> list[Callable]:
    """Functions of the same module that a reference calls and that are nobody's exercise, callees first."""
    module, found = module_of(function), {}

    def visit(one: Callable) -> None:
        for name in sorted(names_in(function_node(one)) - {one.__name__}):
            if is_helper(name, module, graded) and name not in found:
                visit(getattr(module, name))
                found[name] = getattr(module, name)

    visit(function)
    return list(found.values())


def solution_cell(function: Callable, graded: set[str]) -> str:
    """A function as nbgrader wants it: everything below the docstring is the solution."""
    source = inspect.getsource(function)
    node = function_node(function)
    below = node.body[0].end_lineno
    lines = source.splitlines()
    helpers = [textwrap.indent(without_details(h), "    ") + "\n" for h in helpers_of(function, graded)]
    return "\n".join([*lines[:below], f"    {BEGIN}", *helpers, *lines[below:], f"    {END}"])


def without_details(helper: Callable) -> str:
    """A helper's source with the first line of its docstring only."""
    source, node = inspect.getsource(helper).rstrip().splitlines(), function_node(helper)
    first = node.body[0]
    opening = source[first.lineno - 1].rstrip()
    if first.end_lineno > first.lineno:
        opening += '"""'
    return "\n".join([*source[: first.lineno - 1], opening, *source[first.end_lineno :]])


def imports_for(functions: Iterable[Callable], graded: set[str], own: set[str], everywhere: set[str]) -> list[str]:
    """Import lines that the solutions of a lesson need, beside the lesson's own functions and what every lesson has."""
    lines = set(everywhere)
    for function in functions:
        module = module_of(function)
        known = module_imports(module)
        for one in [function, *helpers_of(function, graded)]:
            for name in names_in(function_node(one)) - own:
                if name in known:
                    lines.add(known[name])
                elif hasattr(module, name) and not is_helper(name, module, graded):
                    lines.add(f"from {module.__name__} import {name}")
    return join_imports(lines)


def module_imports(module: ModuleType) -> dict[str, str]:
    """Name → the line that imports it, from a module's own top."""
    found = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = ast.unparse(ast.Import([alias]))
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for alias in node.names:
                found[alias.asname or alias.name] = ast.unparse(ast.ImportFrom(node.module, [alias], 0))
    return found


def join_imports(lines: set[str]) -> list[str]:
    """One line for each module: standard library, then the others, then ours."""
    plain = sorted(line for line in lines if line.startswith("import "))
    joined: dict[str, list[str]] = {}
    for line in lines - set(plain):
        source, name = line.removeprefix("from ").split(" import ")
        joined.setdefault(source, []).append(name)
    named = [f"from {source} import {', '.join(sorted(names))}" for source, names in sorted(joined.items())]

    def rank(line: str) -> int:
        root = line.split()[1].split(".")[0]
        return 0 if root in sys.stdlib_module_names else 2 if root in ("rlhf_core", "autograder") else 1

    return sorted([*plain, *named], key=rank)
