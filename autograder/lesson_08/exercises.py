"""Lesson 08: groups instead of a critic."""

from __future__ import annotations

import math

import torch

from autograder.draws import Draw, token_masks
from autograder.exercise import Case, Exercise, Mistake
from autograder.lesson_04.exercises import log_ratios
from rlhf_core.grpo import group_advantages, grpo_loss, rloo_advantages
from rlhf_core.policy import masked_mean


def group_rewards(d: Draw, groups: int, size: int) -> torch.Tensor:
    """Groups of different scales and places."""
    spread = torch.tensor([0.3, 4.0, 1.0, 20.0])[torch.arange(groups) % 4]
    rewards = d.normal(groups, size) * spread[:, None] + d.away_from_zero(groups, low=1, high=5)[:, None]
    rewards[:, 0] += spread  # no group is equal by chance
    return rewards.reshape(-1)


# group_advantages


def group_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    tied = group_rewards(d, 3, 4)
    tied[4:8] = tied[4]
    return [
        Case((group_rewards(d, 2, 3), 3), "two groups of three"),
        Case((group_rewards(d, 4, 4), 4), "four groups of different scale"),
        Case((group_rewards(d, 4, 2), 2), "groups of two"),
        Case((group_rewards(d, 1, 5), 5), "a single group"),
        Case((tied, 4), "a group of equal rewards", 1e-4, 1e-3),
        Case((torch.full((6,), 0.1), 3), "equal rewards in all groups", 1e-4, 1e-3),
        Case((d.normal(4), 1), "groups of one"),
        Case((group_rewards(d, 2, 3) * 2e-3, 3), "rewards that differ by very little"),
        Case((group_rewards(d, 2, 4) * 2e-3, 4, d.number(0.02, 0.2)), "an eps of its own"),
        Case((torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), 4), "rewards of 0 and 1"),
        Case((1000 + d.normal(6), 3), "rewards around 1000", 2e-3, 2e-3),
        Case((d.normal(40) * 0.1 + 50 * (torch.arange(40) == 7), 40), "one answer that stands out of forty"),
    ]


def grouped(center=lambda g: g.mean(1, keepdim=True), spread=lambda g: g.std(1, keepdim=True), divide=lambda c, s, eps: c / (s + eps),
            view=lambda r, n: r.reshape(-1, n), back=lambda a: a.reshape(-1)):  # fmt: skip
    """group_advantages with some of its parts replaced."""

    def advantages(rewards, group_size, eps=1e-4):
        if group_size == 1:
            return torch.zeros_like(rewards)
        g = view(rewards, group_size)
        return back(divide(g - center(g), spread(g), eps))

    return advantages


def group_tied_kept(rewards, group_size, eps=1e-4):
    g = rewards.reshape(-1, group_size)
    tied = g.amax(1, keepdim=True) == g.amin(1, keepdim=True)
    return torch.where(tied, g, grouped()(rewards, group_size, eps).reshape_as(g)).reshape(-1)


def group_tiled(rewards, group_size, eps=1e-4):
    if group_size == 1:
        return torch.zeros_like(rewards)
    g = rewards.reshape(-1, group_size)
    return (rewards - g.mean(1).repeat(group_size)) / (g.std(1).repeat(group_size) + eps)


def group_one_nan(rewards, group_size, eps=1e-4):
    g = rewards.reshape(-1, group_size)
    return ((g - g.mean(1, keepdim=True)) / (g.std(1, keepdim=True) + eps)).reshape(-1)


def group_one_kept(rewards, group_size, eps=1e-4):
    return rewards.clone() if group_size == 1 else group_advantages(rewards, group_size, eps)


def group_in_place(rewards, group_size, eps=1e-4):
    result = group_advantages(rewards, group_size, eps)
    rewards -= rewards.mean()
    return result


def group_tied_zero_std(rewards, group_size, eps=1e-4):
    return grouped(divide=lambda c, s, e: c / s)(rewards, group_size, eps)


def group_strided(rewards, group_size, eps=1e-4):
    if group_size == 1:
        return torch.zeros_like(rewards)
    g = rewards.reshape(group_size, -1)
    return ((g - g.mean(0)) / (g.std(0) + eps)).reshape(-1)


class GroupRemembers:
    """A running mean and spread over all calls."""

    def __init__(self):
        self.seen = 0

    def __call__(self, rewards, group_size, eps=1e-4):
        self.seen += 1
        return group_advantages(rewards, group_size, eps) * (1.0 if self.seen < 8 else 0.9)


def group_by_loop(rewards, group_size, eps=1e-4):
    out = []
    for start in range(0, len(rewards), group_size):
        g = rewards[start : start + group_size].double()
        spread = g.std().item() if group_size > 1 else 0.0
        out += ((g - g.mean()) / (spread + eps)).tolist()
    return torch.tensor(out)


