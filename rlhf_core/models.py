"""Models: a policy with a critic, its frozen reference, and reward models. All of them are ordinary transformers models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from rlhf_core.data.build import DATA_DIR
from rlhf_core.experience import PolicyOutput, Responses
from rlhf_core.machine import attention_for
from rlhf_core.policy import token_entropy, token_logprobs
from rlhf_core.reward import sequence_scores

logging.set_verbosity_error()  # a new head is meant to be new, and loading takes no time that needs a bar
logging.disable_progress_bar()

BUILT_IN_MODELS = {"pocket": DATA_DIR / "pocket", "pocket-reader": DATA_DIR / "pocket_reader"}
VALUE_HEAD_FILE = "value_head.safetensors"


def resolve_model(name: str) -> str:
    """The folder of a built-in model; any other name (a local folder or a Hub name) as it is."""
    return str(BUILT_IN_MODELS.get(name, name))


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer, padding on the left; one without a padding token pads with EOS.

    Raises:
        ValueError: nothing that transformers can read is there.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_model(name))
    except (OSError, ValueError) as error:
        raise ValueError(f"no tokenizer could be loaded from {name!r}: {str(error).splitlines()[0]}") from error
    tokenizer.padding_side = "left"
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {name!r} has no end-of-text token (eos_token), with which a response ends")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The tokenizer as it was loaded: how its last call padded or cut would be written down, too."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()
    tokenizer.save_pretrained(folder)


def load_causal_lm(name: str, device: torch.device | str = "cpu") -> PreTrainedModel:
    """A language model in float32, in evaluation mode.

    Raises:
        ValueError: nothing that transformers can read is there, weights are missing, or its tokens see later ones.
    """
    model = _load(AutoModelForCausalLM, name, torch.device(device))
    with torch.no_grad():
        one, other = model(torch.tensor([[0, 1, 0], [0, 1, 2]], device=model.device)).logits[:, 1]
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-3):
        raise ValueError(f"{name!r} is no causal language model: what it says of a token depends on later ones")
    return model


def load_classifier(
    name: str, tokenizer: PreTrainedTokenizerBase, device: torch.device | str = "cpu", new_head: bool = False
) -> PreTrainedModel:
    """A sequence classifier with one label, the form in which reward models and judges are saved.

    Args:
        name, tokenizer, device: of a saved one.
        new_head: it may also be a plain language model, whose trunk then gets a head of small random weights.

    Raises:
        ValueError: nothing that transformers can read is there, or weights are missing.
    """
    return _load(
        AutoModelForSequenceClassification,
        name,
        torch.device(device),
        new_head=new_head,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )


def _load(factory, name: str, device: torch.device, new_head: bool = False, **options) -> PreTrainedModel:
    options |= {"dtype": torch.float32, "attn_implementation": attention_for(device)}
    try:
        model, info = factory.from_pretrained(resolve_model(name), output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"no model could be loaded from {name!r}: {str(error).splitlines()[0]}") from error
    trunk = model.base_model_prefix + "."
    missing = sorted(key for key in info["missing_keys"] if key.startswith(trunk) or not new_head)
    if missing:  # transformers would fill them with random numbers
        raise ValueError(f"no trained {type(model).__name__} is in {name!r}: it has no weights for {missing[0]}")
    disable_dropout(model)
    return model.to(device).eval()


def disable_dropout(model: nn.Module) -> None:
    """Dropout would make the ratio differ from 1 before the first update."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    config = getattr(model, "config", None)
    if getattr(config, "attention_dropout", 0):
        config.attention_dropout = 0.0


