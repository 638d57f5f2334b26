"""Training on given texts: SFT, the reward model, DPO and IPO. One loop, three losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rlhf_core.config import DPOConfig, RewardConfig, SFTConfig
from rlhf_core.data.preference_data import load_preferences
from rlhf_core.data.ratings import PROMPT, rating_pairs, rating_rankings, scramble
from rlhf_core.dpo import dpo_loss, implicit_rewards, ipo_loss, sequence_logprobs
from rlhf_core.experience import Responses
from rlhf_core.functions import REWARD_REFERENCE, choose_functions
from rlhf_core.loop import shares
from rlhf_core.machine import faster_precision
from rlhf_core.models import (
    Policy,
    RewardModel,
    frozen,
    in_pieces,
    load_causal_lm,
    load_classifier,
    load_tokenizer,
    save_tokenizer,
)
from rlhf_core.policy import masked_mean
from rlhf_core.reward import pairwise_accuracy
from rlhf_core.run import Run, generator_for

TEXTS_AT_ONCE = 32  # of a batch, those of similar length: less padding, and still enough for the matrix products


@dataclass
class Share:
    """What a loss function returns for some rows of a minibatch.

    Attributes:
        loss: mean over what it counts; the gradient flows from here.
        metrics: means over the same.
        weight: how much it counts (rows or tokens); gradients and metrics are added up in this proportion.
    """

    loss: Tensor
    metrics: dict[str, float]
    weight: float


def load_pairs(config: SFTConfig, tokenizer) -> dict[str, list[str]]:
    """The columns of the configured preference data."""
    if config.data.startswith("ratings:") and config.num_rows is not None:
        gap = getattr(config, "min_gap", 0.0)
        split = config.data.removeprefix("ratings:")
        pairs = rating_pairs(split, config.num_rows, seed=config.seed, min_gap=gap)
        if not len(pairs):
            raise ValueError(f"--min-gap {gap}: no two sentences differ by so much")
        return pairs.to_dict()
    return load_preferences(config.data, limit=config.num_rows, tokenizer=tokenizer).to_dict()


def fit(
    run: Run,
    config: SFTConfig,
    model: nn.Module,
    num_rows: int,
    share_of: Callable[[nn.Module, Tensor], Share],
    total_weight: Callable[[Tensor], float],
    save: Callable[[Path], None],
    lengths: Tensor,
) -> Path:
    """The loop: batches of rows of similar length in random order, AdamW, a learning rate that falls linearly to 0.

    Args:
        run: the run to log to.
        config: its options.
        model: what is trained.
        num_rows: rows of the data.
        share_of: loss and metrics of some rows.
        total_weight: the weight of all rows of a minibatch, over all processes.
        save: writes the model into a folder.
        lengths: of each row, in tokens.

    Returns:
        The folder of the trained model.
    """
    batch_size = min(config.batch_size, num_rows)
    processes = run.accelerator.num_processes
    if batch_size % processes:
        raise ValueError(f"--batch-size ({batch_size}) must be a multiple of the {processes} processes")
    per_epoch = num_rows // batch_size
    total = config.epochs * per_epoch
    fused = run.device.type != "mps"
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=fused)
    if run.resumed:
        run.restore(optimizer)
    model, optimizer = run.accelerator.prepare(model, optimizer)
    model.train()
    for step in run.steps(total):
        epoch, place = divmod(step - 1, per_epoch)
        if place == 0 or step == run.first_step:
            batches = batches_by_length(lengths, batch_size, generator_for(config.seed, epoch))
        indices = batches[place]
        whole = total_weight(indices)
        warmup = min(1.0, step / (0.05 * total + 1))
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warmup * (1 - (step - 1) / total)
        optimizer.zero_grad()
        sums = {}
        for rows in shares(indices, config.microbatch_size, run.accelerator.process_index, processes):
            part = share_of(model, rows)
            factor = part.weight / whole * processes  # distributed training averages gradients over processes
            run.accelerator.backward(part.loss * factor)
            for name, value in {"loss": part.loss.item(), **part.metrics}.items():
                sums[name] = sums.get(name, 0.0) + value * factor
        if processes > 1:
            values = torch.tensor(list(sums.values()), dtype=torch.float64, device=run.device)
            sums = dict(zip(sums, run.accelerator.reduce(values, "mean").tolist(), strict=True))
        sums["grad_norm"] = nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm).item()
        optimizer.step()
        run.log(**sums)
        if step % config.save_every == 0 or step == total:
            run.save(save, optimizer)
    return run.finish(save)


def batches_by_length(lengths: Tensor, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """An epoch's batches: shuffle, sort by length within stretches of 16 batches, cut, shuffle the batches.

    The rows that do not fill a last batch sit this epoch out; the next shuffle draws others.
    """
    order = torch.randperm(len(lengths), generator=generator)
    stretch = 16 * batch_size
    pieces = [piece[lengths[piece].argsort(stable=True)] for piece in order.split(stretch)]
    batches = [b for piece in pieces for b in piece.split(batch_size) if len(b) == batch_size]
    left = torch.cat([p[len(p) - len(p) % batch_size :] for p in pieces])
    batches += [b for b in left.split(batch_size) if len(b) == batch_size]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def encode_responses(tokenizer, prompts: list[str], texts: list[str], max_tokens: int) -> Responses:
    """Token ids of prompts and responses with their EOS; a response is cut so that both fit into `max_tokens`."""
    starts = tokenizer(prompts)["input_ids"]
    ends = tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = [
        (start[-(max_tokens - 1) :], [*end, tokenizer.eos_token_id]) for start, end in zip(starts, ends, strict=True)
    ]
    cut = [(start, end[: max_tokens - len(start)]) for start, end in rows]
    return Responses.from_lists([start for start, _ in cut], [end for _, end in cut], tokenizer.pad_token_id)


def use_faster_precision(run: Run, policy: Policy, batch: Responses) -> None:
    """Set the policy's precision to the configured or the measured one."""

    def step(bfloat16: bool) -> None:
        policy.bfloat16 = bfloat16
        policy(batch).logprobs.sum().backward()
        policy.zero_grad(set_to_none=True)

    policy.bfloat16 = run.precision(lambda: faster_precision(step, run.device)) == "bfloat16"


