"""A run is a folder: config.yaml, metrics.jsonl, samples.jsonl, checkpoints, the trained model, plots and the report."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rlhf_core.checkpoint import (
    CheckpointError,
    complete_checkpoints,
    discard_old,
    read_manifest,
    step_folder,
    sync,
    write_folder,
    write_text,
)
from rlhf_core.config import ConfigError, RunConfig, load_config
from rlhf_core.machine import keep_freed_memory, pick_device

KEEP_CHECKPOINTS = 2
SHOWN = ("score", "kl", "entropy", "length"), ("loss", "accuracy")  # beside the bar: of rollouts, of given texts

LIKELY_CAUSES = {
    "score": "the reward model returned it; check its scores on these texts",
    "kl": "the policy has left the reference so far that its probabilities underflow; raise --kl-coef",
    "policy_loss": "the probability ratio overflowed; lower --learning-rate or --epochs",
    "value_loss": "the critic diverged; lower --learning-rate or --value-coef, or clip the scores with --score-clip",
    "grad_norm": "the gradient overflowed; lower --learning-rate",
    "loss": "the loss overflowed; lower --learning-rate",
}


class TrainingDiverged(RuntimeError):
    """A metric became NaN or infinite; the message names the step, the metric and the likely cause."""


def generator_for(seed: int, *place: int) -> torch.Generator:
    """A source of randomness that belongs to a place of the run (a step, an epoch): nothing to save, nothing to restore."""
    mixed = seed
    for number in place:
        mixed = (mixed * 1_000_003 + number + 1) % 2**63
    return torch.Generator().manual_seed(mixed)


class Run:
    """Logging, checkpoints and the progress bar of one training run.

    Args:
        config: a checked configuration; its `output` is the folder.
        quiet: no progress bar.

    Attributes:
        accelerator: of accelerate; knows the processes and the device.
        resumed: the manifest of the checkpoint to go on from, or None.

    Raises:
        ConfigError: the folder already holds a run and `resume` is not set, or the run in it was configured otherwise.
        CheckpointError: the newest checkpoint is damaged or foreign.
    """

    def __init__(self, config: RunConfig, quiet: bool = False):
        keep_freed_memory()
        self.config = config
        self.folder = config.output
        self.checkpoints = self.folder / "checkpoints"
        self.quiet = quiet
        log_with = None if config.log_with == "none" else config.log_with
        device = pick_device(config.device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # accelerate takes the current one
        self.accelerator = Accelerator(cpu=device.type == "cpu", log_with=log_with, project_dir=str(self.folder))
        self.device = self.accelerator.device
        self.is_main = self.accelerator.is_main_process
        self.resumed = self._resume() if config.resume else None
        if self.resumed is None:
            self._begin()
        if log_with:
            self.accelerator.init_trackers(config.method, config={k: str(v) for k, v in config.to_dict().items()})
        self.accelerator.wait_for_everyone()
        self.first_step = self.resumed["step"] + 1 if self.resumed else 1
        self.step = self.first_step - 1
        self._clock = time.perf_counter()
        self._task = None

    def _begin(self) -> None:
        """A new folder."""
        if not self.is_main:
            self.accelerator.wait_for_everyone()
            return
        goes_on = self.config.resume and (self.folder / "config.yaml").exists()
        held = next((name for name in ("metrics.jsonl", "checkpoints", "model") if holds(self.folder / name)), None)
        if held and not goes_on:
            raise ConfigError(
                f"--output {self.folder} already holds a run; add --resume to go on, or name another folder"
                if (self.folder / "config.yaml").exists()
                else f"--output {self.folder} already holds {held}, of no run with a config.yaml; name another folder"
            )
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.config.save(self.folder)
        for name in ("metrics.jsonl", "samples.jsonl", "timing.jsonl"):
            (self.folder / name).write_text("")
        self.accelerator.wait_for_everyone()

    def _resume(self) -> dict | None:
        """The newest complete checkpoint; lines that were logged after it are cut off, since they will be logged again."""
        if not (self.folder / "config.yaml").exists():
            return None
        before = load_config(self.folder)
        free = {"output": self.folder, "resume": False, "save_every": 1, "device": "auto", "log_with": "none"}
        if type(before) is not type(self.config) or replace(before, **free) != replace(self.config, **free):
            raise ConfigError(f"--resume: {self.folder} was started with other options; see its config.yaml")
        found = complete_checkpoints(self.checkpoints)
        if not found:
            return None
        manifest = read_manifest(found[-1], method=self.config.method)
        if self.is_main:
            for name, size in manifest["log_sizes"].items():
                path = self.folder / name
                if not path.is_file() or path.stat().st_size < size:
                    raise CheckpointError(f"{path} was shortened after the last checkpoint; put it back to go on")
                with path.open("r+b") as file:
                    file.truncate(size)
        return manifest

    def precision(self, measure: Callable[[], str]) -> str:
        """The precision of this run: the configured one, or what `measure` finds once and machine.json remembers."""
        if self.config.precision != "auto":
            return self.config.precision
        path = self.folder / "machine.json"
        if self.is_main and not path.exists():
            facts = {"precision": measure(), "torch": torch.__version__, "threads": torch.get_num_threads()}
            write_text(path, json.dumps({**facts, "device": str(self.device)}))
        self.accelerator.wait_for_everyone()
        return json.loads(path.read_text())["precision"]

    @property
    def checkpoint(self) -> Path:
        """The checkpoint to go on from."""
        return step_folder(self.checkpoints, self.resumed["step"])

    def restore(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Put the optimizer back as it was, and return the other numbers that were saved.

        Raises:
            CheckpointError: the state does not fit this model.
        """
        state = torch.load(self.checkpoint / "trainer.pt", weights_only=True, map_location="cpu")
        try:
            optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise CheckpointError(f"{self.checkpoint} belongs to another model: {error}") from error
        return state["extra"]

    def steps(self, total: int) -> Iterator[int]:
        """The steps that are left, with a progress bar."""
        columns = [
            TextColumn(f"[bold]{self.config.method}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[numbers]}"),
        ]
        hidden = self.quiet or not self.is_main
        with Progress(*columns, console=Console(stderr=True), disable=hidden) as self._bar:
            self._task = self._bar.add_task(self.config.method, total=total, completed=self.step, numbers="")
            for step in range(self.first_step, total + 1):
                self.step = step
                yield step
        if self.config.log_with != "none":
            self.accelerator.end_training()

    def log(self, **metrics: float) -> None:
        """Append one line of metrics for this step.

        Raises:
            TrainingDiverged: one of them is NaN or infinite. Nothing after the last checkpoint is saved.
        """
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        if broken:
            name = next((name for name in LIKELY_CAUSES if name in broken), broken[0])  # causes come before effects
            cause = LIKELY_CAUSES.get(name, "lower --learning-rate")
            last = complete_checkpoints(self.checkpoints)
            kept = f"the last good checkpoint is {last[-1]}" if last else "there is no checkpoint yet"
            raise TrainingDiverged(f"step {self.step}: {name} is {metrics[name]}; likely cause: {cause}; {kept}")
        if not self.is_main:
            return
        self._append("metrics.jsonl", {"step": self.step, **metrics})
        now = time.perf_counter()
        self._append("timing.jsonl", {"step": self.step, "seconds": round(now - self._clock, 4)})
        self._clock = now
        if self._task is not None:
            names = next(names for names in SHOWN if names[-1] in metrics or names is SHOWN[-1])
            numbers = "  ".join(f"{k} {metrics[k]:.3g}" for k in names if k in metrics)
            self._bar.update(self._task, completed=self.step, numbers=numbers)
        if self.config.log_with != "none":
            self.accelerator.log(metrics, step=self.step)

    def sample(self, prompts: list[str], responses: list[str], scores: list[float]) -> None:
        """Append a few texts of this step."""
        if self.is_main:
            rows = zip(prompts, responses, scores, strict=True)
            for prompt, response, score in rows:
                line = {"step": self.step, "prompt": prompt, "response": response, "score": round(score, 4)}
                self._append("samples.jsonl", line)

    def _append(self, name: str, row: dict) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def save(self, save_model: Callable[[Path], None], optimizer: torch.optim.Optimizer, **extra: float) -> None:
        """Write a checkpoint of this step, and drop the ones before the last."""
        if self.is_main:
            logs = [self.folder / name for name in ("metrics.jsonl", "samples.jsonl", "timing.jsonl")]
            for log in logs:
                sync(log)

            def write(folder: Path) -> None:
                save_model(folder)
                torch.save({"optimizer": optimizer.state_dict(), "extra": extra}, folder / "trainer.pt")

            sizes = {log.name: log.stat().st_size for log in logs}
            folder = step_folder(self.checkpoints, self.step)
            write_folder(folder, write, method=self.config.method, step=self.step, log_sizes=sizes)
            discard_old(self.checkpoints, KEEP_CHECKPOINTS)
        self.accelerator.wait_for_everyone()

    def finish(self, save_model: Callable[[Path], None]) -> Path:
        """Write the trained model beside the checkpoints, as `model`."""
        target = self.folder / "model"
        if self.is_main:
            write_folder(target, save_model, method=self.config.method, step=self.step)
        self.accelerator.wait_for_everyone()
        return target

    @contextlib.contextmanager
    def main_first(self):
        """Let the main process do something (read, convert, cache) before the others."""
        with self.accelerator.main_process_first():
            yield


def read_jsonl(path: Path, *needed: str) -> list[dict]:
    """The rows of a metrics or samples file; a last line that a kill cut short is left out.

    Raises:
        ValueError: another line is no row, or lacks a key that is needed.
    """
    rows, lines = [], path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        row = None
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
        if isinstance(row, dict) and set(needed) <= set(row):
            rows.append(row)
        elif number < len(lines):
            raise ValueError(f"{path} is damaged: line {number} is no row of a run")
    return rows


def holds(path: Path) -> bool:
    """Whether a file or a folder is there and not empty."""
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0


def is_finished(folder: Path) -> bool:
    """Whether a run has written its trained model."""
    return (folder / "model" / "manifest.json").exists()
