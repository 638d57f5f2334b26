"""The sandbox against hostile code: nothing is seen, nothing is left, and honest code passes right after.

The same attacks run on lesser machines, too: as an ordinary user, and where namespaces are forbidden, as in many containers.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from pathlib import Path

import hostile
import pytest
import torch

from autograder import runner, sandbox
from autograder.runner import Worker

if sys.platform != "linux":
    pytest.skip("the sandbox is Linux's", allow_module_level=True)
from sandboxed import HONEST, NO_NAMESPACES, SECONDS, children_of, result, run

from autograder.isolation import redacted

ROOT = Path(__file__).parent.parent
MACHINES = ["", "ordinary", "no-namespaces", "ordinary,no-namespaces"]


def worker_on(machine: str, monkeypatch, seconds: float = SECONDS) -> Worker:
    """A sandboxed worker, on a machine that offers less."""
    if NO_NAMESPACES and "no-namespaces" not in machine:
        pytest.skip(NO_NAMESPACES)
    lesser = [sys.executable, str(Path(__file__).parent / "lesser_machine.py"), machine]
    monkeypatch.setattr(runner, "command", lambda seconds: [*lesser, *sandbox.command(seconds)])
    return Worker(seconds, sandbox=True)


@pytest.fixture(scope="module", params=MACHINES, ids=[m or "this machine" for m in MACHINES])
def worker(request):
    """One worker for all attacks: what one leaves behind would show in the next."""
    with pytest.MonkeyPatch.context() as patch:
        one = worker_on(request.param, patch)
        one.machine = request.param
        patch.setenv("NBGRADER_EXECUTION", "autograde")
        patch.setenv("COURSE_SECRET", "1")
        yield one
        left = sandbox.SCRATCH.format(one.process.pid if one.process else 0)
        one.stop()
        assert not list(Path("/tmp").glob(left + "*"))


@pytest.fixture
def own_tree(worker):
    """For what holds only where there are namespaces."""
    if "no-namespaces" in worker.machine:
        pytest.skip("holds only in a file tree of its own")


def assert_harmless(worker: Worker, tmp_path: Path, attack, *arguments: object) -> None:
    """An attack gets nothing, and neither it nor honest code after it gets another result."""
    outcome = run(worker, hostile.submission(attack, *arguments), tmp_path)
    assert result(outcome) == 0.5, outcome
    assert result(run(worker, HONEST, tmp_path)) == 0.5


def without_sandbox(tmp_path: Path, attack, *arguments: object) -> str:
    """What the attack gets in an ordinary worker: it is not harmless by being badly written."""
    plain = Worker(SECONDS)
    try:
        return str(result(run(plain, hostile.submission(attack, *arguments), tmp_path)))
    finally:
        plain.stop()


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """What a teacher has beside the submission that is graded."""
    folder = tmp_path_factory.mktemp("course")
    for name in (
        "gradebook.db",
        "submitted/bob/lesson_06/evaluation.ipynb",
        "solutions/lesson_06/evaluation.ipynb",
        "secret",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("private")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    return folder


def private_files(course: Path) -> list[str]:
    """Files that students' code must not see."""
    planted = [str(p) for p in course.rglob("*") if p.is_file()]
    own = ["rlhf_core/evaluation.py", "autograder/judge.py", "autograder/facts.py", "autograder/lesson_06/exercises.py"]
    return [*planted, *(str(Path(redacted.HERE) / name) for name in own), __file__]


# network


@pytest.fixture(scope="module")
def servers():
    """Servers on this machine, of every kind; their sockets by name."""
    folder, abstract = tempfile.mkdtemp(dir="/tmp"), f"rlhf-test-{os.getpid()}"
    kinds = {
        "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        "tcp6": (socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0)),
        "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        "path": (socket.AF_UNIX, socket.SOCK_STREAM, f"{folder}/socket"),
        "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{abstract}"),
        "datagrams": (socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{abstract}-datagrams"),
    }
    found = {}
    for name, (family, kind, address) in kinds.items():
        try:
            found[name] = socket.socket(family, kind)
            found[name].bind(address)
        except OSError:
            continue
        if kind == socket.SOCK_STREAM:
            found[name].listen()
        found[name].settimeout(0)
    os.chmod(folder, 0o777)
    os.chmod(f"{folder}/socket", 0o777)
    yield found
    for one in found.values():
        one.close()
    os.unlink(f"{folder}/socket")
    os.rmdir(folder)


