"""Evaluate finished runs: the same held-out prompts for every policy, scored by the reward model and by a judge.

Everything is computed from what the run folders hold, so that `rlhf evaluate` gives the report's numbers again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlhf_core.config import ConfigError, EvaluateConfig, OnlineConfig, RunConfig, SFTConfig, load_config, read_yaml
from rlhf_core.data.preference_data import load_preferences, load_prompts
from rlhf_core.data.ratings import PROMPT, random_pairs, rating_matrix, sentences_of
from rlhf_core.evaluation import best_of_n_kl, expected_best_of_n, wilson_interval, win_rate
from rlhf_core.experience import Responses
from rlhf_core.machine import keep_freed_memory, pick_device
from rlhf_core.models import (
    CachedNextLogits,
    Policy,
    RewardModel,
    frozen,
    load_causal_lm,
    load_classifier,
    load_tokenizer,
)
from rlhf_core.preferences import preference_pairs, preference_probability, rater_agreement
from rlhf_core.reward import calibration_error, pairwise_accuracy
from rlhf_core.rollout import choose_by, write_until_eos
from rlhf_core.run import generator_for, is_finished, read_jsonl

EVALUATION_FILE = "evaluation.json"
TEXTS_FILE = "texts.jsonl"
BEST_OF = (1, 2, 4, 8, 16)
TEST_PAIRS = 20_000
POLICY_METHODS = ("sft", "ppo", "grpo", "dpo")
ROWS_AT_ONCE = 128


@dataclass
class Answers:
    """What one policy wrote on the held-out prompts: texts and, per text, KL to the reference in nats and tokens."""

    texts: list[str]
    kl: Float[Tensor, "prompts"]
    length: Float[Tensor, "prompts"]
    ended: Float[Tensor, "prompts"]


@dataclass
class Bench:
    """Held-out prompts, the models that judge, and the sampling that all policies share."""

    base: str
    prompts: list[str]
    max_new_tokens: int
    temperature: float
    seed: int
    device: torch.device
    proxy: RewardModel | None = None
    judge: RewardModel | None = None
    reference: Policy = field(init=False)

    def __post_init__(self) -> None:
        self.tokenizer = load_tokenizer(self.base)
        self.reference = Policy(load_causal_lm(self.base, self.device), critic=None, entropy_fn=None)

    def answer(self, policy: Policy, prompts: list[str], draw: int = 0) -> Answers:
        """One response to each prompt; the same random numbers for every policy."""
        texts, kl, length, ended = [], [], [], []
        generator = generator_for(self.seed, draw, 3)
        uniforms = torch.rand(len(prompts), self.max_new_tokens, dtype=torch.float64, generator=generator)
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        for start in range(0, len(prompts), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            encoded = self.tokenizer(prompts[rows], padding=True, return_tensors="pt").to(self.device)
            ids, mask = encoded["input_ids"], encoded["attention_mask"].bool()
            next_logits = CachedNextLogits(policy.model, mask, eos)
            choose = choose_by(self.temperature, uniforms[rows])
            new = write_until_eos(next_logits, ids, choose, self.max_new_tokens, eos, pad)
            responses = Responses.join(ids, mask, new, eos)
            length.append(responses.mask.sum(dim=1).float().cpu())
            kl.append(self.kl(policy, responses))
            is_eos = (new == eos) & responses.mask
            ended.append(is_eos.any(dim=1).float().cpu())
            texts += [self.tokenizer.decode(t[m]) for t, m in zip(new, responses.mask & ~is_eos, strict=True)]
        return Answers(texts, torch.cat(kl), torch.cat(length), torch.cat(ended))

    def kl(self, policy: Policy, responses: Responses) -> Float[Tensor, "responses"]:
        """KL(policy ‖ reference) of each response, at the temperature at which it was sampled, in nats."""
        if policy is self.reference:
            return torch.zeros(len(responses))  # nothing to measure
        policy.temperature = self.reference.temperature = self.temperature
        with frozen(policy), frozen(self.reference):
            gap = policy(responses).logprobs - self.reference(responses).logprobs
        return torch.where(responses.mask, gap, 0.0).sum(dim=1).cpu()


def evaluate(config: EvaluateConfig) -> dict:
    """Recompute every number of a report, write it to evaluation.json and texts.jsonl, and draw the report anew.

    Args:
        config: names the folder of a run, or of a demo with its runs.

    Returns:
        The numbers, as in evaluation.json.

    Raises:
        ConfigError: the folder holds no finished run.
    """
    from rlhf_core.report import write_report

    config.check()
    keep_freed_memory()
    found = measure(config.run, pick_device(config.device))
    print_summary(found)
    Console().print(f"report: {write_report(config.run)}", highlight=False)
    return found


def runs_in(folder: Path) -> dict[str, RunConfig]:
    """The finished runs of a folder by name: the folder itself, or those inside it."""
    if (folder / "metrics.jsonl").exists():
        return {folder.name: load_config(folder)} if is_finished(folder) else {}
    inside = sorted(path.parent for path in folder.glob("*/metrics.jsonl"))
    return {path.name: load_config(path) for path in inside if is_finished(path)}


def run_folder(folder: Path, name: str) -> Path:
    """Where a run of `runs_in` lies."""
    return folder if (folder / "metrics.jsonl").exists() else folder / name


def measure(folder: Path, device: torch.device) -> dict:
    """All numbers of a folder's runs; also writes evaluation.json and texts.jsonl."""
    runs = runs_in(folder)
    if not runs:
        raise ConfigError(f"--run {folder} holds no finished run (a folder with metrics.jsonl and model/)")
    options = demo_options(folder)
    found: dict = {"reward_models": {}, "policies": {}}
    scorers = {}
    for name, config in runs.items():
        if config.method == "reward":
            scorers[name] = load_scorer(str(run_folder(folder, name) / "model"), device)
            found["reward_models"][name] = test_reward_model(scorers[name], config)
    policies = {name: config for name, config in runs.items() if config.method in POLICY_METHODS}
    if policies:
        bench = make_bench(policies, scorers, options, device)
        rows = measure_policies(folder, bench, policies, found)
        found["best_of_n"] = measure_best_of_n(bench) if bench.proxy else []
        found["over_training"] = {
            name: judge_samples(run_folder(folder, name), bench)
            for name in policies
            if bench.judge and bench.proxy and (run_folder(folder, name) / "samples.jsonl").stat().st_size
        }
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / TEXTS_FILE).write_text(text, encoding="utf-8")
    (folder / EVALUATION_FILE).write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def demo_options(folder: Path) -> dict:
    """Number of prompts and seed of a demo; the defaults for a single run."""
    options = {"num_prompts": 256, "seed": 0}
    if not (folder / "metrics.jsonl").exists() and (folder / "config.yaml").exists():
        options |= {k: v for k, v in read_yaml(folder / "config.yaml").items() if k in options}
    return options


