"""Every option of every command: a typed dataclass each, with its meaning, its unit and what it must not be."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import yaml

from rlhf_core.checkpoint import write_text

METHODS: dict[str, type[RunConfig]] = {}  # method name → config class, filled by the classes below


class ConfigError(ValueError):
    """An option has an impossible value; the message names the option."""


def option(name: str) -> str:
    """How an option is written on the command line."""
    return "--" + name.replace("_", "-")


def refuse_unless(condition: bool, name: str, expected: str, value: object) -> None:
    """One sentence that names the option, what it must be and what it was."""
    if not condition:
        raise ConfigError(f"{option(name)} must be {expected}, got {value}")


@dataclass
class RunConfig:
    """What every run has."""

    output: Path = Path("runs/run")
    """Folder of the run: config.yaml, metrics.jsonl, checkpoints, samples, plots, report."""
    model: str = "pocket"
    """Model to start from: "pocket" (shipped), a local folder, or a Hub name."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), or a torch device such as cpu or cuda:0."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Autocast of the matrix products; auto measures which is faster here. Losses and log-probs stay in float32."""
    seed: int = 0
    """Seed of everything random."""
    learning_rate: float = 1e-4
    """AdamW's learning rate."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    microbatch_size: int | None = None
    """Rows that go through the model at once; gradients are accumulated. None: the whole minibatch."""
    save_every: int = 20
    """Steps between checkpoints."""
    log_with: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Also send the metrics to this tracker (it must be installed)."""
    resume: bool = False
    """Go on from the newest checkpoint in the output folder."""

    method = "run"

    def __init_subclass__(cls) -> None:
        METHODS[cls.__dict__.get("method", cls.__name__)] = cls

    def check(self) -> None:
        """Refuse impossible values, before anything is loaded.

        Raises:
            ConfigError: names the option, what it must be and what it was.
        """
        self.check_values()
        for name in ("model", "data", "prompts", "reward_model"):
            if hasattr(self, name):
                self.existing(name)

    def check_values(self) -> None:
        """The numbers; subclasses add theirs."""
        self.positive("learning_rate", "max_grad_norm", "save_every", "microbatch_size")
        if self.log_with != "none" and find_spec(self.log_with) is None:  # accelerate would say nothing
            raise ConfigError(
                f"--log-with {self.log_with} needs a package that is missing: pip install {self.log_with}"
            )

    def positive(self, *names: str) -> None:
        """These options must be greater than 0, where they are set."""
        for name in names:
            value = getattr(self, name)
            refuse_unless(value is None or value > 0 and math.isfinite(value), name, "greater than 0", value)

    def not_negative(self, *names: str) -> None:
        """These options must be 0 or more."""
        for name in names:
            value = getattr(self, name)
            refuse_unless(value >= 0 and math.isfinite(value), name, "at least 0", value)

    def share(self, *names: str) -> None:
        """These options must lie between 0 and 1."""
        for name in names:
            value = getattr(self, name)
            refuse_unless(0 <= value <= 1, name, "between 0 and 1", value)

    def existing(self, name: str) -> None:
        """A path that is written like one (it has a separator or an ending) must exist."""
        value = str(getattr(self, name))
        looks_local = value.startswith((".", "/", "~")) or value.count("/") > 1 or Path(value).suffix in DATA_ENDINGS
        refuse_unless(not looks_local or Path(value).expanduser().exists(), name, "an existing file or folder", value)

    def to_dict(self) -> dict:
        """Plain values, for YAML and for trackers."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}

    def save(self, folder: Path) -> None:
        """Write config.yaml, which `--config` reads again."""
        text = yaml.safe_dump({"method": self.method, **self.to_dict()}, sort_keys=False, allow_unicode=True)
        write_text(folder / "config.yaml", text)


DATA_ENDINGS = {".jsonl", ".json", ".parquet", ".csv"}


def read_yaml(path: Path) -> dict:
    """The options in a YAML file.

    Raises:
        ConfigError: the file is missing, not YAML, or not a mapping.
    """
    if not path.is_file():
        raise ConfigError(f"--config: there is no file {path}")
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"--config: {path} is not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(options, dict):
        raise ConfigError(f"--config: {path} must hold `option: value` lines")
    return options


def load_config(folder: Path) -> RunConfig:
    """The configuration of a run folder.

    Raises:
        ConfigError: there is none, or it is of an unknown method or has unknown options.
    """
    options = read_yaml(folder / "config.yaml")
    method = options.pop("method", None)
    if method not in METHODS:
        raise ConfigError(f"{folder / 'config.yaml'} is of the unknown method {method!r}; known: {', '.join(METHODS)}")
    known = {f.name: f for f in fields(METHODS[method])}
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"{folder / 'config.yaml'} has unknown options: {', '.join(unknown)}")
    paths = {name for name, f in known.items() if f.type == "Path"}
    return METHODS[method](**{k: Path(v) if k in paths else v for k, v in options.items()})


