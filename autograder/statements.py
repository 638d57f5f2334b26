"""Top-level statements: which names each of them binds, alters and needs, by Python's own scoping rules."""

from __future__ import annotations

import ast
import builtins
import symtable
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
PARSE = ast.PyCF_ONLY_AST | AWAIT
BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__", "get_ipython", "display"}
# what no function can come out of
PLAIN = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.BinOp, ast.UnaryOp, ast.Compare)
PLAIN += (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
MAKERS = frozenset(["partial", "functools"])
FILLERS = frozenset(["exec", "setattr", "delattr"])
DYNAMIC = frozenset(["exec", "eval", "globals", "locals", "vars", "setattr", "__dict__", "__builtins__", "modules"])


@dataclass(frozen=True, eq=False)
class Statement:
    """One top-level statement.

    Attributes:
        cell, place: where it stands: the cell's name and its number in the cell.
        node: its syntax tree.
        binds: names that it gives a meaning ("*" for a star import).
        defines: those of them that may be something to call afterwards.
        alters: names whose objects it seems to change: `table["a"] = 1`, `names.append("b")`.
        needs: global names that it reads, inside functions too.
        values: those of them that it does more with than to call them.
        sets: global names that functions inside it assign, or whose objects they seem to change.
        patches: attributes that it sets: `scale` of `helper.scale = 2`.
        attributes: all attributes that it reads.
        texts: short texts that it holds.
    """

    cell: str
    place: int
    node: ast.stmt
    binds: frozenset[str] = frozenset()
    defines: frozenset[str] = frozenset()
    alters: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()
    patches: frozenset[str] = frozenset()
    attributes: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()

    @property
    def is_import(self) -> bool:
        """An import."""
        return isinstance(self.node, (ast.Import, ast.ImportFrom))

    @property
    def is_function(self) -> bool:
        """A function or a class."""
        return isinstance(self.node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))

    @property
    def is_future(self) -> bool:
        """`from __future__ import …`, which holds for all code behind it."""
        return isinstance(self.node, ast.ImportFrom) and self.node.module == "__future__"

    @property
    def is_stub(self) -> bool:
        """A function whose body is still to be written, or `gae = ...` in its place."""
        if isinstance(self.node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return all(says_nothing(s) for s in self.node.body)
        value = getattr(self.node, "value", None)
        return isinstance(self.node, ast.Assign) and isinstance(value, ast.Constant) and value.value in (None, ...)

    @property
    def is_loop(self) -> bool:
        """Something that may take its time."""
        return isinstance(self.node, (ast.For, ast.While, ast.AsyncFor, ast.With, ast.AsyncWith))

    @property
    def is_dynamic(self) -> bool:
        """It may define what cannot be seen in its text: `exec(code)`, `globals()["gae"] = …`."""
        names = {n.id for n in ast.walk(self.node) if isinstance(n, ast.Name)} | self.attributes
        return bool(names & DYNAMIC)

    @property
    def is_script_only(self) -> bool:
        """`if __name__ == "__main__":`, which is not run where a file is imported."""
        return isinstance(self.node, ast.If) and ast.unparse(self.node.test).replace("'", '"') in (
            '__name__ == "__main__"',
            '"__main__" == __name__',
        )

    def may_define(self, name: str) -> bool:
        """Whether a name may be something to call afterwards."""
        return name in self.defines

    @property
    def hands_on(self) -> frozenset[str]:
        """Names that a bare call gets as arguments, and may fill: `fill(table)`."""
        call = self.node.value if isinstance(self.node, ast.Expr) else None
        if not isinstance(call, ast.Call):
            return frozenset()
        if isinstance(call.func, ast.Name) and call.func.id in BUILTINS - FILLERS:
            return frozenset()
        return frozenset(a.id for a in [*call.args, *(k.value for k in call.keywords)] if isinstance(a, ast.Name))

    @property
    def calls(self) -> frozenset[str]:
        """Names of functions that run when the statement does, as decorators too."""
        called = [n.func for n in outside_functions(self.node) if isinstance(n, ast.Call)]
        called += getattr(self.node, "decorator_list", [])
        return frozenset(n.id for n in called if isinstance(n, ast.Name))


def read_statements(cell: str, source: str) -> list[Statement]:
    """The statements of a cell.

    Raises:
        SyntaxError: it does not compile.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd escapes in texts and the like
        try:
            compile(source, cell, "exec", AWAIT, dont_inherit=True)  # finds a `return` outside of a function, too
            nodes = compile(source, cell, "exec", PARSE, dont_inherit=True).body
            return [read(cell, place, node) for place, node in enumerate(nodes)]
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(f"this code cannot be read: {error}", (cell, 1, 0, "")) from error


def read(cell: str, place: int, node: ast.stmt) -> Statement:
    """One statement."""
    if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
        return Statement(cell, place, node, frozenset("*"))
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return Statement(cell, place, node)
    try:
        table = symtable.symtable(ast.unparse(node), cell, "exec")
    except SyntaxError:  # await at top level and the like: nothing that a definition could need
        return Statement(cell, place, node)
    own = {s.get_name(): s for s in table.get_symbols()}
    binds = {name for name, s in own.items() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    needs = {name for name, s in own.items() if s.is_referenced()} | globals_of(table)
    places = [n for n in ast.walk(node) if isinstance(n, ast.Attribute)]
    return Statement(
        cell,
        place,
        node,
        binds=frozenset(binds - deleted(node)),
        defines=frozenset(defined_names(node)) & binds,
        alters=frozenset(altered(node)),
        needs=frozenset(needs),
        values=frozenset(read_as_values(node) & needs),
        sets=frozenset(assigned_globals(table) | altered_inside(node) & globals_of(table)),
        patches=frozenset(n.attr for n in outside_functions(node) if is_stored_attribute(n)),
        attributes=frozenset(n.attr for n in places if isinstance(n.ctx, ast.Load)),
        texts=frozenset(n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and type(n.value) is str),
    )


def globals_of(table: symtable.SymbolTable) -> set[str]:
    """Global names read by the functions and classes of a scope."""
    found = set()
    for child in table.get_children():
        found |= {s.get_name() for s in child.get_symbols() if s.is_global()}
        found |= globals_of(child)
    return found


def assigned_globals(table: symtable.SymbolTable) -> set[str]:
    """Global names that functions assign."""
    found = set()
    for child in table.get_children():
        found |= {s.get_name() for s in child.get_symbols() if s.is_declared_global() and s.is_assigned()}
        found |= assigned_globals(child)
    return found


def deleted(node: ast.stmt) -> set[str]:
    """Names of a `del` statement, which symtable counts as bound."""
    return {t.id for t in node.targets if isinstance(t, ast.Name)} if isinstance(node, ast.Delete) else set()


def is_stored_attribute(node: ast.AST) -> bool:
    """`helper.scale` in `helper.scale = 2`."""
    return isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)


def altered(node: ast.stmt) -> set[str]:
    """Names whose objects a statement changes."""
    return altered_by(list(outside_functions(node)))


def altered_inside(node: ast.stmt) -> set[str]:
    """Names whose objects the functions in a statement change."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    inside = [n for f in ast.walk(node) if isinstance(f, functions) for n in ast.walk(f)]
    return altered_by(inside)


def altered_by(nodes: list[ast.AST]) -> set[str]:
    """Names whose objects change: `table["a"] = 1`, `names.append("b")`."""
    places = [
        n for n in nodes if isinstance(n, (ast.Attribute, ast.Subscript)) and isinstance(n.ctx, (ast.Store, ast.Del))
    ]
    calls = (n.value for n in nodes if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call))
    places += [call.func for call in calls if isinstance(call.func, ast.Attribute)]
    return {name for name in map(root_of, places) if name}


