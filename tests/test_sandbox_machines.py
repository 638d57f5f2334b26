"""The sandbox itself: what it tries out, what it says of a lesser machine, and that nothing of it outlives its judge."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autograder import runner, sandbox
from autograder.runner import Worker

if sys.platform != "linux":
    pytest.skip("the sandbox is Linux's", allow_module_level=True)
from sandboxed import HONEST, NO_NAMESPACES, children_of, run

from autograder.isolation import namespaces, seccomp

WITHOUT_NAMESPACES = [sandbox.PROMISES[key] for key in ("threads", "disk")]
WITHOUT_FILE_RULES = [sandbox.PROMISES[key] for key in ("reading", "writing", "processes", "threads", "disk")]


def test_protections_are_tried_out():
    found = sandbox.protections()
    assert [p.name for p in found] == list(sandbox.PROMISES.values())
    assert all(p.how for p in found)
    if not NO_NAMESPACES and not seccomp.available():
        assert all(p.in_force for p in found), found


@pytest.mark.parametrize(
    "machine, missing",
    [
        ("ordinary", []),
        ("no-landlock", []),
        ("no-namespaces", WITHOUT_NAMESPACES),
        ("ordinary,no-namespaces", WITHOUT_NAMESPACES),
        ("ordinary,no-namespaces,no-landlock", WITHOUT_FILE_RULES),
    ],
)
def test_a_lesser_machine_says_what_is_missing_and_strict_refuses(machine, missing, monkeypatch):
    if NO_NAMESPACES and "no-namespaces" not in machine:
        pytest.skip(NO_NAMESPACES)
    lesser = [sys.executable, str(Path(__file__).parent / "lesser_machine.py"), machine, *sandbox.command(1.0)]
    monkeypatch.setattr(sandbox, "command", lambda seconds: lesser)
    monkeypatch.setattr(sandbox, "protections", sandbox.protections.__wrapped__)
    found = {p.name: p for p in sandbox.protections()}
    assert [name for name, p in found.items() if not p.in_force] == missing
    assert all("no namespaces" in found[name].how for name in missing)
    if missing:
        with pytest.raises(sandbox.SandboxError, match="bounded disk"):
            Worker(sandbox=True, strict=True)
    else:
        Worker(sandbox=True, strict=True)


def test_other_systems_say_so(monkeypatch):
    monkeypatch.setattr(sandbox, "LINUX", False)
    monkeypatch.setattr(sandbox, "protections", sandbox.protections.__wrapped__)
    assert not any(p.in_force for p in sandbox.protections())
    with pytest.raises(sandbox.SandboxError):
        sandbox.require_all()


def test_a_sandbox_that_cannot_start_is_no_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "command", lambda seconds: [sys.executable, "-c", "raise SystemExit(1)"])
    with pytest.raises(sandbox.SandboxError):
        run(Worker(sandbox=True), HONEST, tmp_path)


def test_everything_ends_with_the_judge(tmp_path):
    script = tmp_path / "judge.py"
    script.write_text(
        "import os, sys, time\nfrom autograder.runner import Worker\nw = Worker(sandbox=True)\nw.start()\nw.greet()\n"
        "print(w.process.pid, flush=True)\ntime.sleep(60)\n"
    )
    judge = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    pids = {int(judge.stdout.readline())}
    pids |= children_of(judge.pid)
    judge.kill()
    judge.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_numbers_of_system_calls_are_the_kernels():
    headers = [f"/usr/include/{platform.machine()}-linux-gnu/asm/unistd_64.h", "/usr/include/asm-generic/unistd.h"]
    for column, header in enumerate(headers):
        if not os.path.exists(header):
            continue
        words = [line.split() for line in Path(header).read_text().splitlines() if line.startswith("#define __NR")]
        known = {w[1].removeprefix("__NR3264_").removeprefix("__NR_"): int(w[2]) for w in words if w[2].isdigit()}
        for name, numbers in seccomp.NUMBERS.items():
            if name in known:
                assert numbers[column] == known[name], name
    looked_into = {"clone", "clone3", "socketpair", "prctl", "open", "openat", "openat2"}
    assert {*seccomp.DENIED, *seccomp.ONLY_ITSELF, *seccomp.FILE_ATTRIBUTES.split(), *looked_into} == set(
        seccomp.NUMBERS
    )


def test_one_process_kills_all_only_in_its_own_tree():
    with pytest.raises(RuntimeError, match="tree of its own"):
        namespaces.end_all_others()
