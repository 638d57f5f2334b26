"""TRL 1.12.0's PPOTrainer, the last release that has one, on the same work as ours.

It runs in a process of its own, with that release first on the path:

    PYTHONPATH=.venv/trl-1.12 python benchmarks/trl_ppo.py parity out.safetensors
    PYTHONPATH=.venv/trl-1.12 python benchmarks/trl_ppo.py bench out.json
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import work
from datasets import Dataset
from safetensors.torch import save_file
from transformers import TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


def make_trainer(job: work.Job, models: work.Models, prompts: torch.Tensor, steps: int, callbacks: list) -> PPOTrainer:
    """TRL's trainer on given models and prompts, without checkpoints, reports or sample generations."""
    args = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        total_episodes=job.batch_size * steps,
        per_device_train_batch_size=job.batch_size,
        gradient_accumulation_steps=1,
        num_mini_batches=job.num_minibatches,
        num_ppo_epochs=job.epochs,
        local_rollout_forward_batch_size=job.batch_size,
        response_length=job.max_new_tokens,
        temperature=1.0,
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        kl_coef=job.kl_coef,
        gamma=job.gamma,
        lam=job.lam,
        cliprange=job.clip_range,
        cliprange_value=job.value_clip_range,
        vf_coef=job.value_coef,
        num_sample_generations=0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    return PPOTrainer(
        args=args,
        processing_class=models.tokenizer,
        model=models.policy,
        ref_model=models.reference,
        reward_model=models.reward,
        value_model=models.value,
        train_dataset=Dataset.from_dict({"input_ids": prompts.tolist()}),
        callbacks=callbacks,
    )


def parity(path: Path) -> None:
    """One update on given responses; keeps the queries, everything computed on them, and the weights afterwards."""
    job = work.PARITY
    models, prompts = work.make_models(job), work.make_prompts(job)
    responses = work.make_responses(job)
    kept: dict[str, torch.Tensor] = {}

    def fixed_generation(model, queries, *_):
        rows = [int((prompts == query).all(dim=1).nonzero()) for query in queries]
        full = torch.cat([queries, responses[rows]], dim=1)
        logits = ppo_trainer.forward(model, full, models.tokenizer.pad_token_id).logits[:, job.prompt_tokens - 1 : -1]
        kept["tokens"] = full.clone()
        return full, logits

    whiten, reward = ppo_trainer.masked_whiten, ppo_trainer.get_reward

    def keep_advantages(values, mask, shift_mean=True):
        kept["raw_advantages"] = values.clone()
        kept["advantages"] = whiten(values, mask, shift_mean)
        return kept["advantages"]

    def keep_values(model, tokens, pad, context):
        out = reward(model, tokens, pad, context)
        if model is models.value:
            kept["values"] = out[0][:, context - 1 : -1].squeeze(-1).clone()
        else:
            kept["scores"] = out[1].clone()
        return out

    ppo_trainer.batch_generation = fixed_generation
    ppo_trainer.masked_whiten, ppo_trainer.get_reward = keep_advantages, keep_values
    trainer = make_trainer(job, models, prompts, 1, [])
    np.random.seed(work.SHUFFLE_SEED)
    trainer.train()
    kept["returns"] = kept["raw_advantages"] + kept["values"]
    state = {f"policy.{k}": v for k, v in models.policy.state_dict().items()}
    state |= {f"value.{k}": v for k, v in models.value.state_dict().items()}
    save_file({k: v.detach().clone().contiguous() for k, v in {**kept, **state}.items()}, path)


class StepClock(TrainerCallback):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.last = 0.0

    def on_train_begin(self, *_, **__) -> None:
        self.last = time.perf_counter()

    def on_step_end(self, *_, **__) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now


def bench(path: Path) -> None:
    """Seconds per step and peak memory."""
    job = work.BENCH
    clock = StepClock()
    make_trainer(job, work.make_models(job), work.make_prompts(job), job.steps, [clock]).train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    path.write_text(json.dumps({"seconds": clock.seconds, "peak_mb": peak}))


if __name__ == "__main__":
    {"parity": parity, "bench": bench}[sys.argv[1]](Path(sys.argv[2]))
