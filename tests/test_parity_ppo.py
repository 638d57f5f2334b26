"""One PPO update equals that of TRL 1.12.0, the last release with a PPOTrainer.

Same weights, prompts and sampled responses (without EOS, where the two place the score differently), a separate value
model, float32: same advantages and returns, and the same weights after three epochs of two minibatches.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rlhf_core.advantages import gae, masked_whiten, shaped_rewards
from rlhf_core.experience import Experience, Responses
from rlhf_core.loop import REFERENCE, UpdateConfig, ppo_update
from rlhf_core.models import Policy, frozen

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import work  # noqa: E402

TRL_PPO = Path(sys.prefix) / "trl-1.12"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> dict[str, torch.Tensor]:
    """What TRL computed, from a process of its own."""
    if not (TRL_PPO / "trl").is_dir():
        pytest.skip(f"TRL 1.12.0 is not in {TRL_PPO}: `make test` installs it there")
    path = tmp_path_factory.mktemp("trl") / "parity.safetensors"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TRL_PPO), str(ROOT)]), "TRL_EXPERIMENTAL_SILENCE": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / "trl_ppo.py"), "parity", str(path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(path)


@pytest.fixture(scope="module")
def ours(theirs) -> SimpleNamespace:
    """The same update by ours, on the rows in the order in which TRL's loader shuffled them."""
    job, models = work.PARITY, work.make_models(work.PARITY)
    policy = Policy(models.policy, critic="separate", entropy_fn=REFERENCE.token_entropy)
    policy.value_model.load_state_dict(models.value.base_model.state_dict())
    with torch.no_grad():
        policy.value_head.weight.copy_(models.value.score.weight)
    policy.value_head.bias.requires_grad_(False)  # TRL's value model has no bias
    reference = Policy(models.reference, critic=None)

    tokens = theirs["tokens"]
    everything = torch.ones_like(tokens, dtype=torch.bool)
    responses = Responses(tokens, everything, everything[:, job.prompt_tokens :])
    with frozen(policy), frozen(reference):
        logprobs, _, values = policy(responses)
        ref_logprobs = reference(responses).logprobs
    mask = responses.mask
    rewards = shaped_rewards(theirs["scores"], logprobs, ref_logprobs, mask, job.kl_coef)
    advantages, returns = gae(rewards, values, mask, job.gamma, job.lam)
    whitened = masked_whiten(advantages, mask)

    shuffles = np.random.RandomState(work.SHUFFLE_SEED)

    def same_shuffles(batch_size, minibatch_size, epochs, generator=None):
        for _ in range(epochs):
            yield from torch.from_numpy(shuffles.permutation(batch_size)).split(minibatch_size)

    functions = SimpleNamespace(**{**vars(REFERENCE), "minibatch_indices": same_shuffles})
    config = UpdateConfig(
        epochs=job.epochs,
        minibatch_size=job.minibatch_size,
        clip_range=job.clip_range,
        value_clip_range=job.value_clip_range,
        value_coef=job.value_coef,
        max_grad_norm=float("inf"),  # TRL does not clip the gradient
        functions=functions,
    )
    optimizer = torch.optim.AdamW(policy.parameters(), lr=job.learning_rate, weight_decay=0.0)
    experience = Experience(tokens, everything, mask, logprobs, values, whitened, returns)
    metrics = ppo_update(policy, optimizer, experience, config)
    return SimpleNamespace(
        values=values, raw_advantages=advantages, advantages=whitened, returns=returns, policy=policy, metrics=metrics
    )


@pytest.mark.parametrize("name", ["values", "raw_advantages", "advantages", "returns"])
def test_same_numbers_before_the_update(theirs, ours, name):
    torch.testing.assert_close(getattr(ours, name), theirs[name], rtol=0, atol=1e-5)


def test_the_update_is_a_real_one(ours):
    """Otherwise equal weights would prove nothing."""
    before = work.make_models(work.PARITY).policy.state_dict()
    moved = max((before[k] - v).abs().max().item() for k, v in ours.policy.model.state_dict().items())
    assert moved > 1e-3 and ours.metrics["clip_fraction"] > 0.01


def test_same_weights_after_the_update(theirs, ours):
    got = {f"policy.{k}": v for k, v in ours.policy.model.state_dict().items()}
    got |= {f"value.model.{k}": v for k, v in ours.policy.value_model.state_dict().items()}
    got["value.score.weight"] = ours.policy.value_head.weight
    assert set(got) == {k for k in theirs if k.startswith(("policy.", "value."))}
    for name, weight in got.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