def load_scorer(path: str, device: torch.device) -> RewardModel:
    """A reward model or judge from its folder."""
    tokenizer = load_tokenizer(path)
    return RewardModel(load_classifier(path, tokenizer, device), tokenizer)


def make_bench(policies: dict[str, RunConfig], scorers: dict[str, RewardModel], options: dict, device) -> Bench:
    """The held-out prompts and the models that score, as the runs were configured."""
    online = [c for c in policies.values() if isinstance(c, OnlineConfig)]
    first = online[0] if online else next(iter(policies.values()))
    source = getattr(first, "prompts", "ratings:reward")
    held_out = "ratings:test" if source.startswith("ratings:") else source
    prompts = load_prompts(held_out, num_words=getattr(first, "prompt_words", 3))["prompt"][: options["num_prompts"]]
    proxy = scorers.get("reward")
    if proxy is None and online:
        proxy = load_scorer(online[0].reward_model, device)
    return Bench(
        base=first.model,
        prompts=prompts,
        max_new_tokens=getattr(first, "max_new_tokens", 24),
        temperature=getattr(first, "temperature", 1.0),
        seed=options["seed"],
        device=device,
        proxy=proxy,
        judge=scorers.get("judge"),
    )


def test_reward_model(model: RewardModel, config: SFTConfig) -> dict:
    """Pairwise accuracy and calibration on pairs that it was not trained on, beside the agreement of people."""
    if not config.data.startswith("ratings:"):
        rows = load_preferences(config.data, limit=config.num_rows, tokenizer=model.tokenizer).to_dict()
        better, worse = model.score(rows["prompt"], rows["chosen"]), model.score(rows["prompt"], rows["rejected"])
        return {"accuracy_on_training_data": pairwise_accuracy(better, worse), "pairs": len(better)}
    rows = sentences_of("test")
    scores = model.score([PROMPT] * len(rows), [" " + row["text"] for row in rows])
    ratings = torch.tensor([row["mean_rating"] for row in rows], dtype=torch.float64)
    candidates = random_pairs(len(rows), TEST_PAIRS, seed=0)
    pairs = preference_pairs(ratings, candidates)
    # for calibration the first text of a pair must not always be the better one
    kept = candidates[ratings[candidates[:, 0]] != ratings[candidates[:, 1]]]
    predicted = preference_probability(scores[kept[:, 0]], scores[kept[:, 1]])
    return {
        "accuracy": pairwise_accuracy(scores[pairs[:, 0]], scores[pairs[:, 1]]),
        "human_agreement": rater_agreement(rating_matrix(rows), candidates),
        "calibration_error": calibration_error(predicted, ratings[kept[:, 0]] > ratings[kept[:, 1]]),
        "sentences": len(rows),
        "pairs": len(pairs),
    }


def mean_and_error(values: Tensor) -> dict[str, float]:
    """Mean and standard error."""
    error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": values.mean().item(), "error": error}


