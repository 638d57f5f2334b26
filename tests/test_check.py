"""`check(function)` in a cell: every row is a call, with what is shown."""

from __future__ import annotations

import functools
import math
import random
import subprocess
import sys
import time
import types
import warnings

import numpy as np
import pytest
import torch

import rlhf_core.ppo
from autograder import check, notebook
from autograder.exercise import LESSONS, bank

ALL = [exercise for lesson in LESSONS for exercise in bank(lesson).EXERCISES]


def ppo_loss(policy, value, entropy, a, b):
    return policy + a * value - b * entropy


def renamed(name, function):
    """The same function under another name."""
    code = function.__code__.replace(co_name=name)
    return types.FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)


def stub(policy, value, entropy, a, b):
    """The total loss."""
    raise NotImplementedError()


def empty(policy, value, entropy, a, b):
    """The total loss."""


def none(policy, value, entropy, a, b):
    return None


class Loss:
    def __call__(self, policy, value, entropy, a, b):
        return policy + a * value - b * entropy

    def ppo_loss(self, policy, value, entropy, a, b):
        return policy + a * value - b * entropy


class New:
    def __new__(cls, policy, value, entropy, a, b):
        return policy + a * value - b * entropy


def all_in(scale, policy, value, entropy, a, b):
    return scale * (policy + a * value - b * entropy)


def noisy(policy, value, entropy, a, b):
    print("x" * 10_000)
    print("x" * 10_000, file=sys.stderr)
    warnings.warn("careful", stacklevel=1)
    return policy + a * value - b * entropy


def divides(policy, value, entropy, a, b):
    return 1 / 0


def ends(*args):
    sys.exit(3)


def calls_theirs(*args):
    return rlhf_core.ppo.ppo_loss(*args)


def calls_theirs_quietly(*args):
    try:
        return rlhf_core.ppo.ppo_loss(*args)
    except BaseException:
        return args[0]


def changes_its_argument(policy, value, entropy, a, b):
    result = policy + a * value - b * entropy
    policy.zero_()
    return result


def leaves_a_seed(policy, value, entropy, a, b):
    torch.manual_seed(1)
    return policy + a * value - b * entropy


