"""`check(function)`: grade one function where it stands, in a notebook cell or a script."""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import torch

from autograder.exercise import LESSONS, Exercise, bank, find
from autograder.grade import Verdict, grade_function
from autograder.observe import Stop, reset
from autograder.report import as_html, example_lines, headline

SECONDS = 20
RAISE = "NBGRADER_EXECUTION"  # nbgrader sets it where it runs notebooks itself: a cell's exception then decides on its points


class CheckFailed(AssertionError):
    """The function is wrong; raised only where nbgrader runs the notebook."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the reason alone."""
        return [str(self)]


class CheckError(ValueError):
    """`check` was not given what it checks."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the sentence alone."""
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
        CheckError: there is no exercise of that name, or this is no function; a ValueError.
    """
    verdict = quietly_graded(exercise_of(function, name), function)
    show(verdict)
    result = Result(verdict)
    if not result and os.environ.get(RAISE):
        raise CheckFailed(headline(verdict))
    return result


def quietly_graded(exercise: Exercise, function: Callable) -> Verdict:
    """The verdict on a function of this process; what it prints is dropped, and global state is put back."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        try:
            with as_it_was(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), alarm():
                return grade_function(exercise, function)
        except Stop:
            text = f"stopped after {SECONDS} seconds: is there a loop that never ends?"
            return Verdict(exercise.name, "timeout", 0.0, exercise.points, None, text)


def exercise_of(function: Callable, name: str | None) -> Exercise:
    """The exercise that a function is meant for.

    Raises:
        CheckError: there is none.
    """
    if isinstance(function, str):
        raise CheckError(f"check wants the function itself, without quotes: check({function})")
    if not callable(function):
        kind = type(function).__name__
        raise CheckError(
            f"check wants a function, and got {kind}: check(gae) checks the function, check(gae(…)) its result"
        )
    wanted = name if name is not None else name_of(function)
    found = find(wanted)
    if found is None:
        near = difflib.get_close_matches(str(wanted), [e.name for lesson in LESSONS for e in bank(lesson).EXERCISES], 1)
        guess = f"did you mean {near[0]}?" if near else "say which one it is:"
        raise CheckError(f'there is no exercise named {wanted!r}; {guess} check(my_function, "{(near or ["gae"])[0]}")')
    return found[1]


def name_of(function: Callable) -> str:
    """The name that a function was defined with; a partial has that of what it wraps."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None) or getattr(function, "name", None)  # TorchScript has the latter
    return name if isinstance(name, str) else type(function).__name__


def show(verdict: Verdict) -> None:
    """As HTML in a notebook, as text elsewhere."""
    lines = [headline(verdict), *example_lines(verdict)[:1]]
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None and hasattr(shell, "kernel"):
        ipython.display.publish_display_data({"text/html": as_html(verdict), "text/plain": "\n".join(lines)})
    else:
        text, encoding = "\n".join(lines), sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding))  # not every terminal has a ✔


@contextlib.contextmanager
def as_it_was() -> Iterator[None]:
    """Leave the notebook's global state as it is: seeds, default dtype and device, grad mode, threads."""
    numpy = sys.modules.get("numpy")
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    dtype, device, grad = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    autocast = torch.is_autocast_enabled("cpu")
    try:
        with torch.inference_mode(False):
            torch.set_num_threads(1)  # small tensors are faster that way
            reset()
            yield
    finally:
        torch.set_default_dtype(dtype)
        if device.type != "cpu":
            torch.set_default_device(device)
        torch.set_grad_enabled(grad)
        torch.set_num_threads(threads)
        if deterministic:
            torch.use_deterministic_algorithms(True)
        torch.set_autocast_enabled("cpu", autocast)
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """Stop after `SECONDS`, where the system has an alarm and this is the main thread; and again, if that is swallowed."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_):
        raise Stop

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
