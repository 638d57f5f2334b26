"""Lesson 05: put it together."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn

from autograder.draws import Draw
from autograder.exercise import Case, Exercise, Mistake, forms
from autograder.sampling import next_token_logits
from rlhf_core.advantages import masked_whiten
from rlhf_core.loop import adaptive_kl_coef, minibatch_indices, ppo_update
from rlhf_core.policy import masked_mean
from rlhf_core.ppo import approx_kl, clip_fraction, clipped_policy_loss, clipped_value_loss, ppo_loss
from rlhf_core.rollout import sample_responses, score_responses

# sample_responses


def sample_cases(seed: int) -> list[Case]:
    d, which = Draw(seed), seed % 10_000
    prompts = d.integers(1, 9, 4, 2)
    padded = d.integers(1, 9, 20, 3).masked_fill(torch.arange(3) < d.integers(0, 3, 20, 1), 5)
    several = d.integers(1, 7, 6, 3)
    several[:, 0] = torch.arange(1, 7)
    with_eos = d.integers(1, 9, 8, 2)
    with_eos[0], with_eos[1:4, 0], with_eos[4:7, 1] = 3, 3, 3
    # seed, vocabulary, sharpness, EOS, whether rows are made to end, forbidden token
    plain, sharp = [which, 9, 1.0, 3, 0, -1], [which, 9, 1e5, 3, 0, -1]
    ending, ending_with_0 = [which + 1, 9, 1e5, 4, 3, -1], [which + 3, 9, 1e5, 0, 3, -1]
    flat, alike = [which + 2, 9, 0.3, 3, 0, -1], d.integers(0, 60, 1, 2)
    many = [which, 60, 1.2, 0, 0, 7]
    # an EOS that is likely enough to be missed where it is forbidden
    eos = int(next_token_logits(*many, alike)[0].argsort(descending=True)[1])
    many[3] = eos
    many_rows, cool, warm = alike.expand(4000, 2).contiguous(), d.number(0.5, 0.7), d.number(1.5, 1.8)
    enough_rows = many_rows[:2500]
    return [
        Case((plain, padded, 6, 0, 3, 5, 1), "temperature 0"),
        Case((ending, several, 12, 0, 4, 6, 2), "rows that end at different steps"),
        Case((ending, several, 12, 0.5, 4, 4, 2), "a pad token that is the EOS token"),
        Case((ending_with_0, several, 12, 0, 0, 0, 2), "0 as EOS and pad token"),
        Case((plain, with_eos, 6, 0, 3, 0, 3), "prompts that contain the EOS token"),
        Case((sharp, prompts, 4, 1.0, 3, 0, 1), "only one possible token at each step"),
        Case((sharp, prompts, 1, 0.7, 3, 0, 4), "max_new_tokens 1"),
        Case((flat, d.integers(1, 9, 8, 2), 6, 0.9, 3, 5, 8), "temperature 0.9"),
        Case((flat, prompts[:1], 5, 1.0, 3, 0, 5), "a single prompt"),
        Case((flat, d.integers(1, 9, 8, 2), 6, 1.3, 3, 4, None), "torch's default generator"),
        Case((many, many_rows, 1, cool, eos, 0, 6), f"temperature {cool}, and 4,000 times the same prompt"),
        Case((many, enough_rows, 2, warm, eos, 1, 7), f"temperature {warm}, and 2,500 times the same prompt"),
    ]


def sampler(**change):
    """sample_responses with some of its parts replaced."""

    def draw(logits, temperature, generator, step):
        if temperature == 0:
            return logits.argmax(dim=-1)
        weights = torch.softmax(change.get("temper", lambda x, t: x / t)(logits, temperature), dim=-1)
        return torch.multinomial(weights, 1, generator=generator).squeeze(1)

    def sample(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator=None):
        tokens, new = prompts.clone(), []
        ended = change.get("ended", lambda p, e: torch.zeros(len(p), dtype=torch.bool))(prompts, eos_id)
        if change.get("own_generator"):
            generator = torch.Generator().manual_seed(0)
        for step in range(max_new_tokens + change.get("more", 0)):
            token = change.get("draw", draw)(
                next_logits(change.get("feed", lambda t, p: t)(tokens, prompts)), temperature, generator, step
            )
            if change.get("pads", True):
                token = torch.where(ended, eos_id if change.get("fill_eos") else pad_id, token)
            ended = change.get("end", lambda ended, token, e: ended | (token == e))(ended, token, eos_id)
            if change.get("drop_eos"):
                token = torch.where(ended, pad_id, token)
            new.append(token)
            if change.get("anywhere"):
                ended = ended | (tokens == eos_id).any(dim=1)
            tokens = torch.cat([tokens, change.get("back", lambda t, e: t)(token, ended)[:, None]], dim=1)
            if change.get("stop", lambda e: e.all())(ended):
                break
        result = torch.stack(new, dim=1)
        if change.get("full_width"):
            result = torch.cat(
                [result, result.new_full((len(prompts), max_new_tokens - result.shape[1]), pad_id)], dim=1
            )
        return change.get("result", lambda new, tokens: new)(result, tokens)

    return sample


def sample_in_place(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator=None):
    new = sampler()(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator)
    prompts[:, 0] = pad_id
    return new


def sample_row_by_row(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator=None):
    longest = []
    for prompt in prompts:
        tokens = prompt[None]
        for _ in range(max_new_tokens):
            logits = next_logits(tokens)[0]
            if temperature == 0:
                token = logits.argmax()
            else:
                token = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)[0]
            tokens = torch.cat([tokens, token.reshape(1, 1)], dim=1)
            if token == eos_id:
                break
        longest.append(tokens[0, len(prompt) :])
    out = torch.full((len(prompts), max(map(len, longest))), pad_id)
    for row, new in enumerate(longest):
        out[row, : len(new)] = new
    return out


class SampleRemembers:
    """Keeps which rows have ended from one call to the next."""

    def __init__(self):
        self.calls = 0

    def __call__(self, next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator=None):
        self.calls += 1
        return sampler()(
            next_logits, prompts, max_new_tokens if self.calls < 4 else 1, temperature, eos_id, pad_id, generator
        )


def sample_by_gumbel(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator=None):
    tokens = prompts
    done = torch.zeros(prompts.shape[0], dtype=torch.bool)
    for _ in range(max_new_tokens):
        logits = next_logits(tokens).double()
        if temperature == 0:
            token = logits.argmax(-1)
        else:
            noise = -torch.log(
                -torch.log(torch.rand(logits.shape, dtype=torch.float64, generator=generator).clamp(min=1e-300))
            )
            token = (logits / temperature + noise).argmax(-1)
        token = token.masked_fill(done, pad_id)
        tokens = torch.cat((tokens, token.unsqueeze(1)), 1)
        done |= token == eos_id
        if bool(done.all()):
            break
    return tokens[:, prompts.size(1) :]


def sample_filling(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator=None):
    batch, length = prompts.shape
    out = torch.full((batch, max_new_tokens), pad_id, dtype=torch.long)
    alive, steps = [True] * batch, 0
    while steps < max_new_tokens and any(alive):
        logits = next_logits(torch.cat([prompts, out[:, :steps]], dim=1))
        if temperature == 0:
            choice = torch.max(logits, dim=1).indices
        else:
            choice = torch.multinomial((logits / temperature).softmax(1), num_samples=1, generator=generator)[:, 0]
        for row in range(batch):
            if alive[row]:
                out[row, steps] = choice[row]
                alive[row] = int(choice[row]) != eos_id
        steps += 1
    return out[:, :steps]


def sample_by_log_probs(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator=None):
    rows = prompts.tolist()
    start = len(rows[0])
    ended = [False] * len(rows)
    for _ in range(max_new_tokens):
        logits = next_logits(torch.tensor(rows))
        picks = (
            logits.topk(1).indices
            if temperature == 0
            else torch.multinomial(torch.exp(torch.log_softmax(logits / temperature, -1)), 1, generator=generator)
        )
        for i, pick in enumerate(picks.flatten().tolist()):
            rows[i].append(pad_id if ended[i] else pick)
            ended[i] = ended[i] or pick == eos_id
        if all(ended):
            break
    return torch.tensor([row[start:] for row in rows])


def greedy(logits, temperature, generator, step):
    return logits.argmax(dim=-1)


def shared_noise(logits, temperature, generator, step):
    if temperature == 0:
        return logits.argmax(dim=-1)
    u = torch.rand(1, generator=generator)
    return (
        torch.searchsorted(torch.softmax(logits / temperature, -1).cumsum(-1), u.expand(len(logits), 1))
        .squeeze(1)
        .clamp(max=logits.shape[1] - 1)
    )


def nucleus(logits, temperature, generator, step):
    if temperature == 0:
        return logits.argmax(dim=-1)
    kept = logits.masked_fill(logits < logits.topk(3).values[:, -1:], -math.inf)
    return torch.multinomial(torch.softmax(kept / temperature, -1), 1, generator=generator).squeeze(1)


def no_generator(logits, temperature, generator, step):
    return (
        logits.argmax(dim=-1)
        if temperature == 0
        else torch.multinomial(torch.softmax(logits / temperature, -1), 1).squeeze(1)
    )


def raw_weights(logits, temperature, generator, step):
    if temperature == 0:
        return logits.argmax(dim=-1)
    return torch.multinomial((logits / temperature).clamp(min=1e-3), 1, generator=generator).squeeze(1)


def scaled_noise(logits, temperature, generator, step):
    if temperature == 0:
        return logits.argmax(dim=-1)
    uniforms = torch.rand(logits.shape, generator=generator).clamp(min=1e-20)
    return (logits / temperature - temperature * torch.log(-torch.log(uniforms))).argmax(dim=-1)


def softmax_over_rows(logits, temperature, generator, step):
    if temperature == 0:
        return logits.argmax(dim=-1)
    return torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=generator).squeeze(1)


def overflowing(logits, temperature, generator, step):
    if temperature == 0:
        return logits.argmax(dim=-1)
    weights = torch.exp(logits / temperature)
    return torch.multinomial(weights / weights.sum(-1, keepdim=True), 1, generator=generator).squeeze(1)


def one_up(logits, temperature, generator, step):
    if temperature == 0:
        return logits.argmax(dim=-1)
    u = torch.rand(len(logits), 1, generator=generator)
    below = (torch.softmax(logits / temperature, -1).cumsum(-1) < u).sum(dim=-1)
    return (below + 1).clamp(max=logits.shape[1] - 1)


def seeded_again(logits, temperature, generator, step):
    if step == 0:
        torch.manual_seed(42)
    return no_generator(logits, temperature, generator, step)


def without_pad(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator=None):
    def forbidding(tokens):
        logits = next_logits(tokens).clone()
        if pad_id != eos_id:
            logits[:, pad_id] = -math.inf
        return logits

    return sampler()(forbidding, prompts, max_new_tokens, temperature, eos_id, pad_id, generator)


def pads_at_the_end(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator=None):
    end = lambda ended, token, e: ended | (token == e)  # noqa: E731
    new = sampler(pads=False, end=end)(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator)
    is_eos = new == eos_id
    return new.masked_fill(is_eos.cumsum(1) - is_eos.long() > 0, pad_id)


def eos_removed(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator=None):
    new = sampler()(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator)
    return new.masked_fill(new == eos_id, pad_id)


def eos_forced(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator=None):
    new = sampler()(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator)
    new[~(new == eos_id).any(dim=1), -1] = eos_id
    return new


def whole_buffer_fed(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator=None):
    width = prompts.shape[1] + max_new_tokens

    def filled(tokens):
        return next_logits(torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]), value=pad_id))

    return sampler()(filled, prompts, max_new_tokens, temperature, eos_id, pad_id, generator)


def generator_copied(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, generator=None):
    mine = None
    if generator is not None:
        mine = torch.Generator()
        mine.set_state(generator.get_state())
    return sampler()(next_logits, prompts, max_new_tokens, temperature, eos_id, pad_id, mine)


def never_greedy(logits, temperature, generator, step):
    weights = torch.softmax(logits / max(temperature, 1.0) if temperature == 0 else logits / temperature, -1)
    return torch.multinomial(weights, 1, generator=generator).squeeze(1)


def same_every_step(logits, temperature, generator, step):
    if temperature == 0:
        return logits.argmax(dim=-1)
    fixed = torch.Generator().manual_seed(generator.initial_seed() if generator else 0)
    return torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=fixed).squeeze(1)


SAMPLE = Exercise(
    sample_responses,
    points=5,
    cases=sample_cases,
    probe="sample",
    facts="sample_facts",
    asks="an int64 tensor of tokens, [batch, new tokens],",
    draws=1,
    variants=(sample_by_gumbel, sample_filling, sample_by_log_probs),
    mistakes=(
        Mistake("always-greedy", sampler(draw=greedy), "The most likely token is taken whatever the temperature.",
                "If every rollout of a prompt is the same, what can be learned from comparing them?"),
        Mistake("temperature-ignored", sampler(temper=lambda x, t: x), "The temperature is not used.",
                "What should happen to a distribution as the temperature falls towards 0?"),
        Mistake("temperature-multiplied", sampler(temper=lambda x, t: x * t), "The logits are multiplied by the temperature.",
                "Does a temperature above 1 make the distribution flatter or sharper?"),
        Mistake("temperature-after-softmax", sampler(temper=lambda x, t: torch.softmax(x, -1) / t), "The temperature divides probabilities in place of logits.",
                "What do you get if you take the softmax of probabilities?"),
        Mistake("never-greedy", sampler(draw=never_greedy), "Temperature 0 samples as if it were 1.", "What does the limit of a temperature towards 0 choose?"),
        Mistake("unlikely-tokens-cut-off", sampler(draw=nucleus), "Only the likeliest tokens are kept.",
                "If unlikely tokens are cut off, is the token still drawn from the policy whose log-probs are compared later?"),
        Mistake("pad-token-forbidden", without_pad, "The pad token can never be drawn.", "If the policy gives a token some probability, may the sampler take it away?"),
        Mistake("noise-scaled", sampler(draw=scaled_noise), "The noise is scaled by the temperature as well as the logits.",
                "Which of the two, logits or noise, does the temperature change?"),
        Mistake("softmax-over-rows", sampler(draw=softmax_over_rows), "The softmax runs over the rows of the batch.", "Over which dimension do the probabilities of one row sum to 1?"),
        Mistake("exponential-overflows", sampler(draw=overflowing), "The exponential of a large logit is infinite.", "What does a softmax do before it takes exponentials?"),
        Mistake("one-token-too-far", sampler(draw=one_up), "The token after the one that was drawn is taken.", "If the random number is 0, which token should come out?"),
        Mistake("logits-as-weights", sampler(draw=raw_weights), "The logits themselves are used as weights.", "What turns logits into probabilities?"),
        Mistake("one-number-for-all-rows", sampler(draw=shared_noise), "One random number decides for all rows.",
                "Should two rows with the same prompt get the same response?"),
        Mistake("generator-ignored", sampler(draw=no_generator), "The generator is not used.", "How would somebody repeat this rollout exactly?"),
        Mistake("own-generator", sampler(own_generator=True), "A generator of its own, with a fixed seed, is used.",
                "What happens at the second rollout, if every rollout begins with the same seed?"),
        Mistake("generator-copied", generator_copied, "The generator's state is copied and never moves on, so that the next call draws the same again.",
                "What happens at the second rollout, if every rollout begins with the same random numbers?"),
        Mistake("seeded-inside", sampler(draw=seeded_again), "A seed is set inside of the function.", "Who should decide about the seed: the one who calls, or the function?"),
        Mistake("same-noise-every-step", sampler(draw=same_every_step), "Every step draws the same random numbers again.",
                "What may the second token depend on, besides the first?"),
        Mistake("tokens-after-eos", sampler(pads=False), "Rows go on after their EOS.", "What does a row get once its response has ended?"),
        Mistake("pads-only-at-the-end", pads_at_the_end, "Rows go on after their EOS, and are overwritten with pads only at the end.",
                "What does next_logits get for a row that has ended?"),
        Mistake("eos-forced", eos_forced, "A response that did not end gets an EOS all the same.", "How could one tell later that a response was cut off?"),
        Mistake("eos-as-filler", sampler(fill_eos=True), "EOS, and not the pad token, fills the rest of a row.", "Which token fills a row that has ended?"),
        *forms("eos-dropped", (sampler(drop_eos=True), eos_removed), "The EOS itself is overwritten by a pad.",
                "How could the policy learn to stop, if the token that stops is not part of its response?"),
        Mistake("stops-at-the-first-eos", sampler(stop=lambda e: e.any()), "Writing stops as soon as one row has ended.", "Which rows have to have ended before writing may stop?"),
        Mistake("never-stops-early", sampler(stop=lambda e: False), "Writing goes on although every row has ended.", "When every row has ended, what is left to write?"),
        Mistake("full-width", sampler(full_width=True), "The result is padded to max_new_tokens.", "How wide is the result if all rows end early?"),
        Mistake("prompt-eos-counts", sampler(ended=lambda p, e: (p == e).any(dim=1)), "An EOS in the prompt ends the response before it begins.",
                "Whose EOS ends a response?"),
        Mistake("eos-anywhere-counts", sampler(end=lambda ended, token, e: ended | (token == e), anywhere=True), "After each step EOS is looked for in prompt and response alike.",
                "Whose EOS ends a response?"),
        Mistake("last-prompt-token-counts", sampler(ended=lambda p, e: p[:, -1] == e), "A prompt that ends with EOS counts as a response that has ended.",
                "Whose EOS ends a response?"),
        Mistake("one-step-short", sampler(more=-1, stop=lambda e: e.all(), result=lambda n, t: n), "One step too few is taken.", "How many tokens may a response have?"),
        Mistake("one-step-too-many", sampler(more=1), "One step too many is taken.", "How many tokens may a response have?"),
        Mistake("prompt-returned", sampler(result=lambda n, t: t), "The prompt is returned together with the response.", "Which columns are the response?"),
        Mistake("last-token-only", sampler(feed=lambda t, p: t[:, -1:]), "The model sees the last token only.", "What may the next token depend on?"),
        Mistake("new-column-only", sampler(feed=lambda t, p: t if t.shape == p.shape else t[:, -1:]), "After the first step the model sees the newest token only.",
                "Can this function know whether the model remembers what came before?"),
        Mistake("response-only", sampler(feed=lambda t, p: t if t.shape == p.shape else t[:, p.shape[1] :]), "After the first step the model no longer sees the prompt.", "What may the second token depend on?"),
        Mistake("unwritten-columns-fed", whole_buffer_fed, "The model gets all columns, those too that are not written yet.", "From which column does the model read the next token's logits?"),
        Mistake("prompt-only", sampler(feed=lambda t, p: p), "The model sees the prompt only, never what it has written.", "What may the second token depend on?"),
        Mistake("sampled-tokens-fed-after-eos", sampler(back=lambda t, e: torch.where(e, t + 1 - t, t)), "Rows that have ended are not fed with the pad token.",
                "What should the model read where a row has ended?"),
        Mistake("ended-forgotten", sampler(end=lambda ended, token, e: token == e), "A row counts as ended only in the step that wrote its EOS.",
                "Once a row has ended, can it come back?"),
        Mistake("prompts-overwritten", sample_in_place, "It writes into the prompts that it was given.", "Who else may need the prompts after the rollout?"),
        Mistake("row-by-row", sample_row_by_row, "The rows are written one by one, and each call of next_logits gets one row.",
                "What does next_logits get: one row, or the whole batch?"),
        Mistake("wrong-from-the-fourth-call", SampleRemembers, "It remembers something from one call to the next, and later calls go wrong.",
                "What should a second call know of the first?"),
        Mistake("float-tokens", sampler(result=lambda n, t: n.float()), "Tokens come back as floats.", "Of what type are token ids?"),
    ),
)  # fmt: skip


# minibatch_indices


def minibatch_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    one, two = int(d.integers(9, 14, 1)), int(d.integers(2, 5, 1))
    return [
        Case((12, 4, 3, seed % 1000), "12 rows in minibatches of 4"),
        Case((10, 4, 2, seed % 1000), "a last minibatch that is smaller"),
        Case((one, two, 4, seed % 1000), f"{one} rows in minibatches of {two}"),
        Case((8, 16, 2, seed % 1000), "a minibatch that is larger than the batch"),
        Case((9, 9, 2, seed % 1000), "a minibatch of the whole batch"),
        Case((1, 1, 2, seed % 1000), "a single row"),
        Case((3, 3, 1500, seed % 1000), "3 rows and 1,500 epochs"),
        Case((11, 1, 1, seed % 1000), "one epoch, and one row in each minibatch"),
    ]


def minibatcher(rows=None, cut=None, epochs=lambda e: e, again=False):
    """minibatch_indices with some of its parts replaced."""

    def make(batch_size, minibatch_size, number, generator=None):
        order = None
        for _ in range(epochs(number)):
            if order is None or not again:
                order = (rows or (lambda n, g: torch.randperm(n, generator=g)))(batch_size, generator)
            yield from (cut or (lambda o, m: o.split(m)))(order, minibatch_size)

    return make


def minibatch_drop_last(order, size):
    return order[: len(order) // size * size].split(size) if len(order) >= size else ()


def minibatch_endless_seed(n, g):
    return torch.randperm(n, generator=torch.Generator().manual_seed(g.initial_seed() if g else 0))


def minibatch_rolled(n, g):
    return torch.roll(torch.arange(n), int(torch.randint(n, (1,), generator=g)))


def minibatch_order_only(batch_size, minibatch_size, epochs, generator=None):
    blocks = torch.arange(batch_size).split(minibatch_size)
    for _ in range(epochs):
        for i in torch.randperm(len(blocks), generator=generator).tolist():
            yield blocks[i]


def minibatch_mixed(batch_size, minibatch_size, epochs, generator=None):
    everything = torch.arange(batch_size).repeat(epochs)[torch.randperm(batch_size * epochs, generator=generator)]
    yield from everything.split(minibatch_size)


def minibatch_within(batch_size, minibatch_size, epochs, generator=None):
    for _ in range(epochs):
        for block in torch.arange(batch_size).split(minibatch_size):
            yield block[torch.randperm(len(block), generator=generator)]


def minibatch_copied(batch_size, minibatch_size, epochs, generator=None):
    mine = None
    if generator is not None:
        mine = torch.Generator()
        mine.set_state(generator.get_state())
    return minibatcher()(batch_size, minibatch_size, epochs, mine)


def minibatch_seeded(n, g):
    torch.manual_seed(0)
    return torch.randperm(n)


def minibatch_counts(batch_size, minibatch_size, epochs, generator=None):
    return iter(torch.randperm(batch_size, generator=generator).chunk(max(1, batch_size // minibatch_size)) * epochs)


def minibatch_list(batch_size, minibatch_size, epochs, generator=None):
    found = []
    for _ in range(epochs):
        order = torch.randperm(batch_size, generator=generator)
        for start in range(0, batch_size, minibatch_size):
            found.append(order[start : start + minibatch_size])
    return found


def minibatch_sorting(batch_size, minibatch_size, epochs, generator=None):
    for _ in range(epochs):
        order = torch.rand(batch_size, dtype=torch.float64, generator=generator).argsort()
        start = 0
        while start < batch_size:
            yield order[start : start + minibatch_size].clone()
            start += minibatch_size


def minibatch_multinomial(batch_size, minibatch_size, epochs, generator=None):
    def epoch():
        order = torch.multinomial(torch.ones(batch_size), batch_size, replacement=False, generator=generator).tolist()
        return [torch.tensor(order[i : i + minibatch_size]) for i in range(0, batch_size, minibatch_size)]

    return (minibatch for _ in range(epochs) for minibatch in epoch())


def minibatch_numpy(n, g):
    import numpy

    return torch.from_numpy(numpy.random.default_rng(0).permutation(n))


MINIBATCH = Exercise(
    minibatch_indices,
    points=3,
    cases=minibatch_cases,
    probe="minibatches",
    facts="minibatch_facts",
    asks="an iterator of int64 tensors",
    draws=1,
    variants=(minibatch_list, minibatch_sorting, minibatch_multinomial),
    mistakes=(
        Mistake("not-shuffled", minibatcher(rows=lambda n, g: torch.arange(n)), "The rows come in their own order.",
                "If neighbours always share a minibatch, what do all their gradients have in common?"),
        Mistake("shuffled-once", minibatcher(again=True), "One permutation serves all epochs.", "When should the rows be shuffled anew?"),
        Mistake("last-dropped", minibatcher(cut=minibatch_drop_last), "The rows of a last, smaller minibatch are dropped.", "With 10 rows in minibatches of 4, how many rows does an epoch use?"),
        Mistake("last-filled-up", minibatcher(cut=lambda o, m: torch.cat([o, o[: -len(o) % m]]).split(m)), "The last minibatch is filled up with rows that the epoch has used already.",
                "How often does a row come in one epoch?"),
        Mistake("with-replacement", minibatcher(rows=lambda n, g: torch.randint(n, (n,), generator=g)), "Rows are drawn with replacement.",
                "Can a row come twice in an epoch, and another not at all?"),
        Mistake("epochs-ignored", minibatcher(epochs=lambda e: 1), "There is only one epoch.", "How often is the whole batch gone through?"),
        Mistake("one-epoch-too-many", minibatcher(epochs=lambda e: e + 1), "There is one epoch too many.", "How often is the whole batch gone through?"),
        Mistake("generator-ignored", minibatcher(rows=lambda n, g: torch.randperm(n)), "The generator is not used.", "How would somebody repeat this update exactly?"),
        Mistake("seeded-anew", minibatcher(rows=minibatch_endless_seed), "Every epoch begins with the same seed.", "What do two epochs have in common, if both begin with the same seed?"),
        Mistake("generator-copied", minibatch_copied, "The generator's state is copied and never moves on, so that the next call gives the same again.",
                "What do two updates have in common, if both begin with the same random numbers?"),
        Mistake("own-generator", minibatcher(rows=lambda n, g: torch.randperm(n, generator=g or torch.Generator().manual_seed(n))), "Without a generator, a fixed seed takes its place.",
                "What should decide where no generator is given?"),
        Mistake("seeded-inside", minibatch_seeded, "A seed is set inside of the function.", "Who should decide about the seed: the one who calls, or the function?"),
        Mistake("shuffled-within-minibatches", minibatch_within, "Rows change places within their minibatch only.", "Do the same rows always share a minibatch?"),
        Mistake("counted-from-one", minibatcher(rows=lambda n, g: 1 + torch.randperm(n, generator=g)), "The rows are counted from 1.", "What is the number of the first row?"),
        Mistake("evened-out", minibatcher(cut=lambda o, m: o.tensor_split(-(-len(o) // m))), "All minibatches of an epoch are made about equally large.",
                "With 10 rows in minibatches of 4, how many rows does each minibatch have?"),
        Mistake("fixed-numpy-seed", minibatcher(rows=minibatch_numpy), "The permutation comes from a seed of its own.", "What should decide the permutation?"),
        Mistake("rolled", minibatcher(rows=minibatch_rolled), "The rows are rotated, not permuted.", "Of how many orders can your code make one?"),
        Mistake("blocks-shuffled", minibatch_order_only, "The minibatches are shuffled, but not the rows in them.", "Do the same rows always share a minibatch?"),
        Mistake("epochs-mixed", minibatch_mixed, "All epochs are shuffled together, so that a row may come twice before another has come once.",
                "What has every row done once before any of them comes again?"),
        Mistake("chunks-of-another-size", minibatch_counts, "The batch is cut into a number of minibatches, and not into minibatches of a size.",
                "Is minibatch_size the number of minibatches, or of rows in one of them?"),
        Mistake("counts-minibatches", minibatcher(cut=lambda o, m: o.chunk(m)), "minibatch_size is taken for the number of minibatches.", "Is minibatch_size the number of minibatches, or of rows in one of them?"),
        Mistake("lists", minibatcher(cut=lambda o, m: [x.tolist() for x in o.split(m)]), "Lists come in place of tensors.", "What type do the indices have?"),
        Mistake("int32", minibatcher(cut=lambda o, m: o.int().split(m)), "The indices are int32.", "What type do the indices have?"),
        Mistake("nothing-returned", lambda batch_size, minibatch_size, epochs, generator=None: iter(()), "Nothing comes.", "What comes out of your iterator?"),
    ),
)  # fmt: skip


# adaptive_kl_coef


def adaptive_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    cases = []
    for label, ratio in (
        ("a KL a little above its target", d.number(1.05, 1.15)),
        ("a KL a little below its target", d.number(0.85, 0.95)),
        ("a KL far above its target", d.number(2, 5)),
        ("a KL far below its target", d.number(0.05, 0.4)),
    ):
        target, num = d.number(3, 9), int(d.integers(16, 300, 1))
        cases.append(Case((d.number(0.05, 0.5), ratio * target, target, num, d.number(500, 3000)), label))
    return [
        *cases,
        Case((0.2, 6.0, 6.0, 64, 1000.0), "a KL on its target"),
        Case((0.1, 0.0, 6.0, 64, 1000.0), "a KL of 0"),
        Case((0.1, -1.0, 6.0, 64, 1000.0), "a KL estimate below 0"),
        Case((0.3, 20.0, 5.0, 4000, 1000.0), "more samples than the horizon"),
        Case((0.4, 6.6, 6.0, 6, 11.0), "a short horizon"),
        Case((3.0, 6.12, 6.0, 64, 200.0), "a KL 2% above its target", 1e-5, 1e-5),
        Case((0.002, 5.0, 6.0, 64, 200.0), "a small coefficient", 1e-5, 1e-9),
    ]


def adaptive(
    error=lambda kl, t: kl / t - 1, low=-0.2, high=0.2, factor=lambda e, n, h: 1 + e * n / h, apply=lambda b, f: b * f
):
    """adaptive_kl_coef with some of its parts replaced."""

    def update(kl_coef, observed_kl, target_kl, num_samples, horizon):
        e = min(max(error(observed_kl, target_kl), low), high)
        return apply(kl_coef, factor(e, num_samples, horizon))

    return update


def adaptive_by_torch(kl_coef, observed_kl, target_kl, num_samples, horizon):
    error = torch.clamp(torch.tensor(observed_kl, dtype=torch.float64) / target_kl - 1, -0.2, 0.2)
    return kl_coef * (1 + error * num_samples / horizon)


def adaptive_by_numpy(kl_coef, observed_kl, target_kl, num_samples, horizon):
    import numpy

    return kl_coef + kl_coef * num_samples / horizon * numpy.clip((observed_kl - target_kl) / target_kl, -0.2, 0.2)


def adaptive_by_branches(beta, kl, target, n, horizon):
    error = kl / target - 1
    if error > 0.2:
        error = 0.2
    elif error < -0.2:
        error = -0.2
    return beta * (horizon + error * n) / horizon


class AdaptiveRemembers:
    """Goes on from its own coefficient rather than from the one that is given."""

    def __init__(self):
        self.beta = None

    def __call__(self, kl_coef, observed_kl, target_kl, num_samples, horizon):
        self.beta = adaptive_kl_coef(
            kl_coef if self.beta is None else self.beta, observed_kl, target_kl, num_samples, horizon
        )
        return self.beta


ADAPTIVE = Exercise(
    adaptive_kl_coef,
    points=2,
    cases=adaptive_cases,
    result="float",
    variants=(adaptive_by_torch, adaptive_by_numpy, adaptive_by_branches),
    mistakes=(
        Mistake("not-clipped", adaptive(low=-math.inf, high=math.inf), "The error is not clipped.", "What would one rollout with an extreme KL do to β?"),
        Mistake("difference", adaptive(error=lambda kl, t: kl - t), "The error is a difference, and not relative to the target.", "Should an error of 1 nat mean the same at a target of 1 and at one of 100?"),
        Mistake("only-the-sign", adaptive(error=lambda kl, t: math.copysign(0.2, kl / t - 1) if kl != t else 0.0), "The error is always ±0.2, however small it is.", "By how much should β change if the KL is 2% above its target?"),
        Mistake("inverse", adaptive(error=lambda kl, t: t / kl - 1 if kl else math.inf), "Target and observed KL have changed places.", "If the KL is too large, should β rise or fall?"),
        Mistake("wrong-direction", adaptive(error=lambda kl, t: 1 - kl / t), "β moves the wrong way.", "If the KL is too large, should β rise or fall?"),
        Mistake("without-minus-one", adaptive(error=lambda kl, t: kl / t), "1 is not subtracted from the ratio.", "What should happen when the KL is exactly on its target?"),
        Mistake("added", adaptive(apply=lambda b, f: b + f - 1), "The correction is added to β instead of multiplying it.", "Should a β of 0.001 and one of 10 move by the same amount?"),
        Mistake("num-samples-ignored", adaptive(factor=lambda e, n, h: 1 + e / h), "The number of samples is not used.", "Should 10 sequences move β as far as 1000?"),
        Mistake("horizon-ignored", adaptive(factor=lambda e, n, h: 1 + e), "Number of samples and horizon are not used.", "What says how fast β may move?"),
        Mistake("horizon-over-samples", adaptive(factor=lambda e, n, h: 1 + e * h / n), "Horizon and number of samples have changed places.", "Should a longer horizon make the controller faster or slower?"),
        Mistake("clipped-above-only", adaptive(low=-math.inf), "The error is clipped on one side only.", "What bounds the step when the KL is far below its target?"),
        Mistake("clipped-below-only", adaptive(high=math.inf), "The error is clipped on one side only.", "What bounds the step when the KL is far above its target?"),
        Mistake("clipped-at-one", adaptive(low=-1, high=1), "The error is clipped at ±1.", "How large may the error be?"),
        Mistake("factor-clipped", adaptive(low=-math.inf, high=math.inf, factor=lambda e, n, h: 1 + min(max(e * n / h, -0.2), 0.2)), "The whole correction is clipped, and not the error.",
                "What is clipped: the relative error, or the error times samples over horizon?"),
        Mistake("logarithmic-error", adaptive(error=lambda kl, t: math.log(max(kl, 1e-9) / t)), "The error is a logarithm.", "What is the relative error of a KL that is twice its target?"),
        Mistake("relative-to-the-observed", adaptive(error=lambda kl, t: (kl - t) / kl if kl else -1.0), "The difference is divided by the observed KL, not by the target.", "An error of 10%: of what?"),
        Mistake("ratio-clipped-around-one", adaptive(error=lambda kl, t: kl / t, low=0.8, high=1.2), "1 is not subtracted from the ratio.", "What should happen when the KL is exactly on its target?"),
        Mistake("divided", adaptive(factor=lambda e, n, h: 1 / (1 - e * n / h) if e * n / h != 1 else math.inf), "β is divided by one minus the correction.", "By which factor does β change for an error e?"),
        Mistake("exponential", adaptive(factor=lambda e, n, h: math.exp(e * n / h)), "The correction is exponentiated.", "By which factor does β change for a small error e?"),
        Mistake("factor-returned", adaptive(apply=lambda b, f: f), "The factor is returned, not the new β.", "What should the next rollout use?"),
        Mistake("unchanged", adaptive(apply=lambda b, f: b), "β never changes.", "What should the next rollout use?"),
        Mistake("remembers-beta", AdaptiveRemembers, "It goes on from a β that it remembers, and not from the one that is given.", "Which β does the argument kl_coef hold?"),
    ),
)  # fmt: skip


# score_responses


def score_cases(seed: int) -> list[Case]:
    d = Draw(seed)

    def case(rows: int, tensor: bool, label: str, ended=None, penalty=None) -> Case:
        scores = [round(x, 3) for x in d.normal(rows, scale=2.0).tolist()]
        prompts = [f" Prompt {int(i)}: " for i in d.integers(0, 1000, rows)]
        prompts[-1] = prompts[0]
        responses = [f" a Response {int(i)}\n" for i in d.integers(0, 1000, rows)]
        responses[1:2] = responses[:1] * (rows > 1)  # the same answer to another prompt
        ended = d.integers(0, 2, rows).bool() if ended is None else ended
        return Case(
            (scores, tensor, prompts, responses, ended, d.number(0.5, 3) if penalty is None else penalty), label
        )

    return [
        case(3, False, "a reward function that returns a list", torch.tensor([True, False, True])),
        case(4, True, "a reward function that returns a tensor", torch.tensor([False, True, False, True])),
        case(4, True, "no response that ended", torch.zeros(4, dtype=torch.bool)),
        case(3, False, "responses that all ended", torch.ones(3, dtype=torch.bool)),
        case(1, False, "a single response", torch.zeros(1, dtype=torch.bool)),
        case(1, True, "a single response and a tensor", torch.zeros(1, dtype=torch.bool)),
        case(6, True, "a penalty of 0", penalty=0.0),
        case(6, False, "six responses"),
        Case(
            ([0.5, 1.5], False, ["a", "a"], ["", "b"], torch.tensor([True, False]), 1.0),
            "an empty response that ended",
        ),
        Case(
            ([2, -1, 3], False, ["a", "b", "c"], ["x", "y", "z"], torch.tensor([True, False, False]), 0.5),
            "whole numbers as scores",
        ),
    ]


def score_to_tensor(raw):
    return raw.clone() if isinstance(raw, torch.Tensor) else torch.tensor([float(x) for x in raw])


def scorer(penalise=lambda s, e, p: s - p * (~e).float(), convert=score_to_tensor, ask=lambda f, p, r: f(p, r)):
    """score_responses with some of its parts replaced."""

    def score(reward_fn, prompts, responses, ended, missing_eos_penalty):
        return penalise(convert(ask(reward_fn, prompts, responses)), ended, missing_eos_penalty)

    return score


def score_in_place(reward_fn, prompts, responses, ended, missing_eos_penalty):
    scores = torch.as_tensor(reward_fn(prompts, responses), dtype=torch.float32)
    scores[~ended] -= missing_eos_penalty
    return scores


def score_where(reward_fn, prompts, responses, ended, missing_eos_penalty):
    scores = torch.as_tensor(reward_fn(prompts, responses), dtype=torch.float32)
    return torch.where(ended, scores, scores - missing_eos_penalty)


def score_loop(reward_fn, prompts, responses, ended, missing_eos_penalty):
    scores = [float(s) for s in reward_fn(prompts, responses)]
    return torch.tensor([s if e else s - missing_eos_penalty for s, e in zip(scores, ended.tolist())])


def score_clone(reward_fn, prompts, responses, ended, missing_eos_penalty):
    raw = reward_fn(prompts, responses)
    out = raw.detach().clone().float() if torch.is_tensor(raw) else torch.FloatTensor(raw)
    out[torch.logical_not(ended)] -= missing_eos_penalty
    return out


def score_asks_twice(f, p, r):
    f(p, r)
    return f(p, r)


def score_list_in_place(reward_fn, prompts, responses, ended, missing_eos_penalty):
    scores = reward_fn(prompts, responses)
    if isinstance(scores, torch.Tensor):
        return scores - missing_eos_penalty * (~ended).float()
    for row, over in enumerate(ended.tolist()):
        scores[row] -= 0.0 if over else missing_eos_penalty
    return torch.tensor(scores)


def score_alters_ended(reward_fn, prompts, responses, ended, missing_eos_penalty):
    scores = score_to_tensor(reward_fn(prompts, responses)) - missing_eos_penalty * (~ended).float()
    ended[:] = True
    return scores


SCORE = Exercise(
    score_responses,
    points=2,
    cases=score_cases,
    probe="score",
    facts="score_facts",
    asks="a float tensor with one score for each response",
    variants=(score_where, score_loop, score_clone),
    mistakes=(
        Mistake("penalty-substituted", scorer(lambda s, e, p: torch.where(e, s, torch.full_like(s, -p))), "The penalty takes the place of the score.",
                "Of two responses without an end, a good one and a bad one: should they get the same score?"),
        Mistake("penalty-added", scorer(lambda s, e, p: s + p * (~e).float()), "The penalty is added.", "Should a missing end be charged or rewarded?"),
        Mistake("penalty-for-ending", scorer(lambda s, e, p: s - p * e.float()), "Those that ended are charged.", "Which responses pay the penalty?"),
        Mistake("penalty-for-all", scorer(lambda s, e, p: s - p), "Everybody pays the penalty.", "Which responses pay the penalty?"),
        Mistake("no-penalty", scorer(lambda s, e, p: s), "Nobody pays the penalty.", "What keeps the policy from never ending its text?"),
        Mistake("zeroed", scorer(lambda s, e, p: s * e.float()), "Responses without an end get 0.", "What is worse for the policy: 0, or the negative score that its text has earned?"),
        Mistake("penalty-scales", scorer(lambda s, e, p: torch.where(e, s, s * p)), "The penalty multiplies the score.", "What happens to a negative score that is multiplied by the penalty?"),
        Mistake("row-by-row", scorer(ask=lambda f, p, r: [f([a], [b])[0] for a, b in zip(p, r)]), "The reward function is called once for each response.",
                "How often would a reward model on a GPU like to be called for a batch?"),
        Mistake("called-twice", scorer(ask=score_asks_twice), "The reward function is called twice.", "What does a second call cost?"),
        Mistake("arguments-swapped", scorer(ask=lambda f, p, r: f(r, p)), "Responses are handed over as prompts.", "In which order does reward_fn take its arguments?"),
        Mistake("joined-texts", scorer(ask=lambda f, p, r: f(p, [a + b for a, b in zip(p, r)])), "The prompt is glued to the response.", "What does reward_fn expect as its second argument?"),
        Mistake("in-place", score_in_place, "The tensor that reward_fn returned is modified.", "What if reward_fn keeps its tensor, or returns the same one again?"),
        Mistake("list-in-place", score_list_in_place, "The list that reward_fn returned is modified.", "What if reward_fn keeps its list, or returns the same one again?"),
        *forms("texts-stripped", (scorer(ask=lambda f, p, r: f([x.strip() for x in p], [x.strip() for x in r])), scorer(ask=lambda f, p, r: f(p, [x.strip() for x in r]))), "White space is taken off the texts.", "Should the reward function read what the policy wrote, or something else?"),
        Mistake("penalty-by-share", scorer(lambda s, e, p: s - p * (~e).float().mean()), "Everybody pays a share of the penalty.", "Which responses pay the penalty?"),
        Mistake("ended-overwritten", score_alters_ended, "The argument ended is modified.", "Who else may need to know which responses ended?"),
        Mistake("list-returned", scorer(lambda s, e, p: [x - p * (not y) for x, y in zip(s.tolist(), e.tolist())]), "A list comes back.", "What type should the scores have?"),
        Mistake("averaged", scorer(lambda s, e, p: (s - p * (~e).float()).mean()), "The scores are averaged.", "How many scores are asked for?"),
        Mistake("column", scorer(lambda s, e, p: (s - p * (~e).float())[:, None]), "The scores stand in a column.", "What shape should the scores have?"),
        Mistake("centred", scorer(lambda s, e, p: s - s.mean() - p * (~e).float()), "The mean score is taken away.", "Is there anything else than the penalty to subtract?"),
        Mistake("integers", scorer(convert=lambda raw: torch.tensor([int(x) for x in raw])), "Scores lose what is behind their point.", "Can a score be 0.4?"),
    ),
)  # fmt: skip


# ppo_update


def update_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    which = seed % 100_000
    clip, value_clip = d.number(0.15, 0.22), d.number(0.04, 0.06)
    coefs = [d.number(0.4, 0.9), d.number(0.1, 0.3)]
    ranges, wide = [clip, value_clip, *coefs], [clip, d.number(0.5, 0.9), 2.0, coefs[1]]
    return [
        Case((which, 8, 1, [1, 8, *ranges, 100.0], 3.0, False), "a single step on the whole batch"),
        Case((which + 1, 8, 1, [5, 8, *ranges, 100.0], 3.0, False), "five steps on the whole batch"),
        Case((which + 3, 24, 2, [2, 12, *wide, 0.03], math.nan, False), "NaN outside of the mask, two minibatches"),
        Case((which + 4, 11, 3, [2, 4, *ranges, 100.0], -9.0, True), "a last minibatch that is smaller"),
        Case(
            (which + 6, 8, 1, [1, 8, clip, value_clip, 20.0, coefs[1], 100.0], 3.0, False), "a gradient longer than 1"
        ),
        Case(
            (which + 5, 8, None, [1, 4, clip, value_clip, 0.0, coefs[1], 0.3], 3.0, False),
            "torch's default generator, and no value loss",
        ),
    ]


EXPERIENCE = ("logprobs", "values", "advantages", "returns", "mask")


def updater(**change):
    """ppo_update with some of its parts replaced."""
    get = change.get

    def update(policy, optimizer, experience, config):
        history, size = [], get("size", lambda c, n: c.minibatch_size)(config, len(experience))
        indices_of = get("indices", minibatch_indices)
        for indices in indices_of(len(experience), size, get("epochs", lambda c: c.epochs)(config), config.generator):
            batch = experience[indices]
            logprobs, entropy, values = policy(batch)
            if get("before"):
                get("before")(batch, experience, indices, logprobs, values)
            policy_loss = get("policy_loss", clipped_policy_loss)(
                logprobs, batch.logprobs, batch.advantages, batch.mask, config.clip_range
            )
            value_loss = get("value_loss", clipped_value_loss)(
                values, batch.values, batch.returns, batch.mask, config.value_clip_range
            )
            mean_entropy = get("entropy", masked_mean)(entropy, batch.mask)
            loss = get("loss", ppo_loss)(policy_loss, value_loss, mean_entropy, config.value_coef, config.entropy_coef)
            if get("zero", lambda step, steps: True)(len(history), -(-len(experience) // size)):
                optimizer.zero_grad()
            if get("clip_first"):
                nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            loss.backward(retain_graph=bool(get("backward_twice")))
            if get("backward_twice"):
                loss.backward()
            get("clip", lambda p, c: nn.utils.clip_grad_norm_(p.parameters(), c.max_grad_norm))(policy, config)
            if get("zero_late"):
                optimizer.zero_grad()
            for _ in range(get("steps", 1)):
                optimizer.step()
            if get("clip_last"):
                nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            measured = logprobs.detach() if not get("measure_after") else policy(batch)[0].detach()
            history.append(
                {
                    "loss": loss.item(),
                    "approx_kl": approx_kl(measured, batch.logprobs, batch.mask),
                    "clip_fraction": clip_fraction(
                        measured, batch.logprobs, batch.advantages, batch.mask, config.clip_range
                    ),
                }
            )
        if get("after"):
            get("after")(policy, optimizer, experience)
        metrics = {
            name: sum(h[name] for h in history) / max(len(history), 1) for name in (history[0] if history else ["loss"])
        }
        return get("result", lambda m: m)(metrics)

    return update


def update_with_sorted_rows(policy, optimizer, experience, config):
    """Advantages of other rows than the log-probs."""

    def shifted(batch, everything, indices, logprobs, values):
        batch.advantages = everything.advantages[: len(indices), : batch.mask.shape[1]].masked_fill(~batch.mask, 0.0)

    return updater(before=shifted)(policy, optimizer, experience, config)


def update_old_overwritten(batch, experience, indices, logprobs, values):
    batch.logprobs = logprobs.detach()


def update_old_values_overwritten(batch, experience, indices, logprobs, values):
    batch.values = values.detach()


def update_returns_for_old_values(batch, experience, indices, logprobs, values):
    batch.values = batch.returns


def update_returns_moved(batch, experience, indices, logprobs, values):
    batch.returns = batch.advantages + values.detach()


def update_experience_zeroed(policy, optimizer, experience):
    experience.advantages.zero_()


def update_thaws(policy, optimizer, experience):
    with torch.no_grad():
        policy.frozen += 0.1


def update_freezes(policy, optimizer, experience):
    policy.table.requires_grad_(False)


def update_learning_rate(policy, optimizer, experience):
    optimizer.param_groups[0]["lr"] *= 0.5


def unclipped_policy(logprobs, old, advantages, mask, clip_range):
    return -masked_mean(torch.exp(logprobs - old) * advantages, mask)


def unclipped_value(values, old, returns, mask, clip_range):
    return 0.5 * masked_mean((values - returns) ** 2, mask)


def sum_policy(logprobs, old, advantages, mask, clip_range):
    return clipped_policy_loss(logprobs, old, advantages, mask, clip_range) * mask.sum()


def each_row_policy(logprobs, old, advantages, mask, clip_range):
    rows = [
        clipped_policy_loss(*(x[i : i + 1] for x in (logprobs, old, advantages, mask)), clip_range)
        for i in range(len(mask))
    ]
    return torch.stack(rows).mean()


def fixed_order(batch_size, minibatch_size, epochs, generator=None):
    for _ in range(epochs):
        yield from torch.arange(batch_size).split(minibatch_size)


def one_permutation(batch_size, minibatch_size, epochs, generator=None):
    rows = torch.randperm(batch_size, generator=generator).split(minibatch_size)
    for _ in range(epochs):
        yield from rows


def replacement(batch_size, minibatch_size, epochs, generator=None):
    for _ in range(epochs * -(-batch_size // minibatch_size)):
        yield torch.randint(batch_size, (minibatch_size,), generator=generator)


def unseeded(batch_size, minibatch_size, epochs, generator=None):
    import os

    return minibatch_indices(
        batch_size, minibatch_size, epochs, torch.Generator().manual_seed(int.from_bytes(os.urandom(4), "big"))
    )


def without_generator(batch_size, minibatch_size, epochs, generator=None):
    return minibatch_indices(batch_size, minibatch_size, epochs)


def own_seed(batch_size, minibatch_size, epochs, generator=None):
    mine = None if generator is None else torch.Generator().manual_seed(7)
    return minibatch_indices(batch_size, minibatch_size, epochs, mine)


def clip_by_value(policy, config):
    nn.utils.clip_grad_value_(policy.parameters(), config.max_grad_norm)


def clip_to(norm):
    return lambda policy, config: nn.utils.clip_grad_norm_(policy.parameters(), norm)


def clip_without(name):
    return lambda policy, config: nn.utils.clip_grad_norm_(
        [p for n, p in policy.named_parameters() if n != name], config.max_grad_norm
    )


def clip_each(policy, config):
    for p in policy.parameters():
        if p.grad is not None:
            nn.utils.clip_grad_norm_([p], config.max_grad_norm)


def clip_always(policy, config):
    grads = [p.grad for p in policy.parameters() if p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).norm()
    for g in grads:
        g.mul_(config.max_grad_norm / norm)


def whitened_anew(batch, experience, indices, logprobs, values):
    batch.advantages = masked_whiten(batch.advantages, batch.mask)


def advantages_as_targets(batch, experience, indices, logprobs, values):
    batch.returns = batch.advantages


def advantages_bounded(batch, experience, indices, logprobs, values):
    batch.advantages = batch.advantages.clamp(-1, 1)


def everywhere(numbers, mask):
    return numbers.mean()


def unmasked_policy(logprobs, old, advantages, mask, clip_range):
    return clipped_policy_loss(logprobs, old, advantages, torch.ones_like(mask), clip_range)


def padded_policy(logprobs, old, advantages, mask, clip_range):
    return clipped_policy_loss(logprobs, old, advantages, mask, clip_range) * mask.float().mean()


def optimistic_policy(logprobs, old, advantages, mask, clip_range):
    ratio = torch.exp((logprobs - old)[mask])
    return -torch.max(ratio * advantages[mask], ratio.clamp(1 - clip_range, 1 + clip_range) * advantages[mask]).mean()


def clipped_only_policy(logprobs, old, advantages, mask, clip_range):
    return -(torch.exp((logprobs - old)[mask]).clamp(1 - clip_range, 1 + clip_range) * advantages[mask]).mean()


def without_ratio(logprobs, old, advantages, mask, clip_range):
    return -(logprobs[mask] * advantages[mask]).mean()


def not_halved(values, old, returns, mask, clip_range):
    return 2 * clipped_value_loss(values, old, returns, mask, clip_range)


def smaller_error(values, old, returns, mask, clip_range):
    values, old, returns = values[mask], old[mask], returns[mask]
    near = old + (values - old).clamp(-clip_range, clip_range)
    return 0.5 * torch.min((values - returns) ** 2, (near - returns) ** 2).mean()


def with_config(policy, optimizer, experience, config, **change):
    return updater()(policy, optimizer, experience, dataclasses.replace(config, **change))


def update_ranges_swapped(policy, optimizer, experience, config):
    ranges = {"clip_range": config.value_clip_range, "value_clip_range": config.clip_range}
    return with_config(policy, optimizer, experience, config, **ranges)


def update_one_range(policy, optimizer, experience, config):
    return with_config(policy, optimizer, experience, config, value_clip_range=config.clip_range)


def update_changes_config(policy, optimizer, experience, config):
    metrics = updater()(policy, optimizer, experience, config)
    config.clip_range *= 0.9
    return metrics


def update_reseeds(policy, optimizer, experience, config):
    if config.generator is not None:
        config.generator.manual_seed(0)
    return updater()(policy, optimizer, experience, config)


def update_with_other_optimizer(policy, optimizer, experience, config):
    other = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=1e-2)
    return updater()(policy, other, experience, config)


def update_stale(policy, optimizer, experience, config):
    """One forward pass for each epoch."""
    losses = []
    for _ in range(config.epochs):
        logprobs, entropy, values = policy(experience)
        everything = logprobs, entropy, values, *(getattr(experience, name) for name in EXPERIENCE)
        for rows in torch.randperm(len(experience), generator=config.generator).split(config.minibatch_size):
            lp, h, v, old, old_v, a, r, mask = (x[rows] for x in everything)
            policy_loss = clipped_policy_loss(lp, old, a, mask, config.clip_range)
            value_loss = clipped_value_loss(v, old_v, r, mask, config.value_clip_range)
            loss = ppo_loss(policy_loss, value_loss, masked_mean(h, mask), config.value_coef, config.entropy_coef)
            optimizer.zero_grad()
            loss.backward(retain_graph=True)
            nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            optimizer.step()
            losses.append(loss.item())
    return {"loss": sum(losses) / len(losses)}


def update_step_per_epoch(policy, optimizer, experience, config):
    """Gradients of an epoch's minibatches are added up."""
    for _ in range(config.epochs):
        optimizer.zero_grad()
        for indices in minibatch_indices(len(experience), config.minibatch_size, 1, config.generator):
            batch = experience[indices]
            logprobs, entropy, values = policy(batch)
            policy_loss = clipped_policy_loss(logprobs, batch.logprobs, batch.advantages, batch.mask, config.clip_range)
            value_loss = clipped_value_loss(values, batch.values, batch.returns, batch.mask, config.value_clip_range)
            mean_entropy = masked_mean(entropy, batch.mask)
            loss = ppo_loss(policy_loss, value_loss, mean_entropy, config.value_coef, config.entropy_coef)
            loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        optimizer.step()
    return {"loss": loss.item()}


