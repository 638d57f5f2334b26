"""Lesson 04: small, safe steps."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from autograder.draws import Draw, token_masks
from autograder.exercise import Case, Exercise, Mistake, forms
from rlhf_core.policy import masked_mean
from rlhf_core.ppo import approx_kl, clip_fraction, clipped_policy_loss, clipped_value_loss, ppo_loss


def log_ratios(d: Draw, clip_range: float, *shape: int) -> torch.Tensor:
    """Of order 1, of both signs, some within the clip range, and none close to its ends."""
    inside = d.uniform(-0.6, 0.6, *shape) * math.log1p(clip_range)
    above = math.log1p(clip_range) + d.uniform(0.1, 0.9, *shape)
    below = math.log1p(-clip_range) - d.uniform(0.1, 0.9, *shape)
    which = d.integers(0, 3, *shape)
    which.view(-1)[:2] = torch.tensor([0, 2])[: which.numel()]
    return torch.where(which == 0, above, torch.where(which == 1, below, inside))


def policy_numbers(d: Draw, mask: torch.Tensor, clip_range: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probs, old log-probs and advantages."""
    old = -d.uniform(0.5, 3, *mask.shape)
    return old + log_ratios(d, clip_range, *mask.shape), old, d.away_from_zero(*mask.shape)


# clipped_policy_loss


def policy_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    cases = []
    for kind in token_masks(d):
        clip = d.number(0.12, 0.35)
        cases.append(Case((*kind.hide(*policy_numbers(d, kind.mask, clip)), kind.mask, clip), kind.label))
    full, clip = torch.ones(2, 4, dtype=torch.bool), d.number(0.12, 0.35)
    old, rare = -d.uniform(0.5, 3, 2, 4), -d.uniform(150, 200, 2, 4)
    above = math.log1p(clip) + d.uniform(0.2, 0.6, 2, 4)
    size = d.uniform(0.4, 1.5, 2, 4)
    for sign, name in ((1, "positive"), (-1, "negative")):
        cases.append(Case((old + above, old, sign * size, full, clip), f"ratios above 1 + ε and {name} advantages"))
        cases.append(Case((old - above, old, sign * size, full, clip), f"ratios below 1 − ε and {name} advantages"))
    inside = d.signs(2, 4) * 0.5 * math.log1p(clip)
    leap = d.uniform(4, 5.5, 2, 4)
    return [
        *cases,
        Case((old + inside, old, d.away_from_zero(2, 4), full, clip), "ratios within the clip range"),
        Case((old.clone(), old, d.away_from_zero(2, 4), full, clip), "a policy that has not moved yet"),
        Case((rare + inside, rare, d.away_from_zero(2, 4), full, clip), "tokens as unlikely as e^-150", 1e-4, 1e-4),
        Case(
            (old + leap, old, size, full, clip), "tokens a hundred times as likely as before, and positive advantages"
        ),
        Case(
            (old + leap, old, -size, full, clip), "tokens a hundred times as likely as before, and negative advantages"
        ),
        Case((old + above, old, size * torch.tensor([1.0, 0, 0, 1]), full, clip), "advantages of 0 among others"),
        Case((*policy_numbers(d, full, 0.8), full, 0.8), "a clip range of 0.8"),
        Case((*policy_numbers(d, full[:1, :1], 0.05), full[:1, :1], 0.05), "a single token and a clip range of 0.05"),
    ]


def ratio_of(logprobs, old_logprobs, mask):
    return torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0).clamp(max=80))


def masked_advantages(advantages, mask):
    return torch.where(mask, advantages, 0.0)


def surrogate(combine=lambda r, c, a, eps: torch.minimum(r * a, c * a), old=lambda lp, o: o.detach(), adv=lambda a, m: a.detach(),
              ratio=ratio_of, bounds=lambda eps: (1 - eps, 1 + eps), mean=masked_mean, sign=-1.0):  # fmt: skip
    """clipped_policy_loss with some of its parts replaced."""

    def loss(logprobs, old_logprobs, advantages, mask, clip_range):
        a = masked_advantages(adv(advantages, mask), mask)
        r = ratio(logprobs, old(logprobs, old_logprobs), mask)
        return sign * mean(combine(r, r.clamp(*bounds(clip_range)), a, clip_range), mask)

    return loss


def policy_unmasked(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio = torch.exp(logprobs - old_logprobs.detach())
    a = advantages.detach()
    return -torch.minimum(ratio * a, ratio.clamp(1 - clip_range, 1 + clip_range) * a).mean()


def policy_multiplied_by_mask(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio = torch.exp(logprobs - old_logprobs.detach())
    a = advantages.detach()
    return -(torch.minimum(ratio * a, ratio.clamp(1 - clip_range, 1 + clip_range) * a) * mask).sum() / mask.sum()


def policy_garbage_gradient(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio = torch.exp(logprobs - old_logprobs.detach())
    a = advantages.detach()
    terms = torch.minimum(ratio * a, ratio.clamp(1 - clip_range, 1 + clip_range) * a)
    return -torch.where(mask, terms, 0.0).sum() / mask.sum()


def mean_over_everything(x, mask):
    return torch.where(mask, x, 0.0).mean()


def mean_of_row_means(x, mask):
    return masked_mean(x, mask, dim=1).mean()


def sum_over_tokens(x, mask):
    return torch.where(mask, x, 0.0).sum()


def mean_of_first_columns(x, mask):
    return masked_mean(x, torch.arange(mask.shape[1]) < mask.sum(dim=1, keepdim=True))


def sum_per_row(x, mask):
    return torch.where(mask, x, 0.0).sum() / len(mask)


def mean_of_column_means(x, mask):
    return masked_mean(x, mask, dim=0).mean()


def mean_of_nonzero(x, mask):
    kept = torch.where(mask, x, 0.0)
    return kept.sum() / (kept != 0).sum().clamp(min=1)


def mean_with_epsilon(x, mask):
    return torch.where(mask, x, 0.0).sum() / (mask.sum() + 1e-2)


def not_reduced(x, mask):
    return torch.where(mask, x, 0.0)


def mean_sequence_ratio(logprobs, old_logprobs, mask):
    mean = masked_mean(logprobs - old_logprobs, mask, dim=1)[:, None]
    return torch.exp(mean.clamp(-80, 80)).expand_as(logprobs)


def limited_ratio(logprobs, old_logprobs, mask):
    return torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0).clamp(-0.5, 0.5))


def squared_ratio(logprobs, old_logprobs, mask):
    return ratio_of(logprobs, old_logprobs, mask) ** 2


def difference_of_probabilities(logprobs, old_logprobs, mask):
    return torch.where(mask, logprobs.exp() - old_logprobs.exp(), 1.0)


def centred(a, m):
    a = torch.where(m, a.detach(), 0.0)
    return a - masked_mean(a, m)


def policy_score_gradient(logprobs, old_logprobs, advantages, mask, clip_range):
    value = clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range).detach()
    free = masked_mean(-logprobs * advantages.detach(), mask)
    return value + free - free.detach()


def policy_number(logprobs, old_logprobs, advantages, mask, clip_range):
    return clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range).item()


def policy_old_overwritten(logprobs, old_logprobs, advantages, mask, clip_range):
    loss = clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range)
    old_logprobs.copy_(logprobs.detach())
    return loss


def clipped_log(logprobs, old_logprobs, mask):
    return torch.where(mask, logprobs - old_logprobs, 0.0)


def policy_log_ratio_clipped(logprobs, old_logprobs, advantages, mask, clip_range):
    log_ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0.0)
    a = masked_advantages(advantages.detach(), mask)
    both = torch.exp(log_ratio.clamp(max=80)) * a, torch.exp(log_ratio.clamp(-clip_range, clip_range)) * a
    return -masked_mean(torch.minimum(*both), mask)


def sequence_ratio(logprobs, old_logprobs, mask):
    total = torch.where(mask, logprobs - old_logprobs, 0.0).sum(dim=1, keepdim=True)
    return torch.exp(total.clamp(-80, 80)).expand_as(logprobs)


def half_precision_ratio(logprobs, old_logprobs, mask):
    return ratio_of(logprobs.bfloat16(), old_logprobs.bfloat16(), mask).float()


def ratio_of_probabilities(logprobs, old_logprobs, mask):
    p, q = (torch.exp(torch.where(mask, x, 0.0)) for x in (logprobs, old_logprobs))
    return p / q


def whitened(a, m):
    a = torch.where(m, a.detach(), 0.0)
    mean = masked_mean(a, m)
    return (a - mean) / (masked_mean((a - mean) ** 2, m) + 1e-8).sqrt()


def dual_clip(r, c, a, eps):
    inner = torch.minimum(r * a, c * a)
    return torch.where(a < 0, torch.maximum(inner, 3 * a), inner)


def policy_in_place(logprobs, old_logprobs, advantages, mask, clip_range):
    loss = clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range)
    advantages[~mask] = 0.0
    return loss


def policy_detached(logprobs, old_logprobs, advantages, mask, clip_range):
    return clipped_policy_loss(logprobs.detach(), old_logprobs, advantages, mask, clip_range)


def policy_graph_in_data(logprobs, old_logprobs, advantages, mask, clip_range):
    return surrogate(old=lambda lp, o: o)(logprobs, old_logprobs, advantages, mask, clip_range)


def policy_straight_through(logprobs, old_logprobs, advantages, mask, clip_range):
    value = clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range).detach()
    free = surrogate(combine=lambda r, c, a, e: r * a)(logprobs, old_logprobs, advantages, mask, clip_range)
    return value + free - free.detach()


