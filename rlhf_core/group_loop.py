"""Lesson 08's loop: GRPO and RLOO. Several answers to each prompt, no critic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from rlhf_core.collect import Collector, Rollout
from rlhf_core.config import GRPOConfig
from rlhf_core.grpo import group_advantages, grpo_loss, rloo_advantages
from rlhf_core.loop import REFERENCE, minibatch_indices, shares
from rlhf_core.ppo import approx_kl, clip_fraction, clipped_policy_loss
from rlhf_core.run import Run, generator_for


def train_grpo(
    config: GRPOConfig,
    reward_fn: Callable[[list[str], list[str]], Sequence[float]] | None = None,
    quiet: bool = False,
) -> Path:
    """Group-relative policy optimisation, or REINFORCE leave-one-out.

    Args:
        config: see `GRPOConfig`.
        reward_fn: scores `(prompts, responses)`, in place of `config.reward_model`.
        quiet: no progress bar.

    Returns:
        The folder of the trained policy.

    Raises:
        ConfigError: an option is impossible. TrainingDiverged: a metric became NaN or infinite.

    Source: Shao et al. 2024 (arXiv 2402.03300), algorithm 1; Ahmadian et al. 2024 (arXiv 2402.14740).
    """
    config.check()
    run = Run(config, quiet)
    collector = Collector(run, config, None, REFERENCE, reward_fn, config.group_size)
    if run.resumed:
        run.restore(collector.optimizer)
    for step in run.steps(config.steps):
        rollout = collector.collect(step)
        if config.estimator == "grpo":
            advantages = group_advantages(rollout.scores, config.group_size)
        else:
            advantages = rloo_advantages(rollout.scores - config.kl_coef * rollout.kl(), config.group_size)
        metrics = collector.reduce(group_update(collector, rollout, advantages, step))
        metrics |= rollout.metrics()
        collector.record(step, rollout, metrics)
    return run.finish(collector.save)


def group_update(collector: Collector, rollout: Rollout, advantages: torch.Tensor, step: int) -> dict[str, float]:
    """All epochs and minibatches of one rollout.

    GRPO's loss holds the KL penalty and averages per response; RLOO has the penalty in its rewards and takes PPO's
    clipped surrogate, averaged over tokens, which at the first step is REINFORCE.
    """
    config, run, policy = collector.config, collector.run, collector.policy
    generator = generator_for(config.seed, step, 1)
    history = []
    for indices in minibatch_indices(len(advantages), config.minibatch_size, config.epochs, generator):
        collector.optimizer.zero_grad()
        sums: dict[str, float] = defaultdict(float)
        world, tokens = run.accelerator.num_processes, rollout.mask[indices].sum()
        for rows in shares(indices, config.microbatch_size, run.accelerator.process_index, world):
            batch = rollout.responses[rows]
            mask, time = batch.mask, batch.mask.shape[1]
            logprobs = policy(batch).logprobs
            old, ref = rollout.logprobs[rows][:, :time], rollout.ref_logprobs[rows][:, :time]
            per_token = advantages[rows, None].expand(mask.shape)
            # distributed training averages over processes, hence the factor
            of_rows, of_tokens = len(rows) / len(indices) * world, (mask.sum() / tokens).item() * world
            if config.estimator == "grpo":
                loss = grpo_loss(logprobs, old, ref, advantages[rows], mask, config.clip_range, config.kl_coef)
                share = of_rows
            else:
                loss = clipped_policy_loss(logprobs, old, per_token, mask, config.clip_range)
                share = of_tokens
            (loss * share).backward()
            sums["loss"] += loss.item() * share
            clipped = clip_fraction(logprobs.detach(), old, per_token, mask, config.clip_range)
            sums["clip_fraction"] += clipped * of_tokens
            sums["approx_kl"] += approx_kl(logprobs.detach(), old, mask) * of_tokens
        sums["grad_norm"] = nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm).item()
        collector.optimizer.step()
        history.append(sums)
    return {name: sum(sums[name] for sums in history) / len(history) for name in history[0]}
