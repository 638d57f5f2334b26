"""Lesson 02: a model of taste."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from autograder.draws import NAN, Draw
from autograder.exercise import Case, Exercise, Mistake
from rlhf_core.reward import calibration_error, last_token_index, pairwise_accuracy, pairwise_loss, sequence_scores

# last_token_index


def index_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    return [
        Case((d.ragged(4, 6),), "right padding"),
        Case((d.ragged(4, 6).flip(1),), "left padding"),
        Case((d.anywhere(5, 7),), "masks that begin and end anywhere"),
        Case((torch.ones(2, 3, dtype=torch.bool),), "full rows"),
        Case((torch.tensor([[True, False, False]]),), "a single real token"),
    ]


def index_by_count(mask):
    return mask.sum(1) - 1


def index_last_column(mask):
    return torch.full((len(mask),), mask.shape[1] - 1)


def index_first_false(mask):
    return (~mask).int().argmax(1) - 1


def index_first_true(mask):
    return mask.int().argmax(1)


def index_off_by_one(mask):
    return last_token_index(mask) + 1


def index_flip_only(mask):
    return mask.flip(1).int().argmax(1)


def index_shared(mask):
    return last_token_index(mask).max().expand(len(mask))


def index_float(mask):
    return (mask * torch.arange(mask.shape[1])).float().max(1).values


def index_two_dimensions(mask):
    return last_token_index(mask)[:, None]


def index_in_place(mask):
    result = last_token_index(mask)
    mask[torch.arange(len(mask)), result] = False
    return result


LAST_INDEX = Exercise(
    last_token_index,
    points=2,
    cases=index_cases,
    variants=(
        lambda mask: (mask * torch.arange(mask.shape[1])).argmax(1),
        lambda mask: mask.long().cumsum(1).argmax(1),
        lambda mask: torch.stack([row.nonzero()[-1, 0] for row in mask]),
        lambda mask: torch.tensor([max(i for i, m in enumerate(row) if m) for row in mask.tolist()]),
    ),
    mistakes=(
        Mistake("counts-the-tokens", index_by_count, "The number of real tokens is taken for the place of the last one.",
                "Where does the last token stand if the padding is on the left?"),
        Mistake("last-column", index_last_column, "The last column is taken for the last token.",
                "What stands in the last column of a row that is padded on the right?"),
        Mistake("before-the-first-padding", index_first_false, "The place before the first padding is taken, which is right only if the row begins with text and is padded.",
                "What does argmax say of a full row, and where does left padding begin?"),
        Mistake("first-token", index_first_true, "This is the first real token.", "Which token has read the whole text?"),
        Mistake("one-too-far", index_off_by_one, "The place is that of the first padding after the text.",
                "In a full row, is there anything at the place that you return?"),
        Mistake("counted-from-the-end", index_flip_only, "The place is counted from the end of the row.",
                "From which side does indexing count?"),
        Mistake("one-index-for-all", index_shared, "All rows get the largest index.", "Do all texts end in the same column?"),
        Mistake("float-index", index_float, "The index comes back as a float.", "What does indexing with a float do?"),
        Mistake("one-column-too-many", index_two_dimensions, "The result has a second dimension.", "How many numbers are asked for per row?"),
        Mistake("changes-the-mask", index_in_place, "The result is right, but the mask is changed.", "Who else is going to read this mask?"),
    ),
)  # fmt: skip

# sequence_scores


def scores_cases(seed: int) -> list[Case]:
    d = Draw(seed)

    def case(mask: torch.Tensor, label: str, fill: float = 5.0) -> Case:
        hidden = d.normal(*mask.shape, 3).masked_fill(~mask[..., None], fill)
        return Case((hidden, d.normal(3) + 0.3, d.normal() + 0.7, mask), label)

    return [
        case(torch.ones(2, 3, dtype=torch.bool), "full rows"),
        case(d.ragged(4, 5), "right padding"),
        case(d.ragged(4, 5).flip(1), "left padding"),
        case(F.pad(d.anywhere(4, 5), (0, 1)), "rows that all end before the last column"),
        case(d.anywhere(4, 6), "NaN outside of the mask", NAN),
        case(torch.ones(1, 1, dtype=torch.bool), "a single token"),
    ]


def at(hidden, index):
    return hidden[torch.arange(len(hidden)), index]


def scores_last_column(hidden, weight, bias, mask):
    return hidden[:, -1] @ weight + bias


def scores_by_count(hidden, weight, bias, mask):
    return at(hidden, mask.sum(1) - 1) @ weight + bias


def scores_mean(hidden, weight, bias, mask):
    kept = hidden.masked_fill(~mask[..., None], 0)
    return (kept.sum(1) / mask.sum(1, keepdim=True)) @ weight + bias


def scores_no_bias(hidden, weight, bias, mask):
    return at(hidden, last_token_index(mask)) @ weight


def scores_first(hidden, weight, bias, mask):
    return at(hidden, mask.int().argmax(1)) @ weight + bias


def scores_shared_index(hidden, weight, bias, mask):
    return hidden[:, int(last_token_index(mask).max())] @ weight + bias


def scores_every_token(hidden, weight, bias, mask):
    return (hidden @ weight + bias).masked_fill(~mask, 0)


def scores_summed(hidden, weight, bias, mask):
    return (hidden.masked_fill(~mask[..., None], 0) @ weight).sum(1) + bias


def scores_frozen_trunk(hidden, weight, bias, mask):
    return sequence_scores(hidden.detach(), weight, bias, mask)


def scores_frozen_head(hidden, weight, bias, mask):
    return sequence_scores(hidden, weight.detach(), bias.detach(), mask)


def scores_weighted_sum(hidden, weight, bias, mask):
    chosen = (torch.arange(mask.shape[1]) == last_token_index(mask)[:, None]).float()
    return (hidden * chosen[..., None]).sum(1) @ weight + bias


def scores_squashed(hidden, weight, bias, mask):
    return torch.sigmoid(sequence_scores(hidden, weight, bias, mask))


SCORES = Exercise(
    sequence_scores,
    points=2,
    cases=scores_cases,
    trained=(0, 1, 2),
    variants=(
        lambda h, w, b, m: (h.gather(1, last_token_index(m)[:, None, None].expand(-1, 1, h.shape[2]))[:, 0] * w).sum(-1) + b,
        lambda h, w, b, m: torch.stack([h[i, int(m[i].nonzero()[-1])].dot(w) + b for i in range(len(h))]),
        lambda h, w, b, m: F.linear(at(h.double(), last_token_index(m)), w[None].double(), b.double().reshape(1))[:, 0],
    ),
    mistakes=(
        Mistake("last-column", scores_last_column, "The score is read at the last column, padding or not.",
                "What does the model know at a padding position?"),
        Mistake("counts-the-tokens", scores_by_count, "The number of real tokens is taken for the place of the last one.",
                "Where does the last token stand if the padding is on the left?"),
        Mistake("mean-of-all-tokens", scores_mean, "The hidden states of all tokens are averaged.",
                "In a causal model, which token has read the whole text?"),
        Mistake("bias-left-out", scores_no_bias, "The bias is left out.", "What does the head compute besides the product with the weight?"),
        Mistake("first-token", scores_first, "The score is read at the first token.", "What has the model read by then?"),
        Mistake("one-index-for-all", scores_shared_index, "All rows are read in the same column.", "Do all texts end in the same column?"),
        Mistake("score-for-every-token", scores_every_token, "Every token gets a score.", "How many scores does a text have?"),
        Mistake("sum-of-tokens", scores_summed, "The scores of all tokens are added up.", "Should a longer text score higher because it is longer?"),
        Mistake("trunk-cut-off", scores_frozen_trunk, "No gradient reaches the hidden states.", "What is fine-tuned when a reward model is trained?"),
        Mistake("head-cut-off", scores_frozen_head, "No gradient reaches the head.", "Which parameters start from nothing and must learn first?"),
        Mistake("multiplies-by-zero", scores_weighted_sum, "Multiplying by zero is taken to remove what stands at other positions.",
                "What is NaN times zero?"),
        Mistake("squashed", scores_squashed, "The score is squeezed into 0 … 1.", "On which scale are the scores of Bradley–Terry?"),
    ),
)  # fmt: skip

# pairwise_loss


def loss_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    extreme = torch.tensor([1e4, -1e4, 30.0, 0.0])
    return [
        Case((d.normal(4), d.normal(4)), "neither margin nor centering"),
        Case((d.normal(3), d.normal(3), 0.7), "a margin of 0.7"),
        Case((d.normal(3), d.normal(3), d.uniform(0.2, 2, 3)), "a margin for each pair"),
        Case((d.normal(4) + 1, d.normal(4), None, 0.1), "centering of 0.1"),
        Case((d.normal(4), d.normal(4) + 1, d.uniform(0.2, 2, 4), 0.3), "margins and centering"),
        Case((extreme[:1] * 0 + torch.tensor([-1e4]), torch.tensor([0.0])), "a gap of −10,000"),
        Case((extreme, torch.zeros(4)), "gaps of ±10,000"),
        Case((d.normal(1), d.normal(1)), "a single pair"),
        Case((d.normal(3, 1), d.normal(3)), "scores of shape (3, 1) against (3,)", raises="Exception"),
    ]


def same_shape(chosen, rejected):
    if chosen.shape != rejected.shape:
        raise ValueError("shapes differ")


def data(margin):
    return 0.0 if margin is None else margin.detach() if isinstance(margin, torch.Tensor) else margin


def pair_loss(chosen, rejected, margin=None, centering=0.0, log_sigmoid=F.logsigmoid, sign=-1, center=None):
    same_shape(chosen, rejected)
    gap = chosen - rejected + sign * data(margin)
    center = (chosen + rejected).square().mean() if center is None else center(chosen, rejected)
    return -log_sigmoid(gap).mean() + centering * center


def loss_log_of_sigmoid(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: torch.sigmoid(x).log())


def loss_log_with_floor(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: (torch.sigmoid(x) + 1e-8).log())


def loss_log_one_plus_exp(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: -(1 + (-x).exp()).log())


def loss_margin_added(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, sign=1)


def loss_margin_ignored(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, None, centering)


def loss_margin_outside(chosen, rejected, margin=None, centering=0.0):
    extra = torch.as_tensor(data(margin)).mean()
    return pair_loss(chosen, rejected, None, centering) + extra


def loss_broadcast(chosen, rejected, margin=None, centering=0.0):
    gap = chosen - rejected - data(margin)
    return -F.logsigmoid(gap).mean() + centering * (chosen + rejected).square().mean()


def loss_sigmoid_only(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, torch.sigmoid)


def loss_hinge(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: -F.relu(1 - x))


def loss_reversed(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(rejected, chosen, margin, centering)


def loss_of_mean(chosen, rejected, margin=None, centering=0.0):
    same_shape(chosen, rejected)
    gap = chosen - rejected - data(margin)
    return -F.logsigmoid(gap.mean()) + centering * (chosen + rejected).square().mean()


def loss_sum(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering) * len(chosen)


def loss_centers_difference(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, center=lambda c, r: (c - r).square().mean())


def loss_centers_mean(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, center=lambda c, r: (c + r).mean().square())


def loss_center_ignored(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, 0.0)


def loss_frozen_rejected(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected.detach(), margin, centering)


def loss_margin_trained(chosen, rejected, margin=None, centering=0.0):
    same_shape(chosen, rejected)
    gap = chosen - rejected - (0 if margin is None else margin)
    return -F.logsigmoid(gap).mean() + centering * (chosen + rejected).square().mean()


def loss_clamped(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: F.logsigmoid(x.clamp(-20, 20)))


def loss_in_place(chosen, rejected, margin=None, centering=0.0):
    same_shape(chosen, rejected)
    result = pairwise_loss(chosen, rejected, margin, centering)
    with torch.no_grad():
        chosen -= rejected
    return result


def loss_by_softplus(chosen, rejected, margin=None, centering=0.0):
    assert chosen.shape == rejected.shape, "one score per text"
    return F.softplus(rejected - chosen + data(margin)).mean() + centering * torch.mean((chosen + rejected) ** 2)


def loss_by_bce(chosen, rejected, margin=None, centering=0.0):
    same_shape(chosen, rejected)
    gap = chosen - rejected - data(margin)
    return F.binary_cross_entropy_with_logits(gap, torch.ones_like(gap)) + centering * (chosen + rejected).pow(2).mean()


def loss_by_cross_entropy(chosen, rejected, margin=None, centering=0.0):
    if chosen.shape != rejected.shape:
        raise RuntimeError("one score per text")
    both = torch.stack([chosen - data(margin), rejected], 1).double()
    loss = F.cross_entropy(both, torch.zeros(len(chosen), dtype=torch.long))
    return loss + centering * (chosen + rejected).double().square().mean()


LOSS = Exercise(
    pairwise_loss,
    points=4,
    cases=loss_cases,
    result="loss",
    trained=(0, 1),
    variants=(loss_by_softplus, loss_by_bce, loss_by_cross_entropy),
    mistakes=(
        Mistake("log-of-sigmoid", loss_log_of_sigmoid, "The sigmoid underflows to 0 before its logarithm is taken.",
                "What are loss and gradient for a gap of −200, where learning matters most?"),
        Mistake("log-with-a-floor", loss_log_with_floor, "A small constant in the logarithm stops the loss, and the gradient, for badly ranked pairs.",
                "What are loss and gradient for a gap of −200, where learning matters most?"),
        Mistake("log-one-plus-exp", loss_log_one_plus_exp, "The textbook form overflows in the exponential.",
                "What is exp(200) in float32?", twins=("log-of-sigmoid",)),
        Mistake("margin-added", loss_margin_added, "The margin is added to the gap.",
                "Should a margin make a pair look better ranked than it is, or ask for more?"),
        Mistake("margin-ignored", loss_margin_ignored, "The margin has no influence.", "By how much should chosen lead?"),
        Mistake("margin-outside", loss_margin_outside, "The margin is added to the loss, where it changes nothing that can be learned.",
                "Does the margin change the gradient in your version?"),
        Mistake("broadcast", loss_broadcast, "A (B,1) against a (B,) is broadcast, so that every text is compared with every other.",
                "How many comparisons does your subtraction make when the shapes differ?"),
        Mistake("sigmoid-without-log", loss_sigmoid_only, "The probability is maximised, not its logarithm.",
                "How strong is the gradient of your loss for a pair that is ranked badly wrong?"),
        Mistake("hinge", loss_hinge, "This is a hinge loss.", "Which loss is the negative log-likelihood of Bradley–Terry?"),
        Mistake("reversed", loss_reversed, "Chosen and rejected are swapped.", "Which score should go up?"),
        Mistake("loss-of-the-mean", loss_of_mean, "The gaps are averaged before the logarithm of the sigmoid.",
                "Is the loss of the mean gap the mean of the losses?"),
        Mistake("sum-not-mean", loss_sum, "The losses are summed.", "How would your loss change if the same batch came twice?"),
        Mistake("centers-the-difference", loss_centers_difference, "The gap is pulled to 0, and not the sum.",
                "Which quantity does Bradley–Terry leave free, so that it has to be held?"),
        Mistake("centers-the-mean", loss_centers_mean, "The sum is averaged before it is squared.",
                "May one pair drift upwards if another one drifts downwards?"),
        Mistake("centering-ignored", loss_center_ignored, "Centering has no influence.", "What keeps the scores near 0?"),
        Mistake("rejected-cut-off", loss_frozen_rejected, "No gradient reaches the rejected scores.", "Should the rejected text's score only look on?"),
        Mistake("margin-trained", loss_margin_trained, "A gradient flows into the margin.", "Is the margin something to learn, or something that people said?"),
        Mistake("gap-clamped", loss_clamped, "The gap is clamped, so that the worst pairs give no gradient.",
                "Which pairs should teach the most?"),
        Mistake("changes-the-scores", loss_in_place, "The result is right, but the chosen scores are overwritten.", "Who else is going to read these scores?"),
    ),
)  # fmt: skip

# pairwise_accuracy


def accuracy_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    chosen, rejected = d.normal(8), d.normal(8)
    tied = d.integers(-2, 3, 10).float()
    other = d.integers(-2, 3, 10).float()
    other[:3], tied[3], other[3], tied[4], other[4] = tied[:3], 2.0, 1.0, 2.0, 0.0
    return [
        Case((chosen, rejected), "no ties"),
        Case((tied, other), "ties"),
        Case((torch.zeros(4), torch.zeros(4)), "nothing but ties"),
        Case((torch.tensor([3.0]), torch.tensor([1.0])), "a single pair"),
        Case((chosen * 100, rejected * 0.01), "scores of different scale"),
        Case((torch.tensor([1e4, 1.0, -1e4]), torch.tensor([-1e4, 1.0, 1e4])), "scores of ±10,000"),
    ]


ACCURACY = Exercise(
    pairwise_accuracy,
    points=1,
    cases=accuracy_cases,
    result="float",
    variants=(
        lambda c, r: (torch.sign(c - r) + 1).mean() / 2,
        lambda c, r: sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(c.tolist(), r.tolist())) / len(c),
        lambda c, r: torch.heaviside(c - r, torch.tensor(0.5)).mean().item(),
    ),
    mistakes=(
        Mistake("ties-lost", lambda c, r: (c > r).float().mean().item(), "A tie counts as wrong.",
                "Which accuracy should a model have that gives every text the same score?"),
        Mistake("ties-won", lambda c, r: (c >= r).float().mean().item(), "A tie counts as right.",
                "Which accuracy should a model have that gives every text the same score?"),
        Mistake("ties-dropped", lambda c, r: (c > r).float().sum().item() / max((c != r).sum().item(), 1), "Ties are left out.",
                "Which accuracy should a model have that gives every text the same score?"),
        Mistake("reversed", lambda c, r: pairwise_accuracy(r, c), "This is the share of pairs ranked wrong.", "Which text should score higher?"),
        Mistake("mean-probability", lambda c, r: torch.sigmoid(c - r).mean().item(), "The mean probability is taken for the accuracy.",
                "Does a pair that is ranked right by a hair count less than one ranked right by far?"),
        Mistake("percent", lambda c, r: 100 * pairwise_accuracy(c, r), "The answer is in percent.", "Between which numbers does a share lie?"),
        Mistake("count-not-share", lambda c, r: len(c) * pairwise_accuracy(c, r), "This is the number of pairs, not their share.",
                "Between which numbers does a share lie?"),
        Mistake("better-than-average", lambda c, r: (c > r.mean()).float().mean().item(), "Chosen texts are compared with the average rejected one.",
                "With which text was this one compared?"),
    ),
)  # fmt: skip

# calibration_error


def calibration_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    p = d.uniform(0, 1, 40)
    y = (torch.rand(40, generator=d.generator) < p**2).long()
    edges = torch.tensor([0.0, 0.25, 0.25, 0.5, 0.75, 1.0, 1.0, 0.5])
    hits = torch.tensor([0, 1, 1, 0, 1, 1, 0, 0])
    few = torch.cat([d.uniform(0.05, 0.2, 6), d.uniform(0.8, 0.95, 3)])
    return [
        Case((p, y, 8), "8 bins"),
        Case((p, y), "the default of 10 bins"),
        Case((edges, hits, 4), "probabilities on the edges of the bins"),
        Case((few, torch.tensor([0, 1, 1, 0, 1, 1, 0, 1, 1]), 4), "empty bins and bins of different size"),
        Case((d.uniform(0, 1, 30), d.integers(0, 2, 30).bool(), 5), "outcomes that are bool"),
        Case((d.uniform(0, 1, 30), d.integers(0, 2, 30).float(), 1), "a single bin and float outcomes"),
        Case((torch.ones(5), torch.tensor([1, 1, 0, 1, 0]), 4), "probabilities of exactly 1"),
    ]


def calibration(p, y, num_bins, which=None, gap=None, weight=None):
    p, y = p.double(), y.double()
    bins = (p * num_bins).long().clamp(max=num_bins - 1) if which is None else which(p, num_bins)
    total = 0.0
    for k in range(num_bins):
        inside = bins == k
        if inside.any():
            share = inside.double().mean() if weight is None else weight(inside)
            total = total + share * (gap or (lambda a, b: (a.mean() - b.mean()).abs()))(p[inside], y[inside])
    return float(total)


def calibration_unweighted(p, y, num_bins=10):
    count = len((p * num_bins).long().clamp(max=num_bins - 1).unique())
    return calibration(p, y, num_bins, weight=lambda inside: 1 / count)


def calibration_over_all_bins(p, y, num_bins=10):
    return calibration(p, y, num_bins, weight=lambda inside: 1 / num_bins)


def calibration_squared(p, y, num_bins=10):
    return calibration(p, y, num_bins, gap=lambda a, b: (a.mean() - b.mean()).square())


def calibration_signed(p, y, num_bins=10):
    return calibration(p, y, num_bins, gap=lambda a, b: a.mean() - b.mean())


def calibration_pointwise(p, y, num_bins=10):
    return calibration(p, y, num_bins, gap=lambda a, b: (a - b).abs().mean())


def calibration_right_closed(p, y, num_bins=10):
    return calibration(p, y, num_bins, lambda q, n: (q * n).ceil().long().sub(1).clamp(min=0))


def calibration_last_open(p, y, num_bins=10):
    return calibration(p, y, num_bins, lambda q, n: (q * n).long())


def calibration_midpoints(p, y, num_bins=10):
    def gap(a, b):
        return ((a[0] * num_bins).floor().clamp(max=num_bins - 1).add(0.5) / num_bins - b.mean()).abs()

    return calibration(p, y, num_bins, gap=gap)


def calibration_fixed_bins(p, y, num_bins=10):
    return calibration(p, y, 10)


def calibration_maximum(p, y, num_bins=10):
    gaps = []
    calibration(p, y, num_bins, gap=lambda a, b: gaps.append((a.mean() - b.mean()).abs()) or 0.0)
    return float(max(gaps))


def calibration_thresholded(p, y, num_bins=10):
    return calibration(p, ((p > 0.5) == y.bool()).long(), num_bins)


def calibration_by_bucketize(p, y, num_bins=10):
    edges = torch.linspace(0, 1, num_bins + 1)[1:-1]
    which = torch.bucketize(p, edges, right=True)
    count = torch.bincount(which, minlength=num_bins).clamp(min=1)
    mean_p = torch.bincount(which, weights=p, minlength=num_bins) / count
    mean_y = torch.bincount(which, weights=y.float(), minlength=num_bins) / count
    return ((mean_p - mean_y).abs() * count / len(p))[torch.bincount(which, minlength=num_bins) > 0].sum()


def calibration_by_comparison(p, y, num_bins=10):
    total = 0.0
    for k in range(num_bins):
        low, high = k / num_bins, (k + 1) / num_bins
        inside = (p >= low) & ((p < high) | (k == num_bins - 1))
        if inside.sum() > 0:
            total += inside.sum().item() * abs(p[inside].mean().item() - y[inside].float().mean().item())
    return total / len(p)


CALIBRATION = Exercise(
    calibration_error,
    points=3,
    cases=calibration_cases,
    result="float",
    variants=(calibration_by_bucketize, calibration_by_comparison, lambda p, y, n=10: calibration(p, y, n)),
    mistakes=(
        Mistake("bins-weigh-the-same", calibration_unweighted, "Every bin that is not empty weighs the same.",
                "Should a bin with one point weigh as much as one with a hundred?"),
        Mistake("empty-bins-counted", calibration_over_all_bins, "The gaps are averaged over all bins, empty ones too.",
                "Should a bin with one point weigh as much as one with a hundred?"),
        Mistake("squared-gaps", calibration_squared, "The gaps are squared.", "Which distance between prediction and outcome is asked for?"),
        Mistake("gaps-cancel", calibration_signed, "Gaps of opposite sign cancel.",
                "Is a model well calibrated that is too sure of some things and too unsure of others?"),
        Mistake("point-by-point", calibration_pointwise, "Every point is compared with its own outcome, not bin by bin.",
                "Can a single yes or no show whether 0.7 was right?"),
        Mistake("edges-belong-below", calibration_right_closed, "A probability on an edge is put into the lower bin.",
                "Which end of [k/n, (k+1)/n) belongs to the bin?"),
        Mistake("one-falls-out", calibration_last_open, "A probability of exactly 1 falls into no bin.", "Which bin holds 1.0?"),
        Mistake("midpoints", calibration_midpoints, "The middle of the bin is compared, not the mean probability in it.",
                "Which number stands for the predictions of a bin?"),
        Mistake("always-ten-bins", calibration_fixed_bins, "The number of bins is ignored.", "What is num_bins for?"),
        Mistake("largest-gap", calibration_maximum, "This is the largest gap.", "Is the worst bin asked for, or the expectation over points?"),
        Mistake("accuracy-of-the-decision", calibration_thresholded, "Probabilities are compared with whether a yes-or-no decision was right.",
                "Is p the probability that the event happens, or that a decision is right?"),
    ),
)  # fmt: skip

EXERCISES = (LAST_INDEX, SCORES, LOSS, ACCURACY, CALIBRATION)