def group_by_index(rewards, group_size, eps=1e-4):
    ids = torch.arange(len(rewards)) // group_size
    count = int(ids[-1]) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add(0, ids, rewards.double())
    centred = rewards.double() - (sums / group_size)[ids]
    squares = torch.zeros(count, dtype=torch.float64).index_add(0, ids, centred**2)
    return (centred / ((squares / max(group_size - 1, 1)).sqrt()[ids] + eps)).float()


def group_by_view(rewards, group_size, eps=1e-4):
    if group_size == 1:
        return rewards * 0
    g = rewards.view(-1, group_size)
    variance, mean = torch.var_mean(g, dim=-1, keepdim=True)
    return g.sub(mean).div(variance.sqrt() + eps).flatten()


GROUP = Exercise(
    group_advantages,
    points=3,
    cases=group_cases,
    tolerance=5e-5,
    variants=(group_by_loop, group_by_index, group_by_view),
    mistakes=(
        Mistake("strided-groups", group_strided, "Every n-th row makes a group, and not consecutive rows.", "Which rows answer the same prompt?"),
        Mistake("groups-mixed-up", grouped(view=lambda r, n: r.reshape(n, -1).T), "The rows are dealt out to the groups one by one.", "Which rows answer the same prompt, and in which order must the result stand?"),
        Mistake("whole-batch", grouped(center=lambda g: g.mean(), spread=lambda g: g.std()), "Mean and spread are taken over the whole batch.", "Should an answer to a hard prompt be compared with answers to an easy one?"),
        Mistake("batch-spread", grouped(spread=lambda g: g.std()), "The spread is that of the whole batch.", "Whose spread belongs to a group?"),
        Mistake("biased-std", grouped(spread=lambda g: g.std(1, keepdim=True, unbiased=False)), "The standard deviation is the biased one, divided by n.", "Four answers: by which number does the unbiased variance divide?"),
        Mistake("variance", grouped(spread=lambda g: g.var(1, keepdim=True)), "The difference is divided by the variance.", "In which unit is an advantage that has been divided by a variance?"),
        Mistake("not-divided", grouped(divide=lambda c, s, e: c), "The spread is not divided out.", "Should a prompt with large rewards weigh more?"),
        Mistake("not-centred", grouped(center=lambda g: 0.0), "The mean is not subtracted.", "Which answers should become more likely: good ones, or better ones than the others?"),
        Mistake("median", grouped(center=lambda g: g.median(1, keepdim=True).values), "The median is subtracted.", "Do the advantages of a group add up to 0?"),
        Mistake("leave-one-out", grouped(center=lambda g: (g.sum(1, keepdim=True) - g) / max(g.shape[1] - 1, 1)), "The mean of the others is subtracted.", "Whose mean is it: the group's, or that of the others?"),
        Mistake("no-eps", group_tied_zero_std, "Nothing is added to the standard deviation, and a group of equal rewards divides 0 by 0.", "What does a group teach in which all answers are equally good?"),
        Mistake("eps-in-the-root", grouped(spread=lambda g: g.var(1, keepdim=True), divide=lambda c, s, e: c / (s + e).sqrt()), "eps is added to the variance.", "Where does eps stand: under the root, or behind it?"),
        Mistake("eps-ignored", grouped(divide=lambda c, s, e: c / (s + 1e-8)), "The argument eps is not used.", "Which number keeps small differences from becoming large advantages?"),
        Mistake("groups-of-one-divide-by-zero", group_one_nan, "A group of one gives NaN.", "What is the unbiased standard deviation of a single number?"),
        Mistake("groups-of-one-keep-their-reward", group_one_kept, "A group of one keeps its reward as advantage.", "Compared with whom is a single answer good?"),
        Mistake("clamped", grouped(divide=lambda c, s, e: (c / (s + e)).clamp(-1, 1)), "The advantages are cut off at ±1.", "Is there a bound on an advantage?"),
        Mistake("outliers-bounded", grouped(divide=lambda c, s, e: (c / (s + e)).clamp(-3, 3)), "Large advantages are cut off.", "Is there a bound on an advantage?"),
        Mistake("eps-fixed", grouped(divide=lambda c, s, e: c / (s + 1e-4)), "eps is always 0.0001.", "What is the argument eps for?"),
        Mistake("batch-mean", grouped(center=lambda g: g.mean()), "The mean is that of the whole batch.", "Should an answer to a hard prompt be compared with answers to an easy one?"),
        Mistake("eps-is-a-floor", grouped(divide=lambda c, s, e: c / s.clamp(min=e)), "eps is the least standard deviation, instead of being added.", "What becomes of a standard deviation of 0.0001?"),
        Mistake("divided-by-the-range", grouped(spread=lambda g: g.amax(1, keepdim=True) - g.amin(1, keepdim=True)), "The range stands for the standard deviation.", "Which measure of spread does the formula ask for?"),
        Mistake("standard-error", grouped(spread=lambda g: g.std(1, keepdim=True) / g.shape[1] ** 0.5), "The standard error of the mean is divided out.", "Is it the spread of the rewards, or that of their mean?"),
        Mistake("equal-rewards-keep-theirs", group_tied_kept, "A group of equal rewards keeps its rewards.", "What does a group teach in which all answers are equally good?"),
        Mistake("means-in-the-wrong-place", group_tiled, "The groups' means are laid out one after another again and again, and do not stand beside their own rows.", "Write down the group of each row of a batch of six. Does your mean follow it?"),
        Mistake("ranks", grouped(divide=lambda c, s, e: c.argsort(1).argsort(1).float() - (c.shape[1] - 1) / 2), "Ranks stand for the rewards.", "Should an answer that is far better than the others count like one that is a little better?"),
        Mistake("table", grouped(back=lambda a: a), "The groups come back as a table.", "What shape did the rewards have?"),
        Mistake("negative", grouped(divide=lambda c, s, e: -c / (s + e)), "The sign is wrong.", "Should an answer above the mean have a positive advantage?"),
        Mistake("in-place", group_in_place, "It writes into the rewards.", "Who logs the rewards afterwards?"),
        Mistake("remembers", GroupRemembers, "It remembers something from one call to the next.", "What should a second call know of the first?"),
    ),
)  # fmt: skip