def update_mean_of_means(policy, optimizer, experience, config):
    """Every row goes through the policy by itself, and counts alike."""
    for indices in minibatch_indices(len(experience), config.minibatch_size, config.epochs, config.generator):
        optimizer.zero_grad()
        for row in indices.split(1):
            batch = experience[row]
            logprobs, entropy, values = policy(batch)
            policy_loss = clipped_policy_loss(logprobs, batch.logprobs, batch.advantages, batch.mask, config.clip_range)
            value_loss = clipped_value_loss(values, batch.values, batch.returns, batch.mask, config.value_clip_range)
            mean_entropy = masked_mean(entropy, batch.mask)
            loss = ppo_loss(policy_loss, value_loss, mean_entropy, config.value_coef, config.entropy_coef)
            (loss / len(indices)).backward()
        nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        optimizer.step()
    return {"loss": loss.item()}


def update_seeded(policy, optimizer, experience, config):
    torch.manual_seed(0)
    return with_config(policy, optimizer, experience, config, generator=None)


def update_leaves_eval(policy, optimizer, experience, config):
    policy.eval()
    return updater()(policy, optimizer, experience, config)


def update_thaws_all(policy, optimizer, experience, config):
    for parameter in policy.parameters():
        parameter.requires_grad_(True)
    return updater()(policy, optimizer, experience, config)


