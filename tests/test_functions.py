"""Training with a learner's own building blocks: right ones are used, wrong or missing ones are named and replaced."""

from __future__ import annotations

import pytest
import tiny_ppo
import torch

from rlhf_core.functions import PROBES, choose_functions, disagreement
from rlhf_core.loop import REFERENCE, train
from rlhf_core.run import read_jsonl


def test_every_building_block_has_a_probe_that_its_reference_passes():
    assert set(PROBES) == set(vars(REFERENCE))
    for name, function in vars(REFERENCE).items():
        assert disagreement(name, function) is None, name


def wrong_gae(rewards, values, mask, gamma, lam):
    return rewards - values, rewards


def raising(*_):
    raise NotImplementedError("write me")


@pytest.mark.parametrize("name", sorted(PROBES))
def test_a_function_that_raises_is_named_for_every_block(name):
    with pytest.warns(UserWarning, match=f"{name} is not used, it raises NotImplementedError"):
        chosen = choose_functions({name: raising})
    assert getattr(chosen, name) is getattr(REFERENCE, name)


def test_a_wrong_function_is_named_before_training():
    with pytest.warns(UserWarning, match="gae is not used, its numbers differ from the reference"):
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
