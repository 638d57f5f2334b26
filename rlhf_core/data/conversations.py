"""Conversations, lists of {"role", "content"} messages, as the plain text that a policy continues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_core.data.rows import RowProblem, as_json, as_text, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}


def as_messages(value: list, column: str) -> list[Message]:
    """Check a conversation; of each message only `role` and `content` are read.

    Raises:
        RowProblem: it is empty, or a message is not a role and a text. Only a system message may be empty.
    """
    if not value:
        raise RowProblem(f"has an empty conversation in `{column}`")
    messages = []
    for number, message in enumerate(value, start=1):
        where = f"message {number} of `{column}`"
        if not isinstance(message, dict):
            raise RowProblem(f"has {as_json(message)} as {where}, not a role and a content")
        role = as_text(message.get("role"), f"the role of {where}")
        content = as_text(message.get("content"), f"the content of {where}", may_be_empty=role == "system")
        messages.append({"role": role, "content": content})
    return messages


def render(
    tokenizer: PreTrainedTokenizerBase | None, prompt: list[Message], *responses: list[Message]
) -> tuple[str, ...]:
    """The prompt and its responses as text, by the tokenizer's chat template if it has one, else as a plain dialog.

    Returns:
        The prompt's text, up to and including the cue for whoever answers, and each response's text, so that prompt +
        response is the whole dialog. BOS and EOS are left out where the tokenizer and the trainers add them.
    """
    if getattr(tokenizer, "chat_template", None):
        return templated(tokenizer, prompt, *responses)
    return plain(prompt, *responses)


def plain(prompt: list[Message], *responses: list[Message]) -> tuple[str, ...]:
    """A dialog as Anthropic/hh-rlhf writes it: "Human: What color is the sky?\\n\\nAssistant:" and " It is blue."."""
    start = "\n\n".join(map(turn, prompt))
    if responses:
        answering = {speaker(response[0]) for response in responses}
    else:
        answering = {"Assistant"} - {speaker(prompt[-1])}  # its own last words go on
    if len(answering) == 1:
        start += f"\n\n{answering.pop()}:"
    wholes = ("\n\n".join(map(turn, [*prompt, *response])) for response in responses)
    return start, *(whole[len(start) :] for whole in wholes)


def speaker(message: Message) -> str:
    """The name that stands before a turn."""
    return SPEAKERS.get(message["role"], message["role"].capitalize())


def turn(message: Message) -> str:
    """One message of a plain dialog."""
    return f"{speaker(message)}: {message['content']}"


def templated(tokenizer: PreTrainedTokenizerBase, prompt: list[Message], *responses: list[Message]) -> tuple[str, ...]:
    """A dialog in the form that a chat model was trained on."""
    from jinja2 import TemplateError

    continues = prompt[-1]["role"] == "assistant"
    try:
        start = tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=not continues, continue_final_message=continues
        )
        wholes = [tokenizer.apply_chat_template([*prompt, *response], tokenize=False) for response in responses]
    except (TemplateError, ValueError, TypeError) as error:
        raise RowProblem(f"is refused by the tokenizer's chat template: {first_line(error)}") from error
    for whole in wholes:  # a template may end its cue with what the answer need not begin with (<think>)
        start = start[: common_length(start, whole)]
    endings = (without_eos(tokenizer, whole[len(start) :]) for whole in wholes)
    return without_bos(tokenizer, start), *endings


def without_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Drop the template's BOS where the tokenizer adds one anyway: a model has never seen two."""
    bos = tokenizer.bos_token
    if bos and text.startswith(bos) and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
        return text[len(bos) :]
    return text


def without_eos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Drop the template's EOS and the white space after it: trainers end every response with EOS themselves."""
    eos = tokenizer.eos_token
    return text.rstrip().removesuffix(eos) if eos and text.rstrip().endswith(eos) else text


def common_length(a: str | list, b: str | list) -> int:
    """Length of the longest common beginning."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)