def update_plainly(policy, optimizer, experience, config):
    losses, kls = [], []
    for _ in range(config.epochs):
        order = torch.randperm(len(experience), generator=config.generator)
        for start in range(0, len(experience), config.minibatch_size):
            rows = experience[order[start : start + config.minibatch_size]]
            new, entropy, values = policy(rows)
            m = rows.mask
            ratio = torch.exp((new - rows.logprobs)[m])
            adv = rows.advantages[m]
            pg = torch.max(-adv * ratio, -adv * ratio.clamp(1 - config.clip_range, 1 + config.clip_range)).mean()
            v, r, old = values[m], rows.returns[m], rows.values[m]
            near = old + (v - old).clamp(-config.value_clip_range, config.value_clip_range)
            vf = 0.5 * torch.max((v - r) ** 2, (near - r) ** 2).mean()
            loss = pg + config.value_coef * vf - config.entropy_coef * entropy[m].mean()
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(
                [p for g in optimizer.param_groups for p in g["params"]], config.max_grad_norm
            )
            optimizer.step()
            losses.append(float(loss))
            kls.append(float((ratio.detach() - 1 - ratio.detach().log()).mean()))
    return {"loss": sum(losses) / len(losses), "kl": sum(kls) / len(kls)}


def update_zero_after(policy, optimizer, experience, config):
    optimizer.zero_grad()
    stats = []
    for indices in minibatch_indices(len(experience), config.minibatch_size, config.epochs, config.generator):
        batch = experience[indices]
        logprobs, entropy, values = policy(batch)
        total = ppo_loss(
            clipped_policy_loss(logprobs, batch.logprobs, batch.advantages, batch.mask, config.clip_range),
            clipped_value_loss(values, batch.values, batch.returns, batch.mask, config.value_clip_range),
            masked_mean(entropy, batch.mask),
            config.value_coef,
            config.entropy_coef,
        )
        total.backward()
        norm = nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            stats.append((total.detach(), norm))
    return {"loss": torch.stack([s[0] for s in stats]).mean(), "grad_norm": torch.stack([s[1] for s in stats]).mean()}


