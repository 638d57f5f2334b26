"""DPO, IPO, GRPO, RLOO and reward-model losses against TRL's own trainers, on the same tiny model and batches.

TRL's trainer is made by its constructor and runs `train()`: its tokenisation, collation, sampling, advantages, loss,
backward and SGD steps. From the token ids that it trained on, `rlhf_core` computes the same loss with its own functions
and takes the same SGD steps on a copy of the model. Compared are every loss (1e-5) and the weights at the end (1e-4,
after moving by far more); for GRPO and RLOO also masks and advantages. Everything is float32 on CPU.

Where conventions differ, TRL's options are set to those of our contract:
- DPO: TRL's `sigmoid` loss no longer applies `label_smoothing`. Its `aot` loss does, and with one pair to a batch,
  where there is nothing to sort, it is DPO with label smoothing.
- IPO: TRL sums log-probabilities and then divides by the number of tokens; ours takes the averages.
- Reward model: TRL's head has no bias and its accuracy counts a tie as wrong (ours ½); there are no ties here. The
  transformers model finds the last token by `ids != pad`, and so misses an EOS that is also the padding: here they
  differ.
- GRPO: `loss_type="grpo"` (mean over each response, then over responses; TRL's default is DAPO's),
  `scale_rewards="group"` (ε = 1e-4 as ours), temperature ≠ 1, which both divide the logits by, and
  `use_bias_correction_kl=False`: the paper's k3, as ours. TRL 1.16 by default multiplies it by the ratio, which
  changes its gradient even at ratio 1.
- RLOO: TRL's ratio and clip are those of the whole response, our `clipped_policy_loss` with one column; its KL penalty
  is k1, summed over the response and taken from the reward before the advantages.
Both of the latter take two steps on one rollout (`num_iterations=2`), so that the second has ratios other than 1.
"""

from __future__ import annotations

import copy
import warnings
from functools import partial

import pytest
import torch

from rlhf_core.dpo import dpo_loss, implicit_rewards, ipo_loss, sequence_logprobs
from rlhf_core.grpo import group_advantages, grpo_loss, rloo_advantages
from rlhf_core.policy import masked_mean, response_mask, token_logprobs
from rlhf_core.ppo import clip_fraction, clipped_policy_loss
from rlhf_core.preferences import collate_pairs
from rlhf_core.reward import pairwise_accuracy, pairwise_loss, sequence_scores

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
trl = pytest.importorskip("trl", reason="TRL is not installed, so there is nothing to compare with")
if not all(hasattr(trl, name) for name in ("DPOTrainer", "GRPOTrainer", "RLOOTrainer", "RewardTrainer")):
    pytest.skip("this TRL lacks one of the trainers to compare with", allow_module_level=True)