# rloo_advantages


def rloo_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    tied = group_rewards(d, 3, 4)
    tied[4:8] = tied[4]
    return [
        Case((group_rewards(d, 2, 3), 3), "two groups of three"),
        Case((group_rewards(d, 4, 4), 4), "four groups of different scale"),
        Case((group_rewards(d, 4, 2), 2), "groups of two"),
        Case((group_rewards(d, 1, 5), 5), "a single group"),
        Case((tied, 4), "a group of equal rewards"),
        Case((torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), 4), "rewards of 0 and 1"),
        Case((group_rewards(d, 4, 1), 1), "groups of one, which have no others", raises="ValueError"),
    ]


def rloo(baseline=lambda g: (g.sum(1, keepdim=True) - g) / (g.shape[1] - 1), combine=lambda g, b: g - b, view=lambda r, n: r.reshape(-1, n),
         back=lambda a: a.reshape(-1), raises=True):  # fmt: skip
    """rloo_advantages with some of its parts replaced."""

    def advantages(rewards, group_size):
        if group_size < 2:
            if raises:
                raise ValueError("group_size must be at least 2")
            return torch.zeros_like(rewards)
        g = view(rewards, group_size)
        return back(combine(g, baseline(g)))

    return advantages


def rloo_type_error(rewards, group_size):
    if group_size < 2:
        raise TypeError("group_size must be at least 2")
    return rloo_advantages(rewards, group_size)


def rloo_strided(rewards, group_size):
    rloo_advantages(rewards[:group_size], group_size)
    g = rewards.reshape(group_size, -1)
    return (g - (g.sum(0) - g) / (group_size - 1)).reshape(-1)


def rloo_in_place(rewards, group_size):
    result = rloo_advantages(rewards, group_size)
    rewards.copy_(result)
    return result


def rloo_by_loop(rewards, group_size):
    if group_size == 1:
        raise ValueError("a group of one has no others")
    values, out = rewards.tolist(), []
    for i, r in enumerate(values):
        start = i // group_size * group_size
        others = [values[j] for j in range(start, start + group_size) if j != i]
        out.append(r - sum(others) / len(others))
    return torch.tensor(out)


def rloo_by_factor(rewards, group_size):
    if group_size < 2:
        raise ValueError(group_size)
    g = rewards.double().view(-1, group_size)
    return (group_size / (group_size - 1) * (g - g.mean(dim=1, keepdim=True))).flatten().float()


def rloo_by_matrix(rewards, group_size):
    if group_size < 2:
        raise ValueError("group_size")
    weights = torch.full((group_size, group_size), -1.0 / (group_size - 1)).fill_diagonal_(1.0)
    return torch.einsum("gi,ji->gj", rewards.unflatten(0, (-1, group_size)), weights).flatten()


