"""The command line: rlhf sft | reward | ppo | dpo | grpo | evaluate | demo."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from rlhf_core.config import (
    ConfigError,
    DemoConfig,
    DPOConfig,
    EvaluateConfig,
    GRPOConfig,
    PPOConfig,
    RewardConfig,
    SFTConfig,
    option,
    read_yaml,
)

CONFIGS = {
    "sft": SFTConfig,
    "reward": RewardConfig,
    "ppo": PPOConfig,
    "dpo": DPOConfig,
    "grpo": GRPOConfig,
    "evaluate": EvaluateConfig,
    "demo": DemoConfig,
}

LESSONS = ("progress", "watch", "class")
TRAINING = ("sft", "reward", "ppo", "dpo", "grpo")

USAGE = """usage: rlhf COMMAND [OPTIONS]

commands:
  sft        fine-tune on chosen texts
  reward     train a reward model, or a judge, on preference pairs
  ppo        proximal policy optimisation against a reward model
  dpo        direct preference optimisation (or IPO) on preference pairs
  grpo       group-relative policy optimisation (or RLOO) against a reward model
  evaluate   recompute every metric of a run's report from its folder
  demo       the whole chain, and a report to look at
  progress   your state in the lessons
  watch      grade a lesson again on each save
  class      grade a class and report on it, with nbgrader (for teachers)

`rlhf COMMAND --help` prints the options with their meaning; `--config FILE.yaml` reads them from a file."""


# usage, and how many arguments there may be
LESSON_COMMANDS = {
    "progress": ("usage: rlhf progress [FOLDER]    your points in all lessons; FOLDER holds them (lessons)", 0, 1),
    "watch": ("usage: rlhf watch LESSON [PATH]    such as lesson_04; PATH is its folder or notebook (lessons)", 1, 2),
}


def runner(command: str) -> Callable[[Any], object]:
    """What a command runs; imported only now, so that --help and refusals come at once."""
    if command in ("sft", "reward", "dpo"):
        from rlhf_core import supervised

        return getattr(supervised, f"train_{command}")
    if command == "ppo":
        from rlhf_core.loop import train

        return train
    if command == "grpo":
        from rlhf_core.group_loop import train_grpo

        return train_grpo
    if command == "evaluate":
        from rlhf_core.compare import evaluate

        return evaluate
    from rlhf_core.demo import demo

    return demo


def with_yaml(arguments: list[str], config_class: type) -> list[str]:
    """Put the options of a `--config FILE` before the others, so that those on the command line win."""
    if "--config" not in arguments:
        return arguments
    place = arguments.index("--config")
    if place + 1 == len(arguments):
        raise ConfigError("--config needs the name of a YAML file")
    options = read_yaml(Path(arguments[place + 1]))
    method = options.pop("method", None)
    if method not in (None, config_class.method):
        raise ConfigError(f"--config: {arguments[place + 1]} is of the method {method}, not of {config_class.method}")
    known = {f.name for f in fields(config_class)}
    from_file = []
    for name, value in options.items():
        if str(name).replace("-", "_") not in known:
            raise ConfigError(f"--config: {arguments[place + 1]} has the unknown option {name!r}")
        from_file += [option(name), str(value)]
    return [*from_file, *arguments[:place], *arguments[place + 2 :]]


def parse(command: str, arguments: list[str]) -> Any:
    """The checked configuration of a command.

    Raises:
        ConfigError: an option is impossible or unknown.
    """
    config_class = CONFIGS[command]
    arguments = with_yaml(arguments, config_class)
    config = tyro.cli(
        config_class,
        prog=f"rlhf {command}",
        args=with_flags(arguments, config_class),
        config=(tyro.conf.FlagConversionOff,),
    )
    config.check()
    return config


def with_flags(arguments: list[str], config_class: type) -> list[str]:
    """`--resume` alone means `--resume True`; both are accepted."""
    switches = {option(f.name) for f in fields(config_class) if f.type == "bool"}
    result = []
    for place, word in enumerate(arguments):
        result.append(word)
        follows = arguments[place + 1] if place + 1 < len(arguments) else "--"
        if word in switches and follows not in ("True", "False"):
            result.append("True")
    return result


def report(folder: Path) -> None:
    """Draw a finished run's report; one of several processes does it."""
    from accelerate import PartialState

    from rlhf_core.report import write_report

    if PartialState().is_main_process:
        print(f"report: {write_report(folder)}")


def lesson_command(command: str, arguments: list[str]) -> int:
    """`progress`, `watch` and `class` belong to the grader, which has its own package."""
    if command == "class":
        from autograder.classroom.cli import main as class_main

        return class_main(arguments)
    usage, least, most = LESSON_COMMANDS[command]
    if arguments[:1] in (["-h"], ["--help"]):
        print(usage)
        return 0
    if not least <= len(arguments) <= most:
        print(usage, file=sys.stderr)
        return 2
    from autograder import progress

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # not every terminal has a ✔
    try:
        (progress.show if command == "progress" else progress.watch)(*arguments)
    except ValueError as error:
        print(f"rlhf {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run a command; a bad option is one sentence and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    command, *rest = arguments
    if command in LESSONS:
        return lesson_command(command, rest)
    if command not in CONFIGS:
        print(
            f"rlhf: there is no command {command!r}; there are {', '.join([*CONFIGS, *LESSONS])}",
            file=sys.stderr,
        )
        return 2
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        config = parse(command, rest)
        runner(command)(config)
        if command in TRAINING:
            report(config.output)
    except (ValueError, OSError) as error:
        errors.print(f"rlhf {command}: {error}", markup=False)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "TrainingDiverged":
            raise
        errors.print(f"rlhf {command}: {error}", markup=False)
        return 3
    except KeyboardInterrupt:
        errors.print(f"rlhf {command}: stopped; go on with --resume", markup=False)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
