"""Lesson 00: a language model is a policy."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from autograder.draws import Draw, token_masks
from autograder.exercise import Case, Exercise, Mistake, forms
from rlhf_core.policy import masked_mean, response_mask, sft_loss, token_entropy, token_logprobs

# token_logprobs


def logprobs_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    extreme = d.normal(2, 4, 5) + 1e4 * d.integers(-1, 2, 2, 4, 5)
    half, half_name = (torch.float16, "float16") if seed % 3 == 2 else (torch.bfloat16, "bfloat16")
    return [
        Case((d.normal(2, 4, 5, scale=2), d.integers(0, 5, 2, 4)), "temperature left at 1"),
        Case((d.normal(2, 5, 6, scale=2), d.integers(0, 6, 2, 5), 0.6), "temperature 0.6"),
        Case((d.normal(5, 3, 4, scale=2), d.integers(0, 4, 5, 3), 1.7), "temperature 1.7"),
        Case((d.normal(1, 2, 4, scale=2), d.integers(0, 4, 1, 2), 1.0), "one row of two tokens"),
        Case((d.normal(2, 3, 300, scale=2), d.integers(256, 300, 2, 3), 0.8), "a vocabulary of 300 tokens"),
        Case((extreme, d.integers(0, 5, 2, 4), 1.0), "logits of ±10,000", atol=5e-3),
        Case(
            ((d.normal(2, 4, 6, scale=3) + 20).to(half), d.integers(0, 6, 2, 4), 0.7),
            f"{half_name} logits",
            gradients=False,
        ),
    ]


def pick(log_p, tokens):
    return log_p.gather(-1, tokens[..., None])[..., 0]


def no_shift(logits, tokens, temperature=1.0):
    return pick(F.log_softmax(logits[:, :-1].float() / temperature, -1), tokens[:, :-1])


def shifted_wrong_way(logits, tokens, temperature=1.0):
    return pick(F.log_softmax(logits[:, 1:].float() / temperature, -1), tokens[:, :-1])


def raw_logits(logits, tokens, temperature=1.0):
    return pick(logits[:, :-1].float() / temperature, tokens[:, 1:])


def softmax_over_time(logits, tokens, temperature=1.0):
    return pick(F.log_softmax(logits[:, :-1].float() / temperature, 1), tokens[:, 1:])


def softmax_over_all_times(logits, tokens, temperature=1.0):
    return pick(F.log_softmax(logits.float() / temperature, 1)[:, :-1], tokens[:, 1:])


def softmax_over_rows(logits, tokens, temperature=1.0):
    return pick(F.log_softmax(logits[:, :-1].float() / temperature, 0), tokens[:, 1:])


def softmax_over_everything(logits, tokens, temperature=1.0):
    log_p = F.log_softmax(logits.float().flatten(1) / temperature, -1).view_as(logits)
    return pick(log_p[:, :-1], tokens[:, 1:])


def most_likely_token(logits, tokens, temperature=1.0):
    return F.log_softmax(logits[:, :-1].float() / temperature, -1).amax(-1)


def every_column(logits, tokens, temperature=1.0):
    return pick(F.log_softmax(logits.float() / temperature, -1), tokens.roll(-1, 1))


def padded_with_zero(logits, tokens, temperature=1.0):
    return F.pad(token_logprobs(logits, tokens, temperature), (1, 0))


def exponential_overflows(logits, tokens, temperature=1.0):
    z = logits[:, :-1].float() / temperature
    return pick(z, tokens[:, 1:]) - z.exp().sum(-1).log()


def clamped_logits(logits, tokens, temperature=1.0):
    return token_logprobs(logits.float().clamp(-100, 100), tokens, temperature)


def clamped_logprobs(logits, tokens, temperature=1.0):
    return token_logprobs(logits, tokens, temperature).clamp(min=-100)


def low_precision_logsumexp(logits, tokens, temperature=1.0):
    z = logits[:, :-1] / temperature
    return pick(z, tokens[:, 1:]) - z.logsumexp(-1)


def divides_in_low_precision(logits, tokens, temperature=1.0):
    return pick(F.log_softmax((logits[:, :-1] / temperature).float(), -1), tokens[:, 1:])


def rounded_back(logits, tokens, temperature=1.0):
    return token_logprobs(logits, tokens, temperature).to(logits.dtype)


def normaliser_detached(logits, tokens, temperature=1.0):
    z = logits[:, :-1].float() / temperature
    return pick(z, tokens[:, 1:]) - z.logsumexp(-1).detach()


def negative_loglikelihood(logits, tokens, temperature=1.0):
    return F.cross_entropy((logits[:, :-1].float() / temperature).transpose(1, 2), tokens[:, 1:], reduction="none")


def no_temperature(logits, tokens, temperature=1.0):
    return pick(F.log_softmax(logits[:, :-1].float(), -1), tokens[:, 1:])


def times_temperature(logits, tokens, temperature=1.0):
    return pick(F.log_softmax(logits[:, :-1].float() * temperature, -1), tokens[:, 1:])


def temperature_after(logits, tokens, temperature=1.0):
    return pick(F.log_softmax(logits[:, :-1].float(), -1), tokens[:, 1:]) / temperature


def plain_probabilities(logits, tokens, temperature=1.0):
    return pick(F.softmax(logits[:, :-1].float() / temperature, -1), tokens[:, 1:])


def log_of_softmax(logits, tokens, temperature=1.0):
    return pick(F.softmax(logits[:, :-1].float() / temperature, -1).log(), tokens[:, 1:])


def log_with_floor(logits, tokens, temperature=1.0):
    return pick((F.softmax(logits[:, :-1].float() / temperature, -1) + 1e-8).log(), tokens[:, 1:])


def low_precision(logits, tokens, temperature=1.0):
    return pick(F.log_softmax(logits[:, :-1] / temperature, -1), tokens[:, 1:])


def no_gradient(logits, tokens, temperature=1.0):
    with torch.no_grad():
        return token_logprobs(logits, tokens, temperature)


def squeezed(logits, tokens, temperature=1.0):
    return token_logprobs(logits, tokens, temperature).squeeze()


def divides_in_place(logits, tokens, temperature=1.0):
    logits /= temperature
    return token_logprobs(logits, tokens)


def by_logsumexp(logits, tokens, temperature=1.0):
    z = logits.double() / temperature
    return (pick(z, tokens.roll(-1, 1)) - z.logsumexp(-1))[:, :-1]


def by_cross_entropy(logits, tokens, temperature=1.0):
    z = logits[:, :-1].float() / temperature
    return -F.cross_entropy(z.reshape(-1, z.shape[-1]), tokens[:, 1:].reshape(-1), reduction="none").view(z.shape[:2])


def by_categorical(logits, tokens, temperature=1.0):
    return torch.distributions.Categorical(logits=logits[:, :-1].float() / temperature).log_prob(tokens[:, 1:])


def by_rows(logits, tokens, temperature=1.0):
    rows = []
    for z, y in zip(logits.float(), tokens):
        rows.append(torch.stack([torch.log_softmax(z[t] / temperature, 0)[y[t + 1]] for t in range(len(y) - 1)]))
    return torch.stack(rows)


LOGPROBS = Exercise(
    token_logprobs,
    points=4,
    cases=logprobs_cases,
    trained=(0,),
    variants=(by_logsumexp, by_cross_entropy, by_categorical, by_rows),
    mistakes=(
        Mistake("no-shift", no_shift, "The logits at a position are taken as scores of the token at that same position.",
                "When the model stands at position t, which token is it about to choose?"),
        Mistake("shifted-the-wrong-way", shifted_wrong_way, "Each token is scored by the logits that come after it.",
                "Has the model that produced logits[:, t] already read token t?"),
        Mistake("raw-logits", raw_logits, "Logits are taken for log-probabilities.",
                "If you exponentiate the numbers of one position, what should they add up to?"),
        *forms("softmax-over-time", (softmax_over_time, softmax_over_all_times),
               "The distribution is normalised over positions instead of words.",
               "Between which alternatives does the model choose at one position?"),
        *forms("softmax-over-the-batch", (softmax_over_rows, softmax_over_everything),
               "The distribution is normalised over more than the words of one position.",
               "Between which alternatives does the model choose at one position of one row?"),
        Mistake("most-likely-token", most_likely_token, "The most likely token is scored, whichever was chosen.",
                "Whose log-probability is asked for: the model's favourite, or the token that stands there?"),
        *forms("a-column-too-many", (every_column, padded_with_zero), "There is a column for every token, also for one that nothing predicts.",
               "How many of the tokens have logits before them?"),
        Mistake("loss-not-logprob", negative_loglikelihood, "What comes back is the loss, the negative log-probability.",
                "Can the logarithm of a probability be positive?"),
        Mistake("ignores-temperature", no_temperature, "The temperature of the sampling is left out.",
                "From which distribution were the tokens drawn when the temperature is not 1?"),
        Mistake("multiplies-by-temperature", times_temperature, "The logits are multiplied by the temperature.",
                "Should a high temperature make the distribution flatter or sharper?"),
        Mistake("temperature-after-softmax", temperature_after, "The log-probabilities are divided by the temperature.",
                "Do the probabilities of one position still add up to 1 after you divide their logarithms?"),
        Mistake("probability-not-log", plain_probabilities, "Probabilities come back instead of their logarithms.",
                "In which unit are the answers asked for?"),
        Mistake("log-of-softmax", log_of_softmax, "A probability that underflows to 0 becomes -inf when its logarithm is taken.",
                "Can you get the logarithm without ever forming the probability?"),
        Mistake("log-with-a-floor", log_with_floor, "A small constant inside the logarithm hides the underflow and bends small values.",
                "What does your formula give for a token whose probability is e^-50?"),
        Mistake("exponential-overflows", exponential_overflows, "The exponential of a large logit overflows.",
                "Do the probabilities change when the same number is taken from all logits of a position?"),
        *forms("clamped", (clamped_logits, clamped_logprobs), "Large numbers are cut off, and with them the answer.",
               "What should the answer be for logits of −10,000 and 10,000?"),
        *forms("low-precision", (low_precision, low_precision_logsumexp), "The softmax is computed in half precision, as the logits come.",
               "How many digits does bfloat16 hold, and how much does one PPO step change a log-probability?"),
        Mistake("divides-in-low-precision", divides_in_low_precision, "The division by the temperature happens before the change to float32.",
                "In which precision is each step computed, the first one included?"),
        Mistake("rounded-back", rounded_back, "It is computed in float32, and then rounded to the precision of the logits.",
                "How many digits does bfloat16 hold, and how much does one PPO step change a log-probability?"),
        Mistake("normaliser-detached", normaliser_detached, "The values are right, but the gradient leaves out the normaliser.",
                "When one word becomes more likely, what must happen to the others?"),
        Mistake("no-gradient", no_gradient, "The values are right, but no gradient comes through.",
                "Who is going to train on these numbers?"),
        Mistake("squeezes-everything", squeezed, "A squeeze without a dimension also removes a batch or a time of size 1.",
                "What is the shape of your answer when there is only one row, or one token to score?"),
        Mistake("divides-in-place", divides_in_place, "The caller's logits are divided by the temperature in place.",
                "What will the next function find in these logits?"),
    ),
)  # fmt: skip

# response_mask


def mask_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    words = d.integers(3, 9, 2, 6)
    eos = 2
    plain = words.clone()
    plain[0, 4], plain[1, 3], plain[:, 5], plain[1, 4] = eos, eos, 0, 0
    twice = d.integers(3, 9, 3, 8)
    twice[0, 4], twice[0, 6], twice[1, 3], twice[1, 4], twice[2, 7] = eos, eos, eos, eos, eos
    in_prompt = d.integers(3, 9, 3, 7)
    in_prompt[0, 0], in_prompt[0, 1], in_prompt[0, 5], in_prompt[1, 1], in_prompt[2, 2] = eos, eos, eos, eos, eos
    padded = d.integers(3, 9, 5, 8)  # pad id and EOS id are the same
    padded[0, :2], padded[0, 5:], padded[1, :1], padded[1, 7:], padded[2, 6:], padded[3, :3] = (eos,) * 6
    at_once = d.integers(3, 9, 2, 5)
    at_once[0, 2], at_once[1, 1] = eos, eos
    zero = d.integers(3, 9, 2, 6)
    zero[0, 4:], zero[1, 5:] = 0, 0
    return [
        Case((plain, torch.tensor([2, 2]), eos), "prompts of equal length and an EOS in each response"),
        Case((plain, torch.tensor([3, 1]), eos), "prompts of different length"),
        Case((d.integers(3, 9, 2, 5), torch.tensor([2, 3]), eos), "responses without any EOS"),
        Case((twice, torch.tensor([2, 3, 4]), eos), "more than one EOS in a response"),
        Case((in_prompt, torch.tensor([3, 2, 4]), eos), "an EOS inside the prompt"),
        Case((padded, torch.tensor([4, 3, 2, 5, 1]), eos), "padding by EOS on both sides"),
        Case((at_once, torch.tensor([2, 1]), eos), "a response that is nothing but EOS"),
        Case((zero, torch.tensor([3, 2]), 0), "an EOS whose id is 0"),
        Case((torch.tensor([[5, 4]]), torch.tensor([1]), eos), "one row with one response token"),
    ]


def columns(tokens):
    return torch.arange(tokens.shape[1])


def response_part(tokens, prompt_lengths):
    return columns(tokens) >= prompt_lengths[:, None]


def until_second_eos(tokens, prompt_lengths, eos_id):
    part = response_part(tokens, prompt_lengths)
    return part & (((tokens == eos_id) & part).cumsum(1) <= 1)


def until_second_eos_of_row(tokens, prompt_lengths, eos_id):
    return response_part(tokens, prompt_lengths) & ((tokens == eos_id).cumsum(1) <= 1)


def one_beyond(tokens, prompt_lengths, eos_id):
    mask = response_mask(tokens, prompt_lengths, eos_id)
    return mask | (F.pad(mask, (1, 0))[:, :-1] & response_part(tokens, prompt_lengths))


def longest_prompt_for_all(tokens, prompt_lengths, eos_id):
    return response_mask(tokens, prompt_lengths.amax().expand_as(prompt_lengths), eos_id)


def shortest_prompt_for_all(tokens, prompt_lengths, eos_id):
    return response_mask(tokens, prompt_lengths.amin().expand_as(prompt_lengths), eos_id)


def own_idea_of_eos(tokens, prompt_lengths, eos_id):
    return response_mask(tokens, prompt_lengths, 2)


def zero_is_no_id(tokens, prompt_lengths, eos_id):
    return response_mask(tokens, prompt_lengths, eos_id or 1)


def eos_at_once_missed(tokens, prompt_lengths, eos_id):
    part = response_part(tokens, prompt_lengths)
    is_eos = ((tokens == eos_id) & (columns(tokens) > prompt_lengths[:, None])).int()
    return part & (is_eos.cumsum(1) - is_eos == 0)


def left_padding_added(tokens, prompt_lengths, eos_id):
    padding = (tokens == eos_id).long().cumprod(1).sum(1)
    return response_mask(tokens, (prompt_lengths + padding).clamp(max=tokens.shape[1]), eos_id)


def moved_to_the_left(tokens, prompt_lengths, eos_id):
    return columns(tokens) < response_mask(tokens, prompt_lengths, eos_id).sum(1, keepdim=True)


def mask_squeezed(tokens, prompt_lengths, eos_id):
    return response_mask(tokens, prompt_lengths, eos_id).squeeze()


def without_eos(tokens, prompt_lengths, eos_id):
    part = response_part(tokens, prompt_lengths)
    return part & (((tokens == eos_id) & part).cumsum(1) == 0)


def everything_after_prompt(tokens, prompt_lengths, eos_id):
    return response_part(tokens, prompt_lengths)


def eos_in_prompt_counts(tokens, prompt_lengths, eos_id):
    is_eos = (tokens == eos_id).int()
    return response_part(tokens, prompt_lengths) & (is_eos.cumsum(1) - is_eos == 0)


def prompt_included(tokens, prompt_lengths, eos_id):
    return response_mask(tokens, prompt_lengths, eos_id) | ~response_part(tokens, prompt_lengths)


def first_token_lost(tokens, prompt_lengths, eos_id):
    return response_mask(tokens, prompt_lengths, eos_id) & (columns(tokens) > prompt_lengths[:, None])


def one_too_early(tokens, prompt_lengths, eos_id):
    return response_mask(tokens, prompt_lengths, eos_id) | (columns(tokens) == prompt_lengths[:, None] - 1)


def no_eos_means_first(tokens, prompt_lengths, eos_id):
    is_eos = ((tokens == eos_id) & response_part(tokens, prompt_lengths)).int()
    return response_part(tokens, prompt_lengths) & (
        columns(tokens) <= is_eos.argmax(1)[:, None].clamp(min=prompt_lengths[:, None])
    )


def no_eos_means_nothing(tokens, prompt_lengths, eos_id):
    is_eos = ((tokens == eos_id) & response_part(tokens, prompt_lengths)).int()
    return response_part(tokens, prompt_lengths) & (columns(tokens) <= is_eos.argmax(1)[:, None])


def last_eos(tokens, prompt_lengths, eos_id):
    part = response_part(tokens, prompt_lengths)
    is_eos = (tokens == eos_id) & part
    last = torch.where(is_eos.any(1), tokens.shape[1] - 1 - is_eos.flip(1).int().argmax(1), tokens.shape[1])
    return part & (columns(tokens) <= last[:, None])


def not_eos_tokens(tokens, prompt_lengths, eos_id):
    return response_part(tokens, prompt_lengths) & (tokens != eos_id)


def inverted(tokens, prompt_lengths, eos_id):
    return ~response_mask(tokens, prompt_lengths, eos_id)


def as_numbers(tokens, prompt_lengths, eos_id):
    return response_mask(tokens, prompt_lengths, eos_id).long()


def first_prompt_for_all(tokens, prompt_lengths, eos_id):
    return response_mask(tokens, prompt_lengths[:1].expand(len(tokens)), eos_id)


def writes_pads(tokens, prompt_lengths, eos_id):
    mask = response_mask(tokens, prompt_lengths, eos_id)
    tokens[~mask] = eos_id
    return mask


def mask_by_loop(tokens, prompt_lengths, eos_id):
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row in range(len(tokens)):
        for t in range(int(prompt_lengths[row]), tokens.shape[1]):
            mask[row, t] = True
            if tokens[row, t] == eos_id:
                break
    return mask


def mask_by_first_index(tokens, prompt_lengths, eos_id):
    part = columns(tokens)[None] >= prompt_lengths.unsqueeze(1)
    hits = (tokens == eos_id) & part
    first = torch.where(hits.any(1), hits.float().argmax(1), tokens.shape[1])
    return part.logical_and(columns(tokens)[None] <= first.unsqueeze(1))


def mask_by_cumsum(tokens, prompt_lengths, eos_id):
    part = columns(tokens) >= prompt_lengths.view(-1, 1)
    seen = ((tokens == eos_id) * part).cumsum(-1)
    shifted = torch.cat([torch.zeros_like(seen[:, :1]), seen[:, :-1]], 1)
    return part * (shifted == 0)


RESPONSE_MASK = Exercise(
    response_mask,
    points=4,
    cases=mask_cases,
    variants=(mask_by_loop, mask_by_first_index, mask_by_cumsum),
    mistakes=(
        Mistake("eos-left-out", without_eos, "The EOS is treated as a delimiter and left out of the response.",
                "Who decided that the response ends there?"),
        Mistake("keeps-everything-after-eos", everything_after_prompt, "Everything after the prompt is counted, also what stands behind the EOS.",
                "What are the tokens behind the first EOS, and did the policy choose them?"),
        Mistake("eos-in-the-prompt-ends-it", eos_in_prompt_counts, "An EOS inside the prompt ends the response before it has begun.",
                "In which part of the row should you look for the first EOS?"),
        Mistake("prompt-included", prompt_included, "The prompt is counted as if the policy had written it.",
                "Which of these tokens could the policy have chosen differently?"),
        Mistake("first-token-lost", first_token_lost, "The first response token is given to the prompt.",
                "If the prompt has 3 tokens, in which column does the response begin?"),
        Mistake("one-too-early", one_too_early, "The last prompt token is counted as the first of the response.",
                "If the prompt has 3 tokens, in which column does the response begin?"),
        Mistake("no-eos-means-first-token", no_eos_means_first, "Without any EOS, argmax answers 0, and only the first token is kept.",
                "What does argmax say of a row in which nothing is True?"),
        Mistake("no-eos-means-nothing", no_eos_means_nothing, "Without any EOS, argmax answers 0, and the whole response is lost.",
                "What does argmax say of a row in which nothing is True?"),
        Mistake("last-eos", last_eos, "The response is taken to reach to the last EOS instead of the first.",
                "When padding is EOS too, where does the last EOS stand?"),
        Mistake("not-eos-tokens", not_eos_tokens, "Every token that is not EOS is counted, wherever it stands.",
                "What if there is text behind the first EOS, and what of the EOS itself?"),
        Mistake("inverted", inverted, "The mask is True where it should be False.",
                "Which tokens does True mark in this course?"),
        Mistake("numbers-not-bool", as_numbers, "The mask holds the numbers 0 and 1 instead of truth values.",
                "What does x[mask] do when mask holds integers?"),
        *forms("one-prompt-length-for-all", (first_prompt_for_all, longest_prompt_for_all, shortest_prompt_for_all),
               "All rows are cut at the same column.", "Are all the prompts of a batch equally long?"),
        *forms("until-the-second-eos", (until_second_eos, until_second_eos_of_row), "What follows the first EOS is kept until a second one comes.",
               "How many EOS has a row seen just before its first one, and how many just after it?"),
        Mistake("one-beyond-the-eos", one_beyond, "One token behind the EOS is counted too.",
                "Which is the last token that the policy chose?"),
        *forms("eos-id-of-its-own", (own_idea_of_eos, zero_is_no_id), "The EOS that is looked for is not the one that was asked for.",
               "Could the id of EOS be 0, or any other number?"),
        Mistake("eos-at-once-missed", eos_at_once_missed, "An EOS that is the first token of the response is overlooked.",
                "What is the shortest response that a policy can give?"),
        Mistake("left-padding-twice", left_padding_added, "The padding on the left is counted again, although prompt_lengths has it.",
                "What does prompt_lengths count?"),
        Mistake("moved-to-the-left", moved_to_the_left, "The mask begins at column 0, as if the prompt were not there.",
                "In which columns of the row do the response's tokens stand?"),
        Mistake("squeezes-everything", mask_squeezed, "A squeeze without a dimension also removes a batch of size 1.",
                "What is the shape of your answer when there is only one row?"),
        Mistake("writes-into-tokens", writes_pads, "The mask is right, but the caller's tokens are overwritten.",
                "Who else is going to read these tokens?"),
    ),
)  # fmt: skip

# masked_mean


def mean_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    empty_row = d.ragged(3, 4)
    empty_row[1] = False
    some = d.anywhere(4, 5)
    cube = torch.stack([d.ragged(3, 4), d.anywhere(3, 4)])
    with_zeros = d.normal(3, 5) + 1
    with_zeros[:, 0] = with_zeros[0, 3] = 0.0
    cases = [Case(tuple(m.hide(d.normal(*m.mask.shape) + 1)) + (m.mask,), f"{m.label}, no dim") for m in token_masks(d)]
    values = (d.normal(4, 5) + 2).masked_fill(~some, 40.0)
    return [
        *cases,
        Case((values, some, 1), "dim=1"),
        Case((values, some, 0), "dim=0, where a column may have no True"),
        Case((values, some, -1), "dim=-1"),
        Case(
            ((d.normal(3, 4) + 2).masked_fill(~empty_row, torch.nan), empty_row, 1), "dim=1 and a row without any True"
        ),
        Case((d.normal(2, 3, 4) + 1, cube, 1), "three dimensions, dim=1"),
        Case((d.normal(2, 3, 4) + 1, cube, -1), "three dimensions, dim=-1"),
        Case((d.normal(5) + 1, torch.tensor([False, True, True, True, False])), "one dimension"),
        Case((d.normal(5) + 1, torch.tensor([False, True, True, True, False]), 0), "one dimension, dim=0"),
        Case((d.normal(2, 3) + 1, torch.zeros(2, 3, dtype=torch.bool), 1), "dim=1 and no True at all"),
        Case((with_zeros, d.ragged(3, 5), 1), "values that are 0"),
        Case((d.normal(2, 3), torch.zeros(2, 3, dtype=torch.bool)), "no True at all and no dim", raises="ValueError"),
    ]


def kept(values, mask):
    return torch.where(mask, values, torch.zeros_like(values))


def over_all_positions(values, mask, dim=None):
    return kept(values, mask).mean() if dim is None else kept(values, mask).mean(dim)


def over_whole_dim(values, mask, dim=None):
    return masked_mean(values, mask) if dim is None else kept(values, mask).mean(dim)


def over_longest_row(values, mask, dim=None):
    return masked_mean(values, mask) if dim is None else kept(values, mask).sum(dim) / mask.sum(dim).amax().clamp(min=1)


def over_all_true(values, mask, dim=None):
    return masked_mean(values, mask) if dim is None else kept(values, mask).sum(dim) / mask.sum().clamp(min=1)


def counts_what_is_not_zero(values, mask, dim=None):
    masked_mean(values, mask, dim)
    there = kept(values, mask)
    return there.sum() / (there != 0).sum() if dim is None else there.sum(dim) / (there != 0).sum(dim).clamp(min=1)


def zero_is_no_dim(values, mask, dim=None):
    return masked_mean(values, mask, dim or None)


def negative_is_no_dim(values, mask, dim=None):
    return masked_mean(values, mask, dim if dim is not None and dim >= 0 else None)


def empty_mask_is_nan(values, mask, dim=None):
    return kept(values, mask).sum() / mask.sum() if dim is None else masked_mean(values, mask, dim)


def empty_slice_raises(values, mask, dim=None):
    if not (mask.any() if dim is None else mask.any(dim).all()):
        raise ValueError("nothing to average")
    return masked_mean(values, mask, dim)


def through_hidden(values, mask, dim=None):
    shown = values.clone()
    shown.data[~mask] = 0
    masked_mean(values, mask, dim)
    return shown.sum() / mask.sum() if dim is None else shown.sum(dim) / mask.sum(dim).clamp(min=1)


def mean_of_rows(values, mask, dim=None):
    if dim is not None:
        return masked_mean(values, mask, dim)
    masked_mean(values, mask)
    if values.dim() < 2:
        return masked_mean(values, mask)
    return (kept(values, mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()


def by_product(values, mask, dim=None):
    if dim is None:
        if not mask.any():
            raise ValueError("empty mask")
        return (values * mask).sum() / mask.sum()
    return (values * mask).sum(dim) / mask.sum(dim).clamp(min=1)


def empty_is_nan(values, mask, dim=None):
    return masked_mean(values, mask) if dim is None else kept(values, mask).sum(dim) / mask.sum(dim)


def empty_is_zero(values, mask, dim=None):
    if dim is None and not mask.any():
        return values.new_zeros(())
    return masked_mean(values, mask, dim)


def keeps_dim(values, mask, dim=None):
    return masked_mean(values, mask, dim) if dim is None else masked_mean(values, mask, dim).unsqueeze(dim)


def ignores_dim(values, mask, dim=None):
    return masked_mean(values, mask)


def sums_only(values, mask, dim=None):
    masked_mean(values, mask, dim)
    return kept(values, mask).sum() if dim is None else kept(values, mask).sum(dim)


def with_epsilon(values, mask, dim=None):
    if dim is None and not mask.any():
        raise ValueError("empty mask")
    total, count = (
        (kept(values, mask).sum(), mask.sum()) if dim is None else (kept(values, mask).sum(dim), mask.sum(dim))
    )
    return total / (count + 1e-2)


def unmasked_mean(values, mask, dim=None):
    if dim is None and not mask.any():
        raise ValueError("empty mask")
    return values.mean() if dim is None else values.mean(dim)


def cut_off(values, mask, dim=None):
    return masked_mean(values.detach(), mask, dim)


def zeroes_in_place(values, mask, dim=None):
    result = masked_mean(values, mask, dim)
    with torch.no_grad():
        values[~mask] = 0
    return result


def nan_gradient(values, mask, dim=None):
    if dim is None and not mask.any():
        raise ValueError("empty mask")
    weights = torch.where(mask, values / mask, 0.0)
    return weights.sum() / mask.sum() if dim is None else weights.sum(dim) / mask.sum(dim).clamp(min=1)


def mean_by_selection(values, mask, dim=None):
    if dim is None:
        if not bool(mask.any()):
            raise ValueError("nothing to average")
        return values[mask].mean()
    return values.masked_fill(~mask, 0).sum(dim=dim) / mask.sum(dim=dim).clamp(min=1)


def mean_by_nanmean(values, mask, dim=None):
    if dim is None:
        if mask.sum() == 0:
            raise ValueError("nothing to average")
        return torch.masked_select(values, mask).sum() / mask.sum()
    count = mask.float().sum(dim)
    total = values.masked_fill(mask.logical_not(), 0.0).sum(dim)
    return torch.where(count > 0, total / count.clamp(min=1.0), torch.zeros_like(total))


def mean_in_double(values, mask, dim=None):
    wide = torch.where(mask, values, 0.0).double()
    if dim is None:
        if int(mask.sum()) == 0:
            raise ValueError("nothing to average")
        return wide.sum() / mask.double().sum()
    return wide.sum(dim) / torch.maximum(mask.double().sum(dim), torch.tensor(1.0, dtype=torch.float64))


MEAN = Exercise(
    masked_mean,
    points=3,
    cases=mean_cases,
    trained=(0,),
    variants=(mean_by_selection, mean_by_nanmean, mean_in_double),
    mistakes=(
        *forms("divides-by-everything", (over_all_positions, over_whole_dim, over_longest_row), "The masked-out values are set to zero but still counted.",
               "By how many values should the sum be divided?"),
        Mistake("one-count-for-all", over_all_true, "All slices are divided by the number of all values.",
                "How many values does each slice have of its own?"),
        Mistake("counts-what-is-not-zero", counts_what_is_not_zero, "A value that is 0 is taken for one that is masked out.",
                "What tells you which values count: the values, or the mask?"),
        *forms("dim-taken-for-none", (zero_is_no_dim, negative_is_no_dim), "A dim of 0, or a negative one, is treated as no dim at all.",
               "Which values of dim count as true in Python's `if`, and what does −1 mean to PyTorch?"),
        Mistake("empty-slice-raises", empty_slice_raises, "A slice without any True raises an error.",
                "What does the contract ask for in a row that has nothing to average?"),
        Mistake("gradient-into-hidden", through_hidden, "The value is right, but hidden positions get a gradient.",
                "If a value has no influence on the mean, what should its gradient be?"),
        Mistake("mean-of-row-means", mean_of_rows, "Each row is averaged first, and then the rows.",
                "Should a token of a short row weigh more than one of a long row here?"),
        Mistake("multiplies-by-the-mask", by_product, "Multiplying by the mask is taken to remove what it hides.",
                "What is NaN times zero?"),
        Mistake("empty-slice-is-nan", empty_is_nan, "A slice without any True becomes 0/0.",
                "What does the contract ask for in a row that has nothing to average?"),
        *forms("empty-mask-passes", (empty_is_zero, empty_mask_is_nan), "Without any True and without dim, a number comes back as if it were a mean.",
               "Would you rather be told that there was nothing to average?"),
        Mistake("keeps-the-dimension", keeps_dim, "The averaged dimension stays, with size 1.",
                "What shape is asked for after averaging along dim?"),
        Mistake("ignores-dim", ignores_dim, "dim is ignored.", "What should come back for each row when dim is 1?"),
        Mistake("sum-not-mean", sums_only, "The sum comes back, not the mean.", "What is missing between a sum and a mean?"),
        Mistake("epsilon-in-the-count", with_epsilon, "A small number added to the count bends every mean.",
                "Is there a way to avoid dividing by zero that leaves the other slices alone?"),
        Mistake("mask-unused", unmasked_mean, "The mask has no influence.", "Which values should be left out?"),
        Mistake("cut-off", cut_off, "No gradient comes through.", "Losses are built on this mean: what do they need from it?"),
        Mistake("zeroes-the-input", zeroes_in_place, "The result is right, but the caller's values are overwritten.",
                "Who else is going to read these values?"),
        Mistake("nan-in-the-gradient", nan_gradient, "The value is right, but the hidden positions make the gradient NaN.",
                "Is a hidden value divided or multiplied before it is thrown away?"),
    ),
)  # fmt: skip

# token_entropy


def entropy_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    forbidden = d.normal(2, 3, 5)
    forbidden[0, 0, 1] = forbidden[1, 2, 4] = forbidden[1, 2, 0] = -torch.inf
    return [
        Case((d.normal(2, 3, 4, scale=1.5),), "ordinary logits"),
        Case((d.normal(5, 2, 6) + 50,), "logits that are all large", atol=1e-4),
        Case((d.normal(3, 2, 5, scale=2) - 200,), "logits that are all far below 0", atol=1e-4),
        Case((torch.zeros(1, 2, 7) + d.number(-3, 3),), "equal logits"),
        Case((d.normal(2, 2, 5) + 300 * d.integers(0, 2, 2, 2, 5),), "probabilities that underflow to 0", atol=1e-3),
        Case((forbidden,), "a logit of -inf"),
        Case(
            (torch.where(torch.arange(4) == d.integers(0, 4, 2, 2, 1), d.normal(2, 2, 4), -torch.inf),),
            "all logits but one -inf",
        ),
        Case((d.normal(1, 1, 3),), "a single position"),
    ]


def p_of(logits):
    return torch.softmax(logits, -1)


def entropy_naive(logits):
    p = p_of(logits)
    return -(p * p.log()).sum(-1)


def entropy_floor(logits):
    p = p_of(logits)
    return -(p * (p + 1e-3).log()).sum(-1)


def entropy_clamped(logits):
    p = p_of(logits).clamp(min=1e-3)
    return -(p * p.log()).sum(-1)


def entropy_overflows(logits):
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return -(p * (p + 1e-12).log()).sum(-1)


def entropy_forbidden_returns(logits):
    return token_entropy(logits.masked_fill(logits == -torch.inf, 0.0))


def entropy_forbidden_softened(logits):
    return token_entropy(logits.clamp(min=-5))


def entropy_overwrites(logits):
    entropy = token_entropy(logits)
    with torch.no_grad():
        logits[logits == -torch.inf] = -1e4
    return entropy


def entropy_squeezed(logits):
    return token_entropy(logits).squeeze()


def entropy_relative(logits):
    return token_entropy(logits) / torch.log(torch.tensor(float(logits.shape[-1])))


def entropy_collision(logits):
    return -p_of(logits).square().sum(-1).log()


def entropy_of_squares(logits):
    return 1 - p_of(logits).square().sum(-1)


def entropy_shifted(logits):
    return token_entropy(logits)[:, :-1]


def entropy_perplexity(logits):
    return token_entropy(logits).exp()


def entropy_bits(logits):
    return token_entropy(logits) / torch.log(torch.tensor(2.0))


def entropy_negative(logits):
    return -token_entropy(logits)


def entropy_of_best(logits):
    return -torch.log_softmax(logits, -1).max(-1).values


def entropy_mean(logits):
    return token_entropy(logits) / logits.shape[-1]


def entropy_over_time(logits):
    log_p = torch.log_softmax(logits, 1)
    p = log_p.exp()
    return -(p * log_p.masked_fill(p == 0, 0.0)).sum(-1)


def entropy_special(logits):
    return torch.special.entr(p_of(logits)).sum(-1)


def entropy_no_gradient(logits):
    return token_entropy(logits.detach())


def entropy_averaged(logits):
    return token_entropy(logits).mean()


def entropy_unnormalised(logits):
    p = p_of(logits)
    return -(p * logits.masked_fill(p == 0, 0.0)).sum(-1)


def entropy_by_logsumexp(logits):
    p = p_of(logits)
    return torch.logsumexp(logits, -1) - (p * logits.masked_fill(p == 0, 0.0)).sum(-1)


def entropy_by_where(logits):
    log_p = torch.log_softmax(logits.double(), -1)
    p = log_p.exp()
    return -torch.where(p > 0, p * torch.where(p > 0, log_p, 0.0), 0.0).sum(-1)


def entropy_by_clamp(logits):
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p.clamp(min=-1e6)).sum(dim=-1)


ENTROPY = Exercise(
    token_entropy,
    points=3,
    cases=entropy_cases,
    trained=(0,),
    variants=(entropy_by_logsumexp, entropy_by_where, entropy_by_clamp),
    mistakes=(
        Mistake("zero-times-infinity", entropy_naive, "A probability that underflows to 0 makes 0 · log 0, which is NaN.",
                "What should p log p be as p goes to 0, and does your code ever take the logarithm of 0?"),
        *forms("floor-in-the-logarithm", (entropy_floor, entropy_clamped), "A floor under the probabilities bends the entropy.",
               "What is the entropy by your formula when one token is certain?"),
        Mistake("exponential-overflows", entropy_overflows, "The exponential of a large logit overflows.",
                "Do the probabilities change when the same number is taken from all logits of a position?"),
        *forms("forbidden-tokens-return", (entropy_forbidden_returns, entropy_forbidden_softened), "A token whose logit is -inf gets a probability again.",
               "What probability does a logit of -inf stand for?"),
        Mistake("overwrites-logits", entropy_overwrites, "The result is right, but the caller's logits are overwritten.",
                "Who else is going to read these logits?"),
        Mistake("squeezes-everything", entropy_squeezed, "A squeeze without a dimension also removes a batch or a time of size 1.",
                "What is the shape of your answer when there is only one row?"),
        Mistake("relative-entropy", entropy_relative, "The entropy is divided by its largest possible value.",
                "What is the entropy of a fair coin in nats?"),
        *forms("another-measure", (entropy_collision, entropy_of_squares), "This measures disorder too, but with squared probabilities.",
               "What is the expectation of −log p, and with which weights?"),
        Mistake("last-position-lost", entropy_shifted, "The last position is left out.", "Does an entropy need to know which token comes next?"),
        Mistake("perplexity", entropy_perplexity, "The exponential of the entropy comes back.", "In which unit are the answers asked for?"),
        Mistake("bits-not-nats", entropy_bits, "The entropy is in bits.", "Which logarithm does the course use?"),
        Mistake("wrong-sign", entropy_negative, "The sign is missing.", "Can the entropy of a choice be negative?"),
        Mistake("surprise-of-one-token", entropy_of_best, "Only the most likely token's surprise is counted.",
                "Over which tokens is the expectation in the entropy taken?"),
        Mistake("averaged-over-words", entropy_mean, "The sum over words is divided by their number.",
                "What is the entropy of a fair coin in nats?"),
        Mistake("softmax-over-time", entropy_over_time, "The distribution is normalised over positions instead of words.",
                "Between which alternatives does the model choose at one position?"),
        Mistake("infinite-gradient", entropy_special, "The value is right, but where a probability is 0 the gradient becomes NaN.",
                "What is the slope of −p log p at p = 0, and which of its factors does your code form?"),
        Mistake("no-gradient", entropy_no_gradient, "The values are right, but no gradient comes through.",
                "What is an entropy bonus in a loss good for without a gradient?"),
        Mistake("one-number-for-all", entropy_averaged, "All positions are averaged into one number.",
                "How many numbers are asked for, and who knows which positions count?"),
        Mistake("logits-for-logprobs", entropy_unnormalised, "Logits are used where log-probabilities belong.",
                "Does your entropy change when you add 50 to all the logits? Should it?"),
    ),
)  # fmt: skip

# sft_loss


def sft_cases(seed: int) -> list[Case]:
    d = Draw(seed)

    def case(mask: torch.Tensor, label: str) -> Case:
        rows, time = mask.shape
        return Case((d.normal(rows, time, 5, scale=2), d.integers(0, 5, rows, time), mask), label)

    response = torch.tensor([[False, False, True, True, True], [False, True, True, True, False]])
    whole = torch.ones(2, 4, dtype=torch.bool)
    return [
        case(response, "a prompt and a response in each row"),
        case(d.anywhere(4, 7) & (torch.arange(7) > 0), "responses of very different length"),
        case(whole, "a mask that is True from column 0"),
        case(d.ragged(3, 6).logical_or(torch.arange(6) < 2), "rows of different length"),
        case(torch.tensor([[False, True]]), "a single response token"),
        Case(
            (d.normal(5, 4, 5) + 1e4 * d.integers(-1, 2, 5, 4, 5), d.integers(0, 5, 5, 4), d.ragged(5, 4)),
            "logits of ±10,000",
            atol=5e-3,
        ),
    ]


def nll(logits, tokens):
    return -token_logprobs(logits, tokens)


def sft_unshifted_mask(logits, tokens, mask):
    return masked_mean(nll(logits, tokens), mask[:, :-1])


def sft_everything(logits, tokens, mask):
    return nll(logits, tokens).mean()


def sft_row_means(logits, tokens, mask):
    keep = mask[:, 1:]
    rows = masked_mean(nll(logits, tokens), keep, 1)
    return rows[keep.any(1)].mean()


def sft_sum(logits, tokens, mask):
    return (nll(logits, tokens) * mask[:, 1:]).sum()


def sft_zeroed(logits, tokens, mask):
    return (nll(logits, tokens) * mask[:, 1:]).mean()


def sft_no_shift(logits, tokens, mask):
    return masked_mean(-pick(torch.log_softmax(logits, -1), tokens), mask)


def sft_zeroed_everywhere(logits, tokens, mask):
    return (nll(logits, tokens) * mask[:, 1:]).sum() / mask.numel()


def sft_longest(logits, tokens, mask):
    keep = mask[:, 1:]
    return ((nll(logits, tokens) * keep).sum(1) / keep.sum(1).amax()).mean()


def sft_no_shift_but_first(logits, tokens, mask):
    return masked_mean(-pick(torch.log_softmax(logits, -1), tokens)[:, 1:], mask[:, 1:])


def sft_log_of_softmax(logits, tokens, mask):
    return masked_mean(-pick(torch.softmax(logits[:, :-1], -1), tokens[:, 1:]).log(), mask[:, 1:])


def sft_floor(logits, tokens, mask):
    return masked_mean(-(pick(torch.softmax(logits[:, :-1], -1), tokens[:, 1:]) + 1e-8).log(), mask[:, 1:])


def sft_writes_labels(logits, tokens, mask):
    loss = sft_loss(logits, tokens, mask)
    tokens[~mask] = -100
    return loss


def sft_writes_mask(logits, tokens, mask):
    mask[:, 0] = False
    return sft_loss(logits, tokens, mask)


def sft_ignores_zero(logits, tokens, mask):
    labels = torch.where(mask, tokens, 0)[:, 1:]
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, ignore_index=0)


def sft_inverted(logits, tokens, mask):
    return nll(logits, tokens)[~mask[:, 1:]].mean()


def sft_smoothed(logits, tokens, mask):
    keep = mask[:, 1:]
    return F.cross_entropy(logits[:, :-1][keep], tokens[:, 1:][keep], label_smoothing=0.1)


def sft_perplexity(logits, tokens, mask):
    return sft_loss(logits, tokens, mask).exp()


def sft_probability(logits, tokens, mask):
    return masked_mean(1 - nll(logits, tokens).neg().exp(), mask[:, 1:])


def sft_both_masks(logits, tokens, mask):
    return masked_mean(nll(logits, tokens), mask[:, 1:] & mask[:, :-1])


def sft_sign(logits, tokens, mask):
    return -sft_loss(logits, tokens, mask)


def sft_counts_column_zero(logits, tokens, mask):
    return (nll(logits, tokens) * mask[:, 1:]).sum() / mask.sum()


def sft_detached(logits, tokens, mask):
    return sft_loss(logits.detach(), tokens, mask)


def sft_per_row(logits, tokens, mask):
    return (nll(logits, tokens) * mask[:, 1:]).sum() / len(tokens)


def sft_per_token(logits, tokens, mask):
    return nll(logits, tokens) * mask[:, 1:]


def sft_by_ignore_index(logits, tokens, mask):
    labels = tokens.masked_fill(~mask, -100)[:, 1:]
    return F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100)


def sft_by_selection(logits, tokens, mask):
    keep = mask[:, 1:]
    return F.nll_loss(F.log_softmax(logits[:, :-1][keep], -1), tokens[:, 1:][keep])


def sft_by_hand(logits, tokens, mask):
    log_p = logits.double().log_softmax(-1)
    total, count = 0.0, 0
    for b in range(len(tokens)):
        for t in range(1, tokens.shape[1]):
            if mask[b, t]:
                total, count = total - log_p[b, t - 1, tokens[b, t]], count + 1
    return total / count


SFT = Exercise(
    sft_loss,
    points=3,
    cases=sft_cases,
    result="loss",
    trained=(0,),
    variants=(sft_by_ignore_index, sft_by_selection, sft_by_hand),
    mistakes=(
        Mistake("mask-not-shifted", sft_unshifted_mask, "The mask still points at the tokens while the log-probabilities have moved by one.",
                "Column t of the log-probabilities belongs to which token, and to which column of the mask?"),
        Mistake("prompt-counted", sft_everything, "The prompt's tokens are trained on as well.",
                "Should the model learn to write the question?"),
        Mistake("mean-of-row-means", sft_row_means, "Each response is averaged first, and then the responses.",
                "Should a token of a short response weigh more than one of a long response here?"),
        Mistake("sum-not-mean", sft_sum, "The sum over tokens comes back, not their mean.",
                "How would your loss change if the same batch came twice?"),
        *forms("divides-by-everything", (sft_zeroed, sft_zeroed_everywhere, sft_longest), "The masked-out tokens are set to zero but still counted.",
               "By how many tokens should the sum be divided?"),
        *forms("no-shift", (sft_no_shift, sft_no_shift_but_first), "The logits at a position are taken as scores of the token at that same position.",
               "When the model stands at position t, which token is it about to choose?"),
        Mistake("log-of-softmax", sft_log_of_softmax, "A probability that underflows to 0 becomes -inf when its logarithm is taken.",
                "Can you get the logarithm without ever forming the probability?"),
        Mistake("log-with-a-floor", sft_floor, "A small constant inside the logarithm hides the underflow and bends small values.",
                "What does your formula give for a token whose probability is e^-50?"),
        *forms("overwrites-its-input", (sft_writes_labels, sft_writes_mask), "The loss is right, but the caller's tokens or mask are overwritten.",
               "Who else is going to read them?"),
        Mistake("token-zero-ignored", sft_ignores_zero, "Real tokens with id 0 are left out.", "Is 0 only a mark for what does not count, or also a token?"),
        Mistake("inverted", sft_inverted, "The prompt is trained on, and the response is left out.", "Which tokens does True mark in this course?"),
        Mistake("smoothed-labels", sft_smoothed, "Part of the target is spread over the other tokens.", "What is the log-likelihood of a token without any smoothing?"),
        Mistake("perplexity", sft_perplexity, "The exponential of the loss comes back.", "In which unit is the loss asked for?"),
        Mistake("probability-not-log", sft_probability, "The loss is made of probabilities, not of their logarithms.",
                "How large is your loss for a token that the model finds nearly impossible?"),
        Mistake("boundary-lost", sft_both_masks, "The first response token is left out, since its predecessor is a prompt token.",
                "Which token decides whether a prediction counts: the one that is read, or the one that is predicted?"),
        Mistake("wrong-sign", sft_sign, "The log-likelihood comes back with its own sign.",
                "If this number is minimised, do the response's tokens become more likely?"),
        Mistake("column-zero-counted", sft_counts_column_zero, "Column 0 is counted in the number of tokens, although nothing predicts it.",
                "How many of the tokens does the loss really score?"),
        Mistake("no-gradient", sft_detached, "The value is right, but no gradient comes through.",
                "What will the optimizer do with this loss?"),
        Mistake("mean-over-rows", sft_per_row, "The sum is divided by the number of rows.",
                "Is the loss asked for per token or per row?"),
        Mistake("not-reduced", sft_per_token, "A loss for each token comes back instead of one number.",
                "What does backward() need?"),
    ),
)  # fmt: skip

EXERCISES = (LOGPROBS, RESPONSE_MASK, MEAN, ENTROPY, SFT)