def train_sft(config: SFTConfig, quiet: bool = False) -> Path:
    """Supervised fine-tuning on the chosen texts.

    Returns:
        The folder of the trained model.

    Raises:
        ConfigError: an option is impossible. TrainingDiverged: a metric became NaN or infinite.

    Source: Ouyang et al. 2022 (arXiv 2203.02155), section 3.5.
    """
    config.check()
    run = Run(config, quiet)
    torch.manual_seed(config.seed)
    tokenizer = load_tokenizer(config.model)
    rows = load_pairs(config, tokenizer)
    data = encode_responses(tokenizer, rows["prompt"], rows["chosen"], config.max_tokens).to(run.device)
    policy = Policy(load_causal_lm(str(run.checkpoint) if run.resumed else config.model, run.device), critic=None)
    use_faster_precision(run, policy, data[slice(None, config.batch_size)])

    def share_of(model: nn.Module, indices: Tensor) -> Share:
        batch = data[indices]
        logprobs, entropy, _ = model(batch)
        loss = -masked_mean(logprobs, batch.mask)
        return Share(loss, {"entropy": masked_mean(entropy, batch.mask).item()}, batch.mask.sum().item())

    def save(folder: Path) -> None:
        policy.save(folder)
        save_tokenizer(tokenizer, folder)

    lengths = data.mask.sum(dim=1)
    return fit(run, config, policy, len(data), share_of, lambda i: lengths[i].sum().item(), save, lengths)