@dataclass
class SFTConfig(RunConfig):
    """Supervised fine-tuning: imitate the chosen texts."""

    output: Path = Path("runs/sft")
    """Folder of the run."""
    data: str = "ratings:reward"
    """Preference data whose chosen texts are imitated: ratings:reward, a local file, or a Hub name."""
    num_rows: int | None = 4000
    """Use at most so many rows; None: all."""
    epochs: int = 1
    """Passes over the rows."""
    batch_size: int = 32
    """Rows per optimizer step."""
    max_tokens: int = 128
    """Longer texts are cut at this many tokens."""

    method = "sft"

    def check_values(self) -> None:
        super().check_values()
        self.positive("epochs", "batch_size", "max_tokens")
        if self.num_rows is not None:
            self.positive("num_rows")


@dataclass
class RewardConfig(SFTConfig):
    """Train a reward model (or a judge) on preference pairs."""

    output: Path = Path("runs/reward")
    """Folder of the run."""
    model: str = "pocket-reader"
    """Model to start from: "pocket" or "pocket-reader" (both shipped), a local folder, or a Hub name."""
    num_rows: int | None = None
    """Use at most so many rankings (pairs, or groups of packaged sentences); None: all."""
    epochs: int = 3
    """Passes over the texts."""
    batch_size: int = 64
    """Texts per optimizer step; a pair is two."""
    learning_rate: float = 3e-4
    """AdamW's peak learning rate; it falls linearly to 0."""
    ranking_size: int = 16
    """Packaged ratings: so many sentences are ranked together, every pair of them from one forward pass."""
    min_gap: float = 0.0
    """Packaged ratings: leave out pairs whose mean ratings differ by no more than this (scale -4 to 4)."""
    broken_copies: float = 0.0
    """Packaged ratings: for the best-rated sentences, this share of all, a scrambled copy that ranks below all real ones.
    People only rated real sentences; without these, a judge of machine-written text does not mind nonsense."""
    word_dropout: float = 0.3
    """Share of a text's tokens that each step leaves out, against learning texts by heart."""
    margin: float = 0.0
    """By how much chosen should lead, in nats."""
    centering: float = 0.01
    """Weight of (chosen + rejected) squared, which keeps the scores around 0."""

    method = "reward"

    def check_values(self) -> None:
        super().check_values()
        self.not_negative("min_gap", "margin", "centering")
        self.share("word_dropout", "broken_copies")
        refuse_unless(self.ranking_size >= 2, "ranking_size", "at least 2", self.ranking_size)
        refuse_unless(self.batch_size >= 2, "batch_size", "at least 2 texts", self.batch_size)


