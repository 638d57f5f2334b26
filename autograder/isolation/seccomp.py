"""A filter on system calls: what no exercise needs is refused with EPERM, as if the user were not allowed to.

It denies rather than allows by list: a wrong mark because some libc uses a call that nobody thought of would be worse than
what the other layers hold anyway. Numbers are those of the kernel's own tables (asm/unistd_64.h, asm-generic/unistd.h).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from autograder.isolation import linux

NETWORK = "socket connect bind listen accept accept4"
PROGRAMS = "fork vfork execve execveat"
OTHER_PROCESSES = """ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_open pidfd_getfd
    pidfd_send_signal tkill rt_sigqueueinfo rt_tgsigqueueinfo setpriority ioprio_set migrate_pages move_pages"""
NAMESPACES = """mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr unshare
    setns name_to_handle_at open_by_handle_at"""
KERNEL = """bpf perf_event_open keyctl add_key request_key io_uring_setup io_uring_enter io_uring_register userfaultfd
    fanotify_init syslog kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff acct
    quotactl quotactl_fd iopl ioperm modify_ldt mknod mknodat sethostname setdomainname clock_settime settimeofday"""
# memory that no limit of the process counts
HIDDEN_MEMORY = "memfd_create memfd_secret shmget shmat shmctl msgget msgsnd semget semop mq_open"
# Landlock does not know these; without a file tree of its own, a process could spoil files that it cannot open
FILE_ATTRIBUTES = """chmod fchmod fchmodat chown lchown fchown fchownat utime utimes futimesat utimensat setxattr lsetxattr
    fsetxattr removexattr lremovexattr fremovexattr truncate"""

DENIED = " ".join((NETWORK, PROGRAMS, OTHER_PROCESSES, NAMESPACES, KERNEL, HIDDEN_MEMORY)).split()
# these name a process by their first argument: only this one may be named, by its number or by 0
ONLY_ITSELF = "kill tgkill prlimit64 sched_setaffinity sched_setscheduler sched_setparam sched_setattr".split()
NEWEST = 450  # newer calls than the filter's author knew are answered with "no such call", as by an older kernel
CLONE_THREAD, AF_UNIX, SOCK_STREAM = 0x10000, 1, 1

# call: its number on x86-64 and on aarch64 (None: it has none)
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "accept": (43, 202), "accept4": (288, 242), "acct": (163, 89), "add_key": (248, 217), "bind": (49, 200),
    "bpf": (321, 280), "chmod": (90, None), "chown": (92, None), "chroot": (161, 51), "clock_settime": (227, 112),
    "clone": (56, 220), "clone3": (435, 435), "connect": (42, 203), "delete_module": (176, 106), "execve": (59, 221),
    "execveat": (322, 281), "fanotify_init": (300, 262), "fchmod": (91, 52), "fchmodat": (268, 53), "fchown": (93, 55),
    "fchownat": (260, 54), "finit_module": (313, 273), "fork": (57, None), "fremovexattr": (199, 16),
    "fsconfig": (431, 431), "fsetxattr": (190, 7), "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433),
    "futimesat": (261, None), "init_module": (175, 105), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioperm": (173, None), "iopl": (172, None),
    "ioprio_set": (251, 30), "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104),
    "keyctl": (250, 219), "kill": (62, 129), "lchown": (94, None), "listen": (50, 201), "lremovexattr": (198, 15),
    "lsetxattr": (189, 6), "memfd_create": (319, 279), "memfd_secret": (447, 447), "migrate_pages": (256, 238),
    "mknod": (133, None), "mknodat": (259, 33), "modify_ldt": (154, None), "mount": (165, 40),
    "mount_setattr": (442, 442), "move_mount": (429, 429), "move_pages": (279, 239), "mq_open": (240, 180),
    "msgget": (68, 186), "msgsnd": (69, 189), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "open_tree": (428, 428),
    "perf_event_open": (298, 241), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "prctl": (157, 167),
    "prlimit64": (302, 261), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "ptrace": (101, 117), "quotactl": (179, 60), "quotactl_fd": (443, 443), "reboot": (169, 142),
    "removexattr": (197, 14), "request_key": (249, 218), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "semget": (64, 190), "semop": (65, 193),
    "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268), "setpriority": (141, 140),
    "settimeofday": (164, 170), "setxattr": (188, 5), "shmat": (30, 196), "shmctl": (31, 195), "shmget": (29, 194),
    "socket": (41, 198), "socketpair": (53, 199), "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116),
    "tgkill": (234, 131), "tkill": (200, 130), "truncate": (76, 45), "umount2": (166, 39), "unshare": (272, 97),
    "userfaultfd": (323, 282), "utime": (132, None), "utimensat": (280, 88), "utimes": (235, None),
    "vfork": (58, None),
}  # fmt: skip
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# classic BPF: load a word of the call's data, compare, jump, return
LOAD, EQUAL, AT_LEAST, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
NUMBER, ARCHITECTURE, ARGUMENT = 0, 4, (16, 24, 32)  # offsets in struct seccomp_data; low halves of the arguments
ALLOW, REFUSE, UNKNOWN, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000


def available() -> str | None:
    """None, or why there is no filter on this machine."""
    if os.uname().machine not in ARCHITECTURES:
        return f"no table of system calls for {os.uname().machine}"
    try:
        linux.prctl(linux.PR_GET_SECCOMP, what="seccomp")
    except OSError as error:
        return str(error)
    return None


def restrict(file_attributes: bool) -> None:
    """Filter the calls of this process and of its threads for ever; `no_new_privs` must be set.

    Args:
        file_attributes: also refuse to change the attributes of files.

    Raises:
        OSError: the kernel has no filters.
    """
    install(program(os.getpid(), os.uname().machine, file_attributes))


def install(instructions: list[bytes]) -> None:
    """Hand a filter to the kernel."""
    code = ctypes.create_string_buffer(b"".join(instructions))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(code)))
    linux.prctl(linux.PR_SET_SECCOMP, 2, ctypes.addressof(header), what="seccomp filter")


def program(own: int, machine: str, file_attributes: bool) -> list[bytes]:
    """The filter's instructions.

    Args:
        own: the number of the process that it is for.
        machine: the architecture.
        file_attributes: see `restrict`.
    """
    column, architecture = ARCHITECTURES[machine]
    denied = [*DENIED, *(FILE_ATTRIBUTES.split() if file_attributes else [])]
    numbers = {name: NUMBERS[name][column] for name in NUMBERS}
    lines = [
        step(LOAD, ARCHITECTURE), step(EQUAL, architecture, 1, 0), step(RETURN, KILL),
        step(LOAD, NUMBER), step(AT_LEAST, NEWEST + 1, 0, 1), step(RETURN, UNKNOWN),  # x86's 32-bit calls lie above, too
        *if_call(numbers["clone3"], step(RETURN, UNKNOWN)),  # its flags cannot be seen; libc falls back to clone
    ]  # fmt: skip
    for name in denied:
        lines += if_call(numbers[name], step(RETURN, REFUSE))
    if file_attributes:  # before version 3, Landlock lets a file be cut short by opening it for reading
        lines += if_call(numbers["openat2"], step(RETURN, UNKNOWN))  # its flags cannot be seen
        for name, place in (("open", 1), ("openat", 2)):
            flags = [step(LOAD, ARGUMENT[place]), step(AND, os.O_TRUNC | os.O_ACCMODE), step(EQUAL, os.O_TRUNC, 1, 0)]
            lines += if_call(numbers[name], *flags, step(RETURN, ALLOW), step(RETURN, REFUSE))
    for name in ONLY_ITSELF:
        zero = [] if name == "kill" else [step(EQUAL, 0, 1, 0)]  # kill(0) means a whole group
        check = [step(LOAD, ARGUMENT[0]), *zero, step(EQUAL, own, 0, 1), step(RETURN, ALLOW), step(RETURN, REFUSE)]
        lines += if_call(numbers[name], *check)
    lines += if_call(  # it cannot ask to live on when the judge has gone
        numbers["prctl"], step(LOAD, ARGUMENT[0]), step(EQUAL, linux.PR_SET_PDEATHSIG, 1, 0), step(RETURN, ALLOW),
        step(RETURN, REFUSE),
    )  # fmt: skip
    lines += if_call(  # threads, but no processes
        numbers["clone"], step(LOAD, ARGUMENT[0]), step(ANY_BIT, CLONE_THREAD, 0, 1), step(RETURN, ALLOW),
        step(RETURN, REFUSE),
    )  # fmt: skip
    lines += if_call(  # a pair of connected streams, which asyncio wakes itself with, reaches nobody else
        numbers["socketpair"],
        step(LOAD, ARGUMENT[0]), step(EQUAL, AF_UNIX, 0, 4),
        step(LOAD, ARGUMENT[1]), step(AND, 0xF), step(EQUAL, SOCK_STREAM, 0, 1), step(RETURN, ALLOW),
        step(RETURN, REFUSE),
    )  # fmt: skip
    return [*lines, step(RETURN, ALLOW)]


def step(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; jumps count the instructions that are left out."""
    return struct.pack("HBBI", code, if_true, if_false, operand)


def if_call(number: int | None, *then: bytes) -> list[bytes]:
    """Instructions for one call; all of them end in a return, so that the number is still loaded for what follows."""
    return [] if number is None else [step(EQUAL, number, 0, len(then)), *then]
