"""Run a command as on a machine that offers less: `python lesser_machine.py ordinary,no-namespaces COMMAND…`

ordinary: as an ordinary user, if this is root. no-namespaces: as in a container that forbids them. no-landlock: as on a
kernel without it.
"""

from __future__ import annotations

import errno
import os
import sys

sys.path.insert(0, os.environ["PYTHONPATH"])
from autograder.isolation import linux, seccomp  # noqa: E402
from autograder.isolation.files import tops  # noqa: E402

USER = 54321

REFUSED = {
    "no-namespaces": (["unshare", "mount", "setns"], errno.EPERM),
    "no-landlock": ([444, 445, 446], errno.ENOSYS),
}


def refuse(calls: list, error: int) -> None:
    """Answer some system calls with an error, here and in all children."""
    column, _ = seccomp.ARCHITECTURES[os.uname().machine]
    numbers = [call if isinstance(call, int) else seccomp.NUMBERS[call][column] for call in calls]
    lines = [seccomp.step(seccomp.LOAD, seccomp.NUMBER)]
    for number in numbers:
        lines += seccomp.if_call(number, seccomp.step(seccomp.RETURN, 0x00050000 | error))
    seccomp.install([*lines, seccomp.step(seccomp.RETURN, seccomp.ALLOW)])


def become_ordinary() -> None:
    """Go on as a user that nobody is, who can reach Python, its packages and the repository, but nothing private."""
    needed = tops(
        map(os.path.realpath, (sys.base_prefix, sys.prefix, os.environ["PYTHONPATH"], os.path.dirname(__file__)))
    )
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", linux.MS_REC | linux.MS_PRIVATE)
    copies = [(path, linux.copy_of_tree(path, 0)) for path in needed]
    for closed in sorted({top for path in needed for top in closed_above(path)}):
        linux.mount("tmpfs", closed, 0, "mode=755")
    for path, tree in copies:
        if not os.path.isdir(path):
            os.makedirs(path)
            linux.attach(tree, path)
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)


def closed_above(path: str) -> list[str]:
    """The topmost folder on the way to a path that only its owner may enter, if there is one."""
    parts = path.split("/")
    above = ["/".join(parts[:n]) for n in range(2, len(parts))]
    return [folder for folder in above if not os.stat(folder).st_mode & 0o001][:1]


def main() -> None:
    """Take away, then become the command."""
    kinds, *command = sys.argv[1:]
    for kind in filter(None, kinds.split(",")):
        if kind == "ordinary" and os.geteuid() == 0:
            become_ordinary()
        elif kind != "ordinary":
            linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
            refuse(*REFUSED[kind])
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
