"""Top-level statements: which names each of them binds, alters and needs, by Python's own scoping rules."""

from __future__ import annotations

import ast
import builtins
import symtable
from dataclasses import dataclass

AWAIT = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
KNOWN = frozenset(dir(builtins)) | {"__name__", "__file__", "get_ipython", "display"}


@dataclass(frozen=True)
class Statement:
    """One top-level statement.

    Attributes:
        cell, place: where it stands: the cell's name and its number in the cell.
        node: its syntax tree.
        binds: names that it gives a meaning ("*" for a star import).
        alters: names whose objects it seems to change: `table["a"] = 1`, `names.append("b")`.
        needs: global names that it reads, inside functions too.
    """

    cell: str
    place: int
    node: ast.stmt
    binds: frozenset[str]
    alters: frozenset[str]
    needs: frozenset[str]

    @property
    def is_import(self) -> bool:
        """An import."""
        return isinstance(self.node, (ast.Import, ast.ImportFrom))

    @property
    def is_stub(self) -> bool:
        """A function whose body is still to be written."""
        return isinstance(self.node, ast.FunctionDef) and all(says_nothing(s) for s in self.node.body)

    @property
    def asks_somebody(self) -> bool:
        """It waits for input when it is run."""
        calls = [n.func for n in outside_functions(self.node) if isinstance(n, ast.Call)]
        return any(isinstance(f, ast.Name) and f.id in ("input", "get_ipython") for f in calls)


def read_statements(cell: str, source: str) -> list[Statement]:
    """The statements of a cell.

    Raises:
        SyntaxError: it does not parse.
    """
    try:
        nodes = compile(source, cell, "exec", AWAIT, dont_inherit=True).body
        return [read(cell, place, node) for place, node in enumerate(nodes)]
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(f"this code is too deeply nested to read: {error}", (cell, 1, 0, "")) from error


def read(cell: str, place: int, node: ast.stmt) -> Statement:
    """One statement."""
    if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
        return Statement(cell, place, node, frozenset("*"), frozenset(), frozenset())
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return Statement(cell, place, node, frozenset(a.name for a in node.names), frozenset(), frozenset())
    try:
        table = symtable.symtable(ast.unparse(node), cell, "exec")
    except SyntaxError:  # await at top level and the like: nothing that a definition could need
        return Statement(cell, place, node, frozenset(), frozenset(), frozenset())
    own = {s.get_name(): s for s in table.get_symbols()}
    binds = {name for name, s in own.items() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    needs = {name for name, s in own.items() if s.is_referenced()} | globals_of(table)
    return Statement(cell, place, node, frozenset(binds), frozenset(altered(node)), frozenset(needs - KNOWN))


def globals_of(table: symtable.SymbolTable) -> set[str]:
    """Global names read by the functions and classes of a scope."""
    found = set()
    for child in table.get_children():
        found |= {s.get_name() for s in child.get_symbols() if s.is_global()}
        found |= globals_of(child)
    return found


def altered(node: ast.stmt) -> set[str]:
    """Names whose objects a statement changes."""
    places = [
        n
        for n in outside_functions(node)
        if isinstance(n, (ast.Attribute, ast.Subscript)) and isinstance(n.ctx, ast.Store)
    ]
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        places.append(node.value.func)
    return {name for name in map(root_of, places) if name}


def root_of(node: ast.expr) -> str | None:
    """`a` of `a.b["c"].d`."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def outside_functions(statement: ast.stmt):
    """All nodes of a statement but those inside functions and classes, which do not run with it."""
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            pending.extend(ast.iter_child_nodes(node))


def says_nothing(statement: ast.stmt) -> bool:
    """A docstring, `pass`, `...` or `raise NotImplementedError`."""
    if isinstance(statement, ast.Raise):
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    return (
        isinstance(statement, ast.Pass) or isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )
