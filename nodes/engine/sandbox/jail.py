"""The rights and resources that a process gives up before it reads untrusted input.

Afterwards neither the process nor its forks can open or change files, make connections, start
programs, or reach other processes. Open descriptors (the pipes to the node) stay usable. The main
wall is the filter of system calls (`call_filter.py`); Landlock stands behind it (`landlock.py`).
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import resource
import signal
import struct
from pathlib import Path
from typing import Final

from airdraft.nodes.engine.sandbox import call_filter, landlock

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_SET_NO_NEW_PRIVS: Final = 38
# For seccomp(): set a filter, for all threads of this process.
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
# The version of struct __user_cap_header_struct with 64 capabilities.
_CAPABILITY_VERSION: Final = 0x2008_0522
# At the hard limit of CPU time the kernel sends SIGKILL, at the soft one SIGXCPU. The node takes
# SIGKILL for a lack of memory and asks again, so the hard limit must be the later one.
_CPU_GRACE_S: Final = 1


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def end_with_parent() -> None:
    """Make the kernel end this process when the thread that forked it ends."""
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def address_space_bytes() -> int:
    """Returns the size of the memory that this process has mapped."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def confine(*, address_space: int, forks: bool) -> bool:
    """Give up all rights above for good, and memory of more than address_space bytes.

    Call it in the main thread when all modules, files and callbacks of ctypes that will be needed
    are loaded, open and made. Too much memory raises MemoryError or ends the process. forks: Keep
    the right to fork. Returns False if the kernel or the machine has no filter of system calls.
    """
    _set(resource.RLIMIT_AS, address_space, is_final=True)
    # No conversation may get into a core dump or another file.
    _set(resource.RLIMIT_CORE, 0, is_final=True)
    _set(resource.RLIMIT_FSIZE, 0, is_final=True)
    _make_closures_constant()
    libc = _libc()
    # Root could raise its limits again, and more.
    libc.capset(struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    landlock.restrict()
    return _install(call_filter.program(platform.machine(), forks=forks))


def give_up_forks() -> None:
    """Give up, in a fork, what only the process that forks needs."""
    _install(call_filter.program_of_fork(platform.machine()))


def limit(*, cpu_s: int, wall_s: float, is_final: bool = False) -> None:
    """Limit the time of this process from now on; each call restarts the times.

    Too much time ends it by SIGXCPU (CPU time) or SIGALRM (wall clock). is_final: The limit of CPU
    time cannot be raised again, not even by this process.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    end_s = int(used.ru_utime + used.ru_stime) + cpu_s
    _set(resource.RLIMIT_CPU, end_s, grace=_CPU_GRACE_S, is_final=is_final)
    signal.setitimer(signal.ITIMER_REAL, wall_s)


def rest() -> None:
    """Stop the wall-clock timer until the next question."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _set(kind: int, soft: int, *, is_final: bool, grace: int = 0) -> None:
    """Set a soft limit and, if it is final, the hard one, which lies `grace` above it."""
    hard = resource.getrlimit(kind)[1]
    if is_final:
        hard = soft + grace if hard == resource.RLIM_INFINITY else min(soft + grace, hard)
    resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _install(program: bytes | None) -> bool:
    if program is None:
        return False
    libc, given = _libc(), ctypes.byref(_Program(len(program) // 8, program))
    number = ctypes.c_long(call_filter.number_of_seccomp(platform.machine()))
    done = libc.syscall(number, _SET_MODE_FILTER, _ALL_THREADS, given)
    if done < 0:
        # A filter around this process, such as a service's, may know this way only. It is for this
        # thread and those that it starts.
        done = libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, given, 0, 0)
    return bool(done == 0)


def _make_closures_constant() -> None:
    """Make memory constant that is writable and executable, or writable and shared.

    libffi keeps the entry points of ctypes' callbacks in the former, or in the latter if it may not
    have the former; it maps that twice. No further callback can be made, and none can be freed: the
    process must end by os._exit().
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, access = line.split()[:2]
        if access[1] == "w" and access[2:] != "-p":
            begin, end = (int(address, 16) for address in addresses.split("-"))
            rights = mmap.PROT_READ | (mmap.PROT_EXEC if access[2] == "x" else 0)
            _libc().mprotect(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), rights)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
