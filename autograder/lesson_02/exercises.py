"""Lesson 02: a model of taste."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from autograder.draws import NAN, Draw
from autograder.exercise import Case, Exercise, Mistake, forms
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
        Case((d.inside(4, 7),), "a first row that is shorter than the others"),
        Case((d.inside(2, 300),), "rows of 300 columns"),
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


def index_count(mask):
    return mask.sum(1)


def index_first_false_or_last(mask):
    return torch.where(mask.all(1), mask.shape[1] - 1, (~mask).int().argmax(1) - 1)


def index_first_false_wrapped(mask):
    return index_first_false(mask) % mask.shape[1]


def index_boundary(mask):
    return (mask[:, :-1] & ~mask[:, 1:]).int().argmax(1)


def index_start_plus_count(mask):
    return mask.int().argmax(1) + mask.sum(1)


def index_left_or_right(mask):
    return torch.where(mask[:, -1], mask.shape[1] - 1, mask.sum(1) - 1)


def index_negative(mask):
    return last_token_index(mask) - mask.shape[1]


def index_before_last(mask):
    return (last_token_index(mask) - 1).clamp(min=0)


def index_smallest(mask):
    return last_token_index(mask).amin().expand(len(mask))


def index_flattened(mask):
    return last_token_index(mask) + torch.arange(len(mask)) * mask.shape[1]


def index_squeezed(mask):
    return last_token_index(mask).squeeze()


def index_list(mask):
    return last_token_index(mask).tolist()


def index_of_all(mask):
    return mask.nonzero()[:, 1]


def index_summed(mask):
    return (mask * torch.arange(mask.shape[1])).sum(1)


def index_int32(mask):
    return last_token_index(mask).int()


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
        *forms("counts-the-tokens", (index_by_count, index_count), "The number of real tokens is taken for the place of the last one.",
                "Where does the last token stand if the padding is on the left?"),
        Mistake("last-column", index_last_column, "The last column is taken for the last token.",
                "What stands in the last column of a row that is padded on the right?"),
        *forms("before-the-first-padding", (index_first_false, index_first_false_or_last, index_first_false_wrapped), "The place before the first padding is taken, which is right only if the row begins with text and is padded.",
                "What does argmax say of a full row, and where does left padding begin?"),
        Mistake("first-token", index_first_true, "This is the first real token.", "Which token has read the whole text?"),
        *forms("one-too-far", (index_off_by_one, index_start_plus_count), "The place is that of the first padding after the text.",
                "In a full row, is there anything at the place that you return?"),
        Mistake("counted-from-the-end", index_flip_only, "The place is counted from the end of the row.",
                "From which side does indexing count?"),
        *forms("one-index-for-all", (index_shared, index_smallest), "All rows get one index, that of a single row.", "Do all texts end in the same column?"),
        Mistake("full-rows-have-no-end", index_boundary, "The place is sought where True turns to False, and a row that is full has no such place.",
                "What does argmax say when nothing is True?"),
        Mistake("one-side-or-the-other", index_left_or_right, "The padding is taken to be on one side only.",
                "Could a row have padding before and after its text?"),
        Mistake("negative-index", index_negative, "The place is counted from the end of the row, as a negative number.",
                "Which of the numbers 0, 1, 2, … names the last column of a row of 5?"),
        Mistake("one-too-early", index_before_last, "This is the token before the last.", "If a text ends in column 4, which index is asked for?"),
        Mistake("flattened", index_flattened, "The index counts through all rows.", "In which column does the second row start?"),
        Mistake("squeezes-everything", index_squeezed, "A squeeze also removes a batch of size 1.", "What is the shape of your answer for one row?"),
        Mistake("list-not-tensor", index_list, "A list comes back where a tensor is asked for.", "How will the caller index with it?"),
        *forms("every-place", (index_of_all, index_summed), "All real tokens are returned or added up, not the last one.", "How many numbers are asked for per row?"),
        Mistake("int32-index", index_int32, "The index comes back as int32.", "Which dtype does the contract ask for?"),
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
        case(d.inside(3, 6), "a first row that is shorter than the others"),
    ]


def scores_all_then_picked(hidden, weight, bias, mask):
    return at(hidden @ weight + bias, last_token_index(mask))


def scores_frozen_weight(hidden, weight, bias, mask):
    return sequence_scores(hidden, weight.detach(), bias, mask)


def scores_frozen_bias(hidden, weight, bias, mask):
    return sequence_scores(hidden, weight, bias.detach(), mask)


def scores_bias_per_dimension(hidden, weight, bias, mask):
    return (at(hidden, last_token_index(mask)) * weight + bias).sum(-1)


def scores_bias_times(hidden, weight, bias, mask):
    return at(hidden, last_token_index(mask)) @ weight * bias


def scores_unit_weight(hidden, weight, bias, mask):
    return sequence_scores(hidden, weight / weight.norm(), bias, mask)


def scores_scaled(hidden, weight, bias, mask):
    return sequence_scores(hidden, weight / weight.numel() ** 0.5, bias, mask)


def scores_tanh(hidden, weight, bias, mask):
    return torch.tanh(sequence_scores(hidden, weight, bias, mask))


def scores_tanh_features(hidden, weight, bias, mask):
    return sequence_scores(torch.tanh(hidden), weight, bias, mask)


def scores_maximum(hidden, weight, bias, mask):
    return hidden.masked_fill(~mask[..., None], -1e9).amax(1) @ weight + bias


def scores_mean_score(hidden, weight, bias, mask):
    scores = (hidden.masked_fill(~mask[..., None], 0) @ weight + bias).masked_fill(~mask, 0)
    return scores.sum(1) / mask.sum(1)


def scores_column(hidden, weight, bias, mask):
    return sequence_scores(hidden, weight, bias, mask)[:, None]


def scores_averaged(hidden, weight, bias, mask):
    return sequence_scores(hidden, weight, bias, mask).mean()


def scores_squeezed(hidden, weight, bias, mask):
    return sequence_scores(hidden, weight, bias, mask).squeeze()


def scores_centred(hidden, weight, bias, mask):
    scores = sequence_scores(hidden, weight, bias, mask)
    return scores - scores.mean()


def scores_before_last(hidden, weight, bias, mask):
    return at(hidden, (last_token_index(mask) - 1).clamp(min=0)) @ weight + bias


def scores_zeroes(hidden, weight, bias, mask):
    scores = sequence_scores(hidden, weight, bias, mask)
    with torch.no_grad():
        hidden[~mask] = 0
    return scores


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
        *forms("mean-of-all-tokens", (scores_mean, scores_mean_score), "The hidden states of all tokens are averaged.",
                "In a causal model, which token has read the whole text?"),
        Mistake("bias-left-out", scores_no_bias, "The bias is left out.", "What does the head compute besides the product with the weight?"),
        Mistake("first-token", scores_first, "The score is read at the first token.", "What has the model read by then?"),
        Mistake("one-index-for-all", scores_shared_index, "All rows are read in the same column.", "Do all texts end in the same column?"),
        Mistake("score-for-every-token", scores_every_token, "Every token gets a score.", "How many scores does a text have?"),
        Mistake("sum-of-tokens", scores_summed, "The scores of all tokens are added up.", "Should a longer text score higher because it is longer?"),
        Mistake("trunk-cut-off", scores_frozen_trunk, "No gradient reaches the hidden states.", "What is fine-tuned when a reward model is trained?"),
        Mistake("head-cut-off", scores_frozen_head, "No gradient reaches the head.", "Which parameters start from nothing and must learn first?"),
        *forms("half-of-the-head-cut-off", (scores_frozen_weight, scores_frozen_bias), "No gradient reaches the weight, or none the bias.", "Which two parameters does the head have, and which of them learn?"),
        Mistake("nan-in-the-gradient", scores_all_then_picked, "Every position is scored before one is picked, so that NaN at a hidden position reaches the weight's gradient.",
                "What is zero times NaN, in the backward pass?"),
        *forms("bias-added-wrongly", (scores_bias_per_dimension, scores_bias_times), "The bias enters once for each dimension, or as a factor.",
               "How often is the bias added to one score?"),
        *forms("weight-rescaled", (scores_unit_weight, scores_scaled), "The weight is rescaled on the way.", "What does the head do besides a product and a sum?"),
        Mistake("largest-of-all-tokens", scores_maximum, "The largest hidden values of all tokens are taken.", "Which token has read the whole text?"),
        *forms("one-dimension-off", (scores_column, scores_averaged), "The scores come back with a dimension too many or too few.", "How many numbers are asked for per row?"),
        Mistake("squeezes-everything", scores_squeezed, "A squeeze also removes a batch of size 1.", "What is the shape of your answer for one row?"),
        Mistake("batch-mean-removed", scores_centred, "The mean of the batch is taken away from every score.", "Should a text's score depend on the other texts of its batch?"),
        Mistake("before-the-last-token", scores_before_last, "The score is read one token too early.", "What has the model not read yet by then?"),
        Mistake("zeroes-the-input", scores_zeroes, "The result is right, but the caller's hidden states are overwritten.", "Who else is going to read them?"),
        Mistake("multiplies-by-zero", scores_weighted_sum, "Multiplying by zero is taken to remove what stands at other positions.",
                "What is NaN times zero?"),
        *forms("squashed", (scores_squashed, scores_tanh, scores_tanh_features), "The score is squeezed into a range.", "On which scale are the scores of Bradley–Terry?"),
    ),
)  # fmt: skip

# pairwise_loss


def loss_cases(seed: int) -> list[Case]:
    d = Draw(seed)
    extreme = torch.tensor([1e4, -1e4, 30.0, -0.5])
    return [
        Case((d.normal(4), d.normal(4)), "neither margin nor centering"),
        Case((d.normal(3), d.normal(3), 0.7), "a margin of 0.7"),
        Case(
            (d.normal(5), d.normal(5), d.uniform(0.2, 2, 5) * torch.tensor([1, 1, -1, 1, 1])), "a margin for each pair"
        ),
        Case((d.normal(4) + 1, d.normal(4), None, 0.1), "centering of 0.1"),
        Case((d.normal(4), d.normal(4) + 1, d.uniform(0.2, 2, 4), 0.3), "margins and centering"),
        Case((extreme[:1] * 0 + torch.tensor([-1e4]), torch.tensor([0.0])), "a gap of −10,000"),
        Case((extreme, torch.zeros(4)), "gaps of ±10,000"),
        Case((d.normal(1), d.normal(1)), "a single pair"),
        Case((torch.zeros(3), torch.zeros(3)), "scores that are all 0, as those of a new model"),
        Case(
            (torch.tensor([1.5, 0.25]), torch.tensor([1.0, 0.5]), torch.tensor([0.5, -0.25])),
            "gaps as large as their margins",
        ),
        Case((d.normal(3), d.normal(3), -0.6), "a margin of −0.6"),
        Case((d.normal(4), d.normal(4), 0.4, 0.2), "a margin of 0.4 and centering of 0.2"),
        Case((d.normal(3, 1), d.normal(3)), "scores of shape (3, 1) against (3,)", raises="Exception"),
        Case((d.normal(3), d.normal(3, 1)), "scores of shape (3,) against (3, 1)", raises="Exception"),
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


def loss_margin_averaged(chosen, rejected, margin=None, centering=0.0):
    mean = margin.mean() if isinstance(margin, torch.Tensor) else margin
    return pair_loss(chosen, rejected, mean, centering)


def loss_margin_absolute(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, None if margin is None else abs(data(margin)), centering)


def loss_margin_number_ignored(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin if isinstance(margin, torch.Tensor) else None, centering)


def loss_margin_tensor_ignored(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, None if isinstance(margin, torch.Tensor) else margin, centering)


def loss_center_without_margin(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering if margin is None else 0.0)


def loss_margin_factor(chosen, rejected, margin=None, centering=0.0):
    same_shape(chosen, rejected)
    factor = 1.0 if margin is None else data(margin)
    return -F.logsigmoid((chosen - rejected) * factor).mean() + centering * (chosen + rejected).square().mean()


def loss_margin_of_one(chosen, rejected, margin=1.0, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering)


def loss_flattened(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen.reshape(-1), rejected.reshape(-1), margin, centering)


def loss_all_pairs(chosen, rejected, margin=None, centering=0.0):
    same_shape(chosen, rejected)
    gap = chosen[:, None] - rejected - data(margin)
    return -F.logsigmoid(gap).mean() + centering * (chosen + rejected).square().mean()


def loss_one_minus(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: x.sigmoid() - 1)


def loss_perceptron(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: -F.relu(-x))


def loss_exponential(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: -(-x).exp())


def loss_squared(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: -(1 - x).square())


def loss_sign(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: -F.logsigmoid(x))


def loss_other_side(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: F.logsigmoid(-x))


def loss_summed_all(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: F.logsigmoid(x).sum())


def loss_each(chosen, rejected, margin=None, centering=0.0):
    same_shape(chosen, rejected)
    return -F.logsigmoid(chosen - rejected - data(margin)) + centering * (chosen + rejected).square()


def loss_bits(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: F.logsigmoid(x) / 0.6931471805599453)


def loss_smoothed(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: 0.9 * F.logsigmoid(x) + 0.1 * F.logsigmoid(-x))


def loss_apart(chosen, rejected, margin=None, centering=0.0):
    same_shape(chosen, rejected)
    apart = F.logsigmoid(chosen - data(margin)) + F.logsigmoid(-rejected)
    return -apart.mean() + centering * (chosen + rejected).square().mean()


def loss_softmax_over_batch(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: x.log_softmax(0))


def centers(center):
    def loss(chosen, rejected, margin=None, centering=0.0):
        return pair_loss(chosen, rejected, margin, centering, center=center)

    return loss


loss_centers_half = centers(lambda c, r: ((c + r) / 2).square().mean())
loss_centers_each = centers(lambda c, r: (c.square() + r.square()).mean())
loss_centers_without_square = centers(lambda c, r: (c + r).mean())
loss_centers_absolute = centers(lambda c, r: (c + r).abs().mean())
loss_centers_sum = centers(lambda c, r: (c + r).square().sum())
loss_centers_away = centers(lambda c, r: -(c + r).square().mean())
loss_centers_detached = centers(lambda c, r: (c + r).detach().square().mean())
loss_centers_chosen_only = centers(lambda c, r: (c + r.detach()).square().mean())


def loss_always_centers(chosen, rejected, margin=None, centering=0.01):
    return pair_loss(chosen, rejected, margin, centering)


def loss_frozen_chosen(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen.detach(), rejected, margin, centering)


def loss_cut(chosen, rejected, margin=None, centering=0.0):
    return pair_loss(chosen, rejected, margin, centering, lambda x: F.logsigmoid(x).clamp(min=-100))


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
        *forms("log-of-sigmoid", (loss_log_of_sigmoid, loss_log_one_plus_exp), "log σ is computed step by step, and is infinite where an exponential overflows or the sigmoid underflows to 0.",
               "What is exp(200) in float32, and what is the logarithm of a probability that has been rounded to 0?"),
        Mistake("log-with-a-floor", loss_log_with_floor, "A small constant in the logarithm stops the loss, and the gradient, for badly ranked pairs.",
                "What are loss and gradient for a gap of −200, where learning matters most?"),
        Mistake("margin-added", loss_margin_added, "The margin is added to the gap.",
                "Should a margin make a pair look better ranked than it is, or ask for more?"),
        Mistake("margin-ignored", loss_margin_ignored, "The margin has no influence.", "By how much should chosen lead?"),
        *forms("margin-of-one-type-ignored", (loss_margin_number_ignored, loss_margin_tensor_ignored), "A margin of one type, number or tensor, has no influence.", "In which two forms may the margin come?"),
        Mistake("margin-outside", loss_margin_outside, "The margin is added to the loss, where it changes nothing that can be learned.",
                "Does the margin change the gradient in your version?"),
        Mistake("broadcast", loss_broadcast, "A (B,1) against a (B,) is broadcast, so that every text is compared with every other.",
                "How many comparisons does your subtraction make when the shapes differ?"),
        *forms("sigmoid-without-log", (loss_sigmoid_only, loss_one_minus), "The probability is maximised, not its logarithm.",
                "How strong is the gradient of your loss for a pair that is ranked badly wrong?"),
        *forms("hinge", (loss_hinge, loss_perceptron), "This is a hinge loss.", "Which loss is the negative log-likelihood of Bradley–Terry?"),
        *forms("reversed", (loss_reversed, loss_other_side), "Chosen and rejected are swapped.", "Which score should go up?"),
        Mistake("loss-of-the-mean", loss_of_mean, "The gaps are averaged before the logarithm of the sigmoid.",
                "Is the loss of the mean gap the mean of the losses?"),
        *forms("sum-not-mean", (loss_sum, loss_summed_all), "The losses are summed.", "How would your loss change if the same batch came twice?"),
        Mistake("centers-the-difference", loss_centers_difference, "The gap is pulled to 0, and not the sum.",
                "Which quantity does Bradley–Terry leave free, so that it has to be held?"),
        Mistake("centers-the-mean", loss_centers_mean, "The sum is averaged before it is squared.",
                "May one pair drift upwards if another one drifts downwards?"),
        Mistake("centering-ignored", loss_center_ignored, "Centering has no influence.", "What keeps the scores near 0?"),
        Mistake("margin-or-centering", loss_center_without_margin, "Centering has no influence where there is a margin.", "Do margin and centering exclude each other?"),
        Mistake("rejected-cut-off", loss_frozen_rejected, "No gradient reaches the rejected scores.", "Should the rejected text's score only look on?"),
        Mistake("chosen-cut-off", loss_frozen_chosen, "No gradient reaches the chosen scores.", "Should the chosen text's score be able to rise?"),
        Mistake("margins-averaged", loss_margin_averaged, "All pairs get the mean margin.", "By how much should each pair lead?"),
        Mistake("margin-without-sign", loss_margin_absolute, "A negative margin is made positive.", "What does a margin of −1 allow?"),
        Mistake("margin-as-a-factor", loss_margin_factor, "The gap is multiplied by the margin.", "What should a margin of 0 change?"),
        Mistake("margin-of-one", loss_margin_of_one, "Without a margin, one of 1 is used.", "By how much should chosen lead when nothing is said?"),
        Mistake("shapes-flattened", loss_flattened, "Shapes that do not fit are flattened away.", "Would you rather be told that a (B,1) met a (B,)?"),
        Mistake("every-pair", loss_all_pairs, "Every chosen text is compared with every rejected one.", "With which text was this one compared?"),
        *forms("another-loss", (loss_exponential, loss_squared), "This falls with the gap, but it is another loss.", "Which loss is the negative log-likelihood of Bradley–Terry?"),
        Mistake("wrong-sign", loss_sign, "The log-likelihood comes back with its own sign.", "If this number is minimised, which score goes up?"),
        Mistake("not-reduced", loss_each, "A loss for each pair comes back instead of one number.", "What does backward() need?"),
        Mistake("bits-not-nats", loss_bits, "The loss is in bits.", "Which logarithm does the course use?"),
        Mistake("smoothed-labels", loss_smoothed, "A part of every choice is taken to be wrong.", "How sure does the contract take people to be?"),
        Mistake("scores-judged-apart", loss_apart, "Each score is compared with 0, not with the other one.", "What changes when 5 is added to both scores?"),
        Mistake("softmax-over-the-batch", loss_softmax_over_batch, "The pairs compete with each other.", "Between which texts did a person choose?"),
        *forms("centers-something-else", (loss_centers_half, loss_centers_each, loss_centers_without_square, loss_centers_absolute),
               "What is pulled to 0 is not the square of the sum.", "What is squared in the centering term, and what is averaged?"),
        Mistake("centering-summed", loss_centers_sum, "The centering term is summed over the pairs.", "How would your loss change if the same batch came twice?"),
        Mistake("centers-away", loss_centers_away, "The scores are pushed away from 0.", "With which sign is a penalty added to a loss?"),
        *forms("centering-cut-off", (loss_centers_detached, loss_centers_chosen_only), "The value is right, but not both scores get a gradient from centering.",
               "How can a term move scores that get no gradient from it?"),
        Mistake("always-centers", loss_always_centers, "Centering is on although it was not asked for.", "What is centering when nothing is said?"),
        Mistake("margin-trained", loss_margin_trained, "A gradient flows into the margin.", "Is the margin something to learn, or something that people said?"),
        *forms("gap-clamped", (loss_clamped, loss_cut), "The gap is clamped, so that the worst pairs give no gradient.",
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
    close, gaps = torch.cat([50 + chosen, torch.tensor([1e-3])]), torch.tensor([1, -1, 0, 1, 1, -1, 2, 1])
    other[:3], tied[3], other[3], tied[4], other[4] = tied[:3], 2.0, 1.0, 2.0, 0.0
    return [
        Case((chosen, rejected), "no ties"),
        Case((tied, other), "ties"),
        Case((torch.zeros(4), torch.zeros(4)), "nothing but ties"),
        Case((torch.tensor([3.0]), torch.tensor([1.0])), "a single pair"),
        Case((close, torch.cat([close[:8] + 1e-4 * gaps, close[8:] + 5e-7])), "scores that are nearly equal"),
        Case((chosen * 100, rejected * 0.01), "scores of different scale"),
        Case((torch.tensor([1e4, 1.0, -1e4, 200.0]), torch.tensor([-1e4, 1.0, 1e4, 100.0])), "large scores"),
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
        *forms("near-ties-are-ties", (lambda c, r: torch.where(torch.isclose(c, r), 0.5, (c > r).float()).mean().item(),
                                      lambda c, r: torch.where((c - r).abs() < 1e-3, 0.5, (c > r).float()).mean().item(),
                                      lambda c, r: pairwise_accuracy(c.round(decimals=2), r.round(decimals=2)),
                                      lambda c, r: pairwise_accuracy(c.half(), r.half())),
               "Scores that are nearly equal are counted as ties.", "By how much must chosen lead to be ranked right?"),
        Mistake("squashed-first", lambda c, r: pairwise_accuracy(c.sigmoid(), r.sigmoid()), "The scores are squashed first, where large ones become equal.",
                "Are 50 and 51 still different after a sigmoid in float32?"),
        Mistake("every-pair", lambda c, r: pairwise_accuracy(c[:, None].expand(-1, len(r)), r.expand(len(c), -1)), "Every chosen text is compared with every rejected one.",
                "With which text was this one compared?"),
        Mistake("sorted", lambda c, r: pairwise_accuracy(c.sort().values, r.sort().values), "Both sides are sorted, so that pairs are torn apart.",
                "With which text was this one compared?"),
        Mistake("from-minus-one-to-one", lambda c, r: torch.sign(c - r).mean().item(), "A wrong pair counts −1.", "Between which numbers does a share lie?"),
        Mistake("whole-numbers-only", lambda c, r: int(((c > r) + 0.5 * (c == r)).sum()) / len(c), "The sum is rounded down before it is divided.",
                "What is left of a half after int()?"),
        Mistake("means-compared", lambda c, r: float(c.mean() > r.mean()), "The two averages are compared.", "Of how many pairs is a share asked for?"),
        Mistake("not-reduced", lambda c, r: (c > r).double() + 0.5 * (c == r), "A number for each pair comes back instead of one.", "How many numbers are asked for?"),
        Mistake("magnitudes-compared", lambda c, r: pairwise_accuracy(c.abs(), r.abs()), "Signs are ignored.", "Is −3 a better score than 1?"),
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

    def outcomes(num_bins: int) -> torch.Tensor:
        """Frequent in every other bin, so that merged or shifted bins show."""
        often = (p * num_bins).long() % 2 == 0
        return (torch.rand(40, generator=d.generator) < torch.where(often, 0.95, 0.05)).long()

    edges = torch.tensor([0.0, 0.25, 0.1, 0.5, 0.6, 1.0, 1.0, 0.75, 0.9, 0.35])
    hits = torch.tensor([1, 1, 1, 1, 0, 0, 0, 1, 1, 1])
    few = torch.cat([d.uniform(0.05, 0.2, 6), d.uniform(0.8, 0.95, 3)])
    return [
        Case((p, outcomes(8), 8), "8 bins"),
        Case((p, outcomes(10)), "the default of 10 bins"),
        Case((edges, hits, 4), "probabilities on the edges of the bins"),
        Case((few, torch.tensor([0, 1, 1, 0, 1, 1, 0, 1, 1]), 4), "empty bins and bins of different size"),
        Case((d.uniform(0, 1, 30), d.integers(0, 2, 30).bool(), 5), "outcomes that are bool"),
        Case((d.uniform(0, 1, 30), d.integers(0, 2, 30).float(), 1), "a single bin and float outcomes"),
        Case((torch.ones(5), torch.tensor([1, 1, 0, 1, 0]), 4), "probabilities of exactly 1"),
        Case((torch.tensor([0.3]), torch.tensor([1]), 4), "a single point"),
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


def calibration_own_bin(p, y, num_bins=10):
    return calibration(p, y, num_bins + 1, which=lambda p, n: (p * (n - 1)).long())


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


def calibration_out_of_range(p, y, num_bins=10):
    gap = torch.zeros(num_bins, dtype=torch.float64)
    return gap.index_add(0, (p * num_bins).long(), p.double() - y.double()).abs().sum().item() / len(p)


def calibration_of_nothing(p, y, num_bins=10):
    which = (p * num_bins).long().clamp(max=num_bins - 1)
    inside = [which == k for k in range(num_bins)]
    return sum((i.sum() / len(p) * (p[i].mean() - y[i].float().mean()).abs()).item() for i in inside)


def calibration_bool_fails(p, y, num_bins=10):
    return calibration_error(p - y + y.long(), y, num_bins)


def calibration_rounds(p, y, num_bins=10):
    return calibration(p, y, num_bins + 1, lambda q, n: (q * (n - 1)).round().long())


def calibration_root(p, y, num_bins=10):
    return calibration_squared(p, y, num_bins) ** 0.5


def calibration_sum(p, y, num_bins=10):
    return calibration(p, y, num_bins, weight=lambda inside: 1)


def calibration_unnormalised(p, y, num_bins=10):
    return calibration_error(p, y, num_bins) * len(p)


def calibration_equal_mass(p, y, num_bins=10):
    order = p.argsort()
    parts = [part for part in order.tensor_split(num_bins) if len(part)]
    return sum(len(i) / len(p) * abs((p[i].mean() - y[i].float().mean()).item()) for i in parts)


def calibration_between_extremes(p, y, num_bins=10):
    low, high = p.min(), p.max()
    return calibration(p, y, num_bins, lambda q, n: ((q - low) / (high - low + 1e-9) * n).long().clamp(max=n - 1))


def calibration_confidence(p, y, num_bins=10):
    return calibration(torch.maximum(p, 1 - p), ((p > 0.5) == y.bool()).long(), num_bins)


def calibration_other_event(p, y, num_bins=10):
    return calibration_error(p, 1 - y.float(), num_bins)


def calibration_overall(p, y, num_bins=10):
    return abs((p.mean() - y.float().mean()).item())


def calibration_brier(p, y, num_bins=10):
    return (p - y.float()).square().mean().item()


def calibration_small_bins_dropped(p, y, num_bins=10):
    return calibration(p, y, num_bins, weight=lambda inside: inside.double().mean() * (inside.sum() > 1))


def calibration_more_bins(p, y, num_bins=15):
    return calibration(p, y, num_bins)


def calibration_sorts(p, y, num_bins=10):
    result = calibration_error(p, y, num_bins)
    p.copy_(p.sort().values)
    return result


def calibration_percent(p, y, num_bins=10):
    return 100 * calibration_error(p, y, num_bins)


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
        *forms("squared-gaps", (calibration_squared, calibration_root), "The gaps are squared.", "Which distance between prediction and outcome is asked for?"),
        *forms("gaps-cancel", (calibration_signed, calibration_overall), "Gaps of opposite sign cancel.",
                "Is a model well calibrated that is too sure of some things and too unsure of others?"),
        Mistake("point-by-point", calibration_pointwise, "Every point is compared with its own outcome, not bin by bin.",
                "Can a single yes or no show whether 0.7 was right?"),
        Mistake("edges-belong-below", calibration_right_closed, "A probability on an edge is put into the lower bin.",
                "Which end of [k/n, (k+1)/n) belongs to the bin?"),
        Mistake("one-has-its-own-bin", calibration_own_bin, "A probability of exactly 1 gets a bin of its own.", "How many bins are there, and which of them holds 1.0?"),
        *forms("one-falls-out", (calibration_last_open, calibration_out_of_range), "A probability of exactly 1 falls into no bin.", "Which bin holds 1.0?"),
        Mistake("empty-bins-are-nan", calibration_of_nothing, "The mean of an empty bin is NaN.", "What should a bin without any point add?"),
        Mistake("bool-outcomes-fail", calibration_bool_fails, "Outcomes that are bool cannot be subtracted.", "Which types may the outcomes have?"),
        Mistake("rounds-to-a-bin", calibration_rounds, "A probability is rounded to the nearest edge.", "Which bin of width 0.1 holds 0.19?"),
        Mistake("gaps-added-up", calibration_sum, "The gaps of the bins are added up without weights.", "Should a bin with one point weigh as much as one with a hundred?"),
        Mistake("not-divided", calibration_unnormalised, "The gaps are weighted by the number of points, not by their share.", "By what should the number of points in a bin be divided?"),
        Mistake("bins-of-equal-size", calibration_equal_mass, "The bins hold equally many points.", "Where are the edges of the bins?"),
        Mistake("bins-between-the-extremes", calibration_between_extremes, "The bins reach from the smallest to the largest probability.", "Where are the edges of the bins?"),
        Mistake("the-other-event", calibration_other_event, "The outcome is counted where it did not happen.", "What does an outcome of 1 mean?"),
        Mistake("brier-score", calibration_brier, "This is the Brier score.", "Can a single yes or no show whether 0.7 was right?"),
        Mistake("small-bins-dropped", calibration_small_bins_dropped, "Bins with a single point are left out.", "Which bins are to be skipped?"),
        Mistake("another-default", calibration_more_bins, "Without num_bins, there are not 10 bins.", "How many bins are there when nothing is said?"),
        Mistake("sorts-the-input", calibration_sorts, "The result is right, but the caller's probabilities are sorted.", "Do they still belong to the caller's outcomes?"),
        Mistake("percent", calibration_percent, "The answer is in percent.", "Between which numbers does it lie?"),
        Mistake("midpoints", calibration_midpoints, "The middle of the bin is compared, not the mean probability in it.",
                "Which number stands for the predictions of a bin?"),
        Mistake("always-ten-bins", calibration_fixed_bins, "The number of bins is ignored.", "What is num_bins for?"),
        Mistake("largest-gap", calibration_maximum, "This is the largest gap.", "Is the worst bin asked for, or the expectation over points?"),
        *forms("accuracy-of-the-decision", (calibration_thresholded, calibration_confidence), "Probabilities are compared with whether a yes-or-no decision was right.",
                "Is p the probability that the event happens, or that a decision is right?"),
    ),
)  # fmt: skip

EXERCISES = (LAST_INDEX, SCORES, LOSS, ACCURACY, CALIBRATION)
