"""What a rollout leaves behind: token ids with their masks, and what policy and critic said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_core.policy import response_mask


@dataclass
class Responses:
    """Prompts with responses, as token ids.

    Attributes:
        tokens: left-padded prompts followed by right-padded responses, [batch, prompt_time + time].
        attention_mask: True on the prompt's real tokens and on response tokens.
        mask: True on response tokens, [batch, time].
    """

    tokens: Int[Tensor, "batch total_time"]
    attention_mask: Bool[Tensor, "batch total_time"]
    mask: Bool[Tensor, "batch time"]

    @classmethod
    def join(
        cls,
        prompts: Int[Tensor, "batch p"],
        prompt_mask: Bool[Tensor, "batch p"],
        new: Int[Tensor, "batch t"],
        eos_id: int,
        mask_fn: Callable[[Tensor, Tensor, int], Tensor] = response_mask,
    ) -> Responses:
        """From left-padded prompts and the tokens sampled after them; `mask_fn` is `response_mask` or one's own."""
        tokens = torch.cat([prompts, new], dim=1)
        lengths = torch.full((len(tokens),), prompts.shape[1], device=tokens.device)
        mask = mask_fn(tokens, lengths, eos_id)[:, prompts.shape[1] :]
        return cls(tokens, torch.cat([prompt_mask, mask], dim=1), mask)

    @classmethod
    def from_lists(cls, prompts: list[list[int]], responses: list[list[int]], pad_id: int) -> Responses:
        """From token ids, row by row; responses end with their EOS."""
        left, right = max(map(len, prompts)), max(map(len, responses))
        tokens = torch.full((len(prompts), left + right), pad_id)
        attention_mask = torch.zeros_like(tokens, dtype=torch.bool)
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            start, end = left - len(prompt), left + len(response)
            tokens[row, start:end] = torch.tensor([*prompt, *response])
            attention_mask[row, start:end] = True
        return cls(tokens, attention_mask, attention_mask[:, left:])

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Tensor | slice) -> Responses:
        """Some of the rows, without the columns that only the others need."""
        attention_mask, mask = self.attention_mask[rows], self.mask[rows]
        total, time = attention_mask.shape[1], mask.shape[1]
        left = int(attention_mask.int().argmax(dim=1).min())
        used = int(mask.any(dim=0).nonzero().max()) + 1  # columns of the longest response
        right = total - time + used
        return Responses(self.tokens[rows][:, left:right], attention_mask[:, left:right], mask[:, :used])

    def to(self, device: torch.device) -> Responses:
        """The same on another device."""
        return Responses(self.tokens.to(device), self.attention_mask.to(device), self.mask.to(device))


@dataclass
class PolicyOutput:
    """What the policy says of response tokens; everything is [batch, time] and garbage where the mask is False."""

    logprobs: Float[Tensor, "batch time"]
    entropy: Float[Tensor, "batch time"] | None
    values: Float[Tensor, "batch time"] | None

    def __iter__(self):
        return iter((self.logprobs, self.entropy, self.values))


@dataclass
class Experience(Responses):
    """Responses with all that PPO's update needs; the numbers were computed at the rollout and stay as they are.

    Attributes:
        logprobs: log π_old of each response token, in nats, [batch, time].
        values: the critic's value of the state before each token.
        advantages, returns: what `gae` made of them.
    """

    logprobs: Float[Tensor, "batch time"]
    values: Float[Tensor, "batch time"]
    advantages: Float[Tensor, "batch time"]
    returns: Float[Tensor, "batch time"]

    def __getitem__(self, rows: Tensor | slice) -> Experience:
        """Some of the rows, without the columns that only the others need."""
        kept = super().__getitem__(rows)
        time = kept.mask.shape[1]
        numbers = [getattr(self, f.name)[rows][:, :time] for f in fields(self)[len(fields(kept)) :]]
        return Experience(kept.tokens, kept.attention_mask, kept.mask, *numbers)