def policy_mask_overwritten(logprobs, old_logprobs, advantages, mask, clip_range):
    loss = clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range)
    mask[:, -1] = False
    return loss


class PolicyRemembersRange:
    """Takes the clip range of the first call for all later ones."""

    def __init__(self):
        self.clip_range = None

    def __call__(self, logprobs, old_logprobs, advantages, mask, clip_range):
        self.clip_range = self.clip_range or clip_range
        return clipped_policy_loss(logprobs, old_logprobs, advantages, mask, self.clip_range)


class PolicyRemembersOld:
    """Takes the old log-probs of the first call for all later ones of the same shape."""

    def __init__(self):
        self.old = {}

    def __call__(self, logprobs, old_logprobs, advantages, mask, clip_range):
        old = self.old.setdefault(tuple(logprobs.shape), old_logprobs.detach().clone())
        return clipped_policy_loss(logprobs, old, advantages, mask, clip_range)


def policy_plain(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio = torch.exp(logprobs[mask] - old_logprobs[mask].detach())
    a = advantages[mask].detach()
    return -torch.min(ratio * a, torch.clamp(ratio, 1 - clip_range, 1 + clip_range) * a).mean()


def policy_by_rule(logprobs, old_logprobs, advantages, mask, clip_range):
    # the rule of clip_fraction decides where the gradient is cut; the log-ratio is limited to ±20 as in verl
    zero = torch.zeros_like(logprobs)
    ratio = torch.where(mask, logprobs - old_logprobs.detach(), zero).clamp(-20, 20).exp()
    a = torch.where(mask, advantages.detach(), zero)
    cut = ((ratio > 1 + clip_range) & (a > 0)) | ((ratio < 1 - clip_range) & (a < 0))
    gain = torch.where(cut, ratio.detach().clamp(1 - clip_range, 1 + clip_range), ratio) * a
    return gain.sum().neg() / mask.sum()


def policy_by_where(logprobs, old_logprobs, advantages, mask, clip_range):
    diff = torch.where(mask, logprobs - old_logprobs.detach(), torch.zeros(()))
    ratio = diff.clamp(-80, 80).exp()
    a = torch.where(mask, advantages.detach(), torch.zeros(()))
    best = torch.where(a > 0, ratio.clamp(max=1 + clip_range), ratio.clamp(min=1 - clip_range))
    return -(best * a).sum() / mask.sum()


def policy_by_max(logprobs, old_logprobs, advantages, mask, clip_range):
    lp, old, a = logprobs[mask], old_logprobs.detach()[mask], advantages.detach()[mask]
    ratio = torch.exp((lp - old).clamp(max=60))
    return torch.max(-ratio * a, -torch.clamp(ratio, 1.0 - clip_range, 1.0 + clip_range) * a).mean()


def policy_by_loop(logprobs, old_logprobs, advantages, mask, clip_range):
    terms = []
    for b in range(mask.shape[0]):
        for t in mask[b].nonzero().flatten().tolist():
            ratio = torch.exp((logprobs[b, t].double() - old_logprobs[b, t].detach().double()).clamp(max=80))
            a = advantages[b, t].detach().double()
            terms.append(torch.minimum(ratio * a, ratio.clamp(1 - clip_range, 1 + clip_range) * a))
    return -torch.stack(terms).mean().float()


def policy_weighted(logprobs, old_logprobs, advantages, mask, clip_range):
    lp, old, a = (x.masked_fill(~mask, 0.0) for x in (logprobs, old_logprobs.detach(), advantages.detach()))
    rho = (lp - old).clamp(max=70).exp()
    gain = torch.stack([rho * a, rho.clip(1 - clip_range, 1 + clip_range) * a]).amin(dim=0)
    weights = mask / mask.sum()
    return -torch.einsum("bt,bt->", gain, weights)


POLICY = Exercise(
    clipped_policy_loss,
    points=5,
    cases=policy_cases,
    result="loss",
    trained=(0,),
    tolerance=2e-5,
    draws=2,
    variants=(policy_plain, policy_by_rule, policy_by_where, policy_by_max, policy_by_loop, policy_weighted),
    mistakes=(
        Mistake("clipped-term-only", surrogate(lambda r, c, a, e: c * a), "Only the clipped term is used, so that a ratio that has moved the wrong way gets no gradient to come back.",
                "A is negative, and the token has become much more likely. Should the loss still push it down?"),
        Mistake("no-clip", surrogate(lambda r, c, a, e: r * a), "Nothing is clipped.", "What stops the policy from raising a token's probability without end, as long as A is positive?"),
        Mistake("max-for-min", surrogate(lambda r, c, a, e: torch.maximum(r * a, c * a)), "The larger of the two terms is taken, which is the optimist's choice.",
                "The objective is a lower bound: which of two estimates of a gain would a pessimist believe?"),
        Mistake("min-before-multiplying", surrogate(lambda r, c, a, e: torch.minimum(r, c) * a), "The minimum is taken of the ratios, before they meet the advantage.",
                "Multiply 1 < 2 by −1. Which is the smaller one now?"),
        Mistake("log-ratio-clipped", policy_log_ratio_clipped, "The log-ratio is clipped to ±ε, and not the ratio to 1 ± ε.", "Is log(1 + ε) equal to ε when ε is 0.3?"),
        Mistake("inverse-ratio", surrogate(ratio=lambda lp, o, m: ratio_of(o, lp, m)), "The ratio is the wrong way round.", "The samples come from the old policy: which of the two stands in the denominator of an importance weight?"),
        Mistake("ratio-of-logs", surrogate(ratio=lambda lp, o, m: torch.where(m, lp / o, 1.0)), "The log-probs are divided by each other.", "Which operation on logarithms is a division of what they stand for?"),
        Mistake("log-ratio-for-ratio", surrogate(ratio=clipped_log), "The log-ratio is used as if it were the ratio.", "What is the ratio of a policy that has not moved: 0 or 1?"),
        Mistake("probabilities-underflow", surrogate(ratio=ratio_of_probabilities), "Both probabilities are formed before they are divided, and underflow to 0 for unlikely tokens.",
                "What is 0 divided by 0, and can you divide before you take the exponential?"),
        Mistake("ratio-minus-one", surrogate(lambda r, c, a, e: torch.minimum((r - 1) * a, (c - 1) * a)), "1 is subtracted from the ratio: the gradient is right, and the number is not the objective.",
                "What is the objective of a policy that has not moved: 0, or the mean advantage?"),
        Mistake("product-clipped", surrogate(lambda r, c, a, e: torch.minimum(r * a, (r * a).clamp(1 - e, 1 + e))), "The product of ratio and advantage is clipped, and not the ratio.", "Which of the two says how far the policy has moved?"),
        Mistake("advantage-sign-lost", surrogate(lambda r, c, a, e: torch.minimum(r * a.abs(), c * a.abs())), "The sign of the advantage is lost.", "What should happen to a token that did worse than expected?"),
        Mistake("outside-dropped", surrogate(lambda r, c, a, e: torch.where((r - 1).abs() > e, 0.0, r * a)), "Tokens whose ratio is out of range are dropped, whatever the sign of their advantage.",
                "A token has moved out of the range in the wrong direction. What brings it back?"),
        Mistake("cut-tokens-are-zero", surrogate(lambda r, c, a, e: torch.where(binding(r, a, e), 0.0, r * a)), "Where the clip binds the term is 0: the gradient is right, and the value is not.", "Is a clipped term equal to 0, or does it only stop changing?"),
        Mistake("old-is-current", surrogate(old=lambda lp, o: lp.detach()), "The ratio is taken to the current policy, so that it is always 1 and nothing is ever clipped.",
                "Which policy wrote the tokens, and has it changed since?"),
        Mistake("one-sided-clip", surrogate(bounds=lambda e: (None, 1 + e)), "The ratio is clipped above only.", "What happens to a token with a negative advantage that has become very unlikely?"),
        Mistake("clipped-below-only", surrogate(bounds=lambda e: (1 - e, None)), "The ratio is clipped below only.", "What happens to a token with a positive advantage that has become very likely?"),
        Mistake("inverse-bound", surrogate(bounds=lambda e: (1 / (1 + e), 1 + e)), "The lower bound is 1/(1 + ε).", "Is the range around 1 symmetric in the ratio or in its logarithm?"),
        Mistake("clip-range-around-zero", surrogate(bounds=lambda e: (-e, e)), "The ratio is clipped to ±ε.", "Around which number does the ratio move?"),
        *forms("epsilon-fixed", (surrogate(bounds=lambda e: (0.8, 1.2)), surrogate(bounds=lambda e: (1 - 2 * e, 1 + 2 * e))), "The range is not the one that was asked for.", "How far from 1 may the ratio move?"),
        Mistake("wrong-sign", surrogate(sign=1.0), "The sign is wrong: minimising this makes good tokens less likely.", "The objective is maximised. What is minimised?"),
        Mistake("mask-unused", policy_unmasked, "The mask has no influence.", "Whose probability is it that stands in a padded column?"),
        Mistake("multiplied-by-mask", policy_multiplied_by_mask, "Garbage is multiplied by 0, which is not a number when the garbage is NaN or infinite.", "What is 0 times infinity?"),
        Mistake("garbage-gradient", policy_garbage_gradient, "The value is masked at the end, but the gradient passes through the garbage first.", "What is 0 times NaN, on the way back?"),
        Mistake("averaged-over-padding", surrogate(mean=mean_over_everything), "The sum over tokens is divided by the number of all positions.", "How many tokens does the mean run over?"),
        *forms("mean-of-row-means", (surrogate(mean=mean_of_row_means), surrogate(mean=mean_of_column_means)), "Rows or columns are averaged by themselves first, so that tokens weigh differently.", "Should a token of a short response count more than one of a long response?"),
        Mistake("summed", surrogate(mean=sum_over_tokens), "The tokens are summed.", "Should a batch with more tokens have a larger loss?"),
        Mistake("mask-from-lengths", surrogate(mean=mean_of_first_columns), "Only the length of each response is used, as if all of them began at column 0.", "Does every response begin in the first column?"),
        Mistake("summed-per-row", surrogate(mean=sum_per_row), "The tokens of a response are summed, and then averaged over responses.", "What does the mean run over: tokens, or responses?"),
        *forms("sequence-ratio", (surrogate(ratio=sequence_ratio), surrogate(ratio=mean_sequence_ratio)), "One ratio for the whole response is used at each of its tokens.", "Is PPO's action a token or a response?"),
        *forms("advantages-whitened", (surrogate(adv=whitened), surrogate(adv=centred)), "The advantages are whitened once more.", "Who has taken care of the advantages already?"),
        Mistake("dual-clip", surrogate(dual_clip), "For negative advantages there is a second clip, as in some libraries.", "Does the formula of this exercise bound the loss for A < 0?"),
        Mistake("counts-nonzero-terms", surrogate(mean=mean_of_nonzero), "Tokens whose advantage is 0 are not counted in the mean.", "How many tokens does the mean run over?"),
        Mistake("epsilon-in-the-count", surrogate(mean=mean_with_epsilon), "A small number added to the count bends the mean.", "Can the count be 0 here?"),
        Mistake("log-ratio-limited", surrogate(ratio=limited_ratio), "The log-ratio is limited before the exponential, to less than the ratios that occur.", "Which ratios does your limit change?"),
        Mistake("ratio-squared", surrogate(ratio=squared_ratio), "The ratio is squared.", "What is π/π_old when the log-probs differ by log 2?"),
        Mistake("difference-for-ratio", surrogate(ratio=difference_of_probabilities), "Probabilities are subtracted, not divided.", "What is the ratio of a policy that has not moved: 0 or 1?"),
        Mistake("halved", surrogate(sign=-0.5), "There is a factor ½ too many.", "What is the objective of a policy that has not moved: the mean advantage, or half of it?"),
        Mistake("penalty-added", surrogate(lambda r, c, a, e: torch.minimum(r * a, c * a) - 0.1 * (r - 1 - r.log())), "A KL penalty is added.", "Which terms does the formula have?"),
        Mistake("negative-advantages-dropped", surrogate(lambda r, c, a, e: torch.minimum(r * a, c * a) * (a > 0)), "Tokens that did worse than expected are left out.", "What should happen to a token that did worse than expected?"),
        Mistake("not-reduced", surrogate(mean=not_reduced), "A loss for each token comes back instead of one number.", "What does backward() need?"),
        Mistake("a-plain-number", policy_number, "A plain number comes back.", "On what will backward() be called?"),
        Mistake("old-logprobs-overwritten", policy_old_overwritten, "It writes into the old log-probs that it was given.", "Who reads the old log-probs in the next minibatch?"),
        Mistake("no-gradient", policy_detached, "No gradient reaches the policy.", "Which tensor must still know where it came from?"),
        Mistake("old-logprobs-trained", policy_graph_in_data, "A gradient flows into the old log-probs.", "Which of the two policies is trained?"),
        Mistake("advantages-trained", surrogate(adv=lambda a, m: a), "A gradient flows into the advantages.", "Should the critic be trained by making advantages larger?"),
        *forms("gradient-unclipped", (policy_straight_through, policy_score_gradient), "The value is clipped, but the gradient is that of the unclipped objective.", "What is the clip for: the number that is logged, or the step that is taken?"),
        Mistake("advantages-overwritten", policy_in_place, "It writes into the advantages that it was given.", "Who else reads the advantages after this minibatch?"),
        Mistake("mask-overwritten", policy_mask_overwritten, "It writes into the mask that it was given.", "Who else reads the mask after this minibatch?"),
        Mistake("remembers-clip-range", PolicyRemembersRange, "It remembers the clip range of its first call.", "What should a second call know of the first?"),
        Mistake("remembers-old-logprobs", PolicyRemembersOld, "It remembers the old log-probs of an earlier call.", "What should a second call know of the first?"),
    ),
)  # fmt: skip


# clip_fraction


def fraction_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    cases = []
    for kind in token_masks(d):
        clip = d.number(0.12, 0.35)
        cases.append(Case((*kind.hide(*policy_numbers(d, kind.mask, clip)), kind.mask, clip), kind.label))
    full, clip = torch.ones(2, 5, dtype=torch.bool), d.number(0.12, 0.35)
    old = -d.uniform(0.5, 3, 2, 5)
    above = math.log1p(clip) + d.uniform(0.2, 0.6, 2, 5)
    size = d.uniform(0.4, 1.5, 2, 5)
    for sign, name in ((1, "positive"), (-1, "negative")):
        cases.append(Case((old + above, old, sign * size, full, clip), f"ratios above 1 + ε and {name} advantages"))
        cases.append(Case((old - above, old, sign * size, full, clip), f"ratios below 1 − ε and {name} advantages"))
    mask = d.anywhere(3, 6)
    numbers = policy_numbers(d, mask, clip)
    # the clip binds on the last token of the row that begins at column 1
    numbers[0][1, 4], numbers[2][1, 4] = numbers[1][1, 4] + math.log1p(clip) + 0.4, 1.0
    hidden = [x.masked_fill(~mask, fill) for x, fill in zip(numbers, (-0.1, -5.0, 2.0))]
    # e^-0.1 is 0.9048 and 1/1.1 is 0.9091: `short` does not reach the lower bound, but reaches one or both of these
    bound = torch.where(d.signs(2, 5) > 0, math.log1p(0.1), math.log1p(-0.1))
    near = bound * d.uniform(1.05, 1.3, 2, 5)
    short = torch.log(d.uniform(0.9012, 0.9038, 2, 5) + 0.0045 * torch.tensor([0.0, 1, 0, 1, 1]))
    rare, leap = -d.uniform(150, 200, 2, 5), d.signs(2, 5) * d.uniform(4, 5.5, 2, 5)
    still = torch.ones(2, 5) * torch.tensor([1.0, -1, 1, -1, 1])
    return [
        *cases,
        Case((*hidden, mask, clip), "large ratios outside of the mask"),
        Case((old.clone(), old, size, full, clip), "a policy that has not moved yet"),
        Case((old + above * still, old, torch.zeros(2, 5), full, clip), "advantages of 0"),
        Case(
            (old + above * still, old, still * torch.tensor([0.0, 1, 1e-3, 1e-3, 0]), full, clip),
            "advantages of 0 and tiny ones among others",
        ),
        Case((old + near, old, d.away_from_zero(2, 5), full, 0.1), "ratios close to the bounds"),
        Case(
            (old + math.log1p(0.1) * d.uniform(1.015, 1.045, 2, 5), old, still * size, full, 0.1),
            "ratios just above 1 + ε",
        ),
        Case((old + short, old, -size, full, 0.1), "ratios just above 1 − ε and negative advantages"),
        Case((old + near, old, d.away_from_zero(2, 5), full, 0.25), "ratios far from the bounds"),
        Case((old + leap, old, leap.sign() * size, full, clip), "ratios far above and far below 1"),
        Case((rare + above * leap.sign(), rare, leap.sign() * size, full, clip), "tokens as unlikely as e^-150"),
        # in float32, 1 ± 1e-9 is 1
        Case((old.clone(), old, still, full, 1e-9), "a clip range so small that ratios of 1 lie on its bounds"),
        Case((old + 3 * above, old, -size, full, clip), "ratios far above 1 and negative advantages"),
    ]


def fraction(active, mean=masked_mean, ratio=ratio_of):
    """clip_fraction with some of its parts replaced."""

    def share(logprobs, old_logprobs, advantages, mask, clip_range):
        r, a = ratio(logprobs, old_logprobs, mask), masked_advantages(advantages, mask)
        return mean(active(r, a, clip_range).float(), mask).item()

    return share


def binding(r, a, e):
    return (r > 1 + e) & (a > 0) | (r < 1 - e) & (a < 0)


def fraction_unmasked(logprobs, old_logprobs, advantages, mask, clip_range):
    return binding(torch.exp(logprobs - old_logprobs), advantages, clip_range).float().mean().item()


def fraction_by_terms(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio = torch.exp(logprobs - old_logprobs)[mask]
    a = advantages[mask]
    one, two = ratio * a, ratio.clamp(1 - clip_range, 1 + clip_range) * a
    return (two < one).float().mean()


def fraction_by_loop(logprobs, old_logprobs, advantages, mask, clip_range):
    hits, count = 0, 0
    for b, t in mask.nonzero().tolist():
        r, a = math.exp(logprobs[b, t].item() - old_logprobs[b, t].item()), advantages[b, t].item()
        hits += (a > 0 and r > 1 + clip_range) or (a < 0 and r < 1 - clip_range)
        count += 1
    return hits / count


def fraction_by_numpy(logprobs, old_logprobs, advantages, mask, clip_range):
    import numpy

    keep = mask.numpy()
    r = numpy.exp((logprobs - old_logprobs).numpy()[keep])
    a = advantages.numpy()[keep]
    return numpy.mean(numpy.where(a > 0, r > 1 + clip_range, (r < 1 - clip_range) & (a < 0)))


def fraction_in_place(logprobs, old_logprobs, advantages, mask, clip_range):
    logprobs -= old_logprobs
    return clip_fraction(logprobs, torch.zeros_like(logprobs), advantages, mask, clip_range)


def fraction_of_probabilities(logprobs, old_logprobs, advantages, mask, clip_range):
    return fraction(binding, ratio=ratio_of_probabilities)(logprobs, old_logprobs, advantages, mask, clip_range)


class RunningFraction:
    """The share of all tokens so far."""

    def __init__(self):
        self.hits = self.tokens = 0

    def __call__(self, logprobs, old_logprobs, advantages, mask, clip_range):
        count = int(mask.sum())
        self.hits += clip_fraction(logprobs, old_logprobs, advantages, mask, clip_range) * count
        self.tokens += count
        return self.hits / self.tokens


def rows_with_any(x, mask):
    return torch.where(mask, x, 0.0).amax(dim=1).mean()


def fraction_by_sign(logprobs, old_logprobs, advantages, mask, clip_range):
    moved = (torch.exp(logprobs[mask] - old_logprobs[mask]) - 1) * advantages[mask].sign()
    return (moved > clip_range).double().mean().item()


def fraction_by_log(logprobs, old_logprobs, advantages, mask, clip_range):
    gap, a = (logprobs - old_logprobs)[mask], advantages[mask]
    up, down = (gap > math.log1p(clip_range)) & (a > 0), (gap < math.log1p(-clip_range)) & (a < 0)
    return (up.sum() + down.sum()) / mask.sum()


def fraction_terms_equal(r, a, e):
    return (r.clamp(1 - e, 1 + e) * a) <= (r * a)


def fraction_tensor_of_rows(logprobs, old_logprobs, advantages, mask, clip_range):
    r, a = ratio_of(logprobs, old_logprobs, mask), masked_advantages(advantages, mask)
    return masked_mean(binding(r, a, clip_range).float(), mask, dim=1)


def fraction_of(denominator):
    def share(logprobs, old_logprobs, advantages, mask, clip_range):
        r, a = ratio_of(logprobs, old_logprobs, mask), masked_advantages(advantages, mask)
        count = (denominator(r, a, clip_range) & mask).sum()
        return ((binding(r, a, clip_range) & mask).sum() / count.clamp(min=1)).item()

    return share


def fraction_one_more(logprobs, old_logprobs, advantages, mask, clip_range):
    count = mask.sum().item()
    return clip_fraction(logprobs, old_logprobs, advantages, mask, clip_range) * count / (count + 1)


FRACTION = Exercise(
    clip_fraction,
    points=3,
    cases=fraction_cases,
    result="float",
    draws=2,
    variants=(fraction_by_terms, fraction_by_loop, fraction_by_numpy, fraction_by_sign, fraction_by_log),
    mistakes=(
        Mistake("sign-ignored", fraction(lambda r, a, e: (r - 1).abs() > e), "Every ratio out of range is counted, whatever the sign of the advantage.",
                "A ratio is above 1 + ε and A is negative. Which of the two terms is the minimum, and does the gradient still flow?"),
        Mistake("clipped-tensor-tested", fraction(lambda r, a, e: (r.clamp(1 - e, 1 + e) > 1 + e + 1e-3)), "The ratio is clipped first and then tested against the bound, which it can no longer exceed.",
                "Can a number that has been clipped to 1 + ε be larger than 1 + ε?"),
        Mistake("upper-side-only", fraction(lambda r, a, e: (r > 1 + e) & (a > 0)), "Only ratios above the range are counted.", "What does the clip do where A is negative?"),
        Mistake("lower-side-only", fraction(lambda r, a, e: (r < 1 - e) & (a < 0)), "Only ratios below the range are counted.", "What does the clip do where A is positive?"),
        Mistake("signs-swapped", fraction(lambda r, a, e: (r > 1 + e) & (a < 0) | (r < 1 - e) & (a > 0)), "The cases where the gradient still flows are counted, and the others are not.",
                "Where A is positive and the ratio above its range: does pushing further still pay?"),
        Mistake("unclipped-counted", fraction(lambda r, a, e: ~binding(r, a, e)), "The tokens that are not clipped are counted.", "Which share is asked for?"),
        Mistake("ties-counted", fraction(fraction_terms_equal), "Tokens are counted where both terms are equal, which is where nothing is clipped.", "Which of the two terms is smaller while the ratio is in its range?"),
        Mistake("zero-advantage-counted", fraction(lambda r, a, e: (r > 1 + e) & (a >= 0) | (r < 1 - e) & (a <= 0)), "Tokens with an advantage of 0 are counted.", "What gradient is there to cut, if A is 0?"),
        Mistake("bound-counted", fraction(lambda r, a, e: (r >= 1 + e) & (a > 0) | (r <= 1 - e) & (a < 0)), "Ratios exactly on a bound are counted.", "A ratio on the bound itself: do the two terms differ?"),
        Mistake("everything-but-positive", fraction(lambda r, a, e: torch.where(a > 0, r > 1 + e, r < 1 - e)), "An advantage of 0 is treated as a negative one.", "What gradient is there to cut, if A is 0?"),
        Mistake("everything-but-negative", fraction(lambda r, a, e: torch.where(a < 0, r < 1 - e, r > 1 + e)), "An advantage of 0 is treated as a positive one.", "What gradient is there to cut, if A is 0?"),
        Mistake("inverse-bound", fraction(lambda r, a, e: (r > 1 + e) & (a > 0) | (r < 1 / (1 + e)) & (a < 0)), "The lower bound is 1/(1 + ε).", "Is the range around 1 symmetric in the ratio or in its logarithm?"),
        Mistake("range-doubled", fraction(lambda r, a, e: binding(r, a, 2 * e)), "The range is twice as wide as it should be.", "How far from 1 may the ratio move: ε to each side, or 2ε?"),
        Mistake("half-precision", fraction(binding, ratio=half_precision_ratio), "The ratio is computed in half precision, which moves it across its bounds.", "How many digits does bfloat16 have, and how close to a bound may a ratio be?"),
        Mistake("log-ratio-tested", fraction(lambda r, a, e: (r.log() > e) & (a > 0) | (r.log() < -e) & (a < 0)), "The log-ratio is compared with ±ε.", "Is it the ratio or its logarithm that the clip bounds?"),
        Mistake("inverse-ratio", fraction(binding, ratio=lambda lp, o, m: ratio_of(o, lp, m)), "The ratio is the wrong way round.", "Which policy stands in the denominator?"),
        Mistake("mask-unused", fraction_unmasked, "The mask has no influence.", "Are padded positions tokens?"),
        Mistake("averaged-over-padding", fraction(binding, mean=mean_over_everything), "The count is divided by the number of all positions.", "A share of what?"),
        Mistake("mean-of-row-means", fraction(binding, mean=mean_of_row_means), "The share is taken of each response first.", "A share of what: of the tokens, or of each response's tokens?"),
        Mistake("counted", fraction(binding, mean=sum_over_tokens), "The number of tokens is returned, not their share.", "Between which numbers must a share be?"),
        Mistake("percent", fraction(lambda r, a, e: 100 * binding(r, a, e)), "It is given in percent.", "Between which numbers must a share be?"),
        Mistake("rows-with-any", fraction(binding, mean=rows_with_any), "Responses with at least one clipped token are counted.", "A share of what: of tokens, or of responses?"),
        Mistake("mask-from-lengths", fraction(binding, mean=mean_of_first_columns), "Only the length of each response is used, as if all of them began at column 0.", "Does every response begin in the first column?"),
        Mistake("probabilities-underflow", fraction_of_probabilities, "Both probabilities are formed before they are divided, and underflow to 0 for unlikely tokens.", "What is 0 divided by 0, and can you divide before you take the exponential?"),
        Mistake("running-share", RunningFraction, "It is the share of all tokens since the first call.", "What should a second call know of the first?"),
        Mistake("share-of-each-row", fraction_tensor_of_rows, "There is one number for each response.", "How many numbers are asked for?"),
        *forms("epsilon-fixed", (fraction(lambda r, a, e: binding(r, a, 0.2)), fraction(lambda r, a, e: binding(r, a, e / 2))), "The range is not the one that was asked for.", "How far from 1 may the ratio move?"),
        *forms("of-fewer-tokens", (fraction_of(lambda r, a, e: a != 0), fraction_of(lambda r, a, e: (r - 1).abs() > e)),
               "The share is taken of some of the tokens only.", "A share of what?"),
        Mistake("sequence-ratio", fraction(binding, ratio=sequence_ratio), "One ratio for the whole response is used at each of its tokens.", "Is PPO's action a token or a response?"),
        Mistake("upper-side-any-sign", fraction(lambda r, a, e: r > 1 + e), "Only ratios above the range are counted, whatever the sign of the advantage.", "What does the clip do where A is negative?"),
        Mistake("advantage-sign-lost", fraction(lambda r, a, e: binding(r, a.abs(), e)), "Every advantage is treated as positive.", "What does the clip do where A is negative?"),
        Mistake("row-decides-the-sign", fraction(lambda r, a, e: binding(r, a.sum(1, keepdim=True), e)), "The advantages of a row are added up before their sign is read.", "Whose advantage decides whether a token is clipped?"),
        Mistake("tiny-advantages-ignored", fraction(lambda r, a, e: binding(r, a.masked_fill(a.abs() < 1e-2, 0), e)), "Small advantages are treated as 0.", "Is there a gradient to cut, if A is 0.001?"),
        Mistake("one-token-too-many", fraction_one_more, "The number of tokens is one too large.", "By how many should the count be divided?"),
        Mistake("in-place", fraction_in_place, "It writes into the log-probs that it was given.", "What will be trained with these log-probs next?"),
    ),
)  # fmt: skip


# approx_kl


def kl_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    cases = []
    for kind in token_masks(d):
        old = -d.uniform(0.5, 3, *kind.mask.shape)
        cases.append(Case((*kind.hide(old + d.away_from_zero(*kind.mask.shape, low=0.4), old), kind.mask), kind.label))
    full = torch.ones(2, 4, dtype=torch.bool)
    old, rare = -d.uniform(0.5, 3, 2, 4), -d.uniform(150, 200, 2, 4)
    small = d.signs(2, 4) * d.uniform(0.02, 0.05, 2, 4)
    return [
        *cases,
        Case((old.clone(), old, full), "a policy that has not moved"),
        # the result is about 6e-4; exp(d) − 1 − d in float32 is off by 1e-7, and passes
        Case((old + small, old, full), "log-ratios of a few hundredths", 1e-3, 1e-6),
        Case((old + d.uniform(3, 4, 2, 4) * small.sign(), old, full), "log-ratios of 3 and more"),
        Case((old + d.uniform(0.5, 1.5, 2, 4), old, full), "tokens that have become more likely"),
        Case((old - d.uniform(0.5, 1.5, 2, 4), old, full), "tokens that have become less likely"),
        Case((rare + d.away_from_zero(2, 4), rare, full), "tokens as unlikely as e^-150", 1e-4, 1e-4),
    ]


def mean_kl(estimate, mean=masked_mean):
    """approx_kl by another estimate."""

    def kl(logprobs, old_logprobs, mask):
        return mean(estimate(torch.where(mask, logprobs - old_logprobs, 0.0)), mask).item()

    return kl


def kl_unmasked(logprobs, old_logprobs, mask):
    d = logprobs - old_logprobs
    return (d.expm1() - d).mean().item()


def kl_multiplied(logprobs, old_logprobs, mask):
    d = logprobs - old_logprobs
    return (((d.expm1() - d) * mask).sum() / mask.sum()).item()


def kl_of_probabilities(logprobs, old_logprobs, mask):
    p, q = (torch.exp(torch.where(mask, x, 0.0)) for x in (logprobs, old_logprobs))
    return masked_mean(p / q - 1 - torch.log(p / q), mask).item()


def kl_in_place(logprobs, old_logprobs, mask):
    old_logprobs[~mask] = 0.0
    return approx_kl(logprobs, old_logprobs, mask)


def kl_overwrites_logprobs(logprobs, old_logprobs, mask):
    value = approx_kl(logprobs, old_logprobs, mask)
    logprobs -= old_logprobs
    return value


def kl_by_torch(logprobs, old_logprobs, mask):
    return F.kl_div(logprobs[mask], old_logprobs[mask], reduction="mean", log_target=True).item()


def kl_of_each_row(logprobs, old_logprobs, mask):
    d = torch.where(mask, logprobs - old_logprobs, 0.0)
    return masked_mean(d.expm1() - d, mask, dim=1)


class KlSmoothed:
    """Mixes every call with the ones before it."""

    def __init__(self):
        self.value = None

    def __call__(self, logprobs, old_logprobs, mask):
        now = approx_kl(logprobs, old_logprobs, mask)
        self.value = now if self.value is None else 0.9 * self.value + 0.1 * now
        return self.value


def kl_plain(logprobs, old_logprobs, mask):
    d = torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs))
    return ((torch.exp(d) - 1 - d) * mask).sum() / mask.sum()


