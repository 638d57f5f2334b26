"""Training with a learner's own building blocks: right ones are used, wrong or missing ones are named and replaced."""

from __future__ import annotations

import pytest
import tiny_ppo
import torch

from autograder.exercise import find
from rlhf_core.config import RewardConfig
from rlhf_core.examples import CALLS, WATCHED
from rlhf_core.functions import ALL, REWARD_REFERENCE, choose_functions, disagreement
from rlhf_core.loop import REFERENCE, train
from rlhf_core.run import read_jsonl
from rlhf_core.supervised import train_reward


def test_every_building_block_has_examples_and_its_reference_passes():
    assert CALLS.keys() | WATCHED.keys() == ALL.keys()
    for name, function in ALL.items():
        assert disagreement(name, function) is None, name


@pytest.mark.parametrize("name", sorted(ALL))
def test_known_mistakes_may_not_train_and_right_code_may(name):
    exercise = find(name)[1]
    slipped = [mistake.name for mistake in exercise.mistakes if disagreement(name, mistake.function) is None]
    # the grader is stricter, and comes first in the lessons: some mistakes show only where training never goes
    assert len(slipped) <= len(exercise.mistakes) / 3, slipped
    assert [variant.__name__ for variant in exercise.variants if disagreement(name, variant) is not None] == []


def wrong_gae(rewards, values, mask, gamma, lam):
    return rewards - values, rewards


def raising(*_):
    raise KeyError("write me")


def unwritten(*_):
    raise NotImplementedError


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("function, why", [(raising, "it raises KeyError"), (unwritten, "it is not written yet")])
def test_a_function_that_raises_is_named_for_every_block(name, function, why):
    reference = REFERENCE if hasattr(REFERENCE, name) else REWARD_REFERENCE
    with pytest.warns(UserWarning, match=f"{name} is not used, {why}"):
        chosen = choose_functions({name: function}, reference)
    assert getattr(chosen, name) is getattr(reference, name)


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("result", [None, "text", (), {}, [1.0, 2.0], float("nan"), torch.zeros(9, 9)])
def test_nonsense_is_refused_for_every_block(name, result):
    assert disagreement(name, lambda *_: result) is not None


def test_a_wrong_function_is_named_before_training():
    with pytest.warns(UserWarning, match="gae is not used, its result differs from the reference's"):
        assert choose_functions({"gae": wrong_gae}).gae is REFERENCE.gae


def test_a_missing_function_is_named():
    with pytest.warns(UserWarning, match="gae is missing"):
        assert choose_functions({"gae": None}).gae is REFERENCE.gae


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="no building block 'gea'"):
        choose_functions({"gea": wrong_gae})


def test_a_learners_functions_train_the_model(tmp_path):
    """The same numbers as with the reference, because code that is right is right."""
    used = []

    def own_gae(rewards, values, mask, gamma, lam):
        used.append("gae")
        advantages = torch.zeros_like(rewards)
        for row in range(len(rewards)):
            carry, next_value = 0.0, 0.0
            for t in reversed(range(rewards.shape[1])):
                if mask[row, t]:
                    carry = rewards[row, t] + gamma * next_value - values[row, t] + gamma * lam * carry
                    next_value = values[row, t]
                    advantages[row, t] = carry
        return advantages, torch.where(mask, advantages + values, 0.0)

    for name, functions in {"own": {"gae": own_gae}, "reference": None}.items():
        train(tiny_ppo.config(tmp_path / name, steps=2), functions, reward_fn=tiny_ppo.letters, quiet=True)
    assert used
    own, reference = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("own", "reference"))
    for left, right in zip(own, reference, strict=True):
        assert left == pytest.approx(right, rel=1e-3, abs=1e-4)


def test_a_learners_functions_train_the_reward_model(tmp_path):
    used = []

    def own_loss(chosen, rejected, margin=None, centering=0.0):
        used.append("pairwise_loss")
        gap = chosen - rejected - (0.0 if margin is None else margin)
        return torch.nn.functional.softplus(-gap).mean() + centering * (chosen + rejected).square().mean()

    config = RewardConfig(output=tmp_path / "reward", num_rows=2, epochs=1, batch_size=16, device="cpu")
    with pytest.warns(UserWarning, match="pairwise_accuracy is missing"):
        train_reward(config, {"pairwise_loss": own_loss, "pairwise_accuracy": None}, quiet=True)
    assert "pairwise_loss" in used
