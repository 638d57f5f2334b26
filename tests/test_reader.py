"""The shipped trunk of reward models: it has learned a teacher's verdicts, never saw the test part, and retrains."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rlhf_core.data.build import DATA_DIR
from rlhf_core.data.ratings import PROMPT, random_pairs, sentences_of
from rlhf_core.data.verdicts import AFTER, BEFORE, WORDS, ask, load_verdicts, pretraining_texts
from rlhf_core.preferences import preference_pairs
from rlhf_core.reader import ReaderConfig, judged_sentences, losses
from rlhf_core.reward import pairwise_accuracy

POCKET, READER = DATA_DIR / "pocket", DATA_DIR / "pocket_reader"
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(READER)


@pytest.fixture(scope="module")
def reader():
    return AutoModelForCausalLM.from_pretrained(READER, dtype=torch.float32).eval()


def single_tokens(tokenizer, words) -> list[int]:
    ids = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    assert all(len(row) == 1 for row in ids)
    return [row[0] for row in ids]


def test_it_is_the_pocket_model_with_other_weights(reader):
    assert sum(path.stat().st_size for path in READER.iterdir()) <= 12_000_000
    for name in ("config.json", "tokenizer.json"):
        assert (READER / name).read_bytes() == (POCKET / name).read_bytes()
    pocket = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32)
    assert reader.state_dict().keys() == pocket.state_dict().keys()
    assert not torch.equal(reader.lm_head.weight, pocket.lm_head.weight)


def test_neither_reader_nor_teacher_saw_the_test_part(tokenizer):
    def letters(text: str) -> str:
        return "".join(character for character in text.lower() if character.isalnum())

    seen = {letters(text) for _, text in pretraining_texts()}
    assert not seen & {letters(row["text"]) for row in sentences_of("test")}
    training, held_out = judged_sentences(tokenizer, ReaderConfig())
    read = {tuple(row) for row in [*training.rows, *held_out.rows]}
    test = tokenizer([f"{PROMPT} {row['text']}" for row in sentences_of("test")])["input_ids"]
    assert len(training.rows) + len(held_out.rows) == len(pretraining_texts()) == len(load_verdicts(1.0))
    assert not read & {(*row, tokenizer.eos_token_id) for row in test}


def test_the_teacher_is_asked_as_if_each_sentence_stood_alone(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    teacher = LlamaForCausalLM(config).eval()
    texts = ["dull.", "A gorgeous, witty, seductive movie that goes on and on", "so", "It is what it is."]
    logprobs = ask(teacher, tokenizer, texts, batch_size=3)
    for text, row in zip(texts, logprobs, strict=True):
        parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (BEFORE, text, AFTER)]
        with torch.no_grad():
            alone = teacher(torch.tensor([[tokenizer.bos_token_id, *sum(parts, [])]])).logits[0, -1].log_softmax(-1)
        assert torch.allclose(row, alone[single_tokens(tokenizer, WORDS)], atol=1e-5)


def test_verdicts_are_distributions_that_a_temperature_softens():
    sharp, soft = load_verdicts(1.0), load_verdicts(2.0)
    for verdicts in (sharp, soft):
        assert torch.allclose(verdicts.sum(1), torch.ones(len(verdicts)))
    entropies = [-(p * p.log()).sum(1) for p in (sharp, soft)]
    assert (entropies[1] > entropies[0]).all()
    assert torch.allclose(soft.square() / soft.square().sum(1, keepdim=True), sharp, atol=1e-5)


def test_both_losses_are_those_of_each_sentence_alone(reader, tokenizer):
    training, _ = judged_sentences(tokenizer, ReaderConfig(max_sentences=5))
    words = torch.tensor(single_tokens(tokenizer, WORDS))
    with torch.no_grad():
        text_loss, verdict_loss = losses(reader, training, words, tokenizer.pad_token_id, bfloat16=False)
        alone = [reader(torch.tensor([row])).logits[0].log_softmax(-1) for row in training.rows]
    text = [
        -logprobs[i, token]
        for logprobs, row in zip(alone, training.rows, strict=True)
        for i, token in enumerate(row[1:])
    ]
    gaps = [(p * (p.log() - logprobs[-1, words])).sum() for p, logprobs in zip(training.verdicts, alone, strict=True)]
    assert torch.allclose(text_loss, torch.stack(text).mean(), atol=1e-4)
    assert torch.allclose(verdict_loss, torch.stack(gaps).mean(), atol=1e-4)


def test_its_word_after_the_end_tells_praise_from_blame(reader, tokenizer):
    rows = sentences_of("test")[:400]
    praise, blame = single_tokens(tokenizer, ("great", "boring"))
    opinions = []
    for row in rows:
        ids = torch.tensor([[*tokenizer(f"{PROMPT} {row['text']}")["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            logits = reader(ids).logits[0, -1]
        opinions.append(logits[praise] - logits[blame])
    opinions = torch.stack(opinions)
    means = torch.tensor([row["mean_rating"] for row in rows], dtype=torch.float64)
    better, worse = preference_pairs(means, random_pairs(len(rows), 5000, seed=0)).T
    assert pairwise_accuracy(opinions[better], opinions[worse]) > 0.66


def test_it_retrains_with_one_command(tmp_path: Path):
    command = [sys.executable, "-m", "rlhf_core.reader", "--output", str(tmp_path), "--max-sentences", "300"]
    command += ["--epochs", "2", "--batch-tokens", "512"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    printed = re.findall(r"held-out perplexity ([0-9.]+), verdict loss ([0-9.]+)", done.stdout)
    verdict_losses = [float(loss) for _, loss in printed]
    assert len(verdict_losses) == 2 and verdict_losses[1] < verdict_losses[0]
    trained = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert trained.dtype == torch.bfloat16
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in READER.iterdir()}