def kl_selecting(logprobs, old_logprobs, mask):
    d = (logprobs - old_logprobs)[mask].double()
    return (torch.expm1(d) - d).mean()


def kl_of_ratio(logprobs, old_logprobs, mask):
    ratio = torch.exp(logprobs[mask] - old_logprobs[mask])
    return ((ratio - 1) - ratio.log()).mean()


def kl_looping(logprobs, old_logprobs, mask):
    values = [logprobs[i, j].item() - old_logprobs[i, j].item() for i, j in mask.nonzero().tolist()]
    return sum(math.expm1(v) - v for v in values) / len(values)


def kl_with_numpy(logprobs, old_logprobs, mask):
    import numpy

    d = (logprobs.double() - old_logprobs.double()).numpy()[mask.numpy()]
    return numpy.mean(numpy.expm1(d) - d)


def kl_sequence(logprobs, old_logprobs, mask):
    d = torch.where(mask, logprobs - old_logprobs, 0.0).sum(dim=1)
    return (d.expm1() - d).mean().item()


def largest(x, mask):
    return x[mask].max()


def middle(x, mask):
    return x[mask].median()


def first_row(x, mask):
    return masked_mean(x[:1], mask[:1])


def one_less(x, mask):
    return torch.where(mask, x, 0.0).sum() / (mask.sum() - 1).clamp(min=1)


