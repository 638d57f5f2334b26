"""Small examples for every building block of training: a function may stand in for a reference if it makes the same of them.

An example is a list of arguments, or a function that watches a block at work and returns what must hold. Token-shaped numbers
are NaN where the mask is False: a function that lets them through is seen at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

from rlhf_core.experience import Experience, PolicyOutput
from rlhf_core.loop import UpdateConfig

TIME, VOCAB = 6, 7
FIELDS = ("logprobs", "old", "ref", "values", "old_values", "advantages", "returns", "rewards")


def tokens_of(seed: int) -> SimpleNamespace:
    """Three rows of numbers: a full one, one that starts at column 1, a short one."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]]).bool()
    x = {name: torch.randn(3, TIME, generator=generator).masked_fill(~mask, math.nan) for name in FIELDS}
    x["logits"] = 3 * torch.randn(3, TIME, VOCAB, generator=generator)
    x["tokens"] = torch.randint(VOCAB, (3, TIME), generator=generator)
    x["hidden"] = torch.randn(3, TIME, 4, generator=generator)
    return SimpleNamespace(**x, mask=mask)


X, Y = tokens_of(0), tokens_of(1)
ENDS = torch.tensor([[5, 0, 3, 0, 0], [1, 2, 3, 4, 1], [0, 2, 0, 5, 5]])  # EOS is 0
FORBIDDEN = X.logits.index_fill(2, torch.tensor([3]), -math.inf)
HIDDEN = X.hidden.masked_fill(~X.mask[:, :, None], math.nan)
SCORES, OTHERS = torch.tensor([1.0, -9.0, 2.0]), torch.tensor([0.3, -9.5, 2.0])
RATIOS = X.logprobs, X.old, 2 * X.advantages, X.mask  # log-ratios of order 1, on both sides
UNLIKELY = X.logprobs - 200, X.old - 200, Y.advantages, X.mask  # exp(logprobs) underflows
VALUES = X.values, X.old_values, X.returns, X.mask
PARTS = tuple(torch.tensor(number) for number in (-0.14, 0.72, 2.5))

# name → calls
CALLS: dict[str, list[tuple]] = {
    "token_logprobs": [
        (X.logits, X.tokens, 0.7),
        (1e4 * X.logits, X.tokens),
        (X.logits[:1, :2], X.tokens[:1, :2], 1.0),
        (X.logits.bfloat16(), X.tokens, 1.0),
    ],
    "response_mask": [(ENDS, torch.tensor([2, 3, 1]), 0), (ENDS[:1], torch.tensor([4]), 0)],
    "masked_mean": [
        (X.values, X.mask),
        (X.values, X.mask, 1),
        (X.values, X.mask & (torch.arange(TIME) < 5), 0),
        (X.values.transpose(0, 1), X.mask.T, 0),
    ],
    "token_entropy": [(X.logits,), (1e4 * X.logits,), (FORBIDDEN,)],
    "shaped_rewards": [
        (SCORES, X.logprobs, X.ref, X.mask, 0.3, 5.0),
        (SCORES, Y.logprobs, Y.ref, Y.mask, 0.05),
    ],
    "gae": [(X.rewards, X.values, X.mask, 0.9, 0.8), (Y.rewards, Y.values, Y.mask, 1.0, 0.95)],
    "masked_whiten": [(X.values, X.mask), (100 + X.values, X.mask, False), (300 + X.values, X.mask)],
    "clipped_policy_loss": [(*RATIOS, 0.2), (*UNLIKELY, 0.4)],
    "clip_fraction": [(*RATIOS, 0.2), (*UNLIKELY, 0.4), (X.logprobs, X.old, 0 * X.advantages, X.mask, 0.2)],
    "approx_kl": [(X.logprobs, X.old, X.mask), UNLIKELY[:2] + (X.mask,)],
    "clipped_value_loss": [(*VALUES, 0.2), (Y.values, Y.old_values, Y.returns, Y.mask, 1.0)],
    "ppo_loss": [(*PARTS, 0.5, 0.1), (*PARTS, 0.0, 0.0)],
    "adaptive_kl_coef": [(0.2, kl, 6.0, 64, 1000.0) for kl in (0.0, 5.5, 6.6, 60.0)],
    "collate_pairs": [([[1, 2, 3], [4]], [[5], [6, 9]], 9), ([[1], [4]], [[5], [6, 9]], 0)],
    "sequence_scores": [(HIDDEN, torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.tensor(0.5), X.mask)],
    "pairwise_loss": [(SCORES, OTHERS), (SCORES, OTHERS, 0.5, 0.1), (1e4 * SCORES, OTHERS)],
    "pairwise_accuracy": [(SCORES, OTHERS)],
}
# positions of the arguments that a gradient must reach, and no other
TRAINED = {
    "token_logprobs": {0},
    "masked_mean": {0},
    "token_entropy": {0},
    "clipped_policy_loss": {0},
    "clipped_value_loss": {0},
    "ppo_loss": {0, 1, 2},
    "sequence_scores": {0, 1, 2},
    "pairwise_loss": {0, 1},
}