from datasets import Dataset  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import (  # noqa: E402
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

WORDS = ["<s>", "</s>", "a", "b", "c", "d", "e", "f", "g", "h", "<pad>"]
EOS = WORDS.index("</s>")
GROUP, TEMPERATURE, BETA = 4, 0.7, 0.3
PAIRS = {
    "prompt": ["a b c", "d", "e f", "a h g f"],
    "chosen": [" d e", " a", " b c d e f", " c"],
    "rejected": [" f", " g h a b", " h g f", " d e"],
    "margin": [0.5, 0.0, 1.0, 0.2],
}


def tokenizer(pad: str = "</s>") -> PreTrainedTokenizerFast:
    """Words as tokens; pads with EOS, as tokenizers without a pad token are made to."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["<s>", "</s>", "<pad>"])
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token=pad)


def llama(seed: int, kind: type = LlamaForCausalLM):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        initializer_range=0.3, bos_token_id=0, eos_token_id=EOS, pad_token_id=EOS, num_labels=1,
    )  # fmt: skip
    return kind(config).float()


def options(folder, **more) -> dict:
    """What all trainers here have in common: plain SGD, two steps, no extras."""
    return {
        "output_dir": str(folder), "optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0, "weight_decay": 0.0, "max_steps": 2, "gradient_accumulation_steps": 1, "bf16": False,
        "gradient_checkpointing": False, "use_cpu": True, "report_to": "none", "save_strategy": "no",
        "logging_strategy": "no", "disable_tqdm": True, "seed": 3, **more,
    }  # fmt: skip


def train(trainer) -> list[tuple[dict, dict]]:
    """Let TRL train; return every batch with the loss and the metrics that TRL computed on it."""
    recorded, compute_loss = [], trainer.compute_loss

    def recording(model, inputs, *args, **kwargs):
        batch = {name: x.clone() if isinstance(x, torch.Tensor) else x for name, x in inputs.items()}
        loss = compute_loss(model, inputs, *args, **kwargs)
        metrics = {name: numbers[-1] for name, numbers in trainer._metrics["train"].items()}
        recorded.append((batch, {**metrics, "loss": loss.item()}))
        return loss

    trainer.compute_loss = recording
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    return recorded


def assert_same_training(ours, start, trainer, recorded, loss_of) -> None:
    """Our losses on TRL's batches, our SGD steps from the same start, TRL's losses and weights."""
    optimizer = torch.optim.SGD(ours.parameters(), trainer.args.learning_rate)
    assert len(recorded) == trainer.args.max_steps
    for batch, metrics in recorded:
        loss = loss_of(ours, batch)
        assert loss.item() == pytest.approx(metrics["loss"], abs=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    theirs = dict(trainer.model.named_parameters())
    moved = 0.0
    for name, parameter in ours.named_parameters():
        message = partial("{}: {}".format, name)
        torch.testing.assert_close(parameter, theirs[name].detach(), rtol=0, atol=1e-4, msg=message)
        moved = max(moved, (parameter - start[name]).abs().max().item())
    assert moved > 1e-2, "the weights hardly moved, so that equal weights would say little"


# preference losses


def pair_logprobs(model, batch):
    """Token log-probabilities and masks of TRL's [chosen, rejected] batch, each split in two."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    mask = batch["completion_mask"][:, 1:].bool()
    return [*token_logprobs(logits, batch["input_ids"]).chunk(2), *mask.chunk(2)]


def reduced(model, reference, batch, reduce):
    """π_c, π_r, ref_c, ref_r of the batch's responses."""
    chosen, rejected, chosen_mask, rejected_mask = pair_logprobs(model, batch)
    with torch.no_grad():
        ref_chosen, ref_rejected, _, _ = pair_logprobs(reference, batch)
    return (
        reduce(chosen, chosen_mask), reduce(rejected, rejected_mask),
        reduce(ref_chosen, chosen_mask), reduce(ref_rejected, rejected_mask),
    )  # fmt: skip


def dpo_trainer(folder, **more):
    policy, reference = llama(0), llama(1)
    args = trl.DPOConfig(**options(folder, beta=BETA, **more))
    data = Dataset.from_dict({name: PAIRS[name] for name in ("prompt", "chosen", "rejected")})
    trainer = trl.DPOTrainer(policy, copy.deepcopy(reference), args, train_dataset=data, processing_class=tokenizer())
    return trainer, reference


@pytest.mark.parametrize(
    ("case", "trl_options"),
    [
        ("dpo", {"loss_type": ["sigmoid"], "per_device_train_batch_size": 4}),
        ("ipo", {"loss_type": ["ipo"], "per_device_train_batch_size": 4}),
        ("dpo, label smoothing", {"loss_type": ["aot"], "label_smoothing": 0.2, "per_device_train_batch_size": 1}),
    ],
)
def test_dpo_and_ipo(tmp_path, case, trl_options):
    trainer, reference = dpo_trainer(tmp_path, **trl_options)
    ours = llama(0)
    start = copy.deepcopy(dict(ours.named_parameters()))

    def loss_of(model, batch):
        if case == "ipo":
            means = reduced(model, reference, batch, lambda x, mask: masked_mean(x, mask, 1))
            return ipo_loss(*means, BETA)
        smoothing = trl_options.get("label_smoothing", 0.0)
        return dpo_loss(*reduced(model, reference, batch, sequence_logprobs), BETA, smoothing)

    recorded = train(trainer)
    batch, metrics = recorded[0]
    first = reduced(llama(0), reference, batch, sequence_logprobs)
    rewards = [implicit_rewards(first[side], first[side + 2], BETA) for side in (0, 1)]
    assert metrics["rewards/chosen"] == pytest.approx(rewards[0].mean().item(), abs=1e-5)
    assert metrics["rewards/accuracies"] == pytest.approx(pairwise_accuracy(*rewards))
    assert_same_training(ours, start, trainer, recorded, loss_of)


@pytest.mark.parametrize(("margin", "centering"), [(False, None), (True, None), (True, 0.1)])
def test_reward_model(tmp_path, margin, centering):
    columns = ("prompt", "chosen", "rejected") + (("margin",) if margin else ())
    data, words = Dataset.from_dict({name: PAIRS[name] for name in columns}), tokenizer("<pad>")
    args = trl.RewardConfig(
        **options(tmp_path, per_device_train_batch_size=4, center_rewards_coefficient=centering, learning_rate=0.01)
    )
    trainer = trl.RewardTrainer(
        llama(0, LlamaForSequenceClassification), args, train_dataset=data, processing_class=words
    )
    recorded = train(trainer)
    ours = llama(0, LlamaForSequenceClassification)
    start = copy.deepcopy(dict(ours.named_parameters()))
    ids = [
        [words(p + x + " </s>")["input_ids"] for p, x in zip(PAIRS["prompt"], PAIRS[side], strict=True)]
        for side in ("chosen", "rejected")
    ]

    def scores(model, batch):
        hidden = model.model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        mask = batch["attention_mask"].bool()
        return sequence_scores(hidden, model.score.weight[0], 0.0, mask).chunk(2)

    def loss_of(model, batch):
        return pairwise_loss(*scores(model, batch), batch.get("margin"), centering or 0.0)

    batch, metrics = recorded[0]
    order = [ids[0].index(row[kept].tolist()) for row, kept in zip(
        batch["input_ids"][:4], batch["attention_mask"][:4].bool(), strict=True)]  # fmt: skip
    collated = collate_pairs([ids[0][i] for i in order], [ids[1][i] for i in order], words.pad_token_id)
    assert torch.cat([collated["chosen_ids"], collated["rejected_ids"]]).equal(batch["input_ids"])
    assert torch.cat([collated["chosen_mask"], collated["rejected_mask"]]).equal(batch["attention_mask"].bool())
    assert metrics["accuracy"] == pytest.approx(pairwise_accuracy(*scores(ours, batch)))
    assert_same_training(ours, start, trainer, recorded, loss_of)


# losses from groups of samples


def group_trainer(kind: str, folder, **more):
    """TRL's trainer with a policy that differs from its reference; rewards are made up from the token ids."""
    reference = llama(1)
    reference.save_pretrained(folder / "reference")
    # TRL loads its reference from the folder that the policy came from
    policy = LlamaForCausalLM.from_pretrained(folder / "reference")
    policy.load_state_dict(llama(0).state_dict())
    args = getattr(trl, f"{kind}Config")(**options(
        folder, per_device_train_batch_size=3 * GROUP, num_generations=GROUP, max_completion_length=6, beta=BETA,
        num_iterations=2, temperature=TEMPERATURE, learning_rate=0.2, **more,
    ))  # fmt: skip
    rewards: list[float] = []

    def reward(completion_ids, **kwargs) -> list[float]:
        rewards.extend(float(sum(ids) % 7 + 0.1 * len(ids)) for ids in completion_ids)
        return rewards

    data = Dataset.from_dict({"prompt": ["a b c", "d", "e f g h"]})
    trainer = getattr(trl, f"{kind}Trainer")(policy, reward, args, train_dataset=data, processing_class=tokenizer())
    generated, generate = [], trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: generated.append(generate(inputs)) or generated[-1]
    recorded = train(trainer)
    assert len(generated) == 1 and len(rewards) == 3 * GROUP
    return trainer, reference, recorded, generated[0], torch.tensor(rewards)


def response_logprobs(model, batch):
    """Log-probabilities and mask of the sampled tokens, from TRL's ids alone."""
    tokens = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    prompt = batch["prompt_ids"].shape[1]
    mask = response_mask(tokens, torch.full((len(tokens),), prompt), EOS)[:, prompt:]
    attention = torch.cat([batch["prompt_mask"].bool(), mask], 1)
    logits = model(input_ids=tokens, attention_mask=attention.long()).logits
    return token_logprobs(logits, tokens, TEMPERATURE)[:, prompt - 1 :], mask


def assert_ragged(mask) -> None:
    assert 1 < len(mask.sum(1).unique()) and not mask.all(), "all responses are equally long: not much of a test"


def test_grpo(tmp_path):
    trainer, reference, recorded, generated, rewards = group_trainer(
        "GRPO", tmp_path, loss_type="grpo", scale_rewards="group", epsilon=0.2, use_bias_correction_kl=False
    )
    torch.testing.assert_close(group_advantages(rewards, GROUP), generated["advantages"], rtol=0, atol=1e-5)
    ours = llama(0)
    start = copy.deepcopy(dict(ours.named_parameters()))
    clipped = []

    def loss_of(model, batch):
        logprobs, mask = response_logprobs(model, batch)
        assert mask.equal(batch["completion_mask"].bool())
        assert_ragged(mask)
        with torch.no_grad():
            old, _ = response_logprobs(old_policy, batch)
            ref, _ = response_logprobs(reference, batch)
        advantages = batch["advantages"]
        clipped.append(clip_fraction(logprobs, old, advantages[:, None].expand_as(old), mask, 0.2))
        return grpo_loss(logprobs, old, ref, advantages, mask, 0.2, BETA)

    old_policy = llama(0)
    assert_same_training(ours, start, trainer, recorded, loss_of)
    assert clipped[0] == 0 < clipped[1]
    assert [metrics["clip_ratio/region_mean"] for _, metrics in recorded] == pytest.approx(clipped, abs=1e-6)


def test_rloo(tmp_path):
    trainer, reference, recorded, generated, rewards = group_trainer("RLOO", tmp_path, epsilon=0.2)
    old_policy = llama(0)

    def penalised(batch):
        """Our sequence log-probabilities under the old policy, and their KL to the reference."""
        with torch.no_grad():
            (old, mask), (ref, _) = response_logprobs(old_policy, batch), response_logprobs(reference, batch)
        return sequence_logprobs(old, mask), sequence_logprobs(old - ref, mask)

    _, kl = penalised(generated)
    torch.testing.assert_close(rloo_advantages(rewards - BETA * kl, GROUP), generated["advantages"], rtol=0, atol=1e-5)
    ours = llama(0)
    start = copy.deepcopy(dict(ours.named_parameters()))
    clipped = []

    def loss_of(model, batch):
        logprobs, mask = response_logprobs(model, batch)
        assert_ragged(mask)
        columns = [x[:, None] for x in (sequence_logprobs(logprobs, mask), penalised(batch)[0], batch["advantages"])]
        everything = torch.ones(len(mask), 1, dtype=torch.bool)
        clipped.append(clip_fraction(*columns, everything, 0.2))
        return clipped_policy_loss(*columns, everything, 0.2)

    assert_same_training(ours, start, trainer, recorded, loss_of)
    assert clipped[0] == 0 < clipped[1]
