"""The forms of preference data that TRL documents, as rows and as files, for the tests of their readers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

ASK = {"role": "user", "content": "What color is the sky?"}
BLUE, GREEN = {"role": "assistant", "content": "It is blue."}, {"role": "assistant", "content": "It is green."}
DIALOG = {
    "prompt": "Human: What color is the sky?\n\nAssistant:",
    "chosen": " It is blue.",
    "rejected": " It is green.",
}
HUMAN = "\n\nHuman: Is it blue?\n\nAssistant: It is.\n\nHuman: Why?\n\nAssistant:"

# form → a row in it and what it is as text
FORMS = {
    "explicit prompt": (
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    ),
    "implicit prompt": (
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    ),
    "dialogs as hh-rlhf has them": (
        {"chosen": HUMAN + " Light, of course.", "rejected": HUMAN + " Light scatters."},
        {"prompt": HUMAN, "chosen": " Light, of course.", "rejected": " Light scatters."},
    ),
    "conversations, explicit prompt": ({"prompt": [ASK], "chosen": [BLUE], "rejected": [GREEN]}, DIALOG),
    "conversations, implicit prompt": ({"chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}, DIALOG),
    "whole conversations beside a text prompt": (
        {"prompt": ASK["content"], "chosen": [ASK, BLUE], "rejected": [ASK, GREEN]},
        DIALOG,
    ),
}
SECOND = {  # a further row of the same form, so that every file has two
    "prompt": lambda value: "Grass is" if isinstance(value, str) else [{"role": "user", "content": "And grass?"}],
    "chosen": lambda value: value,
    "rejected": lambda value: value,
}


def write(path: Path, rows: list[dict]) -> Path:
    """Rows as a file of the kind that the ending names."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows)
    return path
