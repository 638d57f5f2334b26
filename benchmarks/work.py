"""The work that both sides of a comparison do: the same models, prompts and settings."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlhf_core.models import resolve_model

SHUFFLE_SEED = 7
Models = SimpleNamespace


@dataclass(frozen=True)
class Job:
    """Sizes and coefficients of a PPO run."""

    batch_size: int
    prompt_tokens: int
    max_new_tokens: int
    epochs: int
    num_minibatches: int
    steps: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocab: int
    reference_seed: int = 0
    learning_rate: float = 1e-4
    kl_coef: float = 0.3
    gamma: float = 1.0
    lam: float = 0.95
    clip_range: float = 0.2
    value_clip_range: float = 0.2
    value_coef: float = 0.1

    @property
    def minibatch_size(self) -> int:
        """Rows per optimizer step."""
        return self.batch_size // self.num_minibatches


PARITY = Job(
    8, 5, 6, epochs=3, num_minibatches=2, steps=1, hidden=32, intermediate=64, layers=2, heads=2, vocab=4096,
    reference_seed=5, learning_rate=1e-3,
)  # fmt: skip
# a pocket-sized policy, reference, reward and value model
BENCH = Job(
    64, 8, 24, epochs=4, num_minibatches=4, steps=4, hidden=256, intermediate=688, layers=4, heads=4, vocab=4096
)


def make_models(job: Job) -> Models:
    """Random models of one shape; policy and reference are equal unless the job says otherwise."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("pocket"))
    config = LlamaConfig(
        vocab_size=job.vocab,
        hidden_size=job.hidden,
        intermediate_size=job.intermediate,
        num_hidden_layers=job.layers,
        num_attention_heads=job.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.08,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,  # nothing ends early: the same work for everybody
    )

    def build(factory, seed: int):
        torch.manual_seed(seed)
        return factory(config).float().eval()

    return Models(
        tokenizer=tokenizer,
        policy=build(LlamaForCausalLM, 0),
        reference=build(LlamaForCausalLM, job.reference_seed),
        reward=build(LlamaForSequenceClassification, 1),
        value=build(LlamaForSequenceClassification, 2),
    )


def random_tokens(rows: int, columns: int, vocab: int, seed: int) -> torch.Tensor:
    """Token ids without pad, BOS and EOS (0, 1, 2)."""
    return torch.randint(3, vocab, (rows, columns), generator=torch.Generator().manual_seed(seed))


def make_prompts(job: Job) -> torch.Tensor:
    """Prompts of equal length."""
    return random_tokens(job.batch_size, job.prompt_tokens, job.vocab, seed=3)


def make_responses(job: Job) -> torch.Tensor:
    """Responses without EOS."""
    return random_tokens(job.batch_size, job.max_new_tokens, job.vocab, seed=4)
