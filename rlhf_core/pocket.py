"""Train `pocket`, the small language model that the course ships: python -m rlhf_core.pocket --output DIR

A Llama of 4.2 million parameters with a tokenizer of 4,096 tokens, trained from scratch on the packaged sentences.
Sentences of the test split are never shown to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float, Int
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf_core.data.build import DATA_DIR
from rlhf_core.data.ratings import PROMPT
from rlhf_core.data.verdicts import pretraining_texts
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
    texts = [f"{prefix} {text}" for prefix, text in pretraining_texts()]
    movies = [text for text in texts if text.startswith(PROMPT)]
    others = [text for text in texts if not text.startswith(PROMPT)]
    held_out = split_by_prompt(movies, VALIDATION_FRACTION, seed=0).tolist()
    validation = [text for text, out in zip(movies, held_out, strict=True) if out]
    movies = [text for text, out in zip(movies, held_out, strict=True) if not out]
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


def groups_by_length(lengths: list[int], batch_tokens: int, generator: torch.Generator) -> list[list[int]]:
    """Indices of rows of similar length, in groups of about `batch_tokens` tokens and in random order."""
    shuffled = torch.randperm(len(lengths), generator=generator).tolist()
    groups, group = [], []
    for i in sorted(shuffled, key=lambda i: lengths[i]):
        if group and lengths[i] * (len(group) + 1) > batch_tokens:
            groups.append(group)
            group = []
        group.append(i)
    groups.append(group)
    return [groups[g] for g in torch.randperm(len(groups), generator=generator).tolist()]


def right_padded(rows: list[list[int]], pad_id: int) -> Int[Tensor, "batch time"]:
    """Padding on the right, where a causal model does not look: such a batch needs no attention mask."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad_id)


def batches(
    rows: list[list[int]], batch_tokens: int, pad_id: int, generator: torch.Generator
) -> Iterator[Int[Tensor, "batch time"]]:
    """Right-padded batches of rows of similar length, in random order, each of about `batch_tokens` tokens."""
    for group in groups_by_length([len(row) for row in rows], batch_tokens, generator):
        yield right_padded([rows[i] for i in group], pad_id)


def next_token_loss(
    model: LlamaForCausalLM,
    hidden: Float[Tensor, "batch time width"],
    tokens: Int[Tensor, "batch time"],
    pad_id: int,
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of every token after BOS, in nats per token, from the trunk's last hidden states."""
    labels = tokens[:, 1:].flatten()
    hidden = hidden[:, :-1].flatten(0, 1)[labels != pad_id]
    labels = labels[labels != pad_id]
    # in pieces that stay in the cache
    losses = [
        F.cross_entropy(model.lm_head(h).float(), y, reduction="sum")
        for h, y in zip(hidden.split(256), labels.split(256), strict=True)
    ]
    return torch.stack(losses).sum() / len(labels)


def autocast(enabled: bool) -> torch.autocast:
    """Matrix products in bfloat16 within the block, if enabled."""
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, rows: list[list[int]], config: PocketConfig, pad_id: int) -> float:
    """exp of the mean negative log-likelihood per token of the given rows."""
    total, count = 0.0, 0
    for tokens in batches(rows, config.batch_tokens, pad_id, torch.Generator().manual_seed(0)):
        scored = int((tokens[:, 1:] != pad_id).sum())
        with autocast(config.bfloat16):
            loss = next_token_loss(model, model.model(tokens).last_hidden_state, tokens, pad_id)
        total += loss.item() * scored
        count += scored
    return math.exp(total / count)


def make_optimizer(
    model: LlamaForCausalLM, learning_rate: float, weight_decay: float, total_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, without weight decay on gains, and its learning rate over the steps."""
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))

    def factor(step: int) -> float:
        warmup = max(1, total_steps // 20)
        if step < warmup:
            return (step + 1) / warmup
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


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
    model = new_model(tokenizer)
    optimizer, scheduler = make_optimizer(model, config.learning_rate, config.weight_decay, sum(map(len, epochs)))
    history = {}
    for number, epoch in enumerate(epochs, start=1):
        model.train()
        for tokens in track(epoch, description=f"epoch {number}/{len(epochs)}"):
            with autocast(config.bfloat16):
                loss = next_token_loss(model, model.model(tokens).last_hidden_state, tokens, pad_id)
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
