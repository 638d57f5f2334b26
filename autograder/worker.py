"""The process that runs learners' code: it is handed code and inputs, and hands back numbers. It never judges.

`python -m autograder.worker` loads torch once, then takes jobs on its standard input. Where the system can fork, each job runs
in a forked child with limits, so that a crash or an endless loop costs that job only; elsewhere the process takes one job and
ends, and the judge starts another.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import os
import select
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable
from typing import BinaryIO

import torch

from autograder import probes, wire
from autograder.observe import LEARNER, ReferenceUsed, describe, observe, own_line
from autograder.statements import AWAIT

MAX_RESULT = 256 * 2**20
MAX_FILE = 64 * 2**20
MEMORY = 4 * 2**30
TORCH = os.path.dirname(torch.__file__)
CAN_FORK = hasattr(os, "fork")


def main() -> None:
    """Take jobs until the input ends."""
    jobs, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    silence()
    torch.set_num_threads(1)
    while True:
        frame = read_frame(jobs)
        if frame is None:
            return
        job = wire.unpack(frame)
        for module in job["preload"]:
            importlib.import_module(module)
        if CAN_FORK and not job["one_process"]:
            answer, ending = run_in_child(job, [jobs.fileno(), results.fileno()])
            results.write(wire.framed(wire.pack({"ending": ending})) + wire.framed(answer))
            results.flush()
        else:
            run_job(job, lambda content: (results.write(wire.framed(content)), results.flush()))
            return


def read_frame(stream: BinaryIO) -> bytes | None:
    """One frame, None at the end of the stream."""
    head = stream.read(wire.LENGTH.size)
    if len(head) < wire.LENGTH.size:
        return None
    return stream.read(wire.LENGTH.unpack(head)[0])


def silence() -> None:
    """Nobody answers questions here, and nobody reads what is printed."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def run_in_child(job: dict, close: list[int]) -> tuple[bytes, str]:
    """Run a job in a forked child; its frames, and how it ended: "done", "timeout", "flood" or what killed it."""
    with tempfile.TemporaryDirectory(prefix="grading-", ignore_cleanup_errors=True) as scratch:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                for fd in [reading, *close]:
                    os.close(fd)
                os.chdir(scratch)
                set_limits(job["seconds"])
                run_job(job, lambda content: write_all(writing, wire.framed(content)))
            finally:
                os._exit(0)
        os.close(writing)
        answer, ending = collect(reading, time.monotonic() + job["seconds"])
        kill_group(child)
        os.close(reading)
        _, status = os.waitpid(child, 0)
        if ending == "done" and os.WIFSIGNALED(status):
            ending = signal.Signals(os.WTERMSIG(status)).name
        return answer, ending


def write_all(fd: int, content: bytes) -> None:
    """Write to a pipe."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def collect(fd: int, deadline: float) -> tuple[bytes, str]:
    """All bytes until the pipe closes, the time is up, or there are too many."""
    chunks, size = [], 0
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return b"".join(chunks), "timeout"
        chunk = os.read(fd, 2**20)
        if not chunk:
            return b"".join(chunks), "done"
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_RESULT:
            return b"".join(chunks), "flood"


def kill_group(child: int) -> None:
    """End a child and what it started."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            pass


def set_limits(seconds: float) -> None:
    """Bounds on memory, processor time, files; where the system has none, the judge's clock remains."""
    try:
        import resource
    except ImportError:
        return
    used = 0
    try:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    bounds = {"RLIMIT_AS": used + MEMORY, "RLIMIT_CPU": int(seconds) + 1, "RLIMIT_FSIZE": MAX_FILE, "RLIMIT_CORE": 0}
    for name, bound in bounds.items():
        try:
            resource.setrlimit(getattr(resource, name), (bound, bound))
        except (AttributeError, ValueError, OSError):
            continue


