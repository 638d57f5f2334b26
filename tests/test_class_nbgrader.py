"""A class from release to feedback with nbgrader's own commands, a real exchange folder and the formgrader."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("nbgrader", reason="nbgrader comes with the extra `teach`")

import nbformat  # noqa: E402
from class_course import BIN, LESSON, cell_of, environment, make_course, marks, run, solved  # noqa: E402

from autograder.classroom import cli  # noqa: E402

ANSWER = "Because the clip cuts gradients, it does not hold the ratio."
WRONG = "min-before-multiplying"


class School:
    """A teacher's course, three students' folders and the exchange between them."""

    def __init__(self, folder: Path):
        self.folder, self.exchange = folder, folder / "exchange"
        self.exchange.mkdir()
        self.exchange.chmod(0o777)
        config = f'\nc.Exchange.root = "{self.exchange}"\nc.CourseGrader.secret_file = "{folder / "secret"}"\n'
        self.course = make_course(folder / "course", config)
        self.config = f"c = get_config()\n{config.splitlines()[1]}\nc.CourseDirectory.course_id = 'rlhf'\n"

    def teacher(self, command: str):
        """A command of the teacher."""
        return run(command, self.course, self.folder / "home_of_teacher")

    def student(self, name: str, command: str):
        """A command of a student, in a folder of their own."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "nbgrader_config.py").write_text(self.config)
        return run(f"{command} --student {name}", folder, folder / "home")

    def notebook(self, name: str) -> Path:
        """Where a student's notebook is."""
        return next((self.folder / name / LESSON).glob("*.ipynb"))


@pytest.fixture(scope="module")
def school(tmp_path_factory) -> School:
    """Released, fetched, worked on, submitted and collected."""
    school = School(tmp_path_factory.mktemp("school"))
    school.teacher(f"nbgrader release_assignment {LESSON}")
    for name in ("ada", "ben", "cleo"):
        school.student(name, f"nbgrader fetch_assignment {LESSON}")
    work(school)
    for name in ("ada", "ben", "cleo"):
        school.student(name, f"nbgrader submit {LESSON}")
    school.teacher(f"nbgrader collect {LESSON}")
    return school


def work(school: School) -> None:
    """Ada has everything right, Ben one known mistake and a warning, Cleo an answer only, in a file that was renamed."""
    right = solved(school.course, answer=ANSWER)
    nbformat.write(right, school.notebook("ada"))
    cell = cell_of(right, "clipped_policy_loss")
    cell.source = (
        "import warnings\n\ndef clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range):\n"
        "    warnings.warn('a warning costs nothing')\n"
        "    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs.detach(), 0.0).clamp(max=80))\n"
        "    least = torch.minimum(ratio, ratio.clamp(1 - clip_range, 1 + clip_range))\n"
        "    return -(least * torch.where(mask, advantages.detach(), 0.0)).sum() / mask.sum()\n"
    )
    script = "Look: <script>mark(me)</script> <img src=x onerror=mark(me)> <b>bold</b>, $a < b$"
    right.cells.append(nbformat.v4.new_markdown_cell(script))
    nbformat.write(right, school.notebook("ben"))
    untouched = nbformat.read(school.notebook("cleo"), as_version=4)
    cell_of(untouched, "clip-bound").source = ANSWER
    nbformat.write(untouched, school.notebook("cleo"))
    school.notebook("cleo").rename(school.notebook("cleo").with_name("ppo_clipping (1).ipynb"))


@pytest.fixture(scope="module")
def graded(school: School) -> School:
    """Graded with the course's command."""
    done = school.teacher(f"rlhf class grade {LESSON} --jobs 2")
    assert "3/3" in done.stdout
    return school


def test_marks(graded: School):
    found = marks(graded.course)
    assert sorted(found) == ["ada", "ben", "cleo"]
    assert found["ada"] == {
        "check-clipped_policy_loss": 5,
        "check-clip_fraction": 3,
        "check-approx_kl": 2,
        "check-clipped_value_loss": 4,
        "check-ppo_loss": 1,
        "clip-bound": None,
        "first-minibatch": None,
    }
    assert found["ben"] == {**found["ada"], "check-clipped_policy_loss": 0}
    assert found["cleo"] == {**dict.fromkeys(found["ada"], 0), "clip-bound": None}


def test_a_second_run_changes_nothing(graded: School):
    before = {path: path.stat().st_mtime_ns for path in (graded.course / "autograded").rglob("*.ipynb")}
    graded.teacher(f"rlhf class grade {LESSON} --jobs 2")
    graded.teacher(f"nbgrader autograde {LESSON}")
    assert before == {path: path.stat().st_mtime_ns for path in (graded.course / "autograded").rglob("*.ipynb")}


def test_nbgraders_own_autograde_gives_the_same_marks(graded: School):
    before = marks(graded.course)
    graded.teacher(f"nbgrader autograde {LESSON} --student ben --force")
    assert marks(graded.course) == before