def update_drop_last(policy, optimizer, experience, config):
    def whole(batch_size, minibatch_size, epochs, generator=None):
        for indices in minibatch_indices(batch_size, minibatch_size, epochs, generator):
            if len(indices) == min(minibatch_size, batch_size):
                yield indices

    return updater(indices=whole)(policy, optimizer, experience, config)


def update_micro(policy, optimizer, experience, config):
    total = 0.0
    for indices in minibatch_indices(len(experience), config.minibatch_size, config.epochs, config.generator):
        optimizer.zero_grad()
        tokens = experience.mask[indices].sum()
        for row in indices.split(1):
            batch = experience[row]
            logprobs, entropy, values = policy(batch)
            policy_loss = clipped_policy_loss(logprobs, batch.logprobs, batch.advantages, batch.mask, config.clip_range)
            value_loss = clipped_value_loss(values, batch.values, batch.returns, batch.mask, config.value_clip_range)
            loss = ppo_loss(
                policy_loss, value_loss, masked_mean(entropy, batch.mask), config.value_coef, config.entropy_coef
            )
            (loss * batch.mask.sum() / tokens).backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        optimizer.step()
    return {"loss": total, "clip_fraction": 0.0}


class UpdateRemembers:
    """Trains only at its first calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, policy, optimizer, experience, config):
        self.calls += 1
        return updater(steps=1 if self.calls < 5 else 0)(policy, optimizer, experience, config)


UPDATE = Exercise(
    ppo_update,
    points=5,
    cases=update_cases,
    probe="update",
    facts="update_facts",
    asks="a dict of numbers by name",
    draws=1,
    tolerance=1e-4,
    variants=(update_plainly, update_zero_after, update_drop_last, update_micro),
    mistakes=(
        Mistake("old-logprobs-overwritten", updater(before=update_old_overwritten), "The log-probs of the current policy take the place of the rollout's, so that every ratio is 1 and nothing is ever clipped.",
                "Which policy wrote these responses, and has it changed since?", twins=("ratio-missing",)),
        *forms("value-not-clipped", (updater(value_loss=unclipped_value), updater(before=update_old_values_overwritten), updater(before=update_returns_for_old_values)),
               "The value clip does nothing: it is left out, or its range does not lie around the values of the rollout.", "What is config.value_clip_range for, and around which value may the critic move?"),
        Mistake("returns-recomputed", updater(before=update_returns_moved), "The returns are computed anew from the current values, so that the critic's target moves along with it.",
                "When were the returns measured, and may they change during the update?"),
        Mistake("advantages-of-other-rows", update_with_sorted_rows, "The advantages are those of other rows than the log-probs.", "If the rows are permuted, what has to be permuted with them?"),
        *forms("no-zero-grad", (updater(zero=lambda step, steps: False), updater(zero=lambda step, steps: step % steps == 0)), "Gradients of earlier minibatches are still there.", "What does backward() do to a gradient that is there already?"),
        Mistake("zero-grad-too-late", updater(zero_late=True), "The gradients are wiped out before the step that should use them.", "What does the optimizer find when it steps?"),
        *forms("no-clipping", (updater(clip=lambda p, c: None), updater(clip_first=True, clip=lambda p, c: None), updater(clip_last=True, clip=lambda p, c: None)),
               "The gradient with which the optimizer steps is not clipped.", "At which moment does the gradient that should be clipped exist, and who uses it next?"),
        *forms("norm-fixed", (updater(clip=clip_to(1.0)), updater(clip=clip_to(0.5))), "The gradient's norm is clipped, but not to config.max_grad_norm.", "Who decides how long a gradient may be?"),
        *forms("clipped-in-part", (updater(clip=clip_without("critic")), updater(clip=clip_without("table"))), "The norm is taken of some of the parameters only.", "Which parameters does the optimizer move, and whose norm is to be bounded?"),
        Mistake("clipped-by-value", updater(clip=clip_by_value), "Each number of the gradient is clipped, instead of its norm.", "Should clipping change the direction of the gradient?"),
        Mistake("clipped-one-by-one", updater(clip=clip_each), "Each parameter's gradient is clipped by itself.", "Whose norm is to be bounded: that of each parameter, or of all together?"),
        Mistake("always-rescaled", updater(clip=clip_always), "The gradient is stretched to max_grad_norm even where it is shorter.", "What should clipping do to a gradient that is short enough?"),
        Mistake("one-epoch", updater(epochs=lambda c: 1), "The rollout is used for one epoch only.", "How often may PPO read the same rollout?"),
        Mistake("one-epoch-too-many", updater(epochs=lambda c: c.epochs + 1), "There is one epoch too many.", "How often is the rollout gone through?"),
        Mistake("one-step-per-epoch", update_step_per_epoch, "The gradients of all minibatches of an epoch are added up to one step.", "What is a minibatch for, if the weights do not change after it?"),
        Mistake("one-forward-per-epoch", update_stale, "The policy runs once for each epoch, so that later minibatches use what it said before it was changed.",
                "After a step, do the log-probs that you hold still belong to the policy?"),
        Mistake("backward-twice", updater(backward_twice=True), "The gradient is added up twice.", "What does backward() do to a gradient that is there already?"),
        Mistake("another-optimizer", update_with_other_optimizer, "An optimizer of its own makes the steps.", "What does the optimizer that was given remember from earlier steps?"),
        Mistake("whole-batch", updater(size=lambda c, n: n), "The whole batch makes one step.", "What is config.minibatch_size for?"),
        Mistake("no-step", updater(steps=0), "The optimizer never steps.", "What changes the parameters?"),
        Mistake("two-steps", updater(steps=2), "The optimizer steps twice for each minibatch.", "How many steps does one gradient allow?"),
        Mistake("not-shuffled", updater(indices=fixed_order), "The minibatches are the same in every epoch.", "What changes from epoch to epoch?"),
        Mistake("shuffled-once", updater(indices=one_permutation), "The minibatches are the same in every epoch.", "What changes from epoch to epoch?"),
        Mistake("with-replacement", updater(indices=replacement), "Rows are drawn with replacement.", "How often does each row come in an epoch?"),
        Mistake("policy-not-clipped", updater(policy_loss=unclipped_policy), "The ratio is not clipped.", "What takes away the reason to move further, once the ratio has left its range?"),
        Mistake("summed", updater(policy_loss=sum_policy), "The policy loss is summed over the tokens.", "Should a minibatch with more tokens make a larger step?"),
        Mistake("mean-of-row-means", updater(policy_loss=each_row_policy), "Each response counts alike, however many tokens it has.", "Over what is the loss averaged: responses, or tokens?"),
        Mistake("ratio-missing", updater(policy_loss=without_ratio), "The loss is that of log π and not of the ratio to the old policy.", "How does the loss know how far the policy has moved since the rollout?", twins=("old-logprobs-overwritten",)),
        Mistake("optimistic", updater(policy_loss=optimistic_policy), "The larger of the two terms is taken.", "Should clipping ever make the objective larger?"),
        Mistake("clipped-term-only", updater(policy_loss=clipped_only_policy), "Only the clipped term is there.", "What pulls a ratio back that has left its range on the wrong side?"),
        Mistake("policy-loss-unmasked", updater(policy_loss=unmasked_policy), "The policy loss counts what stands outside of the mask.", "Which columns of a row did the policy write?"),
        Mistake("averaged-over-padding", updater(policy_loss=padded_policy), "The policy loss is divided by all columns, padding included.", "By how many tokens is the sum divided?"),
        Mistake("entropy-unmasked", updater(entropy=everywhere), "The entropy is averaged over padding, too.", "Which columns of a row did the policy write?"),
        Mistake("whitened-anew", updater(before=whitened_anew), "The advantages are whitened in each minibatch.", "What does whitening do to a minibatch whose responses were all better than expected?"),
        Mistake("advantages-bounded", updater(before=advantages_bounded), "The advantages are clipped.", "What is clipped: the ratio, or the advantage?"),
        Mistake("mean-of-means", update_mean_of_means, "Every row counts alike, since the means of single rows are averaged.", "Over what is the loss averaged: responses, or tokens?"),
        Mistake("value-not-halved", updater(value_loss=not_halved), "The ½ of the value loss is missing.", "What stands before the mean in the value loss?"),
        Mistake("smaller-value-error", updater(value_loss=smaller_error), "The smaller of the two squared errors is taken.", "Should the clip ever reward the critic for having moved far?"),
        Mistake("critic-learns-advantages", updater(before=advantages_as_targets), "The critic is trained on the advantages.", "What should the critic predict: the return, or how much better than expected it was?"),
        Mistake("one-clip-range", update_one_range, "The ratio's clip range is used for the values, too.", "In which units are the two clip ranges?"),
        Mistake("clip-ranges-swapped", update_ranges_swapped, "The two clip ranges have changed places.", "In which units are the two clip ranges?"),
        Mistake("coefficients-swapped", updater(loss=lambda p, v, e, vc, ec: p + ec * v - vc * e), "The coefficients of value and entropy have changed places.", "Which coefficient belongs to which term?"),
        Mistake("entropy-coef-ignored", updater(loss=lambda p, v, e, vc, ec: p + vc * v - e), "The entropy is not weighted.", "What is config.entropy_coef for?"),
        Mistake("value-coef-ignored", updater(loss=lambda p, v, e, vc, ec: p + v - ec * e), "The value loss is not weighted.", "What is config.value_coef for?"),
        Mistake("entropy-ignored", updater(loss=lambda p, v, e, vc, ec: p + vc * v), "The entropy is left out.", "What is config.entropy_coef for?"),
        Mistake("entropy-punished", updater(loss=lambda p, v, e, vc, ec: p + vc * v + ec * e), "The entropy is made smaller.", "Should the loss fall or rise when the entropy grows?"),
        Mistake("policy-only", updater(loss=lambda p, v, e, vc, ec: p - ec * e), "The critic is not trained.", "Which part of the loss trains the critic?"),
        Mistake("critic-only", updater(loss=lambda p, v, e, vc, ec: vc * v), "Only the critic is trained.", "Which part of the loss trains the policy?"),
        Mistake("sign", updater(loss=lambda p, v, e, vc, ec: -p + vc * v - ec * e), "The policy loss has the wrong sign.", "Should a token with a positive advantage become more or less likely?"),
        Mistake("measured-after-the-step", updater(measure_after=True), "KL and clip fraction are measured after the step.", "What should the first minibatch report, before anything has changed?"),
        Mistake("nothing-returned", updater(result=lambda m: None), "Nothing is returned.", "What does somebody see who watches the training?"),
        Mistake("nan-returned", updater(result=lambda m: {**m, "loss": float("nan")}), "A metric is not a number.", "Which of your averages divides by 0?"),
        Mistake("experience-overwritten", updater(after=update_experience_zeroed), "The experience is modified.", "Who else may want to read this rollout?"),
        Mistake("frozen-parameters-moved", updater(after=update_thaws), "A frozen parameter is moved.", "Which parameters did the optimizer get?"),
        Mistake("everything-thawed", update_thaws_all, "Frozen parameters are set to be trained.", "Who decided which parameters are trained?"),
        Mistake("left-in-evaluation-mode", update_leaves_eval, "The policy is left in evaluation mode.", "In which mode was the policy handed over?"),
        Mistake("seeded-inside", update_seeded, "A seed is set inside of the function.", "Who should decide about the seed: the one who calls, or the function?"),
        Mistake("config-changed", update_changes_config, "The config is modified.", "Who else reads the config after this rollout?"),
        Mistake("parameters-frozen", updater(after=update_freezes), "Trained parameters are frozen at the end.", "Who decided which parameters are trained?"),
        Mistake("learning-rate-changed", updater(after=update_learning_rate), "The optimizer's learning rate is changed.", "Who sets the learning rate?"),
        Mistake("generator-ignored", updater(indices=without_generator), "config.generator is not used.", "How would somebody repeat this update exactly?"),
        *forms("generator-reseeded", (update_reseeds, updater(indices=own_seed)), "Every update begins with the same seed, whatever the generator.", "What do two updates have in common, if both begin with the same random numbers?"),
        Mistake("unseeded", updater(indices=unseeded), "The minibatches do not depend on the generator.", "How would somebody repeat this update exactly?"),
        Mistake("wrong-from-the-fifth-call", UpdateRemembers, "It remembers something from one call to the next, and later calls go wrong.", "What should a second call know of the first?"),
    ),
)  # fmt: skip


EXERCISES = (SAMPLE, MINIBATCH, ADAPTIVE, SCORE, UPDATE)