def kl_weighted(logprobs, old_logprobs, mask):
    d = torch.where(mask, logprobs - old_logprobs, 0.0)
    return masked_mean(torch.where(mask, logprobs, 0.0).exp() * (d.expm1() - d), mask).item()


def k3(d):
    return d.expm1() - d


APPROX_KL = Exercise(
    approx_kl,
    points=2,
    cases=kl_cases,
    result="float",
    variants=(kl_plain, kl_selecting, kl_of_ratio, kl_looping, kl_with_numpy),
    mistakes=(
        Mistake("reversed", mean_kl(lambda d: torch.expm1(-d) + d), "The roles of the two policies are exchanged.", "From which policy were the tokens sampled?"),
        Mistake("k1", mean_kl(lambda d: -d), "This is k1, the plain mean of the log-ratio, which can be negative.", "Can a KL be negative, and which term keeps the estimate from it?"),
        Mistake("k1-wrong-sign", mean_kl(lambda d: d), "This is the mean log-ratio.", "Can a KL be negative?"),
        *forms("k2", (mean_kl(lambda d: d**2 / 2), mean_kl(lambda d: d**2 / 2 + d**3 / 6)), "This is k2, half the squared log-ratio.", "For which d do ½d² and e^d − 1 − d differ?"),
        Mistake("squared", mean_kl(lambda d: d**2), "This is the mean squared log-ratio.", "Near d = 0, how does e^d − 1 − d behave: like d², or like a part of it?"),
        Mistake("negated", mean_kl(lambda d: d - d.expm1()), "The sign is wrong.", "Can a KL be negative?"),
        Mistake("log-added", mean_kl(lambda d: d.expm1() + d), "The log-ratio is added.", "Which sign of the log-ratio makes every token's term at least 0?"),
        Mistake("one-not-subtracted", mean_kl(lambda d: d.exp() - d), "1 is not subtracted.", "What is the KL of a policy that has not moved?"),
        *forms("weighted-by-ratio", (mean_kl(lambda d: d.exp() * d), mean_kl(lambda d: d.exp() * d - d.expm1())), "The log-ratio is weighted by the ratio, which turns the direction of the KL around.", "From which policy do the tokens come, and which KL does that give without weights?"),
        Mistake("estimate-of-the-mean", lambda lp, o, m: (lambda d: (d.expm1() - d).item())(masked_mean(torch.where(m, lp - o, 0.0), m)), "The estimate is formed of the mean log-ratio.", "Is the mean of a curved function the function of the mean?"),
        Mistake("torch-kl-div", kl_by_torch, "kl_div weights by the target's probabilities: it wants whole distributions, and gets the sampled tokens alone.", "The tokens were sampled already. What happens if they are weighted by their probability once more?"),
        Mistake("absolute", mean_kl(lambda d: d.abs()), "This is the mean absolute log-ratio.", "For a tiny d, should the estimate shrink like d or like d²?"),
        Mistake("ratio-minus-one", mean_kl(lambda d: d.expm1()), "The logarithm is left out.", "What is the mean of ρ − 1 over samples of the old policy?"),
        Mistake("probabilities-underflow", kl_of_probabilities, "Both probabilities are formed before they are divided.", "What is 0 divided by 0?"),
        Mistake("mask-unused", kl_unmasked, "The mask has no influence.", "Whose log-probs stand in padded columns?"),
        Mistake("multiplied-by-mask", kl_multiplied, "Garbage is multiplied by 0, which is not a number when the garbage is NaN or infinite.", "What is 0 times infinity?"),
        Mistake("averaged-over-padding", mean_kl(lambda d: d.expm1() - d, mean_over_everything), "The sum is divided by the number of all positions.", "How many tokens does the mean run over?"),
        Mistake("mean-of-row-means", mean_kl(lambda d: d.expm1() - d, mean_of_row_means), "Each response is averaged by itself first.", "Over what does the mean run?"),
        Mistake("summed", mean_kl(lambda d: d.expm1() - d, sum_over_tokens), "The tokens are summed.", "In which unit is the result: nats, or nats per token?"),
        Mistake("summed-per-row", mean_kl(lambda d: d.expm1() - d, sum_per_row), "It is summed over each response.", "In which unit is the result: nats per response, or nats per token?"),
        Mistake("mask-from-lengths", mean_kl(lambda d: d.expm1() - d, mean_of_first_columns), "Only the length of each response is used, as if all of them began at column 0.", "Does every response begin in the first column?"),
        Mistake("sum-before-the-estimate", kl_sequence, "The log-ratios of a response are added up before the estimate is formed.", "Is the estimate of a sum the sum of the estimates?"),
        *forms("bounded", (mean_kl(lambda d: k3(d.clamp(-1, 1))), mean_kl(lambda d: k3(d).clamp(max=0.5)), mean_kl(lambda d: k3(d.clamp(max=1)))),
               "Large log-ratios, or large terms, are cut off.", "Is an estimate that is cut off still unbiased?"),
        Mistake("halved", mean_kl(lambda d: k3(d) / 2), "There is a factor ½ too many.", "Near d = 0, what is the second-order term of e^d − 1 − d?"),
        Mistake("symmetric", mean_kl(lambda d: (k3(d) + k3(-d)) / 2), "Both directions are averaged.", "From which policy were the tokens sampled?"),
        Mistake("of-absolute-values", mean_kl(lambda d: k3(d.abs())), "The sign of the log-ratio is lost.", "Is e^d − 1 − d the same for d and −d?"),
        *forms("another-logarithm", (mean_kl(lambda d: k3(d) / math.log(2)), mean_kl(lambda d: d.expm1() - d / math.log(10))), "The logarithm is not the natural one.", "Which logarithm does the course use?"),
        *forms("not-the-mean", (mean_kl(k3, largest), mean_kl(k3, middle), mean_kl(k3, first_row)), "The tokens are not averaged.", "Over what does the mean run?"),
        Mistake("one-token-too-few", mean_kl(k3, one_less), "The sum is divided by n − 1.", "Is this a mean or a variance?"),
        Mistake("root", lambda lp, o, m: approx_kl(lp, o, m) ** 0.5, "The square root is taken.", "In which unit is the result asked for?"),
        Mistake("weighted-by-probability", kl_weighted, "Each token is weighted with its probability, although it was sampled already.", "How often does a likely token turn up in a sample?"),
        Mistake("kl-of-each-row", kl_of_each_row, "There is one number for each response.", "How many numbers are asked for?"),
        Mistake("smoothed", KlSmoothed, "It mixes the result with those of earlier calls.", "What should a second call know of the first?"),
        Mistake("logprobs-overwritten", kl_overwrites_logprobs, "It writes into the log-probs that it was given.", "What will be trained with these log-probs next?"),
        Mistake("in-place", kl_in_place, "It writes into the old log-probs.", "Who reads the old log-probs in the next epoch?"),
    ),
)  # fmt: skip


