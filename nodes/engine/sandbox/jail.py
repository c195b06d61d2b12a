"""The rights and resources that a process gives up before it reads untrusted input.

Afterwards neither the process nor its forks can open files, make connections, start programs or
reach other processes. Open descriptors (the pipes to the node) stay usable.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import signal
import struct
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_MODE_FILTER: Final = 2
_RET_ALLOW: Final = 0x7FFF_0000
_RET_ERRNO_EPERM: Final = 0x0005_0001
# Instructions of classic BPF: load a word, jump if equal, jump if at least, return.
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
# Offsets in struct seccomp_data.
_SYSCALL_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
# From this number on are the calls of x86-64's other ABI (x32), which is not used here.
_X32_CALLS: Final = 0x4000_0000

# The calls that are refused, and their numbers on x86-64 and arm64 (the kernel's tables of system
# calls); None where a machine has no such call.
# fmt: off
_REFUSED: Final[dict[str, tuple[int, int | None]]] = {
    # Files and mounts.
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None),
    "memfd_create": (319, 279), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34),
    "rmdir": (84, None), "mknod": (133, None), "mknodat": (259, 33), "link": (86, None),
    "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "chmod": (90, None),
    "fchmodat": (268, 53), "chown": (92, None), "lchown": (94, None), "fchownat": (260, 54),
    "truncate": (76, 45), "mount": (165, 40), "unshare": (272, 97), "setns": (308, 268),
    # Connections.
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "accept": (43, 202),
    "accept4": (288, 242), "bind": (49, 200), "listen": (50, 201), "sendto": (44, 206),
    "sendmsg": (46, 211), "sendmmsg": (307, 269), "io_uring_setup": (425, 425),
    # Programs and other processes.
    "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kill": (62, 129),
    "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "setpriority": (141, 140), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122), "sched_setattr": (314, 274), "ioprio_set": (251, 30),
    # The kernel itself.
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
}
# fmt: on
# By machine: the architecture's number in linux/audit.h, the place of its numbers in the table, and
# prlimit64, by which a process limits itself (0) or another one.
_MACHINES: Final = {"x86_64": (0xC000_003E, 0, 302), "aarch64": (0xC000_00B7, 1, 261)}


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def end_with_parent() -> None:
    """Make the kernel end this process when the thread that forked it ends."""
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def address_space_bytes() -> int:
    """Return the size of the memory that this process has mapped."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def limit(*, address_space: int, cpu_s: int, wall_s: float) -> None:
    """Limit the memory and time of this process from now on; each call restarts the times.

    Too much memory (address_space bytes in all) raises MemoryError or ends the process. Too much
    time ends it by SIGXCPU (CPU time) or SIGALRM (wall clock).
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set(resource.RLIMIT_AS, address_space)
    _set(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + cpu_s)
    # No conversation may get into a core dump or another file.
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_FSIZE, 0)
    signal.setitimer(signal.ITIMER_REAL, wall_s)


def rest() -> None:
    """Stop the wall-clock timer until the next question."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _set(kind: int, value: int) -> None:
    """Set a soft limit. The hard limit stays, so that the next question can raise the soft one."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def refuse_calls() -> bool:
    """Refuse the system calls above from now on, for this thread and all that it starts.

    Returns False if the kernel or the machine has no such filter.
    """
    known = _MACHINES.get(platform.machine())
    if known is None:
        return False
    architecture, place, prlimit = known
    refused = [call for numbers in _REFUSED.values() if (call := numbers[place]) is not None]
    code = _filter(architecture, sorted(refused), prlimit)
    libc = _libc()
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    program = _Program(len(code) // 8, code)
    given = _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    return bool(libc.prctl(_PR_SET_SECCOMP, *given) == 0)


def _filter(architecture: int, refused: list[int], prlimit: int) -> bytes:
    """Return the BPF program that answers EPERM to what this process must not call.

    These are the refused calls, prlimit64 of another process, and calls of another ABI.
    """
    num = len(refused)
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 0, num + 6, architecture),
        (_LOAD, 0, 0, _SYSCALL_NUMBER),
        (_JUMP_AT_LEAST, num + 4, 0, _X32_CALLS),
    ]
    code += [(_JUMP_EQUAL, num + 3 - index, 0, call) for index, call in enumerate(refused)]
    code += [(_JUMP_EQUAL, 0, 2, prlimit), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_JUMP_EQUAL, 0, 1, 0)]
    code += [(_RETURN, 0, 0, _RET_ALLOW), (_RETURN, 0, 0, _RET_ERRNO_EPERM)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
