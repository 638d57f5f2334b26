"""Namespaces: a process tree, a file tree, a network and a host name of one's own.

Root can have them at once; an ordinary user gets them inside a user namespace, where the kernel allows those.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from autograder.isolation import linux
from autograder.isolation.files import DEVICES, View, is_below

BASE = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS | linux.CLONE_NEWPID
INSIDE = 1000  # the user's number inside of a user namespace
SCRATCH = "/scratch"
own_tree = False  # this process is the first of a process tree of its own
SWITCHES = {  # files of the kernel that say why there are no user namespaces
    "/proc/sys/kernel/unprivileged_userns_clone": "0",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1",
    "/proc/sys/user/max_user_namespaces": "0",
}


def possible() -> tuple[int, str]:
    """Flags for `enter`, 0 if this machine gives no namespaces; then also why. Nothing is changed."""
    reasons = []
    for flags in (BASE, BASE | linux.CLONE_NEWUSER):
        reason = fails(lambda flags=flags: (separate(flags), build(View((), (), ()))))
        if reason is None:
            return flags, ""
        reasons.append(reason)
    return 0, f"no namespaces ({'; '.join([reasons[-1], *switches()])})"


def fails(action: Callable[[], object]) -> str | None:
    """Why an action fails, tried in a process of its own; None if it does not."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException as error:
            os.write(writing, str(getattr(error, "strerror", None) or error).encode()[:500] or b"error")
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        reason = pipe.read().decode("utf-8", "replace")
    os.waitpid(child, 0)
    return reason or None


def switches() -> list[str]:
    """Settings of the kernel that forbid user namespaces."""
    found = []
    for path, value in SWITCHES.items():
        try:
            with open(path) as file:
                if file.read().strip() == value:
                    found.append(f"{path} is {value}")
        except OSError:
            continue
    return found


def separate(flags: int) -> None:
    """Move this process, which must have one thread only, into new namespaces; its next child begins the process tree."""
    user, group = os.geteuid(), os.getegid()
    linux.unshare(flags)
    if flags & linux.CLONE_NEWUSER:
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"{INSIDE} {user} 1")
        write("/proc/self/gid_map", f"{INSIDE} {group} 1")
    linux.mount("none", "/", linux.MS_REC | linux.MS_PRIVATE)
    linux.libc.sethostname(b"localhost", 9)


def write(path: str, text: str) -> None:
    """Write a file of the kernel."""
    with open(path, "w") as file:
        file.write(text)


def enter(flags: int) -> None:
    """Go on as process 1 of a new process tree. The process that called waits for it, ends as it ends, and takes it along."""
    separate(flags)
    first = os.fork()
    if first:
        os.closerange(0, 100)
        _, status = os.waitpid(first, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    global own_tree
    own_tree = True
    linux.prctl(linux.PR_SET_PDEATHSIG, 9)


def build(view: View) -> None:
    """Make a file tree with nothing in it but what the view shows, read-only, and an empty place for scratch; move there."""
    quiet = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID
    links = {path: os.readlink(path) for path in view.readable if os.path.islink(path)}
    # copies are taken before the new root covers anything
    copies = [
        (path, linux.copy_of_tree(path, quiet | linux.MOUNT_ATTR_NODEV)) for path in view.readable if path not in links
    ]
    shown = [(path, linux.copy_of_tree(path, quiet | linux.MOUNT_ATTR_NODEV)) for path in view.shown]
    devices = [
        (path, linux.copy_of_tree(path, quiet | linux.MOUNT_ATTR_NOEXEC)) for path in DEVICES if os.path.exists(path)
    ]
    os.umask(0o022)
    place = next(p for p in ("/tmp", "/mnt", "/var/tmp") if os.path.isdir(p))
    linux.mount("tmpfs", place, linux.MS_NOSUID | linux.MS_NODEV, "size=1m,nr_inodes=4k,mode=755")
    os.chdir(place)
    for path, target in links.items():
        os.makedirs(inside(os.path.dirname(path)), exist_ok=True)
        os.symlink(target, inside(path))
    for path, tree in [*copies, *devices]:
        place_for(path, tree)
        linux.attach(tree, inside(path))
    for path in view.hidden:
        linux.mount(
            "tmpfs", inside(path), linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, "size=64k,nr_inodes=64,mode=755"
        )
    for path, tree in shown:
        place_for(path, tree)
        linux.attach(tree, inside(path))
    os.makedirs(inside(SCRATCH), exist_ok=True)
    if not any(is_below(path, "/tmp") for path in (*view.readable, *view.shown)):
        os.symlink(SCRATCH[1:], "tmp")
    linux.change_root()
    for path in ("/", *view.hidden):
        make_read_only(path)


def inside(path: str) -> str:
    """A path of the new tree, before it is the root."""
    return "." + path


def place_for(path: str, tree: int) -> None:
    """An empty folder or file to mount on."""
    if os.fstat(tree).st_mode & 0o170000 == 0o040000:
        os.makedirs(inside(path), exist_ok=True)
    else:
        os.makedirs(inside(os.path.dirname(path)), exist_ok=True)
        os.close(os.open(inside(path), os.O_CREAT | os.O_CLOEXEC, 0o644))


def make_read_only(path: str) -> None:
    """Of one mount."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    linux.set_attributes(fd, linux.MOUNT_ATTR_RDONLY)
    os.close(fd)


def new_scratch(megabytes: int, user: int, group: int) -> None:
    """An empty scratch folder in memory, in place of the last one."""
    if os.path.ismount(SCRATCH):
        linux.unmount(SCRATCH)
    options = f"size={megabytes}m,nr_inodes=4k,mode=700,uid={user},gid={group}"
    linux.mount("tmpfs", SCRATCH, linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, options)


def end_all_others() -> None:
    """End every process of the tree whose first process this is.

    Raises:
        RuntimeError: it is not; the signal would go to everybody else on the machine.
    """
    if not (own_tree and os.getpid() == 1):
        raise RuntimeError("not the first process of a tree of its own")
    try:
        os.kill(-1, 9)
    except ProcessLookupError:
        pass
