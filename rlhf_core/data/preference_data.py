"""Preference pairs and prompts from anywhere: the packaged ratings, local files, the Hugging Face Hub.

A data set comes in one of the forms that TRL documents ("Dataset formats and types"):

    explicit prompt   {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    implicit prompt   {"chosen": "The sky is blue.", "rejected": "The sky is green."}

and either of them with conversations, lists of {"role", "content"} messages, in place of text; in a CSV field a
conversation is written as JSON. Texts are taken as they are: nothing is put between a prompt and its response.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rlhf_core.checks import require
from rlhf_core.data.conversations import Message, as_messages, common_length, render
from rlhf_core.data.ratings import SPLITS, opening_prompts, rating_pairs
from rlhf_core.data.rows import BadRows, DroppedRows, RowProblem, Table, as_json, as_text, read_table

if TYPE_CHECKING:  # both take seconds to import
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

PACKAGED = "ratings:"
COLUMNS = ("prompt", "chosen", "rejected")
ASSISTANT_CUE = "\n\nAssistant:"  # what Anthropic/hh-rlhf writes before every answer
OnBadRows = Literal["raise", "drop"]


def load_preferences(
    source: str | Path,
    split: str = "train",
    limit: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    on_bad_rows: OnBadRows = "raise",
    *,
    min_gap: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Preference pairs as text: columns `prompt`, `chosen`, `rejected`.

    Args:
        source: "ratings:reward", "ratings:judge" or "ratings:test" (the packaged ratings); a .jsonl, .json, .parquet or
            .csv file; or the name of a data set on the Hugging Face Hub.
        split: which split of a Hub data set.
        limit: how many rows to read. Packaged ratings: how many pairs to draw; ties are among them and left out.
        tokenizer: its chat template, if it has one, turns conversations into text; without one they become
            "Human: … Assistant: …", see `conversations.plain`.
        on_bad_rows: "raise", or "drop" them under a `DroppedRows` warning that counts them.
        min_gap: packaged ratings only: leave out pairs whose mean ratings differ by no more than this (scale −4 to 4).
        seed: packaged ratings only: of the draw.

    Raises:
        BadRows: rows lack a column or a prompt, or have one that is empty, no string or a malformed conversation, or
            have the same text as chosen and rejected. With "drop", only if no row is left.
        ValueError: the source does not exist, cannot be read or has no rows.

    Source: the forms and the rules for them are those of TRL 1.16.0 (`trl.data_utils`); see `split_prompt` for where an
        implicit prompt ends.
    """
    check_options(limit, on_bad_rows)
    part = packaged_part(source, split)
    if part is not None:
        require(limit is not None, f"{source} needs a number of pairs: any two of its sentences could make one")
        return rating_pairs(part, limit, seed, min_gap).select_columns(list(COLUMNS))
    table = read_table(source, split, limit)
    explicit = has_prompts(table)
    return usable_rows(table, lambda row: preference(row, explicit, tokenizer), COLUMNS, on_bad_rows)


def load_prompts(
    source: str | Path,
    split: str = "train",
    limit: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    on_bad_rows: OnBadRows = "raise",
    *,
    num_words: int = 3,
    seed: int = 0,
) -> Dataset:
    """Prompts for a policy to answer: column `prompt`.

    Args:
        source: as in `load_preferences`; a file of prompts needs only the column `prompt`, text or a conversation. A
            preference data set gives the prompts of its pairs.
        split, limit, tokenizer, on_bad_rows: as in `load_preferences`.
        num_words: packaged ratings only: words of a sentence that make a prompt.
        seed: packaged ratings only: of their order.

    Raises:
        BadRows, ValueError: as in `load_preferences`.
    """
    check_options(limit, on_bad_rows)
    part = packaged_part(source, split)
    if part is not None:
        from datasets import Dataset

        return Dataset.from_dict({"prompt": opening_prompts(part, num_words, limit, seed)})
    table = read_table(source, split, limit)
    explicit = has_prompts(table)

    def prompt_of(row: dict) -> dict[str, str]:
        if "chosen" in row and "rejected" in row:
            return {"prompt": preference(row, explicit, tokenizer)["prompt"]}
        require_columns(row, ("prompt",))
        value = text_or_messages(row["prompt"], "prompt")
        return {"prompt": value if isinstance(value, str) else render(tokenizer, value)[0]}

    return usable_rows(table, prompt_of, ("prompt",), on_bad_rows)


def check_options(limit: int | None, on_bad_rows: str) -> None:
    """Refuse options before anything is read."""
    require(limit is None or limit >= 1, f"limit must be at least 1, got {limit}")
    require(on_bad_rows in ("raise", "drop"), f'on_bad_rows must be "raise" or "drop", got {on_bad_rows!r}')


def packaged_part(source: str | Path, split: str) -> str | None:
    """Which part of the packaged ratings a built-in name means; None for any other source."""
    if not str(source).startswith(PACKAGED):
        return None
    part = str(source).removeprefix(PACKAGED)
    names = ", ".join(PACKAGED + name for name in SPLITS)
    require(part in SPLITS, f"the packaged ratings are {names}, not {source}")
    require(split == "train", f"the parts of the packaged ratings are {names}: they have no split {split!r}")
    return part


