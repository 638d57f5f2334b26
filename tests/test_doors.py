"""The grader from outside: pytest with its options, JSON, progress and watch, from a checkout and from an installed wheel."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from grading import RIGHT, STUB, WRONG, notebook, verdict_on_cells

from autograder.children import not_in_force
from autograder.conftest import default_submission
from autograder.runner import Worker
from rlhf_core.cli import main

ROOT = Path(__file__).parent.parent
STUBS = "".join(
    f"def {name}(*args):\n    raise NotImplementedError()\n\n"
    for name in ("clipped_policy_loss", "clip_fraction", "approx_kl", "clipped_value_loss", "ppo_loss")
)
KL = "def approx_kl(logprobs, old, mask):\n    d = (logprobs - old)[mask]\n    return (d.exp() - 1 - d).mean()\n"
LARGE = {"transformers", "datasets", "accelerate", "pandas", "matplotlib", "nbformat", "IPython"}
# exercises of lesson 04 with their points
POINTS = {"clipped_policy_loss": 5, "clip_fraction": 3, "approx_kl": 2, "clipped_value_loss": 4, "ppo_loss": 1}


def call(*arguments: object, cwd: Path = ROOT, path: str = "") -> subprocess.CompletedProcess:
    """Run pytest as a user does."""
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def homework(tmp_path_factory) -> Path:
    """A folder of lessons: a stub, a half-done one, a broken one."""
    folder = tmp_path_factory.mktemp("homework")
    files = {"lesson_04/a.ipynb": notebook(RIGHT, KL), "lesson_03/a.ipynb": "hello", "stubs/a.ipynb": notebook(STUBS)}
    files |= {"right.py": RIGHT, "wrong.ipynb": notebook(WRONG)}
    for place, content in files.items():
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text(content)
    return folder


# name → (arguments after `pytest`, exit status, texts that are shown, texts that are not)
CALLS = {
    "stubs": (["autograder/lesson_04", "--submission", "{}/stubs"], 1, ["ppo_loss 0/1 — not written yet", "0 of 15 points", "Next: write clipped_policy_loss"], ["Traceback", "raise", "Error"]),
    "half done": (["autograder/lesson_04", "--submission", "{}/lesson_04"], 1, ["✔ ppo_loss 1/1", "✔ approx_kl 2/2", "3 of 15 points"], ["Traceback"]),
    "folder of lessons": (["autograder/lesson_04", "--submission", "{}"], 1, ["✔ ppo_loss 1/1"], []),
    "script": (["autograder/lesson_04", "--submission", "{}/right.py", "-k", "ppo_loss"], 0, ["✔ ppo_loss 1/1", "1 passed", "the rest of it"], []),
    "wrong": (["autograder/lesson_04", "--submission", "{}/wrong.ipynb", "-k", "ppo_loss"], 1, ["✘ ppo_loss 0/1 — The entropy is added", "example:", "--seed 0", "1 failed"], ["Traceback", "def "]),
    "another seed": (["autograder/lesson_04", "--submission", "{}/wrong.ipynb", "-k", "ppo_loss", "--seed", "3"], 1, ["--seed 3"], []),
    "nothing there": (["autograder/lesson_04", "--submission", "{}/no_such.ipynb"], 1, ["no_such.ipynb does not exist", "0 of 15"], ["Traceback", "clip_fraction 0/3"]),
    "not a notebook": (["autograder/lesson_03", "--submission", "{}"], 1, ["a.ipynb is not a notebook"], ["Traceback"]),
    "first failure": (["autograder/lesson_04", "--submission", "{}/stubs", "-x", "-q"], 1, ["1 failed"], ["clip_fraction 0/3"]),
    "by name": (["autograder/lesson_04", "--submission", "{}/lesson_04", "-k", "approx_kl or ppo_loss", "-q"], 0, ["2 passed, 3 deselected"], []),
    "by node": (["autograder/lesson_04/exercises.py::ppo_loss", "--submission", "{}/lesson_04"], 0, ["1 passed"], []),
    "no such name": (["autograder/lesson_04", "--submission", "{}/lesson_04", "-k", "nonsense"], 5, ["5 deselected"], ["Traceback"]),
    "verbose": (["autograder/lesson_04", "--submission", "{}/lesson_04", "-v"], 1, ["exercises.py::ppo_loss PASSED"], ["Traceback"]),
    "only the names": (["autograder/lesson_04", "--collect-only", "-q"], 0, ["5 tests collected"], ["✘", "points"]),
    "JSON": (["autograder/lesson_04", "--submission", "{}/lesson_04", "--report-json", "{}/new/half.json", "--seed", "7", "-q"], 1, ["3 of 15"], []),
    "JSON of a mistake": (["autograder/lesson_04", "--submission", "{}/wrong.ipynb", "--report-json", "{}/wrong.json", "-k", "ppo_loss"], 1, [], []),
    "JSON of nothing": (["autograder/lesson_04", "--submission", "{}/gone", "--report-json", "{}/gone.json"], 1, [], []),
    "JSON that cannot be written": (["autograder/lesson_04", "--submission", "{}/stubs", "--report-json", "/dev/null/x.json"], 4, ["the report could not be written"], ["Traceback"]),
    "two lessons": (["autograder/lesson_04", "autograder/lesson_07", "--submission", "{}/right.py", "-q"], 1, ["lesson_04 1/15", "lesson_07 0/8", "1 of 23 points"], []),
    "all lessons": (["autograder", "--submission", "{}/right.py", "-q"], 1, ["lesson_00 0/17", "lesson_08 0/9", "1 of 122 points"], ["Traceback"]),
}  # fmt: skip


SESSIONS = """
import contextlib, io, json, sys
import pytest
import autograder.runner