@pytest.fixture(scope="module")
def formgrader(graded: School):
    """Jupyter's server with the formgrader; yields a function that fetches a page or sends a mark."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        BIN / "jupyter",
        "server",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--IdentityProvider.token=key",
    ]
    extensions = ["--ServerApp.jpserver_extensions", "nbgrader.server_extensions.formgrader=True"]
    log = (graded.folder / "server.log").open("w")
    home = graded.folder / "home_of_teacher"
    server = subprocess.Popen(
        [*command, *extensions, "--ServerApp.disable_check_xsrf=True"],
        cwd=graded.course,
        env=environment(home),
        stdout=log,
        stderr=log,
    )

    def ask(path: str, mark: dict | None = None) -> str:
        data = None if mark is None else json.dumps(mark).encode()
        headers = {"Authorization": "token key", "Content-Type": "application/json"}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/formgrader/{path}", data, headers, method="PUT" if mark else "GET"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    ask.address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 90
    while True:
        try:
            ask("gradebook")
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, (graded.folder / "server.log").read_text()
            time.sleep(0.3)
    yield ask
    server.terminate()
    server.wait(timeout=20)


def test_the_formgrader_shows_the_marks(formgrader):
    rows = json.loads(formgrader(f"api/submissions/{LESSON}"))
    assert {row["student"]: row["score"] for row in rows} == {"ada": 15, "ben": 10, "cleo": 0}
    assert all(row["needs_manual_grade"] for row in rows)
    books = json.loads(formgrader("api/submitted_notebooks/" + f"{LESSON}/ppo_clipping"))
    page = formgrader(f"submissions/{next(b['id'] for b in books if b['student'] == 'ben')}")
    assert "before they meet the advantage" in page and ANSWER in page
    assert "<b>bold</b>" in page and "$a &lt; b$" in page, "students' own Markdown is shown"
    assert "<script>mark" not in page and "onerror=" not in page, "a submission could act in the teacher's name"


def test_a_browser_shows_the_formgrader(formgrader, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no Chromium on this machine")
    picture = tmp_path / "formgrader.png"
    page = urllib.parse.quote(f"/formgrader/gradebook/{LESSON}/ppo_clipping", safe="")
    address = f"{formgrader.address}/login?token=key&next={page}"
    quiet = "--disable-gpu --disable-background-networking --no-first-run --disable-quic --disable-component-update"
    flags = f"--headless --no-sandbox {quiet} --disable-sync --virtual-time-budget=8000 --window-size=1200,700".split()
    flags.append(f"--user-data-dir={tmp_path}")
    subprocess.run([chromium, *flags, f"--screenshot={picture}", address], check=True, timeout=120, capture_output=True)
    assert picture.stat().st_size > 10_000
    text = subprocess.run([chromium, *flags, "--dump-dom", address], timeout=120, capture_output=True, text=True)
    assert all(f">{points} / 19<" in text.stdout for points in (15, 10, 0))
    if "KEEP_PICTURES" in os.environ:
        shutil.copy(picture, os.environ["KEEP_PICTURES"])


def test_from_a_manual_mark_to_the_students(graded: School, formgrader):
    for book in json.loads(formgrader(f"api/submitted_notebooks/{LESSON}/ppo_clipping")):
        for grade in json.loads(formgrader(f"api/grades?submission_id={book['id']}")):
            if grade["needs_manual_grade"]:
                formgrader(f"api/grade/{grade['id']}", {"manual_score": 1.5})
    found = marks(graded.course)
    assert found["ada"]["clip-bound"] == found["cleo"]["clip-bound"] == 1.5
    for command in (f"generate_feedback {LESSON}", f"release_feedback {LESSON}", "export --to marks.csv"):
        graded.teacher(f"nbgrader {command}")
    rows = {row["student_id"]: row for row in csv.DictReader((graded.course / "marks.csv").open())}
    assert {name: float(row["score"]) for name, row in rows.items()} == {"ada": 18, "ben": 13, "cleo": 1.5}
    for name in ("ada", "ben", "cleo"):
        graded.student(name, f"nbgrader fetch_feedback {LESSON}")
    page = next((graded.folder / "ben" / LESSON / "feedback").rglob("*.html")).read_text()
    assert "before they meet the advantage" in page and "clipped_policy_loss</b> 0/5" in page
    assert "autograder/" not in page and "most recent call" not in page and "BEGIN SOLUTION" not in page
    assert "not written yet" in next((graded.folder / "cleo" / LESSON / "feedback").rglob("*.html")).read_text()


def test_the_class_report(graded: School):
    graded.teacher(f"rlhf class report {LESSON}")
    page = (graded.course / "reports" / f"{LESSON}.html").read_text()
    assert "before they meet the advantage" in page and "http://" not in page and "src=" not in page
    rows = {r["student"]: r for r in csv.DictReader((graded.course / "reports" / f"{LESSON}.csv").open())}
    assert rows["ben"]["clipped_policy_loss (why)"] == WRONG and float(rows["ben"]["clipped_policy_loss"]) == 0
    assert rows["cleo"]["ppo_loss (why)"] == "missing"


def test_what_is_wrong_is_said_in_one_sentence(graded: School, tmp_path):
    for command, word in (
        ("rlhf class grade lesson_44", "there is no lesson"),
        (f"rlhf class grade {LESSON} --course {tmp_path}", "no nbgrader_config.py"),
        ("rlhf class grade lesson_03", "nothing has been collected"),
    ):
        done = run(command, graded.course, graded.folder / "home_of_teacher", check=False)
        assert done.returncode in (1, 2) and word in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_stopped_by_hand_is_no_traceback(monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("autograder.classroom.grade.grade_class", interrupted)
    assert cli.main(["grade", "lesson_04"]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
