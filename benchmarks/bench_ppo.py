"""Seconds per PPO step and peak memory, side by side with TRL 1.12.0 on the same models and work: make bench

Each side runs in a process of its own, several times in turn, and the medians are compared:
  TRL       its PPOTrainer, float32, a separate value model
  equal     ours with the same models and precision
  default   ours as it comes: value head on the policy's trunk, autocast where it is faster here
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import work
from rich.console import Console
from rich.table import Table

from rlhf_core.machine import keep_freed_memory

ROOT = Path(__file__).parent.parent
TRL_PPO = Path(sys.prefix) / "trl-1.12"
ROUNDS = 3


def ours(mode: str, path: Path) -> None:
    """Our loop on the benchmark's models, through the same code that `rlhf ppo` runs."""
    from rlhf_core.config import PPOConfig
    from rlhf_core.loop import train
    from rlhf_core.run import read_jsonl

    job, models = work.BENCH, work.make_models(work.BENCH)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for name in ("policy", "reward"):
            getattr(models, name).save_pretrained(base / name)
            models.tokenizer.save_pretrained(base / name)
        prompts = [models.tokenizer.decode(row) for row in work.make_prompts(job)]
        (base / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
        config = PPOConfig(
            output=base / "run",
            model=str(base / "policy"),
            reward_model=str(base / "reward"),
            prompts=str(base / "prompts.jsonl"),
            critic="separate" if mode == "equal" else "shared",
            precision="float32" if mode == "equal" else "auto",
            device="cpu",
            steps=job.steps,
            batch_size=job.batch_size,
            minibatch_size=job.minibatch_size,
            epochs=job.epochs,
            max_new_tokens=job.max_new_tokens,
            missing_eos_penalty=0.0,
            save_every=10**6,
            sample_every=10**6,
        )
        del models
        started = time.perf_counter()
        train(config, quiet=True)
        rows = read_jsonl(base / "run" / "timing.jsonl")
        tokens = [row["length"] * job.batch_size for row in read_jsonl(base / "run" / "metrics.jsonl")]
        machine = base / "run" / "machine.json"
        precision = json.loads(machine.read_text())["precision"] if machine.exists() else "float32"
    result = {
        "seconds": [row["seconds"] for row in rows],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "tokens": statistics.mean(tokens),
        "precision": precision,
        "total": time.perf_counter() - started,
    }
    path.write_text(json.dumps(result))


def run_side(side: str) -> dict:
    """One side in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.json"
        here = Path(__file__)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TRL_EXPERIMENTAL_SILENCE": "1"}
        command = [sys.executable, str(here), side, str(path)]
        if side == "TRL":
            env["PYTHONPATH"] = os.pathsep.join([str(TRL_PPO), str(ROOT)])
            command = [sys.executable, str(here.with_name("trl_ppo.py")), "bench", str(path)]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{side} failed:\n{done.stderr[-2000:]}")
        return json.loads(path.read_text())


def matmul_peak(dtype: torch.dtype, size: int = 2048) -> float:
    """The best of ten square matrix products, in FLOP/s."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = float("inf")
    for _ in range(12):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def flop_per_step(job: work.Job, shared: bool) -> float:
    """Matrix-product FLOP that a step needs: 2 per weight and token forward, 4 more backward; attention left out."""
    layer = 4 * job.hidden**2 + 3 * job.hidden * job.intermediate
    trunk, head = job.layers * layer, job.vocab * job.hidden
    tokens = job.batch_size * (job.prompt_tokens + job.max_new_tokens)
    answers = job.batch_size * job.max_new_tokens
    policy = 2 * (trunk * tokens + head * answers)
    value = 0 if shared else 2 * trunk * tokens
    sampling = policy
    scoring = policy + value + policy + 2 * trunk * tokens  # policy and critic, reference, reward model
    return sampling + scoring + 3 * job.epochs * (policy + value)


def main() -> None:
    """Run all sides in turn and print the table."""
    keep_freed_memory()
    sides = ["TRL", "equal", "default"] if (TRL_PPO / "trl").is_dir() else ["equal", "default"]
    results: dict[str, list[dict]] = {side: [] for side in sides}
    for _ in range(ROUNDS):
        for side in sides:
            results[side].append(run_side(side))
    job, console = work.BENCH, Console()
    peaks = {"float32": matmul_peak(torch.float32), "bfloat16": matmul_peak(torch.bfloat16)}
    console.print(f"matmul peak: float32 {peaks['float32'] / 1e9:.0f}, bfloat16 {peaks['bfloat16'] / 1e9:.0f} GFLOP/s")
    table = Table("side", "precision", "s / step", "of TRL", "peak MB", "of TRL", "tokens / s", "share of matmul peak")
    # the first step of a process warms caches up and is left out
    seconds = {s: statistics.median(x for r in rs for x in r["seconds"][1:]) for s, rs in results.items()}
    memory = {s: statistics.median(r["peak_mb"] for r in rs) for s, rs in results.items()}
    for side in sides:
        precision = results[side][0].get("precision", "float32")
        share = flop_per_step(job, side == "default") / seconds[side] / peaks[precision]
        against = [f"{kind[side] / kind['TRL']:.2f}" if "TRL" in kind else "–" for kind in (seconds, memory)]
        speed = job.batch_size * job.max_new_tokens / seconds[side]
        table.add_row(
            side,
            precision,
            f"{seconds[side]:.2f}",
            against[0],
            f"{memory[side]:.0f}",
            against[1],
            f"{speed:.0f}",
            f"{share:.0%}",
        )
    console.print(table)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        ours(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
