"""Where an implicit prompt ends, and conversations as text: as TRL does it, except that no word is cut."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from preference_forms import ASK, BLUE, DIALOG, FORMS, GREEN, HUMAN, write
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rlhf_core.data.conversations import render
from rlhf_core.data.preference_data import BadRows, load_preferences, split_prompt


@pytest.fixture(scope="module")
def trl() -> ModuleType:
    return pytest.importorskip("trl.data_utils", reason="TRL is not installed, so there is nothing to compare with")


def chat_tokenizer(adds_bos: bool = False, cue: str = "") -> PreTrainedTokenizerFast:
    """A tokenizer with a chat template that writes BOS first and EOS after every message, and refuses a wrong order."""
    words = ["<bos>", "<eos>", "<unk>", "user", "assistant", "system", "blue", "green", "sky", "?", "."]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}"
        "{% if message.role == 'user' and not loop.first and messages[loop.index0 - 1].role == 'user' %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "[{{ message.role }}]\n{{ message.content }}<eos>\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]\n" + cue + "{% endif %}"
    )
    return tokenizer


def test_empty_system_message_is_no_bad_row(tmp_path: Path):
    row = {"prompt": [{"role": "system", "content": ""}, ASK], "chosen": [BLUE], "rejected": [GREEN]}
    prompt = load_preferences(write(tmp_path / "a.jsonl", [row]))[0]["prompt"]
    assert prompt == "System: \n\nHuman: What color is the sky?\n\nAssistant:"


def test_plain_dialog_of_several_turns():
    system, why = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}
    prompt, chosen, rejected = render(None, [system, ASK], [BLUE, why, BLUE], [GREEN])
    assert prompt == "System: Be brief.\n\nHuman: What color is the sky?\n\nAssistant:"
    assert chosen == " It is blue.\n\nHuman: Why?\n\nAssistant: It is blue." and rejected == " It is green."
    assert render(None, [ASK], [BLUE], [why]) == (
        "Human: What color is the sky?",
        "\n\nAssistant: It is blue.",
        "\n\nHuman: Why?",
    )
    assert render(None, [ASK, BLUE]) == ("Human: What color is the sky?\n\nAssistant: It is blue.",)


def test_chat_template_is_used_and_bos_and_eos_come_once(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [FORMS["conversations, implicit prompt"][0]])
    text = "[user]\nWhat color is the sky?<eos>\n[assistant]\n"
    for adds_bos in (True, False):
        tokenizer = chat_tokenizer(adds_bos)
        pair = load_preferences(path, tokenizer=tokenizer)[0]
        assert pair == {
            "prompt": text if adds_bos else "<bos>" + text,
            "chosen": "It is blue.",
            "rejected": "It is green.",
        }
        ids = tokenizer(pair["prompt"])["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    without = chat_tokenizer()
    without.chat_template = None
    assert load_preferences(path, tokenizer=without)[0] == DIALOG


def test_prompt_for_a_chat_template_ends_in_the_cue_or_in_the_words_to_go_on_with():
    tokenizer = chat_tokenizer(adds_bos=True, cue="<think>")
    question = "[user]\nWhat color is the sky?<eos>\n[assistant]\n"
    assert render(tokenizer, [ASK]) == (question + "<think>",)
    assert render(tokenizer, [ASK], [BLUE]) == (question, "It is blue.")  # an answer that does not begin with the cue
    assert render(tokenizer, [ASK, BLUE]) == (question + "It is blue.",)


def test_conversation_that_the_template_refuses_is_a_bad_row(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [{"prompt": [ASK, ASK], "chosen": [BLUE], "rejected": [GREEN]}])
    with pytest.raises(BadRows, match="line 1 is refused by the tokenizer's chat template: roles must alternate"):
        load_preferences(path, tokenizer=chat_tokenizer())


# ---- where an implicit prompt ends ----------------------------------------------------------------------------------

LETTERS = "ab.\n "
TEXT = st.text(LETTERS, min_size=1, max_size=12)
MESSAGE = st.builds(
    lambda role, content: {"role": role, "content": content}, st.sampled_from(["user", "assistant"]), TEXT
)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is"),
        ("It is blue.", "It is black.", "It is"),  # not in a word
        ("The sky is", "The sky is blue", "The sky"),  # both keep a word
        ("Q: why?\nblue", "Q: why?\ngreen", "Q: why?\n"),
        ("天空是蓝色的", "天空是绿色的", "天空是"),  # no spaces between words
        (HUMAN + " It is so.", HUMAN + " It is not.", HUMAN),  # not in an answer
        ("blue", "blue", ""),
        ("a ", "b ", ""),
    ],
)
def test_prompt_ends_at_a_boundary(chosen: str, rejected: str, prompt: str):
    assert split_prompt(chosen, rejected) == (prompt, chosen[len(prompt) :], rejected[len(prompt) :])


@given(TEXT, TEXT, TEXT)
@settings(deadline=None)
def test_nothing_is_lost_and_both_keep_something(start: str, chosen_end: str, rejected_end: str):
    chosen, rejected = start + chosen_end, start + rejected_end
    prompt, chosen_rest, rejected_rest = split_prompt(chosen, rejected)
    assert (prompt + chosen_rest, prompt + rejected_rest) == (chosen, rejected)
    if chosen.strip() and rejected.strip():
        assert chosen_rest.strip() and rejected_rest.strip()


@given(start=TEXT, chosen_end=TEXT, rejected_end=TEXT)
@example(start="The sky is ", chosen_end="blue.", rejected_end="green.")
@example(start="a b", chosen_end="a", rejected_end="b")
@settings(deadline=None)
def test_same_text_prompt_as_trl_up_to_the_last_whole_word(
    trl: ModuleType, start: str, chosen_end: str, rejected_end: str
):
    chosen, rejected = start + chosen_end, start + rejected_end
    theirs = trl.extract_prompt({"chosen": chosen, "rejected": rejected})["prompt"]
    # TRL splits off the last character where one text begins the other, and wraps round where the first one differs
    assume(not chosen.startswith(rejected.rstrip()) and not rejected.startswith(chosen.rstrip()))
    assume(chosen[0] == rejected[0])
    in_a_word = theirs[-1:].isalnum() and (chosen[len(theirs)].isalnum() or rejected[len(theirs)].isalnum())
    if in_a_word:
        theirs = re.sub(r"\w+$", "", theirs).removesuffix(" ")
    assert split_prompt(chosen, rejected)[0] == theirs


@given(
    start=st.lists(MESSAGE, max_size=4),
    chosen_end=st.lists(MESSAGE, min_size=1, max_size=3),
    rejected_end=st.lists(MESSAGE, min_size=1, max_size=3),
)
@settings(deadline=None)
def test_same_conversation_prompt_as_trl(trl: ModuleType, start: list, chosen_end: list, rejected_end: list):
    pair = {"chosen": start + chosen_end, "rejected": start + rejected_end}
    theirs = trl.extract_prompt(pair)
    assert split_prompt(pair["chosen"], pair["rejected"]) == (theirs["prompt"], theirs["chosen"], theirs["rejected"])


@pytest.mark.parametrize("form", [form for form in FORMS if "hh-rlhf" not in form])
def test_same_text_as_trl_through_a_chat_template(trl: ModuleType, form: str, tmp_path: Path):
    tokenizer, row = chat_tokenizer(), FORMS[form][0]
    theirs = trl.maybe_apply_chat_template(trl.maybe_extract_prompt(row), tokenizer)
    ours = load_preferences(write(tmp_path / "a.jsonl", [row]), tokenizer=tokenizer)[0]
    assert ours == {name: theirs[name].removesuffix("<eos>\n") for name in ours}