# name → (arguments of check, status, words that are shown)
CALLS = {
    "function": ((ppo_loss,), "passed", "✔ ppo_loss 1/1"),
    "name": ((renamed("mine", ppo_loss), "ppo_loss"), "passed", "✔"),
    "lambda": ((lambda p, v, h, a, b: p + a * v - b * h, "ppo_loss"), "passed", "✔"),
    "partial": ((functools.partial(all_in, 1), "ppo_loss"), "passed", "✔"),
    "partial of its name": ((functools.partial(functools.partial(ppo_loss)),), "passed", "✔"),
    "object": ((Loss(), "ppo_loss"), "passed", "✔"),
    "method": ((Loss().ppo_loss,), "passed", "✔"),
    "class": ((New, "ppo_loss"), "passed", "✔"),
    "stub": ((stub, "ppo_loss"), "missing", "· ppo_loss 0/1 — not written yet"),
    "empty": ((empty, "ppo_loss"), "missing", "not written yet"),
    "None": ((none, "ppo_loss"), "missing", "not written yet"),
    "prints and warns": ((noisy, "ppo_loss"), "passed", "✔"),
    "raises": ((divides, "ppo_loss"), "error", "ZeroDivisionError"),
    "ends": ((ends, "ppo_loss"), "error", "SystemExit"),
    "wrong": ((lambda p, v, h, a, b: p + a * v + b * h, "ppo_loss"), "failed", "The entropy is added"),
    "nothing": ((lambda *args: None, "ppo_loss"), "missing", "not written yet"),
    "the reference": ((rlhf_core.ppo.ppo_loss,), "failed", "rlhf_core's own implementation"),
    "the reference inside": ((calls_theirs, "ppo_loss"), "failed", "rlhf_core's own implementation"),
    "the reference inside a try": ((calls_theirs_quietly, "ppo_loss"), "failed", "rlhf_core's own implementation"),
    "the reference in a partial": ((functools.partial(rlhf_core.ppo.ppo_loss),), "failed", "rlhf_core's own"),
    "changes its argument": ((changes_its_argument, "ppo_loss"), "failed", "modifies its argument"),
    "leaves a seed": ((leaves_a_seed, "ppo_loss"), "failed", "random generator"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_check_shows_the_verdict(name, capsys):
    arguments, status, words = CALLS[name]
    result = check(*arguments)
    shown = capsys.readouterr()
    assert (result.verdict.status, bool(result)) == (status, status == "passed"), shown.out
    assert words in shown.out and "Traceback" not in shown.out and not shown.err


# name → (arguments of check, words of the one sentence)
REFUSED = {
    "number": ((3,), "got int"),
    "result": ((torch.ones(2),), "got Tensor"),
    "nothing": ((None,), "got NoneType"),
    "text": (("gae",), "without quotes: check(gae)"),
    "lambda without a name": ((lambda x: x,), "no exercise named '<lambda>'"),
    "typing error": ((renamed("pp_loss", ppo_loss),), "did you mean ppo_loss?"),
    "unknown": ((renamed("train", ppo_loss),), "no exercise named 'train'"),
    "unknown name": ((ppo_loss, "bogus"), "no exercise named 'bogus'"),
    "name that is none": ((ppo_loss, 3), "no exercise named 3"),
    "object without a name": ((Loss(),), "no exercise named 'Loss'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_check_refuses_in_one_sentence(name):
    arguments, words = REFUSED[name]
    with pytest.raises(ValueError) as refused:
        check(*arguments)
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert refused.value._render_traceback_() == [str(refused.value)]


def set_everything():
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_num_threads(2)
    torch.set_default_device("meta")
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)


def everything():
    """All state that a notebook may have set."""
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_default_device(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
    )


@pytest.fixture
def state():
    before = torch.get_num_threads()
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_num_threads(before)


@pytest.mark.parametrize("exercise", ALL[:8], ids=lambda e: e.name)
def test_state_neither_helps_nor_hurts_and_stays(exercise, state, capsys):
    set_everything()
    before = everything()
    for cached in (notebook.grade_function.__globals__["expected_of"],):
        cached.cache_clear()  # what was drawn before says nothing
    result = check(renamed("mine", exercise.reference), exercise.name)
    assert result and everything() == before


def test_warnings_as_errors_and_inference_mode_do_not_matter(capsys):
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("error")
        assert check(noisy, "ppo_loss")
        assert torch.is_inference_mode_enabled()


def loop(*args):
    while True:
        pass


def loop_that_swallows_once(*args):
    try:
        while True:
            pass
    except BaseException:
        while True:
            pass


@pytest.mark.skipif(not hasattr(notebook.signal, "setitimer"), reason="no alarm here")
@pytest.mark.parametrize("function", [loop, loop_that_swallows_once])
def test_a_loop_without_end_is_stopped(function, monkeypatch, capsys):
    monkeypatch.setattr(notebook, "SECONDS", 1)
    begin = time.monotonic()
    assert check(function, "ppo_loss").verdict.status == "timeout"
    assert time.monotonic() - begin < 15 and "loop that never ends" in capsys.readouterr().out


def test_ctrl_c_stops_it(monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(interrupted, "ppo_loss")


def test_a_notebook_gets_a_box(monkeypatch):
    shown = []
    shell = types.SimpleNamespace(kernel=object())
    display = types.SimpleNamespace(publish_display_data=shown.append)
    fake = types.SimpleNamespace(get_ipython=lambda: shell, display=display)
    monkeypatch.setitem(sys.modules, "IPython", fake)
    result = check(lambda p, v, h, a, b: p + a * v + b * h < 0, "ppo_loss")
    assert "<div" in shown[0]["text/html"] and "✘" in shown[0]["text/html"] and "ppo_loss" in shown[0]["text/plain"]
    assert "&lt;" not in repr(result) and result._ipython_display_() is None


def test_box_escapes_what_the_learner_wrote(monkeypatch):
    from autograder.report import as_html

    def raises(*args):
        raise ValueError("<script>alert(1)</script>")

    assert "<script>" not in as_html(notebook.quietly_graded(notebook.exercise_of(ppo_loss, None), raises))


@pytest.mark.parametrize("exercise", ALL, ids=lambda e: e.name)
def test_every_exercise_is_checked_in_half_a_second(exercise, capsys):
    right = renamed("mine", exercise.reference)
    assert check(right, exercise.name)  # the first time prepares
    begin = time.process_time()
    assert check(right, exercise.name)
    assert time.process_time() - begin < 0.5


def test_transformers_is_not_imported():
    code = "import sys, autograder\nautograder.check(lambda *x: x[0], 'grpo_loss')\nsys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_nan_is_not_right(capsys):
    assert not check(lambda *args: args[0] * math.nan, "ppo_loss")
