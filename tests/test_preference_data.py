"""Preference data from anywhere: every form in every kind of file, every kind of bad row, every unreadable file."""

from __future__ import annotations

import csv
import json
import re
import warnings
from pathlib import Path

import datasets
import pytest
from preference_forms import ASK, BLUE, DIALOG, FORMS, GREEN, HUMAN, SECOND, write

from rlhf_core.config import DATA_ENDINGS
from rlhf_core.data.preference_data import BadRows, DroppedRows, load_preferences, load_prompts
from rlhf_core.data.ratings import opening_prompts, rating_pairs
from rlhf_core.data.rows import READERS

# ---- forms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", sorted(READERS))
@pytest.mark.parametrize("form", FORMS)
def test_every_form_in_every_kind_of_file(form: str, ending: str, tmp_path: Path):
    row, expected = FORMS[form]
    other = {name: SECOND[name](value) for name, value in row.items()}
    data = load_preferences(write(tmp_path / f"pairs{ending}", [row, other]))
    assert data.column_names == ["prompt", "chosen", "rejected"]
    assert {feature.dtype for feature in data.features.values()} == {"string"}
    assert len(data) == 2 and data[0] == expected
    assert (data[1]["chosen"], data[1]["rejected"]) == (expected["chosen"], expected["rejected"])


def test_known_endings_are_those_of_the_options():
    assert set(READERS) == DATA_ENDINGS


def test_json_ending_with_one_object_a_line(tmp_path: Path):
    row, expected = FORMS["explicit prompt"]
    path = write(tmp_path / "pairs.jsonl", [row]).rename(tmp_path / "pairs.json")
    assert load_preferences(str(path))[0] == expected


def test_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    row, expected = FORMS["explicit prompt"]
    write(tmp_path / "pairs.jsonl", [row])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_preferences("~/pairs.jsonl")[0] == expected


def test_other_columns_are_left_out(tmp_path: Path):
    row, expected = FORMS["implicit prompt"]
    assert load_preferences(write(tmp_path / "a.jsonl", [{**row, "score_chosen": 9.5}]))[0] == expected


def test_text_survives_bom_windows_line_ends_and_unicode_separators(tmp_path: Path):
    row = {"prompt": "a\u2028b", "chosen": " c\r\nd\x85", "rejected": " é"}
    line = json.dumps(row, ensure_ascii=False)
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n{line}\r\n".encode())
    assert list(load_preferences(path)) == [row, row]


def test_limit_takes_the_first_rows_and_looks_at_no_other(tmp_path: Path):
    row = FORMS["explicit prompt"][0]
    rows = [{**row, "prompt": f"{n}"} for n in range(5)] + [{**row, "chosen": row["rejected"]}]
    for ending in READERS:
        assert load_preferences(write(tmp_path / f"pairs{ending}", rows), limit=3)["prompt"][:] == ["0", "1", "2"]
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        load_preferences(tmp_path / "pairs.jsonl", limit=0)


# ---- CSV ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field", ["None", "12", "1e5", "NA", "nan", "null", "true", " x ", 'a "b", c\nd', "[1, 2]", "[{}]"]
)
def test_csv_field_stays_the_text_it_is(field: str, tmp_path: Path):
    data = load_preferences(write(tmp_path / "a.csv", [{"prompt": "p", "chosen": field, "rejected": "r"}]))
    assert data[0]["chosen"] == field


def test_empty_csv_field_is_an_empty_text(tmp_path: Path):
    path = write(tmp_path / "a.csv", [{"prompt": "p", "chosen": "", "rejected": "r"}])
    with pytest.raises(BadRows, match="row 1 has an empty text in `chosen`"):
        load_preferences(path)
    path = write(tmp_path / "prompts.csv", [{"prompt": "p"}, {"prompt": ""}])
    with pytest.raises(BadRows, match="1 of 2 rows .* row 2 has an empty text in `prompt`"):
        load_prompts(path)


