"""Checkpoints that survive being killed at any moment, and that say so when they are damaged or foreign."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

FORMAT = "rlhf-from-scratch checkpoint 1"
MANIFEST = "manifest.json"
PARTIAL = ".partial"


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says why and what to do."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _hash(file)


def _hash(file) -> str:
    """Python 3.10 has no `file_digest`."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a file all at once."""
    partial = path.with_name(path.name + PARTIAL)
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_folder(target: Path, write: Callable[[Path], None], **facts: object) -> None:
    """Write a folder all at once: nobody ever sees half of it.

    Args:
        target: where it shall be; an older one of that name is replaced.
        write: fills the folder it is given.
        facts: what the manifest shall say besides the hashes (method, step, …).
    """
    partial = target.with_name(target.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    hashes = {path.relative_to(partial).as_posix(): file_hash(path) for path in files}
    (partial / MANIFEST).write_text(json.dumps({"format": FORMAT, **facts, "files": hashes}, indent=1))
    for path in [*files, partial / MANIFEST, partial]:
        sync(path)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    sync(target.parent)


def read_manifest(folder: Path, **expected: object) -> dict:
    """The manifest of a folder that `write_folder` wrote, after checking every file.

    Raises:
        CheckpointError: it is foreign, damaged, or not what was expected.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} is not a checkpoint of this program: {MANIFEST} is missing or unreadable"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is not a checkpoint of this program: its format is not {FORMAT!r}")
    for key, value in expected.items():
        if manifest.get(key) != value:
            raise CheckpointError(
                f"{folder} is a checkpoint of {key} {manifest.get(key)!r}, but {value!r} was asked for"
            )
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file() or file_hash(path) != digest:
            raise CheckpointError(
                f"{folder} is damaged: {name} is missing or was changed after it was written; "
                "delete the folder to go on from an earlier checkpoint"
            )
    return manifest


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return checkpoints / f"step_{step:06d}"


def complete_checkpoints(checkpoints: Path) -> list[Path]:
    """Checkpoints that were written to the end, oldest first."""
    found = [p for p in checkpoints.glob("step_*") if p.is_dir() and not p.name.endswith(PARTIAL)]
    return sorted(found)


def discard_old(checkpoints: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what an interrupted save left."""
    for old in complete_checkpoints(checkpoints)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    for partial in checkpoints.glob(f"*{PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)