def run_job(job: dict, send: Callable[[bytes], object]) -> None:
    """Load the learner's code, call the function on every case, send what happened after each call."""
    untouched = snapshot()
    hide_reference(job["reference"])
    namespace, trouble = load(job["cells"])
    send(wire.pack({"trouble": trouble, "found": job["name"] in namespace}))
    if job["name"] not in namespace:
        return
    function, probe = namespace[job["name"]], getattr(probes, job["probe"])
    for index in job["order"]:
        seen = observe(function, job["cases"][index], probe, tuple(job["parts"]), job["gradients"][index])
        seen.reference_used |= Hidden.touched
        seen.state += [f"{name}, which it replaces" for name in replaced(untouched)]
        send(wire.pack_observation(seen))
        if seen.missing or seen.reference_used:
            return


def load(cells: list[dict]) -> tuple[dict, list[str]]:
    """Run the statements that the function needs, and say which of them failed."""
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    builtins.input = no_input
    trouble, flags = [], 0
    for cell in cells:
        nodes = compile(cell["source"], LEARNER + cell["name"], "exec", AWAIT, dont_inherit=True).body
        for index in cell["statements"]:
            node = nodes[index]
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                flags |= annotations_flag(node)
            try:
                code = compile(ast.Module([node], []), LEARNER + cell["name"], "exec", flags, dont_inherit=True)
                exec(code, module.__dict__)
            except ReferenceUsed:
                Hidden.touched = True
            except BaseException as error:  # a learner's code may raise anything
                trouble.append(f"{describe(error)} ({own_line(error) or cell['name']})")
    return module.__dict__, trouble


def annotations_flag(node: ast.ImportFrom) -> int:
    """Compiler flags of a `from __future__` import, which hold for all later cells."""
    import __future__

    return sum(getattr(__future__, alias.name).compiler_flag for alias in node.names if hasattr(__future__, alias.name))


def no_input(prompt: object = "") -> str:
    """In place of `input`."""
    raise EOFError("input() waits for somebody to type, and nobody is there while your code is graded")


class Hidden:
    """Whether the learner's code has touched the reference."""

    touched = False
    files: tuple[str, ...] = ()


def hide_reference(reference: dict) -> None:
    """Make the reference of the exercise unusable in this process: calling it, or reading its file, is noticed."""
    module = sys.modules.get(reference["module"])
    if module is None:
        return

    def refuse(*args, **kwargs):
        raise sys.modules["autograder.observe"].ReferenceUsed

    function = getattr(module, reference["name"])
    function.__code__ = refuse.__code__
    Hidden.files = (os.path.realpath(module.__file__), os.path.realpath(module.__cached__ or module.__file__))
    sys.addaudithook(notice)


def notice(event: str, arguments: tuple) -> None:
    """Called by Python at every file that is opened and every module that is imported."""
    if event == "open" and isinstance(arguments[0], str) and os.path.realpath(arguments[0]) in Hidden.files:
        Hidden.touched = True
        raise PermissionError("the reference implementation of this exercise is hidden while your code is graded")
    if event == "import" and str(arguments[0]).startswith("autograder.lesson_"):
        Hidden.touched = True
        raise PermissionError("the grader's exercises are hidden while your code is graded")


WATCHED = (torch, torch.Tensor, torch.nn.functional, torch.autograd, torch.testing, torch.random, builtins)


def snapshot() -> list[dict]:
    """Torch's functions as they are."""
    return [dict(vars(owner)) for owner in WATCHED]


def replaced(before: list[dict]) -> list[str]:
    """Names of torch's functions that are not what they were."""
    names = []
    for owner, was in zip(WATCHED, before, strict=True):
        now = vars(owner)
        for name, one in was.items():
            if name != "input" and callable(one) and now.get(name) is not one and not of_torch(now.get(name)):
                names.append(f"{owner.__name__}.{name}")
    return names


def of_torch(one: object) -> bool:
    """Torch wraps some of its own functions when parts of it are imported late."""
    code = getattr(one, "__code__", None)
    return isinstance(code, types.CodeType) and code.co_filename.startswith(TORCH)


if __name__ == "__main__":
    main()