def test_long_csv_field_is_read_and_the_limit_of_the_csv_module_restored(tmp_path: Path):
    before = 131_072
    csv.field_size_limit(before)
    text = "x " * 100_000
    assert (
        load_preferences(write(tmp_path / "a.csv", [{"prompt": "p", "chosen": text, "rejected": "r"}]))[0]["chosen"]
        == text
    )
    assert csv.field_size_limit() == before


def test_csv_row_with_too_few_or_too_many_fields(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected\np, a, b\n\np, a\np, a, b, c\n")
    with pytest.raises(BadRows, match=r"row 2 has 2 fields where the header has 3; row 3 has 4 fields") as caught:
        load_preferences(path)
    assert "without the header and blank lines" in str(caught.value)


def test_conversation_in_pythons_notation_is_not_taken_for_text(tmp_path: Path):
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["chosen", "rejected"], [str([ASK, BLUE]), str([ASK, GREEN])]])
    with pytest.raises(BadRows, match="row 1 has a conversation that is not valid JSON"):
        load_preferences(path)


# ---- bad rows -------------------------------------------------------------------------------------------------------

GOOD = FORMS["explicit prompt"][0]
BAD = {
    "lacks `rejected` (it has prompt, chosen)": {"prompt": "p", "chosen": "c"},
    "lacks `prompt` (it has chosen, rejected)": {"chosen": "a b", "rejected": "a c"},
    "has an empty text in `chosen`": {**GOOD, "chosen": ""},
    "has an empty text in `prompt`": {**GOOD, "prompt": " \n"},
    "has a `chosen` equal to `rejected`": {**GOOD, "chosen": " same", "rejected": " same"},
    "has null in `rejected`, not a string": {**GOOD, "rejected": None},
    "has 12 in `chosen`, not a string": {**GOOD, "chosen": 12},
    "has true in `prompt`, not a string": {**GOOD, "prompt": True},
    'has {"text": "x"} in `chosen`, not a string': {**GOOD, "chosen": {"text": "x"}},
    "has half a surrogate pair in `chosen`": {**GOOD, "chosen": "\ud800"},
    "has a conversation in one of `chosen` and `rejected` and text in the other": {**GOOD, "chosen": [BLUE]},
    "has a conversation in `prompt` but text in": {**GOOD, "prompt": [ASK]},
    "has an empty conversation in `prompt`": {"prompt": [], "chosen": [BLUE], "rejected": [GREEN]},
    'has "hi" as message 2 of `chosen`, not a role': {"prompt": [ASK], "chosen": [BLUE, "hi"], "rejected": [GREEN]},
    "has null in the role of message 1 of `chosen`": {"prompt": "p", "chosen": [{"content": "x"}], "rejected": [GREEN]},
    "has null in the content of message 1 of `rejected`": {
        "prompt": [ASK],
        "chosen": [BLUE],
        "rejected": [{"role": "assistant"}],
    },
    "has an empty text in the content of message 1 of `rejected`": {
        "prompt": [ASK],
        "chosen": [BLUE],
        "rejected": [{**GREEN, "content": " "}],
    },
    "without a common beginning": {"prompt": "p", "chosen": [BLUE], "rejected": [GREEN]},
    "is [1], not an object with columns": [1],
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_row_is_named_with_its_line_and_reason(reason: str, tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [GOOD, BAD[reason], GOOD])
    with pytest.raises(BadRows) as caught:
        load_preferences(path)
    assert f"1 of 3 rows of {path} cannot be used: line 2 " in str(caught.value)
    assert reason in str(caught.value) and "(lines are counted from 1)" in str(caught.value)
    assert caught.value.count == 1 and caught.value.total == 3
    with pytest.warns(DroppedRows, match=re.escape(f"dropped 1 of 3 rows of {path}: line 2 ")) as warned:
        data = load_preferences(path, on_bad_rows="drop")
    assert list(data) == [GOOD, GOOD]
    assert warned[0].message.bad.problems == caught.value.problems
    assert warned[0].filename == __file__  # the caller sees it


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("Yes.", "No.", "without a common beginning"),
        ("Yes.", "Yes.", "has a `chosen` equal to `rejected`"),
        ("yes", "yellow", "without a common beginning"),  # half a word is no prompt
        (HUMAN, HUMAN + " Light.", "has nothing left in `chosen`"),
        ([ASK], [ASK, BLUE], "without a common beginning"),
        ([BLUE], [GREEN], "without a common beginning"),
        ([ASK, BLUE], [ASK, BLUE], "has a `chosen` equal to `rejected`"),
    ],
)
def test_implicit_prompt_that_is_not_there(chosen: str | list, rejected: str | list, reason: str, tmp_path: Path):
    with pytest.raises(BadRows, match=reason):
        load_preferences(write(tmp_path / "a.jsonl", [{"chosen": chosen, "rejected": rejected}]))