RLOO = Exercise(
    rloo_advantages,
    points=2,
    cases=rloo_cases,
    tolerance=3e-5,
    variants=(rloo_by_loop, rloo_by_factor, rloo_by_matrix),
    mistakes=(
        Mistake("own-reward-in-the-baseline", rloo(lambda g: g.mean(1, keepdim=True)), "The baseline contains the response's own reward.", "Leave one out: which one?"),
        Mistake("divided-by-the-group-size", rloo(lambda g: (g.sum(1, keepdim=True) - g) / g.shape[1]), "The sum of the others is divided by the size of the whole group.", "How many others are there?"),
        Mistake("sum-of-the-others", rloo(lambda g: g.sum(1, keepdim=True) - g), "The others are summed, not averaged.", "In which unit is a baseline?"),
        Mistake("strided-groups", rloo_strided, "Every n-th row makes a group, and not consecutive rows.", "Which rows answer the same prompt?"),
        Mistake("groups-mixed-up", rloo(view=lambda r, n: r.reshape(n, -1).T), "The rows are dealt out to the groups one by one.", "Which rows answer the same prompt?"),
        Mistake("whole-batch", rloo(lambda g: (g.sum() - g) / (g.numel() - 1)), "The others are those of the whole batch.", "Should an answer to a hard prompt be compared with answers to an easy one?"),
        Mistake("divided-by-the-spread", rloo(combine=lambda g, b: (g - b) / (g.std(1, keepdim=True) + 1e-4)), "The spread is divided out, as GRPO does.", "In which unit are RLOO's advantages?"),
        Mistake("best-of-the-others", rloo(lambda g: torch.stack([g[:, [j for j in range(g.shape[1]) if j != i]].amax(1) for i in range(g.shape[1])], 1)), "The best of the others is the baseline.", "Which number of the others is asked for?"),
        Mistake("next-one", rloo(lambda g: g.roll(-1, 1)), "Only the neighbour is compared with.", "How many others are there?"),
        Mistake("median-of-the-others", rloo(lambda g: torch.stack([g[:, [j for j in range(g.shape[1]) if j != i]].median(1).values for i in range(g.shape[1])], 1)), "The median of the others is subtracted.", "Which average is it in the formula?"),
        Mistake("total-in-the-baseline", rloo(lambda g: g.sum(1, keepdim=True) / (g.shape[1] - 1)), "The sum contains the response's own reward, and is divided by the number of the others.", "Leave one out: where, above and below?"),
        Mistake("earlier-ones-only", rloo(lambda g: (g.cumsum(1) - g) / torch.arange(g.shape[1]).clamp(min=1)), "Only the answers that come before are compared with.", "Do the answers of a group have an order?"),
        Mistake("clamped", rloo(combine=lambda g, b: (g - b).clamp(-1, 1)), "The advantages are cut off.", "Is there a bound on an advantage?"),
        Mistake("another-error", rloo_type_error, "A group of one raises an error, but not a ValueError.", "Which kind of error says that an argument has an impossible value?"),
        Mistake("wrong-sign", rloo(combine=lambda g, b: b - g), "The sign is wrong.", "Should an answer that beats the others have a positive advantage?"),
        Mistake("baseline-returned", rloo(combine=lambda g, b: b.expand_as(g)), "The baseline is returned.", "What is left once the baseline has been subtracted?"),
        Mistake("no-baseline", rloo(combine=lambda g, b: g), "Nothing is subtracted.", "What do the rewards of the others tell about this one?"),
        Mistake("groups-of-one-accepted", rloo(raises=False), "A group of one is accepted in silence.", "With whom is a single answer compared?"),
        Mistake("table", rloo(back=lambda a: a), "The groups come back as a table.", "What shape did the rewards have?"),
        Mistake("in-place", rloo_in_place, "It writes into the rewards.", "Who logs the rewards afterwards?"),
    ),
)  # fmt: skip


# grpo_loss


def grpo_numbers(d: Draw, mask: torch.Tensor, clip: float) -> tuple[torch.Tensor, ...]:
    """Log-probs, old ones, the reference's."""
    old = -d.uniform(0.5, 3, *mask.shape)
    logprobs = old + log_ratios(d, clip, *mask.shape)
    return logprobs, old, logprobs + d.away_from_zero(*mask.shape)


def grpo_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    cases = []
    for kind in token_masks(d):
        clip = d.number(0.12, 0.35)
        numbers = kind.hide(*grpo_numbers(d, kind.mask, clip))
        cases.append(
            Case((*numbers, d.away_from_zero(len(kind.mask)), kind.mask, clip, d.number(0.1, 0.6)), kind.label)
        )
    narrow = torch.cat([d.ragged(3, 4), torch.zeros(3, 2, dtype=torch.bool)], dim=1)
    numbers = grpo_numbers(d, narrow, 0.2)
    cases.append(Case((*numbers, d.away_from_zero(3), narrow, 0.2, 0.3), "columns in which no response has a token"))
    full, clip = torch.ones(2, 4, dtype=torch.bool), d.number(0.12, 0.35)
    old, rare = -d.uniform(0.5, 3, 2, 4), -d.uniform(150, 200, 2, 4)
    above = math.log1p(clip) + d.uniform(0.2, 0.6, 2, 4)
    inside = d.signs(2, 4) * 0.5 * math.log1p(clip)
    size = d.uniform(0.4, 1.5, 2)
    for sign, name in ((1, "positive"), (-1, "negative")):
        cases.append(
            Case((old + above, old, old, sign * size, full, clip, 0.0), f"ratios above 1 + ε, {name} advantages, no KL")
        )
        cases.append(
            Case((old - above, old, old, sign * size, full, clip, 0.0), f"ratios below 1 − ε, {name} advantages, no KL")
        )
        far = old + d.uniform(1.3, 2.2, 2, 4)
        cases.append(Case((far, old, old, sign * size, full, clip, 0.0), f"ratios of 4 to 9, {name} advantages, no KL"))
    return [
        *cases,
        Case(
            (old + inside, old, old + inside - above, torch.zeros(2), full, clip, 0.7), "advantages of 0: the KL alone"
        ),
        Case((old.clone(), old, old - above, size, full, clip, 0.3), "a policy that has not moved yet"),
        Case(
            (old + inside, old, old + inside + d.uniform(6, 9, 2, 4) * d.signs(2, 4), size, full, clip, 0.2),
            "a reference that is far away",
            1e-4,
            1e-4,
        ),
        Case(
            (old + d.uniform(4, 5.5, 2, 4), old, old, -size, full, clip, 0.0),
            "ratios of 50 and more, negative advantages, no KL",
            1e-4,
            1e-4,
        ),
        Case(
            (*grpo_numbers(d, full, clip), size * torch.tensor([1.0, 0.0]), full, clip, 0.3),
            "an advantage of 0 beside another",
        ),
        Case((old.clone(), old, old.clone(), size, full, clip, 0.3), "policy, old policy and reference all the same"),
        Case(
            (rare + inside, rare, rare + inside + d.away_from_zero(2, 4), size, full, clip, 0.2),
            "tokens as unlikely as e^-150",
            1e-4,
            1e-4,
        ),
        Case(
            (old[:1] + inside[:1], old[:1], old[:1] - 0.5, -size[:1], full[:1], 0.05, 0.2),
            "a single response and a clip range of 0.05",
        ),
    ]


