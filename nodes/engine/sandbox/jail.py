"""The rights and resources that a process gives up before it reads untrusted input.

Afterwards neither the process nor its forks can open files, make connections, start programs or
reach other processes. Open descriptors (the pipes to the node) stay usable.
"""

from __future__ import annotations

import ctypes
import os
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

# The numbers of the calls that are refused, by name (the kernel's tables of system calls).
_X86_64_REFUSED: Final = {
    **{"open": 2, "creat": 85, "openat": 257, "openat2": 437, "memfd_create": 319},
    **{"unlink": 87, "unlinkat": 263, "rename": 82, "renameat": 264, "renameat2": 316},
    **{"mkdir": 83, "mkdirat": 258, "rmdir": 84, "link": 86, "linkat": 265, "symlink": 88},
    **{"symlinkat": 266, "chmod": 90, "fchmodat": 268, "chown": 92, "lchown": 94},
    **{"fchownat": 260, "truncate": 76, "mount": 165, "unshare": 272, "setns": 308},
    **{"socket": 41, "socketpair": 53, "connect": 42, "accept": 43, "accept4": 288, "bind": 49},
    **{"listen": 50, "sendto": 44, "sendmsg": 46, "sendmmsg": 307, "io_uring_setup": 425},
    **{"execve": 59, "execveat": 322, "ptrace": 101, "process_vm_readv": 310},
    **{"kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297},
    **{"setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144},
    **{"sched_setaffinity": 203, "sched_setattr": 314, "ioprio_set": 251},
    **{"mknod": 133, "mknodat": 259},
    **{"process_vm_writev": 311, "pidfd_open": 434, "pidfd_getfd": 438},
    **{"bpf": 321, "perf_event_open": 298, "userfaultfd": 323},
    **{"add_key": 248, "request_key": 249, "keyctl": 250},
}
_AARCH64_REFUSED: Final = {
    **{"openat": 56, "openat2": 437, "memfd_create": 279},
    **{"unlinkat": 35, "renameat": 38, "renameat2": 276, "mkdirat": 34, "linkat": 37},
    **{"symlinkat": 36, "fchmodat": 53, "fchownat": 54, "truncate": 45, "mount": 40},
    **{"unshare": 97, "setns": 268},
    **{"socket": 198, "socketpair": 199, "connect": 203, "accept": 202, "accept4": 242},
    **{"bind": 200, "listen": 201, "sendto": 206, "sendmsg": 211, "sendmmsg": 269},
    **{"io_uring_setup": 425, "execve": 221, "execveat": 281, "ptrace": 117},
    **{"kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240},
    **{"setpriority": 140, "sched_setparam": 118, "sched_setscheduler": 119},
    **{"sched_setaffinity": 122, "sched_setattr": 274, "ioprio_set": 30},
    **{"mknodat": 33, "process_vm_readv": 270},
    **{"process_vm_writev": 271, "pidfd_open": 434, "pidfd_getfd": 438},
    **{"bpf": 280, "perf_event_open": 241, "userfaultfd": 282},
    **{"add_key": 217, "request_key": 218, "keyctl": 219},
}
# By machine: the architecture's number in linux/audit.h, the refused calls, and prlimit64, by which
# a process limits itself (0) or another one.
_MACHINES: Final = {
    "x86_64": (0xC000_003E, _X86_64_REFUSED, 302),
    "aarch64": (0xC000_00B7, _AARCH64_REFUSED, 261),
}


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
    if known is None or os.name != "posix":
        return False
    architecture, refused, prlimit = known
    code = _filter(architecture, sorted(refused.values()), prlimit)
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
