"""The way in: namespaces once for a worker, then for every job the locks that cannot be opened again."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Collection

from autograder.children import address_space, threads_of_user
from autograder.isolation import landlock, limits, linux, namespaces, seccomp
from autograder.isolation.files import DEVICES, view, without
from autograder.isolation.limits import Limits
from autograder.sandbox import SCRATCH, remove

STRANGERS = range(0x60000000, 0x70000000)  # user numbers that nobody has
NOBODY = 65534
OTHERS_MAY_START = 4096  # threads of the same user, where the system counts them together with ours


class Room:
    """A process shuts itself in by `enter` and `close`; a child for one job by `lock`.

    Attributes:
        flags: of the namespaces; 0 without.
        why: reasons for what is missing.
        user: number of the user that jobs run as, where it is not that of the worker.
        scratch: the job's folder.
    """

    def __init__(self, bounds: Limits):
        self.bounds, self.user = bounds, None
        self.flags, reason = namespaces.possible()
        self.why = [reason] if reason else []
        self.landlock = landlock.version()
        self.seccomp = seccomp.available() is None
        if not self.landlock:
            self.why.append("no Landlock (Linux 5.13 and newer, with it enabled)")
        if not self.seccomp:
            self.why.append(f"no filter of system calls ({seccomp.available()})")

    def enter(self) -> None:
        """Move into namespaces; to be called with one thread only, before anything large is loaded."""
        if self.flags:
            namespaces.enter(self.flags)

    def close(self) -> None:
        """Leave the machine's file tree; what is loaded from it has to be loaded before."""
        self.size, seen = address_space(), view()
        self.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.others = 0
        if self.flags:
            namespaces.build(seen)
            self.scratch, self.readable, self.listed = namespaces.SCRATCH, list(seen.readable), []
        else:
            self.scratch, pieces = "", [without(top, seen.hidden) for top in seen.readable]
            self.readable = [path for inner, _ in pieces for path in inner]
            self.listed = [path for _, names in pieces for path in names]
            self.others = threads_of_user() + OTHERS_MAY_START
            os.chdir("/")
        self.readable += seen.shown
        self.listed += map(os.path.dirname, seen.shown)  # Python lists a package's folder to find what is in it
        if os.geteuid() == 0 and not self.flags & linux.CLONE_NEWUSER:
            self.choose_user()

    def choose_user(self) -> None:
        """Another user than root for jobs: a number of their own, so that they share nothing with anybody."""
        for user in (random.SystemRandom().choice(STRANGERS), NOBODY):
            reason = namespaces.fails(lambda user=user: (become(user), os.close(os.open(os.__file__, os.O_RDONLY))))
            if reason is None:
                self.user, self.others = user, self.others if user == NOBODY else 0
                return
        self.why.append(f"jobs run as root, without its rights, because no other user will do ({reason})")

    def renew_scratch(self) -> None:
        """An empty scratch folder, in place of the last job's."""
        user = os.geteuid() if self.user is None else self.user
        if self.flags:
            group = os.getegid() if self.user is None else self.user
            namespaces.new_scratch(self.bounds.disk, user, group)
        else:
            self.remove_scratch()
            self.scratch = tempfile.mkdtemp(prefix=SCRATCH.format(os.getpid()), dir="/tmp")
            if self.user is not None:
                os.chown(self.scratch, user, user)
        os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = self.scratch

    def remove_scratch(self) -> None:
        """Remove a scratch folder that lies in the machine's file tree, whatever was made of it."""
        if self.flags or not os.path.isdir(self.scratch):
            return
        remove(self.scratch)

    def lock(self, keep: Collection[int]) -> None:
        """Give up, in a job's own process, what its code must not have. There is no way back.

        Args:
            keep: file descriptors beyond 2 that stay open.
        """
        os.setsid()
        self.offer_to_be_killed()
        close_all_but(keep)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.close(null)
        os.chdir(self.scratch)
        os.umask(0o077)
        limits.restrict(self.bounds, self.size, self.others)
        if self.user is not None:
            become(self.user)
        linux.drop_capabilities()
        linux.prctl(linux.PR_SET_PDEATHSIG, 9)
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        if self.landlock:
            landlock.restrict(self.readable, self.listed, [self.scratch], DEVICES)
        if self.seccomp:
            seccomp.restrict(file_attributes=not self.flags)

    def offer_to_be_killed(self) -> None:
        """Where the whole machine runs out of memory, it is the job that ends, and not the judge."""
        try:
            fd = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=self.proc)
        except OSError:
            return
        os.write(fd, b"1000")
        os.close(fd)

    def layers(self) -> dict[str, str]:
        """What holds each promise, in words."""
        tree, rules, filtered = bool(self.flags), bool(self.landlock), self.seccomp
        by = {
            "network": {
                "a network namespace": tree,
                "a filter of system calls": filtered,
                "Landlock": self.landlock >= 4,
            },
            "reading": {"a file tree of its own": tree, "Landlock": rules, "another user": self.user is not None},
            "writing": {"a read-only file tree": tree, "Landlock": rules, "another user": self.user is not None},
            "processes": {"a process tree of its own": tree, "a filter of system calls": filtered},
            "programs": {"a filter of system calls": filtered, "Landlock": rules, "limits": True},
            "rights": {"no capabilities, no new privileges": True, "another user": self.user is not None},
            "memory": {"limits": True, "a filter of system calls": filtered},
            "threads": {"limits": True},
            "time": {"the judge's clock": True, "limits": True},
            "disk": {"scratch of a fixed size": tree, "limits": True},
            "output": {"the judge counts": True, "limits": True},
        }
        return {name: ", ".join(what for what, there in one.items() if there) for name, one in by.items()}


def become(user: int) -> None:
    """Go on as another user, for ever."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def close_all_but(keep: Collection[int]) -> None:
    """Close file descriptors beyond 2."""
    last = 2
    for fd in sorted(keep):
        os.closerange(last + 1, fd)
        last = fd
    os.closerange(last + 1, 65536)
