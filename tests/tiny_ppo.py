"""A few PPO steps in a process of their own, for the tests that kill it or run two of it."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from accelerate import PartialState

import rlhf_core.checkpoint as checkpoint
import rlhf_core.run as run
from rlhf_core.config import PPOConfig
from rlhf_core.loop import train

STEPS = 4


def letters(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward that needs no model: how many letters e there are."""
    return [response.count("e") / 5 for response in responses]


def die_at(count: int) -> None:
    """Kill this process, as by power cut, at the given call of fsync: in the middle of a save."""
    original, calls = checkpoint.sync, iter(range(1, 10**6))

    def sync(path: Path) -> None:
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        original(path)

    checkpoint.sync = run.sync = sync


def config(output: Path, **options) -> PPOConfig:
    """Small enough for seconds."""
    settings = {
        "steps": STEPS,
        "batch_size": 8,
        "minibatch_size": 4,
        "epochs": 2,
        "max_new_tokens": 6,
        "save_every": 1,
        "sample_every": 1,
        "kl_target": 0.5,
        "kl_horizon": 50.0,
        "precision": "float32",
        "device": "cpu",
        "reward_model": "unused",
    }
    return PPOConfig(output=output, **{**settings, **options})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("--die-at", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    if arguments.die_at:
        die_at(arguments.die_at)
    options = config(arguments.output, resume=arguments.resume, steps=arguments.steps)
    train(options, reward_fn=letters, quiet=True)
    state = PartialState()
    print(f"process {state.process_index} of {state.num_processes}")
