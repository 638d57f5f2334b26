"""Which top-level statements a function needs: its definition, and by name its helpers, imports and constants."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from autograder.statements import BUILTINS, Statement, read_statements

MAX_PASSES = 20  # code that defines code that defines code … so often: nobody's, but for a try to keep the grader busy


class Selection:
    """The statements that a name needs.

    What only may matter is left out at first and taken if `broad`: statements that seem to give a function's name to a
    result (`gae = gae(…)`, or a training loop that reuses the name of a helper), calls that are handed a constant
    (`fill(table)`) or change one (`@register`), and code that reads or defines names as it runs.

    Args:
        files: statements file by file; the last file defines the name, and others lend what it lacks.
        name: the function.
        without: names whose statements are left out.
        broad: see above.
    """

    def __init__(self, files: list[list[Statement]], name: str, without: frozenset[str], broad: bool):
        self.name, self.without, self.broad = name, without, broad
        home = files[-1] if files else []
        self.pool = [s for file in files for s in file]
        self.at_home = set(home)
        self.bound_at_home = {n for s in home for n in s.binds}
        self.bound = {n for s in self.pool for n in s.binds}
        self.imported = {n for s in self.pool if s.is_import for n in s.binds}
        self.definable = {n for s in self.pool for n in s.defines} | BUILTINS
        self.functions = self.imported | {n for s in self.pool if s.is_function for n in s.binds}
        self.plainly_bound = {n for s in self.pool if not s.is_loop for n in s.binds}
        self.binders = by_name(self.pool, lambda s: s.binds)
        self.alterers = by_name(home, lambda s: s.alters)
        self.patchers = by_name((s for s in home if s.alters & self.imported), lambda s: s.patches)
        self.wanted, self.values, self.attributes, self.triggers = set(), set(), set(), set()
        self.chosen: set[Statement] = set()
        self.pending = [name]
        for statement in home:
            if statement.is_future or "*" in statement.binds:
                self.add(statement)
        self.follow()
        for _ in range(MAX_PASSES if broad else 0):
            before = len(self.chosen)
            self.widen()
            if len(self.chosen) == before:
                break

    @property
    def statements(self) -> list[Statement]:
        """The chosen statements, in order."""
        return [s for s in self.pool if s in self.chosen]

    @property
    def functions_only(self) -> set[str]:
        """Names that must be something to call, and nothing else is done with them."""
        return {self.name} | (self.wanted & self.definable) - self.values

    def add(self, statement: Statement) -> None:
        """Choose a statement; what it needs is looked for later."""
        if statement in self.chosen or statement.binds & self.without:
            return
        self.chosen.add(statement)
        # a name that turns out to be used as a value may be bound by other statements than a function's name
        self.pending += (statement.needs - self.wanted) | (statement.values - self.values)
        self.values |= statement.values
        for attribute in statement.attributes - self.attributes:
            self.attributes.add(attribute)
            for other in self.patchers.get(attribute, ()):
                self.add(other)

    def follow(self) -> None:
        """Choose, name by name, all that is needed by what has been chosen so far."""
        while self.pending:
            name = self.pending.pop()
            self.wanted.add(name)
            for statement in self.binders.get(name, ()):
                lent = statement not in self.at_home and name in self.bound_at_home
                if not lent and (self.broad or not self.is_doubtful(statement, name)):
                    self.add(statement)
            for statement in self.alterers.get(name, ()) if name not in self.imported else ():
                self.add(statement)

    def is_doubtful(self, statement: Statement, name: str) -> bool:
        """A result under the name of a function, or a loop that reuses the name of a constant."""
        if name in statement.defines:
            return False
        only_called = name == self.name or name not in self.values
        return name in self.definable and only_called or statement.is_loop and name in self.plainly_bound

    def widen(self) -> None:
        """Choose what could define or fill something that is wanted, as far as one can see."""
        for text in {t for s in self.chosen if s.is_dynamic for t in s.texts}:  # globals()["RATE"], eval("2 * RATE")
            self.pending += (set(re.findall(r"[A-Za-z_]\w*", text)) & self.bound_at_home) - self.wanted
        self.follow()
        missing = self.wanted - self.bound - BUILTINS
        fillable = self.wanted - self.functions
        for statement in self.pool:
            if statement in self.chosen or statement not in self.at_home:
                continue
            if statement.sets & (missing | fillable):
                self.triggers |= statement.binds
            elif not (
                statement.hands_on & fillable
                or statement.calls & self.triggers
                or statement.is_dynamic
                and (missing or any(names_one_of(text, self.wanted) for text in statement.texts))
            ):
                continue
            self.add(statement)
            if statement.is_dynamic:
                self.pending += {n for text in statement.texts for n in needs_of_text(text)} - self.wanted
        self.follow()


def by_name(statements: Iterable[Statement], names: Callable) -> dict[str, list[Statement]]:
    """Statements by the names that they have to do with."""
    found: dict[str, list[Statement]] = {}
    for statement in statements:
        for name in names(statement):
            found.setdefault(name, []).append(statement)
    return found


def names_one_of(text: str, names: set[str]) -> bool:
    """Whether a text holds one of some names as a word."""
    return bool(names & set(re.findall(r"[A-Za-z_]\w*", text)))


def needs_of_text(text: str) -> set[str]:
    """Names that a text reads, if it is Python."""
    if "\n" not in text and "def " not in text and "lambda" not in text:
        return set()
    try:
        return {n for s in read_statements("text", text) for n in s.needs}
    except SyntaxError:
        return set()
