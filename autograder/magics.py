"""A notebook cell as plain Python with the same line numbers: IPython's magics become calls that do nothing.

Done by hand: IPython is slow to import, and a grader may run where there is none.
"""

from __future__ import annotations

import re
import warnings

RUNS_PYTHON = re.compile(r"\s*%%(time|timeit|capture|prun|memit|mprun|lprun)\b[^\n]*(?:\n|$)")
WRITES_FILE = re.compile(r"\s*%%(?:writefile|file)\s+(?:-a\s+)?[\"']?(?:\./)?(\w+)\.py[\"']?\s*\n")
# a line that is a magic, a shell command, a question, or assigns what one of them gives
MAGIC = re.compile(r"(?P<indent>\s*)(?:[%!?]|[\w.%\[\]\"']+\?{1,2}\s*$)")
ASSIGNS_MAGIC = re.compile(r"(?P<indent>\s*)(?P<names>[\w ,.\[\]\"']*[\w\],])\s*=\s*[!%](?=[\w({])")
WITHOUT_PERCENT = re.compile(
    r"(?P<indent>\s*)(?:pip|conda|mamba|uv|cd|ls|ll|cat|mkdir|cp|mv|rm|pwd|who|whos|time|timeit|load_ext|reload_ext|autoreload"
    r"|matplotlib|config|env|run|precision|pylab)(?:\s+[\w.\"'~/-]|\s*$)"
)
RUNS_FILE = re.compile(r"(?P<indent>\s*)%run\s+[\"']?(?:\./)?(?P<name>[A-Za-z_]\w*)(?:\.py)?[\"']?\s*$")
NOTHING = "get_ipython()"
# what may hide a line's end: texts, comments and brackets
TOKENS = re.compile(r"\"\"\"|'''|\"(?:\\.|[^\"\\\n])*\"?|'(?:\\.|[^'\\\n])*'?|#[^\n]*|[()\[\]{}]|\\\n")
PROMPT = re.compile(r"^(?:>>> ?|\.\.\. ?|In \[\d*\]: ?)", re.MULTILINE)


def without_magics(source: str) -> str:
    """A cell as plain Python, as far as that is possible; its lines keep their numbers."""
    source = source.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")
    timed = RUNS_PYTHON.match(source)
    if timed:
        source = "\n" * timed.group().count("\n") + source[timed.end() :]
    elif source.lstrip().startswith("%%"):
        return ""
    if parses(source):
        return source
    for mended in (lines_without_magics(source), lines_without_magics(unindented(PROMPT.sub("", source)))):
        if parses(mended):
            return mended
    return lines_without_magics(source)


def parses(source: str) -> bool:
    """Whether a text is Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(source, "cell", "exec", 0x400 | 0x2000)  # only parse; `await` at top level is allowed
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def lines_without_magics(source: str) -> str:
    """Lines that are magics, and stand in no text or bracket, become calls that do nothing."""
    lines, result, inside = source.split("\n"), [], Inside()
    number = 0
    while number < len(lines):
        line = lines[number]
        mended = None if inside else without_magic(line)
        if mended is None:
            inside.read(line + "\n")
            result.append(line)
        else:
            result.append(mended)
            while lines[number].rstrip().endswith("\\") and number + 1 < len(lines):
                number += 1
                result.append("")
        number += 1
    return "\n".join(result)


def without_magic(line: str) -> str | None:
    """What stands for a line that is a magic; None if it is none."""
    assigns = ASSIGNS_MAGIC.match(line)
    if assigns:
        return f"{assigns['indent']}{assigns['names']} = {NOTHING}"
    runs = RUNS_FILE.match(line)
    if runs:
        return f"{runs['indent']}from {runs['name']} import *"
    found = MAGIC.match(line) or WITHOUT_PERCENT.match(line)
    if found is None or found.re is WITHOUT_PERCENT and parses(line.strip()):
        return None
    return found["indent"] + NOTHING


class Inside:
    """Whether the end of what has been read stands inside a text or a bracket."""

    def __init__(self):
        self.quote, self.depth, self.goes_on = "", 0, False

    def __bool__(self) -> bool:
        return bool(self.quote or self.depth > 0 or self.goes_on)

    def read(self, line: str) -> None:
        """One more line."""
        place, self.goes_on = 0, False
        while place < len(line):
            if self.quote:
                end = line.find(self.quote, place)
                if end < 0:
                    return
                self.quote, place = "", end + 3
                continue
            token = TOKENS.search(line, place)
            if token is None:
                return
            text, place = token.group(), token.end()
            if text in ('"""', "'''"):
                self.quote = text
            elif text in "([{":
                self.depth += 1
            elif text in ")]}":
                self.depth -= 1
            elif text == "\\\n":
                self.goes_on = True


def unindented(source: str) -> str:
    """Without the indentation of the first line, as IPython reads a cell that was copied from inside a function."""
    first = next((line for line in source.split("\n") if line.strip()), "")
    indent = first[: len(first) - len(first.lstrip())]
    if not indent:
        return source
    return "\n".join(line.removeprefix(indent) for line in source.split("\n"))


def written_module(source: str) -> tuple[str, str] | None:
    """Name and text of the module that a `%%writefile helpers.py` cell writes."""
    found = WRITES_FILE.match(source)
    return (found.group(1), "\n" * found.group().count("\n") + source[found.end() :]) if found else None