# clipped_value_loss


def value_cases(seed: int) -> list[Case]:
    d = Draw(seed)

    def numbers(mask, clip):
        old = d.normal(*mask.shape)
        moved = old + d.signs(*mask.shape) * torch.where(d.integers(0, 3, *mask.shape) == 0, 0.4, 2.2) * clip
        return moved, old, old + d.away_from_zero(*mask.shape, low=3.2 * clip, high=3.2 * clip + 1.5)

    cases = []
    for kind in token_masks(d):
        clip = d.number(0.15, 0.4)
        cases.append(Case((*kind.hide(*numbers(kind.mask, clip)), kind.mask, clip), kind.label))
    full, clip = torch.ones(2, 4, dtype=torch.bool), d.number(0.15, 0.4)
    old = d.normal(2, 4) + 3 * d.signs(2, 4)
    near = old + 0.4 * clip * d.signs(2, 4)
    far = old + d.uniform(1.5, 3, 2, 4) * clip
    return [
        *cases,
        Case((near, old, old + d.away_from_zero(2, 4), full, clip), "values within the clip range"),
        Case(
            (far, old, far + d.uniform(0.4, 1, 2, 4), full, clip),
            "values that moved towards the return, out of the range",
        ),
        Case(
            (far, old, old - d.uniform(0.4, 1, 2, 4), full, clip),
            "values that moved away from the return, out of the range",
        ),
        Case((far, old, old + 0.5 * clip, full, clip), "values that moved past the return"),
        Case((old.clone(), old, old + d.away_from_zero(2, 4), full, clip), "a critic that has not moved yet"),
        Case((40 * far, 40 * old, 40 * old + 30, full, 1.7), "large values and a clip range of 1.7", 1e-4),
    ]