def positions(attention_mask: Bool[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
    """Position of each token, counted from the first real one, so that left padding moves nothing."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


@contextmanager
def frozen(model: nn.Module):
    """No gradients and evaluation mode within the block."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        yield model
    model.train(was_training)


def in_pieces(order: Int[Tensor, "rows"], size: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """`compute(rows)` on pieces of a sorted order, so that rows of similar length run together; back in the rows' own order."""
    return torch.cat([compute(piece) for piece in order.split(size)])[order.argsort()]


class Policy(nn.Module):
    """A language model as a policy, with or without a critic.

    Args:
        model: a transformers causal language model.
        critic: "shared": a value head on the policy's own last hidden state; "separate": a value model of its own,
            started from the same weights; None: no critic.
        temperature: of the distribution that is sampled from.
        bfloat16: autocast the matrix products; log-probabilities, entropy and values come out in float32 all the same.
        entropy_gradient: keep the graph of the entropy, for an entropy bonus; costs memory for a [batch, time, vocab]
            tensor.
        logprobs_fn, entropy_fn: replaceable building blocks (`token_logprobs`, `token_entropy`); without the second the
            entropy is left out.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        critic: str | None = "shared",
        temperature: float = 1.0,
        bfloat16: bool = False,
        entropy_gradient: bool = False,
        logprobs_fn=token_logprobs,
        entropy_fn=token_entropy,
    ):
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.bfloat16 = bfloat16
        self.entropy_gradient = entropy_gradient
        self.logprobs_fn, self.entropy_fn = logprobs_fn, entropy_fn
        self.value_model = copy.deepcopy(model.base_model) if critic == "separate" else None
        self.value_head = None
        if critic is not None:
            width = model.get_input_embeddings().weight.shape[1]
            self.value_head = nn.Linear(width, 1).to(model.device)
            nn.init.zeros_(self.value_head.weight)  # a new critic predicts 0 everywhere
            nn.init.zeros_(self.value_head.bias)

    def autocast(self) -> torch.autocast:
        """bfloat16 matrix products within the block, if the policy is so configured."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bfloat16)

    def forward(self, batch: Responses) -> PolicyOutput:
        """Log-probability and entropy at each response token, and the value of the state before it."""
        with self.autocast():
            logits, hidden = self.response_states(batch)
        logprobs = self.logprobs_fn(logits, batch.tokens[:, -batch.mask.shape[1] - 1 :], self.temperature)
        entropy = None
        if self.entropy_fn is not None:
            with torch.set_grad_enabled(self.entropy_gradient and torch.is_grad_enabled()):
                entropy = self.entropy_fn(logits[:, :-1] / self.temperature)
        values = None if hidden is None else self.value_head(hidden.float()).squeeze(-1)
        return PolicyOutput(logprobs, entropy, values)

    def response_states(self, batch: Responses) -> tuple[Tensor, Tensor | None]:
        """Logits [batch, time + 1, vocab] from the position that scores the first response token on, and the critic's
        hidden states [batch, time, width]."""
        time = batch.mask.shape[1]
        inputs = {
            "input_ids": batch.tokens,
            "attention_mask": batch.attention_mask.long(),
            "position_ids": positions(batch.attention_mask),
        }
        shared = self.value_head is not None and self.value_model is None
        out = self.model(**inputs, logits_to_keep=time + 1, output_hidden_states=shared, use_cache=False)
        if self.value_head is None:
            return out.logits, None
        hidden = out.hidden_states[-1] if shared else self.value_model(**inputs, use_cache=False).last_hidden_state
        return out.logits, hidden[:, -time - 1 : -1]

    def save(self, folder: Path) -> None:
        """The language model as transformers reads it, and the value head in a file beside it."""
        self.model.save_pretrained(folder)
        if self.value_model is not None:
            self.value_model.save_pretrained(folder / "value_model")
        if self.value_head is not None:
            save_file(self.value_head.state_dict(), folder / VALUE_HEAD_FILE)

    def load_critic(self, folder: Path) -> None:
        """Take the value head, and a separate value model, from a folder that `save` wrote."""
        self.value_head.load_state_dict(load_file(folder / VALUE_HEAD_FILE))
        if self.value_model is not None:
            self.value_model.load_state_dict(
                type(self.value_model).from_pretrained(folder / "value_model").state_dict()
            )


class CachedNextLogits:
    """`next_logits` for `sample_responses`: feeds the model one column at a time and keeps its key–value cache.

    Args:
        model: a transformers causal language model.
        prompt_mask: True on the prompts' real tokens.
        eos_id: rows that have ended are no longer fed once they are half of all, and get logits of 0; None feeds every
            row to the end.
    """

    def __init__(
        self, model: PreTrainedModel, prompt_mask: Bool[Tensor, "batch prompt_time"], eos_id: int | None = None
    ):
        self.model, self.prompt_mask, self.eos_id = model, prompt_mask, eos_id
        self.begin()

    def begin(self) -> None:
        """Forget the sequence in the cache."""
        self.cache, self.seen = None, 0
        self.rows = torch.arange(len(self.prompt_mask), device=self.prompt_mask.device)

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch vocab"]:
        """Logits of the next token, given everything so far."""
        if tokens.shape[1] <= self.seen:  # another sequence than the one in the cache
            self.begin()
        self.drop_ended(tokens)
        grown = tokens.shape[1] - self.prompt_mask.shape[1]
        attention_mask = torch.nn.functional.pad(self.prompt_mask[self.rows], (0, grown), value=True)
        out = self.model(
            input_ids=tokens[self.rows, self.seen :],
            attention_mask=attention_mask.long(),
            position_ids=positions(attention_mask)[:, self.seen :],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache, self.seen = out.past_key_values, tokens.shape[1]
        logits = out.logits[:, -1].float()
        if len(self.rows) == len(tokens):
            return logits
        return logits.new_zeros(len(tokens), logits.shape[1]).index_copy(0, self.rows, logits)

    def drop_ended(self, tokens: Int[Tensor, "batch time"]) -> None:
        """Take rows that have ended out of the cache, when that halves it."""
        if self.cache is None or self.eos_id is None:
            return
        running = (tokens[self.rows, self.prompt_mask.shape[1] :] != self.eos_id).all(dim=1).nonzero().squeeze(1)
        if 0 < len(running) <= len(self.rows) // 2:
            self.cache.batch_select_indices(running)
            self.rows = self.rows[running]


class RewardModel(nn.Module):
    """A sequence classifier with one label, read as a reward: the score of prompt + response + EOS at its last token."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int = 256,
        scores_fn: Callable[..., Tensor] = sequence_scores,
    ):
        super().__init__()
        self.model = model
        self.scores_fn = scores_fn
        self.register_buffer("no_bias", torch.zeros((), device=model.device), persistent=False)
        self.tokenizer = tokenizer
        self.max_tokens = min(max_tokens, getattr(model.config, "max_position_embeddings", None) or max_tokens)
        self.bfloat16 = False

    def forward(self, tokens: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]) -> Float[Tensor, "batch"]:
        """Scores of padded token ids."""
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bfloat16):
            hidden = self.model.base_model(
                input_ids=tokens, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False
            ).last_hidden_state
        # at least float32: in bfloat16 close scores tie
        return self.scores_fn(hidden.float(), self.model.score.weight[0].float(), self.no_bias, mask)

    def encode(self, prompts: list[str], responses: list[str]) -> list[list[int]]:
        """Token ids of each prompt + response + EOS, of at most `max_tokens`; the beginning is cut where it is longer."""
        start = self.tokenizer(prompts)["input_ids"]
        end = self.tokenizer(responses, add_special_tokens=False)["input_ids"]
        eos = self.tokenizer.eos_token_id
        return [[*p, *r, eos][-self.max_tokens :] for p, r in zip(start, end, strict=True)]

    @torch.no_grad()
    def score(self, prompts: list[str], responses: list[str], batch_size: int = 64) -> Float[Tensor, "texts"]:
        """Scores of texts, on the CPU: a `reward_fn` for `score_responses`. Texts of similar length run together."""
        rows = self.encode(prompts, responses)
        pad, device = self.tokenizer.pad_token_id, self.model.device

        def scores_of(piece: Tensor) -> Tensor:
            some = [rows[i] for i in piece.tolist()]
            width = max(map(len, some))
            tokens = torch.tensor([[*row, *[pad] * (width - len(row))] for row in some])
            mask = torch.arange(width) < torch.tensor([len(row) for row in some])[:, None]
            return self(tokens.to(device), mask.to(device)).cpu()

        order = torch.tensor([len(row) for row in rows]).argsort(stable=True)
        return in_pieces(order, batch_size, scores_of)
