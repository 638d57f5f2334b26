"""A run that is killed in the middle of a save goes on and ends as if nothing had happened, to the bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_ppo
import torch
from safetensors.torch import load_file

from rlhf_core.checkpoint import CheckpointError, complete_checkpoints
from rlhf_core.config import ConfigError
from rlhf_core.loop import train
from rlhf_core.run import TrainingDiverged, read_jsonl

TINY = Path(__file__).with_name("tiny_ppo.py")
# `accelerate launch --cpu` starts one process whatever it is asked for; torchrun starts two, and accelerate finds them
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def launch(*arguments: object, prefix: tuple[str, ...] = (sys.executable,)) -> subprocess.CompletedProcess:
    """Run the tiny training in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*prefix, str(TINY), *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = launch(folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Policy and value head."""
    model = folder / "model"
    return {**load_file(model / "model.safetensors"), **load_file(model / "value_head.safetensors")}


def assert_same_run(one: Path, other: Path) -> None:
    """Same metrics, samples and trained model with its tokenizer, to the bit."""
    names = ["metrics.jsonl", "samples.jsonl", *sorted(f"model/{file.name}" for file in (one / "model").iterdir())]
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


# the 2nd call is in the first checkpoint, the others in the second, the third and the final model
@pytest.mark.parametrize("moment", [2, 15, 27, 38])
def test_killed_in_a_save_and_resumed(whole, tmp_path, moment):
    folder = tmp_path / "run"
    assert launch(folder, "--die-at", moment).returncode == -signal.SIGKILL
    assert not (folder / "model" / "manifest.json").exists()
    done = launch(folder, "--resume")
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same_run(whole, folder)


def test_killed_twice(whole, tmp_path):
    folder = tmp_path / "run"
    assert launch(folder, "--die-at", 14).returncode == -signal.SIGKILL
    assert launch(folder, "--resume", "--die-at", 14).returncode == -signal.SIGKILL
    assert launch(folder, "--resume").returncode == 0
    assert_same_run(whole, folder)


def test_killed_when_all_is_done_but_the_model(whole, copy):
    shutil.rmtree(copy / "model")
    assert launch(copy, "--resume").returncode == 0
    assert_same_run(whole, copy)


def test_another_run_in_the_folder_is_not_overwritten(whole):
    with pytest.raises(ConfigError, match="--output .* already holds a run; add --resume"):
        train(tiny_ppo.config(whole), reward_fn=tiny_ppo.letters, quiet=True)


def test_resuming_with_other_options_is_refused(whole):
    with pytest.raises(ConfigError, match="was started with other options"):
        train(tiny_ppo.config(whole, kl_coef=0.7, resume=True), reward_fn=tiny_ppo.letters, quiet=True)


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """A copy of the finished run, to be damaged."""
    return shutil.copytree(whole, tmp_path / "copy")


def resume(folder: Path) -> None:
    config = tiny_ppo.config(folder, resume=True)
    train(config, reward_fn=tiny_ppo.letters, quiet=True)


def test_a_damaged_checkpoint_is_refused(copy):
    newest = complete_checkpoints(copy / "checkpoints")[-1] / "trainer.pt"
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 1
    newest.write_bytes(raw)
    with pytest.raises(CheckpointError, match="is damaged: trainer.pt .* earlier checkpoint"):
        resume(copy)


def test_a_checkpoint_with_a_missing_file_is_refused(copy):
    (complete_checkpoints(copy / "checkpoints")[-1] / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is damaged: model.safetensors is missing"):
        resume(copy)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "something else"}'])
def test_a_foreign_checkpoint_is_refused(copy, text):
    (complete_checkpoints(copy / "checkpoints")[-1] / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="is not a checkpoint of this program"):
        resume(copy)


def test_a_checkpoint_of_another_method_is_refused(copy):
    path = complete_checkpoints(copy / "checkpoints")[-1] / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "method": "grpo"}))
    with pytest.raises(CheckpointError, match="of method 'grpo', but 'ppo' was asked for"):
        resume(copy)


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    calls = iter(range(10))

    def reward(prompts, responses):
        return [float("nan") if next(calls) >= 2 else 1.0] * len(responses)

    with pytest.raises(
        TrainingDiverged, match=r"step 3: .* is nan; likely cause: .*last good checkpoint is .*step_000002"
    ):
        train(tiny_ppo.config(tmp_path / "run"), reward_fn=reward, quiet=True)
    assert [row["step"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [1, 2]
    assert complete_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step_000002"


def test_two_processes_give_the_same_run_as_one(whole, tmp_path):
    """Sampling, scores, advantages and updates of the same global batch, over gloo."""
    folder = tmp_path / "two"
    done = launch(folder, prefix=TWO)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "process 0 of 2" in done.stdout and "process 1 of 2" in done.stdout
    one, two = read_jsonl(whole / "metrics.jsonl"), read_jsonl(folder / "metrics.jsonl")
    assert len(one) == len(two) == tiny_ppo.STEPS
    for left, right in zip(one, two, strict=True):
        assert left == pytest.approx(right, rel=1e-3, abs=1e-4)
    texts = [[row["response"] for row in read_jsonl(f / "samples.jsonl")] for f in (whole, folder)]
    assert texts[0] == texts[1]
    left, right = weights(whole), weights(folder)
    for name in left:
        gap = (left[name] - right[name]).abs()
        # where a gradient is nearly 0, Adam makes a step of its rounding
        assert gap.max() < tiny_ppo.config(folder).learning_rate and gap.mean() < 1e-6, name


def test_two_processes_train_reward_models_and_groups_as_one_does(tmp_path):
    """Unequal lengths, micro-batches and several passes through the reward model for one step."""
    reward = "reward --num-rows 16 --epochs 1 --batch-size 128 --word-dropout 0"
    groups = f"grpo --reward-model {tmp_path}/reward1/model --steps 2 --batch-size 16 --minibatch-size 8 --group-size 4"
    for name, command in {"reward": reward, "grpo": groups + " --microbatch-size 2"}.items():
        found = []
        for count, prefix in {1: (sys.executable,), 2: TWO}.items():
            folder = tmp_path / f"{name}{count}"
            words = ["-m", "rlhf_core.cli", *command.split(), "--output", str(folder), "--precision", "float32"]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run([*prefix, *words], env=env, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr[-3000:]
            found.append(read_jsonl(folder / "metrics.jsonl"))
        assert len(found[0]) == len(found[1]) == 2
        for one, two in zip(*found, strict=True):
            assert one == pytest.approx(two, rel=1e-3, abs=1e-4), name
