"""A class run that is killed at random moments loses and changes no verdict."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("nbgrader", reason="nbgrader comes with the extra `teach`")

from class_course import BIN, LESSON, cell_of, environment, hand_in, make_course, marks, run, solved  # noqa: E402

KILLS = 20
COMMAND = f"rlhf class grade {LESSON} --jobs 2"


def class_of(folder: Path) -> Path:
    """A course with right, wrong, partly written and unreadable submissions, the same in every folder."""
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


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups on this system")
def test_twenty_kills_change_nothing(tmp_path):
    calm, hunted = class_of(tmp_path / "calm"), class_of(tmp_path / "hunted")
    start = time.monotonic()
    run(COMMAND, calm, tmp_path / "home")
    whole = time.monotonic() - start
    dice, kills, kept = random.Random(4), 0, {}
    while kills < KILLS:
        command = [BIN / COMMAND.split()[0], *COMMAND.split()[1:]]
        process = subprocess.Popen(
            command,
            cwd=hunted,
            env=environment(tmp_path / "home"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(timeout=dice.uniform(0.2, 0.9) * whole)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        else:  # it was finished before: begin again with the gradebook
            (hunted / ".grading" / "filled" / LESSON / f"student{dice.randrange(8)}.json").unlink(missing_ok=True)
            whole *= 0.8
        found = verdicts(hunted)
        assert kept.items() <= found.items(), "a verdict was lost or has changed"
        kept = found
    run(COMMAND, hunted, tmp_path / "home")
    assert verdicts(hunted) == verdicts(calm)
    assert marks(hunted) == marks(calm) and len(marks(calm)) == 9
    assert {one["check-clip_fraction"] for one in marks(calm).values()} == {0, 3}