@dataclass
class DPOConfig(SFTConfig):
    """Direct preference optimisation (or IPO) on preference pairs."""

    output: Path = Path("runs/dpo")
    """Folder of the run."""
    num_rows: int | None = 3000
    """Pairs to train on; None: all (the packaged ratings need a number)."""
    batch_size: int = 32
    """Pairs per optimizer step."""
    learning_rate: float = 1e-4
    """AdamW's learning rate; it falls linearly to 0."""
    min_gap: float = 1.0
    """Packaged ratings: leave out pairs whose mean ratings differ by no more than this (scale -4 to 4)."""
    loss: Literal["dpo", "ipo"] = "dpo"
    """dpo: log-sigmoid of summed log-probs; ipo: squared distance of averaged ones to 1/(2 beta)."""
    beta: float = 0.1
    """Reward units per nat of log-ratio: larger stays nearer to the reference."""
    label_smoothing: float = 0.0
    """Assumed share of labels that are the wrong way round, below 1."""

    method = "dpo"

    def check_values(self) -> None:
        super().check_values()
        self.positive("beta")
        self.not_negative("min_gap")
        refuse_unless(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", self.label_smoothing)


@dataclass
class OnlineConfig(RunConfig):
    """What PPO and GRPO share: the policy writes, the reward model reads."""

    reward_model: str = "runs/reward/model"
    """Reward model: a folder or Hub name of a sequence classifier with one label."""
    prompts: str = "ratings:reward"
    """Prompts: the openings of a part of the packaged sentences, or a local file / Hub name with a `prompt` column."""
    prompt_words: int = 3
    """Words of a packaged sentence that make a prompt."""
    steps: int = 40
    """Rollouts, each followed by its updates."""
    batch_size: int = 64
    """Responses per rollout, over all processes."""
    epochs: int = 2
    """Passes over each rollout."""
    minibatch_size: int = 16
    """Responses per optimizer step, over all processes."""
    max_new_tokens: int = 24
    """Longest response, in tokens."""
    temperature: float = 1.0
    """Temperature of sampling, and of all log-probabilities."""
    kl_coef: float = 0.06
    """Weight of the KL penalty: score units per nat."""
    clip_range: float = 0.2
    """How far the probability ratio may move from 1 before its gradient is cut."""
    missing_eos_penalty: float = 1.0
    """Subtracted from the score of a response that did not end, in score units."""
    learning_rate: float = 2e-4
    """AdamW's learning rate."""
    sample_every: int = 5
    """Steps between those whose responses are kept in samples.jsonl."""

    method = "online"

    def check_values(self) -> None:
        super().check_values()
        self.positive(
            "prompt_words", "steps", "batch_size", "epochs", "minibatch_size", "max_new_tokens", "temperature"
        )
        self.positive("clip_range", "sample_every")
        self.not_negative("kl_coef", "missing_eos_penalty")
        refuse_unless(
            self.minibatch_size <= self.batch_size,
            "minibatch_size",
            f"at most --batch-size ({self.batch_size})",
            self.minibatch_size,
        )


@dataclass
class PPOConfig(OnlineConfig):
    """Proximal policy optimisation with a learned critic."""

    output: Path = Path("runs/ppo")
    """Folder of the run."""
    critic: Literal["shared", "separate"] = "shared"
    """A value head on the policy's trunk, or a value model of its own."""
    kl_target: float | None = None
    """Adapt the KL coefficient so that the KL comes to this, in nats per response; None keeps it fixed."""
    kl_horizon: float = 2000.0
    """Responses over which the adaptive coefficient moves."""
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """GAE's lambda: 0 trusts the critic, 1 the sampled rewards."""
    value_clip_range: float = 0.2
    """How far a value may move from its old prediction before its gradient is cut, in score units."""
    value_coef: float = 0.1
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    whiten_rewards: bool = False
    """Divide the shaped rewards by their standard deviation."""
    score_clip: float | None = None
    """Clip scores to plus or minus this before the KL penalty is added."""

    method = "ppo"

    def check_values(self) -> None:
        super().check_values()
        self.share("gamma", "lam")
        self.positive("kl_horizon", "value_clip_range", "kl_target", "score_clip")
        self.not_negative("value_coef", "entropy_coef")
        if self.kl_target is not None:  # the KL coefficient would become negative
            least = 0.2 * self.batch_size
            refuse_unless(self.kl_horizon > least, "kl_horizon", f"greater than {least:g}", self.kl_horizon)


@dataclass
class GRPOConfig(OnlineConfig):
    """Group-relative policy optimisation, or REINFORCE leave-one-out: no critic."""

    output: Path = Path("runs/grpo")
    """Folder of the run."""
    group_size: int = 8
    """Answers per prompt."""
    estimator: Literal["grpo", "rloo"] = "grpo"
    """grpo: divide by the group's standard deviation, KL in the loss; rloo: leave-one-out baseline, KL in the reward."""

    method = "grpo"

    def check_values(self) -> None:
        super().check_values()
        refuse_unless(self.estimator in ("grpo", "rloo"), "estimator", "grpo or rloo", self.estimator)
        refuse_unless(self.group_size >= 2, "group_size", "at least 2", self.group_size)
        divides = self.batch_size % self.group_size == 0
        refuse_unless(divides, "group_size", f"a divisor of --batch-size ({self.batch_size})", self.group_size)


@dataclass
class EvaluateConfig:
    """Recompute every metric of a run's report from its folder."""

    run: Path = Path("runs/demo")
    """Folder of a run, or of a demo with its runs."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), or a torch device."""

    def check(self) -> None:
        """Refuse a folder that is no run."""
        refuse_unless(self.run.is_dir(), "run", "an existing run folder", self.run)


@dataclass
class DemoConfig:
    """The whole chain on the packaged ratings: reward model, judge, PPO, DPO, GRPO, best-of-n, evaluation, report."""

    output: Path = Path("runs/demo")
    """Folder of the demo; every run of it has a folder inside."""
    model: str = "pocket"
    """Model that the policies start from: "pocket" (shipped), a local folder, or a Hub name."""
    reward_trunk: str = RewardConfig.model
    """Model that the reward model and the judge start from."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), or a torch device."""
    seed: int = 0
    """Seed of everything random."""
    quick: bool = False
    """A few steps of each, to see that it all runs; the numbers mean nothing."""
    resume: bool = False
    """Go on where an interrupted demo stopped."""
    num_prompts: int = field(default=256)
    """Held-out prompts of the evaluation."""

    def check(self) -> None:
        """Refuse impossible values."""
        refuse_unless(self.num_prompts >= 1, "num_prompts", "at least 1", self.num_prompts)
