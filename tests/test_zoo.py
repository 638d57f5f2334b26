"""A whole class of honest, wrong, broken and hostile submissions is graded once, the way a teacher does it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("nbgrader", reason="nbgrader comes with the extra `teach`")

import nbformat  # noqa: E402
import torch  # noqa: E402
import zoo_files  # noqa: E402, F401 - these add their entries
import zoo_outside  # noqa: E402, F401
import zoo_tampering  # noqa: E402, F401
import zoo_work  # noqa: E402, F401
from class_course import LESSON, environment, hand_in, make_course, marks, released, run, solved  # noqa: E402
from zoo import ANSWERS, EVERYTHING, POINTS, ZOO, Place  # noqa: E402

import autograder  # noqa: E402
import rlhf_core  # noqa: E402
from autograder.sandbox import PROMISES, protections  # noqa: E402

SECONDS = 6.0
LIMIT = 900.0  # for all; a machine that does nothing else takes a tenth of it
MISSING = {one.name: one.how for one in protections() if not one.in_force}


def why_not(entry) -> str:
    """Why this machine does not try an entry; empty if it does."""
    promise = PROMISES.get(entry.needs, "")
    return f"{promise} is not in force here: {MISSING[promise]}" if promise in MISSING else ""


class Server:
    """Listens on this machine, for TCP and datagrams, and counts who calls."""

    def __init__(self):
        self.calls = 0
        self.stream = socket.create_server(("127.0.0.1", 0))
        self.port = self.stream.getsockname()[1]
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", self.port))
        for wait in (self.stream.accept, lambda: self.datagrams.recvfrom(100)):
            threading.Thread(target=self.count, args=(wait,), daemon=True).start()

    def count(self, wait) -> None:
        """Count what arrives."""
        while True:
            try:
                wait()
            except OSError:
                return
            self.calls += 1


@dataclass
class Class:
    """A class that has been graded.

    Attributes:
        place: where everything is.
        marks: student → cell → points in the gradebook.
        verdicts: student → verdict, as it is kept.
        before, after: what lay where nothing may change.
        seconds: how long grading took.
        calls: how often somebody reached a server on this machine.
        output: what was printed.
        early: the marks after the first two submissions had been graded, before the others were handed in.
    """

    place: Place
    server: Server
    marks: dict = field(default_factory=dict)
    verdicts: dict = field(default_factory=dict)
    before: dict = field(default_factory=dict)
    after: dict = field(default_factory=dict)
    seconds: float = 0.0
    output: str = ""
    early: dict = field(default_factory=dict)


def contents(*folders: Path) -> dict[str, str]:
    """Every file, folder and link below some folders, with a digest of what it holds."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            ordinary = path.is_file() and not path.is_symlink()
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if ordinary else str(path.lstat().st_mode)
    return found


def kept_verdicts(course: Path) -> dict[str, dict]:
    """The verdicts that are in the gradebook."""
    found = {}
    for note in (course / ".grading" / "filled" / LESSON).glob("*.json"):
        key = json.loads(note.read_text())["key"]
        found[note.stem] = json.loads((course / ".grading" / "verdicts" / f"{key}.json").read_text())
    return found


