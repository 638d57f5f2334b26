"""Shut in the process that runs learners' code: for the teacher's run, on Linux.

`protections` says what of this holds on a machine, after trying it; `autograder.isolation.serve` is the process itself.
docs/isolation.md says what this prevents, and what it does not.
"""

from __future__ import annotations

import functools
import json
import os
import site
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

LINUX = sys.platform == "linux"
READY = 60.0  # seconds for the process to load torch and to shut itself in
SCRATCH = "scratch-{}-"  # begins the name of a scratch folder in /tmp, with the number of the process that made it
PROMISES = {
    "network": "no network, not even loopback",
    "reading": "reads no files but Python's and the system's libraries",
    "writing": "writes nowhere but in its scratch folder",
    "processes": "sees and signals no other process",
    "programs": "starts no program and no process",
    "rights": "has no rights of its user, nor of root",
    "memory": "bounded memory",
    "threads": "bounded number of threads",
    "time": "bounded time",
    "disk": "bounded disk",
    "output": "bounded output",
}


class SandboxError(RuntimeError):
    """Learners' code cannot be shut in as asked; the message says why."""


@dataclass(frozen=True)
class Protection:
    """One thing that learners' code must not be able to do, tried out on this machine.

    Attributes:
        name: what is promised.
        in_force: it was tried from inside and was not possible.
        how: what holds it, or why it does not hold.
    """

    name: str
    in_force: bool
    how: str


@functools.cache
def protections() -> list[Protection]:
    """What is in force on this machine, found out by trying (about 0.2 s)."""
    if not LINUX:
        return nothing_holds(f"not on {sys.platform}")
    with tempfile.TemporaryDirectory(prefix="outside-") as outside:
        os.chmod(outside, 0o755)
        Path(outside, "secret").write_text("secret")
        arguments, answer = [*command(1.0), outside, str(os.getpid())], {}
        try:
            done = subprocess.run(arguments, env=clean_environment(), capture_output=True, timeout=READY)
            answer = json.loads(done.stdout[8:] or b"{}")  # one frame
            by, checks = answer["by"], answer["checks"]
        except subprocess.TimeoutExpired:
            return nothing_holds("no answer")
        except (KeyError, ValueError):
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            return nothing_holds(answer.get("failed") or "".join(lines[-1:]) or "no answer")
    return [Protection(PROMISES[key], trouble is None, trouble or by[key]) for key, trouble in checks.items()]


def nothing_holds(reason: str) -> list[Protection]:
    """What is in force where the sandbox does not even start."""
    return [Protection(name, False, reason) for name in PROMISES.values()]


def require_all() -> None:
    """Accept this machine only if every protection is in force.

    Raises:
        SandboxError: one is not; the message names each that is missing.
    """
    missing = [f"{p.name}: {p.how}" for p in protections() if not p.in_force]
    if missing:
        raise SandboxError("not in force on this machine: " + "; ".join(missing))


def command(seconds: float) -> list[str]:
    """Starts a worker that is shut in."""
    return [sys.executable, "-m", "autograder.isolation.serve", str(seconds)]


def clean_environment() -> dict[str, str]:
    """The worker's environment: nothing of the teacher's but where Python's packages are."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    if site.ENABLE_USER_SITE:
        kept["PYTHONUSERBASE"] = site.getuserbase()
    return {
        **kept,
        "PATH": "/usr/bin:/bin",
        "HOME": "/scratch",
        "TMPDIR": "/scratch",
        "USER": "learner",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",  # compiling would start compilers; decorated functions run as they are written
    }


def remove_scratch_of(process: int) -> None:
    """Remove what a worker without a file tree of its own leaves when it is killed."""
    for folder in Path("/tmp").glob(SCRATCH.format(process) + "*"):
        remove(str(folder))


def remove(folder: str) -> None:
    """Remove a folder, whatever learners' code has made of it."""
    try:
        os.rmdir(folder)  # most jobs leave nothing
    except OSError:
        # these remove folders that are nested too deeply for Python, or closed to their owner
        for command in (["rm", "-rf"], ["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            if os.path.isdir(folder):
                subprocess.run([*command, folder], stderr=subprocess.DEVNULL)