# greedily: 1 → 2 → EOS (0), 3 → 1, and 1 after an EOS that stands in the prompt; 4 is padding
CHAIN = (
    torch.tensor([[1, 5, 1, 1, 0], [1, 2, 6, 1, 0], [5, 1, 1, 3, 0], [0, 5, 3, 1, 0], [1, 1, 1, 1, 0]]).float().log()
)


def sampling(sample: Callable) -> list[Tensor]:
    """Greedy responses, what was fed at the last step, and what must hold of drawn ones."""
    asked: list[Tensor] = []

    def next_logits(tokens: Tensor) -> Tensor:
        asked.append(tokens.clone())
        return CHAIN[tokens[:, -1]]

    def draw(generator: torch.Generator, rows: int, steps: int) -> Tensor:
        return sample(next_logits, torch.ones(rows, 2).long(), steps, 0.7, 0, 4, generator)

    def seeded(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    prompts = torch.tensor([[0, 1], [1, 2], [3, 3], [1, 0]])
    greedy = sample(next_logits, prompts, 6, 0.0, 0, 4, None)
    fed = asked[-1]
    # 60 tokens, EOS and padding among them, all about equally likely; the logits are large
    many = torch.linspace(0.0, 0.5, 60)
    drawn = sample(
        lambda tokens: 1e4 + many.expand(len(tokens), -1), torch.ones(9000, 1).long(), 1, 0.7, 0, 4, seeded(0)
    )
    shares = drawn.flatten().bincount(minlength=60) / 9000
    few = draw(seeded(3), 4000, 1).flatten().bincount(minlength=5) / 4000
    long = draw(seeded(1), 64, 8)
    after_eos = (long == 0).cumsum(dim=1) - (long == 0).long() > 0
    one = seeded(2)
    first, second, again = draw(one, 16, 8), draw(one, 16, 8), draw(seeded(2), 16, 8)
    facts = (
        (shares - torch.softmax(many / 0.7, dim=-1)).abs().sum() < 0.12,
        (few - torch.softmax(CHAIN[1] / 0.7, dim=-1)).abs().max() < 0.05,
        greedy.dtype == long.dtype == torch.int64,
        prompts.tolist() == [[0, 1], [1, 2], [3, 3], [1, 0]],
        torch.equal(first, again) and not torch.equal(first, second),
        bool((long[after_eos] == 4).all()),
    )
    return [greedy, fed, torch.tensor([float(fact) for fact in facts])]


def minibatches(indices: Callable) -> list[Tensor]:
    """Sizes of the minibatches, each epoch's rows in order, and whether the order is new and the seed's."""

    def rows(seed: int) -> list[Tensor]:
        return list(indices(22, 8, 2, torch.Generator().manual_seed(seed)))

    one, again, other = rows(0), rows(0), rows(1)
    epochs = torch.cat(one).reshape(2, 22)
    facts = (
        not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[0].sort().values, epochs[0]),
        torch.equal(torch.cat(one), torch.cat(again)) and not torch.equal(torch.cat(one), torch.cat(other)),
        all(piece.dtype == torch.int64 for piece in one),
    )
    sizes = torch.tensor([len(piece) for piece in one])
    return [sizes, epochs.sort(dim=1).values, torch.tensor([float(fact) for fact in facts])]


