"""What must hold of the recordings that probes make. Runs in the judging process.

Each function gets a case's arguments and the recorded tensors, and returns numbers by name: a sentence holds (1) or does not
(0), any other name is a number to compare. Those at the end of a list only tell known mistakes apart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from autograder import sampling, tiny_update
from autograder.frequencies import counts_fit
from autograder.probes import subset
from rlhf_core.loop import UpdateConfig

Values = dict[str, Tensor]


def remembered(facts: Callable[[tuple, Values], Values]) -> Callable[[tuple, Values], Values]:
    """The same recordings come again and again, since every case is called twice: their facts are found once."""
    known: dict[tuple, Values] = {}

    def find(args: tuple, values: Values) -> Values:
        key = repr(args), *((name, value.numpy().tobytes()) for name, value in values.items())
        if key not in known:
            if len(known) >= 200:
                known.clear()
            known[key] = facts(args, values)
        return known[key]

    return find


sample_facts = remembered(sampling.sample_facts)


def yes(condition: object) -> Tensor:
    """A fact that holds or not."""
    return torch.tensor(float(bool(condition)), dtype=torch.float64)


def split_facts(args: tuple, values: Values) -> Values:
    """What must hold of a split, whichever prompts are on which side."""
    prompts, fraction, seed = args
    first, one, two = (values[name].bool() for name in ("first", "one", "two"))
    by_prompt: dict[str, set[bool]] = {}
    for prompt, test in zip(prompts, first.tolist(), strict=True):
        by_prompt.setdefault(prompt, set()).add(test)
    of_prompt = {prompt: row for row, prompt in enumerate(prompts)}
    distinct = sorted(of_prompt)
    rows = torch.tensor([of_prompt[p] for p in distinct])
    sides = torch.tensor([True in by_prompt[p] for p in distinct])
    one, two, share = one[rows], two[rows], sides.double().mean().item()
    length = Counter(map(len, distinct)).most_common(1)[0][0]
    beginnings = {(p[:8], test) for p, test in zip(distinct, sides.tolist(), strict=True)}
    together = [
        (a & b).double().mean().item() - a.double().mean().item() * b.double().mean().item()
        for a, b in ((sides, one), (one, two), (sides, two))
    ]
    return {
        "all rows of one prompt are on the same side": yes(all(len(found) == 1 for found in by_prompt.values())),
        "the same call gives the same split again, in another Python process too": yes(
            torch.equal(first, values["again"].bool())
        ),
        "a prompt stays on its side when rows are left out or come in another order": yes(
            torch.equal(values["some"].bool(), first[subset(prompts, seed)])
        ),
        "prompts of the same length are on both sides": yes(
            len({test for p, test in zip(distinct, sides.tolist(), strict=True) if len(p) == length}) == 2
        ),
        "the share of test prompts is within 0.03 of test_fraction": yes(abs(share - fraction) <= 0.03),
        "another seed gives another split": yes(not torch.equal(sides, one)),
        "the splits of two seeds are unrelated": yes(all(abs(more) <= 0.025 for more in together)),
        "the prompts stay as they are": values["kept"],
        "by_beginning": yes(len(beginnings) == len({p for p, _ in beginnings})),
        "for_training": yes(abs(1 - share - fraction) <= 0.03),
    }


def minibatch_facts(args: tuple, values: Values) -> Values:
    """What must hold of minibatches, in whatever order the rows come."""
    batch_size, minibatch_size, epochs, _ = args
    rows, sizes = values["rows"].long(), values["sizes"].long()
    whole, rest = divmod(batch_size, minibatch_size)
    right = [minibatch_size] * whole + ([rest] if rest else [])
    complete = len(rows) == batch_size * epochs
    table = rows.reshape(epochs, batch_size) if complete else torch.zeros(epochs, batch_size, dtype=torch.long)
    natural = torch.arange(batch_size)
    permutations = complete and bool((table.sort(dim=1).values == natural).all())
    many = epochs >= 1000
    by_chance = batch_size >= 8 and not many  # two permutations are never equal by chance
    different = len({tuple(row) for row in table.tolist()})
    facts = {
        "there are as many minibatches as the epochs need": len(sizes) == epochs * len(right),
        "every minibatch has minibatch_size rows, but the last of an epoch, which has what is left": sizes.tolist()
        == right * epochs,
        "in every epoch each row comes exactly once": permutations,
        "the rows are shuffled": not by_chance or not bool((table == natural).all(dim=1).any()),
        "every epoch is shuffled anew": not by_chance or different == epochs,
        "every order of the rows is as likely as any other": not many or orders_fit(table),
        "one epoch says nothing of the next": not many
        or orders_fit(table[:-1] * batch_size + table[1:], batch_size**2),
    }
    if not many:
        same = torch.equal(values["default_once"], values["default_again"])
        moves = not torch.equal(values["default_once"], values["default_twice"])
        facts |= {
            "the same generator in the same state gives the same rows": torch.equal(rows, values["again"].long()),
            "a second call with the same generator gives other rows": not by_chance
            or not torch.equal(rows, values["second"].long()),
            "a generator with another seed gives other rows": not by_chance
            or not torch.equal(rows, values["other"].long()),
            "without a generator, torch's default generator decides": same and (moves or not by_chance),
        }
    shown = torch.zeros(epochs * (len(right) + 1), dtype=torch.float64)
    shown[: len(sizes)] = sizes[: len(shown)].double()
    return {**{name: yes(holds) for name, holds in facts.items()}, "sizes": shown}


def orders_fit(table: Tensor, base: int = 0) -> bool:
    """Whether the rows of a table [times, entries], of numbers below `base`, come equally often."""
    base = base or table.shape[1]
    keys = (table * base ** torch.arange(table.shape[1])).sum(dim=1)
    found = torch.unique(keys, return_counts=True)[1].double()
    possible = math.factorial(table.shape[1]) ** (2 if base > table.shape[1] else 1)
    counts = torch.zeros(max(possible, len(found)), dtype=torch.float64)
    counts[: len(found)] = found
    return counts_fit(counts, torch.full_like(counts, len(table) / possible))


def score_facts(args: tuple, values: Values) -> Values:
    """The scores, and how the reward function was called."""
    return {
        "reward_fn is called once": yes(values["calls"] == 1),
        "reward_fn gets all prompts as its first argument, as a list": values["prompts"],
        "reward_fn gets all responses as its second argument, as a list": values["responses"],
        "what reward_fn returned is left unchanged": values["kept"],
        "the lists of prompts and responses are left unchanged": values["texts"],
        "scores": values["scores"],
        "joined": values["joined"],
        "calls": values["calls"],
    }


@remembered
def update_facts(args: tuple, values: Values) -> Values:
    """What must hold of an update, in whatever order the rows come."""
    seed, rows, generator_seed, numbers, garbage, _ = args
    config = tiny_update.config_of(generator_seed, numbers)
    used, size = values["used"].bool(), min(config.minibatch_size, rows)
    per_epoch = [rows // size + bool(rows % size), rows // size]  # a last, smaller minibatch may be left out
    each = next((n for n in per_epoch if n * config.epochs == len(used)), 0)
    epochs = used.reshape(config.epochs, each, rows) if each else used[:0].reshape(0, 0, rows)
    sizes = [size] * (rows // size) + [rows % size] * bool(rows % size)
    steps = steps_of_update(args, config, values)
    limit, one_step = config.max_grad_norm, config.epochs == 1 and size == rows
    start = tiny_update.TinyPolicy(seed, rows).numbers()
    facts = {
        "it returns a dict with single numbers in it, all of them finite": values["numbers"],
        "the parameters of the policy move": not torch.allclose(values["end"], start.double(), atol=1e-6),
        "there is one optimizer step for each minibatch of each epoch": each,
        "every minibatch has config.minibatch_size rows": each
        and all(sorted(epoch, reverse=True) == sizes[:each] for epoch in epochs.sum(-1).tolist()),
        "in every epoch each row comes once": each and (epochs.sum(1) <= 1).all(),
        "every epoch cuts the rollout into other minibatches": rows < 24 or size == rows or (each and mixed(epochs)),
        "the critic's first gradient is that of the value loss, times value_coef": steps and steps[0].critic,
        "the policy's first gradient is that of the policy loss, minus entropy_coef times that of the entropy": steps
        and steps[0].table,
        "later gradients are those of ppo_loss, with the ratio to the log-probs of the rollout": all(
            step.right for step in steps
        ),
        "the norm of the gradient is clipped to config.max_grad_norm": all(
            step.norm <= limit * 1.001 for step in steps
        ),
        "a gradient is as long as it should be": all(
            abs(step.norm - min(step.wanted, limit)) <= 1e-3 * max(step.wanted, 1e-3) for step in steps
        ),
        "nothing of the policy but its trained parameters changes": values["nothing_else"],
        "the policy is left in the mode, training or evaluation, in which it came": values["mode"],
        "the experience stays as it is": values["experience"],
        "which of the policy's parameters are trained stays as it was": values["flags"],
        "the optimizer's settings stay as they are": values["settings"],
        "the config stays as it is": values["config"],
        "the same seed gives the same result": torch.allclose(values["end"], values["end_again"], atol=1e-6),
        "another seed, or a second update with the same generator, cuts the rollout into other minibatches": values[
            "differs"
        ],
        "torch's default generator decides if config.generator is None, and stays where it is otherwise": values[
            "default_moves"
        ]
        == float(generator_seed is None),
        "approx_kl is 0 when it is measured on the first minibatch": not one_step or values["approx_kl"].abs() < 1e-5,
        "clip_fraction is 0 on the first minibatch": not one_step or values["clip_fraction"] == 0,
    }
    found = {name: yes(holds) for name, holds in facts.items()}
    # these tell apart how a gradient was clipped wrongly, and two reasons why it points elsewhere
    parts = values["grads"], values["grads"][:, : -tiny_update.VOCAB], values["grads"][:, -tiny_update.VOCAB :]
    too_long = parts[0].norm(dim=1) > 1.001 * limit
    sizes = parts[0].abs(), *(part.norm(dim=1) for part in parts[1:])
    for name, size_of_it in zip(("numbers", "table", "critic"), sizes, strict=True):
        found[f"{name}_at_limit"] = yes(((size_of_it - limit).abs() < 1e-5 * limit)[too_long].any())
    found["heaped_up"] = yes(any(step.heaped and not step.right for step in steps))
    # no order of rows: the numbers themselves can be compared
    return {**found, "weights_after": values["end"]} if size == rows else found


class UpdateStep(NamedTuple):
    """The gradient of one optimizer step.

    Attributes:
        right: it points where it should.
        critic, table: the critic's part of it is right, the policy's part is.
        norm, wanted: its norm after clipping, and the norm that is wanted before.
        heaped: it points where the sum of the wanted gradient and the one of the step before points.
    """

    right: bool
    critic: bool
    table: bool
    norm: float
    wanted: float
    heaped: bool = False


def steps_of_update(args: tuple, config: UpdateConfig, values: Values) -> list[UpdateStep]:
    """Every step of an update, beside the gradient of the loss on the rows that it used."""
    seed, rows, _, _, garbage, _ = args
    policy, experience = tiny_update.TinyPolicy(seed, rows), tiny_update.rollout(seed, rows, garbage)
    steps, last = [], torch.zeros(len(policy.numbers()), dtype=torch.float64)
    for used, at, grad in zip(values["used"].bool(), values["before"], values["grads"], strict=True):
        norm, last, before = grad.norm().item(), grad, last
        if not bool(used.any()):
            steps.append(UpdateStep(False, False, False, norm, -1.0))
            continue
        policy.put(at.float())
        wanted = tiny_update.expected_gradient(policy, experience, used.nonzero().squeeze(1), config).double()
        length = wanted.norm().item()
        cosine = (grad @ wanted).item() / max(norm * length, 1e-12)
        # where every token is clipped, no gradient is left to compare
        right = cosine > 1 - 1e-5 or max(norm, length) < 1e-5
        # a length that is wrong is another fact
        clipped = wanted * (norm if right else min(length, config.max_grad_norm)) / max(length, 1e-12)
        parts = ((x[: -tiny_update.VOCAB], x[-tiny_update.VOCAB :]) for x in (grad - clipped, clipped))
        table, critic = (bool(off.norm() <= 2e-3 * part.norm() + 1e-6) for off, part in zip(*parts, strict=True))
        heaped = torch.cosine_similarity(grad, before + wanted, dim=0).item() > 1 - 1e-5
        steps.append(UpdateStep(right, critic, table, norm, length, heaped))
    return steps


def mixed(epochs: Tensor) -> bool:
    """Whether rows that share a minibatch in one epoch do not all share one in the next; [epochs, minibatches, rows].

    24 rows in two minibatches are never cut alike twice by chance.
    """
    together = torch.einsum("emi,emj->eij", epochs.float(), epochs.float())
    return not bool((together == together[:1]).all())
