"""Rows of a data file or a Hub data set, each with its number, and the report of those that cannot be used."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

MAX_LISTED = 5  # bad rows that a message names; it counts all of them
HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
CONVERSATION_IN_A_FIELD = re.compile(r"""\s*\[\s*\{\s*['"](role|content)['"]""")


class RowProblem(ValueError):
    """What is wrong with one row. A reader gives it in place of a row that it cannot take apart."""


@dataclass(frozen=True)
class Table:
    """Rows as they were read: dictionaries if all is well, each with its number."""

    source: str
    unit: str  # what the numbers count: "line", "item" or "row"
    counting: str  # the same as a sentence
    rows: list[tuple[int, object]]


class BadRows(ValueError):
    """Rows that cannot be used: the first few by number and reason, and how many there are.

    Attributes:
        problems: number and reason of every bad row, in order.
        count: how many there are, out of `total` rows.
    """

    def __init__(self, table: Table, problems: list[tuple[int, str]]):
        self.problems = problems
        self.count, self.total = len(problems), len(table.rows)
        named = [f"{table.unit} {number} {reason}" for number, reason in problems[:MAX_LISTED]]
        if self.count > MAX_LISTED:
            named.append(f"and {self.count - MAX_LISTED} more")
        self.summary = f"{self.count} of {self.total} rows of {table.source}"
        self.details = f"{'; '.join(named)} ({table.counting})"
        super().__init__(f"{self.summary} cannot be used: {self.details}")


class DroppedRows(UserWarning):
    """Bad rows were left out, as `on_bad_rows="drop"` asked; `bad` holds their count, numbers and reasons."""

    def __init__(self, bad: BadRows):
        self.bad = bad
        super().__init__(f"dropped {bad.summary}: {bad.details}")


def read_table(source: str | Path, split: str = "train", limit: int | None = None) -> Table:
    """The first `limit` rows of a local file, or of one split of a Hub data set.

    Raises:
        ValueError: there is no such file or data set, the ending is unknown, the file cannot be read or has no rows.
    """
    path = Path(source).expanduser()
    looks_local = path.suffix.lower() in READERS or not HUB_NAME.fullmatch(str(source))
    if path.is_file():
        table = read_file(path, split, limit)
    elif looks_local or path.is_dir():
        found = "is a folder; name a file in it" if path.is_dir() else "does not exist"
        raise ValueError(f"the data file {source} {found}")
    else:
        table = read_hub(str(source), split, limit)
    if not table.rows:
        raise ValueError(f"{source} has no rows")
    return table


def read_file(path: Path, split: str, limit: int | None) -> Table:
    """Rows of a local file, read by its ending."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} has none of the endings that can be read: {', '.join(READERS)}")
    if split != "train":
        raise ValueError(f"a file has no splits: name the file that holds {split!r} instead of {path}")
    try:
        return reader(path, limit)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#x}") from error
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {first_line(error)}") from error


def read_hub(name: str, split: str, limit: int | None) -> Table:
    """Rows of a data set on the Hugging Face Hub."""
    import datasets

    try:
        data = datasets.load_dataset(name, split=split)
    except Exception as error:  # no network, no such name, no such split: all of them end here
        raise ValueError(
            f"{name!r} is neither a file here nor a data set with a split {split!r} on the Hugging Face Hub: "
            f"{first_line(error)}"
        ) from error
    chosen = data if limit is None else data.select(range(min(limit, len(data))))
    counting = f"rows of the split {split!r} are counted from 1"
    return Table(name, "row", counting, list(enumerate(chosen, start=1)))


def read_jsonl(path: Path, limit: int | None) -> Table:
    """One JSON object a line; blank lines are no rows, but count as lines."""
    with path.open(encoding="utf-8-sig") as file:
        numbered = ((number, parse_line(line)) for number, line in enumerate(file, start=1) if line.strip())
        return Table(str(path), "line", "lines are counted from 1", list(islice(numbered, limit)))


def parse_line(line: str) -> object:
    """A JSON value, or what is wrong with it."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return RowProblem(f"is not valid JSON: {first_line(error)}")


def read_json(path: Path, limit: int | None) -> Table:
    """A list of objects, or one object a line as many files with this ending have it."""
    text = path.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        return read_jsonl(path, limit)
    counting = "items of the list are counted from 1"
    return Table(str(path), "item", counting, list(enumerate(json.loads(text)[:limit], start=1)))


def read_parquet(path: Path, limit: int | None) -> Table:
    """Rows of a Parquet file."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        rows = (row for batch in file.iter_batches(batch_size=1024) for row in batch.to_pylist())
        return Table(str(path), "row", "rows are counted from 1", list(enumerate(islice(rows, limit), start=1)))


def read_csv(path: Path, limit: int | None) -> Table:
    """Comma-separated rows under a header. Every field stays the text it is: "12", "None" and "" included."""
    counting = "rows are counted from 1, without the header and blank lines"
    old_limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the usual 131,072 is less than a long dialog
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = (line for line in csv.reader(file, strict=True) if line)
            header = next(lines, [])
            if len(set(header)) < len(header):
                raise ValueError(f"two columns have one name in the header {', '.join(header)}")
            return Table(str(path), "row", counting, list(islice(csv_rows(lines, header), limit)))
    finally:
        csv.field_size_limit(old_limit)


def csv_rows(lines: Iterable[list[str]], header: list[str]) -> Iterator[tuple[int, object]]:
    """Numbered rows with the header's names."""
    for number, fields in enumerate(lines, start=1):
        if len(fields) != len(header):
            yield number, RowProblem(f"has {len(fields)} fields where the header has {len(header)}")
            continue
        try:
            yield number, {name: csv_field(field) for name, field in zip(header, fields, strict=True)}
        except RowProblem as problem:
            yield number, problem


def csv_field(field: str) -> str | list:
    """The text itself, or the conversation that it is in JSON: CSV has no lists of its own."""
    if not CONVERSATION_IN_A_FIELD.match(field):
        return field
    try:
        return json.loads(field)
    except (ValueError, RecursionError) as error:
        raise RowProblem(f"has a conversation that is not valid JSON ({first_line(error)})") from error


def as_text(value: object, where: str, may_be_empty: bool = False) -> str:
    """The value, if it is a text.

    Raises:
        RowProblem: it is no string, has nothing but white space, or holds what no text can hold.
    """
    if not isinstance(value, str):
        raise RowProblem(f"has {as_json(value)} in {where}, not a string")
    if not value.strip() and not may_be_empty:
        raise RowProblem(f"has an empty text in {where}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise RowProblem(f"has half a surrogate pair in {where}, which is no text")
    return value


def as_json(value: object) -> str:
    """A value as JSON writes it, short enough for a message."""
    return json.dumps(value, default=str)[:40]


def first_line(error: Exception) -> str:
    """An error's message without the lines that follow it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


READERS: dict[str, Callable[[Path, int | None], Table]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".parquet": read_parquet,
    ".csv": read_csv,
}
