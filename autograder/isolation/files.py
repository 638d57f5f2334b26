"""Which files a sandboxed process may see: those of Python and its packages, the system's libraries, a few devices."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SYSTEM = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/share/zoneinfo", "/etc/localtime")
LOADER = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d")
OURS = ("autograder", "rlhf_core", "course")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@dataclass(frozen=True)
class View:
    """What may be seen of the file system.

    Attributes:
        readable: files and folders, none below another.
        hidden: folders below these that must not be seen.
        shown: folders below hidden ones that may be read again.
    """

    readable: tuple[str, ...]
    hidden: tuple[str, ...]
    shown: tuple[str, ...]


def view() -> View:
    """Python, its packages and the system's libraries; of this project only the data of `rlhf_core`."""
    project = Path(__file__).resolve().parents[2]
    ours = [project / name for name in OURS]
    paths = sysconfig.get_paths()
    python = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    python += [os.path.join(p, "lib") for p in {sys.base_prefix, sys.base_exec_prefix}]
    python += site.getsitepackages()
    if site.ENABLE_USER_SITE:
        python.append(site.getusersitepackages())
    readable = tops([*python, *map(os.path.realpath, python), *SYSTEM, *map(os.path.realpath, SYSTEM), *LOADER])
    # this project may be installed more than once, and where it is not looked for
    packages = [Path(top, inner) for top in readable for inner in ("", "site-packages", "dist-packages")]
    packages += [p for top in readable for p in Path(top).glob("python*/*-packages")]
    installed = [folder / name for folder in packages for name in OURS]
    hidden = [str(p) for p in {*installed, *ours} if p.is_dir() and any(is_below(str(p), top) for top in readable)]
    data = str(project / "rlhf_core" / "data")
    return View(readable, tuple(sorted(hidden)), (data,) if os.path.isdir(data) else ())


def tops(paths: Iterable[str]) -> tuple[str, ...]:
    """The paths that exist, without those that lie below another."""
    found: list[str] = []
    for path in sorted({os.path.normpath(p) for p in paths if os.path.lexists(p)}):
        if not any(is_below(path, top) and not os.path.islink(top) for top in found):
            found.append(path)
    return tuple(found)


def is_below(path: str, top: str) -> bool:
    """Whether a path is another or lies below it."""
    return path == top or path.startswith(top.rstrip("/") + "/")


def without(top: str, hidden: Iterable[str]) -> tuple[list[str], list[str]]:
    """A folder in pieces that leave out the hidden ones, and the folders on the way, whose names may be listed."""
    hidden = [h for h in hidden if is_below(h, top)]
    if not hidden:
        return [top], []
    if top in hidden:
        return [], []
    pieces, listed = [], [top]
    for entry in os.scandir(top):
        inner, names = without(entry.path, hidden)
        pieces += inner
        listed += names
    return pieces, listed