def by_response(x, mask):
    return masked_mean(x, mask, dim=1).mean()


def k3(d):
    return torch.expm1(-d) + d


def grpo(combine=lambda r, c, a, e: torch.minimum(r * a, c * a), kl=k3, mean=by_response, old=lambda lp, o: o.detach(), ref=lambda x: x.detach(),
         adv=lambda a, m: a.detach()[:, None], total=lambda s, kl, b: b * kl - s, clip=lambda r, e: r.clamp(1 - e, 1 + e), sequence=False,
         kl_logprobs=lambda x: x):  # fmt: skip
    """grpo_loss with some of its parts replaced."""

    def loss(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_range, kl_coef):
        log_ratio = torch.where(mask, logprobs - old(logprobs, old_logprobs), 0.0)
        if sequence:
            log_ratio = masked_mean(log_ratio, mask, dim=1)[:, None].expand_as(log_ratio)
        ratio = torch.exp(log_ratio.clamp(max=80))
        surrogate = combine(ratio, clip(ratio, clip_range), adv(advantages, mask), clip_range)
        gap = torch.where(mask, kl_logprobs(logprobs) - ref(ref_logprobs), 0.0)
        return mean(total(surrogate, kl(gap), kl_coef), mask)

    return loss


def dual_clipped(ratio, clipped, advantages, clip_range):
    lower = torch.minimum(ratio * advantages, clipped * advantages)
    return torch.where(advantages < 0, torch.maximum(lower, 3 * advantages), lower)


def grpo_of_probabilities(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_range, kl_coef):
    new, old, ref = (torch.where(mask, x, 0.0).exp() for x in (logprobs, old_logprobs.detach(), ref_logprobs.detach()))
    ratio, a, to_ref = new / old, advantages.detach()[:, None], ref / new
    surrogate = torch.minimum(ratio * a, ratio.clamp(1 - clip_range, 1 + clip_range) * a)
    return masked_mean(kl_coef * (to_ref - 1 - to_ref.log()) - surrogate, mask, dim=1).mean()


def grpo_unmasked(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_range, kl_coef):
    everything = torch.ones_like(mask)
    return grpo_loss(logprobs, old_logprobs, ref_logprobs, advantages, everything, clip_range, kl_coef)


def grpo_multiplied(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_range, kl_coef):
    ratio = torch.exp(logprobs - old_logprobs.detach())
    a = advantages.detach()[:, None]
    terms = kl_coef * k3(logprobs - ref_logprobs.detach()) - torch.minimum(
        ratio * a, ratio.clamp(1 - clip_range, 1 + clip_range) * a
    )
    return ((terms * mask).sum(1) / mask.sum(1)).mean()


def grpo_garbage_gradient(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_range, kl_coef):
    ratio = torch.exp(logprobs - old_logprobs.detach())
    a = advantages.detach()[:, None]
    terms = kl_coef * k3(logprobs - ref_logprobs.detach()) - torch.minimum(
        ratio * a, ratio.clamp(1 - clip_range, 1 + clip_range) * a
    )
    return (torch.where(mask, terms, 0.0).sum(1) / mask.sum(1)).mean()


def grpo_in_place(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_range, kl_coef):
    loss = grpo_loss(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_range, kl_coef)
    advantages -= 1.0
    return loss


def grpo_detached(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_range, kl_coef):
    return grpo_loss(logprobs.detach(), old_logprobs, ref_logprobs, advantages, mask, clip_range, kl_coef)


def token_mean(x, mask):
    return masked_mean(x, mask)


def sum_of_tokens(x, mask):
    return torch.where(mask, x, 0.0).sum(dim=1).mean()


def padded_mean(x, mask):
    return torch.where(mask, x, 0.0).mean(dim=1).mean()


