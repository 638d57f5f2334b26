"""Bounds of a job in a process of its own, and the end of all that it started; what a system does not offer is said."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

try:
    import resource
except ImportError:  # Windows
    resource = None

LINUX = sys.platform == "linux"
MEMORY = 2 * 2**30
MAX_FILE = 64 * 2**20
MAX_THREADS = 256
GRACE = 1.0  # seconds between the last word of a child and its end
BROKEN = 70  # the status of a child in which the grader's own code failed
DIE_WITH_PARENT, ADOPT_ORPHANS = 1, 36  # Linux's prctl


def not_in_force(fork: bool) -> list[str]:
    """In words, which bounds this system does not offer."""
    missing = []
    if resource is None or not LINUX:
        missing.append("memory is not bounded")
    if resource is None:
        missing.append("files may grow")
    if not LINUX:
        missing.append("a process that your code starts by C may outlive it")
    if not fork:
        missing.append("each exercise starts a process of its own, which takes a few seconds")
    return missing


def prctl(option: int, value: int) -> None:
    """Ask Linux for something; elsewhere nothing happens."""
    if LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of all that learners' code starts and leaves behind."""
    prctl(ADOPT_ORPHANS, 1)


def die_with_parent(parent: int) -> None:
    """Do not outlive a parent that is interrupted or killed."""
    prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def set_limits(seconds: float) -> None:
    """Bounds on memory, processor time, files and threads; where the system has none, the judge's clock remains."""
    if resource is None:
        return
    # what this process has used before, as it loaded torch, is not the learner's
    bounds = {"RLIMIT_CPU": int(seconds + time.process_time()) + 1, "RLIMIT_FSIZE": MAX_FILE, "RLIMIT_CORE": 0}
    if LINUX:
        bounds["RLIMIT_AS"] = address_space() + MEMORY
        if os.getuid() != 0:  # it does not bind root
            bounds["RLIMIT_NPROC"] = threads_of_user() + MAX_THREADS
    for name, bound in bounds.items():
        try:
            limit = getattr(resource, name)
            hard = resource.getrlimit(limit)[1]
            bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
            resource.setrlimit(limit, (bound, bound))
        except (AttributeError, ValueError, OSError):
            continue


def address_space() -> int:
    """Bytes of address space of this process."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def threads_of_user() -> int:
    """How many threads this user has, which count against the bound on them."""
    count = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                count += len(os.listdir(f"/proc/{entry.name}/task")) if entry.stat().st_uid == os.getuid() else 0
            except OSError:  # it has just ended
                continue
    return count


def status_of(child: int) -> int | None:
    """The status with which a child ends; None if it has closed its pipe and goes on."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.001)
    return None


def how_it_ended(status: int | None) -> str:
    """A child's end in a word."""
    if status is None:
        return "closed"
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return "broken" if os.WEXITSTATUS(status) == BROKEN else "done"


def end_all(child: int, ended: bool) -> None:
    """End a child, unless it has ended, its group, and what it has left behind."""
    for kill in (os.killpg,) if ended else (os.killpg, os.kill):
        try:
            kill(child, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            for orphan in children():
                os.kill(orphan, signal.SIGKILL)
            time.sleep(0.001)


def children() -> list[int]:
    """This process's children, where the system tells."""
    found = []
    for entry in os.scandir("/proc") if LINUX else ():
        try:
            with open(f"/proc/{entry.name}/stat") as file:
                if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                    found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found
