"""`rlhf class`: what a teacher calls."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

Lesson = Annotated[str, tyro.conf.Positional]


@dataclass(frozen=True)
class Grade:
    """Grade all that was collected of a lesson, in parallel, and hand the marks to nbgrader."""

    lesson: Lesson  # such as lesson_04
    jobs: int = os.cpu_count() or 1  # how many submissions are graded at once
    strict: bool = False  # refuse to grade where this machine lacks a protection
    fill: bool = True  # --no-fill: only make verdicts, as on a second machine that shares the folder
    course: Path = Path(".")  # the course directory

    def run(self) -> int:
        """Grade."""
        from autograder.classroom.grade import grade_class

        return grade_class(self.course.resolve(), self.lesson, self.jobs, self.strict, self.fill)


@dataclass(frozen=True)
class Report:
    """Write the class report of a lesson: one HTML page and one CSV file."""

    lesson: Lesson  # such as lesson_04
    output: Path = Path("reports")  # folder for both files
    course: Path = Path(".")  # the course directory

    def run(self) -> int:
        """Write."""
        from autograder.classroom.grade import course_of
        from autograder.classroom.report import write_class_report

        output = self.output.resolve()
        for path in write_class_report(course_of(self.course.resolve()), self.lesson, output):
            print(path)
        return 0


@dataclass(frozen=True)
class Protections:
    """Print what shuts students' code in on this machine, and what is missing."""

    def run(self) -> int:
        """Print."""
        from rich.console import Console

        from autograder.classroom.grade import print_protections

        print_protections(Console())
        return 0


COMMANDS = {"grade": Grade, "report": Report, "protections": Protections}


def main(arguments: list[str]) -> int:
    """Run a command; what is wrong is said in one sentence, with exit status 2."""
    from autograder.exercise import bank
    from autograder.sandbox import SandboxError

    command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="rlhf class", args=arguments)
    try:
        if hasattr(command, "lesson"):
            bank(command.lesson)
        return command.run()
    except KeyboardInterrupt:
        print(
            "rlhf class: stopped; the verdicts so far are kept, and the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except (ValueError, FileNotFoundError, SandboxError) as error:
        print(f"rlhf class: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "nbgrader":
            raise
        print("rlhf class needs nbgrader: pip install 'rlhf-from-scratch[teach]'", file=sys.stderr)
    return 2
