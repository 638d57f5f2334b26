"""What one job may use of the machine."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from autograder.children import MAX_FILE, MAX_THREADS, MEMORY

MEGABYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """Bounds of one job; those that an ordinary worker has, too, are the same.

    Attributes:
        seconds: by the clock.
        memory: megabytes beyond what the process takes before the job.
        disk: megabytes of scratch.
        output: megabytes that may be handed back.
        threads: of one job.
        files: open at once.
    """

    seconds: float
    memory: int = MEMORY // MEGABYTE
    disk: int = MAX_FILE // MEGABYTE
    output: int = 256
    threads: int = MAX_THREADS
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
