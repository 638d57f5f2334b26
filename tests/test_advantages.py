"""Lesson 03: KL estimates, shaped rewards, returns, generalized advantage estimation and whitening."""

from __future__ import annotations

import itertools
import math

import oracles
import pytest
import torch
from cases import Draw, Entry, contract_tests

from rlhf_core.advantages import discounted_returns, gae, kl_estimate, masked_whiten, shaped_rewards

KINDS = ("k1", "k2", "k3", "abs")


def draw_shaping(draw: Draw) -> tuple:
    return draw.normal(draw.rows, scale=2.0), draw.tokens(), draw.tokens(), draw.mask(), draw.number(0.1, 0.9), 1.0


def draw_gae(draw: Draw) -> tuple:
    return draw.tokens(), draw.tokens(), draw.mask(), draw.number(0.5, 0.9), draw.number(0.3, 0.8)


def draw_whitening(draw: Draw) -> tuple:
    """At least two tokens, away from mean 0 and variance 1."""
    mask = draw.mask()
    mask[0] = True
    return 3.0 * draw.tokens() + 2.0, mask, False


def kl_entry(kind: str, mutants: dict) -> Entry:
    return Entry(kl_estimate, oracles.kl_estimate, lambda d: (d.tokens(), d.tokens(), kind), trained=(0,), frozen=(1,),
                 rows="along", row_args=(0, 1), mutants=mutants)  # fmt: skip


def shape_with(place, clip=True, beta=lambda kl: kl):
    """shaped_rewards with another place or amount of the score."""

    def rewards(scores, p, q, mask, kl_coef, score_clip):
        if clip:
            scores = scores.clamp(-score_clip, score_clip)
        return torch.where(mask, place(-kl_coef * beta(p - q), scores, mask), 0.0)

    return rewards


def last(mask):
    return (mask & (mask.long().cumsum(1) == mask.sum(1, keepdim=True))).double()


def at_column(column):
    """The score where `column(mask)` says, if that is a response token."""
    return lambda kl, s, m: kl + s[:, None] * torch.nn.functional.one_hot(column(m), m.shape[1])


def recursion(delta=lambda r, v, nv, g: r + g * nv - v, decay=lambda g, lam: g * lam, after=0.0):
    """gae with another δ, another decay, or (a multiple of the last) value after the end."""

    def estimate(rewards, values, mask, gamma, lam):
        r, v = rewards.masked_fill(~mask, 0), values.masked_fill(~mask, 0)
        advantages, carry = torch.zeros_like(v), 0.0
        for t in reversed(range(v.shape[1])):
            goes_on = shifted(mask)[:, t]
            following = torch.where(goes_on, shifted(v)[:, t], after * v[:, t])
            carry = (delta(r[:, t], v[:, t], following, gamma) + decay(gamma, lam) * carry) * mask[:, t]
            advantages[:, t] = carry
        return advantages, torch.where(mask, advantages + v, 0.0)

    return estimate


def flattened(r, v, m, g, lam):
    """gae of all rows as one."""
    rows = [x.masked_fill(~m, 0).reshape(1, -1) for x in (r, v)]
    return tuple(torch.where(m, x.reshape(m.shape), 0.0) for x in gae(*rows, torch.ones_like(rows[0]).bool(), g, lam))


def on_gae(change):
    """gae with another pair of results; `change` gets advantages, returns and the arguments."""
    return lambda r, v, m, g, lam: change(*gae(r, v, m, g, lam), r.masked_fill(~m, 0), v.masked_fill(~m, 0), m, g, lam)


def shifted(v):
    return torch.cat([v[:, 1:], torch.zeros_like(v[:, :1])], 1)


def whitened(mean, variance, x=lambda x, m: x):
    """masked_whiten(shift_mean=False) with other statistics."""

    def whiten(values, mask, shift_mean):
        v = x(values, mask)
        mu = mean(v, mask)
        return torch.where(mask, (v - mu) / (variance(v, mask) + 1e-8).sqrt() + mu, 0.0)

    return whiten


