"""Try, from inside, what must not be possible. Each check returns None, or says what it could do."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path

from autograder.isolation import linux
from autograder.isolation.limits import Limits

GOT = "could "


def run(outside: str, judge: int, bounds: Limits) -> dict[str, str | None]:
    """Every check by name: None, or what was possible.

    Args:
        outside: a folder with a readable file `secret` that must be out of reach.
        judge: number of a process outside.
        bounds: of a job.
    """
    return {
        "network": network(),
        "reading": reading(outside),
        "writing": writing(outside),
        "processes": processes(judge),
        "programs": programs(),
        "rights": rights(),
        "memory": memory(),
        "threads": threads(bounds.threads),
        "time": bounded(resource.RLIMIT_CPU, "processor time"),
        "disk": disk(bounds.disk),
        "output": bounded(resource.RLIMIT_FSIZE, "the size of files"),
    }


def refused(action: Callable[[], object]) -> bool:
    """Whether the system says no."""
    try:
        action()
    except OSError:
        return True
    return False


def network() -> str | None:
    """Connect to an address that is nobody's, and to this machine; make a socket for its other programs."""
    for family, kind, address in (
        (socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 9)),  # no packet is sent by this
        (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 9)),
        (socket.AF_INET6, socket.SOCK_DGRAM, ("::1", 9)),
    ):
        if not refused(lambda f=family, k=kind, a=address: socket.socket(f, k).connect(a)):
            return f"{GOT}connect to {address[0]}"
    try:
        socket.socket(socket.AF_UNIX).connect("\0nobody-listens-here")
    except (PermissionError, FileNotFoundError):
        return None
    except OSError:  # nobody answers, in a network of its own or in the machine's
        own = refused(lambda: os.stat("/proc/net/dev"))
        return None if own else f"{GOT}look for sockets of other programs"
    return f"{GOT}connect to another program's socket"


def reading(outside: str) -> str | None:
    """Open what is not needed."""
    ours = Path(__file__).resolve().parents[1]
    for path in (
        f"{outside}/secret",
        str(ours / "judge.py"),
        "/etc/passwd",
        "/proc/self/environ",
        "/sys/kernel/uevent_seqnum",
    ):
        if not refused(lambda p=path: os.close(os.open(p, os.O_RDONLY))):
            return f"{GOT}read {path}"
    return None


def writing(outside: str) -> str | None:
    """Make, cut short, mark and remove files outside of scratch; and make one inside, which must work."""
    secret = f"{outside}/secret"
    places = [outside, "/", "/var/tmp", "/dev/shm", sysconfig.get_paths()["purelib"], sysconfig.get_paths()["stdlib"]]
    for place in places:
        if not refused(lambda p=place: os.close(os.open(f"{p}/.written", os.O_CREAT | os.O_WRONLY, 0o600))):
            return f"{GOT}write in {place}"
    for what, action in {
        "cut short": lambda: os.truncate(secret, 0),
        "open and cut short": lambda: os.close(os.open(secret, os.O_RDONLY | os.O_TRUNC)),
        "change the mode of": lambda: os.chmod(secret, 0o600),
        "change the time of": lambda: os.utime(secret, (0, 0)),
        "remove": lambda: os.unlink(secret),
    }.items():
        if not refused(action):
            return f"{GOT}{what} a file outside"
    if refused(lambda: os.close(os.open("mine", os.O_CREAT | os.O_WRONLY, 0o600))):
        return "cannot write in its scratch folder"
    os.unlink("mine")
    return None


def processes(judge: int) -> str | None:
    """Signal the judge, read another process, attach to one."""
    if not refused(lambda: os.kill(judge, 0)):
        return f"{GOT}signal another process"
    if not refused(lambda: os.setpriority(os.PRIO_PROCESS, judge, 19)):
        return f"{GOT}slow down another process"
    if not refused(lambda: resource.prlimit(judge, resource.RLIMIT_CORE)):
        return f"{GOT}read and set the limits of another process"
    if not refused(lambda: os.open(f"/proc/{judge}/stat", os.O_RDONLY)):
        return f"{GOT}read another process"
    if not refused(lambda: linux.checked(linux.libc.ptrace(0, 0, 0, 0), "ptrace")):
        return f"{GOT}use ptrace"
    return None


def programs() -> str | None:
    """Fork; start the shell."""

    def fork() -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    if not refused(fork):
        return f"{GOT}fork"
    # with arguments that no kernel takes: a call that is allowed fails with EFAULT, and nothing starts
    try:
        linux.checked(linux.libc.execve(ctypes.c_void_p(1), None, None), "execve")
    except PermissionError:
        return None
    except OSError:
        pass
    return f"{GOT}start programs"


def rights() -> str | None:
    """Capabilities; new rights by starting a program; new namespaces."""
    if linux.capabilities():
        return "has capabilities"
    if not linux.prctl(linux.PR_GET_NO_NEW_PRIVS):
        return f"{GOT}gain rights from programs"
    if not refused(lambda: linux.unshare(linux.CLONE_NEWUSER)):
        return f"{GOT}become root in a namespace"
    return None


def memory() -> str | None:
    """Limit of the address space, and memory that it does not count."""
    if not refused(lambda: os.close(os.memfd_create("more"))):
        return f"{GOT}take memory that no limit counts"
    return bounded(resource.RLIMIT_AS, "memory")


def threads(most: int) -> str | None:
    """Start one more than may be, each as small as it can be."""
    threading.stack_size(65536)
    stop, started = threading.Event(), 0
    try:
        while started <= most:
            threading.Thread(target=stop.wait, daemon=True).start()
            started += 1
    except RuntimeError:
        return None
    finally:
        stop.set()
    return f"{GOT}start {started} threads"


def bounded(limit: int, what: str) -> str | None:
    """A limit of this process that cannot be raised."""
    soft, hard = resource.getrlimit(limit)
    if hard == resource.RLIM_INFINITY:
        return f"no limit on {what}"
    try:
        resource.setrlimit(limit, (soft, hard + 1))
    except (ValueError, OSError):
        return None
    return f"{GOT}raise the limit on {what}"


def disk(megabytes: int) -> str | None:
    """Size of the file system that holds scratch."""
    found = os.statvfs(".")
    if found.f_blocks * found.f_frsize > megabytes * 2**20:
        return f"each file is bounded by {megabytes} MB, their number is not"
    return None