def train_reward(
    config: RewardConfig, functions: Mapping[str, Callable | None] | None = None, quiet: bool = False
) -> Path:
    """A reward model: the trunk of a language model with a scalar head, on preference pairs.

    Args:
        config: see `RewardConfig`.
        functions: building blocks by name (those of `REWARD_REFERENCE`) to train with. One that is missing or does not
            agree with the reference on small examples is replaced by it, with a warning.
        quiet: no progress bar.

    Returns:
        The folder of the trained model, an `AutoModelForSequenceClassification` checkpoint with one label.

    Raises:
        ConfigError: an option is impossible. TrainingDiverged: a metric became NaN or infinite.

    Source: Ouyang et al. 2022 (arXiv 2203.02155), equation 1.
    """
    config.check()
    f = choose_functions(functions, REWARD_REFERENCE)
    run = Run(config, quiet)
    torch.manual_seed(config.seed)
    tokenizer = load_tokenizer(config.model)
    start = str(run.checkpoint) if run.resumed else config.model
    model = RewardModel(
        load_classifier(start, tokenizer, run.device, new_head=True), tokenizer, config.max_tokens, f.sequence_scores
    )
    rankings = load_rankings(config, model)

    def scores_of(module: nn.Module, chosen: list[Ranking], generator: torch.Generator) -> Tensor:
        texts = [drop_tokens(text, config.word_dropout, generator) for r in chosen for text in r.texts]

        def scores_alike(piece: Tensor) -> Tensor:
            alike = [texts[i] for i in piece.tolist()]
            # one side of collate_pairs is enough: its width and masks come from the lengths
            batch = f.collate_pairs(alike, alike[:1] * len(alike), tokenizer.pad_token_id)
            return module(batch["chosen_ids"].to(run.device), batch["chosen_mask"].to(run.device))

        return in_pieces(torch.tensor([len(text) for text in texts]).argsort(), TEXTS_AT_ONCE, scores_alike)

    def share_of(module: nn.Module, indices: Tensor) -> Share:
        part = [rankings[i] for i in indices.tolist()]
        scores = scores_of(module, part, generator_for(config.seed, int(indices[0]), 4))
        firsts = torch.tensor([0, *[len(r.texts) for r in part]]).cumsum(0)
        pairs = torch.cat([r.pairs + first for r, first in zip(part, firsts.tolist(), strict=False)]).to(run.device)
        better, worse = scores[pairs[:, 0]], scores[pairs[:, 1]]
        loss = f.pairwise_loss(better, worse, config.margin, config.centering)
        accuracy = f.pairwise_accuracy(better.detach(), worse.detach())
        return Share(loss, {"accuracy": accuracy, "score": scores.mean().item()}, len(pairs))

    def timed_step(bfloat16: bool) -> None:
        model.bfloat16 = bfloat16
        scores_of(model, rankings[: max(1, config.batch_size // 16)], generator_for(0)).sum().backward()
        model.zero_grad(set_to_none=True)

    model.bfloat16 = run.precision(lambda: faster_precision(timed_step, run.device)) == "bfloat16"

    def save(folder: Path) -> None:
        model.model.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)

    lengths = torch.tensor([max(map(len, r.texts)) for r in rankings])
    pairs_of = torch.tensor([len(r.pairs) for r in rankings])
    per_step = max(1, config.batch_size // len(rankings[0].texts))
    once = replace(config, epochs=1, batch_size=per_step)  # the epochs are in the rankings already
    return fit(run, once, model, len(rankings), share_of, lambda i: pairs_of[i].sum().item(), save, lengths)


@dataclass
class Ranking:
    """Texts that were compared with each other: token ids, and the pairs as (chosen, rejected) positions, [pairs, 2]."""

    texts: list[list[int]]
    pairs: Tensor


def load_rankings(config: RewardConfig, model: RewardModel) -> list[Ranking]:
    """The comparisons of all epochs, in order; packaged ratings are grouped anew in each.

    Ranking several texts together gives many comparisons for one forward pass (Ouyang et al. 2022, section 3.5).
    """
    rankings = []
    if config.data.startswith("ratings:"):
        split = config.data.removeprefix("ratings:")
        for epoch in range(config.epochs):
            seed = config.seed * config.epochs + epoch
            for texts, pairs in rating_rankings(split, config.ranking_size, seed, config.min_gap)[: config.num_rows]:
                texts, pairs = with_broken_copies(texts, pairs, config, generator_for(seed, len(rankings), 5))
                if len(pairs):
                    rankings.append(Ranking(model.encode([PROMPT] * len(texts), texts), pairs))
        return rankings
    rows = load_pairs(config, model.tokenizer)
    chosen, rejected = (model.encode(rows["prompt"], rows[side]) for side in ("chosen", "rejected"))
    pair = torch.tensor([[0, 1]])
    return [Ranking([c, r], pair) for c, r in zip(chosen, rejected, strict=True)] * config.epochs


def with_broken_copies(
    texts: list[str], pairs: Tensor, config: RewardConfig, generator: torch.Generator
) -> tuple[list[str], Tensor]:
    """Add scrambled copies of the texts that won most, each ranked below every real one: policies break while they praise."""
    count = round(config.broken_copies * len(texts))
    vocabulary = [word for text in texts for word in text.split()]
    wins = torch.bincount(pairs[:, 0], minlength=len(texts))
    best = wins.argsort(descending=True, stable=True)[:count].tolist()
    broken = [scramble(texts[i], vocabulary, generator) for i in best]
    broken = [copy for copy in broken if copy not in texts]
    below = torch.cartesian_prod(torch.arange(len(texts)), len(texts) + torch.arange(len(broken)))
    return [*texts, *broken], torch.cat([pairs, below.reshape(-1, 2)])


def drop_tokens(tokens: list[int], share: float, generator: torch.Generator) -> list[int]:
    """Leave out some tokens at random, but never BOS or EOS."""
    if share == 0 or len(tokens) <= 4:
        return tokens
    kept = (torch.rand(len(tokens), generator=generator) >= share).tolist()
    last = len(tokens) - 1
    return [token for i, token in enumerate(tokens) if kept[i] or i in (0, last)]


def train_dpo(config: DPOConfig, quiet: bool = False) -> Path:
    """Direct preference optimisation, or IPO: the policy learns from pairs without a reward model.

    The reference's log-probabilities are computed once, before training.

    Returns:
        The folder of the trained policy.

    Raises:
        ConfigError: an option is impossible. TrainingDiverged: a metric became NaN or infinite.

    Source: Rafailov et al. 2023 (arXiv 2305.18290); Azar et al. 2023 (arXiv 2310.12036).
    """
    config.check()
    run = Run(config, quiet)
    torch.manual_seed(config.seed)
    tokenizer = load_tokenizer(config.model)
    rows = load_pairs(config, tokenizer)
    chosen, rejected = (
        encode_responses(tokenizer, rows["prompt"], rows[side], config.max_tokens).to(run.device)
        for side in ("chosen", "rejected")
    )
    reference = Policy(load_causal_lm(config.model, run.device), critic=None, entropy_fn=None)
    start = str(run.checkpoint) if run.resumed else config.model
    policy = Policy(load_causal_lm(start, run.device), critic=None, entropy_fn=None)
    use_faster_precision(run, policy, chosen[slice(None, config.batch_size)])
    reference.bfloat16 = policy.bfloat16

    def of_responses(module: nn.Module, batch: Responses) -> Tensor:
        """What the loss takes: sums over each response for DPO, means for IPO."""
        logprobs = module(batch).logprobs
        return sequence_logprobs(logprobs, batch.mask) if config.loss == "dpo" else masked_mean(logprobs, batch.mask, 1)

    def of_reference(data: Responses) -> Tensor:
        """All of the reference's numbers, from responses of similar length at once."""
        with frozen(reference):
            return in_pieces(data.mask.sum(dim=1).argsort(), 64, lambda rows: of_responses(reference, data[rows]))

    ref_chosen, ref_rejected = of_reference(chosen), of_reference(rejected)

    def share_of(module: nn.Module, indices: Tensor) -> Share:
        better, worse = of_responses(module, chosen[indices]), of_responses(module, rejected[indices])
        ref_better, ref_worse = ref_chosen[indices], ref_rejected[indices]
        if config.loss == "dpo":
            loss = dpo_loss(better, worse, ref_better, ref_worse, config.beta, config.label_smoothing)
        else:
            loss = ipo_loss(better, worse, ref_better, ref_worse, config.beta)
        won, lost = implicit_rewards(better, ref_better, config.beta), implicit_rewards(worse, ref_worse, config.beta)
        metrics = {"accuracy": pairwise_accuracy(won, lost), "margin": (won - lost).mean().item()}
        return Share(loss, metrics, len(indices))

    def save(folder: Path) -> None:
        policy.save(folder)
        save_tokenizer(tokenizer, folder)

    lengths = torch.maximum(chosen.mask.sum(dim=1), rejected.mask.sum(dim=1))
    return fit(run, config, policy, len(chosen), share_of, len, save, lengths)