worker = autograder.runner.Worker()
stop, worker.stop = worker.stop, lambda: None
autograder.runner.Worker = lambda: worker
results = {}
for name, arguments in json.load(open(sys.argv[1])).items():
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        status = pytest.main([*arguments, "-p", "no:cacheprovider", "--capture=no"])
    results[name] = int(status), out.getvalue()
stop()
json.dump({"results": results, "modules": list(sys.modules)}, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def sessions(homework) -> dict:
    """What every row of CALLS gives; one process runs them all, so that torch is loaded once."""
    path = homework / "calls.json"
    path.write_text(json.dumps({name: [a.format(homework) for a in row[0]] for name, row in CALLS.items()}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    subprocess.run([sys.executable, "-c", SESSIONS, str(path)], cwd=ROOT, env=environment, check=True)
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", CALLS)
def test_pytest(name, sessions):
    _, expected, shown, hidden = CALLS[name]
    status, output = sessions["results"][name]
    assert status == expected, output
    assert [text for text in shown if text not in output] == [], output
    assert [text for text in hidden if text in output] == [], output


def test_nobody_waits_for_the_large_libraries(sessions, tmp_path):
    assert "autograder.lesson_08.exercises" in sessions["modules"] and not LARGE & set(sessions["modules"])
    looks_around = f"import sys\nloaded = {LARGE} & set(sys.modules)\n" + RIGHT.replace(
        "    return", "    assert not loaded\n    return"
    )
    worker = Worker()
    try:
        verdict = verdict_on_cells([looks_around], tmp_path, worker)
    finally:
        worker.stop()
    assert verdict.status == "passed", verdict


def test_pytest_in_a_process_of_its_own(homework):
    done = call("autograder/lesson_04", "--submission", homework / "lesson_04")
    assert done.returncode == 1 and "✔ ppo_loss 1/1" in done.stdout and not done.stderr


def test_json_is_as_promised(sessions, homework):
    report = json.loads((homework / "new" / "half.json").read_text(encoding="utf-8"))
    assert list(report) == ["lesson", "points", "max_points", "exercises"]
    assert (report["lesson"], report["points"], report["max_points"]) == ("lesson_04", 3.0, 15.0)
    keys = ["name", "status", "points", "max_points", "diagnosis", "message", "seed"]
    assert all(list(one) == keys and one["seed"] == 7 for one in report["exercises"])
    assert {one["name"]: one["max_points"] for one in report["exercises"]} == POINTS
    assert all(type(one[key]) is float for one in report["exercises"] for key in ("points", "max_points"))
    assert {one["status"] for one in report["exercises"]} == {"passed", "missing"}


def test_json_names_the_misconception(sessions, homework):
    (one,) = json.loads((homework / "wrong.json").read_text(encoding="utf-8"))["exercises"]
    assert one["status"] == "failed" and one["diagnosis"] and one["points"] == 0.0


def test_json_of_what_cannot_be_read_has_a_row_for_each_exercise(sessions, homework):
    rows = json.loads((homework / "gone.json").read_text(encoding="utf-8"))["exercises"]
    assert [(row["status"], row["points"], "does not exist" in row["message"]) for row in rows] == [
        ("missing", 0, True)
    ] * 5


@pytest.mark.parametrize("place", ["lessons/lesson_04/ppo.ipynb", "lesson_04/ppo.ipynb", "ppo.ipynb"])
def test_default_is_what_lies_where_pytest_is_called(place, tmp_path):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebook(RIGHT))
    config = types.SimpleNamespace(invocation_params=types.SimpleNamespace(dir=tmp_path))
    found = default_submission(config, "lesson_04")
    in_repository = ROOT / "lessons" / "lesson_04"
    assert found in (path.parent, in_repository) and (found == path.parent or place[:7] != "lessons")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> str:
    """A folder with the package as a wheel installs it."""
    place = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        place,
    ]
    source = tmp_path_factory.mktemp("source")
    for name in ("autograder", "rlhf_core"):
        for file in (ROOT / name).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                target = source / file.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*map(str, command), str(source)], check=True, capture_output=True)
    return str(place)


