"""How answers are judged: what is named, what is seen besides numbers, and what is said of it."""

import random
from collections import OrderedDict
from dataclasses import replace

import numpy
import pytest
import torch

from autograder import wire
from autograder.exercise import find
from autograder.grade import Verdict, grade_function
from autograder.judge import digits_of, rounded, two_numbers
from autograder.observe import Observation, same_observation


def verdict_on(name: str, function) -> Verdict:
    return grade_function(find(name)[1], function)


def mean(values, mask, dim=None):
    """A right masked_mean."""
    if dim is None and not mask.any():
        raise ValueError("nothing to average")
    kept = values.masked_fill(~mask, 0)
    return kept.sum() / mask.sum() if dim is None else kept.sum(dim) / mask.sum(dim).clamp(min=1)


def collate(chosen, rejected, pad_id):
    """A right collate_pairs."""
    width = max(map(len, chosen + rejected))
    batch = OrderedDict(more="does no harm")
    for side, rows in (("rejected", rejected), ("chosen", chosen)):
        batch[f"{side}_ids"] = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
        batch[f"{side}_mask"] = torch.arange(width) < torch.tensor([[len(row)] for row in rows])
    return batch


def test_right_ones_pass():
    assert verdict_on("masked_mean", mean).status == "passed"
    assert verdict_on("collate_pairs", collate).status == "passed"


def test_mistake_is_named_although_there_is_another_flaw():
    def no_shift(logits, tokens, temperature=1.0):  # and it computes in half precision
        return (logits[:, :-1] / temperature).log_softmax(-1).gather(-1, tokens[:, :-1, None])[..., 0]

    assert verdict_on("token_logprobs", no_shift).diagnosis == "no-shift"


def test_kind_of_value_error_is_one():
    class Empty(ValueError):
        pass

    def raising(values, mask, dim=None):
        if dim is None and not mask.any():
            raise Empty
        return mean(values, mask, dim)

    def other(values, mask, dim=None):
        if dim is None and not mask.any():
            raise KeyError("empty")
        return mean(values, mask, dim)

    assert verdict_on("masked_mean", raising).status == "passed"
    assert "it raises KeyError where ValueError is asked for" in verdict_on("masked_mean", other).message


@pytest.mark.parametrize("every", [2, 3, 7, 40])
def test_wrong_on_some_calls_is_wrong(every):
    calls = []

    def sometimes(values, mask, dim=None):
        calls.append(1)
        return mean(values, mask, dim) + (len(calls) % every == 0)

    assert verdict_on("masked_mean", sometimes).status == "failed"


def test_changing_answers_are_said_to_change():
    calls = []

    def once(values, mask, dim=None):
        calls.append(1)
        return mean(values, mask, dim) + (len(calls) == 5)

    assert (
        "the same arguments gave the right answer later, and another one before"
        in verdict_on("masked_mean", once).message
    )


@pytest.mark.parametrize(
    ("disturb", "words"),
    [
        (lambda: torch.manual_seed(0), "torch's random generator"),
        (lambda: torch.rand(1), "torch's random generator"),
        (lambda: random.seed(0), "Python's random generator"),
        (lambda: numpy.random.seed(0), "NumPy's random generator"),
        (lambda: torch.set_default_dtype(torch.float64), "the default dtype"),
        (lambda: torch.set_grad_enabled(False), "the grad mode"),
    ],
)
def test_global_state_is_watched(disturb, words):
    def disturbing(values, mask, dim=None):
        result = mean(values, mask, dim)
        disturb()
        return result

    assert f"the result is right, but it changes {words}" in verdict_on("masked_mean", disturbing).message
    assert torch.get_default_dtype() is torch.float32 and torch.is_grad_enabled()


def test_what_happens_to_the_graph_of_an_argument_is_watched():
    def pull(values, mask, dim=None):
        result = mean(values, mask, dim)
        result.sum().backward(retain_graph=True)
        return result

    def cut(values, mask, dim=None):
        result = mean(values, mask, dim)
        values.detach_()
        return result

    assert "it changes the gradients of its arguments" in verdict_on("masked_mean", pull).message
    assert "it modifies its argument values" in verdict_on("masked_mean", cut).message


def test_an_example_shows_numbers_that_differ_as_different():
    tensors = [torch.tensor([5.00001, 2.0]), torch.tensor([5.0, 2.0])]
    assert [rounded(t, digits_of(tensors)) for t in tensors] == ["[5.00001, 2]", "[5, 2]"]
    assert rounded(torch.zeros(14, 2), 4) == "<shape [14, 2]>"


def test_a_named_mistake_comes_with_its_kind_of_case_where_the_call_is_too_long():
    def counted(values, mask, dim=None):
        return mean(values, torch.ones_like(mask), dim) if mask.any() or dim is not None else mean(values, mask)

    verdict = verdict_on("masked_mean", counted)
    assert verdict.diagnosis and ("masked_mean(" in verdict.example or verdict.example.startswith("with "))


def test_form_counts():
    forged = verdict_on("masked_mean", lambda *args: {"result": mean(*args)})
    assert "it returns a dict where a float tensor is asked for" in forged.message
    as_dict = verdict_on("gae", lambda *args: {"advantages": args[0], "returns": args[1]})
    assert as_dict.diagnosis == "no-returns" and "a tuple (advantages, returns) is asked for" in as_dict.example
    as_tuple = verdict_on("collate_pairs", lambda *args: tuple(list(collate(*args).values())[1:]))
    assert as_tuple.diagnosis == "tuple-not-dict"
    narrow = verdict_on("last_token_index", lambda mask: (mask * torch.arange(mask.shape[1])).argmax(1).int())
    assert narrow.diagnosis == "int32-index"


def test_two_numbers_differ_where_they_are_shown():
    assert two_numbers(1.23456789, 1.23456788) == ("1.23456789", "1.23456788")
    assert two_numbers(-0.0, 1.0) == ("0", "1")
    assert two_numbers(12345.678, 12345.0)[0] == "12345.68"


def test_an_answer_as_before_is_sent_as_such_and_comes_back_the_same():
    one = Observation(values={"result": torch.tensor([1.0, 2.0]).double()}, kinds={"result": "float tensor"})
    grads = [None, torch.ones(2).double()]
    different = [
        replace(one, values={"result": torch.tensor([1.0, 2.5]).double()}),
        replace(one, values={}, kinds={}, error="ValueError: no"),
        replace(one, grads=grads),
        replace(one, state=["the grad mode"]),
        replace(one, values={"result": torch.tensor([[1.0, 2.0]]).double()}),
    ]
    again = wire.pack_observation(replace(one), one)
    assert len(again) < 60 and wire.unpack_observation(again, one) is one
    for other in different:
        found = wire.unpack_observation(wire.pack_observation(other, one), one)
        assert found is not one and same_observation(found, other)
    assert not same_observation(replace(one, grads=grads), replace(one, grads=[grads[1], None]))
    with pytest.raises(ValueError, match="not an observation"):
        wire.unpack_observation(again)  # there was none before
