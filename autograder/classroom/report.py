"""The class report: one HTML page and one CSV file on how a class did in a lesson, and what to teach again."""

from __future__ import annotations

import ast
import csv
import datetime
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from nbgrader.api import Gradebook, MissingEntry

from autograder.classroom.course import Course
from autograder.classroom.nbgrader_parts import CHECK
from autograder.classroom.verdicts import PREPARED, Graded, grader_version, read_prepared
from autograder.exercise import bank
from autograder.submission import Submission, SubmissionError, read_submission

ODD = ("error", "timeout")
TRICKS = {PREPARED: "answers only the public inputs", "uses-the-reference": "uses the reference implementation"}


@dataclass
class Row:
    """One student.

    Attributes:
        points: of the exercises, by name; None where it has not been graded.
        written: points of written questions; None while they wait to be marked.
        look: reasons to look at the submission.
    """

    student: str
    graded: Graded | None
    points: dict[str, float | None] = field(default_factory=dict)
    written: dict[str, float | None] = field(default_factory=dict)
    look: list[str] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Points so far."""
        return sum(p or 0.0 for p in [*self.points.values(), *self.written.values()])

    @property
    def waiting(self) -> list[str]:
        """Written questions that nobody has marked yet."""
        return [name for name, points in self.written.items() if points is None]


def rows_of(course: Course, lesson: str) -> list[Row]:
    """All submissions of a lesson."""
    rows, codes = [], {}
    for student in course.submissions(lesson):
        prepared, key = course.prepare(lesson, student)
        row = Row(student, course.store.load(key))
        row.look = reasons(row.graded)
        if not prepared.problem:
            code = code_of(read_prepared(prepared), lesson)
            codes.setdefault(code, []).append(row)
        rows.append(row)
    add_marks(course, lesson, rows)
    add_twins(codes, solved_code(course, lesson))
    return rows


def reasons(graded: Graded | None) -> list[str]:
    """Why somebody should look at a submission."""
    if graded is None:
        return ["not graded yet"]
    if graded.problem:
        return [f"ungraded: {graded.problem}"]
    found = [f"repaired: {one}" for one in graded.repairs]
    for verdict in graded.exercises:
        if verdict.status in ODD:
            found.append(f"{verdict.name}: {verdict.message}")
        elif verdict.diagnosis in TRICKS:
            found.append(f"{verdict.name} {TRICKS[verdict.diagnosis]}")
    return found


def add_marks(course: Course, lesson: str, rows: list[Row]) -> None:
    """Points as they stand in the gradebook, those that a teacher has changed by hand included."""
    with Gradebook(course.coursedir.db_url, course.coursedir.course_id) as gradebook:
        for row in rows:
            try:
                submission = gradebook.find_submission(lesson, row.student)
            except MissingEntry:
                row.look.append("not in the gradebook yet")
                continue
            for grade in (g for notebook in submission.notebooks for g in notebook.grades):
                if grade.name.startswith(CHECK):
                    row.points[grade.name.removeprefix(CHECK)] = grade.score
                else:
                    row.written[grade.name] = None if grade.needs_manual_grade else grade.score


def code_of(submission: Submission, lesson: str) -> str:
    """The exercises' functions without names of cells, white space and comments; empty where fewer than two are written."""
    last = [d[-1] for e in bank(lesson).EXERCISES if (d := submission.definitions(e.name))]
    written = [ast.dump(one.node) for one in last if not one.is_stub]
    return "\n".join(written) if len(written) > 1 else ""


def solved_code(course: Course, lesson: str) -> str:
    """The course's own solution, as `code_of`; empty where it is not here."""
    folder = Path(course.coursedir.format_path(course.coursedir.source_directory, ".", lesson))
    try:
        return code_of(read_submission(folder), lesson)
    except SubmissionError:
        return ""


def add_twins(codes: dict[str, list[Row]], solution: str) -> None:
    """Say who handed in the very same functions."""
    for code, rows in codes.items():
        if not code:
            continue
        for row in rows:
            others = [other.student for other in rows if other is not row]
            if code == solution:
                row.look.append("the same functions, to the letter, as the course's solutions")
            if others:
                row.look.append(f"the same functions, to the letter, as {', '.join(others[:5])}")


