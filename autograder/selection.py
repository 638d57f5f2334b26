"""Which top-level statements a function needs: its definition, and by name its helpers, imports and constants."""

from __future__ import annotations

import re

from autograder.statements import BUILTINS, Statement, read_statements

MAX_PASSES = 100  # a helper that needs a helper … so often: nobody's code, but somebody's try to keep the grader busy


class Selection:
    """The statements that a name needs.

    What only may matter is left out at first and taken if `broad`: statements that seem to give a function's name to a
    result (`gae = gae(…)`, or a training loop that reuses the name of a helper), calls that are handed a constant
    (`fill(table)`), and, where a name is defined nowhere in sight, code that defines names as it runs.

    Args:
        files: statements file by file; the last file defines the name, and others lend what it lacks.
        name: the function.
        without: names whose statements are left out.
        broad: see above.
    """

    def __init__(self, files: list[list[Statement]], name: str, without: frozenset[str], broad: bool):
        self.name, self.without, self.broad = name, without, broad
        self.home = files[-1] if files else []
        self.pool = [s for file in files for s in file]
        self.at_home = set(self.home)
        self.bound_at_home = {n for s in self.home for n in s.binds}
        self.bound = {n for s in self.pool for n in s.binds}
        self.imported = {n for s in self.pool if s.is_import for n in s.binds}
        self.definable = {n for s in self.pool for n in s.binds if s.may_define(n)} | BUILTINS
        self.functions = self.imported | {n for s in self.pool if s.is_function for n in s.binds}
        self.plainly_bound = {n for s in self.pool if not s.is_loop for n in s.binds}
        self.wanted, self.values, self.attributes, self.triggers = {name}, set(), set(), set()
        self.chosen: set[Statement] = set()
        for _ in range(MAX_PASSES):
            if not self.grow():
                break

    @property
    def statements(self) -> list[Statement]:
        """The chosen statements, in order."""
        return [s for s in self.pool if s in self.chosen]

    @property
    def functions_only(self) -> set[str]:
        """Names that must be something to call, and nothing else is done with them."""
        return {self.name} | (self.wanted & self.definable) - self.values

    @property
    def unresolved(self) -> set[str]:
        """Names that are wanted and bound nowhere."""
        return self.wanted - self.bound - BUILTINS

    def grow(self) -> bool:
        """One pass over all statements; whether it added any."""
        before = len(self.chosen)
        for statement in self.pool:
            if statement not in self.chosen and not statement.binds & self.without and self.takes(statement):
                self.add(statement)
        return len(self.chosen) > before

    def add(self, statement: Statement) -> None:
        """Choose a statement."""
        self.chosen.add(statement)
        self.wanted |= statement.needs
        self.values |= statement.values
        self.attributes |= statement.attributes
        if self.broad and statement.sets & self.unresolved:
            self.triggers |= statement.binds
        if self.broad and statement.is_dynamic:
            self.wanted |= {n for text in statement.texts for n in needs_of_text(text)}

    def takes(self, statement: Statement) -> bool:
        """Whether a statement is needed by what has been chosen so far."""
        if statement.is_future:
            return True
        if statement not in self.at_home:
            return bool(statement.binds & self.wanted - self.bound_at_home) and self.binds_something(statement)
        return (
            self.binds_something(statement)
            or "*" in statement.binds
            or bool(statement.alters & self.wanted - self.imported)
            or bool(statement.alters & self.imported and statement.patches & self.attributes)
            or self.broad
            and self.may_matter(statement)
        )

    def binds_something(self, statement: Statement) -> bool:
        """Whether it gives a wanted name its meaning."""
        names = statement.binds & self.wanted
        return bool(names) and (self.broad or any(not self.is_doubtful(statement, n) for n in names))

    def is_doubtful(self, statement: Statement, name: str) -> bool:
        """A result under the name of a function, or a loop that reuses the name of a constant."""
        if statement.may_define(name):
            return False
        only_called = name == self.name or name not in self.values
        return name in self.definable and only_called or statement.is_loop and name in self.plainly_bound

    def may_matter(self, statement: Statement) -> bool:
        """What could define or fill something that is wanted, as far as one can see."""
        unresolved = self.unresolved
        return (
            bool(statement.hands_on & self.wanted - self.functions)
            or bool(statement.sets & unresolved)
            or bool(statement.calls & self.triggers)
            or statement.is_dynamic
            and bool(unresolved or any(names_one_of(text, self.wanted) for text in statement.texts))
        )


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
