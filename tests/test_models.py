"""Policies and reward models compute what plain transformers does, whatever the padding, cache or split."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_core.compare import Bench
from rlhf_core.experience import Experience, Responses
from rlhf_core.models import (
    CachedNextLogits,
    Policy,
    RewardModel,
    frozen,
    load_causal_lm,
    load_classifier,
    load_tokenizer,
    resolve_model,
)
from rlhf_core.policy import token_entropy, token_logprobs
from rlhf_core.rollout import choose_by, write_until_eos

PROMPTS = ["Review: The", "Review: A film that never quite finds", "Review: It's"]
ANSWERS = [" best film of the year.", " its feet", " so dull that the dullness itself becomes a kind of fun!"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("pocket")


@pytest.fixture(scope="module")
def model():
    return load_causal_lm("pocket")


@pytest.fixture(scope="module")
def rows(tokenizer) -> tuple[list[list[int]], list[list[int]]]:
    ends = tokenizer(ANSWERS, add_special_tokens=False)["input_ids"]
    return tokenizer(PROMPTS)["input_ids"], [[*end, tokenizer.eos_token_id] for end in ends]


@pytest.fixture(scope="module")
def batch(rows, tokenizer) -> Responses:
    return Responses.from_lists(*rows, tokenizer.pad_token_id)


def test_logprobs_and_entropy_are_those_of_each_row_alone(model, rows, batch):
    with torch.no_grad():
        logprobs, entropy, values = Policy(model, temperature=0.7)(batch)
        for i, (start, end) in enumerate(zip(*rows, strict=True)):
            tokens = torch.tensor([[*start, *end]])
            logits = model(tokens).logits
            alone = token_logprobs(logits, tokens, 0.7)[0, -len(end) :]
            torch.testing.assert_close(logprobs[i, : len(end)], alone, atol=2e-5, rtol=0)
            spread = token_entropy(logits / 0.7)[0, -len(end) - 1 : -1]
            torch.testing.assert_close(entropy[i, : len(end)], spread, atol=2e-5, rtol=0)
    assert torch.equal(values, torch.zeros_like(values)), "a new critic predicts 0"


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_the_value_is_that_of_the_state_before_the_token(model, rows, batch, critic):
    policy = Policy(model, critic=critic)
    torch.nn.init.normal_(policy.value_head.weight)
    with torch.no_grad():
        values = policy(batch).values
        for i, (start, end) in enumerate(zip(*rows, strict=True)):
            for t in (0, len(end) - 1):
                prefix = torch.tensor([[*start, *end[:t]]])
                hidden = model.base_model(prefix).last_hidden_state[0, -1]
                expected = policy.value_head(hidden).item()
                assert values[i, t].item() == pytest.approx(expected, abs=1e-4)


def test_a_minibatch_says_the_same_as_the_whole(model, batch):
    policy = Policy(model)
    with torch.no_grad():
        whole = policy(batch).logprobs
        part = batch[torch.tensor([1])]
        assert part.tokens.shape[1] < batch.tokens.shape[1], "the padding is trimmed"
        alone = policy(part).logprobs
    torch.testing.assert_close(alone[0], whole[1, : alone.shape[1]], atol=2e-5, rtol=0)


def test_experience_keeps_its_numbers_with_their_rows(batch):
    numbers = torch.arange(batch.mask.numel(), dtype=torch.float32).reshape(batch.mask.shape)
    whole = Experience(
        batch.tokens, batch.attention_mask, batch.mask, numbers, numbers + 0.1, numbers + 0.2, numbers + 0.3
    )
    part = whole[torch.tensor([2, 0])]
    width = part.mask.shape[1]
    assert torch.equal(part.logprobs, numbers[[2, 0], :width]) and torch.equal(
        part.returns, numbers[[2, 0], :width] + 0.3
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampling_with_a_cache_equals_sampling_without(model, tokenizer, temperature, monkeypatch):
    encoded = tokenizer(PROMPTS * 4, padding=True, return_tensors="pt")
    ids, mask = encoded["input_ids"], encoded["attention_mask"].bool()

    def from_scratch(tokens):
        grown = torch.nn.functional.pad(mask, (0, tokens.shape[1] - ids.shape[1]), value=True)
        positions = (grown.long().cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            return model(tokens, attention_mask=grown.long(), position_ids=positions).logits[:, -1]

    uniforms = torch.rand(12, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    choose = choose_by(temperature, uniforms)
    plain = write_until_eos(from_scratch, ids, choose, 60, eos, pad)
    fed, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: fed.append(len(inputs["input_ids"])) or forward(**inputs))
    assert torch.equal(write_until_eos(CachedNextLogits(model, mask), ids, choose, 60, eos, pad), plain)
    assert set(fed) == {12}
    fed.clear()
    assert torch.equal(write_until_eos(CachedNextLogits(model, mask, eos), ids, choose, 60, eos, pad), plain)
    running = [12, *(12 - (plain[:, :t] == eos).any(dim=1).sum().item() for t in range(1, plain.shape[1]))]
    assert all(rows <= count < 2 * rows for rows, count in zip(running, fed, strict=True)) and fed[-1] < 12


def test_a_policy_checkpoint_loads_with_transformers_alone(model, tokenizer, tmp_path):
    policy = Policy(model, critic="separate")
    torch.nn.init.normal_(policy.value_head.weight)
    policy.save(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, words = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    tokens = words(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits.float(), model(tokens).logits)
    other = Policy(load_causal_lm(str(tmp_path)), critic="separate")
    other.load_critic(tmp_path)
    assert torch.equal(other.value_head.weight, policy.value_head.weight)


def test_a_reward_checkpoint_scores_the_same_with_transformers_alone(tokenizer, tmp_path):
    reward = RewardModel(load_classifier("pocket", tokenizer, new_head=True), tokenizer)
    torch.nn.init.normal_(reward.model.score.weight)
    reward.model.save_pretrained(tmp_path)
    alone = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert alone.config.num_labels == 1
    scores = reward.score(PROMPTS, ANSWERS, batch_size=2)
    for i, ids in enumerate(reward.encode(PROMPTS, ANSWERS)):
        with torch.no_grad():
            expected = alone(torch.tensor([ids])).logits.item()
        assert scores[i].item() == pytest.approx(expected, abs=1e-4)


def test_bfloat16_still_gives_float32_numbers_near_the_truth(model, batch):
    with torch.no_grad():
        exact = Policy(model)(batch)
        rough = Policy(model, bfloat16=True)(batch)
    assert rough.logprobs.dtype == rough.entropy.dtype == rough.values.dtype == torch.float32
    assert (exact.logprobs - rough.logprobs)[batch.mask].abs().max() < 0.3


def test_frozen_gives_no_gradient_and_restores_the_mode(model):
    policy = Policy(model).train()
    with frozen(policy):
        assert not policy.training and not torch.is_grad_enabled()
    assert policy.training and torch.is_grad_enabled()


@pytest.mark.parametrize("load", [load_causal_lm, load_tokenizer])
def test_a_folder_without_a_model_is_named(tmp_path, load):
    with pytest.raises(ValueError, match="could be loaded from .*" + tmp_path.name):
        load(str(tmp_path))


def test_pocket_is_a_name():
    assert resolve_model("pocket").endswith("pocket") and resolve_model("some/model") == "some/model"


def test_the_kl_of_answers_is_that_of_the_temperature_at_which_they_were_sampled(model):
    bench = Bench("pocket", PROMPTS, max_new_tokens=6, temperature=0.5, seed=0, device=torch.device("cpu"))
    policy = Policy(model, critic=None, entropy_fn=None, temperature=2.0)  # equal weights, so equal at any temperature
    assert bench.answer(policy, PROMPTS).kl.abs().max() < 1e-4