def heard(servers: dict) -> list[str]:
    """Servers that somebody has talked to."""
    names = []
    for name, one in servers.items():
        try:
            one.recv(100) if one.type == socket.SOCK_DGRAM else one.accept()
            names.append(name)
        except OSError:
            continue
    return names


def connections(servers: dict) -> tuple:
    """Arguments of `hostile.connect`."""
    ports = {n: servers[n].getsockname()[1] if n in servers else 9 for n in ("tcp", "tcp6", "udp")}
    return ports, servers["path"].getsockname(), servers["abstract"].getsockname()[1:].decode()


def test_no_network_not_even_loopback(worker, servers, tmp_path):
    assert_harmless(worker, tmp_path, hostile.connect, *connections(servers))
    assert heard(servers) == []


def test_the_servers_can_be_reached_without_the_sandbox(servers, tmp_path):
    assert "tcp to loopback" in without_sandbox(tmp_path, hostile.connect, *connections(servers))
    assert {"tcp", "udp", "path", "abstract", "datagrams"} <= set(heard(servers))


# reading


def test_reads_no_gradebook_no_submission_no_solution_no_reference(worker, course, tmp_path):
    folders = [str(p) for p in (course, course / "submitted", ROOT, ROOT / "tests", Path.home(), Path("/proc"))]
    assert_harmless(worker, tmp_path, hostile.read_files, private_files(course), folders, os.getpid())


def test_the_files_can_be_read_without_the_sandbox(course, tmp_path):
    assert "private" not in without_sandbox(tmp_path, hostile.read_files, private_files(course)[:1], [], os.getpid())
    assert "got: open /" in without_sandbox(tmp_path, hostile.read_files, private_files(course)[:1], [], os.getpid())


def test_sees_no_process_and_no_machine(worker, own_tree, tmp_path):
    assert_harmless(worker, tmp_path, hostile.read_processes, os.getpid())


def test_no_open_file_is_inherited(worker, tmp_path):
    assert_harmless(worker, tmp_path, hostile.walk_descriptors)


def test_cannot_leave_the_file_tree(worker, tmp_path):
    assert_harmless(worker, tmp_path, hostile.leave_the_tree)


def test_reference_is_not_there(worker, tmp_path):
    assert_harmless(worker, tmp_path, hostile.inspect_reference)


def test_environment_says_nothing_of_the_teacher(worker, course, tmp_path):
    names = ["NBGRADER", "SECRET", "PYTEST", str(ROOT / "autograder"), str(course), "serve"]
    machine = "" if "no-namespaces" in worker.machine else os.uname().nodename
    assert_harmless(worker, tmp_path, hostile.environment, names, machine)


def masked(text: str) -> str:
    """A text in a form that a search for it does not find."""
    return bytes(byte ^ 0x55 for byte in text.encode()).hex()


def test_memory_holds_no_reference(worker, tmp_path):
    source = (Path(redacted.HERE) / "rlhf_core" / "evaluation.py").read_text()
    needle = next(line.strip() for line in source.splitlines() if "share of prompts" in line.lower())
    assert_harmless(worker, tmp_path, hostile.search_memory, masked(needle))


def test_memory_holds_no_other_submission(worker, tmp_path):
    other = "the answer of another student: " + "x" * 40
    search = hostile.submission(hostile.search_memory, masked(other))
    for _ in range(3):
        assert result(run(worker, HONEST.replace("a, b", f"a, b, note={other!r}"), tmp_path)) == 0.5
    assert result(run(worker, search, tmp_path)) == 0.5
    # the search is able to find what is there: its own copy
    found = result(run(worker, search.replace("scores_b):", f"scores_b, note={other!r}):", 1), tmp_path))
    assert "got: 0x" in str(found)


