"""The contract's functions once more, from their definitions: plain Python loops over floats, slow and obvious.

They share no code and, where there is a choice, no formula with `rlhf_core`: sums over powers of γ, not recursions,
subsets one by one, not binomial weights, fractions, not floats. Tensors come in, lists and floats go out.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction


def mean(numbers):
    numbers = list(numbers)
    return math.fsum(numbers) / len(numbers)


def where_true(mask):
    """(row, column) of every True of a 2-D mask."""
    return [(i, t) for i, row in enumerate(mask.tolist()) for t, true in enumerate(row) if true]


def on_mask(mask, number):
    """number(row, column) where the mask is True, 0 elsewhere."""
    rows, time = mask.shape
    true = set(where_true(mask))
    return [[number(i, t) if (i, t) in true else 0.0 for t in range(time)] for i in range(rows)]


def token_mean(mask, number):
    return mean(number(i, t) for i, t in where_true(mask))


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def log_softmax(logits):
    top = max(logits)
    log_total = top + math.log(math.fsum(math.exp(z - top) for z in logits))
    return [z - log_total for z in logits]


def clip(x, low, high):
    return low if x < low else high if x > high else x


# lesson 00


def token_logprobs(logits, tokens, temperature=1.0):
    logits, tokens = logits.tolist(), tokens.tolist()
    return [
        [log_softmax([z / temperature for z in logits[i][t]])[row[t + 1]] for t in range(len(row) - 1)]
        for i, row in enumerate(tokens)
    ]


def response_mask(tokens, prompt_lengths, eos_id):
    result = []
    for row, length in zip(tokens.tolist(), prompt_lengths.tolist(), strict=True):
        flags, ended = [], False
        for t, token in enumerate(row):
            flags.append(t >= length and not ended)
            ended = ended or (t >= length and token == eos_id)
        result.append(flags)
    return result


def masked_mean(values, mask, dim=None):
    if dim is None:
        return token_mean(mask, lambda i, t: values[i][t])
    if dim in (0, -2):
        values, mask = values.T, mask.T
    values, kept = values.tolist(), mask.tolist()
    picked = [[v for v, true in zip(row, flags, strict=True) if true] for row, flags in zip(values, kept, strict=True)]
    return [mean(row) if row else 0.0 for row in picked]


def token_entropy(logits):
    def entropy(row):
        return -math.fsum(math.exp(log_p) * log_p for log_p in log_softmax(row) if log_p > -700)

    return [[entropy(row) for row in rows] for rows in logits.tolist()]


def sft_loss(logits, tokens, mask):
    log_p = token_logprobs(logits, tokens)
    return mean(-log_p[i][t - 1] for i, t in where_true(mask) if t > 0)


# lesson 01


def preference_probability(score_a, score_b, temperature=1.0):
    pairs = zip(score_a.tolist(), score_b.tolist(), strict=True)
    return [math.exp(log_sigmoid((a - b) / temperature)) for a, b in pairs]


def preference_pairs(mean_ratings, candidates, min_gap=0.0):
    ratings, result = mean_ratings.tolist(), []
    for i, j in candidates.tolist():
        if ratings[i] - ratings[j] > min_gap:
            result.append([i, j])
        elif ratings[j] - ratings[i] > min_gap:
            result.append([j, i])
    return result


def rater_agreement(ratings, pairs):
    """In fractions of the decimals as written, so that a tie is a tie."""
    table = [[None if math.isnan(r) else Fraction(f"{r:.6g}") for r in row] for row in ratings.tolist()]
    votes = []
    for i, j in pairs.tolist():
        for k in range(len(table[i])):
            if table[i][k] is None or table[j][k] is None or table[i][k] == table[j][k]:
                continue
            others_i = [r for q, r in enumerate(table[i]) if q != k and r is not None]
            others_j = [r for q, r in enumerate(table[j]) if q != k and r is not None]
            if others_i and others_j:
                crowd = sum(others_i) / len(others_i) - sum(others_j) / len(others_j)
                votes.append(0.5 if crowd == 0 else float((crowd > 0) == (table[i][k] > table[j][k])))
    return mean(votes)


def cohen_kappa(labels_a, labels_b):
    a, b = labels_a.tolist(), labels_b.tolist()
    n = len(a)
    observed = Fraction(sum(x == y for x, y in zip(a, b, strict=True)), n)
    chance = sum(Fraction(a.count(label) * b.count(label), n * n) for label in {*a, *b})
    return 1.0 if chance == 1 else float((observed - chance) / (1 - chance))


# lesson 02


def last_token_index(mask):
    return [max(t for t, true in enumerate(row) if true) for row in mask.tolist()]


def sequence_scores(hidden, weight, bias, mask):
    hidden, weight = hidden.tolist(), weight.tolist()
    ends = last_token_index(mask)
    heads = [math.fsum(h * w for h, w in zip(hidden[i][t], weight, strict=True)) for i, t in enumerate(ends)]
    return [head + float(bias) for head in heads]


def pairwise_loss(chosen, rejected, margin=None, centering=0.0):
    c, r = chosen.tolist(), rejected.tolist()
    margins = [margin or 0.0] * len(c) if margin is None or isinstance(margin, (int, float)) else margin.tolist()
    ranking = mean(-log_sigmoid(x - y - m) for x, y, m in zip(c, r, margins, strict=True))
    return ranking + centering * mean((x + y) ** 2 for x, y in zip(c, r, strict=True))


def pairwise_accuracy(chosen, rejected):
    pairs = zip(chosen.tolist(), rejected.tolist(), strict=True)
    return mean(1.0 if c > r else 0.5 if c == r else 0.0 for c, r in pairs)


def calibration_error(probabilities, outcomes, num_bins=10):
    points = list(zip(probabilities.tolist(), [float(y) for y in outcomes.tolist()], strict=True))
    total = 0.0
    for k in range(num_bins):
        low, high = k / num_bins, (k + 1) / num_bins
        inside = [(p, y) for p, y in points if low <= p < high or (k == num_bins - 1 and p == 1)]
        if inside:
            total += len(inside) / len(points) * abs(mean(p for p, _ in inside) - mean(y for _, y in inside))
    return total


# lesson 03


def kl_estimate(logprobs, ref_logprobs, kind):
    def estimate(d):
        return {"k1": d, "k2": d * d / 2, "k3": math.expm1(-d) + d, "abs": abs(d)}[kind]

    return [
        [estimate(a - b) for a, b in zip(*rows, strict=True)]
        for rows in zip(logprobs.tolist(), ref_logprobs.tolist(), strict=True)
    ]


def shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef, score_clip=None):
    scores, p, q = scores.tolist(), logprobs.tolist(), ref_logprobs.tolist()
    if score_clip is not None:
        scores = [clip(s, -score_clip, score_clip) for s in scores]
    ends = last_token_index(mask)
    return on_mask(mask, lambda i, t: -kl_coef * (p[i][t] - q[i][t]) + (scores[i] if t == ends[i] else 0.0))


def discounted_returns(rewards, mask, gamma):
    r = rewards.tolist()
    true = where_true(mask)
    return on_mask(mask, lambda i, t: math.fsum(gamma ** (k - t) * r[i][k] for j, k in true if j == i and k >= t))


def gae(rewards, values, mask, gamma, lam):
    r, v, ends = rewards.tolist(), values.tolist(), last_token_index(mask)

    def delta(i, t):
        return r[i][t] + (gamma * v[i][t + 1] if t < ends[i] else 0.0) - v[i][t]

    def advantage(i, t):
        return math.fsum((gamma * lam) ** (k - t) * delta(i, k) for k in range(t, ends[i] + 1))

    return on_mask(mask, advantage), on_mask(mask, lambda i, t: advantage(i, t) + v[i][t])


def masked_whiten(values, mask, shift_mean=True):
    v = values.tolist()
    center = token_mean(mask, lambda i, t: v[i][t])
    count = len(where_true(mask))
    variance = math.fsum((v[i][t] - center) ** 2 for i, t in where_true(mask)) / (count - 1)
    back = 0.0 if shift_mean else center
    return on_mask(mask, lambda i, t: (v[i][t] - center) / math.sqrt(variance + 1e-8) + back)


# lesson 04


def clipped_surrogate(log_ratio, advantage, clip_range):
    ratio = math.exp(log_ratio)
    return min(ratio * advantage, clip(ratio, 1 - clip_range, 1 + clip_range) * advantage)


def clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range):
    p, q, a = logprobs.tolist(), old_logprobs.tolist(), advantages.tolist()
    return -token_mean(mask, lambda i, t: clipped_surrogate(p[i][t] - q[i][t], a[i][t], clip_range))


def clip_fraction(logprobs, old_logprobs, advantages, mask, clip_range):
    p, q, a = logprobs.tolist(), old_logprobs.tolist(), advantages.tolist()

    def is_cut(i, t):
        """The clip cuts the gradient where the surrogate no longer changes with the log-ratio."""
        x = p[i][t] - q[i][t]
        near = [clipped_surrogate(x + dx, a[i][t], clip_range) for dx in (-1e-7, 1e-7)]
        return float(a[i][t] != 0 and near[0] == near[1])

    return token_mean(mask, is_cut)


def approx_kl(logprobs, old_logprobs, mask):
    p, q = logprobs.tolist(), old_logprobs.tolist()
    return token_mean(mask, lambda i, t: math.exp(p[i][t] - q[i][t]) - 1 - (p[i][t] - q[i][t]))


def clipped_value_loss(values, old_values, returns, mask, clip_range):
    v, old, target = values.tolist(), old_values.tolist(), returns.tolist()

    def error(i, t):
        near = clip(v[i][t], old[i][t] - clip_range, old[i][t] + clip_range)
        return max((v[i][t] - target[i][t]) ** 2, (near - target[i][t]) ** 2)

    return token_mean(mask, error) / 2


def ppo_loss(policy_loss, value_loss, entropy, value_coef, entropy_coef):
    return float(policy_loss) + value_coef * float(value_loss) - entropy_coef * float(entropy)


# lesson 05


def adaptive_kl_coef(kl_coef, observed_kl, target_kl, num_samples, horizon):
    if observed_kl >= 1.2 * target_kl:
        error = 0.2
    elif observed_kl <= 0.8 * target_kl:
        error = -0.2
    else:
        error = (observed_kl - target_kl) / target_kl
    return kl_coef + kl_coef * error * num_samples / horizon


# lesson 06


def win_rate(scores_a, scores_b):
    return pairwise_accuracy(scores_a, scores_b)


def wilson_interval(wins, n, z=1.96):
    """The shares p for which the observed share is z standard errors away: found by bisection."""
    share = wins / n

    def too_far(p):
        return abs(share - p) > z * math.sqrt(p * (1 - p) / n)

    def edge(outside):
        inside = share
        if not too_far(outside):
            return outside
        for _ in range(200):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if too_far(middle) else (middle, outside)
        return inside

    return edge(0.0), edge(1.0)


def expected_best_of_n(rewards, n):
    return mean(max(subset) for subset in itertools.combinations(rewards.tolist(), n))


def pass_at_k(n, c, k):
    draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
    return sum(any(draw) for draw in draws) / len(draws)


def pareto_front(kl, reward):
    points = list(zip(kl.tolist(), reward.tolist(), strict=True))
    return [not any(k <= a and r >= b and (k < a or r > b) for k, r in points) for a, b in points]


# lesson 07


def sequence_logprobs(token_logprobs, mask):
    return [math.fsum(token_logprobs[i][t].item() for j, t in where_true(mask) if j == i) for i in range(len(mask))]


def gaps(policy_chosen, policy_rejected, ref_chosen, ref_rejected):
    columns = [x.tolist() for x in (policy_chosen, policy_rejected, ref_chosen, ref_rejected)]
    return [(pc - rc) - (pr - rr) for pc, pr, rc, rr in zip(*columns, strict=True)]


def dpo_loss(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    h = [beta * gap for gap in gaps(policy_chosen, policy_rejected, ref_chosen, ref_rejected)]
    return mean(-(1 - label_smoothing) * log_sigmoid(x) - label_smoothing * log_sigmoid(-x) for x in h)


def implicit_rewards(policy, ref, beta):
    return [beta * (p - q) for p, q in zip(policy.tolist(), ref.tolist(), strict=True)]


def ipo_loss(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    return mean((gap - 1 / (2 * beta)) ** 2 for gap in gaps(policy_chosen, policy_rejected, ref_chosen, ref_rejected))


# lesson 08


def group_advantages(rewards, group_size, eps=1e-4):
    result = []
    for start in range(0, len(rewards), group_size):
        group = rewards[start : start + group_size].tolist()
        center = mean(group)
        variance = math.fsum((r - center) ** 2 for r in group) / max(group_size - 1, 1)
        result += [(r - center) / (math.sqrt(variance) + eps) for r in group]
    return result


def rloo_advantages(rewards, group_size):
    rewards = rewards.tolist()
    result = []
    for i, reward in enumerate(rewards):
        first = i // group_size * group_size
        result.append(reward - mean(rewards[j] for j in range(first, first + group_size) if j != i))
    return result


def grpo_loss(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_range, kl_coef):
    p, q, ref, a = (x.tolist() for x in (logprobs, old_logprobs, ref_logprobs, advantages))

    def token(i, t):
        d = p[i][t] - ref[i][t]
        return kl_coef * (math.exp(-d) - 1 + d) - clipped_surrogate(p[i][t] - q[i][t], a[i], clip_range)

    return mean(mean(token(i, t) for j, t in where_true(mask) if j == i) for i in range(len(mask)))
