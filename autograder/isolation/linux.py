"""Kernel calls that Python does not have, by ctypes. Each raises `OSError` with the name of the call."""

from __future__ import annotations

import ctypes
import os

AT_EMPTY_PATH, AT_RECURSIVE = 0x1000, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 1 << 14, 1 << 18
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP = 0x10000000, 0x20000000, 0x40000000, 0x02000000
PR_SET_PDEATHSIG, PR_GET_SECCOMP, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 1, 21, 22, 38, 39

# calls from 2018 on have one number on every architecture
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """The result of a call, or the error that it left."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def syscall(number: int, what: str, *arguments: object) -> int:
    """A call that libc may have no function for; numbers are passed in full width."""
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return checked(libc.syscall(ctypes.c_long(number), *wide), what)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    checked(libc.unshare(flags), "unshare")


def prctl(option: int, *arguments: int, what: str = "prctl") -> int:
    """Ask or tell the kernel something about this process."""
    padded = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    return checked(libc.prctl(option, *padded), what)


def mount(kind: str, target: str, flags: int, options: str = "") -> None:
    """Mount a file system, or change how changes of the mount tree spread."""
    source, name = kind.encode(), None if kind == "none" else kind.encode()
    checked(libc.mount(source, target.encode(), name, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def unmount(target: str) -> None:
    """Take a file system out of the tree at once, even if it is in use."""
    checked(libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def copy_of_tree(path: str, attributes: int) -> int:
    """A detached copy of the tree below a path, submounts included, with attributes; its file descriptor."""
    flags = 1 | os.O_CLOEXEC | AT_RECURSIVE  # 1 is OPEN_TREE_CLONE
    fd = syscall(OPEN_TREE, f"open_tree {path}", -100, path.encode(), flags)
    set_attributes(fd, attributes, AT_RECURSIVE)
    return fd


class MountAttributes(ctypes.Structure):
    """struct mount_attr"""

    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def set_attributes(fd: int, attributes: int, flags: int = 0) -> None:
    """Set mount attributes of an open tree."""
    wanted = MountAttributes(set=attributes)
    size = ctypes.sizeof(wanted)
    syscall(MOUNT_SETATTR, "mount_setattr", fd, b"", AT_EMPTY_PATH | flags, ctypes.byref(wanted), size)


def attach(fd: int, target: str) -> None:
    """Mount a detached tree on a path."""
    syscall(MOVE_MOUNT, f"move_mount {target}", fd, b"", -100, target.encode(), 4)  # 4 is MOVE_MOUNT_F_EMPTY_PATH


def change_root() -> None:
    """Make the current folder, a mount, the root; nothing of the old tree can be reached any more."""
    checked(libc.pivot_root(b".", b"."), "pivot_root")
    unmount(".")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every capability of this process."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    checked(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def capabilities() -> int:
    """The effective capabilities as bits."""
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    checked(libc.capget(header, data), "capget")
    return data[0] | data[3] << 32
