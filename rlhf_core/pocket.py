"""Train `pocket`, the small language model that the course ships: python -m rlhf_core.pocket --output DIR

A Llama of 4.2 million parameters with a tokenizer of 4,096 tokens, trained from scratch on the packaged sentences.
Sentences of the test split are never shown to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf_core.data.build import DATA_DIR, OTHER_TEXTS_FILE, unpack
from rlhf_core.data.ratings import PROMPT, rated_sentences
from rlhf_core.machine import attention_for, keep_freed_memory
from rlhf_core.preferences import split_by_prompt

POCKET_PATH = DATA_DIR / "pocket"
VALIDATION_FRACTION = 0.02
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


@dataclass
class PocketConfig:
    """How the pocket model is trained."""

    output: Path = POCKET_PATH
    """Folder for the model and its tokenizer."""
    epochs: int = 5
    """Passes over the text; the movie sentences are shown twice in each."""
    movie_epochs: int = 3
    """Further passes over the movie sentences alone, at the end of the learning-rate decay."""
    batch_tokens: int = 2048
    """Tokens per optimizer step, padding included."""
    learning_rate: float = 3e-3
    """Peak learning rate: linear warm-up over 5% of the steps, then cosine decay to 5% of it."""
    weight_decay: float = 0.1
    """AdamW's weight decay."""
    bfloat16: bool = True
    """Autocast matrix products to bfloat16."""
    max_sentences: int | None = None
    """Use only so many sentences of each kind (for trying things out)."""
    seed: int = 0
    """Seed of initialisation and order."""


def training_text(max_sentences: int | None = None) -> tuple[list[str], list[str], list[str]]:
    """Movie sentences, other sentences and held-out movie sentences; none of the test split is among them."""
    movies = [f"{PROMPT} {row['text']}" for row in rated_sentences() if row["split"] != "test"]
    held_out = split_by_prompt(movies, VALIDATION_FRACTION, seed=0).tolist()
    validation = [text for text, out in zip(movies, held_out, strict=True) if out]
    movies = [text for text, out in zip(movies, held_out, strict=True) if not out]
    test = {row["text"] for row in rated_sentences() if row["split"] == "test"}
    others = [f"{row['prefix']} {row['text']}" for row in unpack(OTHER_TEXTS_FILE) if row["text"] not in test]
    return movies[:max_sentences], others[:max_sentences], validation[:max_sentences]


def train_tokenizer(texts: list[str], vocab_size: int = 4096) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every text round-trips, and a leading space belongs to its word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, BOS, EOS], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos_id)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation(attention_for(model.device))
    return model


def batches(
    rows: list[list[int]], batch_tokens: int, pad_id: int, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Right-padded batches of rows of similar length, in random order, each of about `batch_tokens` tokens."""
    shuffled = torch.randperm(len(rows), generator=generator).tolist()
    by_length = sorted(shuffled, key=lambda i: len(rows[i]))
    groups, group = [], []
    for i in by_length:
        if group and len(rows[i]) * (len(group) + 1) > batch_tokens:
            groups.append(group)
            group = []
        group.append(i)
    groups.append(group)
    for g in torch.randperm(len(groups), generator=generator).tolist():
        width = max(len(rows[i]) for i in groups[g])
        yield torch.tensor([[*rows[i], *[pad_id] * (width - len(rows[i]))] for i in groups[g]])


def next_token_loss(model: LlamaForCausalLM, tokens: torch.Tensor, pad_id: int, autocast: bool) -> torch.Tensor:
    """Mean negative log-likelihood of every token after BOS, in nats per token."""
    labels = tokens[:, 1:].flatten()
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        # no attention mask: padding is on the right, where a causal model does not look
        hidden = model.model(tokens).last_hidden_state[:, :-1].flatten(0, 1)[labels != pad_id]
        labels = labels[labels != pad_id]
        # in pieces that stay in the cache
        losses = [
            F.cross_entropy(model.lm_head(h).float(), y, reduction="sum")
            for h, y in zip(hidden.split(256), labels.split(256), strict=True)
        ]
    return torch.stack(losses).sum() / len(labels)


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, rows: list[list[int]], config: PocketConfig, pad_id: int) -> float:
    """exp of the mean negative log-likelihood per token of the given rows."""
    total, count = 0.0, 0
    for tokens in batches(rows, config.batch_tokens, pad_id, torch.Generator().manual_seed(0)):
        scored = int((tokens[:, 1:] != pad_id).sum())
        total += next_token_loss(model, tokens, pad_id, config.bfloat16).item() * scored
        count += scored
    return math.exp(total / count)


def train_pocket(config: PocketConfig) -> dict[str, float]:
    """Train tokenizer and model, save both, and return the perplexity on held-out movie sentences by epoch."""
    keep_freed_memory()
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    movies, others, validation = training_text(config.max_sentences)
    tokenizer = train_tokenizer(movies + others)
    tokenizer.save_pretrained(config.output)
    pad_id = tokenizer.pad_token_id

    def encode(texts: list[str]) -> list[list[int]]:
        return [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]]

    movie_rows, mixed_rows, validation_rows = encode(movies), encode(movies + movies + others), encode(validation)
    schedule = [mixed_rows] * config.epochs + [movie_rows] * config.movie_epochs
    epochs = [list(batches(rows, config.batch_tokens, pad_id, generator)) for rows in schedule]
    total_steps = sum(len(epoch) for epoch in epochs)

    model = new_model(tokenizer)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
    )

    def learning_rate_factor(step: int) -> float:
        warmup = max(1, total_steps // 20)
        if step < warmup:
            return (step + 1) / warmup
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor)
    history = {}
    for number, epoch in enumerate(epochs, start=1):
        model.train()
        for tokens in track(epoch, description=f"epoch {number}/{len(epochs)}"):
            loss = next_token_loss(model, tokens, pad_id, config.bfloat16)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        model.eval()
        history[f"epoch_{number}"] = perplexity(model, validation_rows, config, pad_id)
        print(f"epoch {number}: held-out perplexity {history[f'epoch_{number}']:.2f}", flush=True)
        model.save_pretrained(config.output)
    # bfloat16 halves the file; every reader casts it back to float32
    model.to(torch.bfloat16).save_pretrained(config.output)
    return history


if __name__ == "__main__":
    train_pocket(tyro.cli(PocketConfig, description=__doc__))