@dataclass
class ExerciseRow:
    """How a class did in one exercise."""

    name: str
    solved: int
    tried: int
    misconceptions: list[tuple[str, int]]


def exercise_rows(lesson: str, rows: list[Row]) -> list[ExerciseRow]:
    """One row for each exercise, misconceptions by how many had them."""
    found = []
    for exercise in bank(lesson).EXERCISES:
        verdicts = [v for row in rows if row.graded and (v := row.graded.verdict(exercise.name))]
        names = Counter(v.diagnosis for v in verdicts if v.diagnosis)
        tried = sum(v.status != "missing" for v in verdicts)
        solved = sum(v.status == "passed" for v in verdicts)
        found.append(ExerciseRow(exercise.name, solved, tried, names.most_common()))
    return found


def misconceptions(lesson: str, rows: list[Row]) -> list[dict]:
    """What to teach again: each misconception with its sentence and how many had it, the most frequent first."""
    counted = Counter(
        (v.name, v.diagnosis)
        for row in rows
        if row.graded
        for v in row.graded.exercises
        if v.diagnosis not in (None, *TRICKS)
    )
    known = {(e.name, m.name): m for e in bank(lesson).EXERCISES for m in e.mistakes}
    return [
        {"exercise": name, "name": diagnosis, "text": known[name, diagnosis].misconception, "count": count}
        for (name, diagnosis), count in counted.most_common()
        if (name, diagnosis) in known
    ]


def score_bins(rows: list[Row], most: float, bins: int = 10) -> list[dict]:
    """How many students have how many points."""
    counts = [0] * bins
    for row in rows:
        counts[min(int(row.total / most * bins), bins - 1) if most else 0] += 1
    return [{"low": most * i / bins, "high": most * (i + 1) / bins, "count": n} for i, n in enumerate(counts)]


def write_class_report(course: Course, lesson: str, output: Path) -> tuple[Path, Path]:
    """Write `lesson_NN.html` and `lesson_NN.csv` into a folder; returns their paths."""
    rows = rows_of(course, lesson)
    written = sorted({name for row in rows for name in row.written})
    most = sum(e.points for e in bank(lesson).EXERCISES) + max_of_written(course, lesson)
    output.mkdir(parents=True, exist_ok=True)
    page, table = output / f"{lesson}.html", output / f"{lesson}.csv"
    write_csv(table, lesson, rows, written)
    environment = Environment(
        loader=PackageLoader("autograder.classroom", "."), autoescape=True, undefined=StrictUndefined
    )
    page.write_text(
        environment.get_template("class_report.html.j2").render(
            lesson=lesson,
            date=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
            version=grader_version(),
            rows=rows,
            most=most,
            exercises=exercise_rows(lesson, rows),
            misconceptions=misconceptions(lesson, rows),
            bins=score_bins(rows, most),
            written=written,
            names=[e.name for e in bank(lesson).EXERCISES],
        ),
        encoding="utf-8",
    )
    return page, table


def max_of_written(course: Course, lesson: str) -> float:
    """Points that written questions can earn."""
    with Gradebook(course.coursedir.db_url, course.coursedir.course_id) as gradebook:
        try:
            assignment = gradebook.find_assignment(lesson)
        except MissingEntry:
            return 0.0
        return sum(
            cell.max_score
            for book in assignment.notebooks
            for cell in book.grade_cells
            if not cell.name.startswith(CHECK)
        )


def write_csv(path: Path, lesson: str, rows: list[Row], written: list[str]) -> None:
    """One line for each student."""
    names = [e.name for e in bank(lesson).EXERCISES]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["student", "points", *names, *(f"{n} (why)" for n in names), *written, "waiting for a mark", "look"]
        )
        for row in rows:
            verdicts = [row.graded.verdict(n) if row.graded else None for n in names]
            writer.writerow(
                [
                    plain(row.student),
                    row.total,
                    *(row.points.get(n) for n in names),
                    *(v and (v.diagnosis or v.status) for v in verdicts),
                    *(row.written.get(n) for n in written),
                    "; ".join(row.waiting),
                    plain("; ".join(row.look)),
                ]
            )


def plain(text: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