def response_sum(x, mask):
    return masked_mean(x, mask, dim=1).sum()


def longest_mean(x, mask):
    return torch.where(mask, x, 0.0).sum() / (len(mask) * mask.sum(dim=1).max())


class GRPORemembers:
    """Keeps the reference's log-probs of the first call of each shape."""

    def __init__(self):
        self.ref = {}

    def __call__(self, logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_range, kl_coef):
        ref = self.ref.setdefault(tuple(mask.shape), ref_logprobs.detach().clone())
        ref = torch.where(mask, ref.nan_to_num(0.0), 0.0)
        return grpo_loss(logprobs, old_logprobs, ref, advantages, mask, clip_range, kl_coef)


def grpo_by_row(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_range, kl_coef):
    losses = []
    for lp, old, ref, a, m in zip(
        logprobs, old_logprobs.detach(), ref_logprobs.detach(), advantages.detach().tolist(), mask, strict=True
    ):
        lp, old, ref = lp[m].double(), old[m].double(), ref[m].double()
        ratio = (lp - old).clamp(max=80).exp()
        bounded = ratio.clamp(1 - clip_range, 1 + clip_range)
        kl = torch.exp(ref - lp) - 1 - (ref - lp)
        losses.append((torch.max(-ratio * a, -bounded * a) + kl_coef * kl).mean())
    return torch.stack(losses).mean().float()


def grpo_by_fill(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_range, kl_coef):
    hidden = ~mask
    lp, old, ref = (
        logprobs.masked_fill(hidden, 0),
        old_logprobs.detach().masked_fill(hidden, 0),
        ref_logprobs.detach().masked_fill(hidden, 0),
    )
    ratio = torch.exp((lp - old).clamp(max=60))
    a = advantages.detach().unsqueeze(1).expand_as(ratio)
    best = torch.where(a > 0, ratio.clamp(max=1 + clip_range), ratio.clamp(min=1 - clip_range)) * a
    kl = torch.special.expm1(ref - lp) + lp - ref
    per_row = ((kl_coef * kl - best) * mask).sum(-1) / mask.sum(-1)
    return per_row.sum() / per_row.numel()


def grpo_by_weights(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_range, kl_coef):
    weights = (mask / mask.sum(dim=1, keepdim=True) / mask.shape[0])[mask]
    rows = mask.nonzero()[:, 0]
    lp, old, ref, a = (
        logprobs[mask],
        old_logprobs.detach()[mask],
        ref_logprobs.detach()[mask],
        advantages.detach()[rows],
    )
    ratio = torch.exp((lp - old).clamp(-80, 80))
    policy = torch.minimum(ratio * a, torch.clamp(ratio, 1 - clip_range, 1 + clip_range) * a)
    return torch.dot(weights, kl_coef * (torch.expm1(ref - lp) - (ref - lp)) - policy)