GAE_MUTANTS = {
    "no mask at all": lambda r, v, m, g, lam: gae(r, v, torch.ones_like(m), g, lam),
    "λ missing": recursion(decay=lambda g, lam: g),
    "λ without γ": recursion(decay=lambda g, lam: lam),
    "γ and λ swapped": lambda r, v, m, g, lam: gae(r, v, m, lam, g),
    "no discount of the next value": recursion(delta=lambda r, v, nv, g: r + nv - v),
    "own value after the last token": recursion(after=1.0),
    "no value subtracted": recursion(delta=lambda r, v, nv, g: r + g * nv),
    "no next value": recursion(delta=lambda r, v, nv, g: r - v),
    "only δ": lambda r, v, m, g, lam: gae(r, v, m, g, 0.0),
    "rows run into each other": flattened,
    "forward in time": lambda r, v, m, g, lam: tuple(x.flip(1) for x in gae(r.flip(1), v.flip(1), m.flip(1), g, lam)),
    "returns are advantages": on_gae(lambda A, R, r, v, m, g, lam: (A, A)),
    "returns are one-step targets": on_gae(
        lambda A, R, r, v, m, g, lam: (A, torch.where(m, r + g * torch.where(shifted(m), shifted(v), 0.0), 0.0))
    ),
    "returns are rewards-to-go": on_gae(lambda A, R, r, v, m, g, lam: (A, discounted_returns(r, m, g))),
    "returns after whitening": on_gae(lambda A, R, r, v, m, g, lam: (A, torch.where(m, masked_whiten(A, m) + v, 0.0))),
    "results swapped": on_gae(lambda A, R, r, v, m, g, lam: (R, A)),
}

