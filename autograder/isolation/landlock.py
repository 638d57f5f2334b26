"""Landlock: the kernel's file rules for unprivileged processes (Linux 5.13 and newer).

Everything that the kernel knows to forbid is forbidden, and a few folders are allowed again. Programs cannot be started from
anywhere: no rule grants that.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from autograder.isolation import linux

WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG, MAKE_SYM = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12
REFER, TRUNCATE = 1 << 13, 1 << 14  # rename and link across folders; cut a file short

READ = READ_FILE | READ_DIR
WRITE = WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER | TRUNCATE
RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many rights on files a version of Landlock knows
ON_FILES = READ_FILE | WRITE_FILE | TRUNCATE


class Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr"""

    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "network", "scoped")]


class PathRule(ctypes.Structure):
    """struct landlock_path_beneath_attr"""

    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """The kernel's version of Landlock; 0 where there is none."""
    try:
        return linux.syscall(linux.LANDLOCK_CREATE_RULESET, "landlock", None, 0, 1)
    except OSError:
        return 0


def restrict(readable: Iterable[str], listed: Iterable[str], writable: Iterable[str], devices: Iterable[str]) -> int:
    """Bind this process and its children for ever; the version of Landlock that does.

    Args:
        readable: files and folders that may be read, with all that is below.
        listed: folders whose names may be listed, and the names below.
        writable: folders in which everything may be done but starting programs.
        devices: files that may be read and written.

    Raises:
        OSError: the kernel has no Landlock.
    """
    known = version()
    handled = (1 << RIGHTS.get(known, RIGHTS[5])) - 1
    attributes = Ruleset(handled)
    if known >= 4:
        attributes.network = 0b11  # bind and connect of TCP
    if known >= 6:
        attributes.scoped = 0b11  # abstract sockets of, and signals to, processes outside
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    ruleset = linux.syscall(linux.LANDLOCK_CREATE_RULESET, "landlock", ctypes.byref(attributes), size, 0)
    for paths, rights in (
        (readable, READ),
        (listed, READ_DIR),
        (writable, READ | WRITE),
        (devices, READ_FILE | WRITE_FILE),
    ):
        for path in paths:
            allow(ruleset, path, rights & handled)
    linux.syscall(linux.LANDLOCK_RESTRICT_SELF, "landlock_restrict_self", ruleset, 0)
    os.close(ruleset)
    return known


def allow(ruleset: int, path: str, rights: int) -> None:
    """Allow something below a path; one that is not there, or is a link, is passed over."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        mode = os.fstat(fd).st_mode
        if mode & 0o170000 == 0o120000:
            return
        rule = PathRule(rights if mode & 0o170000 == 0o040000 else rights & ON_FILES, fd)
        linux.syscall(linux.LANDLOCK_ADD_RULE, f"landlock {path}", ruleset, 1, ctypes.byref(rule), 0)
    finally:
        os.close(fd)
