"""A class run that is killed at random moments loses and changes no verdict."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("nbgrader", reason="nbgrader comes with the extra `teach`")

from class_course import LESSON, cell_of, environment, hand_in, make_course, marks, solved  # noqa: E402

from rlhf_core.cli import main  # noqa: E402

KILLS = 20


def class_of(folder: Path) -> Path:
    """A course with right, wrong, partly written and unreadable submissions."""
    course = make_course(folder / "course", f'\nc.CourseGrader.secret_file = "{folder.parent / "secret"}"\n')
    for number in range(8):
        notebook = solved(course)
        cell_of(notebook, "ppo_loss").source += f"\n    # number {number}"
        if number % 3 == 1:
            cell = cell_of(notebook, "clip_fraction")
            cell.source = f"def clip_fraction(*args):\n    return {number} / 10"
        hand_in(course, f"student{number}", notebook)
    hand_in(course, "unlucky", solved(course)).write_text("{")
    return course


def verdicts(course: Path) -> dict[str, str]:
    """Every verdict file with its content."""
    return {path.name: path.read_text() for path in (course / ".grading" / "verdicts").glob("*.json")}


def grade(course: Path, home: Path) -> None:
    """`rlhf class grade --jobs 2`, as the leader of a process group."""
    os.setsid()
    os.chdir(course)
    os.environ.clear()
    os.environ.update(environment(home))
    sys.stdout = sys.stderr = open(os.devnull, "w")
    sys.exit(main(["class", "grade", LESSON, "--jobs", "2"]))


@pytest.fixture(scope="module")
def start():
    """Starts `grade` in a process that has all imports behind it, so that a kill hits the work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["autograder.classroom.grade", "class_course"])

    def start(course: Path, home: Path) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=grade, args=(course, home))
        process.start()
        return process

    return start


def kill(process) -> None:
    """Kill a run with all that belongs to it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # not yet the leader of its group
        process.kill()
    process.join()


def finish(process) -> None:
    """Wait for a run that nobody kills."""
    process.join(300)
    assert process.exitcode == 0


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups on this system")
def test_twenty_kills_change_nothing(tmp_path, start):
    course, home = class_of(tmp_path / "course"), tmp_path / "home"
    warm, calm, hunted = (Path(shutil.copytree(course, tmp_path / name)) for name in ("warm", "calm", "hunted"))
    finish(start(warm, home))  # the first one starts the server of processes, too
    begin = time.monotonic()
    finish(start(calm, home))
    whole = time.monotonic() - begin
    assert len(marks(calm)) == 9 and {one["check-clip_fraction"] for one in marks(calm).values()} == {0, 3}
    dice, kills, kept = random.Random(4), 0, {}
    while kills < KILLS:
        process = start(hunted, home)
        process.join(dice.uniform(0.2, 0.9) * whole)
        if process.is_alive():
            kill(process)
            kills += 1
            found = verdicts(hunted)
            assert kept.items() <= found.items(), "a verdict was lost or has changed"
            kept = found
        else:  # what earlier runs left behind let it end sooner
            assert process.exitcode == 0
            compare(hunted, calm)
            shutil.rmtree(hunted)
            shutil.copytree(course, hunted)
            kept = {}
    finish(start(hunted, home))
    compare(hunted, calm)


def compare(hunted: Path, calm: Path) -> None:
    """The same verdicts and the same gradebook."""
    assert verdicts(hunted) == verdicts(calm)
    assert marks(hunted) == marks(calm)
