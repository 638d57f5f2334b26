"""Train `pocket-reader`, the pocket model that also knows what to think of a sentence: python -m rlhf_core.reader

It goes on from the pocket model and learns one thing more: after a sentence has ended, to say a word of judgement as a larger
language model would. Reward models and judges start from it. Sentences of the test part are never shown to it.
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
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from rlhf_core.data.verdicts import WORDS, load_verdicts, pretraining_texts
from rlhf_core.machine import keep_freed_memory
from rlhf_core.models import BUILT_IN_MODELS, load_causal_lm, load_tokenizer
from rlhf_core.pocket import (
    VALIDATION_FRACTION,
    autocast,
    groups_by_length,
    make_optimizer,
    next_token_loss,
    right_padded,
)
from rlhf_core.preferences import split_by_prompt


@dataclass
class ReaderConfig:
    """How the pocket reader is trained."""

    output: Path = BUILT_IN_MODELS["pocket-reader"]
    """Folder for the model and its tokenizer."""
    model: str = "pocket"
    """Model to go on from."""
    epochs: int = 6
    """Passes over the text."""
    batch_tokens: int = 2048
    """Tokens per optimizer step, padding included."""
    learning_rate: float = 1e-3
    """Peak learning rate: linear warm-up over 5% of the steps, then cosine decay to 5% of it."""
    weight_decay: float = 0.1
    """AdamW's weight decay."""
    verdict_weight: float = 250.0
    """Weight of the verdicts' KL beside the text's cross-entropy: 4 nats of the one stand against 0.06 of the other."""
    temperature: float = 2.0
    """Softens the teacher's distribution over verdict words, so that its second thoughts count too."""
    bfloat16: bool = True
    """Autocast matrix products to bfloat16."""
    max_sentences: int | None = None
    """Use only so many sentences (for trying things out)."""
    seed: int = 0
    """Seed of the order."""


@dataclass
class Judged:
    """Sentences as token ids, with what the teacher thinks of each.

    Attributes:
        rows: token ids from BOS to EOS.
        verdicts: the teacher's distribution over `WORDS`, [sentences, words].
    """

    rows: list[list[int]]
    verdicts: Float[Tensor, "sentences words"]

    def __getitem__(self, indices: Int[Tensor, "some"]) -> Judged:
        """Some of the sentences."""
        return Judged([self.rows[i] for i in indices.tolist()], self.verdicts[indices])

    def batches(self, batch_tokens: int, generator: torch.Generator) -> Iterator[Judged]:
        """Sentences of similar length, in random order, about `batch_tokens` tokens at a time."""
        for group in groups_by_length([len(row) for row in self.rows], batch_tokens, generator):
            yield self[torch.tensor(group)]


def judged_sentences(tokenizer: PreTrainedTokenizerBase, config: ReaderConfig) -> tuple[Judged, Judged]:
    """For training, and held out."""
    texts = [f"{prefix} {text}" for prefix, text in pretraining_texts()]
    rows = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]]
    held_out = split_by_prompt(texts, VALIDATION_FRACTION, seed=0)
    everything = Judged(rows, load_verdicts(config.temperature))
    kept = slice(config.max_sentences)
    return everything[(~held_out).nonzero()[kept, 0]], everything[held_out.nonzero()[kept, 0]]


def losses(
    model: LlamaForCausalLM, batch: Judged, words: Int[Tensor, "words"], pad_id: int, bfloat16: bool
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Two means in nats: the text's negative log-likelihood per token, and KL(teacher ‖ model) of the word after EOS.

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2.
    """
    tokens = right_padded(batch.rows, pad_id)
    ends = torch.tensor([len(row) - 1 for row in batch.rows])
    with autocast(bfloat16):
        hidden = model.model(tokens).last_hidden_state
        text_loss = next_token_loss(model, hidden, tokens, pad_id)
    # in float32: verdicts differ by tenths of a nat, which is what bfloat16 rounds away
    logprobs = model.lm_head(hidden[torch.arange(len(ends)), ends].float()).log_softmax(dim=-1)[:, words]
    return text_loss, F.kl_div(logprobs, batch.verdicts, reduction="batchmean")


@torch.no_grad()
def held_out_losses(model: LlamaForCausalLM, held_out: list[Judged], *others) -> tuple[float, float]:
    """Both losses over the held-out sentences, the first per token, the second per sentence."""
    sums, counts = torch.zeros(2), torch.zeros(2)
    for batch in held_out:
        count = torch.tensor([sum(len(row) - 1 for row in batch.rows), len(batch.rows)])
        sums += torch.stack(losses(model, batch, *others)) * count
        counts += count
    return tuple((sums / counts).tolist())


def train_reader(config: ReaderConfig) -> list[tuple[float, float]]:
    """Train and save the model, and return perplexity and verdict loss on held-out sentences by epoch."""
    keep_freed_memory()
    generator = torch.Generator().manual_seed(config.seed)
    model, tokenizer = load_causal_lm(config.model), load_tokenizer(config.model)
    training, held_out = judged_sentences(tokenizer, config)
    words = torch.tensor([ids[0] for ids in tokenizer([f" {w}" for w in WORDS], add_special_tokens=False)["input_ids"]])
    others = (words, tokenizer.pad_token_id, config.bfloat16)
    epochs = [list(training.batches(config.batch_tokens, generator)) for _ in range(config.epochs)]
    held_out = list(held_out.batches(config.batch_tokens, generator))
    optimizer, scheduler = make_optimizer(model, config.learning_rate, config.weight_decay, sum(map(len, epochs)))
    history = []
    for number, epoch in enumerate(epochs, start=1):
        model.train()
        for batch in track(epoch, description=f"epoch {number}/{len(epochs)}"):
            text_loss, verdict_loss = losses(model, batch, *others)
            optimizer.zero_grad()
            (text_loss + config.verdict_weight * verdict_loss).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        model.eval()
        text_loss, verdict_loss = held_out_losses(model, held_out, *others)
        history.append((math.exp(text_loss), verdict_loss))
        print(
            f"epoch {number}: held-out perplexity {math.exp(text_loss):.2f}, verdict loss {verdict_loss:.4f}",
            flush=True,
        )
    tokenizer.save_pretrained(config.output)
    # bfloat16 halves the file; every reader casts it back to float32
    model.to(torch.bfloat16).save_pretrained(config.output)
    return history


if __name__ == "__main__":
    train_reader(tyro.cli(ReaderConfig, description=__doc__))