def measure_policies(folder: Path, bench: Bench, policies: dict[str, RunConfig], found: dict) -> list[dict]:
    """Scores, KL and win rates of every policy and of the model they all started from; returns the texts."""
    texts = []
    before_judged = None
    for name in ["start", *policies]:
        if name == "start":
            policy = bench.reference
        else:
            model = load_causal_lm(str(run_folder(folder, name) / "model"), bench.device)
            policy = Policy(model, critic=None, entropy_fn=None)
        answers = bench.answer(policy, bench.prompts)
        numbers: dict = {
            "kl": mean_and_error(answers.kl),
            "length": mean_and_error(answers.length),
            "ended": answers.ended.mean().item(),
            "distinct_words": distinct_words(answers.texts),
        }
        proxy = bench.proxy.score(bench.prompts, answers.texts) if bench.proxy else None
        judged = bench.judge.score(bench.prompts, answers.texts) if bench.judge else None
        if proxy is not None:
            numbers["proxy"] = mean_and_error(proxy)
        if judged is not None:
            numbers["judge"] = mean_and_error(judged)
            before_judged = judged if name == "start" else before_judged
            share, count = win_rate(judged, before_judged), len(judged)
            numbers["win_rate"] = {"share": share, "interval": wilson_interval(share * count, count), "prompts": count}
        found["policies"][name] = numbers
        for i, (prompt, text) in enumerate(zip(bench.prompts, answers.texts, strict=True)):
            row = {"policy": name, "prompt": prompt, "response": text}
            row |= {"proxy": round(proxy[i].item(), 4)} if proxy is not None else {}
            row |= {"judge": round(judged[i].item(), 4)} if judged is not None else {}
            texts.append(row)
    return texts


def distinct_words(texts: list[str]) -> float:
    """Distinct words as a share of all words: falls when a policy repeats itself."""
    words = [word for text in texts for word in text.split()]
    return len(set(words)) / max(1, len(words))


def measure_best_of_n(bench: Bench) -> list[dict]:
    """Best-of-n of the starting model by the proxy: expected scores from 16 samples a prompt, and the bound on its KL."""
    prompts, largest = bench.prompts[:64], max(BEST_OF)
    repeated = [prompt for prompt in prompts for _ in range(largest)]
    answers = bench.answer(bench.reference, repeated, draw=1)
    proxy = bench.proxy.score(repeated, answers.texts).reshape(-1, largest)
    judged = bench.judge.score(repeated, answers.texts).reshape(-1, largest) if bench.judge else None
    rows = []
    for n in BEST_OF:
        row = {"n": n, "kl_bound": best_of_n_kl(n)}
        row["proxy"] = sum(expected_best_of_n(scores, n) for scores in proxy) / len(prompts)
        if judged is not None:  # the judge's score of the one that the proxy likes best, in each group of n
            groups = proxy.reshape(len(prompts), -1, n)
            best = groups.argmax(dim=2, keepdim=True)
            row["judge"] = judged.reshape(groups.shape).gather(2, best).mean().item()
        rows.append(row)
    return rows


def judge_samples(folder: Path, bench: Bench) -> list[dict]:
    """Proxy and judge on the texts that a run wrote while it trained, step by step."""
    by_step: dict[int, list[dict]] = defaultdict(list)
    for row in read_jsonl(folder / "samples.jsonl", "step", "prompt", "response"):
        by_step[row["step"]].append(row)
    kl = {row["step"]: row.get("kl") for row in read_jsonl(folder / "metrics.jsonl", "step")}
    result = []
    for step, rows in sorted(by_step.items()):
        prompts, texts = [r["prompt"] for r in rows], [r["response"] for r in rows]
        proxy, judged = bench.proxy.score(prompts, texts), bench.judge.score(prompts, texts)
        result.append({"step": step, "kl": kl.get(step), "proxy": proxy.mean().item(), "judge": judged.mean().item()})
    return result


def print_summary(found: dict) -> None:
    """The numbers that matter, as tables."""
    console = Console()
    if found["reward_models"]:
        table = Table("reward model", "accuracy on unseen pairs", "one person with the others", "calibration error")
        for name, r in found["reward_models"].items():
            cells = [f"{r[k]:.3f}" if k in r else "–" for k in ("accuracy", "human_agreement", "calibration_error")]
            table.add_row(name, *cells)
        console.print(table)
    if found["policies"]:
        table = Table(
            "policy", "reward model's score", "judge's score", "KL (nats)", "wins against start", "95% interval"
        )
        for name, p in found["policies"].items():
            wins = p.get("win_rate")
            table.add_row(
                name,
                *(f"{p[k]['mean']:.2f} ± {p[k]['error']:.2f}" if k in p else "–" for k in ("proxy", "judge", "kl")),
                f"{wins['share']:.1%}" if wins else "–",
                "{:.2f} – {:.2f}".format(*wins["interval"]) if wins else "–",
            )
        console.print(table)
