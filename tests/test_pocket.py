"""The shipped small model: transformers alone loads it, it knows its text but not the test part, it retrains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rlhf_core.data.build import DATA_DIR, OTHER_TEXTS_FILE, unpack
from rlhf_core.data.ratings import PROMPT, rated_sentences, sentences_of

POCKET = DATA_DIR / "pocket"
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(POCKET)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32).eval()


def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    """exp of the mean negative log-likelihood per token, EOS included."""
    total, count = 0.0, 0
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
            total += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
    return torch.tensor(total / count).exp().item()


def test_it_is_a_llama_of_four_million_parameters_in_at_most_12_megabytes(model: PreTrainedModel):
    files = [path for path in POCKET.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors"}  # no pickle, no code
    assert model.config.model_type == "llama"
    assert 4e6 < sum(parameter.numel() for parameter in model.parameters()) < 4.5e6


def test_it_loads_without_this_package():
    program = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model, tokenizer = (auto.from_pretrained(sys.argv[1]) for auto in (AutoModelForCausalLM, AutoTokenizer))\n"
        "output = model.generate(**tokenizer('Review: The', return_tensors='pt'), max_new_tokens=4, do_sample=False)\n"
        "assert 'rlhf_core' not in sys.modules\n"
        "print(tokenizer.decode(output[0], skip_special_tokens=True))"
    )
    command = [sys.executable, "-c", program, str(POCKET)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Review: The ")


def test_tokenizer_adds_bos_and_never_eos(tokenizer: PreTrainedTokenizerBase):
    for text in ("Review:", "", "Review: a smart, funny film."):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer.eos_token_id not in ids
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids[1:]
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3


def test_tokenizer_pads_on_the_left(tokenizer: PreTrainedTokenizerBase):
    batch = tokenizer(["Review:", "Review: a smart, funny film."], padding=True)
    assert batch["input_ids"][0][0] == tokenizer.pad_token_id and batch["input_ids"][1][0] == tokenizer.bos_token_id
    assert batch["attention_mask"][0] == sorted(batch["attention_mask"][0])


def test_every_packaged_sentence_comes_back_from_its_tokens(tokenizer: PreTrainedTokenizerBase):
    texts = [f"{PROMPT} {row['text']}" for row in rated_sentences()]
    texts += [f"{row['prefix']} {row['text']}" for row in unpack(OTHER_TEXTS_FILE)]
    tokens = tokenizer(texts)["input_ids"]
    assert tokenizer.batch_decode(tokens, skip_special_tokens=True) == texts
    assert max(map(len, tokens)) < tokenizer.model_max_length


def test_prompt_and_response_have_the_tokens_of_the_whole_text(tokenizer: PreTrainedTokenizerBase):
    for row in sentences_of("test")[:300]:
        words = row["text"].split()
        prompt, response = " ".join([PROMPT, *words[:3]]), "".join(f" {word}" for word in words[3:])
        together = tokenizer(prompt)["input_ids"] + tokenizer(response, add_special_tokens=False)["input_ids"]
        assert together == tokenizer(prompt + response)["input_ids"]


def test_no_test_sentence_is_in_the_pretraining_text():
    from rlhf_core.pocket import training_text

    def letters(text: str) -> str:
        return "".join(character for character in text.lower() if character.isalnum())

    movies, others, validation = training_text()
    seen = {letters(text.split(" ", 1)[1]) for text in [*movies, *others, *validation]}
    assert len(movies) + len(validation) == 10_605 - 1593 and len(others) == 13_098
    assert not seen & {letters(row["text"]) for row in sentences_of("test")}
    assert not set(movies) & set(validation)


def test_it_has_learned_its_text_and_generalizes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
    texts = [f"{PROMPT} {row['text']}" for row in sentences_of("test")[:200]]
    shuffled = [" ".join([PROMPT, *reversed(text.split()[1:])]) for text in texts]
    assert perplexity(model, tokenizer, texts) < 90  # of 4,096 tokens; about 66 on its own held-out sentences
    assert perplexity(model, tokenizer, shuffled) > 3 * perplexity(model, tokenizer, texts)


def test_left_padding_changes_nothing(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
    prompts = ["Review: The", "Review: A gorgeous, witty, seductive"]
    with torch.no_grad():
        padded = model(**tokenizer(prompts, padding=True, return_tensors="pt")).logits[:, -1]
        alone = torch.cat([model(**tokenizer(p, return_tensors="pt")).logits[:, -1] for p in prompts])
    assert torch.allclose(padded, alone, atol=1e-4)


def test_it_retrains_with_one_command(tmp_path: Path):
    command = [sys.executable, "-m", "rlhf_core.pocket", "--output", str(tmp_path), "--max-sentences", "200"]
    command += ["--epochs", "1", "--movie-epochs", "1", "--learning-rate", "1e-3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    printed = [line.split() for line in done.stdout.splitlines() if "held-out perplexity" in line]
    perplexities = [float(line[-1]) for line in printed]
    assert len(perplexities) == 2 and perplexities[1] < perplexities[0]

    trained = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert perplexities[1] < 0.8 * len(tokenizer)  # guessing would have the vocabulary's size
    assert trained.dtype == torch.bfloat16 and trained.get_input_embeddings().num_embeddings == len(tokenizer)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in POCKET.iterdir()}
    assert tokenizer.decode(tokenizer("Review: né ☃")["input_ids"], skip_special_tokens=True) == "Review: né ☃"
