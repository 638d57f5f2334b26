"""Whether tokens come as often as their probabilities say.

No right sampler fails by chance: every bound is one that chance passes less than once in 10⁸ times. Another distribution, or
another temperature, lies far beyond.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RARELY = 1e-10  # less likely than that is not chance
FAR = 6.5  # standard deviations


class Step(NamedTuple):
    """One token of many rows. Rows in which everything so far is the same share a context.

    Attributes:
        logits: of each context, [contexts, vocab].
        before: the token before, [contexts].
        context: of each row, [rows].
        chosen: the token that each row drew, [rows].
    """

    logits: Tensor
    before: Tensor
    context: Tensor
    chosen: Tensor

    def at(self, temperature: float) -> Step:
        """As if drawn at a temperature."""
        return self._replace(logits=self.logits / temperature)

    def of_chosen(self, table: Tensor) -> Tensor:
        """The entries [rows] of a table [contexts, vocab] that belong to what was drawn."""
        return table[self.context, self.chosen]

    def sum(self, numbers: Tensor) -> Tensor:
        """Numbers of contexts, summed over the rows."""
        return self.weights().to(numbers.dtype) @ numbers

    def weights(self) -> Tensor:
        """How many rows each context has."""
        return torch.bincount(self.context, minlength=len(self.logits))


def frequency_facts(steps: list[Step], temperature: float) -> dict[str, bool]:
    """What must hold of tokens drawn at a temperature; the last facts only tell known mistakes apart."""
    impossible = any(bool((step.of_chosen(step.logits) == -torch.inf).any()) for step in steps)
    right = [step.at(temperature) for step in steps]
    others = {"none": 1.0, "inverse": 1 / temperature, "flat": 1e6, "greedy": 1e-4}
    return {
        "rows of the same prompt do not all get the same response": any(
            bool((step.chosen != step.chosen[0]).any()) for step in steps
        ),
        "no token of probability 0 is drawn": not impossible,
        "no token is cut off: what is unlikely is drawn now and then": all(
            tail_fits(right, share, cut_off=True) for share in (0.05, 0.01)
        ),
        "tokens come as often as softmax(logits / temperature) says": not impossible
        and follows(right)
        and all(tail_fits(right, share) for share in (0.05, 0.01)),
        "each step draws anew": len(right) < 2 or drawn_anew(right[1]),
        **{f"followed {name}": follows([step.at(t) for step in steps]) for name, t in others.items()},
    }


def follows(steps: list[Step]) -> bool:
    """Whether tokens come as often as the softmax of the logits says, and are as likely as its draws are."""
    drawn = expected = variance = 0.0
    for step in steps:
        logprobs = torch.log_softmax(step.logits, dim=-1).clamp(min=-50)
        p = logprobs.exp()
        if not counts_fit(torch.bincount(step.chosen, minlength=p.shape[1]).double(), step.sum(p)):
            return False
        mean = (p * logprobs).sum(dim=-1)
        drawn, expected = drawn + step.of_chosen(logprobs).sum(), expected + step.sum(mean)
        variance = variance + step.sum((p * (logprobs - mean[:, None]).square()).sum(dim=-1))
    return bool(steps) and bool((drawn - expected).abs() <= FAR * (variance + 1).sqrt())


def counts_fit(counts: Tensor, expected: Tensor) -> bool:
    """Pearson's test; places where little is expected are taken together."""
    rare = expected < 5
    counts, expected = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (counts, expected))
    statistic = ((counts - expected).square() / expected.clamp(min=5)).sum()
    degrees = torch.tensor(float(len(counts)), dtype=torch.float64)
    return bool(torch.special.gammaincc(degrees / 2, statistic / 2) > RARELY)


def tail_fits(steps: list[Step], share: float, cut_off: bool = False) -> bool:
    """Whether the least likely tokens, which together have at most this share of the probability, come as often.

    With `cut_off`, it is enough that they come at all.
    """
    count = mean = variance = torch.zeros((), dtype=torch.float64)
    for step in steps:
        p, order = torch.softmax(step.logits, dim=-1).sort(dim=-1)
        rare = p.cumsum(dim=-1) <= share
        mass = torch.where(rare, p, 0.0).sum(dim=-1)
        count = count + step.of_chosen(torch.zeros_like(p).scatter(1, order, rare.double())).sum()
        mean, variance = mean + step.sum(mass), variance + step.sum(mass * (1 - mass))
    far = (count - mean) / (variance + 1e-9).sqrt()
    if cut_off:
        return bool(mean < 20) or bool(count > 0)
    return bool(mean < 20) or bool((far > -5.5) & (far < 8))  # few events spread more upwards than downwards


def drawn_anew(step: Step) -> bool:
    """Whether a token depends on the one before it through the logits only: neither repeated nor in a pattern with it."""
    p = torch.softmax(step.logits, dim=-1)
    again, before = p.gather(1, step.before[:, None]).squeeze(1), step.before[step.context]
    far = ((step.chosen == before).double().sum() - step.sum(again)) / (step.sum(again * (1 - again)) + 1).sqrt()
    group = torch.arange(p.shape[1]) * 4 // p.shape[1]
    mass = torch.zeros(len(p), 4, dtype=torch.float64).index_add_(1, group, p) * step.weights()[:, None]
    expected = torch.zeros(4, 4, dtype=torch.float64).index_add_(0, group[step.before], mass)
    counts = torch.bincount(4 * group[before] + group[step.chosen], minlength=16).double()
    return bool(far.abs() < 9) and counts_fit(counts, expected.flatten())
