"""`make bench-class`: a class of submissions of lesson 04, graded by this project and by plain nbgrader, side by side.

Both get the same notebooks, which hold the set-up cell, the exercises and their checks but none of the experiments: plain
nbgrader runs whole notebooks, and would take minutes for each with them. Plain nbgrader runs `check(...)` in a kernel.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from class_course import LESSON, cell_of, hand_in, make_course, marks, released, run, solved  # noqa: E402


@dataclass
class Options:
    """What to measure.

    Attributes:
        submissions: how many each side grades.
        jobs: processes of ours.
    """

    submissions: int = 100
    jobs: int = os.cpu_count() or 1


def fill(course: Path, count: int) -> None:
    """Honest submissions: right ones, no two the same, and every fifth with one function still to write."""
    for number in range(count):
        notebook = solved(course)
        cell_of(notebook, "ppo_loss").source += f"  # version {number}"
        if number % 5 == 4:
            cell_of(notebook, "approx_kl").source = cell_of(released(course), "approx_kl").source
        hand_in(course, f"student{number:03d}", notebook)


def timed(command: str, course: Path) -> float:
    """Seconds that a command takes."""
    start = time.perf_counter()
    run(command, course, course.parent / "home", timeout=3 * 3600)
    return time.perf_counter() - start


def main(options: Options) -> None:
    """Measure, compare the marks, print."""
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="bench-class-"))
    try:
        ours = make_course(folder / "ours")
        plain = make_course(folder / "plain")
        config = plain / "nbgrader_config.py"
        # without the course's grader, nbgrader uses its own Execute
        config.write_text("\n".join(line for line in config.read_text().splitlines() if "install" not in line))
        for course in (ours, plain):
            fill(course, options.submissions)
        console.print(f"grading {options.submissions} submissions with each; plain nbgrader takes its time")
        seconds = {"plain nbgrader autograde": timed(f"nbgrader autograde {LESSON}", plain)}
        seconds[f"rlhf class grade --jobs {options.jobs}"] = timed(
            f"rlhf class grade {LESSON} --jobs {options.jobs}", ours
        )
        same = marks(ours) == marks(plain)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table = Table("", "seconds", "submissions a minute", "throughput")
    slowest = max(seconds.values())
    for name, one in seconds.items():
        table.add_row(name, f"{one:.1f}", f"{60 * options.submissions / one:.1f}", f"{slowest / one:.1f} ×")
    console.print(table)
    console.print(f"marks are the same on all {options.submissions}: {'yes' if same else 'NO'}")
    sys.exit(not same)


if __name__ == "__main__":
    main(tyro.cli(Options))