def critic(combine=lambda free, near, r: torch.maximum((free - r) ** 2, (near - r) ** 2), centre=lambda v, o, r: o,
           half=0.5, mean=masked_mean, data=torch.detach, clamp=lambda v, c, e: c + (v - c).clamp(-e, e)):  # fmt: skip
    """clipped_value_loss with some of its parts replaced."""

    def loss(values, old_values, returns, mask, clip_range):
        v, o, r = (torch.where(mask, x, 0.0) for x in (values, data(old_values), data(returns)))
        return half * mean(combine(v, clamp(v, centre(v, o, r), clip_range), r), mask)

    return loss


def critic_unmasked(values, old_values, returns, mask, clip_range):
    near = old_values.detach() + (values - old_values.detach()).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((values - returns.detach()) ** 2, (near - returns.detach()) ** 2).mean()


def critic_multiplied(values, old_values, returns, mask, clip_range):
    near = old_values.detach() + (values - old_values.detach()).clamp(-clip_range, clip_range)
    errors = torch.maximum((values - returns.detach()) ** 2, (near - returns.detach()) ** 2)
    return 0.5 * (errors * mask).sum() / mask.sum()


def critic_garbage_gradient(values, old_values, returns, mask, clip_range):
    near = old_values.detach() + (values - old_values.detach()).clamp(-clip_range, clip_range)
    errors = torch.maximum((values - returns.detach()) ** 2, (near - returns.detach()) ** 2)
    return 0.5 * torch.where(mask, errors, 0.0).sum() / mask.sum()


def critic_max_of_means(values, old_values, returns, mask, clip_range):
    v, o, r = (torch.where(mask, x, 0.0) for x in (values, old_values.detach(), returns.detach()))
    near = o + (v - o).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum(masked_mean((v - r) ** 2, mask), masked_mean((near - r) ** 2, mask))


def critic_huber(v, r):
    return 2 * F.smooth_l1_loss(v, r, reduction="none")


def critic_of_advantages(values, old_values, returns, mask, clip_range):
    return clipped_value_loss(values, old_values, returns - old_values, mask, clip_range)


def critic_root(x, mask):
    return masked_mean(x, mask).sqrt()


def critic_in_place(values, old_values, returns, mask, clip_range):
    loss = clipped_value_loss(values, old_values, returns, mask, clip_range)
    old_values[~mask] = 0.0
    return loss


def critic_no_gradient(values, old_values, returns, mask, clip_range):
    return clipped_value_loss(values.detach(), old_values, returns, mask, clip_range)


def critic_gradient_unclipped(values, old_values, returns, mask, clip_range):
    value = clipped_value_loss(values, old_values, returns, mask, clip_range).detach()
    free = critic(lambda f, n, r: (f - r) ** 2)(values, old_values, returns, mask, clip_range)
    return value + free - free.detach()


class CriticRemembers:
    """Takes the old values of the first call for all later ones of the same shape."""

    def __init__(self):
        self.old = {}

    def __call__(self, values, old_values, returns, mask, clip_range):
        old = self.old.setdefault(tuple(values.shape), old_values.detach().clone())
        return clipped_value_loss(values, old, returns, mask, clip_range)


def critic_selecting(values, old_values, returns, mask, clip_range):
    v, o, r = values[mask], old_values.detach()[mask], returns.detach()[mask]
    near = torch.max(torch.min(v, o + clip_range), o - clip_range)
    return torch.max(F.mse_loss(v, r, reduction="none"), F.mse_loss(near, r, reduction="none")).mean() / 2


def critic_looping(values, old_values, returns, mask, clip_range):
    terms = []
    for b, t in mask.nonzero().tolist():
        v, o, r = values[b, t].double(), old_values[b, t].item(), returns[b, t].item()
        near = v.clamp(o - clip_range, o + clip_range)
        terms.append(0.5 * torch.maximum((v - r).square(), (near - r).square()))
    return (sum(terms) / len(terms)).float()


def critic_filling(values, old_values, returns, mask, clip_range):
    hidden = ~mask
    v, o, r = (
        values.masked_fill(hidden, 0),
        old_values.detach().masked_fill(hidden, 0),
        returns.detach().masked_fill(hidden, 0),
    )
    near = torch.clamp(v, o - clip_range, o + clip_range)
    stacked = torch.stack(((v - r).pow(2), (near - r).pow(2)))
    return 0.5 * stacked.amax(0).sum() / mask.sum()


def critic_number(values, old_values, returns, mask, clip_range):
    return clipped_value_loss(values, old_values, returns, mask, clip_range).item()


def critic_returns_overwritten(values, old_values, returns, mask, clip_range):
    loss = clipped_value_loss(values, old_values, returns, mask, clip_range)
    returns[~mask] = 0.0
    return loss


def critic_values_overwritten(values, old_values, returns, mask, clip_range):
    loss = clipped_value_loss(values, old_values, returns, mask, clip_range)
    with torch.no_grad():
        values[~mask] = 0.0
    return loss


def critic_returns_centred(values, old_values, returns, mask, clip_range):
    centre = masked_mean(returns.detach(), mask)
    return clipped_value_loss(values, old_values, returns - centre, mask, clip_range)


def critic_old_twice(values, old_values, returns, mask, clip_range):
    return clipped_value_loss(values, old_values, returns + old_values, mask, clip_range)