def grade(place: Place) -> str:
    """Grade what has been handed in, as a teacher does, with a folder of its own for temporary files; what was printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(place.temporary))
        done = run(f"rlhf class grade {LESSON} --jobs 2", place.course, place.home, check=False, timeout=LIMIT)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def graded(tmp_path_factory) -> Class:
    """Two early submissions are graded; then the whole zoo is handed in, and all of it is graded."""
    base = tmp_path_factory.mktemp("zoo")
    server = Server()
    config = f'\nc.CourseGrader.seconds = {SECONDS}\nc.CourseGrader.secret_file = "{base / "secret" / "course"}"\n'
    course = make_course(base / "course", config)
    for name in ("canary", "temporary"):
        (base / name).mkdir()
    (base / "canary" / "read_me").write_text("canary")
    place = Place(
        course=course,
        secret=base / "secret" / "course",
        home=base / "home",
        canary=base / "canary",
        temporary=base / "temporary",
        port=server.port,
        judge=os.getpid(),
        mark=f"zoo-{uuid.uuid4().hex}",
        solved=json.loads(nbformat.writes(solved(course))),
        stub=json.loads(nbformat.writes(released(course))),
    )
    environment(place.home)
    (place.home / "notes").write_text("a teacher's")
    one = Class(place, server)
    hand_in(course, "early", solved(course))
    hand_in(course, "empty", released(course))
    grade(place)
    one.early = marks(course)
    for entry in ZOO:
        if not why_not(entry):
            folder = course / "submitted" / entry.name / LESSON
            folder.mkdir(parents=True)
            (folder / "timestamp.txt").write_text("2026-01-05 12:00:00.000000 UTC")
            entry.hand_in(place, folder)
    watched = [course / name for name in ("submitted", "lessons", "solutions")]
    watched += [base / name for name in ("canary", "temporary", "secret", "home")]
    one.before = contents(*watched)
    start = time.monotonic()
    one.output = grade(place)
    one.seconds = time.monotonic() - start
    one.after = contents(*watched)
    one.marks, one.verdicts = marks(course), kept_verdicts(course)
    return one


@pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)
def test_golden(entry, graded):
    if why_not(entry):
        pytest.skip(why_not(entry))
    verdict = graded.verdicts[entry.name]
    story = json.dumps(verdict, indent=1, ensure_ascii=False)
    assert entry.name in graded.marks, "the row is lost"
    points = {name: graded.marks[entry.name][f"check-{name}"] for name in EVERYTHING}
    assert points == {name: POINTS[name] if name in entry.earns else 0 for name in EVERYTHING}, story
    waiting = {name for name in ANSWERS if graded.marks[entry.name][name] is None}
    assert waiting == set(entry.answers), story
    by_name = {one["name"]: one for one in verdict["exercises"]}
    for name, word in entry.why.items():
        one = by_name[name]
        assert word in f"{one['status']} {one['diagnosis']} {one['message']}", story
    assert (entry.problem in verdict["problem"]) if entry.problem else verdict["problem"] is None, story
    if entry.repaired is None:
        assert verdict["repairs"] == []
    else:
        assert any(entry.repaired in sentence for sentence in verdict["repairs"]), story


def test_every_submission_has_a_row(graded):
    tried = {entry.name for entry in ZOO if not why_not(entry)} | {"early", "empty"}
    assert set(graded.marks) == set(graded.verdicts) == tried, graded.output[-3000:]
    assert all(set(one) == {*ANSWERS, *(f"check-{name}" for name in EVERYTHING)} for one in graded.marks.values())


def test_marks_given_earlier_stay(graded):
    assert {name: graded.marks[name] for name in graded.early} == graded.early
    assert graded.early["empty"] == dict.fromkeys(graded.early["empty"], 0)


def test_grading_ends_in_time(graded):
    assert graded.seconds < LIMIT, graded.output[-3000:]


def test_no_trace(graded):
    changed = {
        path for path in graded.before.keys() | graded.after.keys() if graded.before.get(path) != graded.after.get(path)
    }
    own = {path for path in changed if ".jupyter" in path or ".ipython" in path or ".cache" in path}
    assert changed - own == set()
    packages = [Path(module.__file__).parent for module in (autograder, rlhf_core, torch)]
    for folder in (
        *map(Path, ("/", "/tmp", "/var/tmp", "/dev/shm")),
        packages[0].parent,
        packages[2].parent,
        *packages,
    ):
        if folder.exists():
            assert [name for name in os.listdir(folder) if graded.place.mark in name] == [], folder
    assert list(graded.place.course.rglob(f"*{graded.place.mark}*")) == []


def test_nobody_was_called(graded):
    assert graded.server.calls == 0


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no list of processes on this system")
def test_nothing_goes_on_running(graded):
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                assert graded.place.mark.encode() not in (entry / "cmdline").read_bytes()
                assert not os.readlink(entry / "cwd").startswith(str(graded.place.course)), (
                    entry / "cmdline"
                ).read_bytes()
            except OSError:
                continue


class Acting(HTMLParser):
    """Collects what in a page could act and is a submission's."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self.tag = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tag = tag
        self.found += [
            f"{tag} {name}={value}" for name, value in attrs if value and "act" == value or "act()" in str(value)
        ]

    def handle_data(self, data: str) -> None:
        if self.tag in ("script", "style", "iframe") and "act()" in data:
            self.found.append(f"{self.tag}: {data[:50]}")


@pytest.mark.parametrize("name", ["notebook-markup", "markup-in-message", "answers-prepared"])
def test_feedback_gives_nothing_away_and_does_not_act(name, graded):
    command = f"nbgrader generate_feedback {LESSON} --force --student {name}"
    run(command, graded.place.course, graded.place.home)
    page = next((graded.place.course / "feedback" / name / LESSON).glob("*.html")).read_text(encoding="utf-8")
    assert 'File "' not in page and "autograder/" not in page, "a stack of the grader"
    acting = Acting()
    acting.feed(page)
    assert acting.found == []
    assert "<script>alert" not in page
    if name == "notebook-markup":
        assert "<b>bold</b>" in page


def test_seeds_of_hidden_cases_are_not_told(graded):
    assert all(one["seed"] == 0 for verdict in graded.verdicts.values() for one in verdict["exercises"])


def test_messages_are_short(graded):
    long = [one for v in graded.verdicts.values() for one in v["exercises"] if len(one["message"]) > 700]
    assert long == []
