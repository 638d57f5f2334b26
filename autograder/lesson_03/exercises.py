"""Lesson 03: credit for each token."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from autograder.draws import NAN, Draw, token_masks
from autograder.exercise import Case, Exercise, Mistake, forms
from rlhf_core.advantages import discounted_returns, gae, kl_estimate, masked_whiten, shaped_rewards
from rlhf_core.reward import last_token_index

# kl_estimate

KINDS = ("k1", "k2", "k3", "abs")


def kl_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    logprobs = -d.uniform(0.5, 3, 2, 4)
    gap = d.away_from_zero(2, 4, low=0.4, high=2)
    tiny = d.signs(6) * d.uniform(5e-5, 2e-4, 6)
    rare = -d.uniform(150, 200, 4)  # one row of tokens, without a batch
    cases = [Case((logprobs, logprobs - gap, kind), f'kind "{kind}"') for kind in KINDS]
    return [
        *cases,
        Case((-d.uniform(0.5, 3, 5), -d.uniform(8, 15, 5), "k3"), 'kind "k3" and large positive gaps'),
        Case((-d.uniform(6, 9, 3), -d.uniform(0.1, 1, 3), "k3"), 'kind "k3" and large negative gaps'),
        Case((tiny, torch.zeros(6), "k3"), 'kind "k3" and gaps of 0.0001', 2e-2, 1e-11),
        Case((logprobs, logprobs.clone(), "k1"), 'kind "k1" and equal policies'),
        Case((logprobs, logprobs.clone(), "k2"), 'kind "k2" and equal policies'),
        Case((logprobs, logprobs.clone(), "k3"), 'kind "k3" and equal policies'),
        # any number between −1 and 1 is a gradient of the absolute value at 0
        Case((logprobs, logprobs.clone(), "abs"), 'kind "abs" and equal policies', gradients=False),
        *(
            Case((rare, rare - gap[0], kind), f'kind "{kind}" and tokens as unlikely as e^-150', 1e-4, 1e-4)
            for kind in KINDS
        ),
        Case((logprobs[:1, :1], logprobs[:1, :1] - gap[:1, :1], "k3"), "a single token"),
        Case(
            (logprobs, logprobs - gap, ("k4", "K1", "k33")[seed % 3]), "a kind that does not exist", raises="ValueError"
        ),
    ]


def kl_with(**kinds):
    """kl_estimate with some kinds replaced."""

    def estimate(logprobs, ref_logprobs, kind):
        d = logprobs - ref_logprobs.detach()
        return kinds[kind](d) if kind in kinds else kl_estimate(logprobs, ref_logprobs, kind)

    return estimate


def kl_reversed(logprobs, ref_logprobs, kind):
    d = ref_logprobs.detach() - logprobs
    return {"k1": lambda: d, "k2": lambda: d**2 / 2, "k3": lambda: torch.expm1(-d) + d, "abs": lambda: d.abs()}.get(
        kind, lambda: kl_estimate(logprobs, ref_logprobs, kind)
    )()


def kl_last_wins(logprobs, ref_logprobs, kind):
    kl_estimate(logprobs, ref_logprobs, kind)
    return (logprobs - ref_logprobs.detach()).abs()


def kl_no_error(logprobs, ref_logprobs, kind):
    return kl_estimate(logprobs, ref_logprobs, kind if kind in ("k1", "k2", "k3", "abs") else "k1")


def kl_ratio_gradient(logprobs, ref_logprobs, kind):
    d = logprobs - ref_logprobs
    kl_estimate(logprobs, ref_logprobs, kind)
    return {"k1": d, "k2": 0.5 * d**2, "k3": torch.expm1(-d) + d, "abs": d.abs()}[kind]


def kl_detached(logprobs, ref_logprobs, kind):
    return kl_estimate(logprobs.detach(), ref_logprobs, kind)


def kl_summed(logprobs, ref_logprobs, kind):
    return kl_estimate(logprobs, ref_logprobs, kind).sum(-1)


def kl_clamped_gap(logprobs, ref_logprobs, kind):
    gap = (logprobs - ref_logprobs.detach()).clamp(-10, 10)
    return kl_estimate(gap, torch.zeros_like(gap), kind)


def kl_another_error(logprobs, ref_logprobs, kind):
    if kind not in ("k1", "k2", "k3", "abs"):
        raise KeyError(kind)
    return kl_estimate(logprobs, ref_logprobs, kind)


def kl_asserts(logprobs, ref_logprobs, kind):
    assert kind in ("k1", "k2", "k3", "abs")
    return kl_estimate(logprobs, ref_logprobs, kind)


def kl_returns_none(logprobs, ref_logprobs, kind):
    return kl_estimate(logprobs, ref_logprobs, kind) if kind in ("k1", "k2", "k3", "abs") else None


def kl_of_probabilities(logprobs, ref_logprobs, kind):
    return kl_estimate(logprobs.exp(), ref_logprobs.exp(), kind)


def kl_weighted(logprobs, ref_logprobs, kind):
    return logprobs.exp() * kl_estimate(logprobs, ref_logprobs, kind)


def kl_bits(logprobs, ref_logprobs, kind):
    return kl_estimate(logprobs, ref_logprobs, kind) / 0.6931471805599453


def kl_two_swapped(logprobs, ref_logprobs, kind):
    return kl_estimate(logprobs, ref_logprobs, {"k2": "k3", "k3": "k2"}.get(kind, kind))


def kl_averaged(logprobs, ref_logprobs, kind):
    return kl_estimate(logprobs, ref_logprobs, kind).mean()


def kl_overwrites(logprobs, ref_logprobs, kind):
    result = kl_estimate(logprobs, ref_logprobs, kind)
    logprobs -= ref_logprobs
    return result


def kl_by_ratio(logprobs, ref_logprobs, kind):
    d = (logprobs - ref_logprobs.detach()).double()
    ratio = torch.exp(-d)
    if kind == "k3":
        return ratio - 1 - torch.log(ratio)
    if kind == "k1":
        return -torch.log(ratio)
    if kind == "k2":
        return 0.5 * torch.log(ratio) ** 2
    if kind == "abs":
        return d.abs()
    raise ValueError(kind)


def kl_by_table(logprobs, ref_logprobs, kind):
    ref = ref_logprobs.detach()
    table = {
        "k1": lambda: logprobs - ref,
        "k2": lambda: (logprobs - ref).square() / 2,
        "k3": lambda: torch.special.expm1(ref - logprobs) - (ref - logprobs),
        "abs": lambda: F.relu(logprobs - ref) + F.relu(ref - logprobs),
    }
    if kind not in table:
        raise ValueError(f"unknown kind {kind}")
    return table[kind]()


def kl_by_match(logprobs, ref_logprobs, kind):
    d = logprobs - ref_logprobs.detach()
    if kind == "k1":
        return d.clone()
    elif kind == "k2":
        return d * d * 0.5
    elif kind == "k3":
        return d + torch.expm1(d.neg())
    elif kind == "abs":
        return torch.abs(d)
    else:
        raise ValueError("kind")


KL = Exercise(
    kl_estimate,
    points=3,
    cases=kl_cases,
    trained=(0,),
    variants=(kl_by_ratio, kl_by_table, kl_by_match),
    mistakes=(
        Mistake("k3-reversed", kl_with(k3=lambda d: torch.expm1(d) - d), "The ratio in k3 is the wrong way round: this is exp(d) − 1 − d.",
                "Samples come from π: which of the two policies stands in the numerator of the ratio that makes k3 unbiased?"),
        *forms("reference-minus-policy", (kl_reversed, kl_with(k1=lambda d: -d)), "The difference is taken the wrong way round.",
                "Where π gives its own sample more probability than the reference does, which sign should k1 have?"),
        Mistake("k2-without-half", kl_with(k2=lambda d: d**2), "k2 lacks its factor ½.", "What is the second-order term of exp(−d) − 1 + d?"),
        *forms("k1-never-negative", (kl_with(k1=lambda d: d.clamp(min=0)), kl_with(k1=lambda d: d.abs())), "Negative values of k1 are cut off, or made positive.",
                "The mean of k1 is never negative; does that hold for a single sample?"),
        *forms("k3-clamped", (kl_with(k3=lambda d: (torch.expm1(-d) + d).clamp(max=10)), kl_clamped_gap), "Large values of k3 are cut off.",
                "Is an estimate that is cut off still unbiased?"),
        Mistake("k3-cancels", kl_with(k3=lambda d: torch.exp(-d) - 1 + d), "For tiny d, exp(−d) − 1 cancels almost all digits in float32.",
                "Which function computes exp(x) − 1 without ever forming exp(x)?"),
        Mistake("exponential-of-a-ratio", kl_with(k3=lambda d: torch.exp(torch.exp(-d)) - 1 - torch.exp(-d)), "The exponential is taken of something that is a ratio already.",
                "Is d the ratio or its logarithm?"),
        *forms("k3-without-minus-one", (kl_with(k3=lambda d: torch.exp(-d) + d), kl_with(k3=lambda d: torch.exp(-d) - 1)), "k3 lacks its −1.", "What should every estimate be when the two policies agree?"),
        *forms("k3-is-k2", (kl_with(k3=lambda d: d**2 / 2), kl_with(k3=lambda d: d**2 / 2 - d**3 / 6)), "k3 is replaced by the first terms of its series.",
               "How good is a series around 0 for a gap of 2?"),
        Mistake("k3-halved", kl_with(k3=lambda d: (torch.expm1(-d) + d) / 2), "k3 has a factor ½.", "What is the second-order term of exp(−d) − 1 + d?"),
        *forms("k3-signs", (kl_with(k3=lambda d: torch.expm1(-d) - d), kl_with(k3=lambda d: -torch.expm1(-d) - d), kl_with(k3=lambda d: torch.expm1(-d.abs()) + d.abs())),
               "A sign in k3 is wrong.", "Can k3 be negative, and is it the same for d and −d?"),
        Mistake("kinds-swapped", kl_two_swapped, "k2 and k3 are swapped.", "Which of the two is a parabola?"),
        *forms("gradient-bent", (kl_with(k2=lambda d: d * d.detach() / 2), kl_with(k3=lambda d: torch.expm1(-d).detach() + d),
                                 kl_with(k3=lambda d: (torch.expm1(-d) + d).detach() + d - d.detach())),
               "The value is right, but a detach inside changes the gradient.", "Which parts of the formula depend on the policy?"),
        *forms("another-error", (kl_another_error, kl_asserts), "An unknown kind raises, but not a ValueError.", "Which exception says that an argument has a value that makes no sense?"),
        Mistake("probabilities-not-logs", kl_of_probabilities, "Probabilities are compared in place of their logarithms.", "What is d the difference of?"),
        Mistake("weighted-again", kl_weighted, "Each token is weighted with its probability, although it was sampled already.",
                "How often does a likely token turn up in a sample?"),
        Mistake("bits-not-nats", kl_bits, "The estimate is in bits.", "Which logarithm does the course use?"),
        Mistake("overwrites-its-input", kl_overwrites, "The result is right, but the caller's log-probabilities are overwritten.", "Who needs them after this?"),
        *forms("abs-is-signed", (kl_with(abs=lambda d: d), kl_with(abs=lambda d: d**2)), "This is not the absolute value.", "What is |d| for d = −2?"),
        *forms("last-kind-wins", (kl_last_wins, kl_with(k1=lambda d: torch.expm1(-d) + d, abs=lambda d: torch.expm1(-d) + d)), "Whatever the kind, the last branch wins.", "After the first matching `if`, does your function return?"),
        *forms("unknown-kind-accepted", (kl_no_error, kl_returns_none), "An unknown kind is accepted in silence.", "How would somebody find out about a typing error in a configuration?"),
        Mistake("reference-trained", kl_ratio_gradient, "A gradient flows into the reference.", "Which of the two policies stays as it is?"),
        Mistake("no-gradient", kl_detached, "No gradient comes through.", "What is a KL penalty in a loss good for without a gradient?"),
        Mistake("no-gradient-of-k1", kl_with(k1=lambda d: d.detach()), "No gradient comes through k1.", "What is a KL penalty in a loss good for without a gradient?"),
        *forms("summed-over-time", (kl_summed, kl_averaged), "The tokens are summed or averaged.", "For how many tokens is an estimate asked?"),
    ),
)  # fmt: skip

# shaped_rewards


def rewards_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    cases = []
    for m in token_masks(d):
        rows = len(m.mask)
        logprobs = -d.uniform(0.2, 3, *m.mask.shape)
        ref = logprobs - d.away_from_zero(*m.mask.shape)
        scores = d.away_from_zero(rows, low=1, high=3)
        cases.append(Case((scores, *m.hide(logprobs, ref), m.mask, d.number(0.1, 0.6)), m.label))
    mask = d.anywhere(4, 6)
    logprobs = -d.uniform(0.2, 3, 4, 6)
    ref = logprobs - d.away_from_zero(4, 6)
    scores = torch.tensor([5.0, -6.0, 0.4, -3.0]) + d.uniform(0, 0.5, 4)
    return [
        *cases,
        Case((scores, logprobs, ref, mask, d.number(0.8, 1.2), 0.5), "score_clip=0.5 and scores beyond it"),
        Case((scores, logprobs, ref, mask.flip(1), 0.0), "kl_coef=0 and left padding"),
        Case((scores, logprobs, ref, mask, 0.0, 0.5), "kl_coef=0 and score_clip=0.5"),
        Case(
            (scores, *(x.masked_fill(~mask, NAN) for x in (logprobs, ref)), mask, d.number(0.8, 1.2), 0.5),
            "score_clip=0.5 and NaN outside of the mask",
        ),
    ]


def rewards_with(place=None, kl=None, combine=None, score=None):
    """shaped_rewards with one part replaced."""

    def rewards(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
        if score is not None:
            scores = score(scores, score_clip, kl_coef)
        elif score_clip is not None:
            scores = scores.clamp(-score_clip, score_clip)
        d = logprobs - ref_logprobs
        penalty = torch.where(mask, -kl_coef * (d if kl is None else kl(d)), 0.0)
        index = last_token_index(mask) if place is None else place(mask)
        at_end = (torch.arange(mask.shape[1]) == index[:, None]).float()
        if combine is not None:
            return combine(penalty, at_end, scores, mask)
        return penalty + at_end * scores[:, None]

    return rewards


def rewards_prompt_too(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    clipped = scores if score_clip is None else scores.clamp(-score_clip, score_clip)
    rewards = -kl_coef * (logprobs - ref_logprobs)
    rewards[torch.arange(len(mask)), last_token_index(mask)] += clipped
    return rewards


def rewards_multiplied_mask(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    clipped = scores if score_clip is None else scores.clamp(-score_clip, score_clip)
    rewards = -kl_coef * (logprobs - ref_logprobs) * mask
    rewards[torch.arange(len(mask)), last_token_index(mask)] += clipped
    return rewards


def rewards_clip_after(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    rewards = shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef)
    return rewards if score_clip is None else rewards.clamp(-score_clip, score_clip)


def rewards_clip_above(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    return shaped_rewards(
        scores if score_clip is None else scores.clamp(max=score_clip), logprobs, ref_logprobs, mask, kl_coef
    )


def rewards_in_place(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    result = shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip)
    if score_clip is not None:
        scores.clamp_(-score_clip, score_clip)
    logprobs -= ref_logprobs
    return result


def rewards_clip_below(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    clipped = scores if score_clip is None else scores.clamp(min=-score_clip)
    return shaped_rewards(clipped, logprobs, ref_logprobs, mask, kl_coef)


def rewards_clip_positive(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    clipped = scores if score_clip is None else scores.clamp(0, score_clip)
    return shaped_rewards(clipped, logprobs, ref_logprobs, mask, kl_coef)


def rewards_clip_penalty(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    rewards = shaped_rewards(0 * scores, logprobs, ref_logprobs, mask, kl_coef)
    clipped = rewards if score_clip is None else rewards.clamp(-score_clip, score_clip)
    return clipped + shaped_rewards(scores, logprobs, ref_logprobs, mask, 0.0, score_clip)


def rewards_rescaled(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    factor = 1.0 if score_clip is None else score_clip / scores.abs().max().clamp(min=score_clip)
    return shaped_rewards(scores * factor, logprobs, ref_logprobs, mask, kl_coef)


def rewards_always_clipped(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=1.0):
    return shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip)


def rewards_every_end(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    clipped = scores if score_clip is None else scores.clamp(-score_clip, score_clip)
    rewards = shaped_rewards(0 * scores, logprobs, ref_logprobs, mask, kl_coef)
    rewards[:, last_token_index(mask)] += clipped
    return rewards


def rewards_score_clamped_in_place(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    if score_clip is not None:
        scores.clamp_(-score_clip, score_clip)
    return shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef)


def rewards_zeroes_padding(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    logprobs[~mask] = 0.0
    ref_logprobs[~mask] = 0.0
    return shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip)


def rewards_padding_nan(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    return shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip).masked_fill(~mask, torch.nan)


def lengths(mask):
    return mask.sum(1, keepdim=True)


def after_last(mask):
    """The first padding behind the response; a full row has none and keeps its last column."""
    return (last_token_index(mask) + 1).clamp(max=mask.shape[1] - 1)


def rewards_by_scatter(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    if score_clip is not None:
        scores = torch.clamp(scores, -score_clip, score_clip)
    rewards = (kl_coef * (ref_logprobs - logprobs)).masked_fill(~mask, 0.0)
    index = (mask.long() * torch.arange(1, mask.shape[1] + 1)).argmax(1, keepdim=True)
    return rewards.scatter_add(1, index, scores[:, None])


def rewards_by_loop(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    rewards = torch.zeros(mask.shape, dtype=torch.float64)
    for b in range(mask.shape[0]):
        last = None
        for t in range(mask.shape[1]):
            if mask[b, t]:
                rewards[b, t] = -kl_coef * (logprobs[b, t] - ref_logprobs[b, t])
                last = t
        score = float(scores[b])
        rewards[b, last] += score if score_clip is None else min(max(score, -score_clip), score_clip)
    return rewards


def rewards_by_index(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    rewards = torch.where(mask, -kl_coef * (logprobs - ref_logprobs), torch.zeros_like(logprobs))
    ends = mask.shape[1] - 1 - mask.flip(1).float().argmax(1)
    clipped = scores if score_clip is None else scores.clip(-score_clip, score_clip)
    return rewards.index_put((torch.arange(len(scores)), ends), clipped, accumulate=True)


SHAPED = Exercise(
    shaped_rewards,
    points=4,
    cases=rewards_cases,
    variants=(rewards_by_scatter, rewards_by_loop, rewards_by_index),
    mistakes=(
        *forms("score-in-the-last-column", (rewards_with(place=lambda m: torch.full((len(m),), m.shape[1] - 1)), rewards_with(place=lambda m: last_token_index(m).amax().expand(len(m)))), "The score is put into the last column, padding or not.",
                "Which token of a short response was the last one that the policy chose?"),
        Mistake("score-on-the-first-padding", rewards_with(place=after_last), "The score is put one place behind the response.",
                "Which action earned the score, and is there an action at the first padding?"),
        Mistake("score-at-the-count", rewards_with(place=lambda m: m.sum(1) - 1), "The number of response tokens is taken for the place of the last one.",
                "Where does the last token stand if the mask does not begin at column 0?"),
        *forms("score-on-every-token", (rewards_with(combine=lambda p, e, s, m: torch.where(m, p + s[:, None], 0.0)), rewards_with(combine=lambda p, e, s, m: p + s[:, None] * (e.cumsum(1) > 0))), "Every token gets the score.",
                "How often has the reward model scored this response?"),
        Mistake("score-on-the-first-token", rewards_with(place=lambda m: m.int().argmax(1)), "The score is put on the first token of the response.",
                "When did the reward model read the response: after its first token or after its last?"),
        Mistake("score-one-too-early", rewards_with(place=lambda m: (last_token_index(m) - 1).clamp(min=0)), "The score is put one place before the last token.",
                "If a response ends in column 4, which token earned the score?"),
        Mistake("score-spread-out", rewards_with(combine=lambda p, e, s, m: torch.where(m, p + s[:, None] / lengths(m), 0.0)), "The score is shared out among the tokens.",
                "Who spreads credit over the tokens later on: the reward, or the returns and the critic?"),
        Mistake("score-with-minus", rewards_with(score=lambda s, c, b: -(s if c is None else s.clamp(-c, c))), "The score is subtracted.", "Should a better response get a larger reward?"),
        Mistake("score-lost", rewards_with(combine=lambda p, e, s, m: p), "The score is missing.", "What is the policy to be rewarded for, besides staying close?"),
        Mistake("scores-centred", rewards_with(score=lambda s, c, b: (lambda x: x - x.mean())(s if c is None else s.clamp(-c, c))), "The mean score of the batch is taken away.",
                "Should a response's reward depend on the other responses here?"),
        Mistake("score-at-every-end", rewards_every_end, "Each score is written into every column in which some row ends.",
                "Does x[:, index] pick one place per row, or whole columns?"),
        Mistake("penalty-lost", rewards_with(kl=lambda d: 0 * d), "The penalty is missing.", "What keeps the policy close to the reference?"),
        Mistake("penalty-all-at-the-end", rewards_with(combine=lambda p, e, s, m: e * (s[:, None] + p.sum(1, keepdim=True))), "The whole penalty is paid at the last token.",
                "Which token moved away from the reference, and which one pays?"),
        *forms("penalty-summed", (rewards_with(combine=lambda p, e, s, m: torch.where(m, p.sum(1, keepdim=True), 0.0) + e * s[:, None]),
                                  rewards_with(combine=lambda p, e, s, m: torch.where(m, p.cumsum(1), 0.0) + e * s[:, None])),
               "Every token pays for other tokens too.", "Which token moved away from the reference, and which one pays?"),
        Mistake("penalty-per-length", rewards_with(combine=lambda p, e, s, m: p / lengths(m) + e * s[:, None]), "The penalty is divided by the length of the response.",
                "If two responses differ in length only, should one token's penalty change?"),
        Mistake("score-replaces-penalty", rewards_with(combine=lambda p, e, s, m: torch.where(e > 0, s[:, None], p)), "At the last token the score takes the place of the KL penalty.",
                "Does the last token also move away from the reference?"),
        Mistake("penalty-everywhere", rewards_prompt_too, "The penalty is also paid outside of the mask.", "Which tokens did the policy choose?"),
        Mistake("multiplies-by-the-mask", rewards_multiplied_mask, "Multiplying by the mask is taken to remove what it hides.",
                "What is NaN times zero?"),
        Mistake("penalty-is-a-bonus", rewards_with(kl=lambda d: -d), "The penalty has the wrong sign: leaving the reference pays.",
                "If π gives its token more probability than the reference, should the reward rise or fall?"),
        Mistake("k2-for-k1", rewards_with(kl=lambda d: d**2 / 2), "The penalty is k2.", "Whose expectation should the summed penalty have, and which estimator is asked for?"),
        *forms("ratio-for-log-ratio", (rewards_with(kl=lambda d: d.exp()), rewards_with(kl=lambda d: d.exp() - 1)), "The ratio is charged, not its logarithm.",
               "What should the penalty be where both policies agree?"),
        Mistake("k3-for-k1", rewards_with(kl=lambda d: torch.expm1(-d) + d), "The penalty is k3.",
                "Whose expectation should the summed penalty have, and which estimator is asked for?"),
        Mistake("never-negative", rewards_with(kl=lambda d: d.clamp(min=0)), "Negative log-ratios are cut off.",
                "If only the positive half is charged, what is the penalty of a policy that equals the reference up to noise?"),
        Mistake("absolute-value", rewards_with(kl=lambda d: d.abs()), "The absolute log-ratio is charged.",
                "Which sign does the log-ratio of a single sample have?"),
        Mistake("clips-the-penalty-too", rewards_clip_penalty, "The penalty is clipped as well.", "What does score_clip clip?"),
        Mistake("rescales-instead", rewards_rescaled, "All scores are shrunk until the largest fits.", "What is done with a score that lies within the bounds?"),
        Mistake("always-clips", rewards_always_clipped, "Scores are clipped although it was not asked for.", "What does score_clip=None stand for?"),
        Mistake("padding-is-nan", rewards_padding_nan, "Outside of the mask the rewards are NaN.", "Which places must be exactly 0?"),
        Mistake("clips-the-sum", rewards_clip_after, "The shaped reward is clipped, penalty and all.", "What does score_clip clip?"),
        Mistake("clips-above-only", rewards_clip_above, "Only large scores are clipped.", "What is done with a score of −6 when score_clip is 2?"),
        Mistake("clips-below-only", rewards_clip_below, "Only low scores are clipped.", "What is done with a score of 6 when score_clip is 2?"),
        Mistake("clips-from-zero", rewards_clip_positive, "Negative scores become 0.", "What is done with a score of −1 when score_clip is 2?"),
        Mistake("clip-ignored", rewards_with(score=lambda s, c, b: s), "score_clip has no influence.", "What is done with a score of 6 when score_clip is 2?"),
        *forms("coefficient-on-the-score", (rewards_with(score=lambda s, c, b: b * (s if c is None else s.clamp(-c, c))), rewards_with(score=lambda s, c, b: (1 - b) * (s if c is None else s.clamp(-c, c)))), "The KL coefficient also multiplies the score.",
                "Which of the two, score or penalty, should change when kl_coef does?"),
        *forms("changes-its-inputs", (rewards_in_place, rewards_score_clamped_in_place, rewards_zeroes_padding), "The result is right, but what it was given is overwritten.",
                "Who needs scores and log-probabilities after this?"),
    ),
)  # fmt: skip

# discounted_returns


def returns_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    cases = []
    for k, m in enumerate(token_masks(d)):
        gamma = (0.9, 0.7, 0.5, 0.95, 0.8, 0.6, 0.85, 0.75, 0.65, 0.55)[k]
        cases.append(Case((*m.hide(d.away_from_zero(*m.mask.shape)), m.mask, gamma), m.label))
    full, many = torch.ones(3, 5, dtype=torch.bool), torch.ones(1, 150, dtype=torch.bool)
    inside = d.inside(3, 6)
    # in one draw of three, for loops take their time; 0.4^150 is 0 in float32
    long_case = [Case((d.away_from_zero(1, 150), many, 0.4), "a response of 150 tokens")] if seed % 3 == 0 else []
    return [
        *cases,
        Case((d.away_from_zero(3, 5), full, 1.0), "γ = 1"),
        Case((d.away_from_zero(2, 4), full[:2, :4], 0.0), "γ = 0"),
        Case(
            (d.away_from_zero(3, 6).masked_fill(~inside, 4.0), inside, 1.0), "γ = 1, and other numbers around the masks"
        ),
        *long_case,
    ]


def returns_by(rewards, mask, gamma, carry=lambda value, real: value * real):
    """The backward sum; `carry` says what goes on from a place to the one before it."""
    rewards = rewards.masked_fill(~mask, 0.0)
    out, following = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        following = carry(rewards[:, t] + gamma * following, mask[:, t])
        out[:, t] = following
    return out


def returns_unmasked_everywhere(rewards, mask, gamma):
    return returns_by(rewards, torch.ones_like(mask), gamma)


def returns_unmasked(rewards, mask, gamma):
    return returns_by(rewards, torch.ones_like(mask), gamma) * mask


def returns_outside_too(rewards, mask, gamma):
    return returns_by(rewards, mask, gamma, carry=lambda value, real: value)


def returns_forward(rewards, mask, gamma):
    return returns_by(rewards.flip(1), mask.flip(1), gamma).flip(1)


def returns_flat(rewards, mask, gamma):
    kept = rewards.masked_fill(~mask, 0.0)
    flat = returns_by(kept.reshape(1, -1), torch.ones(1, mask.numel(), dtype=torch.bool), gamma)
    return flat.reshape(mask.shape) * mask


def returns_from_start(rewards, mask, gamma):
    kept = rewards.masked_fill(~mask, 0.0)
    powers = gamma ** (mask.long().cumsum(1) - 1).float()
    return (kept * powers).flip(1).cumsum(1).flip(1) * mask


def returns_next_only(rewards, mask, gamma):
    kept = rewards.masked_fill(~mask, 0.0)
    return (kept + gamma * F.pad(kept[:, 1:], (0, 1))) * mask


def returns_excluding_now(rewards, mask, gamma):
    return (discounted_returns(rewards, mask, gamma) - rewards.masked_fill(~mask, 0.0)) * mask


def returns_no_discount(rewards, mask, gamma):
    return discounted_returns(rewards, mask, 1.0)


def returns_same_everywhere(rewards, mask, gamma):
    first = discounted_returns(rewards, mask, gamma)
    start = mask.int().argmax(1)
    return first[torch.arange(len(mask)), start][:, None] * mask


def returns_discounts_itself(rewards, mask, gamma):
    return discounted_returns(rewards, mask, gamma) * gamma


def returns_in_place(rewards, mask, gamma):
    for t in reversed(range(rewards.shape[1])):
        now = torch.where(mask[:, t], rewards[:, t], 0.0)
        later = rewards[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        rewards[:, t] = (now + gamma * later) * mask[:, t]
    return rewards


def returns_rows_linked(rewards, mask, gamma):
    flat = returns_by(rewards.reshape(1, -1), mask.reshape(1, -1), gamma)
    return flat.reshape(mask.shape)


def returns_of_selection(rewards, mask, gamma):
    chosen = rewards[mask][None]
    out = torch.zeros_like(rewards)
    out[mask] = returns_by(chosen, torch.ones_like(chosen, dtype=torch.bool), gamma)[0]
    return out


def returns_averaged(rewards, mask, gamma):
    return discounted_returns(rewards, mask, gamma) / mask.sum(1, keepdim=True)


def returns_gamma_squared(rewards, mask, gamma):
    return discounted_returns(rewards, mask, gamma**2)


def returns_from_column_zero(rewards, mask, gamma):
    kept = rewards.masked_fill(~mask, 0.0) * gamma ** torch.arange(mask.shape[1])
    return kept.flip(1).cumsum(1).flip(1) * mask


def returns_divided_back(rewards, mask, gamma):
    powers = gamma ** torch.arange(mask.shape[1])
    kept = rewards.masked_fill(~mask, 0.0) * powers
    return torch.where(mask, kept.flip(1).cumsum(1).flip(1) / powers, 0.0)


def returns_running_sum(rewards, mask, gamma):
    return rewards.masked_fill(~mask, 0.0).cumsum(1) * mask


def returns_end_only(rewards, mask, gamma):
    last = last_token_index(mask)[:, None]
    ahead = (last - torch.arange(mask.shape[1])).clamp(min=0)
    return torch.where(mask, rewards.masked_fill(~mask, 0.0).gather(1, last) * gamma**ahead, 0.0)


def returns_last_left_out(rewards, mask, gamma):
    is_last = torch.arange(mask.shape[1]) == last_token_index(mask)[:, None]
    return discounted_returns(rewards.masked_fill(is_last, 0.0), mask, gamma)


def returns_normalised(rewards, mask, gamma):
    return discounted_returns(rewards, mask, gamma) * ((1 - gamma) if gamma < 1 else 1.0)


def returns_reversed(rewards, mask, gamma):
    return discounted_returns(rewards, mask, gamma).flip(1)


def returns_padding_kept(rewards, mask, gamma):
    return torch.where(mask, discounted_returns(rewards, mask, gamma), rewards)


def returns_multiplied(rewards, mask, gamma):
    return returns_by(torch.zeros_like(rewards) + rewards * mask, torch.ones_like(mask), gamma) * mask


def returns_zeroes(rewards, mask, gamma):
    result = discounted_returns(rewards, mask, gamma)
    rewards[~mask] = 0.0
    return result


def returns_by_matrix(rewards, mask, gamma):
    steps = torch.arange(mask.shape[1])
    ahead = (steps[None] - steps[:, None]).double()
    weights = torch.where(ahead >= 0, gamma ** ahead.clamp(min=0), 0.0)
    return (torch.where(mask, rewards, 0.0).double() @ weights.T).masked_fill(~mask, 0.0)


def returns_by_row(rewards, mask, gamma):
    out = torch.zeros_like(rewards)
    for b in range(len(rewards)):
        total = 0.0
        for t in mask[b].nonzero().flatten().flip(0).tolist():
            total = rewards[b, t].item() + gamma * total
            out[b, t] = total
    return out


RETURNS = Exercise(
    discounted_returns,
    points=2,
    cases=returns_cases,
    variants=(returns_by_matrix, returns_by_row, lambda r, m, g: returns_by(r, m, g)),
    mistakes=(
        *forms("mask-unused", (returns_unmasked, returns_unmasked_everywhere), "Rewards behind the end of the response flow back into it.",
                "May anything that stands in the padding be earned?"),
        Mistake("returns-before-the-response", returns_outside_too, "Places before the response also get a return.", "Which places must be exactly 0?"),
        *forms("forward", (returns_forward, returns_running_sum), "The sum runs over the past instead of the future.", "Which rewards can a token still influence?"),
        *forms("rows-run-together", (returns_flat, returns_rows_linked, returns_of_selection), "The batch is flattened, so that one response's rewards flow into the one before.",
                "What follows the last token of the first row in your sum?"),
        *forms("discounted-from-the-start", (returns_from_start, returns_from_column_zero), "Everything is discounted to the beginning of the response, not to the token itself.",
                "From where should γ count the distance to a later reward?"),
        Mistake("divides-by-zero", returns_divided_back, "Powers of γ are divided out again, which fails for γ = 0.", "What is γ to the power of 3 when γ is 0?"),
        Mistake("gamma-squared", returns_gamma_squared, "γ is applied twice per step.", "How many steps lie between a token and the next?"),
        Mistake("averaged", returns_averaged, "The sum is divided by the length.", "Is a return a sum or a mean?"),
        Mistake("only-the-last-reward", returns_end_only, "Only the last token's reward is counted.", "Which rewards come after a token?"),
        Mistake("last-reward-left-out", returns_last_left_out, "The last token's reward is left out.", "Does the last token of a response have a reward of its own?"),
        Mistake("normalised", returns_normalised, "The sum is multiplied by 1 − γ.", "Is a return a sum or a weighted mean?"),
        Mistake("order-reversed", returns_reversed, "The columns come back in reverse order.", "Which column belongs to the first token?"),
        Mistake("padding-left-as-it-was", returns_padding_kept, "Outside of the mask the rewards are left as they were.", "Which places must be exactly 0?"),
        Mistake("multiplies-by-the-mask", returns_multiplied, "Multiplying by the mask is taken to remove what it hides.", "What is NaN times zero?"),
        Mistake("one-step-only", returns_next_only, "Only the next reward is added.", "How far does the sum go on?"),
        Mistake("own-reward-left-out", returns_excluding_now, "A token's own reward is left out.", "Does r_t come before or after the choice of token t?"),
        Mistake("ignores-gamma", returns_no_discount, "γ is ignored.", "What should be different for γ = 0 and γ = 1?"),
        Mistake("one-return-for-all", returns_same_everywhere, "Every token gets the return of the whole response.",
                "Should a token be credited with a reward that came before it?"),
        Mistake("discounts-itself", returns_discounts_itself, "A token's own reward is discounted already.", "How many steps away is a token's own reward?"),
        *forms("overwrites-the-rewards", (returns_in_place, returns_zeroes), "The result is right, but it is written over the caller's rewards.",
                "Who else is going to read these rewards?"),
    ),
)  # fmt: skip

# gae


def gae_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    cases = []
    for k, m in enumerate(token_masks(d)):
        gamma = (0.9, 0.95, 0.8, 0.9, 0.7, 0.85, 0.75, 0.6, 0.65, 0.88)[k]
        lam = (0.8, 0.7, 0.6, 0.95, 0.9, 0.75, 0.85, 0.65, 0.95, 0.55)[k]
        numbers = m.hide(d.away_from_zero(*m.mask.shape), d.away_from_zero(*m.mask.shape))
        cases.append(Case((*numbers, m.mask, gamma, lam), m.label))
    full, many, inside = torch.ones(2, 4, dtype=torch.bool), torch.ones(1, 150, dtype=torch.bool), d.inside(3, 6)
    numbers = d.away_from_zero(1, 150), d.away_from_zero(1, 150)
    long_case = [Case((*numbers, many, 0.7, 0.6), "a response of 150 tokens")] if seed % 3 == 0 else []
    return [
        *cases,
        Case((d.away_from_zero(2, 4), d.away_from_zero(2, 4), full, 1.0, 0.9), "γ = 1"),
        Case((d.away_from_zero(2, 4), d.away_from_zero(2, 4), full, 0.8, 1.0), "λ = 1"),
        Case((d.away_from_zero(2, 4), d.away_from_zero(2, 4), full, 0.9, 0.0), "λ = 0"),
        *(
            Case(
                (*(d.away_from_zero(3, 6).masked_fill(~inside, fill) for fill in (4.0, -6.0)), inside, gamma, lam),
                label,
            )
            for gamma, lam, label in (
                (0.0, 0.8, "γ = 0, and other numbers around the masks"),
                (1.0, 1.0, "γ = λ = 1, and other numbers around the masks"),
                (0.9, 0.0, "λ = 0, and other numbers around the masks"),
                (0.9, 1.0, "λ = 1, and other numbers around the masks"),
            )
        ),
        *long_case,
    ]


def gae_with(decay=None, last=0.0, leak=False, baseline=True, discount=None, returns=None, values_masked=True):
    """gae with one part replaced: the decay, the value after the end, what leaks from behind it, the returns."""

    def estimate(rewards, values, mask, gamma, lam):
        rewards = rewards.masked_fill(~mask, 0.0)
        hidden = values.masked_fill(~mask, 0.0) if values_masked else values
        advantages = torch.zeros_like(rewards)
        following = torch.zeros_like(rewards[:, 0])
        next_value = hidden[:, -1] * last
        keep = gamma * lam if decay is None else decay(gamma, lam)
        step = gamma if discount is None else discount(gamma, lam)
        for t in reversed(range(rewards.shape[1])):
            delta = rewards[:, t] + step * next_value - (hidden[:, t] if baseline else 0.0)
            following = delta + keep * following
            if not leak:
                following = torch.where(mask[:, t], following, 0.0)
            next_value = hidden[:, t]
            advantages[:, t] = following
        advantages = torch.where(mask, advantages, 0.0)
        kept = torch.where(mask, values, 0.0)
        found = advantages + kept if returns is None else returns(advantages, kept, rewards, mask, gamma)
        return advantages, torch.where(mask, found, 0.0)

    return estimate


def gae_bootstraps_itself(rewards, values, mask, gamma, lam):
    kept = values.masked_fill(~mask, 0.0)
    is_last = torch.arange(mask.shape[1]) == last_token_index(mask)[:, None]
    return gae(torch.where(is_last, rewards + gamma * kept, rewards), values, mask, gamma, lam)[0], (
        gae(torch.where(is_last, rewards + gamma * kept, rewards), values, mask, gamma, lam)[1]
    )


def gae_forward(rewards, values, mask, gamma, lam):
    rewards, kept = rewards.masked_fill(~mask, 0.0), values.masked_fill(~mask, 0.0)
    deltas = (rewards + gamma * F.pad(kept[:, 1:], (0, 1)) - kept) * mask
    advantages, running = torch.zeros_like(deltas), torch.zeros_like(deltas[:, 0])
    for t in range(deltas.shape[1]):
        running = (deltas[:, t] + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
    return advantages, (advantages + kept) * mask


def gae_flat(rewards, values, mask, gamma, lam):
    rewards, kept = rewards.masked_fill(~mask, 0.0), values.masked_fill(~mask, 0.0)
    everything = torch.ones(1, mask.numel(), dtype=torch.bool)
    flat, _ = gae(rewards.reshape(1, -1), kept.reshape(1, -1), everything, gamma, lam)
    advantages = flat.reshape(mask.shape) * mask
    return advantages, (advantages + kept) * mask


def gae_unmasked(rewards, values, mask, gamma, lam):
    return gae(rewards, values, torch.ones_like(mask), gamma, lam)


def gae_whitened(rewards, values, mask, gamma, lam):
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    return (masked_whiten(advantages, mask), returns) if mask.sum() > 1 else (advantages, returns)


def gae_returns_from_whitened(rewards, values, mask, gamma, lam):
    advantages, _ = gae(rewards, values, mask, gamma, lam)
    white = masked_whiten(advantages, mask) if mask.sum() > 1 else advantages
    return advantages, torch.where(mask, white + values, 0.0)


def gae_garbage_returns(rewards, values, mask, gamma, lam):
    advantages, _ = gae(rewards, values, mask, gamma, lam)
    return advantages, advantages + values


def gae_multiplied(rewards, values, mask, gamma, lam):
    return gae(rewards * mask, values * mask, torch.ones_like(mask), gamma, lam)[0] * mask, (
        gae(rewards * mask, values * mask, torch.ones_like(mask), gamma, lam)[1] * mask
    )


def gae_in_place(rewards, values, mask, gamma, lam):
    result = gae(rewards, values, mask, gamma, lam)
    values[~mask] = 0.0
    rewards[:] = result[0]
    return result


def gae_swapped_results(rewards, values, mask, gamma, lam):
    return gae(rewards, values, mask, gamma, lam)[::-1]


def gae_unmasked_inside(rewards, values, mask, gamma, lam):
    advantages, returns = gae(rewards, values, torch.ones_like(mask), gamma, lam)
    return torch.where(mask, advantages, 0.0), torch.where(mask, returns, 0.0)


def gae_reward_leaks(rewards, values, mask, gamma, lam):
    kept = values.masked_fill(~mask, 0.0)
    return gae_unmasked_inside(rewards, kept, mask, gamma, lam)


def gae_rows_linked(rewards, values, mask, gamma, lam):
    flat = gae(rewards.reshape(1, -1), values.reshape(1, -1), mask.reshape(1, -1), gamma, lam)
    return tuple(x.reshape(mask.shape) for x in flat)


def gae_divides_back(rewards, values, mask, gamma, lam):
    powers = (gamma * lam) ** torch.arange(mask.shape[1])
    deltas, kept = gae(rewards, values, mask, gamma, 0.0)[0] * powers, values.masked_fill(~mask, 0.0)
    advantages = torch.where(mask, deltas.flip(1).cumsum(1).flip(1) / powers, 0.0)
    return advantages, advantages + kept


def gae_last_lost(rewards, values, mask, gamma, lam):
    advantages, _ = gae(rewards, values, mask, gamma, lam)
    is_last = torch.arange(mask.shape[1]) == last_token_index(mask)[:, None]
    advantages = advantages.masked_fill(is_last, 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


def gae_values_late(rewards, values, mask, gamma, lam):
    return gae(rewards, values.roll(1, 1).masked_fill(~mask | ~mask.roll(1, 1), 0.0), mask, gamma, lam)


def gae_values_early(rewards, values, mask, gamma, lam):
    return gae(rewards, F.pad(values.masked_fill(~mask, 0.0), (0, 1))[:, 1:], mask, gamma, lam)


def gae_rewards_early(rewards, values, mask, gamma, lam):
    return gae(F.pad(rewards.masked_fill(~mask, 0.0), (0, 1))[:, 1:], values, mask, gamma, lam)


def gae_scaled(rewards, values, mask, gamma, lam):
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    return advantages * (1 - lam), returns


def gae_lambda_squared(rewards, values, mask, gamma, lam):
    return gae(rewards, values, mask, gamma, lam**2)


def gae_td_errors(rewards, values, mask, gamma, lam):
    return gae(rewards, values, mask, gamma, 0.0)


def gae_monte_carlo(rewards, values, mask, gamma, lam):
    return gae(rewards, values, mask, gamma, 1.0)


def gae_stacked(rewards, values, mask, gamma, lam):
    return torch.stack(gae(rewards, values, mask, gamma, lam))


def gae_dict(rewards, values, mask, gamma, lam):
    return dict(zip(("advantages", "returns"), gae(rewards, values, mask, gamma, lam), strict=True))


def gae_nan_padding(rewards, values, mask, gamma, lam):
    return tuple(x.masked_fill(~mask, torch.nan) for x in gae(rewards, values, mask, gamma, lam))


def gae_shared_memory(rewards, values, mask, gamma, lam):
    advantages, _ = gae(rewards, values, mask, gamma, lam)
    returns = advantages
    returns += values.masked_fill(~mask, 0.0)
    return advantages, returns


def gae_zeroes_padding(rewards, values, mask, gamma, lam):
    rewards[~mask] = 0.0
    values[~mask] = 0.0
    return gae(rewards, values, mask, gamma, lam)


def gae_returns_multiplied(rewards, values, mask, gamma, lam):
    advantages, _ = gae(rewards, values, mask, gamma, lam)
    return advantages, (advantages + values) * mask


def gae_only_advantages(rewards, values, mask, gamma, lam):
    return gae(rewards, values, mask, gamma, lam)[0]


def one_step(advantages, values, rewards, mask, gamma):
    return rewards + gamma * F.pad(values[:, 1:], (0, 1))


def rewards_to_go(advantages, values, rewards, mask, gamma):
    return discounted_returns(rewards, mask, gamma)


def gae_by_matrix(rewards, values, mask, gamma, lam):
    r, v = torch.where(mask, rewards, 0.0).double(), torch.where(mask, values, 0.0).double()
    delta = r + gamma * torch.cat([v[:, 1:], torch.zeros_like(v[:, :1])], 1) - v
    delta = delta.masked_fill(~mask, 0.0)
    steps = torch.arange(mask.shape[1])
    ahead = (steps[None] - steps[:, None]).double()
    weights = torch.where(ahead >= 0, (gamma * lam) ** ahead.clamp(min=0), 0.0)
    advantages = (delta @ weights.T).masked_fill(~mask, 0.0)
    return advantages, advantages + v


def gae_by_next_mask(rewards, values, mask, gamma, lam):
    going_on = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    running, columns = torch.zeros(len(mask)), []
    for t in range(mask.shape[1] - 1, -1, -1):
        following = values[:, t + 1] if t + 1 < mask.shape[1] else torch.zeros(len(mask))
        following = torch.where(going_on[:, t], following, torch.zeros(len(mask)))
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = torch.where(mask[:, t], delta + gamma * lam * torch.where(going_on[:, t], running, 0.0), 0.0)
        columns.insert(0, running)
    advantages = torch.stack(columns, 1)
    return advantages, torch.where(mask, advantages + values, torch.zeros_like(values))


def gae_by_row(rewards, values, mask, gamma, lam):
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for b in range(len(rewards)):
        running, following = 0.0, 0.0
        for t in mask[b].nonzero().flatten().tolist()[::-1]:
            delta = rewards[b, t].item() + gamma * following - values[b, t].item()
            running = delta + gamma * lam * running
            following = values[b, t].item()
            advantages[b, t], returns[b, t] = running, running + following
    return advantages, returns


def gae_by_lambda_return(rewards, values, mask, gamma, lam):
    r, v = rewards.masked_fill(~mask, 0), values.masked_fill(~mask, 0)
    target, following = torch.zeros_like(r), torch.zeros_like(r[:, 0])
    for t in reversed(range(r.shape[1])):
        real_next = mask[:, t + 1] if t + 1 < r.shape[1] else torch.zeros_like(mask[:, 0])
        next_value = v[:, t + 1] if t + 1 < r.shape[1] else torch.zeros_like(v[:, 0])
        following = r[:, t] + gamma * torch.where(real_next, (1 - lam) * next_value + lam * following, 0.0)
        target[:, t] = following
    target = torch.where(mask, target, 0.0)
    return (target - v) * mask, target


GAE = Exercise(
    gae,
    points=4,
    cases=gae_cases,
    parts=("advantages", "returns"),
    asks="a tuple (advantages, returns)",
    variants=(gae_by_matrix, gae_by_next_mask, gae_by_row, gae_by_lambda_return),
    mistakes=(
        Mistake("value-at-padding-leaks", gae_with(values_masked=False), "The value of a padded position leaks into the last real token.",
                "What should V be after the response has ended?"),
        *forms("mask-unused", (gae_unmasked, gae_unmasked_inside, gae_reward_leaks), "The mask has no influence: padding is treated like text.",
                "What do the numbers behind the end of a response mean?"),
        *forms("lambda-missing", (gae_with(decay=lambda g, l: g), gae_monte_carlo), "λ is missing: later surprises fade with γ alone.",
                "What should be left of later δ's when λ is 0?"),
        Mistake("gamma-missing-in-the-decay", gae_with(decay=lambda g, l: l), "Later surprises fade with λ alone, not with γλ.",
                "By which factor is a δ one step ahead weighed?"),
        Mistake("gamma-missing", gae_with(decay=lambda g, l: l, discount=lambda g, l: 1.0), "γ is ignored.",
                "Which two places in the definition hold a γ?"),
        Mistake("gamma-missing-in-delta", gae_with(discount=lambda g, l: 1.0), "The next value is not discounted in δ.",
                "What is the next state worth from where you stand?"),
        Mistake("gamma-and-lambda-swapped", gae_with(discount=lambda g, l: l), "γ and λ are swapped.",
                "Which of the two discounts rewards, and which one only blends estimates?"),
        Mistake("bootstraps-from-itself", gae_bootstraps_itself, "The last token bootstraps from its own value, as if the text went on.",
                "What should V be after the response has ended?"),
        Mistake("lambda-in-delta", gae_with(discount=lambda g, l: g * l), "λ also discounts the next value in δ.", "Which factor stands before V_{t+1} in the definition of δ?"),
        Mistake("next-value-missing", gae_with(discount=lambda g, l: 0.0), "δ lacks the value of the next state.", "What is still to come after token t, and who estimates it?"),
        Mistake("lambda-squared", gae_lambda_squared, "λ is applied twice per step.", "By which factor is a δ one step ahead weighed?"),
        Mistake("one-step-advantages", gae_td_errors, "Later surprises do not count at all.", "For which λ would that be right?"),
        Mistake("scaled-by-one-minus-lambda", gae_scaled, "The sum is multiplied by 1 − λ.", "Is that factor part of the recursion A_t = δ_t + γλA_{t+1}?"),
        *forms("values-one-column-off", (gae_values_late, gae_values_early), "The values are shifted by one column.",
               "Is values[:, t] the value before or after token t?"),
        Mistake("rewards-one-column-off", gae_rewards_early, "The rewards are shifted by one column.", "Which token earned rewards[:, t]?"),
        Mistake("divides-by-zero", gae_divides_back, "Powers of γλ are divided out again, which fails where they underflow to 0.", "What is 0.42 to the power of 150 in float32, and 0 to the power of 2?"),
        Mistake("last-token-lost", gae_last_lost, "The last token gets no advantage.", "What is δ at the last token, where V_{t+1} is 0?"),
        *forms("returns-are-something-else", (gae_with(returns=lambda a, v, r, m, g: v), gae_with(returns=lambda a, v, r, m, g: a - v), gae_with(returns=lambda a, v, r, m, g: r)),
               "The returns are not A + V.", "Which two of your numbers add up to the return that belongs to this advantage?"),
        Mistake("padding-is-nan", gae_nan_padding, "Outside of the mask there is NaN.", "Which places must be exactly 0?"),
        Mistake("one-tensor-for-both", gae_shared_memory, "Advantages and returns are one and the same tensor, so that a later += changes both.",
                "Does b = a make a copy of a tensor?"),
        Mistake("forward", gae_forward, "The recursion runs from left to right.", "Which δ's can tell whether token t was a good choice: earlier or later ones?"),
        Mistake("no-baseline", gae_with(baseline=False), "V(s_t) is not subtracted.", "Better than what should an advantage be?"),
        *forms("rows-run-together", (gae_flat, gae_rows_linked), "The batch is flattened, so that one response's credit flows into the one before.",
                "What follows the last token of the first row in your recursion?"),
        Mistake("returns-are-advantages", gae_with(returns=lambda a, v, r, m, g: a), "The advantages are returned twice.",
                "What is the critic trained to predict?"),
        Mistake("one-step-returns", gae_with(returns=one_step), "The returns are one-step targets.",
                "Which two of your numbers add up to the return that belongs to this advantage?"),
        Mistake("rewards-to-go", gae_with(returns=rewards_to_go), "The returns are plain sums of rewards, whatever λ is.",
                "Which two of your numbers add up to the return that belongs to this advantage?"),
        Mistake("whitened-already", gae_whitened, "The advantages are whitened already.", "Whose job is whitening, and what happens if it is done twice?"),
        Mistake("returns-from-whitened", gae_returns_from_whitened, "The returns are built from whitened advantages.",
                "In which unit does the critic predict?"),
        Mistake("garbage-in-the-returns", gae_garbage_returns, "Outside of the mask the returns are not 0.", "What is added there, and what stands there?"),
        *forms("multiplies-by-the-mask", (gae_multiplied, gae_returns_multiplied), "Multiplying by the mask is taken to remove what it hides.", "What is NaN times zero?"),
        Mistake("results-swapped", gae_swapped_results, "Returns and advantages come back in the wrong order.", "Which of the two is asked for first?"),
        *forms("no-returns", (gae_only_advantages, gae_stacked, gae_dict), "What comes back is no pair of advantages and returns.", "Which two results are asked for, and in which form?"),
        *forms("overwrites-its-inputs", (gae_in_place, gae_zeroes_padding), "The result is right, but rewards and values are overwritten.",
                "Who needs the old values after this?"),
    ),
)  # fmt: skip

# masked_whiten


def whiten_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    cases = []
    for m in token_masks(d, least=3):
        cases.append(Case((*m.hide(d.normal(*m.mask.shape) * 2 + 3), m.mask), m.label))
    mask = d.anywhere(4, 6)
    numbers = (d.normal(4, 6) * 3 - 2).masked_fill(~mask, 50.0)
    far = (d.normal(4, 6) * 0.5 + 3000).masked_fill(~mask, 0.0)
    outlier = d.normal(3, 50)
    outlier[0, 0] = 40.0
    equal = torch.full((2, 4), float(d.integers(1, 9))).masked_fill(torch.tensor([[False] * 4, [True] * 4]), 7.5)
    two = torch.tensor([[True, True, False]])
    one = torch.tensor([[False, True, False]])
    return [
        *cases,
        Case((numbers, mask, False), "shift_mean=False"),
        Case((numbers, mask, True), "shift_mean=True"),
        Case((numbers.masked_fill(~mask, NAN), mask, False), "shift_mean=False and NaN outside of the mask"),
        Case((outlier, outlier > -9), "one value far from 149 others"),
        Case((torch.tensor([[1.5, 4.0, 9.0]]), two), "two values"),
        Case((far, mask), "values around 3,000", None, 3e-3),
        Case((d.normal(4, 6) * 0.05, mask), "values of small spread"),
        Case((equal, equal != 7.5), "equal values"),
        Case((equal, equal != 7.5, False), "equal values and shift_mean=False"),
        Case((d.normal(5) + 2, torch.tensor([False, True, True, True, True])), "one dimension"),
        Case((torch.ones(1, 3), one), "a single True", raises="ValueError"),
        Case((torch.ones(1, 3), one & ~one), "no True at all", raises="ValueError"),
    ]


def whiten_by(values, mask, shift_mean, mean, variance, divide=None):
    if int(mask.sum()) < 2:
        raise ValueError("too few values")
    kept = torch.where(mask, values, 0.0)
    m, v = mean(kept), variance(kept)
    scale = torch.rsqrt(v + 1e-8) if divide is None else divide(v)
    out = (kept - m) * scale + (0.0 if shift_mean else m)
    return torch.where(mask, out, 0.0)


def true_mean(mask):
    return lambda x: x[mask].mean()


def true_variance(mask):
    return lambda x: x[mask].var()


def whiten_all_positions(values, mask, shift_mean=True):
    return whiten_by(values, mask, shift_mean, torch.mean, torch.var)


def whiten_zeroed_mean(values, mask, shift_mean=True):
    return whiten_by(values, mask, shift_mean, torch.mean, true_variance(mask))


def whiten_biased(values, mask, shift_mean=True):
    return whiten_by(values, mask, shift_mean, true_mean(mask), lambda x: x[mask].var(correction=0))


def whiten_bessel_of_everything(values, mask, shift_mean=True):
    n, count = mask.numel(), int(mask.sum())

    def variance(x):
        return x[mask].var(correction=0) * n / max(n - 1, 1) if count else None

    return whiten_by(values, mask, shift_mean, true_mean(mask), variance)


def whiten_difference_of_squares(values, mask, shift_mean=True):
    n = mask.sum()

    def variance(x):
        return (x[mask].square().mean() - x[mask].mean().square()) * n / (n - 1)

    return whiten_by(values, mask, shift_mean, true_mean(mask), variance)


def whiten_rows(values, mask, shift_mean=True):
    if int(mask.sum()) < 2:
        raise ValueError("too few values")
    if values.dim() == 1 or len(values) == 1:
        return masked_whiten(values, mask, shift_mean)
    rows = [masked_whiten(v, m, shift_mean) if m.sum() > 1 else torch.zeros_like(v) for v, m in zip(values, mask)]
    return torch.stack(rows)


def whiten_inverted_shift(values, mask, shift_mean=True):
    return masked_whiten(values, mask, not shift_mean)


def whiten_shift_ignored(values, mask, shift_mean=True):
    return masked_whiten(values, mask)


def whiten_by_variance(values, mask, shift_mean=True):
    return whiten_by(values, mask, shift_mean, true_mean(mask), true_variance(mask), lambda v: 1 / (v + 1e-8))


def whiten_mean_only(values, mask, shift_mean=True):
    return whiten_by(values, mask, shift_mean, true_mean(mask), true_variance(mask), lambda v: 1.0)


def whiten_large_epsilon(values, mask, shift_mean=True):
    return whiten_by(values, mask, shift_mean, true_mean(mask), true_variance(mask), lambda v: 1 / (v.sqrt() + 1e-1))


def whiten_garbage_left(values, mask, shift_mean=True):
    return torch.where(mask, masked_whiten(values, mask, shift_mean), values)


def whiten_multiplied(values, mask, shift_mean=True):
    if int(mask.sum()) < 2:
        raise ValueError("too few values")
    mean = (values * mask).sum() / mask.sum()
    variance = ((values - mean).square() * mask).sum() / (mask.sum() - 1)
    return ((values - mean) * torch.rsqrt(variance + 1e-8) + (0 if shift_mean else mean)) * mask


def whiten_scales_mean_too(values, mask, shift_mean=True):
    return whiten_by(values, mask, True, true_mean(mask) if shift_mean else lambda x: 0.0, true_variance(mask))


def whiten_no_error(values, mask, shift_mean=True):
    return torch.zeros_like(values) if int(mask.sum()) < 2 else masked_whiten(values, mask, shift_mean)


def whiten_in_place(values, mask, shift_mean=True):
    result = masked_whiten(values, mask, shift_mean)
    values[:] = result
    return result


def whiten_unmasked(values, mask, shift_mean=True):
    masked_whiten(values, mask)
    out = (values - values.mean()) * torch.rsqrt(values.var() + 1e-8) + (0.0 if shift_mean else values.mean())
    return torch.where(mask, out, 0.0)


def whiten_no_epsilon(values, mask, shift_mean=True):
    return whiten_by(values, mask, shift_mean, true_mean(mask), true_variance(mask), torch.rsqrt)


def whiten_epsilon_in_variance(epsilon):
    def whiten(values, mask, shift_mean=True):
        return whiten_by(
            values, mask, shift_mean, true_mean(mask), true_variance(mask), lambda v: (v + epsilon).rsqrt()
        )

    return whiten


def whiten_second_moment(values, mask, shift_mean=True):
    def moment(x):
        return x[mask].square().sum() / (mask.sum() - 1)

    return whiten_by(values, mask, shift_mean, true_mean(mask), moment)


def whiten_mean_deviation(values, mask, shift_mean=True):
    def deviation(x):
        return (x[mask] - x[mask].mean()).abs().mean()

    return whiten_by(values, mask, shift_mean, true_mean(mask), deviation, lambda v: 1 / (v + 1e-8))


def whiten_median(values, mask, shift_mean=True):
    return whiten_by(values, mask, shift_mean, lambda x: x[mask].median(), true_variance(mask))


def whiten_range(values, mask, shift_mean=True):
    def width(x):
        return x[mask].max() - x[mask].min()

    return whiten_by(values, mask, shift_mean, lambda x: x[mask].min(), width, lambda v: 1 / (v + 1e-8))


def whiten_columns(values, mask, shift_mean=True):
    masked_whiten(values, mask)
    return whiten_rows(values.T, mask.T, shift_mean).T if values.dim() == 2 else masked_whiten(values, mask, shift_mean)


def whiten_mean_everywhere(values, mask, shift_mean=True):
    mean = 0.0 if shift_mean else values[mask].mean()
    return masked_whiten(values, mask) + mean


def whiten_clamped(values, mask, shift_mean=True):
    return masked_whiten(values, mask, shift_mean).clamp(-1, 1)


def whiten_spread_at_least(values, mask, shift_mean=True):
    def spread(v):
        return v.sqrt().clamp(min=1).reciprocal()

    return whiten_by(values, mask, shift_mean, true_mean(mask), true_variance(mask), spread)


def whiten_wrong_count(values, mask, shift_mean=True):
    def variance(x):
        return (x[mask] - x[mask].mean()).square().sum() / (mask.numel() - 1)

    return whiten_by(values, mask, shift_mean, true_mean(mask), variance)


def whiten_nan(values, mask, shift_mean=True):
    return torch.where(mask, torch.nan, 0.0) if int(mask.sum()) < 2 else masked_whiten(values, mask, shift_mean)


def whiten_unchanged(values, mask, shift_mean=True):
    return torch.where(mask, values, 0.0) if int(mask.sum()) < 2 else masked_whiten(values, mask, shift_mean)


def whiten_selection_only(values, mask, shift_mean=True):
    return masked_whiten(values, mask, shift_mean)[mask]


def whiten_padding_nan(values, mask, shift_mean=True):
    return masked_whiten(values, mask, shift_mean).masked_fill(~mask, torch.nan)


def whiten_zeroes(values, mask, shift_mean=True):
    result = masked_whiten(values, mask, shift_mean)
    values[~mask] = 0.0
    return result


def whiten_by_selection(values, mask, shift_mean=True):
    chosen = values[mask]
    if chosen.numel() < 2:
        raise ValueError("two values at least")
    white = (chosen - chosen.mean()) / torch.sqrt(chosen.var(unbiased=True) + 1e-8)
    out = torch.zeros_like(values)
    out[mask] = white if shift_mean else white + chosen.mean()
    return out


def whiten_in_double(values, mask, shift_mean=True):
    n = int(mask.sum())
    if n < 2:
        raise ValueError("two values at least")
    x = values.double().masked_fill(~mask, 0.0)
    mean = x.sum() / n
    variance = ((x - mean).masked_fill(~mask, 0.0) ** 2).sum() / (n - 1)
    white = (x - mean) / (variance + 1e-8).sqrt() + (0.0 if shift_mean else mean)
    return white.masked_fill(~mask, 0.0)


def whiten_by_list(values, mask, shift_mean=True):
    kept = [v for v, m in zip(values.flatten().tolist(), mask.flatten().tolist()) if m]
    if len(kept) < 2:
        raise ValueError("two values at least")
    mean = sum(kept) / len(kept)
    scale = (sum((v - mean) ** 2 for v in kept) / (len(kept) - 1) + 1e-8) ** -0.5
    flat = [
        (v - mean) * scale + (0 if shift_mean else mean) if m else 0.0
        for v, m in zip(values.flatten().tolist(), mask.flatten().tolist())
    ]
    return torch.tensor(flat).reshape(values.shape)


WHITEN = Exercise(
    masked_whiten,
    points=3,
    cases=whiten_cases,
    variants=(whiten_by_selection, whiten_in_double, whiten_by_list),
    mistakes=(
        *forms("padding-counted", (whiten_all_positions, whiten_unmasked), "Masked-out positions are set to zero and then counted in mean and variance.",
                "Does a zero in the padding leave a mean as it is?"),
        Mistake("padding-in-the-mean", whiten_zeroed_mean, "Masked-out positions are counted in the mean.",
                "Does a zero in the padding leave a mean as it is?"),
        Mistake("biased-variance", whiten_biased, "The variance is divided by n.", "Which variance does the contract ask for?"),
        *forms("bessel-of-the-tensor", (whiten_bessel_of_everything, whiten_wrong_count), "Bessel's correction counts every position of the tensor.",
                "How many values went into the variance?"),
        Mistake("difference-of-squares", whiten_difference_of_squares, "E[x²] − E[x]² loses its digits where the mean is large.",
                "Which two large numbers are subtracted, and how many digits do they share?"),
        *forms("row-by-row", (whiten_rows, whiten_columns), "Every row, or every column, is whitened for itself.", "Over which values should mean and variance be taken?"),
        Mistake("shift-mean-inverted", whiten_inverted_shift, "shift_mean does the opposite.", "Should shift_mean=True leave a mean of 0, or the old one?"),
        Mistake("shift-mean-ignored", whiten_shift_ignored, "shift_mean has no influence.", "What should be the mean of the result for shift_mean=False?"),
        Mistake("divides-by-the-variance", whiten_by_variance, "The values are divided by the variance.", "In which unit is a variance, and in which a standard deviation?"),
        Mistake("no-epsilon", whiten_no_epsilon, "Without a small constant, equal values become 0/0.", "What are variance and result when all values are equal?"),
        Mistake("second-moment", whiten_second_moment, "The spread is measured from 0, not from the mean.", "From where are deviations counted in a variance?"),
        *forms("another-spread", (whiten_mean_deviation, whiten_range), "The values are divided by another measure of spread.", "What should be the variance of the result?"),
        Mistake("median-for-mean", whiten_median, "The median is subtracted.", "What should be the mean of the result?"),
        Mistake("outliers-cut-off", whiten_clamped, "Large values are cut off.", "What should be the variance of the result?"),
        Mistake("small-spread-kept", whiten_spread_at_least, "A spread below 1 is left as it is.", "What should be the variance of the result?"),
        Mistake("mean-only", whiten_mean_only, "Only the mean is removed.", "What should be the variance of the result?"),
        *forms("large-epsilon", (whiten_large_epsilon, whiten_epsilon_in_variance(1e-2), whiten_epsilon_in_variance(1e-4)), "The small constant is not small, and added to the standard deviation.",
                "Which constant is asked for, and under which root does it stand?"),
        Mistake("mean-not-scaled-back", whiten_scales_mean_too, "For shift_mean=False the values are only divided, so that the mean is rescaled too.",
                "If the spread is 3 and the mean −2, what should be the mean of the result?"),
        Mistake("mean-added-everywhere", whiten_mean_everywhere, "For shift_mean=False the mean is added outside of the mask too.", "Which places must be exactly 0?"),
        Mistake("padding-is-nan", whiten_padding_nan, "Outside of the mask there is NaN.", "Which places must be exactly 0?"),
        Mistake("shape-lost", whiten_selection_only, "Only the selected values come back.", "What shape is asked for?"),
        Mistake("padding-left-as-it-was", whiten_garbage_left, "Outside of the mask the values are left as they were.", "Which places must be exactly 0?"),
        Mistake("multiplies-by-the-mask", whiten_multiplied, "Multiplying by the mask is taken to remove what it hides.", "What is NaN times zero?"),
        *forms("no-error", (whiten_no_error, whiten_nan, whiten_unchanged), "A single value is accepted, without a word.", "What is the spread of a single value?"),
        *forms("overwrites-the-values", (whiten_in_place, whiten_zeroes), "The result is right, but it is written over the caller's values.",
                "Who else is going to read these values?"),
    ),
)  # fmt: skip

EXERCISES = (KL, SHAPED, RETURNS, GAE, WHITEN)