def test_conversations_that_read_the_same_are_equal(tmp_path: Path):
    row = {"prompt": [ASK], "chosen": [BLUE], "rejected": [{**BLUE, "role": "Assistant"}]}
    with pytest.raises(BadRows, match="has a `chosen` equal to `rejected`"):
        load_preferences(write(tmp_path / "a.jsonl", [row]))


def test_broken_line_is_a_bad_row(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + '{"prompt": "cut o')
    with pytest.raises(BadRows, match="1 of 2 rows .* line 3 is not valid JSON: Unterminated string"):
        load_preferences(path)


def test_message_names_the_first_few_and_counts_all(tmp_path: Path):
    rows = [{**GOOD, "chosen": None} if n % 2 else GOOD for n in range(20)]
    with pytest.raises(BadRows) as caught:
        load_preferences(write(tmp_path / "a.parquet", rows))
    assert [number for number, _ in caught.value.problems] == list(range(2, 21, 2))
    message = str(caught.value)
    assert message.count("not a string") == 5 and "row 10 has null" in message and "row 12" not in message
    assert "10 of 20 rows" in message and "and 5 more (rows are counted from 1)" in message


def test_items_of_a_json_list_are_counted_from_1(tmp_path: Path):
    with pytest.raises(BadRows, match=r"item 2 .*\(items of the list are counted from 1\)"):
        load_preferences(write(tmp_path / "a.json", [GOOD, {}]))


def test_dropping_every_row_is_refused(tmp_path: Path):
    with pytest.raises(BadRows, match="2 of 2 rows"):
        load_preferences(write(tmp_path / "a.jsonl", [{"question": "q"}] * 2), on_bad_rows="drop")


def test_good_rows_warn_of_nothing(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [GOOD])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_preferences(path, on_bad_rows="drop")) == 1
    with pytest.raises(ValueError, match='on_bad_rows must be "raise" or "drop", got \'ignore\''):
        load_preferences(path, on_bad_rows="ignore")


# ---- files that cannot be read --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"x", "has none of the endings that can be read: .jsonl, .json, .parquet, .csv"),
        ("a.jsonl", b"", "has no rows"),
        ("a.csv", b"", "has no rows"),
        ("a.csv", b"prompt,chosen,rejected\n", "has no rows"),
        ("a.json", b"[]", "has no rows"),
        ("a.json", b'[{"prompt": 1}', "cannot be read as json: Expecting ',' delimiter"),
        ("a.jsonl", b'{"prompt": "caf\xe9"}', "is not UTF-8 text: byte 15 is 0xe9"),
        ("a.csv", b'prompt,chosen,rejected\n"a"b,c,d\n', "cannot be read as csv"),
        ("a.csv", b"prompt,chosen,chosen\na,b,c\n", "two columns have one name in the header prompt, chosen, chosen"),
        ("a.parquet", b"PAR1 but no more", "cannot be read as parquet"),
    ],
)
def test_unreadable_file_is_refused_in_one_sentence(name: str, content: bytes, message: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_preferences(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_folder_and_split_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="the data file .*none.jsonl does not exist"):
        load_preferences(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="the data file none.csv does not exist"):
        load_prompts("none.csv")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, "folder"):
        with pytest.raises(ValueError, match=f"the data file {folder} is a folder; name a file in it"):
            load_preferences(folder)
    with pytest.raises(ValueError, match="a file has no splits: name the file that holds 'test'"):
        load_preferences(write(tmp_path / "a.jsonl", [GOOD]), split="test")