# name → (arguments after `pytest`, exit status, texts that are shown)
INSTALLED = {
    "package": (["--pyargs", "autograder.lesson_04", "--submission", "{}/right.py", "-k", "ppo_loss"], 0, ["✔ ppo_loss 1/1"]),
    "nothing here": (["--pyargs", "autograder.lesson_04"], 1, ["does not exist; say where yours is with --submission PATH", "pytest --pyargs autograder.lesson_04"]),
    "names": (["--pyargs", "autograder.lesson_04", "--collect-only", "-q"], 0, ["5 tests collected"]),
}  # fmt: skip


@pytest.mark.parametrize("name", INSTALLED)
def test_installed(name, homework, installed, tmp_path):
    arguments, status, shown = INSTALLED[name]
    done = call(*(a.format(homework) for a in arguments), cwd=tmp_path, path=installed)
    output = done.stdout + done.stderr
    assert done.returncode == status and "Traceback" not in output, output
    assert [text for text in shown if text not in output] == [], output


def test_installed_plugin_keeps_out_of_other_projects(installed, tmp_path):
    (tmp_path / "conftest.py").write_text("def pytest_addoption(parser):\n    parser.addoption('--seed')\n")
    (tmp_path / "test_x.py").write_text(
        "def test_x(pytestconfig):\n    assert pytestconfig.getoption('--seed') == '1'\n"
    )
    done = call("--seed", "1", cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stdout + done.stderr


# name → (arguments after `rlhf`, exit status, texts that are shown)
COMMANDS = {
    "progress": (["progress", "."], 0, ["lesson_08", "grpo_loss", "no notebook", "not written yet", "3/122"]),
    "progress of nothing": (["progress", "gone"], 2, ["there is no folder gone"]),
    "progress of too much": (["progress", "a", "b"], 2, ["usage: rlhf progress"]),
    "watch what": (["watch"], 2, ["usage: rlhf watch"]),
    "watch help": (["watch", "--help"], 0, ["usage: rlhf watch"]),
    "watch no lesson": (["watch", "lesson_9"], 2, ["there is no lesson 'lesson_9'; there are lesson_00 to lesson_08"]),
    "watch nothing": (["watch", "lesson_05"], 2, ["there is no lessons/lesson_05"]),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_command(name, homework, monkeypatch, capsys):
    arguments, status, shown = COMMANDS[name]
    monkeypatch.chdir(homework)
    assert main(arguments) == status
    output = "".join(capsys.readouterr())
    assert [text for text in shown if text not in output] == [], output


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C goes another way there")
def test_watch_grades_again_on_each_save_and_ends_quietly(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(STUB)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "rlhf_core.cli", "watch", "lesson_04", str(path)]
    log = tmp_path / "log.txt"
    with open(log, "w") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
            # a shell that runs the suite in the background has it ignore Ctrl-C, which children inherit
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            wait_for(log, r"0 of 15 points")
            path.write_text(RIGHT)
            wait_for(log, r"\n✔ ppo_loss 1/1[\s\S]*1 of 15 points")
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert "Traceback" not in log.read_text()


def wait_for(path: Path, pattern: str) -> None:
    """Until a file holds a text."""
    deadline = time.monotonic() + 60
    while not re.search(pattern, path.read_text()):
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.1)


# the rows that a spawned process must judge as a forked one does
SPAWNED = {
    "right": ([RIGHT], "passed", ""),
    "exit": (["import os\ndef ppo_loss(*x): os._exit(0)"], "error", "it ends the process"),
    "crash": (["import ctypes\ndef ppo_loss(*x): ctypes.string_at(0)"], "error", "crash" if os.name == "nt" else "SIGSEGV"),
    "loop": (["def ppo_loss(*x):\n    while True: pass"], "timeout", "a loop that never ends"),
    "thread": (["import threading, time\n" + RIGHT.replace("    return", "    threading.Thread(target=time.sleep, args=(99,)).start()\n    open('x', 'w').write('x')\n    return")], "passed", ""),
    "reference": (["from rlhf_core.ppo import ppo_loss"], "failed", "rlhf_core's own"),
}  # fmt: skip


def test_a_spawned_process_gives_the_same_verdicts(tmp_path):
    worker = Worker(seconds=3, fork=False)
    before = sorted(ROOT.iterdir())
    try:
        for name, (cells, status, words) in SPAWNED.items():
            verdict = verdict_on_cells(cells, tmp_path, worker)
            assert (verdict.status, words in verdict.message) == (status, True), (name, verdict)
    finally:
        worker.stop()
    assert sorted(ROOT.iterdir()) == before
    assert not_in_force(fork=False)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems lack some bounds, and say so")
def test_all_bounds_are_in_force_on_linux():
    assert not_in_force(fork=True) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_outlives_its_job(tmp_path):
    worker = Worker(seconds=5)
    lines = ["for _ in range(3):", "    if libc.fork() == 0:", "        libc.setsid()", "        libc.sleep(600)"]
    body = "".join(f"    {line}\n" for line in lines)
    cells = ["import ctypes\nlibc = ctypes.CDLL(None)\ndef ppo_loss(*x):\n" + body + "    return x[0]\n"]
    try:
        verdict_on_cells(cells, tmp_path, worker)
        children = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children")
        assert children.read_text() == ""
    finally:
        worker.stop()
