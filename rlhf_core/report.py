"""The report of a run or a demo: one HTML file that opens from disk, with its figures as PNG beside it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import jinja2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from rlhf_core.compare import EVALUATION_FILE, TEXTS_FILE, run_folder, runs_in  # noqa: E402
from rlhf_core.config import RunConfig  # noqa: E402
from rlhf_core.run import read_jsonl  # noqa: E402

TEMPLATE = Path(__file__).with_name("report.html.j2")
SHOWN_PROMPTS = 8
# a color-blind-safe palette (Okabe & Ito)
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
RUNS = ("ppo", "ppo_weak_kl", "grpo", "dpo", "reward", "judge")
FIXED_COLORS = {"start": "#000000", **dict(zip(RUNS, COLORS, strict=True))}
CURVES = {
    "score": "reward model's score",
    "kl": "KL to the start (nats per response)",
    "entropy": "entropy (nats per token)",
    "clip_fraction": "clip fraction (share of tokens)",
    "explained_variance": "explained variance of the critic",
    "length": "length (tokens)",
    "loss": "loss",
    "accuracy": "pairs ranked right (share)",
}


def write_report(folder: Path) -> Path:
    """Draw figures/*.png and report.html from what a folder holds.

    Args:
        folder: of a run, or of a demo with its runs; evaluation.json and texts.jsonl are used where they exist.

    Returns:
        The path of report.html.
    """
    runs = runs_in(folder)
    path = folder / EVALUATION_FILE
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    texts = read_jsonl(folder / TEXTS_FILE)
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    drawn = []
    for name, title, caption, figure in draw_all(folder, runs, found):
        figure.savefig(figures / f"{name}.png", dpi=130)
        plt.close(figure)
        encoded = base64.b64encode((figures / f"{name}.png").read_bytes()).decode()
        drawn.append({"name": name, "title": title, "caption": caption, "data": encoded})
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"{folder.name}: {', '.join(runs) or 'no finished run'}",
        found=found,
        figures=drawn,
        answers=side_by_side(texts, list(found.get("policies", {}))),
        samples=[] if texts else last_samples(folder, runs),
        configs={name: config.to_dict() for name, config in runs.items()},
    )
    target = folder / "report.html"
    target.write_text(html, encoding="utf-8")
    return target


def draw_all(folder: Path, runs: dict[str, RunConfig], found: dict):
    """Every figure that the data allows: name, title, caption, figure."""
    policies = found.get("policies", {})
    if any("win_rate" in p for name, p in policies.items() if name != "start"):
        yield (
            "win_rate",
            "Does the judge prefer it?",
            "Share of held-out prompts on which the independent judge prefers the trained policy's answer to that of the "
            "model it started from; ties count half. Bars: 95% Wilson intervals.",
            draw_win_rates(policies),
        )
    if any("proxy" in p for p in policies.values()):
        yield (
            "frontier",
            "What the reward cost",
            "Score against KL from the starting model on held-out prompts, with standard errors. Left: the reward model "
            "that was trained against. Right: the judge, which no policy has seen. Best-of-n picks among n samples of the "
            "starting model; its KL is an upper bound.",
            draw_frontier(policies, found.get("best_of_n", [])),
        )
    over = {name: rows for name, rows in found.get("over_training", {}).items() if len(rows) > 1}
    if over:
        yield (
            "over_optimisation",
            "Proxy against judge",
            "Mean score of the texts that a policy wrote while it trained. Where the reward model's score goes on rising "
            "and the judge's falls, the policy has learned to please the reward model, not people.",
            draw_over_optimisation(over),
        )
    if any("accuracy" in r for r in found.get("reward_models", {}).values()):
        yield (
            "reward_models",
            "How good is the reward model?",
            "Share of unseen sentence pairs ranked as the mean human rating ranks them. The line: how often one person "
            "agrees with all the others on the same pairs.",
            draw_reward_models(found["reward_models"]),
        )
    online = {name: config for name, config in runs.items() if config.method in ("ppo", "grpo")}
    if online:
        metrics = {name: read_jsonl(run_folder(folder, name) / "metrics.jsonl") for name in online}
        yield (
            "training",
            "Training, step by step",
            "Means over the responses of each rollout. GRPO has no critic, so its explained variance is empty.",
            draw_curves(metrics, ["score", "kl", "entropy", "clip_fraction", "explained_variance", "length"]),
        )
    given = {name: config for name, config in runs.items() if config.method in ("reward", "dpo", "sft")}
    if given:
        metrics = {name: read_jsonl(run_folder(folder, name) / "metrics.jsonl") for name in given}
        yield (
            "fitting",
            "Fitting given texts",
            "Loss, and share of training pairs ranked right, per minibatch (running means over ten).",
            draw_curves(metrics, ["loss", "accuracy"], smooth=10),
        )


def color_of(name: str) -> str:
    """One color per policy in every figure; a name's own letters choose it where none is fixed."""
    return FIXED_COLORS.get(name, COLORS[sum(map(ord, name)) % len(COLORS)])


def new_figure(columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of panels, about a laptop's page wide."""
    figure, axes = plt.subplots(rows, columns, figsize=(9.6, 3.3 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, list(axes.flat)


def running_mean(values: list[float], width: int) -> list[float]:
    """Mean of each value and those before it, at most `width`."""
    return [sum(values[max(0, i + 1 - width) : i + 1]) / min(i + 1, width) for i in range(len(values))]


def draw_curves(metrics: dict[str, list[dict]], names: list[str], smooth: int = 1) -> Figure:
    """One panel per metric, one line per run."""
    columns = min(3, len(names))
    figure, axes = new_figure(columns, -(-len(names) // columns))
    for axis, name in zip(axes, names, strict=False):
        for run, rows in metrics.items():
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                steps, values = zip(*points, strict=True)
                axis.plot(steps, running_mean(list(values), smooth), color=color_of(run), label=run)
        axis.set(xlabel="step", ylabel=CURVES[name])
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def draw_win_rates(policies: dict) -> Figure:
    """A horizontal bar per policy with its interval."""
    rows = [(name, p["win_rate"]) for name, p in policies.items() if name != "start" and "win_rate" in p]
    figure, (axis,) = new_figure(1)
    for place, (name, wins) in enumerate(rows):
        low, high = wins["interval"]
        axis.barh(place, wins["share"], color=color_of(name), alpha=0.85, height=0.6)
        axis.plot([low, high], [place, place], color="black", lw=1.6)
        axis.text(1.02, place, f"{wins['share']:.1%}  [{low:.2f}, {high:.2f}]", va="center", fontsize=9)
    axis.axvline(0.5, color="gray", ls="--", lw=1)
    axis.set(yticks=range(len(rows)), yticklabels=[name for name, _ in rows], xlim=(0, 1.28))
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    axis.set_xlabel("prompts won against the starting model (by the judge)")
    axis.invert_yaxis()
    return figure


def draw_frontier(policies: dict, best_of_n: list[dict]) -> Figure:
    """Score against KL: proxy on the left, judge on the right."""
    kinds = [k for k in ("proxy", "judge") if any(k in p for p in policies.values())]
    figure, axes = new_figure(len(kinds))
    for axis, kind in zip(axes, kinds, strict=True):
        for name, p in policies.items():
            x, y = p["kl"], p[kind]
            axis.errorbar(
                x["mean"], y["mean"], y["error"], x["error"], fmt="o", color=color_of(name), label=name, capsize=2
            )
        if best_of_n:
            rows = [row for row in best_of_n if kind in row]
            axis.plot(
                [r["kl_bound"] for r in rows], [r[kind] for r in rows], "s--", color="gray", ms=4, label="best of n"
            )
            for row in rows[1::2]:
                axis.annotate(
                    str(row["n"]), (row["kl_bound"], row[kind]), textcoords="offset points", xytext=(4, -10), fontsize=8
                )
        whose = {"proxy": "reward model's score", "judge": "judge's score"}[kind]
        axis.set(xlabel="KL from the start (nats per response; logarithmic beyond 1)", ylabel=whose)
        # a run that over-optimises goes a hundred times as far as the others
        axis.set_xscale("symlog", linthresh=1)
        axis.xaxis.set_major_formatter("{x:g}")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def draw_over_optimisation(over: dict[str, list[dict]]) -> Figure:
    """Proxy and judge over training, a panel per run."""
    figure, axes = new_figure(min(3, len(over)), -(-len(over) // 3))
    for axis, (name, rows) in zip(axes, over.items(), strict=False):
        steps = [row["step"] for row in rows]
        axis.plot(steps, [row["proxy"] for row in rows], "o-", color=COLORS[1], ms=3, label="reward model")
        axis.plot(steps, [row["judge"] for row in rows], "o-", color=COLORS[0], ms=3, label="judge")
        axis.set(title=name, xlabel="step", ylabel="mean score")
    axes[0].legend(frameon=False, fontsize=8)
    low, high = min(a.get_ylim()[0] for a in axes), max(a.get_ylim()[1] for a in axes)
    for axis in axes:
        axis.set_ylim(low, high)
    return figure


def draw_reward_models(models: dict) -> Figure:
    """Accuracy of each reward model, with the human ceiling as a line."""
    rows = [(name, r) for name, r in models.items() if "accuracy" in r]
    figure, (axis,) = new_figure(1)
    for place, (_, r) in enumerate(rows):
        axis.barh(place, r["accuracy"], color=COLORS[place], alpha=0.85, height=0.5)
        axis.text(r["accuracy"] - 0.005, place, f"{r['accuracy']:.1%}", va="center", ha="right", color="white")
    human = rows[0][1]["human_agreement"]
    axis.axvline(human, color="black", ls="--", lw=1.2)
    axis.text(human - 0.005, len(rows) - 0.45, f"one person: {human:.1%}", ha="right", va="bottom", fontsize=9)
    axis.set(
        yticks=range(len(rows)), yticklabels=[name for name, _ in rows], xlim=(0.5, 1), ylim=(-0.5, len(rows) - 0.2)
    )
    axis.set_xlabel("pairs of unseen sentences ranked right (a coin: 50%)")
    axis.set_xticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], ["50%", "60%", "70%", "80%", "90%", "100%"])
    return figure


def side_by_side(texts: list[dict], names: list[str]) -> list[dict]:
    """The same prompts answered by every policy: the first few held-out prompts."""
    by_prompt: dict[str, dict] = {}
    for row in texts:
        by_prompt.setdefault(row["prompt"], {})[row["policy"]] = row
    complete = [(p, answers) for p, answers in by_prompt.items() if set(answers) >= set(names)]
    return [{"prompt": p, "answers": [answers[n] for n in names]} for p, answers in complete[:SHOWN_PROMPTS]]


def last_samples(folder: Path, runs: dict[str, RunConfig]) -> list[dict]:
    """For a run that was not evaluated: the last texts it wrote."""
    shown = []
    for name in runs:
        rows = read_jsonl(run_folder(folder, name) / "samples.jsonl")
        shown += [{"run": name, **row} for row in rows if rows and row["step"] == rows[-1]["step"]][:SHOWN_PROMPTS]
    return shown