# ---- the Hub and the packaged ratings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("Anthropic/hh-rlhf", "dialogs as hh-rlhf has them"),
        ("trl-lib/ultrafeedback_binarized", "conversations, implicit prompt"),
    ],
)
def test_hub_data_set(name: str, form: str, monkeypatch: pytest.MonkeyPatch):
    row, expected = FORMS[form]
    asked = []

    def load_dataset(path: str, split: str) -> datasets.Dataset:
        asked.append((path, split))
        return datasets.Dataset.from_list([row, row, {**row, "chosen": row["rejected"]}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_preferences(name, split="test", limit=2)[:]["prompt"] == [expected["prompt"]] * 2
    with pytest.raises(BadRows, match=r"row 3 has a `chosen` equal .*rows of the split 'train' are counted from 1"):
        load_preferences(name)
    assert asked == [(name, "test"), (name, "train")]


def test_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    def load_dataset(path: str, split: str) -> datasets.Dataset:
        raise ConnectionError("no network\nand a long trace")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError) as caught:
        load_preferences("nobody/nothing")
    assert "'nobody/nothing' is neither a file here nor a data set with a split 'train'" in str(caught.value)
    assert str(caught.value).endswith("no network")


def test_packaged_ratings():
    data = load_preferences("ratings:test", limit=60, min_gap=1.0, seed=4)
    expected = rating_pairs("test", 60, seed=4, min_gap=1.0)
    assert data.column_names == ["prompt", "chosen", "rejected"]
    assert all(list(data[name]) == list(expected[name]) for name in data.column_names)
    prompts = load_prompts("ratings:judge", limit=9, num_words=2, seed=1)
    assert list(prompts["prompt"]) == opening_prompts("judge", 2, 9, 1)


def test_packaged_ratings_need_a_part_and_a_number():
    with pytest.raises(ValueError, match="ratings:reward needs a number of pairs"):
        load_preferences("ratings:reward")
    for load in (load_preferences, load_prompts):
        with pytest.raises(ValueError, match="are ratings:reward, ratings:judge, ratings:test, not ratings:train"):
            load("ratings:train", limit=1)
        with pytest.raises(ValueError, match="have no split 'test'"):
            load("ratings:reward", split="test", limit=1)


# ---- prompts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", sorted(READERS))
def test_prompts_of_a_prompt_only_file(ending: str, tmp_path: Path):
    path = write(tmp_path / f"texts{ending}", [{"prompt": "The sky is"}, {"prompt": "12"}])
    assert load_prompts(path)[:] == {"prompt": ["The sky is", "12"]}
    path = write(tmp_path / f"conversations{ending}", [{"prompt": [ASK]}])
    assert load_prompts(path)[:] == {"prompt": [DIALOG["prompt"]]}


@pytest.mark.parametrize("form", FORMS)
def test_prompts_of_a_preference_file_are_those_of_its_pairs(form: str, tmp_path: Path):
    row, expected = FORMS[form]
    assert load_prompts(write(tmp_path / "a.jsonl", [row]))[:] == {"prompt": [expected["prompt"]]}


def test_bad_prompts(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "x"}, {"text": "y"}, {"prompt": None}])
    with pytest.raises(BadRows, match="line 2 lacks `prompt` .it has text.; line 3 has null in `prompt`"):
        load_prompts(path)
    with pytest.warns(DroppedRows, match="dropped 2 of 3 rows"):
        assert load_prompts(path, on_bad_rows="drop")[:] == {"prompt": ["x"]}
