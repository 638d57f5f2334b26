"""Preference data of any origin, brought into one form: the strings prompt, chosen, rejected.

A source is one of the packaged splits ("ratings:reward", "ratings:judge", "ratings:test"), a local JSONL, JSON, Parquet or
CSV file, or a Hub name. Its rows may have the explicit prompt, the implicit prompt or the conversational form that TRL
documents. A bad row is named with its number, never dropped in silence.
"""

from __future__ import annotations

import csv
import json
import os.path
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetNotFoundError

from rlhf_core.data.ratings import opening_prompts, rating_pairs

RATINGS_PREFIX = "ratings:"
DEFAULT_RATING_PAIRS = 8000
SHOWN_BAD_ROWS = 5
Row = dict[str, Any]


class BadRows(ValueError):
    """Some rows cannot be used; the message names the first of them, why, and how many there are."""


class SourceError(ValueError):
    """A source cannot be read; the message says why and what to do."""


def load_preferences(
    source: str | Path,
    split: str = "train",
    limit: int | None = None,
    tokenizer: Any = None,
    on_bad_rows: Literal["raise", "drop"] = "raise",
) -> Dataset:
    """Preference pairs as strings.

    Args:
        source: a packaged split, a local file, or a Hub name.
        split: of a Hub data set.
        limit: use only the first rows (for packaged ratings: draw so many pairs).
        tokenizer: renders conversations with its chat template; without one they become "Human: … Assistant: …".
        on_bad_rows: "raise" names them; "drop" leaves them out and warns with their count.

    Returns:
        Columns prompt, chosen, rejected; text = prompt + chosen.

    Raises:
        BadRows: rows with a missing column, empty text, equal texts, or something that is not text.
        SourceError: the source is missing or unreadable.
    """
    name = str(source)
    if name.startswith(RATINGS_PREFIX):
        return rating_pairs(name.removeprefix(RATINGS_PREFIX), limit or DEFAULT_RATING_PAIRS)
    rows = read_rows(name, split)[:limit]
    return Dataset.from_list(_convert(rows, lambda row: preference_row(row, tokenizer), name, on_bad_rows))


def load_prompts(source: str | Path, num_words: int = 3, split: str = "train", tokenizer: Any = None) -> list[str]:
    """Prompts for a policy to continue.

    Args:
        source: a packaged split, whose sentences' first `num_words` words become prompts, or data with a `prompt` column.
        num_words: for packaged splits.
        split: of a Hub data set.
        tokenizer: renders conversational prompts.

    Returns:
        The distinct prompts, in order.

    Raises:
        BadRows: rows without a usable prompt. SourceError: the source is missing or unreadable.
    """
    name = str(source)
    if name.startswith(RATINGS_PREFIX):
        return opening_prompts(name.removeprefix(RATINGS_PREFIX), num_words)

    def prompt_of(row: Row) -> str:
        value = row.get("prompt", _MISSING)
        return render([*_messages(value, "prompt")], tokenizer, True) if isinstance(value, list) else _text(value, "prompt")

    return list(dict.fromkeys(_convert(read_rows(name, split), prompt_of, name, "raise")))


def read_rows(source: str, split: str) -> list[Row]:
    """The rows of a file or a Hub data set, as they are."""
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix.lower() not in readers:
            raise SourceError(f"{source} ends in {path.suffix or 'nothing'}; known endings are {', '.join(readers)}")
        try:
            return readers[path.suffix.lower()](path)
        except (UnicodeDecodeError, OSError, ValueError, csv.Error) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{source} cannot be read as {path.suffix}: {str(error).splitlines()[0]}") from error
    if path.suffix.lower() in readers or path.is_absolute() or source.startswith("."):
        raise SourceError(f"there is no file {source}")
    try:
        return load_dataset(source, split=split).to_list()
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(f"{source} is neither a local file nor a data set that can be fetched: {reason}") from error


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise SourceError(f"{path}, line {number} is not JSON: {error.msg}") from error
    return rows


def _read_json(path: Path) -> list[Row]:
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list):
        raise SourceError(f"{path} must hold a list of rows")
    return rows


def _read_csv(path: Path) -> list[Row]:
    """Every field stays text: "None" and "12" are words here."""
    csv.field_size_limit(sys.maxsize if sys.maxsize < 2**32 else 2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k is not None and v is not None} for row in rows]


def _read_parquet(path: Path) -> list[Row]:
    return Dataset.from_parquet(str(path), keep_in_memory=True).to_list()


