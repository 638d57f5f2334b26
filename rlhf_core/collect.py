"""One rollout: the policy writes, the reward model reads, and every token gets its numbers. Shared by PPO and GRPO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate.utils import gather_object
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf_core.config import OnlineConfig
from rlhf_core.data.preference_data import load_prompts
from rlhf_core.experience import Experience, PolicyOutput, Responses
from rlhf_core.machine import faster_precision
from rlhf_core.models import (
    CachedNextLogits,
    Policy,
    RewardModel,
    frozen,
    load_causal_lm,
    load_classifier,
    load_tokenizer,
    save_tokenizer,
)
from rlhf_core.policy import masked_mean
from rlhf_core.rollout import choose_by, sample_responses, write_until_eos
from rlhf_core.run import Run, generator_for


@dataclass
class Rollout:
    """Responses of all processes, with what was measured on them; token-shaped numbers are [batch, time].

    Attributes:
        responses: token ids and masks.
        logprobs, ref_logprobs: of policy and reference, in nats.
        entropy: of the policy's next-token distributions, in nats.
        values: of the critic; None without one.
        scores: one per response, missing EOS charged.
        prompts, texts: the same as strings.
    """

    responses: Responses
    logprobs: Float[Tensor, "batch time"]
    ref_logprobs: Float[Tensor, "batch time"]
    entropy: Float[Tensor, "batch time"]
    values: Float[Tensor, "batch time"] | None
    scores: Float[Tensor, "batch"]
    prompts: list[str]
    texts: list[str]

    @property
    def mask(self) -> Bool[Tensor, "batch time"]:
        """True on response tokens."""
        return self.responses.mask

    def experience(self, advantages: Tensor, returns: Tensor) -> Experience:
        """What `ppo_update` learns from."""
        r = self.responses
        return Experience(r.tokens, r.attention_mask, r.mask, self.logprobs, self.values, advantages, returns)

    def kl(self) -> Float[Tensor, "batch"]:
        """KL(π ‖ π_ref) of each response: k1 summed over its tokens, in nats."""
        return torch.where(self.mask, self.logprobs - self.ref_logprobs, 0.0).sum(dim=1)

    def metrics(self) -> dict[str, float]:
        """Means over the rollout: score, KL per response and entropy per token in nats, length in tokens."""
        return {
            "score": self.scores.mean().item(),
            "kl": self.kl().mean().item(),
            "entropy": masked_mean(self.entropy, self.mask).item(),
            "length": self.mask.sum(dim=1).float().mean().item(),
        }


class Collector:
    """Policy, reference and reward model, ready to make rollouts.

    Args:
        run: the run it belongs to.
        config: options of PPO or GRPO.
        critic: as in `Policy`.
        functions: the building blocks to use.
        reward_fn: in place of the reward model that the configuration names.
        group_size: answers to each prompt, on consecutive rows.
    """

    def __init__(
        self,
        run: Run,
        config: OnlineConfig,
        critic: str | None,
        functions: SimpleNamespace,
        reward_fn: Callable[[list[str], list[str]], Sequence[float]] | None = None,
        group_size: int = 1,
    ):
        self.run, self.config, self.functions, self.group_size = run, config, functions, group_size
        world = run.accelerator.num_processes
        for name in ("batch_size", "minibatch_size"):
            if getattr(config, name) % world:
                raise ValueError(f"--{name.replace('_', '-')} must be a multiple of the {world} processes")
        torch.manual_seed(config.seed)
        self.tokenizer = load_tokenizer(config.model)
        self.prompts = load_prompts(config.prompts, tokenizer=self.tokenizer, num_words=config.prompt_words)["prompt"][
            :
        ]
        if not self.prompts:
            raise ValueError(f"--prompts {config.prompts} gives no prompt of {config.prompt_words} words")
        self.reward_fn = reward_fn or self.load_reward_fn(config.reward_model)
        weights = str(run.checkpoint) if run.resumed else config.model
        model = load_causal_lm(weights, run.device)
        options = {"temperature": config.temperature, "logprobs_fn": functions.token_logprobs}
        self.plain_policy = Policy(
            model,
            critic=critic,
            entropy_gradient=getattr(config, "entropy_coef", 0) > 0,
            entropy_fn=functions.token_entropy,
            **options,
        )
        if run.resumed and critic is not None:
            self.plain_policy.load_critic(run.checkpoint)
        self.reference = Policy(load_causal_lm(config.model, run.device), critic=None, entropy_fn=None, **options)
        self.reference.requires_grad_(False)
        self.plain_policy.bfloat16 = self.reference.bfloat16 = run.precision(self.measure_precision) == "bfloat16"
        optimizer = torch.optim.AdamW(
            self.plain_policy.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=run.device.type != "mps"
        )
        self.policy, self.optimizer = run.accelerator.prepare(self.plain_policy, optimizer)

    def load_reward_fn(self, name: str) -> Callable[[list[str], list[str]], Tensor]:
        """The reward model as a function of texts."""
        tokenizer = load_tokenizer(name)
        return RewardModel(load_classifier(name, tokenizer, self.run.device), tokenizer).score

    def measure_precision(self) -> str:
        """Which precision trains this policy faster on this machine, on a batch of this configuration's size."""
        rows, time = min(self.config.minibatch_size, 16), self.config.max_new_tokens + 8
        tokens = torch.randint(len(self.tokenizer), (rows, time), generator=generator_for(0)).to(self.run.device)
        ones = torch.ones_like(tokens, dtype=torch.bool)
        batch = Responses(tokens, ones, ones[:, 8:])

        def step(bfloat16: bool) -> None:
            self.plain_policy.bfloat16 = bfloat16
            self.plain_policy(batch).logprobs.sum().backward()
            self.plain_policy.zero_grad(set_to_none=True)

        return faster_precision(step, self.run.device)

    def prompts_of(self, step: int) -> list[str]:
        """The prompts of a step: every prompt comes once before any comes again."""
        count = self.config.batch_size // self.group_size
        chosen = []
        for place in range((step - 1) * count, step * count):
            lap, index = divmod(place, len(self.prompts))
            order = torch.randperm(len(self.prompts), generator=generator_for(self.config.seed, lap, 2))
            chosen += [self.prompts[int(order[index])]] * self.group_size
        return chosen

    def mine(self, count: int) -> slice:
        """This process's rows of a batch."""
        share = count // self.run.accelerator.num_processes
        return slice(self.run.accelerator.process_index * share, (self.run.accelerator.process_index + 1) * share)

    def collect(self, step: int) -> Rollout:
        """Sample, score and measure the responses of a step; every process gets those of all."""
        config, f = self.config, self.functions
        prompts = self.prompts_of(step)
        encoded = self.tokenizer(prompts, padding=True, return_tensors="pt")
        rows = self.mine(len(prompts))
        prompt_ids = encoded["input_ids"][rows].to(self.run.device)
        prompt_mask = encoded["attention_mask"][rows].bool().to(self.run.device)
        tokens = self.write(prompt_ids, prompt_mask, len(prompts), rows, generator_for(config.seed, step))
        responses = Responses.join(prompt_ids, prompt_mask, tokens, self.tokenizer.eos_token_id, f.response_mask)
        texts, ended = self.read(responses)
        scores = f.score_responses(self.reward_fn, prompts[rows], texts, ended, config.missing_eos_penalty)
        with frozen(self.plain_policy):
            logprobs, entropy, values = self.measure(self.plain_policy, responses)
        with frozen(self.reference):
            ref_logprobs = self.measure(self.reference, responses).logprobs
        gather = self.gather
        responses = Responses(
            gather(responses.tokens, config.max_new_tokens + prompt_ids.shape[1], self.tokenizer.pad_token_id),
            gather(responses.attention_mask, config.max_new_tokens + prompt_ids.shape[1]),
            gather(responses.mask, config.max_new_tokens),
        )
        numbers = [
            None if x is None else gather(x, config.max_new_tokens) for x in (logprobs, ref_logprobs, entropy, values)
        ]
        all_texts = gather_object(texts) if self.run.accelerator.num_processes > 1 else texts
        scores = gather(scores.to(self.run.device, torch.float32))
        return Rollout(responses, *numbers, scores, prompts, all_texts)

    def write(self, prompt_ids, prompt_mask, total: int, rows: slice, generator: torch.Generator) -> Tensor:
        """Sample a response to each prompt; the random numbers of a row do not depend on the number of processes."""
        eos, pad, config = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, self.config
        next_logits = CachedNextLogits(self.plain_policy.model, prompt_mask, eos)
        with self.plain_policy.autocast():
            if self.functions.sample_responses is not sample_responses:
                return self.functions.sample_responses(
                    next_logits, prompt_ids, config.max_new_tokens, config.temperature, eos, pad, generator
                )
            drawn = torch.rand(total, config.max_new_tokens, dtype=torch.float64, generator=generator)[rows]
            choose = choose_by(config.temperature, drawn)
            return write_until_eos(next_logits, prompt_ids, choose, config.max_new_tokens, eos, pad)

    def read(self, responses: Responses) -> tuple[list[str], Bool[Tensor, "batch"]]:
        """Responses as texts, and whether each came to its end."""
        tokens = responses.tokens[:, -responses.mask.shape[1] :]
        is_eos = (tokens == self.tokenizer.eos_token_id) & responses.mask
        kept = responses.mask & ~is_eos
        texts = [self.tokenizer.decode(row[keep]) for row, keep in zip(tokens, kept, strict=True)]
        return texts, is_eos.any(dim=1)

    def measure(self, policy: Policy, responses: Responses) -> PolicyOutput:
        """One forward pass, in pieces of rows of similar length that need no more memory than the update's."""
        size = self.config.microbatch_size or self.config.minibatch_size
        if size >= len(responses):
            return policy(responses)
        whole: list[Tensor | None] = [None, None, None]
        for chunk in responses.mask.sum(dim=1).argsort().split(size):
            for i, piece in enumerate(policy(responses[chunk])):
                if piece is not None:
                    whole[i] = torch.zeros(responses.mask.shape, device=piece.device) if whole[i] is None else whole[i]
                    whole[i][chunk, : piece.shape[1]] = piece
        return PolicyOutput(*whole)

    def gather(self, tensor: Tensor, width: int | None = None, fill: int = 0) -> Tensor:
        """The rows of all processes, in order; a width that differs between them is first filled up."""
        if self.run.accelerator.num_processes == 1:
            return tensor
        if width is not None:
            tensor = torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=fill)
        return self.run.accelerator.gather(tensor)

    def reduce(self, metrics: dict[str, float]) -> dict[str, float]:
        """Means over processes."""
        if self.run.accelerator.num_processes == 1:
            return metrics
        values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=self.run.device)
        return dict(zip(metrics, self.run.accelerator.reduce(values, "mean").tolist(), strict=True))

    def record(self, step: int, rollout: Rollout, metrics: dict[str, float], **extra: float) -> None:
        """Log a step, and keep its texts and a checkpoint where they are due."""
        self.run.log(**metrics)
        if step == 1 or step % self.config.sample_every == 0 or step == self.config.steps:
            self.run.sample(rollout.prompts, rollout.texts, rollout.scores.tolist())
        if step % self.config.save_every == 0 or step == self.config.steps:
            self.run.save(self.save, self.optimizer, **extra)

    def save(self, folder: Path) -> None:
        """The policy and its tokenizer, as transformers reads them."""
        self.plain_policy.save(folder)
        save_tokenizer(self.tokenizer, folder)