VALUE = Exercise(
    clipped_value_loss,
    points=4,
    cases=value_cases,
    result="loss",
    trained=(0,),
    tolerance=2e-5,
    draws=2,
    variants=(critic_selecting, critic_looping, critic_filling),
    mistakes=(
        Mistake("min-for-max", critic(lambda f, n, r: torch.minimum((f - r) ** 2, (n - r) ** 2)), "The smaller of the two errors is taken, which rewards moving far from the old value.",
                "The loss is a pessimist's: which of two errors does a pessimist believe?"),
        Mistake("clipped-only", critic(lambda f, n, r: (n - r) ** 2), "Only the clipped error is used, so that a value that moved the wrong way gets no gradient to come back.",
                "The critic has moved away from the return, out of the range. What pulls it back?"),
        Mistake("unclipped-only", critic(lambda f, n, r: (f - r) ** 2), "Nothing is clipped.", "What is the clip range for?",
                twins=("clipped-around-the-return", "old-is-current")),
        Mistake("clipped-around-the-return", critic(centre=lambda v, o, r: r), "The range lies around the return, and not around the old value.", "From where may the value move by no more than ε: from its target, or from where it was?",
                twins=("unclipped-only", "old-is-current")),
        Mistake("multiplicative-range", critic(clamp=lambda v, c, e: torch.clamp(v, torch.minimum(c * (1 - e), c * (1 + e)), torch.maximum(c * (1 - e), c * (1 + e)))), "ε is taken as a share of the old value.",
                "Is ε here a ratio, or a distance in the unit of the values?",
                twins=("ratio-clipped",)),
        Mistake("ratio-clipped", critic(clamp=lambda v, c, e: torch.where(c == 0, 0.0, c * (v / torch.where(c == 0, 1.0, c)).clamp(1 - e, 1 + e))), "The ratio of the values is clipped, as if they were probabilities.",
                "Is ε here a ratio, or a distance in the unit of the values?", twins=("multiplicative-range",)),
        Mistake("max-before-square", critic(lambda f, n, r: torch.maximum(f - r, n - r) ** 2), "The larger difference is squared, not the larger square taken.", "Which is larger: −3 or 1? And which has the larger square?"),
        Mistake("largest-of-the-means", critic_max_of_means, "The maximum is taken of the two means, and not token by token.", "When does each token decide for itself?"),
        Mistake("returns-unused", critic(lambda f, n, r: torch.maximum(f**2, n**2)), "The values are compared with 0, and the returns are not used.", "What is the critic supposed to predict?"),
        *forms("advantage-as-target", (critic_of_advantages, critic_old_twice), "The target is the advantage, the return minus the old value.", "What do you add to an advantage to get the return?"),
        Mistake("change-reversed", critic(clamp=lambda v, c, e: c + (c - v).clamp(-e, e)), "The change is taken the wrong way round before it is clipped.", "The value rose by less than ε. Where must the clipped value be?"),
        Mistake("always-on-the-bound", critic(clamp=lambda v, c, e: c + e * (v - c).sign()), "The value is moved by the whole ε, even where it moved by less.", "What does a clip do to a number that is in its range?"),
        Mistake("range-around-one", critic(clamp=lambda v, c, e: c + (v - c).clamp(1 - e, 1 + e)), "The change is clipped to 1 ± ε, as the policy's ratio is.", "What is the change of a critic that has not moved: 0 or 1?"),
        Mistake("outside-dropped", critic(lambda f, n, r: torch.where(f == n, (f - r) ** 2, 0.0 * f)), "Values that moved further than ε are dropped.", "What pulls back a value that has moved the wrong way?"),
        *forms("huber", (critic(lambda f, n, r: torch.maximum(critic_huber(f, r), critic_huber(n, r))), critic(lambda f, n, r: (f - r).clamp(-0.3, 0.3) ** 2)), "Large errors count linearly and not as squares.", "How does the squared error grow when the error doubles?"),
        Mistake("root-of-the-mean", critic(mean=critic_root), "The square root of the mean is taken.", "Is the mean squared error asked for, or its root?"),
        Mistake("mask-from-lengths", critic(mean=mean_of_first_columns), "Only the length of each response is used, as if all of them began at column 0.", "Does every response begin in the first column?"),
        Mistake("half-missing", critic(half=1.0), "The factor ½ is missing.", "What is the derivative of x², and which factor makes it x?"),
        Mistake("absolute-errors", critic(lambda f, n, r: torch.maximum((f - r).abs(), (n - r).abs())), "The errors are not squared.", "Which prediction minimises squared errors: the mean, or the median?"),
        Mistake("averaged-error", critic(lambda f, n, r: ((f - r) ** 2 + (n - r) ** 2) / 2), "The two errors are averaged.", "Which of the two counts?"),
        Mistake("no-clip-distance", critic(clamp=lambda v, c, e: v.clamp(-e, e)), "The value itself is clipped to ±ε.", "Around which number may the value move by ε?"),
        Mistake("change-without-old", critic(clamp=lambda v, c, e: (v - c).clamp(-e, e)), "The old value is not added back after clipping the change.", "What is the clipped change measured from?"),
        Mistake("upper-side-only", critic(clamp=lambda v, c, e: torch.minimum(v, c + e)), "Only rises are clipped.", "What if the value falls?"),
        Mistake("lower-side-only", critic(clamp=lambda v, c, e: torch.maximum(v, c - e)), "Only falls are clipped.", "What if the value rises?"),
        Mistake("old-is-current", critic(centre=lambda v, o, r: v.detach()), "The range lies around the current value, so that the clip does nothing.", "Which value did the critic give at the rollout?", twins=("unclipped-only", "clipped-around-the-return")),
        *forms("epsilon-fixed", (critic(clamp=lambda v, c, e: c + (v - c).clamp(-0.2, 0.2)), critic(clamp=lambda v, c, e: c + (v - c).clamp(-2 * e, 2 * e))), "The range is not the one that was asked for.", "How far may the value move?"),
        Mistake("mask-unused", critic_unmasked, "The mask has no influence.", "Is there anything to predict at a padded position?"),
        Mistake("multiplied-by-mask", critic_multiplied, "Garbage is multiplied by 0, which is not a number when the garbage is NaN or infinite.", "What is 0 times infinity?"),
        Mistake("garbage-gradient", critic_garbage_gradient, "The value is masked at the end, but the gradient passes through the garbage first.", "What is 0 times NaN, on the way back?"),
        Mistake("averaged-over-padding", critic(mean=mean_over_everything), "The sum is divided by the number of all positions.", "How many tokens does the mean run over?"),
        *forms("mean-of-row-means", (critic(mean=mean_of_row_means), critic(mean=mean_of_column_means)), "Rows or columns are averaged by themselves first.", "Should a token of a short response count more?"),
        *forms("summed", (critic(mean=sum_over_tokens), critic(mean=sum_per_row)), "The tokens are summed.", "Should a batch with more tokens have a larger loss?"),
        Mistake("wrong-sign", critic(half=-0.5), "The sign is wrong.", "Should the error grow or shrink?"),
        *forms("part-of-the-gradient", (critic(lambda f, n, r: torch.maximum((f - r) ** 2, ((n - r) ** 2).detach())), critic(lambda f, n, r: torch.maximum(((f - r) ** 2).detach(), (n - r) ** 2)),
                                        critic(lambda f, n, r: torch.maximum((f - r) ** 2, (f + (n - f).detach() - r) ** 2))),
               "One of the two errors is detached, or goes around the clip, so that the gradient is not that of the maximum.", "Which of the two errors depends on the values, and where does the clip stop them?"),
        Mistake("gradient-halved", lambda v, o, r, m, e: clipped_value_loss((v + v.detach()) / 2, o, r, m, e), "Half of the gradient is lost.", "Which tensor must still know where it came from?"),
        Mistake("old-value-judged", critic(clamp=lambda v, c, e: c), "The old value is compared with the return, where the clipped one should be.", "Which two predictions are compared with the return?"),
        Mistake("softly-clipped", critic(clamp=lambda v, c, e: c + e * torch.tanh((v - c) / e)), "The change is squashed instead of clipped.", "What does a clip do to a number that is in its range?"),
        Mistake("clipped-from-the-new-value", critic(clamp=lambda v, c, e: v + (c - v).clamp(-e, e)), "The range lies around the new value.", "From where may the value move by no more than ε?"),
        Mistake("returns-centred", critic_returns_centred, "The mean return is taken away first.", "In which unit does the critic predict?"),
        Mistake("epsilon-in-the-count", critic(mean=mean_with_epsilon), "A small number added to the count bends the mean.", "Can the count be 0 here?"),
        Mistake("not-reduced", critic(mean=not_reduced), "An error for each token comes back instead of one number.", "What does backward() need?"),
        Mistake("a-plain-number", critic_number, "A plain number comes back.", "On what will backward() be called?"),
        Mistake("no-gradient", critic_no_gradient, "No gradient reaches the critic.", "Which tensor must still know where it came from?"),
        Mistake("data-trained", critic(data=lambda x: x), "A gradient flows into old values and returns.", "Should the target move towards the prediction?"),
        Mistake("gradient-unclipped", critic_gradient_unclipped, "The value is clipped, but the gradient is that of the unclipped error.", "What is the clip for: the number that is logged, or the step that is taken?"),
        *forms("old-values-overwritten", (critic_in_place, critic_returns_overwritten, critic_values_overwritten), "It writes into the values or returns that it was given.", "Who reads them in the next epoch?"),
        Mistake("remembers-old-values", CriticRemembers, "It remembers the old values of an earlier call.", "What should a second call know of the first?"),
    ),
)  # fmt: skip


# ppo_loss


