"""The command line: refusals in one sentence before anything is loaded, files of options, and real runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf_core.cli import CONFIGS, main, parse
from rlhf_core.config import ConfigError, load_config
from rlhf_core.models import resolve_model
from rlhf_core.run import read_jsonl


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    """Default paths such as runs/reward/model point nowhere here."""
    monkeypatch.chdir(tmp_path)


REFUSED = {
    "ppo --kl-coef -0.1": "--kl-coef must be at least 0, got -0.1",
    "ppo --minibatch-size 128": "--minibatch-size must be at most --batch-size (64), got 128",
    "ppo --clip-range 0": "--clip-range must be greater than 0, got 0.0",
    "ppo --temperature 0": "--temperature must be greater than 0, got 0.0",
    "ppo --lam 1.5": "--lam must be between 0 and 1, got 1.5",
    "ppo --kl-target -2": "--kl-target must be greater than 0, got -2.0",
    "ppo --learning-rate nan": "--learning-rate must be greater than 0, got nan",
    "ppo --reward-model ./nowhere": "--reward-model must be an existing file or folder, got ./nowhere",
    "ppo --prompts prompts.jsonl": "--prompts must be an existing file or folder, got prompts.jsonl",
    "ppo --model ./nowhere": "--model must be an existing file or folder, got ./nowhere",
    "grpo --group-size 7": "--group-size must be a divisor of --batch-size (64), got 7",
    "grpo --group-size 1": "--group-size must be at least 2, got 1",
    "dpo --beta 0": "--beta must be greater than 0, got 0.0",
    "dpo --label-smoothing 1": "--label-smoothing must be in [0, 1), got 1.0",
    "reward --word-dropout 2": "--word-dropout must be between 0 and 1, got 2.0",
    "sft --batch-size 0": "--batch-size must be greater than 0, got 0",
    "evaluate --run ./nowhere": "--run must be an existing run folder, got nowhere",
    "demo --num-prompts 0": "--num-prompts must be at least 1, got 0",
}


@pytest.mark.parametrize("command", REFUSED)
def test_an_impossible_value_is_refused_in_one_sentence(command, capsys):
    assert main(command.split()) == 2
    captured = capsys.readouterr()
    assert REFUSED[command] in captured.err
    assert len(captured.err.strip().splitlines()) == 1 and "Traceback" not in captured.err


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("rlhf_core.config.find_spec", lambda name: None)
    assert main(["sft", "--log-with", "wandb"]) == 2
    assert capsys.readouterr().err == "rlhf sft: --log-with wandb needs a package that is missing: pip install wandb\n"


def test_metrics_go_to_a_tracker(tmp_path, monkeypatch):
    """A stand-in for the tracker's package: what accelerate calls of it, and with what."""
    sent = []

    class Tracker(GeneralTracker):
        name, requires_logging_directory, tracker = "stand-in", False, None

        def store_init_configuration(self, values):
            sent.append(values)

        def log(self, values, step=None, **options):
            sent.append((step, values))

    monkeypatch.setattr("rlhf_core.config.find_spec", lambda name: True)
    monkeypatch.setattr("rlhf_core.run.Accelerator", lambda **o: Accelerator(cpu=o["cpu"], log_with=[Tracker()]))
    assert main(["sft", "--num-rows", "6", "--batch-size", "3", "--output", "sft", "--log-with", "wandb"]) == 0
    rows = read_jsonl(Path("sft/metrics.jsonl"))
    assert sent[0]["learning_rate"] == str(load_config(Path("sft")).learning_rate)
    assert [(step, values["loss"]) for step, values in sent[1:]] == [(row["step"], row["loss"]) for row in rows]


