"""The whole chain, from human ratings to a report: what `make demo` runs."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path

import yaml
from rich.console import Console

from rlhf_core.compare import measure, print_summary
from rlhf_core.config import (
    ConfigError,
    DemoConfig,
    DPOConfig,
    GRPOConfig,
    PPOConfig,
    RewardConfig,
    RunConfig,
    load_config,
)
from rlhf_core.group_loop import train_grpo
from rlhf_core.loop import train
from rlhf_core.machine import keep_freed_memory, pick_device
from rlhf_core.report import write_report
from rlhf_core.run import is_finished
from rlhf_core.supervised import train_dpo, train_reward

TRAINERS = {"reward": train_reward, "ppo": train, "grpo": train_grpo, "dpo": train_dpo}

STORY = {
    "reward": "a reward model learns which of two sentences people rate higher",
    "judge": "a judge learns it from other sentences, and to mind broken ones; no policy ever sees it",
    "ppo": "the language model learns to please the reward model, held near its start by a KL penalty",
    "ppo_weak_kl": "the same in large steps, with hardly any penalty: the reward goes up, the judge turns away",
    "dpo": "the same preferences without a reward model",
    "grpo": "groups of answers in place of a critic",
}


def plan(config: DemoConfig) -> dict[str, RunConfig]:
    """The runs of the demo, in order."""
    common = {"device": config.device, "seed": config.seed, "save_every": 20}
    rated = {**common, "model": config.reward_trunk}
    policy = {**common, "model": config.model}
    online = {**policy, "reward_model": str(config.output / "reward" / "model")}
    runs: dict[str, RunConfig] = {
        "reward": RewardConfig(**rated, data="ratings:reward"),
        "judge": RewardConfig(
            **{**rated, "seed": config.seed + 1},
            data="ratings:judge",
            epochs=2,
            learning_rate=5e-4,
            broken_copies=0.4,
        ),
        "ppo": PPOConfig(**online, steps=36),
        "ppo_weak_kl": PPOConfig(
            **online,
            kl_coef=0.001,
            missing_eos_penalty=0.0,
            learning_rate=1.2e-3,
            epochs=4,
            batch_size=32,
            steps=25,
        ),
        "dpo": DPOConfig(**policy, num_rows=2000, learning_rate=5e-4, beta=0.05),
        "grpo": GRPOConfig(**online, steps=25, kl_coef=0.1),
    }
    if config.quick:
        runs = {name: quick(run) for name, run in runs.items()}
    return {name: replace(run, output=config.output / name) for name, run in runs.items()}


def quick(run: RunConfig) -> RunConfig:
    """A few steps of a run."""
    if isinstance(run, RewardConfig):
        return replace(run, num_rows=4, epochs=1)
    return replace(run, num_rows=64) if isinstance(run, DPOConfig) else replace(run, steps=2, batch_size=16)


def demo(config: DemoConfig) -> Path:
    """Train, evaluate and report.

    Args:
        config: see `DemoConfig`.

    Returns:
        The path of the report.

    Raises:
        ConfigError: the folder holds another demo.
    """
    config.check()
    keep_freed_memory()
    console = Console()
    begin(config)
    started = time.perf_counter()
    for name, run in plan(config).items():
        console.print(f"\n[bold]{name}[/bold]: {STORY[name]}", highlight=False)
        if is_finished(run.output):
            console.print("  done before", highlight=False)
            continue
        if (run.output / "config.yaml").exists():
            run = replace(load_config(run.output), resume=True)
        TRAINERS[run.method](run)
    console.print("\n[bold]evaluation[/bold]: held-out prompts, answered by all, read by the judge", highlight=False)
    print_summary(measure(config.output, pick_device(config.device)))
    report = write_report(config.output)
    console.print(f"\n{time.perf_counter() - started:.0f} s in all. Open [bold]{report}[/bold]", highlight=False)
    return report


def begin(config: DemoConfig) -> None:
    """Make the folder, or find it as this demo left it."""
    path = config.output / "config.yaml"
    options = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items() if k != "resume"}
    if path.exists():
        if not config.resume:
            raise ConfigError(f"--output {config.output} already holds a demo; add --resume, or name another folder")
        if yaml.safe_load(path.read_text(encoding="utf-8")) != options:
            raise ConfigError(f"--resume: {config.output} was started with other options; see its config.yaml")
        return
    config.output.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