def total_cases(seed: int) -> list[Case]:
    d = Draw(seed)

    def case(value_coef, entropy_coef, label):
        terms = [d.away_from_zero(1)[0], d.uniform(0.4, 2, 1)[0], d.uniform(0.5, 2, 1)[0]]
        return Case((*terms, value_coef, entropy_coef), label)

    return [
        case(d.number(0.2, 0.9), d.number(0.1, 0.4), "two coefficients"),
        case(d.number(1.2, 3), d.number(1.2, 3), "coefficients above 1"),
        Case((-d.uniform(2, 3), d.uniform(0.4, 1), d.uniform(0.5, 2), 0.3, 0.2), "a negative total"),
        case(0.0, d.number(0.1, 0.4), "no weight on the value loss"),
        case(d.number(0.2, 0.9), 0.0, "no weight on the entropy"),
    ]


def total(formula):
    """ppo_loss by another formula of (policy loss, value loss, entropy, value coefficient, entropy coefficient)."""
    return lambda policy_loss, value_loss, entropy, value_coef, entropy_coef: formula(
        policy_loss, value_loss, entropy, value_coef, entropy_coef
    )


def total_by_list(policy_loss, value_loss, entropy, value_coef, entropy_coef):
    return sum([policy_loss, value_coef * value_loss, -entropy_coef * entropy])


def total_by_dot(policy_loss, value_loss, entropy, value_coef, entropy_coef):
    return torch.dot(torch.stack([policy_loss, value_loss, entropy]), torch.tensor([1.0, value_coef, -entropy_coef]))


def total_in_steps(policy_loss, value_loss, entropy, value_coef, entropy_coef):
    loss = policy_loss.clone()
    loss = loss.add(value_loss, alpha=value_coef)
    loss -= entropy_coef * entropy
    return loss


def total_in_place(policy_loss, value_loss, entropy, value_coef, entropy_coef):
    policy_loss += value_coef * value_loss - entropy_coef * entropy
    return policy_loss


def total_value_overwritten(policy_loss, value_loss, entropy, value_coef, entropy_coef):
    value_loss *= value_coef
    return policy_loss + value_loss - entropy_coef * entropy


class RunningTotal:
    """Adds the losses of all calls so far; the gradient is that of the last."""

    def __init__(self):
        self.sum = 0.0

    def __call__(self, policy_loss, value_loss, entropy, value_coef, entropy_coef):
        loss = policy_loss + value_coef * value_loss - entropy_coef * entropy
        before, self.sum = self.sum, self.sum + loss.item()
        return loss + before


def total_in_float64(policy_loss, value_loss, entropy, value_coef, entropy_coef):
    return (policy_loss.double() + value_coef * value_loss.double() - entropy_coef * entropy.double()).float()


def total_if_asked(policy_loss, value_loss, entropy, value_coef, entropy_coef):
    loss = policy_loss
    if value_coef:
        loss = loss + value_coef * value_loss
    if entropy_coef:
        loss = loss - entropy_coef * entropy
    return loss


TOTAL = Exercise(
    ppo_loss,
    points=1,
    cases=total_cases,
    result="loss",
    trained=(0, 1, 2),
    variants=(total_by_list, total_by_dot, total_in_steps, total_in_float64, total_if_asked),
    mistakes=(
        Mistake("entropy-added", total(lambda p, v, e, vc, ec: p + vc * v + ec * e), "The entropy is added, so that the policy is rewarded for being sure of itself.", "Should the loss fall or rise when the entropy grows?"),
        Mistake("value-subtracted", total(lambda p, v, e, vc, ec: p - vc * v - ec * e), "The value loss is subtracted.", "Should the critic's error grow or shrink?"),
        Mistake("coefficients-swapped", total(lambda p, v, e, vc, ec: p + ec * v - vc * e), "The two coefficients have changed places.", "Which coefficient belongs to which term?"),
        Mistake("value-coef-ignored", total(lambda p, v, e, vc, ec: p + v - ec * e), "The value loss is not weighted.", "What is value_coef for?"),
        Mistake("entropy-coef-ignored", total(lambda p, v, e, vc, ec: p + vc * v - e), "The entropy is not weighted.", "What is entropy_coef for?"),
        Mistake("coefficients-fixed", total(lambda p, v, e, vc, ec: p + 0.5 * v - 0.01 * e), "The coefficients are always 0.5 and 0.01.", "What are the last two arguments for?"),
        Mistake("zero-is-default", total(lambda p, v, e, vc, ec: p + (vc or 0.5) * v - (ec or 0.01) * e), "A coefficient of 0 is replaced by a default.", "What does somebody want who passes a weight of 0?"),
        Mistake("value-coef-on-both", total(lambda p, v, e, vc, ec: p + vc * (v - ec * e)), "The entropy is weighted by both coefficients.", "Which coefficient belongs to which term?"),
        Mistake("cut-at-zero", total(lambda p, v, e, vc, ec: (p + vc * v - ec * e).clamp(min=0)), "A total below 0 is replaced by 0.", "Is a loss below 0 wrong, and what is the gradient where it is cut?"),
        Mistake("policy-absolute", total(lambda p, v, e, vc, ec: p.abs() + vc * v - ec * e), "The sign of the policy loss is lost.", "Can a policy loss be negative, and what does it mean?"),
        Mistake("no-weights", total(lambda p, v, e, vc, ec: p + v - e), "The terms are not weighted.", "What are the last two arguments for?"),
        Mistake("policy-weighted-too", total(lambda p, v, e, vc, ec: vc * (p + v) - ec * e), "The policy loss is weighted as well.", "Which two terms have a weight?"),
        Mistake("weights-add-up-to-one", total(lambda p, v, e, vc, ec: (1 - vc - ec) * p + vc * v - ec * e), "The policy loss gets what is left of the weights.", "What is the weight of the policy loss?"),
        *forms("weights-squared", (total(lambda p, v, e, vc, ec: p + vc**2 * v - ec * e), total(lambda p, v, e, vc, ec: p + vc * v - ec**2 * e)), "A weight is applied twice.", "How often does each weight appear in the formula?"),
        Mistake("divided-by-the-weight", total(lambda p, v, e, vc, ec: p + (v / vc if vc else 0.0 * v) - ec * e), "The value loss is divided by its weight.", "Should a larger weight make a term larger or smaller?"),
        Mistake("terms-multiplied", total(lambda p, v, e, vc, ec: p + vc * v * ec * e), "Two terms are multiplied.", "How are the three terms put together?"),
        *forms("term-bent", (total(lambda p, v, e, vc, ec: p + vc * v**2 - ec * e), total(lambda p, v, e, vc, ec: p + vc * v - ec * e.exp()), total(lambda p, v, e, vc, ec: p + vc * v - ec * e.clamp(max=0.4)),
                             total(lambda p, v, e, vc, ec: p.clamp(min=0) + vc * v - ec * e)),
               "A term is squared, cut off or put through a function.", "Which operations does the formula have, besides products and sums?"),
        Mistake("tuple", total(lambda p, v, e, vc, ec: (p + vc * v - ec * e, {})), "A tuple comes back where a loss is asked for.", "On what will backward() be called?"),
        Mistake("no-gradient", total(lambda p, v, e, vc, ec: (p + vc * v - ec * e).detach()), "No gradient reaches any of the terms.", "On what will backward() be called?"),
        Mistake("entropy-left-out", total(lambda p, v, e, vc, ec: p + vc * v), "The entropy is left out.", "What keeps the policy trying other things?"),
        Mistake("value-left-out", total(lambda p, v, e, vc, ec: p - ec * e), "The value loss is left out.", "What trains the critic?"),
        Mistake("policy-left-out", total(lambda p, v, e, vc, ec: vc * v - ec * e), "The policy loss is left out.", "What trains the policy?"),
        Mistake("policy-negated", total(lambda p, v, e, vc, ec: -p + vc * v - ec * e), "The sign of the policy loss is turned again.", "Is it a loss or an objective that comes in?"),
        Mistake("all-negated", total(lambda p, v, e, vc, ec: -(p + vc * v - ec * e)), "Everything has the wrong sign.", "Is the result minimised or maximised?"),
        Mistake("averaged", total(lambda p, v, e, vc, ec: (p + vc * v - ec * e) / 3), "The three terms are averaged.", "What weights do the three terms have?"),
        Mistake("halved-value", total(lambda p, v, e, vc, ec: p + 0.5 * vc * v - ec * e), "The value loss is halved once more.", "Where was the factor ½ already?"),
        Mistake("entropy-detached", total(lambda p, v, e, vc, ec: p + vc * v - ec * e.detach()), "No gradient reaches the entropy.", "What does the entropy bonus do, if it has no gradient?"),
        Mistake("value-detached", total(lambda p, v, e, vc, ec: p + vc * v.detach() - ec * e), "No gradient reaches the value loss.", "What trains the critic?"),
        Mistake("policy-detached", total(lambda p, v, e, vc, ec: p.detach() + vc * v - ec * e), "No gradient reaches the policy loss.", "What trains the policy?"),
        Mistake("a-plain-number", total(lambda p, v, e, vc, ec: (p + vc * v - ec * e).item()), "A plain number comes back.", "On what will backward() be called?"),
        Mistake("value-overwritten", total_value_overwritten, "It writes into the value loss that it was given.", "Who else wants to log the value loss?"),
        Mistake("running-total", RunningTotal, "The losses of all calls are added up.", "What should a second call know of the first?"),
        Mistake("in-place", total_in_place, "It writes into the policy loss that it was given.", "Who else wants to log the policy loss?"),
    ),
)  # fmt: skip


EXERCISES = (POLICY, FRACTION, APPROX_KL, VALUE, TOTAL)