def scoring(score: Callable) -> list[Tensor]:
    """The scores of a list and of a tensor, how the reward function was asked, and whether its tensor was left alone."""
    calls, kept = [], torch.tensor([1.0, 2.0])

    def reward_fn(*texts: list[str]) -> Tensor:
        calls.append(texts)
        return kept

    ended = torch.tensor([True, False])
    both = [score(f, ["a", "b"], ["c", "d"], ended, 0.5) for f in (lambda p, r: [1, 2], reward_fn)]
    asked = calls == [(["a", "b"], ["c", "d"])]
    unchanged = kept.tolist() == [1.0, 2.0] and ended.tolist() == [True, False]
    return [*both, torch.tensor([float(asked), float(unchanged)])]


class TablePolicy(torch.nn.Module):
    """Logits of the next token and a value for each token before it; remembers which rows it was asked for."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.table = torch.nn.Parameter(torch.randn(VOCAB, VOCAB, generator=generator))
        self.value = torch.nn.Parameter(torch.randn(VOCAB, generator=generator))
        self.rows: list[int] = []

    def forward(self, batch: Experience) -> PolicyOutput:
        self.rows += (batch.tokens[:, 0] // VOCAB).tolist()
        time, tokens = batch.mask.shape[1], batch.tokens % VOCAB
        before = tokens[:, -time - 1 : -1]
        log_p = torch.log_softmax(self.table[before], dim=-1)
        chosen = log_p.gather(-1, tokens[:, -time:, None]).squeeze(-1)
        return PolicyOutput(chosen, -(log_p.exp() * log_p).sum(dim=-1), self.value[before])


def rollout_of(policy: TablePolicy, rows: int = 12, time: int = 5) -> Experience:
    """Responses of the policy with all numbers of a rollout; the first token of a row says which it is."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(time) < torch.arange(rows)[:, None] % time + 1
    tokens = torch.randint(VOCAB, (rows, time + 1), generator=generator)
    tokens[:, 0] += VOCAB * torch.arange(rows)
    attention = torch.cat([torch.ones(rows, 1, dtype=torch.bool), mask], dim=1)
    blank = torch.zeros(rows, time)
    with torch.no_grad():
        logprobs, _, values = policy(Experience(tokens, attention, mask, *[blank] * 4))
    policy.rows = []
    advantages, errors = (torch.randn(rows, time, generator=generator) for _ in range(2))
    numbers = (x.masked_fill(~mask, 1e4) for x in (logprobs, values, advantages, values + 3 * errors))
    return Experience(tokens, attention, mask, *numbers)


def updating(update: Callable) -> list[Tensor]:
    """Where the weights are after updates in which the order of the rows does not matter, and what else must hold."""
    found, orders = [], []
    # three epochs over the whole rollout; then single rows, in steps so small that their order makes no difference
    for rate, options in ((3.0, {"epochs": 3, "minibatch_size": 12}), (1e-4, {"epochs": 2, "minibatch_size": 1})):
        for max_norm in (0.2, 100.0):
            policy = TablePolicy()
            experience = rollout_of(policy)
            starts = [weights.detach().clone() for weights in policy.parameters()]
            given = {name: value.clone() for name, value in vars(experience).items()}
            optimizer = torch.optim.SGD(policy.parameters(), lr=rate)
            coefficients = {"value_coef": 0.3, "entropy_coef": 0.2, "max_grad_norm": max_norm}
            config = UpdateConfig(**options, **coefficients, generator=torch.Generator().manual_seed(0))
            metrics = update(policy, optimizer, experience, config)
            facts = (
                len(metrics) > 0 and all(math.isfinite(float(value)) for value in dict(metrics).values()),
                all(torch.equal(getattr(experience, name), value) for name, value in given.items()),
                optimizer.param_groups[0]["lr"] == rate,
            )
            found += [(now.detach() - start) / rate for now, start in zip(policy.parameters(), starts, strict=True)]
            found.append(torch.tensor([float(fact) for fact in facts]))
            orders.append(policy.rows)
    shuffled = orders[2][:12] != orders[2][12:] and orders[2][:12] != list(range(12))
    return [*found, torch.tensor([float(shuffled), float(orders[2] == orders[3])])]


WATCHED: dict[str, Callable[[Callable], list[Tensor]]] = {
    "sample_responses": sampling,
    "minibatch_indices": minibatches,
    "score_responses": scoring,
    "ppo_update": updating,
}