test_contract, test_known_mistakes_are_told_apart = contract_tests([
    kl_entry("k1", {"sign": lambda p, q, k: q - p, "never negative": lambda p, q, k: (p - q).clamp(min=0)}),
    kl_entry("k2", {"no half": lambda p, q, k: (p - q) ** 2, "k1": lambda p, q, k: p - q}),
    kl_entry("k3", {
        "the other direction": lambda p, q, k: (p - q).expm1() - (p - q),
        "exponential of a ratio": lambda p, q, k: (q - p).exp().expm1() - (q - p).exp(),
        "sign": lambda p, q, k: -((q - p).expm1() - (q - p)),
        "no minus one": lambda p, q, k: (q - p).exp() - (q - p),
    }),
    kl_entry("abs", {"k1": lambda p, q, k: p - q, "square": lambda p, q, k: (p - q) ** 2}),
    Entry(shaped_rewards, oracles.shaped_rewards, draw_shaping, mask=3, masked=(1, 2), rows="along",
          row_args=(0, 1, 2, 3), styles=(shape_with(lambda kl, s, m: kl + s[:, None] * last(m)),), mutants={
              "score in the last column": shape_with(at_column(lambda m: torch.full((len(m),), m.shape[1] - 1))),
              "score after the last token": shape_with(at_column(lambda m: (last(m).argmax(1) + 1) % m.shape[1])),
              "score at count minus one": shape_with(at_column(lambda m: m.sum(1) - 1)),
              "score on every token": shape_with(lambda kl, s, m: kl + s[:, None]),
              "score replaces the penalty": shape_with(lambda kl, s, m: torch.where(last(m) > 0, s[:, None], kl)),
              "clipped after adding": shape_with(lambda kl, s, m: (kl + s[:, None] * last(m)).clamp(-1, 1), clip=False),
              "not clipped": shape_with(lambda kl, s, m: kl + s[:, None] * last(m), clip=False),
              "score times β": lambda s, p, q, m, b, c: shaped_rewards(b * s.clamp(-c, c), p, q, m, b),
              "penalty added": lambda s, p, q, m, b, c: shaped_rewards(s, p, q, m, -b, c),
              "k3": shape_with(lambda kl, s, m: kl + s[:, None] * last(m), beta=lambda d: (-d).expm1() + d),
              "penalty never negative": shape_with(
                  lambda kl, s, m: kl + s[:, None] * last(m), beta=lambda d: d.clamp(min=0)),
              "penalty at the end only": shape_with(
                  lambda kl, s, m: ((kl * m).sum(1, keepdim=True) + s[:, None]) * last(m)),
          }),
    Entry(discounted_returns, oracles.discounted_returns, lambda d: (d.tokens(), d.mask(), d.number(0.5, 0.9)), mask=1,
          masked=(0,), rows="along", row_args=(0, 1), mutants={
              "no discount": lambda r, m, g: discounted_returns(r, m, 1.0),
              "no mask": lambda r, m, g: discounted_returns(r, torch.ones_like(m), g),
              "from the left": lambda r, m, g: discounted_returns(r.flip(1), m.flip(1), g).flip(1),
              "rows run into each other": lambda r, m, g: torch.where(
                  m, discounted_returns((r * m).reshape(1, -1), torch.ones_like(m).reshape(1, -1), g).reshape(m.shape),
                  0.0),
              "without the own reward": lambda r, m, g: torch.where(m, discounted_returns(r, m, g) - r, 0.0),
              "reward of the episode": lambda r, m, g: torch.where(m, (r * m).sum(1, keepdim=True), 0.0),
          }),
    Entry(gae, oracles.gae, draw_gae, mask=2, masked=(0, 1), rows="along", row_args=(0, 1, 2), mutants=GAE_MUTANTS,
          styles=(recursion(),)),
    Entry(masked_whiten, oracles.masked_whiten, draw_whitening, mask=1, masked=(0,), rows="along", row_args=(0, 1),
          min_time=2, styles=(whitened(lambda v, m: v[m].mean(), lambda v, m: v[m].var()),), mutants={
              "biased variance": whitened(lambda v, m: v[m].mean(), lambda v, m: v[m].var(correction=0)),
              "n of the whole tensor": whitened(
                  lambda v, m: v[m].mean(), lambda v, m: v[m].var() * (m.sum() - 1) / (m.numel() - 1)),
              "unmasked": whitened(lambda v, m: v.mean(), lambda v, m: v.var()),
              "zeros counted": whitened(lambda v, m: v.mean(), lambda v, m: v.var(), lambda v, m: v * m),
              "divided by the variance": whitened(lambda v, m: v[m].mean(), lambda v, m: v[m].var() ** 2),
              "per row": lambda v, m, s: torch.cat(
                  [masked_whiten(x[None], y[None], s) for x, y in zip(v, m, strict=True)]),
              "shift_mean the other way round": lambda v, m, s: masked_whiten(v, m, not s),
              "nothing at padding": lambda v, m, s: (v - v[m].mean()) / v[m].std() + v[m].mean(),
          }),
])  # fmt: skip


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e-2])
def test_k3_is_accurate_for_tiny_differences_in_float32(scale):
    d = scale * torch.tensor([1.0, -1.0, 0.5])
    exact = d.double() ** 2 / 2 - d.double() ** 3 / 6 + d.double() ** 4 / 24
    result = kl_estimate(d, torch.zeros(3), "k3").double()
    assert (result - exact).abs().max() < 1e-7 * scale
    assert kl_estimate(torch.zeros(2), torch.zeros(2), "k3").tolist() == [0.0, 0.0]


