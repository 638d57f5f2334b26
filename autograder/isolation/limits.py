"""What one job may use of the machine."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

MEGABYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """Bounds of one job.

    Attributes:
        seconds: by the clock.
        memory: megabytes beyond what the process takes before the job.
        disk: megabytes of scratch.
        output: megabytes that may be handed back.
        threads: of one job.
        files: open at once.
    """

    seconds: float
    memory: int = 4096
    disk: int = 64
    output: int = 256
    threads: int = 256
    files: int = 256


def restrict(limits: Limits, size: int, others: int) -> None:
    """Set the kernel's limits for this process, for ever.

    Args:
        limits: the bounds.
        size: bytes of address space already in use.
        others: threads of the same user that count, too.
    """
    bounds = {
        resource.RLIMIT_AS: size + limits.memory * MEGABYTE,
        resource.RLIMIT_CPU: int(limits.seconds) + 1,
        resource.RLIMIT_FSIZE: limits.disk * MEGABYTE,
        resource.RLIMIT_NPROC: others + limits.threads,
        resource.RLIMIT_NOFILE: limits.files,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for limit, bound in bounds.items():
        hard = resource.getrlimit(limit)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(limit, (bound, bound))


def address_space() -> int:
    """Bytes of address space of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def threads_of_user() -> int:
    """Threads of this user that can be seen."""
    count, user = 0, os.geteuid()
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == user:
                count += len(os.listdir(f"/proc/{entry.name}/task"))
        except OSError:
            continue
    return count