GRPO = Exercise(
    grpo_loss,
    points=4,
    cases=grpo_cases,
    result="loss",
    trained=(0,),
    tolerance=3e-5,
    variants=(grpo_by_row, grpo_by_fill, grpo_by_weights),
    mistakes=(
        Mistake("token-mean", grpo(mean=token_mean), "All tokens of the batch are averaged at once, as DAPO does.", "Which mean comes first in GRPO: that over a response's tokens, or that over everything?"),
        Mistake("summed-over-tokens", grpo(mean=sum_of_tokens), "The tokens of a response are summed.", "Should a longer response have a larger loss?"),
        Mistake("averaged-over-columns", grpo(mean=padded_mean), "The sum of a response is divided by the width of the batch.", "Does a response's loss depend on how long the others are?"),
        Mistake("longest-response", grpo(mean=longest_mean), "Every response is divided by the length of the longest.", "By how many tokens is a response divided?"),
        Mistake("responses-summed", grpo(mean=response_sum), "The responses are summed.", "Should a larger batch have a larger loss?"),
        Mistake("no-clip", grpo(lambda r, c, a, e: r * a), "Nothing is clipped.", "What stops the policy from going on, once the ratio has left its range?"),
        Mistake("clipped-term-only", grpo(lambda r, c, a, e: c * a), "Only the clipped term is used.", "The ratio has moved the wrong way, out of its range. What brings it back?"),
        Mistake("max-for-min", grpo(lambda r, c, a, e: torch.maximum(r * a, c * a)), "The larger of the two terms is taken.", "Which of two estimates of a gain would a pessimist believe?"),
        Mistake("min-before-multiplying", grpo(lambda r, c, a, e: torch.minimum(r, c) * a), "The minimum is taken of the ratios, before they meet the advantage.", "Multiply 1 < 2 by −1. Which is the smaller one now?"),
        Mistake("epsilon-fixed", grpo(clip=lambda r, e: r.clamp(0.8, 1.2)), "The clip range is always 0.2.", "What is clip_range for?"),
        Mistake("upper-clip-only", grpo(clip=lambda r, e: r.clamp(max=1 + e)), "The ratio is clipped above only.", "What happens to a token of a bad response that has become very unlikely?"),
        Mistake("lower-clip-only", grpo(clip=lambda r, e: r.clamp(min=1 - e)), "The ratio is clipped below only.", "What happens to a token of a good response that has become very likely?"),
        Mistake("log-ratio-clipped", grpo(clip=lambda r, e: r.log().clamp(-e, e).exp()), "The logarithm of the ratio is clipped to ±ε.", "Is log(1 + ε) the same as ε?"),
        Mistake("higher-upper-clip", grpo(clip=lambda r, e: r.clamp(1 - e, 1 + e + 0.08)), "The upper bound is higher than 1 + ε.", "How far from 1 are the two bounds?"),
        Mistake("dual-clip", grpo(dual_clipped), "The objective is bounded a second time where the advantage is negative.", "What does the formula say of a very large ratio with a negative advantage?"),
        Mistake("ratio-missing", lambda lp, o, ref, a, m, e, b: grpo(lambda r, c, aa, ee: torch.where(m, lp, 0.0) * aa)(lp, o, ref, a, m, e, b), "The log-probs themselves are weighted by the advantages.", "How does the loss know how far the policy has moved?"),
        Mistake("log-ratio-for-ratio", grpo(lambda r, c, a, e: torch.minimum((1 + r.log()) * a, (1 + r.log()).clamp(1 - e, 1 + e) * a)), "1 + log ρ stands for ρ.", "What turns a difference of log-probs into a ratio?"),
        Mistake("old-is-current", grpo(old=lambda lp, o: lp.detach()), "The ratio is taken to the current policy, so that it is always 1.", "Which policy wrote the tokens?"),
        Mistake("inverse-ratio", grpo(clip=lambda r, e: (1 / r).clamp(1 - e, 1 + e), combine=lambda r, c, a, e: torch.minimum(a / r, c * a)), "The ratio is the wrong way round.", "Which policy stands in the denominator?"),
        Mistake("ratio-to-the-reference", lambda lp, o, ref, a, m, e, b: grpo()(lp, ref, ref, a, m, e, b), "The ratio is taken to the reference.", "Which policy wrote the tokens: the old one, or the reference?"),
        Mistake("sequence-ratio", grpo(sequence=True), "One ratio for the whole response is used, as GSPO does.", "Does each token have its own ratio?"),
        Mistake("kl-left-out", grpo(total=lambda s, kl, b: -s), "The KL is left out.", "What keeps the policy near the reference?"),
        Mistake("kl-rewarded", grpo(total=lambda s, kl, b: -b * kl - s), "The KL has the wrong sign: moving away from the reference is rewarded.", "Should the loss rise or fall with the KL?"),
        Mistake("kl-coef-ignored", grpo(total=lambda s, kl, b: kl - s), "kl_coef is not used.", "What decides how strong the tie to the reference is?"),
        Mistake("k1", grpo(kl=lambda d: d), "k1 stands in the loss, whose gradient has a mean of 0.", "What is the mean of ∇ log π over samples of π?"),
        Mistake("k2", grpo(kl=lambda d: d**2 / 2), "k2 stands in place of k3.", "Which estimate does the formula ask for?"),
        Mistake("absolute-log-ratio", grpo(kl=lambda d: d.abs()), "The absolute log-ratio stands in place of k3.", "Which estimate does the formula ask for?"),
        Mistake("k3-without-d", grpo(kl=lambda d: torch.expm1(-d)), "The last term of k3 is missing.", "Which three terms does k3 have?"),
        Mistake("k3-minus-d", grpo(kl=lambda d: torch.expm1(-d) - d), "d has the wrong sign in k3.", "Is your k3 ever negative? May it be?"),
        Mistake("k3-without-one", grpo(kl=lambda d: torch.exp(-d) + d), "1 is not subtracted in k3.", "What is k3 where policy and reference agree?"),
        Mistake("kl-bounded", grpo(kl=lambda d: k3(d.clamp(-1, 1))), "The log-ratio to the reference is cut off.", "Which tokens should the penalty pull back most?"),
        Mistake("kl-summed-over-tokens", lambda lp, o, ref, a, m, e, b: grpo(total=lambda s, kl, bb: -s)(lp, o, ref, a, m, e, b) + grpo(total=lambda s, kl, bb: bb * kl, mean=sum_of_tokens)(lp, o, ref, a, m, e, b),
                "The KL is summed over the tokens of a response.", "Over what is the penalty averaged?"),
        Mistake("kl-averaged-over-all-tokens", lambda lp, o, ref, a, m, e, b: grpo(total=lambda s, kl, bb: -s)(lp, o, ref, a, m, e, b) + grpo(total=lambda s, kl, bb: bb * kl, mean=token_mean)(lp, o, ref, a, m, e, b),
                "The KL is averaged over all tokens of the batch at once.", "Over what is the penalty averaged?"),
        Mistake("kl-of-the-old-policy", lambda lp, o, ref, a, m, e, b: grpo(kl_logprobs=lambda x: o.detach())(lp, o, ref, a, m, e, b), "The KL is that of the old policy.", "Which policy must not go too far from the reference?"),
        Mistake("k3-reversed", grpo(kl=lambda d: torch.expm1(d) - d), "The ratio in k3 is the wrong way round.", "Samples come from π: which policy stands in the numerator of the ratio?"),
        Mistake("kl-to-the-old-policy", lambda lp, o, ref, a, m, e, b: grpo()(lp, o, o, a, m, e, b), "The KL is measured to the old policy.", "Which policy is it that must not be left: the one of the rollout, or the reference?"),
        Mistake("kl-weighted-by-ratio", lambda lp, o, ref, a, m, e, b: grpo(total=lambda s, kl, bb: torch.exp(torch.where(m, lp - o.detach(), 0.0).clamp(max=80)) * bb * kl - s)(lp, o, ref, a, m, e, b), "The KL is multiplied by the ratio, as some libraries do.", "Which formula does this exercise ask for?"),
        Mistake("kl-detached", grpo(kl_logprobs=lambda x: x.detach()), "The KL has no gradient.", "What can a penalty do that has no gradient?", twins=("kl-in-the-advantage",)),
        Mistake("negative", grpo(total=lambda s, kl, b: s - b * kl), "The sign is that of an objective, not of a loss.", "Is the result minimised or maximised?"),
        Mistake("wrong-sign", grpo(total=lambda s, kl, b: b * kl + s), "The surrogate has the wrong sign.", "The surrogate is maximised. What is minimised?"),
        Mistake("kl-in-the-advantage", grpo(total=lambda s, kl, b: b * kl.detach() - s), "The KL is a constant here.", "What can a penalty do that has no gradient?", twins=("kl-detached",)),
        Mistake("advantages-whitened", grpo(adv=lambda a, m: ((a - a.mean()) / (a.std(unbiased=False) + 1e-4)).detach()[:, None]), "The advantages are whitened once more.", "Who has taken care of the advantages already?"),
        Mistake("advantage-on-the-last-token", grpo(adv=lambda a, m: a.detach()[:, None] * (m & (m.long().flip(1).cumsum(1).flip(1) == 1))), "Only the last token of a response gets its advantage.", "Does every token get the advantage of its response?"),
        Mistake("advantages-centred", grpo(adv=lambda a, m: (a - a.mean()).detach()[:, None]), "The mean of the advantages is subtracted once more.", "Who has taken care of the baseline already?"),
        Mistake("advantages-bounded", grpo(adv=lambda a, m: a.detach().clamp(-1, 1)[:, None]), "The advantages are cut off.", "What is clipped: the ratio, or the advantage?"),
        Mistake("good-responses-only", grpo(adv=lambda a, m: a.detach().relu()[:, None]), "Negative advantages are dropped.", "Should the policy also learn what not to write?"),
        Mistake("first-columns", lambda lp, o, ref, a, m, e, b: grpo()(lp, o, ref, a, torch.arange(m.shape[1]) < m.sum(1, keepdim=True), e, b), "As many columns as there are tokens are used, wherever the mask begins.", "Does every response begin in column 0?"),
        Mistake("probabilities-divided", grpo_of_probabilities, "Probabilities are divided, which underflow to 0.", "How likely is a token with a log-probability of −150, as a float?"),
        Mistake("advantages-shared-out", grpo(adv=lambda a, m: a.detach()[:, None] / m.sum(1, keepdim=True)), "Each token gets a share of the advantage only.", "Does every token get the advantage of its response, or a part of it?"),
        Mistake("mask-unused", grpo_unmasked, "The mask has no influence.", "Whose log-probs stand in padded columns?"),
        Mistake("multiplied-by-mask", grpo_multiplied, "Garbage is multiplied by 0, which is not a number when the garbage is NaN or infinite.", "What is 0 times infinity?"),
        Mistake("garbage-gradient", grpo_garbage_gradient, "The value is masked at the end, but the gradient passes through the garbage first.", "What is 0 times NaN, on the way back?"),
        Mistake("old-logprobs-trained", grpo(old=lambda lp, o: o), "A gradient flows into the old log-probs.", "Which of the policies is trained?"),
        Mistake("reference-trained", grpo(ref=lambda x: x), "A gradient flows into the reference.", "Which of the policies is trained?"),
        Mistake("advantages-trained", grpo(adv=lambda a, m: a[:, None]), "A gradient flows into the advantages.", "Are the advantages something to be trained?"),
        Mistake("no-gradient", grpo_detached, "No gradient reaches the policy.", "Which tensor must still know where it came from?"),
        Mistake("in-place", grpo_in_place, "It writes into the advantages.", "Who reads them in the next epoch?"),
        Mistake("remembers-the-reference", GRPORemembers, "It remembers the reference's log-probs of an earlier batch.", "What should a second call know of the first?"),
    ),
)  # fmt: skip


EXERCISES = (GROUP, RLOO, GRPO)