def two_policies() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a policy and of its reference over a vocabulary of four."""
    return Draw(1).normal(4), Draw(2).normal(4)


def test_k1_and_k3_have_the_kl_as_expectation_and_k2_has_not():
    p, q = (logits.log_softmax(-1) for logits in two_policies())
    kl = (p.exp() * (p - q)).sum()
    expected = {kind: (p.exp() * kl_estimate(p, q, kind)).sum() for kind in KINDS}
    torch.testing.assert_close(expected["k1"], kl)
    torch.testing.assert_close(expected["k3"], kl)
    assert abs(expected["k2"] - kl) > 1e-2 and expected["abs"] > kl
    assert kl_estimate(p, q, "k3").min() >= 0 > kl_estimate(p, q, "k1").min()


def test_expected_gradients_of_the_estimates_as_losses():
    """E[∇k1] = 0, E[∇k2] = ∇KL(π ‖ π_ref), E[∇k3] = ∇KL(π_ref ‖ π): exact sums over the vocabulary."""
    logits, ref_logits = two_policies()
    logits.requires_grad_()
    p, q = logits.log_softmax(-1), ref_logits.log_softmax(-1)

    def gradient(loss):
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    as_loss = {kind: gradient((p.exp().detach() * kl_estimate(p, q, kind)).sum()) for kind in KINDS}
    assert as_loss["k1"].abs().max() < 1e-12
    torch.testing.assert_close(as_loss["k2"], gradient((p.exp() * (p - q)).sum()))
    torch.testing.assert_close(as_loss["k3"], gradient((q.exp() * (q - p)).sum()))


class TwoTokens:
    """All nine responses of two tokens over a vocabulary of three, with policy, reference, scores and a critic."""

    def __init__(self) -> None:
        self.responses = torch.tensor(list(itertools.product(range(3), repeat=2)))
        self.logits = Draw(3).normal(4, 3).requires_grad_()  # row 0: first token; row 1 + a: second token after a
        self.logprobs = self.of(self.logits)
        self.ref_logprobs = self.of(Draw(4).normal(4, 3))
        self.scores, self.mask = Draw(5).normal(9), torch.ones(9, 2, dtype=torch.bool)
        critic = Draw(6).normal(4)
        self.values = torch.stack([critic[0].expand(9), critic[1 + self.responses[:, 0]]], 1)
        self.probability = self.logprobs.sum(1).exp()

    def of(self, logits: torch.Tensor) -> torch.Tensor:
        log_p, (first, second) = logits.log_softmax(-1), self.responses.T
        return torch.stack([log_p[0][first], log_p[1 + first, second]], 1)

    def gradient(self, total: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(total, self.logits, retain_graph=True)[0]


def test_expected_shaped_reward_is_score_minus_kl():
    world = TwoTokens()
    rewards = shaped_rewards(world.scores, world.logprobs, world.ref_logprobs, world.mask, 0.3)
    kl = (world.probability * (world.logprobs - world.ref_logprobs).sum(1)).sum()
    expected = (world.probability * rewards.sum(1)).sum()
    torch.testing.assert_close(expected, (world.probability * world.scores).sum() - 0.3 * kl)


def test_gae_gives_the_exact_policy_gradient_whatever_the_critic():
    """λ = γ = 1: Σ_y π(y) Σ_t A_t ∇log π(y_t) = ∇E[score − β KL], by enumeration."""
    world = TwoTokens()
    rewards = shaped_rewards(world.scores, world.logprobs, world.ref_logprobs, world.mask, 0.3).detach()
    advantages, _ = gae(rewards, world.values, world.mask, 1.0, 1.0)
    estimate = world.gradient((world.probability.detach()[:, None] * advantages * world.logprobs).sum())
    penalty = (world.logprobs - world.ref_logprobs).sum(1)
    exact = world.gradient((world.probability * (world.scores - 0.3 * penalty)).sum())
    torch.testing.assert_close(estimate, exact)


def test_gae_limits():
    rewards, values, mask, gamma, _ = draw_gae(Draw(7))
    zero = torch.zeros_like(values)
    returns = discounted_returns(rewards, mask, gamma)
    advantages, targets = gae(rewards, values, mask, gamma, 1.0)
    torch.testing.assert_close(targets, returns)  # λ = 1: Monte Carlo
    torch.testing.assert_close(advantages, torch.where(mask, returns - values, 0.0))
    torch.testing.assert_close(gae(rewards, zero, mask, gamma, 1.0)[0], returns)
    # a critic that is right about the sampled rewards leaves nothing to credit, whatever λ
    assert gae(rewards, returns, mask, gamma, 0.4)[0].abs().max() < 1e-12
    assert gae(rewards, values, mask, 0.0, 0.4)[0].equal(torch.where(mask, rewards - values, 0.0))


def test_gae_is_linear_in_rewards_and_values():
    rewards, values, mask, gamma, lam = draw_gae(Draw(8))
    one, two = gae(rewards, values, mask, gamma, lam), gae(3 * rewards, 3 * values, mask, gamma, lam)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(3 * a, b)


def test_score_clip_none_and_the_single_token():
    one = torch.ones(1, 1, dtype=torch.bool)
    reward = shaped_rewards(torch.tensor([7.0]), torch.tensor([[-1.0]]), torch.tensor([[-2.0]]), one, 0.5)
    assert reward.tolist() == [[6.5]]
    advantages, returns = gae(reward, torch.tensor([[2.0]]), one, 0.9, 0.9)
    assert advantages.tolist() == [[4.5]] and returns.tolist() == [[6.5]]


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitened_statistics_and_laws(shift_mean):
    values, mask, _ = draw_whitening(Draw(9))
    result = masked_whiten(values, mask, shift_mean)
    assert result[mask].std().item() == pytest.approx(1.0, abs=1e-6)
    assert result[mask].mean().item() == pytest.approx(0.0 if shift_mean else values[mask].mean().item(), abs=1e-9)
    if shift_mean:
        torch.testing.assert_close(masked_whiten(5 * values - 7, mask), result)
    assert masked_whiten(values, mask).equal(masked_whiten(values, mask, True))


@pytest.mark.parametrize("value", [0.0, 5.1, -100.1, 1000.1])
@pytest.mark.parametrize("count", [2, 3, 7, 11])
def test_whitening_equal_values_gives_zero(value, count):
    values, mask = torch.full((1, count), value), torch.ones(1, count, dtype=torch.bool)
    assert masked_whiten(values, mask).abs().max() < 1e-3
    torch.testing.assert_close(masked_whiten(values, mask, False), values)


def test_whitening_in_float32_survives_a_large_mean():
    values, mask = Draw(10).normal(1, 50).float() + 1e4, torch.ones(1, 50, dtype=torch.bool)
    exact = masked_whiten(values.double(), mask)
    torch.testing.assert_close(masked_whiten(values, mask).double(), exact, rtol=0, atol=1e-3)


T, F, Z = torch.ones(2, 3).bool(), torch.tensor([[True] * 3, [False] * 3]), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: kl_estimate(Z, Z, "k4"), "kind"),
        (lambda: kl_estimate(Z, Z[0], "k1"), "ref_logprobs"),
        (lambda: shaped_rewards(torch.zeros(3), Z, Z, T, 0.1), "scores"),
        (lambda: shaped_rewards(torch.zeros(2, 1), Z, Z, T, 0.1), "scores"),
        (lambda: shaped_rewards(torch.zeros(2), Z, Z, F, 0.1), "mask"),
        (lambda: shaped_rewards(torch.zeros(2), Z, Z, T.long(), 0.1), "mask"),
        (lambda: shaped_rewards(torch.zeros(2), Z, Z[:, :2], T, 0.1), "ref_logprobs"),
        (lambda: shaped_rewards(torch.zeros(2), Z, Z, T, 0.1, 0.0), "score_clip"),
        (lambda: shaped_rewards(torch.zeros(2), Z, Z, T, 0.1, -1.0), "score_clip"),
        (lambda: discounted_returns(Z, T[0], 1.0), "mask"),
        (lambda: discounted_returns(Z, T.long(), 1.0), "mask"),
        (lambda: discounted_returns(Z[0], T[0], 1.0), "mask"),
        (lambda: gae(Z, Z[:, :2], T, 1.0, 1.0), "values"),
        (lambda: gae(Z, Z, T.float(), 1.0, 1.0), "mask"),
        (lambda: gae(Z[0], Z[0], T[0], 1.0, 1.0), "mask"),
        (lambda: masked_whiten(Z, T[0]), "mask"),
        (lambda: masked_whiten(Z, torch.eye(2, 3).bool() & F), "mask"),
        (lambda: masked_whiten(Z, ~T), "mask"),
        (lambda: masked_whiten(Z, T.long()), "mask"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_token_shaped_outputs_have_no_negative_zero():
    """-0.0 equals 0.0, but a learner who prints it wonders."""
    z, mask = torch.zeros(1, 3), torch.tensor([[False, True, False]])
    whitened_values = masked_whiten(torch.tensor([[1.0, 3.0, -5.0]]), torch.tensor([[True, True, False]]))
    for result in (shaped_rewards(torch.ones(1), z, z, mask, 0.1), whitened_values):
        assert not any(math.copysign(1, x) < 0 for x in result[result == 0].tolist())
