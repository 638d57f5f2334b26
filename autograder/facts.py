"""What must hold of the recordings that probes make. Runs in the judging process.

Each function gets a case's arguments and the recorded tensors, and returns numbers by name: a sentence holds (1) or does not
(0), any other name is a number to compare. Those at the end of a list only tell known mistakes apart.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from autograder import tiny_update
from autograder.frequencies import counts_fit
from autograder.probes import subset
from autograder.sampling import sample_facts  # noqa: F401

Values = dict[str, Tensor]


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
    together = [(a & b).double().mean().item() for a, b in ((sides, one), (one, two), (sides, two))]
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
        "the splits of two seeds are unrelated": yes(all(abs(both - fraction**2) <= 0.025 for both in together)),
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
        "scores": values["scores"],
        "reward_fn is called once": yes(values["calls"] == 1),
        "reward_fn gets all prompts as its first argument, as a list": values["prompts"],
        "reward_fn gets all responses as its second argument, as a list": values["responses"],
        "what reward_fn returned is left unchanged": values["kept"],
        "the lists of prompts and responses are left unchanged": values["texts"],
        "calls": values["calls"],
    }


def update_facts(args: tuple, values: Values) -> Values:
    """What must hold of an update, in whatever order the rows come."""
    seed, rows, generator_seed, numbers = args
    config = tiny_update.config_of(generator_seed, numbers)
    policy = tiny_update.TinyPolicy(seed)
    start, experience = policy.numbers(), tiny_update.rollout(seed, rows, policy)
    used, grads, before = values["used"].bool(), values["grads"], values["before"]
    steps, size = len(used), min(config.minibatch_size, rows)
    per_epoch = [rows // size + bool(rows % size), rows // size]  # a last, smaller minibatch may be left out
    each = next((n for n in per_epoch if n * config.epochs == steps), 0)
    epochs = used.reshape(config.epochs, each, rows) if each else used[:0].reshape(0, 0, rows)
    sizes = [size] * (rows // size) + [rows % size] * bool(rows % size)
    shapes, norms = [], []
    for rows_of_step, at, grad in zip(used, before, grads.double(), strict=True):
        with torch.no_grad():
            policy.table.copy_(at[: start.numel() - tiny_update.VOCAB].reshape_as(policy.table).float())
            policy.critic.copy_(at[-tiny_update.VOCAB :].float())
        if not bool(rows_of_step.any()):
            shapes.append(False), norms.append((grad.norm().item(), -1.0))
            continue
        wanted = tiny_update.expected_gradient(policy, experience, rows_of_step.nonzero().squeeze(1), config).double()
        lengths = grad.norm().item(), wanted.norm().item()
        cosine = (grad @ wanted).item() / max(lengths[0] * lengths[1], 1e-12)
        # where every token is clipped, no gradient is left to compare
        shapes.append(cosine > 1 - 1e-5 or max(lengths) < 1e-5), norms.append(lengths)
    limit = config.max_grad_norm
    one_step = config.epochs == 1 and size == rows
    facts = {
        "it returns a dict of numbers, all of them finite": values["numbers"],
        "the parameters of the policy move": yes(not torch.allclose(values["end"], start.double(), atol=1e-6)),
        "there is one optimizer step for each minibatch of each epoch": yes(each),
        "every minibatch has config.minibatch_size rows": yes(
            each and all(sorted(epoch, reverse=True) == sizes[:each] for epoch in epochs.sum(-1).tolist())
        ),
        "in every epoch each row comes once": yes(each and (epochs.sum(1) <= 1).all()),
        "the epochs cut the batch in different ways": yes(
            size == rows or each and not bool((epochs == epochs[:1]).all())
        ),
        "the first gradient is that of ppo_loss on the minibatch": yes(shapes and shapes[0]),
        "later gradients are those of ppo_loss, with the ratio to the log-probs of the rollout": yes(all(shapes)),
        "the norm of the gradient is clipped to config.max_grad_norm": yes(
            all(got <= limit * 1.001 for got, _ in norms)
        ),
        "a gradient is as long as it should be": yes(
            all(abs(got - min(want, limit)) <= 1e-3 * max(want, 1e-3) for got, want in norms)
        ),
        "nothing but the policy's trained parameters moves": values["nothing_else"],
        "the experience stays as it is": values["experience"],
        "the optimizer's settings stay as they are": values["settings"],
        "the same seed gives the same result": yes(torch.allclose(values["end"], values["end_again"], atol=1e-6)),
        "approx_kl is 0 when it is measured on the first minibatch": yes(
            not one_step or values["approx_kl"].abs() < 1e-5
        ),
        "clip_fraction is 0 on the first minibatch": yes(not one_step or values["clip_fraction"] == 0),
    }
    if size == rows:  # no order of rows: the numbers themselves can be compared
        facts["weights_after"] = values["end"]
    return facts