def root_of(node: ast.expr) -> str | None:
    """`a` of `a.b["c"].d`."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def outside_functions(statement: ast.stmt) -> Iterator[ast.AST]:
    """All nodes of a statement but those inside functions, which do not run with it; their decorators do."""
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            pending.extend(ast.iter_child_nodes(node))
        pending.extend(getattr(node, "decorator_list", []) if isinstance(node, ast.FunctionDef) else [])


def read_as_values(node: ast.AST, local: frozenset[str] = frozenset()) -> set[str]:
    """Names that are read other than to be called, but for the local names of functions."""
    found: set[str] = set()
    pending = [(node, local)]
    while pending:
        one, known = pending.pop()
        if isinstance(one, ast.Name):
            if isinstance(one.ctx, ast.Load) and one.id not in known:
                found.add(one.id)
            continue
        children = list(ast.iter_child_nodes(one))
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Name):
            children.remove(one.func)
        if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            known = known | local_names(one)
        pending += [(child, known) for child in children]
    return found


def local_names(function: ast.AST) -> frozenset[str]:
    """Parameters and assigned names of a function."""
    names = {a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return frozenset(names)


def defined_names(node: ast.AST, in_loop: bool = False) -> set[str]:
    """Names that a node may make something to call: not by a number, by `gae = gae(…)`, or by a result in a loop."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, ast.Lambda):
        return set()
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        pairs = [pair for target in targets for pair in matched(target, node.value)]
        results = {id(value): called_in(value) for _, value in pairs}
        return {name for name, value in pairs if may_be_called(value, in_loop) and name not in results[id(value)]}
    in_loop = in_loop or isinstance(node, (ast.For, ast.AsyncFor, ast.While))
    return {name for child in ast.iter_child_nodes(node) for name in defined_names(child, in_loop)}


def matched(target: ast.expr, value: ast.expr | None) -> Iterator[tuple[str, ast.expr | None]]:
    """Names of an assignment with their values: two for `a, b = f, g`."""
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, (ast.Tuple, ast.List)):
        parts = value.elts if isinstance(value, (ast.Tuple, ast.List)) else [value] * len(target.elts)
        for one, part in zip(target.elts, parts, strict=False):
            yield from matched(one, part)


def may_be_called(value: ast.expr | None, in_loop: bool) -> bool:
    """Whether a value may be a function; what comes out of a step in a loop is a result."""
    if value is None or isinstance(value, PLAIN):
        return False
    if in_loop:
        return isinstance(value, ast.Lambda) or isinstance(value, ast.Call) and root_of(value.func) in MAKERS
    return True


def called_in(value: ast.expr | None) -> set[str]:
    """Names that are called in a value: what comes out of a function itself is a result of it."""
    called = (n.func for n in outside_functions(value) if isinstance(n, ast.Call)) if value else ()
    return {f.id for f in called if isinstance(f, ast.Name)}


def says_nothing(statement: ast.stmt) -> bool:
    """A docstring, `pass`, `...`, `return`, `return None` or `raise NotImplementedError`."""
    if isinstance(statement, ast.Raise):
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return isinstance(raised, ast.Name) and raised.id in ("NotImplementedError", "NotImplemented")
    if isinstance(statement, ast.Return):
        value = statement.value
        return value is None or isinstance(value, ast.Constant) and value.value in (None, ...)
    return (
        isinstance(statement, ast.Pass) or isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )
