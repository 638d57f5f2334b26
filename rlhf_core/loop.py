"""Lesson 05, second half: the loop. Write, score, give credit, take small steps, and again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlhf_core.advantages import gae, masked_whiten, shaped_rewards
from rlhf_core.checks import require_positive
from rlhf_core.config import PPOConfig
from rlhf_core.experience import Experience
from rlhf_core.policy import masked_mean, response_mask, token_entropy, token_logprobs
from rlhf_core.ppo import approx_kl, clip_fraction, clipped_policy_loss, clipped_value_loss, ppo_loss
from rlhf_core.rollout import sample_responses, score_responses


def minibatch_indices(
    batch_size: int, minibatch_size: int, epochs: int, generator: torch.Generator | None = None
) -> Iterator[Int[Tensor, "minibatch"]]:
    """Rows of each minibatch, epoch after epoch.

    Args:
        batch_size: rows of the rollout.
        minibatch_size: rows per minibatch; the last of an epoch has what is left.
        epochs: passes over the rollout.
        generator: source of the permutations; None is torch's default generator.

    Returns:
        An iterator of int64 tensors. Each epoch is a fresh permutation: no row is dropped or repeated in it.

    Raises:
        ValueError: a size is below 1.

    Source: Schulman et al. 2017 (arXiv 1707.06347), algorithm 1, "optimize … with K epochs and minibatch size M".
    """
    require_positive(batch_size=batch_size, minibatch_size=minibatch_size, epochs=epochs)
    permutations = (torch.randperm(batch_size, generator=generator) for _ in range(epochs))
    return chain.from_iterable(permutation.split(minibatch_size) for permutation in permutations)


def adaptive_kl_coef(kl_coef: float, observed_kl: float, target_kl: float, num_samples: int, horizon: float) -> float:
    """Move the KL coefficient so that the KL comes to its target.

    Args:
        kl_coef: β now.
        observed_kl: KL(π ‖ π_ref) of this rollout, summed over tokens and averaged over sequences, in nats.
        target_kl: the KL that is wanted, in the same unit.
        num_samples: sequences in this rollout.
        horizon: sequences over which the controller reacts; large means slowly.

    Returns:
        β(1 + clip(KL/target − 1, ±0.2) · num_samples/horizon).

    Raises:
        ValueError: the target or the horizon is not positive.

    Source: Ziegler et al. 2019 (arXiv 1909.08593), section 2.2. verl and OpenRLHF feed a KL per token: another target.
    """
    require_positive(target_kl=target_kl, horizon=horizon)
    error = min(max(observed_kl / target_kl - 1, -0.2), 0.2)
    return kl_coef * (1 + error * num_samples / horizon)


@dataclass
class UpdateConfig:
    """What `ppo_update` must know; the meanings are those of `PPOConfig`."""

    epochs: int = 4
    minibatch_size: int = 16
    clip_range: float = 0.2
    value_clip_range: float = 0.2
    value_coef: float = 0.1
    entropy_coef: float = 0.0
    max_grad_norm: float = 1.0
    microbatch_size: int | None = None
    functions: SimpleNamespace | None = None  # building blocks in place of `REFERENCE`
    generator: torch.Generator | None = None
    process_index: int = 0
    num_processes: int = 1


def ppo_update(
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    experience: Experience,
    config: UpdateConfig,
) -> dict[str, float]:
    """Improve the policy on one rollout: all epochs and minibatches.

    Args:
        policy: `policy(minibatch)` gives `(logprobs, entropy, values)`, each [batch, time], of the minibatch's response
            tokens under the current weights.
        optimizer: of the policy's parameters, critic included.
        experience: the rollout. `experience[indices]` is a minibatch; its `logprobs`, `values`, `advantages` and
            `returns` are those of the rollout and stay frozen through all epochs.
        config: epochs, sizes, ranges and coefficients.

    Returns:
        Means over all minibatches: `loss`, `policy_loss`, `value_loss`, `entropy` (nats), `clip_fraction`, `approx_kl`
        (nats per token, all three measured before each step), and `grad_norm` before clipping.

    Source: Schulman et al. 2017 (arXiv 1707.06347), algorithm 1. Gradients of micro-batches are added up with their share
    of the minibatch's tokens; TRL's PPOTrainer takes the mean of their means.
    """
    f = config.functions or REFERENCE
    history = []
    for indices in f.minibatch_indices(len(experience), config.minibatch_size, config.epochs, config.generator):
        tokens_in_minibatch = experience.mask[indices].sum()
        optimizer.zero_grad()
        sums: dict[str, float] = defaultdict(float)
        for rows in shares(indices, config.microbatch_size, config.process_index, config.num_processes):
            batch = experience[rows]
            logprobs, entropy, values = policy(batch)
            policy_loss = f.clipped_policy_loss(
                logprobs, batch.logprobs, batch.advantages, batch.mask, config.clip_range
            )
            value_loss = f.clipped_value_loss(values, batch.values, batch.returns, batch.mask, config.value_clip_range)
            mean_entropy = f.masked_mean(entropy, batch.mask)
            loss = f.ppo_loss(policy_loss, value_loss, mean_entropy, config.value_coef, config.entropy_coef)
            # distributed training averages gradients over processes, hence the factor
            share = batch.mask.sum() / tokens_in_minibatch * config.num_processes
            (loss * share).backward()
            measured = {
                "loss": loss.item(),
                "policy_loss": policy_loss.item(),
                "value_loss": value_loss.item(),
                "entropy": mean_entropy.item(),
                "clip_fraction": f.clip_fraction(
                    logprobs.detach(), batch.logprobs, batch.advantages, batch.mask, config.clip_range
                ),
                "approx_kl": f.approx_kl(logprobs.detach(), batch.logprobs, batch.mask),
            }
            for name, value in measured.items():
                sums[name] += value * share.item()
        sums["grad_norm"] = nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm).item()
        optimizer.step()
        history.append(sums)
    return {name: sum(sums[name] for sums in history) / len(history) for name in history[0]}


def shares(
    indices: Int[Tensor, "minibatch"], microbatch_size: int | None, process_index: int = 0, num_processes: int = 1
) -> tuple[Int[Tensor, "microbatch"], ...]:
    """This process's rows of a minibatch, in pieces that go through the model at once."""
    mine = indices[process_index::num_processes]
    return mine.split(microbatch_size or len(mine))