def _convert(rows: list[Row], convert: Callable[[Row], Any], source: str, on_bad_rows: str) -> list[Any]:
    """Convert every row; collect those that cannot be."""
    good, bad = [], []
    for number, row in enumerate(rows, start=1):
        try:
            good.append(convert(row))
        except _BadRow as error:
            bad.append(f"row {number}: {error}")
    if not bad and good:
        return good
    first = "; ".join(bad[:SHOWN_BAD_ROWS]) + (f"; and {len(bad) - SHOWN_BAD_ROWS} more" if len(bad) > SHOWN_BAD_ROWS else "")
    if not good:
        raise BadRows(f"{source} has no usable row" + (f" ({len(bad)} bad; counted from 1: {first})" if bad else ""))
    message = f"{len(bad)} of {len(rows)} rows of {source} (counted from 1, the header left out)"
    if on_bad_rows == "raise":
        raise BadRows(f"{message} cannot be used: {first}")
    warnings.warn(f"dropped {message}: {first}", stacklevel=3)
    return good


class _BadRow(ValueError):
    """Why one row cannot be used."""


_MISSING = object()


def _text(value: Any, column: str) -> str:
    if value is _MISSING:
        raise _BadRow(f"there is no column {column!r}")
    if not isinstance(value, str):
        raise _BadRow(f"{column} is not a string but {type(value).__name__}")
    if not value.strip():
        raise _BadRow(f"{column} is empty")
    return value


def _messages(value: list, column: str) -> list[dict[str, str]]:
    """A conversation, checked."""
    if not value:
        raise _BadRow(f"{column} is empty")
    for message in value:
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise _BadRow(f"{column} has a message without role and content")
        _text(message["role"], f"{column}'s role")
        _text(message["content"], f"{column}'s content")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def preference_row(row: Row, tokenizer: Any = None) -> dict[str, str]:
    """One row in one form, whichever of TRL's forms it came in."""
    if not isinstance(row, dict):
        raise _BadRow(f"it is not a set of columns but {type(row).__name__}")
    chosen, rejected = row.get("chosen", _MISSING), row.get("rejected", _MISSING)
    if isinstance(chosen, list) or isinstance(rejected, list):
        prompt, chosen, rejected = _conversation(row, tokenizer)
    else:
        chosen, rejected = _text(chosen, "chosen"), _text(rejected, "rejected")
        if "prompt" in row:
            prompt = _text(row["prompt"], "prompt")
        else:
            prompt, chosen, rejected = split_common_prefix(chosen, rejected)
    if chosen == rejected:
        raise _BadRow("chosen and rejected are equal")
    if not chosen.strip() or not rejected.strip():
        raise _BadRow("one of the texts is nothing but the prompt")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def split_common_prefix(chosen: str, rejected: str) -> tuple[str, str, str]:
    """The implicit prompt: the longest common prefix, whose last space goes to the answers, as in TRL."""
    if chosen == rejected:
        raise _BadRow("chosen and rejected are equal")
    end = len(os.path.commonprefix([chosen, rejected]))
    if end and chosen[end - 1] == " ":
        end -= 1
    return chosen[:end], chosen[end:], rejected[end:]


def _conversation(row: Row, tokenizer: Any) -> tuple[str, str, str]:
    """Prompt and answers of a conversational row, rendered to text."""
    if not isinstance(row.get("chosen"), list) or not isinstance(row.get("rejected"), list):
        raise _BadRow("one of chosen and rejected is a conversation and the other is not")
    chosen, rejected = _messages(row["chosen"], "chosen"), _messages(row["rejected"], "rejected")
    if "prompt" in row:
        prompt = row["prompt"]
        prompt = _messages(prompt, "prompt") if isinstance(prompt, list) else [{"role": "user", "content": _text(prompt, "prompt")}]
    else:
        common = 0
        while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
            common += 1
        prompt, chosen, rejected = chosen[:common], chosen[common:], rejected[common:]
    if chosen == rejected:
        raise _BadRow("chosen and rejected are equal")
    if not chosen or not rejected:
        raise _BadRow("one of the texts is nothing but the prompt")
    if not prompt:
        raise _BadRow("the conversations have no message in common, so there is no prompt")
    start = render(prompt, tokenizer, True)
    full = [render([*prompt, *answer], tokenizer, False) for answer in (chosen, rejected)]
    if not all(text.startswith(start) for text in full):
        raise _BadRow("the chat template renders the prompt differently when an answer follows")
    return start, full[0][len(start) :], full[1][len(start) :]


def render(messages: list[dict[str, str]], tokenizer: Any, open_answer: bool) -> str:
    """A conversation as text: by the tokenizer's chat template, else "Human: …" and "Assistant: …" in paragraphs."""
    if tokenizer is not None and getattr(tokenizer, "chat_template", None):
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_answer)
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    text = "\n\n".join(f"{names.get(m['role'], m['role'].title())}: {m['content']}" for m in messages)
    return text + "\n\nAssistant:" if open_answer else text