@pytest.mark.parametrize(
    ("command", "names"),
    [("grpo --estimator foo", "--estimator"), ("ppo --steps abc", "--steps"), ("ppo --nonsense 1", "--nonsense")],
)
def test_what_is_no_value_of_an_option_is_refused(command, names, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(command.split())
    assert stopped.value.code == 2 and names in capsys.readouterr().err


def test_an_unknown_command_is_refused(capsys):
    assert main(["frob"]) == 2
    assert "no command 'frob'" in capsys.readouterr().err


def test_without_arguments_the_commands_are_listed(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(command in listed for command in CONFIGS)


@pytest.mark.parametrize("command", CONFIGS)
def test_help_tells_the_meaning_of_every_option(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    for name in CONFIGS[command].__dataclass_fields__:
        assert "--" + name.replace("_", "-") in text


def test_options_from_a_file_and_the_command_line_wins(tmp_path):
    (tmp_path / "reward").mkdir()
    options = {"kl_coef": 0.7, "critic": "separate", "reward-model": str(tmp_path / "reward"), "score_clip": None}
    (tmp_path / "o.yaml").write_text(yaml.safe_dump(options))
    config = parse("ppo", ["--config", str(tmp_path / "o.yaml"), "--kl-coef", "0.2", "--resume"])
    assert (config.kl_coef, config.critic, config.score_clip, config.resume) == (0.2, "separate", None, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kl_koef: 1", "unknown option 'kl_koef'"),
        ("- 1", "must hold `option: value` lines"),
        ("a: [", "is not valid YAML"),
        ("kl_coef: -3", "--kl-coef must be at least 0"),
    ],
)
def test_a_bad_file_of_options_is_refused(tmp_path, text, message):
    (tmp_path / "o.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        parse("ppo", ["--config", str(tmp_path / "o.yaml")])
    with pytest.raises(ConfigError, match="there is no file"):
        parse("ppo", ["--config", "nowhere.yaml"])


def test_configurations_survive_the_file(tmp_path):
    config = parse("dpo", ["--output", str(tmp_path / "run"), "--beta", "0.3"])
    config.save(tmp_path)
    assert load_config(tmp_path) == config


def test_rows_of_a_run_that_were_damaged_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "text": "a\u2028b"}\n{"step": 2}\n{"ste')
    assert [row["step"] for row in read_jsonl(path, "step")] == [1, 2], "a kill cut the last line short"
    path.write_text('{"step": 1}\n{}\n{"step": 3}\n')
    with pytest.raises(ValueError, match="metrics.jsonl is damaged: line 2 is no row of a run"):
        read_jsonl(path, "step")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["sft", "--model", "{tmp}/damaged"], "no model could be loaded from"),
        (["sft", "--model", "{tmp}/missing"], "it has no weights for model.layers.1"),
        (["ppo", "--reward-model", "pocket"], "it has no weights for score.weight"),
        (["ppo", "--reward-model", "pocket", "--prompt-words", "1000"], "gives no prompt of 1000 words"),
        (["sft", "--device", "nowhere"], "--device must be auto, cpu, cuda, cuda:0 or mps, got nowhere"),
        (
            ["ppo", "--reward-model", "pocket", "--kl-target", "5", "--kl-horizon", "1"],
            "--kl-horizon must be greater than 12.8, got 1.0",
        ),
        (["sft", "--learning-rate", "inf"], "--learning-rate must be greater than 0, got inf"),
    ],
)
def test_what_cannot_be_trained_with_is_refused_in_one_sentence(options, words, tmp_path, capsys):
    for name in ("damaged", "missing"):
        shutil.copytree(resolve_model("pocket"), tmp_path / name)
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"no weights")
    weights = load_file(tmp_path / "missing" / "model.safetensors")
    kept = {key: value for key, value in weights.items() if ".layers.1." not in key}
    save_file(kept, tmp_path / "missing" / "model.safetensors", metadata={"format": "pt"})
    command, *asked = (word.format(tmp=tmp_path) for word in options)
    assert main([command, "--output", str(tmp_path / "run"), *asked]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"rlhf {command}: ") and words in " ".join(said.split()) and "Traceback" not in said


def test_a_start_that_failed_does_not_block_its_folder(tmp_path, capsys):
    output, data = ["--output", str(tmp_path / "run")], tmp_path / "bad.jsonl"
    data.write_text('{"prompt": "a"}\n')
    assert main(["sft", *output, "--data", str(data)]) == 2
    assert main(["sft", *output, "--num-rows", "4", "--batch-size", "2"]) == 0
    (tmp_path / "run" / "config.yaml").unlink()
    capsys.readouterr()
    assert main(["sft", *output, "--resume"]) == 2
    assert "already holds" in capsys.readouterr().err


def test_a_file_of_another_method_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_text("method: sft\n1: 2\n")
    with pytest.raises(ConfigError, match="run.yaml is of the method sft, not of reward"):
        parse("reward", ["--config", str(tmp_path / "run.yaml")])
    with pytest.raises(ConfigError, match="run.yaml has the unknown option 1"):
        parse("sft", ["--config", str(tmp_path / "run.yaml")])


def test_the_whole_chain_in_small(tmp_path, capsys):
    """Every command on real ratings, a few steps each; what they save loads with transformers alone."""
    small = ["--num-rows", "6"]
    assert main(["sft", "--output", "sft", *small, "--batch-size", "3"]) == 0
    assert main(["reward", "--output", "demo/reward", *small, "--epochs", "1"]) == 0
    assert main(["reward", "--output", "demo/judge", *small, "--epochs", "1", "--data", "ratings:judge"]) == 0
    online = ["--reward-model", "demo/reward/model", "--steps", "2", "--batch-size", "8", "--minibatch-size", "4"]
    assert main(["ppo", "--output", "demo/ppo", *online, "--max-new-tokens", "6", "--microbatch-size", "2"]) == 0
    assert main(["grpo", "--output", "demo/grpo", *online, "--group-size", "4", "--estimator", "rloo"]) == 0
    assert main(["dpo", "--output", "demo/dpo", *small, "--batch-size", "3", "--loss", "ipo"]) == 0
    for name in ("demo/ppo", "demo/grpo", "demo/dpo", "sft"):
        AutoModelForCausalLM.from_pretrained(tmp_path / name / "model")
    assert AutoModelForSequenceClassification.from_pretrained("demo/judge/model").config.num_labels == 1
    assert len(read_jsonl(Path("demo/ppo/metrics.jsonl"))) == 2
    (tmp_path / "demo" / "config.yaml").write_text("num_prompts: 8\nseed: 0\n")

    assert main(["evaluate", "--run", "demo"]) == 0
    first = json.loads(Path("demo/evaluation.json").read_text())
    assert set(first["policies"]) == {"start", "ppo", "grpo", "dpo"}
    assert first["policies"]["ppo"]["win_rate"]["prompts"] == 8
    assert first["policies"]["start"]["win_rate"]["share"] == 0.5
    assert main(["evaluate", "--run", "demo"]) == 0
    assert json.loads(Path("demo/evaluation.json").read_text()) == first, "the same folder gives the same numbers"

    html = Path("demo/report.html").read_text()
    for name in ("win_rate", "frontier", "over_optimisation", "reward_models", "training", "fitting"):
        assert Path(f"demo/figures/{name}.png").stat().st_size > 10_000
    assert html.count("data:image/png;base64,") == 6 and "http" not in html.split("</style>")[1]
    assert main(["evaluate", "--run", "sft"]) == 0
    (tmp_path / "empty").mkdir()
    assert main(["evaluate", "--run", "empty"]) == 2
