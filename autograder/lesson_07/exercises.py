"""Lesson 07: preferences without a reward model."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from autograder.draws import Draw, token_masks
from autograder.exercise import Case, Exercise, Mistake, forms
from rlhf_core.dpo import dpo_loss, implicit_rewards, ipo_loss, sequence_logprobs

# sequence_logprobs


def sequence_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    cases = []
    for kind in token_masks(d):
        cases.append(Case((*kind.hide(-d.uniform(0.3, 3, *kind.mask.shape)), kind.mask), kind.label))
    long = torch.ones(2, 60, dtype=torch.bool)
    return [
        *cases,
        Case((-d.uniform(4, 9, 2, 60), long), "long responses", 1e-4, 1e-4),
        Case(
            (torch.zeros(2, 3).masked_fill(d.ragged(2, 3), -1.5), d.ragged(2, 3)), "log-probs of 0 outside of the mask"
        ),
        Case(
            (-d.uniform(120, 150, 2, 3), torch.ones(2, 3, dtype=torch.bool)), "tokens as unlikely as e^-120", 1e-5, 1e-4
        ),
    ]


def summed(token_logprobs, mask):
    return torch.where(mask, token_logprobs, 0.0).sum(dim=1)


def sequence_garbage_gradient(token_logprobs, mask):
    total = token_logprobs.double().exp().log().float()
    return torch.where(mask, total, 0.0).sum(dim=1)


def sequence_in_place(token_logprobs, mask):
    token_logprobs[~mask] = 0.0
    return token_logprobs.sum(dim=1)


def sequence_shifted(token_logprobs, mask):
    return summed(token_logprobs[:, 1:], mask[:, 1:])


def sequence_by_row(token_logprobs, mask):
    return torch.stack([row[keep].sum() for row, keep in zip(token_logprobs, mask, strict=True)])


def sequence_by_fill(token_logprobs, mask):
    return token_logprobs.masked_fill(~mask, 0.0).double().sum(-1).float()


def sequence_by_cumsum(token_logprobs, mask):
    return torch.where(mask, token_logprobs, torch.zeros_like(token_logprobs)).cumsum(dim=1)[:, -1]


def sequence_of_first_columns(token_logprobs, mask):
    return torch.stack([row[: int(keep.sum())].sum() for row, keep in zip(token_logprobs, mask, strict=True)])


def sequence_by_finite_numbers(token_logprobs, mask):
    return (token_logprobs.nan_to_num() * mask).sum(dim=1)


SEQUENCE = Exercise(
    sequence_logprobs,
    points=1,
    cases=sequence_cases,
    trained=(0,),
    variants=(sequence_by_row, sequence_by_fill, sequence_by_cumsum, sequence_by_finite_numbers),
    mistakes=(
        Mistake("mean-over-tokens", lambda x, m: summed(x, m) / m.sum(dim=1), "The tokens are averaged.", "The probability of a response is a product over its tokens. What is its logarithm?"),
        Mistake("mean-over-columns", lambda x, m: torch.where(m, x, 0.0).mean(dim=1), "The sum is divided by the width of the batch.", "Does a response become more likely when it stands beside a longer one?"),
        Mistake("mask-unused", lambda x, m: x.sum(dim=1), "The mask has no influence.", "Whose log-probs stand in padded columns?"),
        Mistake("multiplied-by-mask", lambda x, m: (x * m).sum(dim=1), "Garbage is multiplied by 0, which is not a number when the garbage is NaN or infinite.", "What is 0 times infinity?"),
        Mistake("nan-to-zero", lambda x, m: x.nan_to_num(0.0, 0.0, 0.0).sum(dim=1), "NaN and infinity are wiped out, and the mask is not used.", "What if the garbage is an ordinary number?"),
        Mistake("summed-over-everything", lambda x, m: summed(x, m).sum(), "The whole batch is summed.", "How many numbers are asked for?"),
        Mistake("summed-over-rows", lambda x, m: torch.where(m, x, 0.0).sum(dim=0), "The sum runs over the responses.", "Which dimension is time?"),
        Mistake("probabilities", lambda x, m: summed(x, m).exp(), "The probability is returned, not its logarithm.", "In which unit is the result?"),
        Mistake("sum-of-probabilities", lambda x, m: torch.where(m, x.exp(), 0.0).sum(dim=1), "Probabilities are added.", "What does one do with the probabilities of tokens to get that of the response?"),
        Mistake("first-token-dropped", sequence_shifted, "The first column is left out.", "Have the log-probs been shifted already?"),
        Mistake("first-columns", sequence_of_first_columns, "As many columns as there are tokens are summed, wherever the mask begins.", "Does every response begin in column 0?"),
        Mistake("unlikely-tokens-bounded", lambda x, m: torch.where(m, x.clamp(min=-20), 0.0).sum(dim=1), "Very unlikely tokens are made less unlikely.", "May a token have a log-probability of −100?"),
        Mistake("squeezed", lambda x, m: summed(x, m).squeeze(), "A batch of one loses its dimension.", "What shape should the result have for a single response?"),
        Mistake("mean-over-root-length", lambda x, m: summed(x, m) / m.sum(dim=1).sqrt(), "The sum is divided by the root of the length.", "The probability of a response is a product over its tokens. What is its logarithm?"),
        Mistake("negative", lambda x, m: -summed(x, m), "The sign is that of a loss.", "Is a log-probability above or below 0?"),
        Mistake("no-gradient", lambda x, m: summed(x.detach(), m), "No gradient comes through.", "What will the loss train?"),
        Mistake("in-place", sequence_in_place, "It writes into the log-probs that it was given.", "Who else needs these log-probs?"),
        Mistake("column", lambda x, m: torch.where(m, x, 0.0).sum(dim=1, keepdim=True), "The sums stand in a column.", "What shape should the result have?"),
    ),
)  # fmt: skip


# dpo_loss


def four(d: Draw, rows: int, scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    """Log-probs of whole responses: policy's and reference's, of chosen and of rejected."""
    chosen, rejected = -d.uniform(10, 30, rows), -d.uniform(10, 30, rows)
    return (
        chosen + scale * d.away_from_zero(rows),
        rejected + scale * d.away_from_zero(rows),
        chosen,
        rejected,
    )


def dpo_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    far = [
        torch.tensor(x)
        for x in ([-5.0, -20_000.0, -7.0], [-20_000.0, -5.0, -30_000.0], [-6.0, -8.0, -7.0], [-7.0, -9.0, -9.0])
    ]
    same = -d.uniform(10, 30, 3), -d.uniform(10, 30, 3)
    return [
        Case((*four(d, 4), d.number(0.3, 0.8)), "four pairs"),
        Case((*four(d, 5), d.number(0.3, 0.8), d.number(0.1, 0.4)), "label smoothing"),
        Case((*four(d, 3, 2.0), d.number(1.5, 3)), "a β above 1"),
        Case((*same, *same, 0.4), "a policy that is still the reference", 1e-5, 1e-5),
        Case((*same, *same, 0.4, 0.2), "a policy that is still the reference, and label smoothing"),
        Case((*four(d, 1), 0.5), "a single pair"),
        Case((*four(d, 1), 0.5, 0.3), "a single pair and label smoothing"),
        Case((*four(d, 6, 6.0), 0.7), "pairs on which the policy has moved far"),
        Case((*far, 0.5), "gaps of ±10,000"),
        Case((*far, 1.0, 0.1), "gaps of ±10,000 and label smoothing"),
    ]


def dpo(gap=lambda pc, pr, rc, rr: (pc - pr) - (rc - rr), scale=lambda h, b: b * h, log=F.logsigmoid, mean=torch.mean,
        smooth=lambda log, h, e: -((1 - e) * log(h) + e * log(-h)), data=torch.detach):  # fmt: skip
    """dpo_loss with some of its parts replaced."""

    def loss(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
        h = scale(gap(policy_chosen, policy_rejected, data(ref_chosen), data(ref_rejected)), beta)
        return mean(smooth(log, h, label_smoothing))

    return loss


def log_one_plus_exp(h):
    return -torch.log(1 + torch.exp(-h))


def dpo_of_mean(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    h = beta * ((policy_chosen - policy_rejected) - (ref_chosen - ref_rejected).detach()).mean()
    return -((1 - label_smoothing) * F.logsigmoid(h) + label_smoothing * F.logsigmoid(-h))


def dpo_beta_outside(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    return beta * dpo_loss(policy_chosen, policy_rejected, ref_chosen, ref_rejected, 1.0, label_smoothing)


def dpo_detached_rejected(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    return dpo_loss(policy_chosen, policy_rejected.detach(), ref_chosen, ref_rejected, beta, label_smoothing)


def dpo_detached_chosen(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    return dpo_loss(policy_chosen.detach(), policy_rejected, ref_chosen, ref_rejected, beta, label_smoothing)


def dpo_detached(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    return dpo_loss(policy_chosen.detach(), policy_rejected.detach(), ref_chosen, ref_rejected, beta, label_smoothing)


def dpo_in_place(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    ref_chosen -= ref_rejected
    return dpo_loss(policy_chosen, policy_rejected, ref_chosen, torch.zeros_like(ref_chosen), beta, label_smoothing)


class DPORemembers:
    """Keeps the reference's log-probs of the first call of each size."""

    def __init__(self):
        self.ref = {}

    def __call__(self, policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
        ref = self.ref.setdefault(len(ref_chosen), (ref_chosen - ref_rejected).detach().clone())
        return dpo_loss(policy_chosen, policy_rejected, ref, torch.zeros_like(ref), beta, label_smoothing)


def dpo_by_softplus(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    chosen = policy_chosen - ref_chosen.detach()
    rejected = policy_rejected - ref_rejected.detach()
    h = beta * chosen - beta * rejected
    return ((1 - label_smoothing) * F.softplus(-h) + label_smoothing * F.softplus(h)).mean()


def dpo_by_bce(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    with torch.no_grad():
        ref = ref_chosen - ref_rejected
    h = (policy_chosen - policy_rejected - ref) * beta
    return F.binary_cross_entropy_with_logits(h, torch.full_like(h, 1 - label_smoothing))


def dpo_by_cross_entropy(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    rewards = torch.stack([policy_chosen - ref_chosen.detach(), policy_rejected - ref_rejected.detach()], dim=1) * beta
    logs = torch.log_softmax(rewards, dim=1)
    return -((1 - label_smoothing) * logs[:, 0] + label_smoothing * logs[:, 1]).sum() / len(logs)


def dpo_in_double(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    total = 0.0
    for pc, pr, rc, rr in zip(policy_chosen, policy_rejected, ref_chosen.tolist(), ref_rejected.tolist(), strict=True):
        h = beta * ((pc.double() - rc) - (pr.double() - rr))
        total = total - (1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)
    return total / policy_chosen.shape[0]


DPO = Exercise(
    dpo_loss,
    points=4,
    cases=dpo_cases,
    result="loss",
    trained=(0, 1),
    tolerance=5e-5,
    variants=(dpo_by_softplus, dpo_by_bce, dpo_by_cross_entropy, dpo_in_double),
    mistakes=(
        Mistake("no-reference", dpo(gap=lambda pc, pr, rc, rr: pc - pr), "The reference is left out.", "A response that was likely from the beginning: should the policy get credit for it?"),
        Mistake("reference-added", dpo(gap=lambda pc, pr, rc, rr: (pc - pr) + (rc - rr)), "The reference is added instead of subtracted.", "What should h be while the policy is still the reference?"),
        Mistake("reference-only-for-chosen", dpo(gap=lambda pc, pr, rc, rr: pc - rc - pr), "The reference is subtracted from the chosen response only.", "What should h be while the policy is still the reference?"),
        *forms("wrong-sign-of-h", (dpo(gap=lambda pc, pr, rc, rr: (rc - rr) - (pc - pr)), dpo(gap=lambda pc, pr, rc, rr: (pr - pc) - (rr - rc)), dpo(smooth=lambda log, h, e: -(e * log(h) + (1 - e) * log(-h)))),
               "h has the wrong sign: chosen and rejected, or policy and reference, or ε and 1 − ε, have changed places.", "Should the loss fall or rise as the policy comes to prefer the chosen response?"),
        Mistake("rejected-added", dpo(gap=lambda pc, pr, rc, rr: (pc - rc) + (pr - rr)), "The rejected response's log-ratio is added.", "Should the loss care about the sum of the two, or about their difference?"),
        Mistake("beta-outside", dpo_beta_outside, "β multiplies the loss, and not the log-ratio.", "Is β a learning rate, or the scale of the rewards inside the sigmoid?"),
        Mistake("beta-ignored", dpo(scale=lambda h, b: h), "β is not used.", "What decides how far the policy may go from the reference?"),
        Mistake("divided-by-beta", dpo(scale=lambda h, b: h / b), "The log-ratio is divided by β.", "Should a larger β make rewards larger or smaller, for the same log-ratio?"),
        Mistake("beta-on-policy-only", lambda pc, pr, rc, rr, beta, label_smoothing=0.0: dpo()(beta * pc, beta * pr, rc, rr, 1.0, label_smoothing), "β multiplies the policy's part only.", "What should h be while the policy is still the reference?"),
        Mistake("sigmoid-of-the-mean", dpo_of_mean, "The sigmoid is taken of the mean.", "Is the mean of a function the function of the mean?"),
        Mistake("no-logarithm", dpo(log=lambda h: torch.sigmoid(h)), "The logarithm is missing.", "What is the likelihood's loss, and where is its logarithm?"),
        *forms("log-of-sigmoid", (dpo(log=lambda h: torch.log(torch.sigmoid(h))), dpo(log=log_one_plus_exp), dpo(log=log_one_plus_exp, smooth=lambda log, h, e: -log(h) if not e else -((1 - e) * log(h) + e * log(-h)))),
               "log σ(h) is computed step by step, and is infinite where an exponential overflows or the sigmoid underflows to 0.", "What is exp(10,000), and what is the logarithm of a probability that has been rounded to 0?"),
        Mistake("log-with-eps", dpo(log=lambda h: torch.log(torch.sigmoid(h) + 1e-8)), "A small number in the logarithm hides the underflow, and cuts the gradient where it is needed most.", "How large can this loss become, and how large should it?"),
        Mistake("hinge", dpo(log=lambda h: -F.relu(1 - h)), "This is a hinge loss.", "Which function does the Bradley–Terry model put around the difference of rewards?"),
        *forms("smoothing-ignored", (dpo(smooth=lambda log, h, e: -log(h)), dpo(smooth=lambda log, h, e: -((1 - e) * log(h) + e * log(h)))),
               "The label smoothing does nothing: it is not used, or both of its terms look at h.", "What if a share ε of the labels is the wrong way round, and what is the probability of such a label?"),
        Mistake("smoothing-subtracted", dpo(smooth=lambda log, h, e: -((1 - e) * log(h) - e * log(-h))), "The second term has the wrong sign.", "Both terms are log-likelihoods: which sign does each have in a loss?"),
        Mistake("smoothing-one-sided", dpo(smooth=lambda log, h, e: -(1 - e) * log(h)), "The term with ε is missing.", "Where do the ε wrong labels go?"),
        Mistake("robust", dpo(smooth=lambda log, h, e: -((1 - e) * log(h) - e * log(-h)) / (1 - 2 * e)), "This is another loss for noisy labels, which subtracts and divides by 1 − 2ε.", "Which formula does this exercise ask for?"),
        Mistake("smoothing-halved", dpo(smooth=lambda log, h, e: -((1 - e / 2) * log(h) + e / 2 * log(-h))), "Half of ε is used.", "How many of the labels are assumed to be wrong?"),
        Mistake("bounded", dpo(scale=lambda h, b: (b * h).clamp(-20, 20)), "h is cut off, so that pairs that are far wrong have no gradient.", "Which pairs should teach the policy most?"),
        Mistake("no-gradient-at-the-start", dpo(log=lambda h: -(torch.relu(-h) + torch.log1p(torch.exp(-h.abs())))), "This form of log σ is right, but at h = 0 torch's gradient of both its parts is 0, and h is 0 while the policy is still the reference.",
                "With which h does every DPO run begin, and what gradient does your function have there?"),
        Mistake("all-pairs", lambda pc, pr, rc, rr, beta, label_smoothing=0.0: dpo()(pc[:, None], pr, rc[:, None], rr, beta, label_smoothing), "Every chosen response is compared with every rejected one.", "Which rejected response belongs to a chosen one?"),
        Mistake("ratio-of-logs", dpo(gap=lambda pc, pr, rc, rr: pc / rc - pr / rr), "Log-probabilities are divided.", "What is the logarithm of a ratio?"),
        Mistake("probabilities", dpo(gap=lambda pc, pr, rc, rr: torch.exp(pc - rc) - torch.exp(pr - rr)), "Ratios are subtracted, not their logarithms.", "What is h made of: ratios, or their logarithms?"),
        Mistake("beta-on-reference-only", lambda pc, pr, rc, rr, beta, label_smoothing=0.0: dpo()(pc, pr, beta * rc, beta * rr, 1.0, label_smoothing), "β multiplies the reference's part only.", "What should h be while the policy is still the reference?"),
        Mistake("always-smoothed", lambda pc, pr, rc, rr, beta, label_smoothing=0.1: dpo_loss(pc, pr, rc, rr, beta, label_smoothing), "Labels are smoothed without being asked.", "What does the loss look like if nothing is said about label smoothing?"),
        Mistake("ipo", lambda pc, pr, rc, rr, beta, label_smoothing=0.0: ((pc - pr - (rc - rr).detach() - 1 / (2 * beta)) ** 2).mean(), "This is IPO's square.", "Which function does DPO apply to h?"),
        Mistake("wrong-sign", dpo(smooth=lambda log, h, e: (1 - e) * log(h) + e * log(-h)), "The sign is that of a likelihood, not of a loss.", "Is the result minimised or maximised?"),
        Mistake("summed", dpo(mean=torch.sum), "The pairs are summed.", "Should a larger batch have a larger loss?"),
        Mistake("not-averaged", dpo(mean=lambda x: x), "There is one loss for each pair.", "On what will backward() be called?"),
        Mistake("reference-trained", dpo(data=lambda x: x), "A gradient flows into the reference.", "Which of the two models stays as it is?"),
        Mistake("rejected-detached", dpo_detached_rejected, "No gradient reaches the rejected response.", "Should the policy also learn what not to write?"),
        Mistake("chosen-detached", dpo_detached_chosen, "No gradient reaches the chosen response.", "Should the policy also learn what to write?"),
        Mistake("no-gradient", dpo_detached, "No gradient reaches the policy.", "Which tensors must still know where they came from?"),
        Mistake("in-place", dpo_in_place, "It writes into the reference's log-probs.", "Who reads them in the next epoch?"),
        Mistake("remembers-the-reference", DPORemembers, "It remembers the reference's log-probs of an earlier batch.", "What should a second call know of the first?"),
    ),
)  # fmt: skip


# implicit_rewards


def reward_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    ref = -d.uniform(10, 30, 4)
    return [
        Case((ref + d.away_from_zero(4), ref, 0.25), "four responses"),
        Case((ref + d.away_from_zero(4), ref, d.number(1.5, 3)), "a β above 1"),
        Case((ref.clone(), ref, 0.3), "a policy that is still the reference"),
        Case((ref[:1] + 1, ref[:1], 0.3), "a single response"),
        Case((ref + d.uniform(100, 400, 4) * d.signs(4), ref, 0.7), "responses on which the policy has moved far"),
    ]


def reward_in_place(policy, ref, beta):
    ref *= beta
    return (beta * policy - ref).detach()


def reward_no_grad(policy, ref, beta):
    with torch.no_grad():
        return beta * (policy - ref)


def reward_by_loop(policy, ref, beta):
    return torch.tensor([beta * (p - r) for p, r in zip(policy.tolist(), ref.tolist(), strict=True)])


def reward_of_data(policy, ref, beta):
    return torch.mul(torch.sub(policy.detach(), ref.detach()), beta)


REWARD = Exercise(
    implicit_rewards,
    points=1,
    cases=reward_cases,
    trained=(),
    variants=(reward_no_grad, reward_by_loop, reward_of_data),
    mistakes=(
        Mistake("gradient", lambda p, r, b: b * (p - r), "The rewards carry a gradient.", "These numbers are logged. What happens if somebody adds them to a loss by accident?"),
        Mistake("half-a-gradient", lambda p, r, b: b * (p - r.detach()), "The rewards carry a gradient of the policy.", "These numbers are logged. What should they be able to train?"),
        Mistake("reference-minus-policy", lambda p, r, b: (b * (r - p)).detach(), "The difference is the wrong way round.", "Which response has the larger reward: one that the policy likes more than the reference does, or less?"),
        Mistake("no-reference", lambda p, r, b: (b * p).detach(), "The reference is left out.", "What is the reward of a policy that has not moved?"),
        Mistake("beta-ignored", lambda p, r, b: (p - r).detach(), "β is not used.", "In which unit are rewards, and in which log-probs?"),
        Mistake("divided-by-beta", lambda p, r, b: ((p - r) / b).detach(), "The difference is divided by β.", "Solve the optimal policy's equation for the reward: on which side is β?"),
        Mistake("probabilities", lambda p, r, b: (b * (p.exp() - r.exp())).detach(), "Probabilities are subtracted.", "Which difference is the logarithm of a ratio?"),
        Mistake("ratio", lambda p, r, b: (b * (p - r).exp()).detach(), "The ratio is used, not its logarithm.", "What is the reward of a policy that has not moved: 0 or β?"),
        Mistake("sigmoid", lambda p, r, b: torch.sigmoid(b * (p - r)).detach(), "A sigmoid is applied.", "Is a reward a probability?"),
        Mistake("bounded", lambda p, r, b: (b * (p - r)).detach().clamp(-10, 10), "Large rewards are cut off.", "How large may a log-ratio be?"),
        Mistake("beta-on-policy-only", lambda p, r, b: (b * p - r).detach(), "β multiplies the policy's part only.", "What is the reward of a policy that has not moved?"),
        Mistake("added", lambda p, r, b: (b * (p + r)).detach(), "The reference is added.", "What is the reward of a policy that has not moved?"),
        Mistake("gradient-of-the-reference", lambda p, r, b: b * (p.detach() - r), "The rewards carry a gradient of the reference.", "These numbers are logged. What should they be able to train?"),
        Mistake("squeezed", lambda p, r, b: (b * (p - r)).detach().squeeze(), "A batch of one loses its dimension.", "What shape should the result have for a single response?"),
        Mistake("centred", lambda p, r, b: (b * (p - r - (p - r).mean())).detach(), "The mean is subtracted.", "Should a response's reward depend on the others in its batch?"),
        Mistake("averaged", lambda p, r, b: (b * (p - r)).mean().detach(), "The rewards are averaged.", "How many rewards are asked for?"),
        Mistake("in-place", reward_in_place, "It writes into the reference's log-probs.", "Who else needs them?"),
    ),
)  # fmt: skip


# ipo_loss


def ipo_cases(seed: int) -> list[Case]:
    d = Draw(seed)

    def averages(rows, scale=1.0):
        chosen, rejected = -d.uniform(0.5, 3, rows), -d.uniform(0.5, 3, rows)
        return chosen + scale * d.away_from_zero(rows), rejected + scale * d.away_from_zero(rows), chosen, rejected

    same = -d.uniform(0.5, 3, 3), -d.uniform(0.5, 3, 3)
    return [
        Case((*averages(4), d.number(0.2, 0.45)), "four pairs"),
        Case((*averages(4), d.number(1.5, 3)), "a β above 1"),
        Case((*averages(1), d.number(0.2, 0.45)), "a single pair"),
        Case((*same, *same, 0.3), "a policy that is still the reference"),
        Case((*averages(5, 40.0), 0.7), "pairs on which the policy has moved far"),
    ]


def ipo(
    gap=lambda pc, pr, rc, rr: (pc - pr) - (rc - rr),
    loss=lambda g, b: (g - 1 / (2 * b)) ** 2,
    mean=torch.mean,
    data=torch.detach,
):
    """ipo_loss with some of its parts replaced."""
    return lambda policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta: mean(
        loss(gap(policy_chosen, policy_rejected, data(ref_chosen), data(ref_rejected)), beta)
    )


def ipo_in_place(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    ref_rejected += 1 / (2 * beta)
    return ipo()(policy_chosen, policy_rejected, ref_chosen, ref_rejected - 1 / beta, beta)


def ipo_of_mean(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    gap = (policy_chosen - policy_rejected) - (ref_chosen - ref_rejected).detach()
    return (gap.mean() - 1 / (2 * beta)) ** 2


def ipo_detached(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    return ipo_loss(policy_chosen.detach(), policy_rejected.detach(), ref_chosen, ref_rejected, beta)


def ipo_rejected_detached(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    return ipo_loss(policy_chosen, policy_rejected.detach(), ref_chosen, ref_rejected, beta)


def ipo_by_mse(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    gap = (policy_chosen - ref_chosen.detach()) - (policy_rejected - ref_rejected.detach())
    return F.mse_loss(gap, torch.full_like(gap, 0.5 / beta))


def ipo_by_loop(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    terms = []
    for i in range(policy_chosen.numel()):
        reference = ref_chosen[i].item() - ref_rejected[i].item()
        terms.append((policy_chosen[i] - policy_rejected[i] - reference - 1.0 / (2.0 * beta)).pow(2))
    return torch.stack(terms).mean()


def ipo_expanded(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    with torch.no_grad():
        target = ref_chosen.double() - ref_rejected.double() + 1 / (2 * beta)
    gap = policy_chosen.double() - policy_rejected.double() - target
    return (gap @ gap / gap.numel()).float()


IPO = Exercise(
    ipo_loss,
    points=2,
    cases=ipo_cases,
    result="loss",
    trained=(0, 1),
    variants=(ipo_by_mse, ipo_by_loop, ipo_expanded),
    mistakes=(
        Mistake("target-one-over-beta", ipo(loss=lambda g, b: (g - 1 / b) ** 2), "The target is 1/β.", "Which factor stands beside β in the target?"),
        Mistake("target-half-beta", ipo(loss=lambda g, b: (g - b / 2) ** 2), "The target is β/2.", "Should a stronger tie to the reference make the target larger or smaller?"),
        Mistake("target-half", ipo(loss=lambda g, b: (g - 0.5) ** 2), "The target does not depend on β.", "What is β for?"),
        Mistake("scaled-inside", ipo(loss=lambda g, b: (b * g - 0.5) ** 2), "Everything is multiplied by β, so that the loss is β² times too small.", "Is (βx − ½)² the same as (x − 1/(2β))²?"),
        Mistake("target-one", ipo(loss=lambda g, b: (b * g - 1) ** 2), "β multiplies the gap and the target is 1.", "To which gap should a pair be pulled?"),
        Mistake("beta-on-the-gap", ipo(loss=lambda g, b: (b * g - 1 / (2 * b)) ** 2), "β multiplies the gap besides being in the target.", "Where does β stand in this loss?"),
        Mistake("weighted-by-beta", ipo(loss=lambda g, b: b * (g - 1 / (2 * b)) ** 2), "The loss is multiplied by β.", "Where does β stand in this loss?"),
        Mistake("target-twice-beta", ipo(loss=lambda g, b: (g - 2 * b) ** 2), "The target is 2β.", "Should a stronger tie to the reference make the target larger or smaller?"),
        Mistake("root", ipo(mean=lambda x: x.mean().sqrt()), "The root of the mean is taken.", "Which power does the loss have?"),
        Mistake("all-pairs", lambda pc, pr, rc, rr, beta: ipo()(pc[:, None], pr, rc[:, None], rr, beta), "Every chosen response is compared with every rejected one.", "Which rejected response belongs to a chosen one?"),
        Mistake("chosen-detached", lambda pc, pr, rc, rr, beta: ipo_loss(pc.detach(), pr, rc, rr, beta), "No gradient reaches the chosen response.", "Should the policy also learn what to write?"),
        Mistake("no-target", ipo(loss=lambda g, b: g**2), "There is no target.", "Where would this loss pull a policy that has learned something?"),
        *forms("target-added", (ipo(loss=lambda g, b: (g + 1 / (2 * b)) ** 2), ipo(gap=lambda pc, pr, rc, rr: (pr - pc) - (rr - rc))),
               "Gap and target have opposite signs: the target is added, or chosen and rejected have changed places.", "Should the chosen response become more or less likely?"),
        Mistake("no-reference", ipo(gap=lambda pc, pr, rc, rr: pc - pr), "The reference is left out.", "A pair in which the chosen response was likely from the beginning: has the policy learned it?"),
        Mistake("reference-added", ipo(gap=lambda pc, pr, rc, rr: (pc - pr) + (rc - rr)), "The reference is added.", "What is the gap of a policy that is still the reference?"),
        Mistake("dpo", ipo(loss=lambda g, b: -F.logsigmoid(b * g)), "This is DPO's loss.", "Which function does IPO apply to the gap?"),
        Mistake("absolute", ipo(loss=lambda g, b: (g - 1 / (2 * b)).abs()), "The distance is not squared.", "Which power does the loss have?"),
        Mistake("hinge", ipo(loss=lambda g, b: F.relu(1 / (2 * b) - g) ** 2), "Gaps beyond the target cost nothing.", "IPO is meant to stop the gap from growing for ever. What stops it here?"),
        Mistake("square-of-the-mean", ipo_of_mean, "The mean is squared.", "Is the mean of squares the square of the mean?"),
        Mistake("half", ipo(loss=lambda g, b: 0.5 * (g - 1 / (2 * b)) ** 2), "There is a factor ½ too many.", "Which factor stands before the square?"),
        Mistake("summed", ipo(mean=torch.sum), "The pairs are summed.", "Should a larger batch have a larger loss?"),
        Mistake("reference-trained", ipo(data=lambda x: x), "A gradient flows into the reference.", "Which of the two models stays as it is?"),
        Mistake("rejected-detached", ipo_rejected_detached, "No gradient reaches the rejected response.", "Should the policy also learn what not to write?"),
        Mistake("no-gradient", ipo_detached, "No gradient reaches the policy.", "Which tensors must still know where they came from?"),
        Mistake("in-place", ipo_in_place, "It writes into the reference's log-probs.", "Who reads them in the next epoch?"),
    ),
)  # fmt: skip


EXERCISES = (SEQUENCE, DPO, REWARD, IPO)