# every building block of the loop, by name; `train` takes others in their place
REFERENCE = SimpleNamespace(
    token_logprobs=token_logprobs,
    response_mask=response_mask,
    masked_mean=masked_mean,
    token_entropy=token_entropy,
    shaped_rewards=shaped_rewards,
    gae=gae,
    masked_whiten=masked_whiten,
    clipped_policy_loss=clipped_policy_loss,
    clip_fraction=clip_fraction,
    approx_kl=approx_kl,
    clipped_value_loss=clipped_value_loss,
    ppo_loss=ppo_loss,
    sample_responses=sample_responses,
    minibatch_indices=minibatch_indices,
    adaptive_kl_coef=adaptive_kl_coef,
    score_responses=score_responses,
    ppo_update=ppo_update,
)


def train(
    config: PPOConfig,
    functions: Mapping[str, Callable] | None = None,
    reward_fn: Callable[[list[str], list[str]], Sequence[float]] | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    quiet: bool = False,
) -> Path:
    """Proximal policy optimisation of a language model against a reward model.

    Args:
        config: see `PPOConfig`.
        functions: building blocks by name (those of `REFERENCE`) to train with, such as a learner's own `gae`. One that
            is missing or does not agree with the reference on small examples is replaced by it, with a warning.
        reward_fn: scores `(prompts, responses)`, in place of `config.reward_model`.
        on_step: called with the step and its metrics, for live plots.
        quiet: no progress bar.

    Returns:
        The folder of the trained policy, which transformers loads as it is.

    Raises:
        ConfigError: an option is impossible. TrainingDiverged: a metric became NaN or infinite.

    Source: Ziegler et al. 2019 (arXiv 1909.08593); Ouyang et al. 2022 (arXiv 2203.02155), section 3.5.
    """
    from rlhf_core.collect import Collector  # transformers takes seconds to import; the functions above do without
    from rlhf_core.functions import choose_functions
    from rlhf_core.run import Run, generator_for

    config.check()
    f = choose_functions(functions)
    run = Run(config, quiet)
    collector = Collector(run, config, critic=config.critic, functions=f, reward_fn=reward_fn)
    policy, optimizer = collector.policy, collector.optimizer
    kl_coef = config.kl_coef
    if run.resumed:
        kl_coef = run.restore(optimizer)["kl_coef"]

    for step in run.steps(config.steps):
        # the policy writes, the reward model reads, policy, critic and reference give each token its numbers
        rollout = collector.collect(step)
        mask = rollout.mask
        rewards = f.shaped_rewards(
            rollout.scores, rollout.logprobs, rollout.ref_logprobs, mask, kl_coef, config.score_clip
        )
        if config.whiten_rewards:
            rewards = f.masked_whiten(rewards, mask, False)
        # credit for each token
        advantages, returns = f.gae(rewards, rollout.values, mask, config.gamma, config.lam)
        advantages = f.masked_whiten(advantages, mask)
        # small, safe steps
        update = UpdateConfig(
            **{o.name: getattr(config, o.name) for o in fields(UpdateConfig) if hasattr(config, o.name)},
            functions=f,
            generator=generator_for(config.seed, step, 1),
            process_index=run.accelerator.process_index,
            num_processes=run.accelerator.num_processes,
        )
        experience = rollout.experience(advantages, returns)
        metrics = collector.reduce(f.ppo_update(policy, optimizer, experience, update))
        metrics |= {
            **rollout.metrics(),
            "reward": rewards.sum(dim=1).mean().item(),
            "explained_variance": explained_variance(rollout.values, returns, mask),
            "kl_coef": kl_coef,
        }
        # keep the KL where it is wanted
        if config.kl_target is not None:
            kl_coef = f.adaptive_kl_coef(kl_coef, metrics["kl"], config.kl_target, config.batch_size, config.kl_horizon)
        collector.record(step, rollout, metrics, kl_coef=kl_coef)
        if on_step is not None:
            on_step(step, metrics)
    return run.finish(collector.save)


def explained_variance(
    values: Float[Tensor, "batch time"], returns: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
) -> float:
    """Share of the returns' variance that the critic foresaw: 1 is perfect, 0 is no better than a constant."""
    errors, targets = (returns - values)[mask], returns[mask]
    return 1 - (errors.var(correction=0) / targets.var(correction=0).clamp(min=1e-8)).item()
