"""`check(function)`: grade one function where it stands, in a notebook cell or a script."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import torch

from autograder.exercise import Exercise, find
from autograder.grade import Verdict, grade_function
from autograder.report import as_html, example_lines, headline

SECONDS = 20
RAISE = "NBGRADER_EXECUTION"  # nbgrader sets it where it runs notebooks itself: a cell's exception then decides on its points


class CheckFailed(AssertionError):
    """The function is wrong; raised only where nbgrader runs the notebook."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the reason alone."""
        return [str(self)]


class Result:
    """What `check` returns: true if the function is right."""

    def __init__(self, verdict: Verdict):
        self.verdict = verdict

    def __bool__(self) -> bool:
        return self.verdict.status == "passed"

    def __repr__(self) -> str:
        return headline(self.verdict)

    def _ipython_display_(self) -> None:
        """It has been shown already."""


def check(function: Callable, name: str | None = None) -> Result:
    """Grade a function and show the verdict.

    Args:
        function: any callable.
        name: the exercise, where the function goes by another name.

    Raises:
        ValueError: there is no exercise of that name.
    """
    exercise = exercise_of(function, name)
    try:
        with as_it_was(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), alarm():
            verdict = grade_function(exercise, function)
    except TooLong:
        text = f"stopped after {SECONDS} seconds: is there a loop that never ends?"
        verdict = Verdict(exercise.name, "timeout", 0.0, exercise.points, None, text)
    show(verdict)
    result = Result(verdict)
    if not result and os.environ.get(RAISE):
        raise CheckFailed(headline(verdict))
    return result


def exercise_of(function: Callable, name: str | None) -> Exercise:
    """The exercise that a function is meant for."""
    inner = getattr(function, "func", function)  # a partial has the name of what it wraps
    wanted = name or getattr(inner, "__name__", type(function).__name__)
    found = find(wanted)
    if found is None:
        raise ValueError(
            f"there is no exercise named {wanted!r}; if your function goes by another name, say which it is: "
            'check(my_function, "gae")'
        )
    return found[1]


def show(verdict: Verdict) -> None:
    """As HTML in a notebook, as text elsewhere."""
    lines = [headline(verdict), *example_lines(verdict)[:1]]
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None and hasattr(shell, "kernel"):
        ipython.display.publish_display_data({"text/html": as_html(verdict), "text/plain": "\n".join(lines)})
    else:
        print("\n".join(lines))


@contextlib.contextmanager
def as_it_was() -> Iterator[None]:
    """Leave the notebook's global state as it is: seeds, default dtype, grad mode, threads."""
    numpy = sys.modules.get("numpy")
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    dtype, grad, threads = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    torch.set_num_threads(1)  # small tensors are faster that way
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        torch.set_num_threads(threads)


class TooLong(BaseException):
    """The time is up. No Exception, so that learners' code does not swallow it."""


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """Stop after `SECONDS`, where the system has an alarm and this is the main thread."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
