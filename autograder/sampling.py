"""How `sample_responses` is watched: a made-up language model, a probe that records, and what must hold of the recordings."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from autograder.frequencies import Step, frequency_facts

Values = dict[str, Tensor]
MANY_ROWS = 1000  # from so many rows of one prompt on, frequencies are compared with probabilities


def next_token_logits(
    seed: int, vocab: int, sharpness: float, eos_id: int, prompt_time: int, forbidden: int, tokens: Tensor
) -> Tensor:
    """Logits in which every token so far, and its place, has a say.

    Args:
        seed, vocab, sharpness: of the table of logits.
        eos_id: ends a row.
        prompt_time: if not 0, rows write EOS once, after one to four tokens; the first token of the prompt says after how many.
        forbidden: a token that has probability 0; −1 for none.
        tokens: [batch, time].
    """
    context = None
    if len(tokens) >= MANY_ROWS:  # many of them are alike
        tokens, context = distinct_rows(tokens, vocab)
    table = table_of(seed, vocab)
    weights = 0.6 ** torch.arange(tokens.shape[1]).flip(0)
    logits = (weights[:, None] * table[tokens]).sum(dim=1)
    logits.scatter_add_(1, tokens[:, -1:], torch.full_like(tokens[:, -1:], -2, dtype=logits.dtype))  # no stammering
    logits *= sharpness
    if prompt_time:
        ends = tokens.shape[1] == prompt_time + tokens[:, 0] % 4
        logits[:, eos_id] = torch.where(ends, 1e7, -1e7)
    if forbidden >= 0:
        logits[:, forbidden] = -torch.inf
    return logits if context is None else logits[context]


def distinct_rows(tokens: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    """The rows that differ, [contexts, time], and for each row the number of its context; `unique` of rows takes long."""
    places = vocab ** torch.arange(tokens.shape[1])
    keys, context = torch.unique((tokens * places).sum(dim=1), return_inverse=True)
    return keys[:, None] // places % vocab, context


@functools.lru_cache(maxsize=32)
def table_of(seed: int, vocab: int) -> Tensor:
    """How much each token speaks for each next one."""
    return torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(seed))


def used_generator(seed: int) -> torch.Generator:
    """A generator that has drawn before, as the one of a training run has."""
    generator = torch.Generator().manual_seed(seed)
    torch.rand(5, generator=generator)
    return generator


def sample(
    function: Callable,
    model: list,
    prompts: Tensor,
    max_new_tokens: int,
    temperature: float,
    eos_id: int,
    pad_id: int,
    seed: int | None,
) -> object:
    """The sampled tokens and everything that `next_logits` was fed; a second call, the first again, and another seed.

    Args:
        model: the first arguments of `next_token_logits`.
        seed: of the generator; None lets torch's default generator decide.
    """
    fed: list[Tensor] = []
    kept = True

    def next_logits(tokens: Tensor) -> Tensor:
        fed.append(tokens.clone())
        return next_token_logits(*model, tokens)

    def run(generator: torch.Generator | None) -> object:
        nonlocal kept
        fed.clear()
        given = prompts.clone()
        result = function(next_logits, given, max_new_tokens, temperature, eos_id, pad_id, generator)
        kept = kept and torch.equal(given, prompts)
        return result

    state = torch.get_rng_state()
    generator = None if seed is None else used_generator(seed)
    first = run(generator)
    if not (type(first) is Tensor and first.dtype == torch.int64 and first.dim() == 2):
        return first
    recorded = {"tokens": first, "fed": as_table(fed, len(prompts), prompts.shape[1] + max_new_tokens, max_new_tokens)}
    moved = not torch.equal(torch.get_rng_state(), state)
    if len(prompts) < MANY_ROWS:
        recorded["second"] = run(generator)
        if seed is None:
            torch.set_rng_state(state)
        recorded["again"] = run(None if seed is None else used_generator(seed))
        recorded["other"] = recorded["second"] if seed is None else run(used_generator(seed + 1))
    moved = moved or not torch.equal(torch.get_rng_state(), state)
    if seed is None:
        torch.set_rng_state(state)
    return {**recorded, "default_moves": torch.tensor(float(moved)), "kept": torch.tensor(float(kept))}


def as_table(fed: list[Tensor], rows: int, width: int, steps: int) -> Tensor:
    """What `next_logits` was fed, call by call, [calls, rows, width + 2]; −1 stands where there was nothing."""
    table = torch.full((min(len(fed), steps + 2), rows, width + 2), -1)
    for tokens, place in zip(fed, table, strict=False):
        if tokens.dim() == 2 and len(tokens) == rows:
            shown = tokens[:, : width + 2]
            place[:, : shown.shape[1]] = shown
    return table


def fitted(tokens: Tensor, rows: int, width: int) -> Tensor:
    """Tokens cut or filled up to a size; −1 stands where there is none."""
    table = torch.full((rows, width), -1)
    cut = tokens[:rows, :width]
    table[: cut.shape[0], : cut.shape[1]] = cut
    return table


def sample_facts(args: tuple, values: Values) -> Values:
    """What must hold of sampled responses; where only one token is possible, they are compared number by number."""
    model, prompts, max_new_tokens, temperature, eos_id, pad_id, seed = args
    returned, fed = values["tokens"].long(), values["fed"].long()
    rows, width, start = len(prompts), returned.shape[1], prompts.shape[1]
    one_row_each = len(returned) == rows and width >= 1
    with_prompt = one_row_each and torch.equal(returned[:, :start], prompts) and width == start + len(fed)
    tokens = fitted(returned, rows, max(width, 1))
    end = first_end(tokens, eos_id)
    behind = torch.arange(tokens.shape[1]) > end[:, None]
    needed = min(int(end.max()) + 1, max_new_tokens)
    facts = {
        "there is one row of tokens for each prompt": one_row_each,
        "the result holds the response only, without the prompt": not with_prompt,
        "at most max_new_tokens tokens are written": with_prompt or width <= max_new_tokens,
        "next_logits gets everything so far, and finished rows are fed with pad_id": fed_right(
            args, tokens, fed, needed
        ),
        "finished rows are all fed with one and the same token": one_filler(fed[:needed], end, start),
        "only pads follow a row's EOS": (tokens[behind] == pad_id).all(),
        "it stops as soon as every row has ended": len(fed) <= needed + 1,
        "it does not stop before every row has ended, or max_new_tokens are written": len(fed) >= needed,
        "the result is as wide as the steps taken": width == needed,
        "the prompts stay as they are": values["kept"] == 1,
    }
    if seed is None:
        facts["without a generator, torch's default generator decides"] = temperature == 0 or values["default_moves"]
    else:
        facts["with a generator of its own, torch's default generator stays where it is"] = not values["default_moves"]
    by_chance = temperature > 0 and model[2] < 100
    if rows >= MANY_ROWS:
        facts |= frequency_facts(steps_of(args, tokens), temperature)
    elif by_chance:
        several = rows * max_new_tokens >= 24
        facts |= {
            "the same generator in the same state gives the same tokens": torch.equal(returned, values["again"].long()),
            "a second call draws other tokens": not several or not torch.equal(returned, values["second"].long()),
            "another seed gives other tokens": not several or not torch.equal(returned, values["other"].long()),
        }
    found = {name: torch.tensor(float(bool(holds)), dtype=torch.float64) for name, holds in facts.items()}
    return found if by_chance else {**found, "tokens": fitted(returned, rows, max_new_tokens + 1).double()}


def first_end(tokens: Tensor, eos_id: int) -> Tensor:
    """Column of each row's first EOS; the width where there is none."""
    columns = torch.arange(tokens.shape[1]).expand_as(tokens)
    return columns.masked_fill(tokens != eos_id, tokens.shape[1]).amin(dim=1)