def has_prompts(table: Table) -> bool:
    """Whether the prompt is explicit: then a row without one is a bad row."""
    return any(isinstance(row, dict) and "prompt" in row for _, row in table.rows)


def usable_rows(
    table: Table, convert: Callable[[dict], dict[str, str]], columns: tuple[str, ...], on_bad_rows: OnBadRows
) -> Dataset:
    """Convert every row; those that raise `RowProblem` are the bad ones."""
    from datasets import Dataset, Features, Value

    good: dict[str, list[str]] = {name: [] for name in columns}
    problems = []
    for number, row in table.rows:
        try:
            converted = convert(as_row(row))
        except RowProblem as problem:
            problems.append((number, str(problem)))
            continue
        for name in columns:
            good[name].append(converted[name])
    if problems:
        bad = BadRows(table, problems)
        if on_bad_rows == "raise" or bad.count == bad.total:
            raise bad
        warnings.warn(DroppedRows(bad), stacklevel=3)
    return Dataset.from_dict(good, features=Features({name: Value("string") for name in columns}))


def as_row(row: object) -> dict:
    """The row, unless it is none."""
    if isinstance(row, RowProblem):
        raise row
    if not isinstance(row, dict):
        raise RowProblem(f"is {as_json(row)}, not an object with columns")
    return row


def preference(row: dict, explicit: bool, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, str]:
    """One row of any form as prompt, chosen and rejected text."""
    names = COLUMNS if explicit else COLUMNS[1:]
    require_columns(row, names)
    values = {name: text_or_messages(row[name], name) for name in names}
    prompt, chosen, rejected = values.get("prompt"), values["chosen"], values["rejected"]
    if type(chosen) is not type(rejected):
        raise RowProblem("has a conversation in one of `chosen` and `rejected` and text in the other")
    require_different(chosen, rejected)
    if isinstance(prompt, list) and isinstance(chosen, str):
        raise RowProblem("has a conversation in `prompt` but text in `chosen` and `rejected`")
    if prompt is None or type(prompt) is not type(chosen):  # a text beside whole conversations repeats their beginning
        prompt, chosen, rejected = split_prompt(chosen, rejected)
        if not prompt:
            raise RowProblem("has a `chosen` and a `rejected` without a common beginning that could be the prompt")
    if isinstance(prompt, list):
        prompt, chosen, rejected = render(tokenizer, prompt, chosen, rejected)
    pair = dict(zip(COLUMNS, (prompt, chosen, rejected), strict=True))
    for name, text in pair.items():
        if not text.strip():
            raise RowProblem(f"has nothing left in `{name}` when prompt and response are told apart")
    require_different(chosen, rejected)
    return pair


def require_columns(row: dict, names: tuple[str, ...]) -> None:
    """All these columns are there."""
    missing = [f"`{name}`" for name in names if name not in row]
    if missing:
        raise RowProblem(f"lacks {' and '.join(missing)} (it has {', '.join(map(str, row)) or 'no columns'})")


def require_different(chosen: str | list[Message], rejected: str | list[Message]) -> None:
    """A pair has something to prefer."""
    if chosen == rejected:
        raise RowProblem("has a `chosen` equal to `rejected`")


def text_or_messages(value: object, column: str) -> str | list[Message]:
    """A text that is not empty, or a well-formed conversation."""
    return as_messages(value, column) if isinstance(value, list) else as_text(value, f"`{column}`")


def split_prompt(chosen: str | list, rejected: str | list) -> tuple[str | list, str | list, str | list]:
    """Take the prompt that `chosen` and `rejected` begin with from both.

    Of two conversations it is their common leading messages, and each keeps at least one. Of two texts it is what they
    have in common up to the last "Assistant:" turn of a dialog or, where there is none, up to the last whole word;
    the space before the response belongs to the response, and each keeps at least a word.

    Returns:
        prompt, chosen and rejected; the prompt is empty where there is no such beginning.

    Source: TRL's `extract_prompt`, and equal to it except that it cuts texts inside a word ("bl" | "ue", "bl" | "ack"),
        which no tokenizer would, and inside an answer whose first words agree.
    """
    length = common_length(chosen, rejected)
    if isinstance(chosen, list):
        cut = min(length, len(chosen) - 1, len(rejected) - 1)
    else:
        cut = text_cut(chosen, rejected, length)
    return chosen[:cut], chosen[cut:], rejected[cut:]


def text_cut(chosen: str, rejected: str, length: int) -> int:
    """Where the prompt of two texts with a common beginning of this length ends."""
    answer = chosen.rfind(ASSISTANT_CUE, 0, length)
    if answer >= 0:
        return answer + len(ASSISTANT_CUE)
    cut = length
    if not chosen[cut:].strip() or not rejected[cut:].strip():  # one text is the beginning of the other
        cut = max(len(chosen[:cut].rstrip()) - 1, 0)
    while cut > 0 and (same_word(chosen[cut - 1], chosen[cut]) or same_word(rejected[cut - 1], rejected[cut])):
        cut -= 1
    return cut - 1 if cut > 0 and chosen[cut - 1] == " " else cut


def same_word(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word.

    Scripts without upper and lower case (Chinese, Thai) need no spaces: each of their characters stands for itself.
    """
    return all(c.isalnum() and unicodedata.category(c) != "Lo" for c in (left, right))