# writing


def test_writes_nowhere_but_in_scratch(worker, course, tmp_path):
    packages = str(Path(torch.__file__).parent.parent)
    places = [
        "/",
        "/var/tmp",
        "/dev/shm",
        "/dev",
        "/etc",
        "/usr/lib",
        packages,
        str(Path.home()),
        str(ROOT),
        str(course),
    ]
    if "no-namespaces" in worker.machine:
        places.append("/tmp")
    assert_harmless(worker, tmp_path, hostile.write_files, places, str(course / "gradebook.db"))
    assert (course / "gradebook.db").read_text() == "private"
    assert (course / "gradebook.db").stat().st_mode & 0o777 == 0o666
    assert (course / "gradebook.db").stat().st_mtime > 1e9
    for place in places:
        assert not [p for p in os.listdir(place) if "by-hostile" in p], place


def test_scratch_is_new_for_every_job(worker, tmp_path):
    source = "import os\nLEFT = os.listdir('.')\nopen('note', 'w').close()\n" + HONEST.replace(
        "return", "assert not LEFT\n    return"
    )
    assert [result(run(worker, source, tmp_path)) for _ in range(2)] == [0.5, 0.5]


# processes


@pytest.mark.parametrize(
    "attack",
    [hostile.fork_bomb, hostile.start_programs, hostile.open_everything, hostile.nest_folders],
)
def test_starts_nothing_and_exhausts_nothing(worker, attack, tmp_path):
    before = children_of(worker.process.pid) if worker.process else set()
    assert_harmless(worker, tmp_path, attack)
    assert len(children_of(worker.process.pid)) <= max(len(before), 1)


def test_nothing_outlives_a_job(worker, tmp_path):
    assert_harmless(worker, tmp_path, hostile.daemonize, "daemon")
    assert len(children_of(worker.process.pid)) <= 1


def test_disturbs_no_other_process(worker, tmp_path):
    limits = Path("/proc/self/limits").read_text()
    assert_harmless(worker, tmp_path, hostile.disturb_others, os.getpid())
    assert Path("/proc/self/limits").read_text() == limits
    assert os.getpriority(os.PRIO_PROCESS, 0) == 0


def test_uses_no_other_part_of_the_kernel(worker, tmp_path):
    assert_harmless(worker, tmp_path, hostile.use_the_kernel)


# limits


def test_limits_cannot_be_raised(worker, tmp_path):
    assert_harmless(worker, tmp_path, hostile.raise_limits)


def test_memory_is_bounded(worker, tmp_path):
    assert_harmless(worker, tmp_path, hostile.memory_bomb, 8192)


def test_threads_are_bounded(worker, own_tree, tmp_path):
    assert_harmless(worker, tmp_path, hostile.thread_bomb)


def test_disk_is_bounded(worker, own_tree, tmp_path):
    assert_harmless(worker, tmp_path, hostile.fill_the_disk, 64)


@pytest.mark.parametrize("attack", [hostile.loop_for_ever, hostile.sleep_for_ever])
def test_time_is_bounded(worker, attack, tmp_path):
    start = time.monotonic()
    outcome = run(worker, hostile.submission(attack), tmp_path)
    assert outcome.ending == "timeout"
    assert time.monotonic() - start < SECONDS + 15  # on a busy machine
    assert result(run(worker, HONEST, tmp_path)) == 0.5


def test_output_is_bounded(worker, tmp_path):
    outcome = run(worker, hostile.submission(hostile.flood), tmp_path)
    assert outcome.ending in ("flood", "timeout", "not data")
    assert result(run(worker, HONEST, tmp_path)) == 0.5


@pytest.mark.parametrize(
    "how, ending", [("exit", "done"), ("kill", "SIGKILL"), ("abort", "SIGABRT"), ("crash", "SIGSEGV")]
)
def test_a_death_costs_one_job(worker, how, ending, tmp_path):
    outcome = run(worker, hostile.submission(hostile.die, how), tmp_path)
    assert (outcome.ending, outcome.seen) == (ending, [])
    assert result(run(worker, HONEST, tmp_path)) == 0.5