def one_filler(fed: Tensor, end: Tensor, start: int) -> bool:
    """Whether the last call of `next_logits` got the same token everywhere behind the EOS of the rows."""
    if not len(fed):
        return True
    written = fed[-1, :, start : start + len(fed) - 1]
    return written[torch.arange(written.shape[1]) > end[:, None]].unique().numel() <= 1


def fed_right(args: tuple, tokens: Tensor, fed: Tensor, needed: int, end: Tensor | None = None) -> bool:
    """Whether each call of `next_logits` got the prompts and all tokens written before it, and nothing else.

    With `end`, what stands behind a row's EOS does not count.
    """
    prompts = args[1]
    start, seen = prompts.shape[1], torch.cat([prompts, tokens], dim=1)
    counts = torch.ones_like(seen, dtype=torch.bool)
    if end is not None:
        counts = torch.arange(seen.shape[1]) <= start + end[:, None]
    for k in range(min(needed, len(fed))):
        same = (fed[k, :, : start + k] == seen[:, : start + k]) | ~counts[:, : start + k]
        if not bool(same.all()) or bool((fed[k, :, start + k :] != -1).any()):
            return False
    return len(fed) > 0


def steps_of(args: tuple, tokens: Tensor) -> list[Step]:
    """The first two steps of the rows that had not ended before."""
    model, prompts, eos_id = args[0], args[1], args[4]
    steps, so_far = [], prompts
    active = torch.ones(len(prompts), dtype=torch.bool)
    for column in tokens.T[:2]:
        active = active & (column >= 0) & (column < model[1])
        if not bool(active.any()):
            break
        contexts, context = distinct_rows(so_far[active], model[1])
        logits = next_token_logits(*model, contexts).double()
        steps.append(Step(logits, contexts[:, -1], context, column[active]))
        so_far = torch.cat([so_far, column[:, None]], dim=1)
        active = active & (column != eos_id)
    return steps
