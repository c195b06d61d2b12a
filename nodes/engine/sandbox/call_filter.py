"""The system calls that a process may make while it reads untrusted input, as a filter (BPF).

The filter lists what is allowed. Whatever is not in the list is refused, also calls that future
kernels add. So files, connections, programs, other processes and the kernel's other services are
out of reach without being named.

The list is what CPython, glibc, libstdc++ and Rust's standard library need to compute, to take
memory, to run threads, and to read and write descriptors that are open. It was found by tracing
all duties (glibc 2.41), and widened by what glibc 2.31 to 2.40 call in the same places.
"""

from __future__ import annotations

import signal
import struct
from typing import Final, NamedTuple, TypeAlias

# What the kernel answers (linux/seccomp.h).
_ALLOW: Final = 0x7FFF_0000
_KILL_PROCESS: Final = 0x8000_0000
_EPERM: Final = 0x0005_0001
_ENOSYS: Final = 0x0005_0026
# Instructions of classic BPF: load a word, mask it, jump if equal, jump if at least, return.
_LOAD, _AND, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
# Offsets in struct seccomp_data. The lower half of an argument comes first on both machines.
_NUMBER, _ARCHITECTURE, _ARGUMENTS, _ARGUMENT_BYTES = 0, 4, 16, 8
# From this number on are the calls of x86-64's other ABI (x32), which is not used here.
_X32_CALLS: Final = 0x4000_0000
# Calls from this number on are newer than Linux 5.0, and libraries do without them where a kernel
# is older. Answering like an older kernel makes glibc use clone, whose flags a filter can read,
# in place of clone3.
_NEWER_CALLS: Final = 424

# By machine: the architecture's number (linux/audit.h) and the place of its numbers below.
_MACHINES: Final = {"x86_64": (0xC000_003E, 0), "aarch64": (0xC000_00B7, 1)}
_SECCOMP: Final = (317, 277)

_ALL_BITS: Final = 0xFFFF_FFFF

_Instruction: TypeAlias = tuple[int, int, int, int]


class Check(NamedTuple):
    """What an argument must be: one of `values`, in the bits of `mask`.

    Only the lower 32 bits are read. The kernel ignores the upper ones of all arguments below, or
    refuses the call because of them.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = _ALL_BITS


class Call(NamedTuple):
    """A call's numbers on x86-64 and arm64 (None: there is none) and what its arguments must be."""

    numbers: tuple[int, int | None]
    checks: tuple[Check, ...] = ()


# Threads as glibc and musl start them, and fork as glibc does it. No other flags: none of them
# makes a namespace.
_THREAD: Final = (0x003D_0F00, 0x007D_0F00)
_FORK: Final = 0x0120_0011
_PROT_EXEC: Final = 4
# MAP_PRIVATE and MAP_ANONYMOUS among the kinds of mappings: no files and no shared memory.
_MAP_KIND, _MAP_PRIVATE_ANONYMOUS = 0x2F, 0x22
# MADV_DONTNEED, _FREE and _HUGEPAGE, which allocators use; MADV_GUARD_INSTALL and _REMOVE, which
# glibc 2.42 uses for the stacks of threads.
_ADVICE: Final = (4, 8, 14, 102, 103)
# Waiting and waking, without those that inherit priorities. The flags that are masked out say
# "private" and "realtime".
_FUTEX, _FUTEX_MASK = (0, 1, 3, 4, 5, 9, 10), 0x7F
_O_CLOEXEC: Final = 0x8_0000

# The first ones are called most, and kernels before 5.11 go through the list for each call.
_ANSWERING: Final[dict[str, Call]] = {
    "mprotect": Call((10, 226), (Check(2, (0,), _PROT_EXEC),)),
    "read": Call((0, 63)),
    "write": Call((1, 64)),
    "futex": Call((202, 98), (Check(1, _FUTEX, _FUTEX_MASK),)),
    "munmap": Call((11, 215)),
    "mmap": Call(
        (9, 222), (Check(2, (0,), _PROT_EXEC), Check(3, (_MAP_PRIVATE_ANONYMOUS,), _MAP_KIND))
    ),
    "mremap": Call((25, 216)),
    "brk": Call((12, 214)),
    "madvise": Call((28, 233), (Check(2, _ADVICE),)),
    # Threads and the end.
    "clone": Call((56, 220), (Check(0, _THREAD),)),
    "set_robust_list": Call((273, 99)),
    "rseq": Call((334, 293)),
    "gettid": Call((186, 178)),
    "getpid": Call((39, 172)),
    "sched_yield": Call((24, 124)),
    "sched_getaffinity": Call((204, 123)),
    "exit": Call((60, 93)),
    "exit_group": Call((231, 94)),
    "close": Call((3, 57)),
    # Signals that this process gets; it can send none.
    "rt_sigprocmask": Call((14, 135)),
    "rt_sigaction": Call((13, 134)),
    "rt_sigreturn": Call((15, 139)),
    "sigaltstack": Call((131, 132)),
    "restart_syscall": Call((219, 128)),
    # The limits of an answer: ITIMER_REAL, and RLIMIT_CPU of this process.
    "getrusage": Call((98, 165)),
    "setitimer": Call((38, 103), (Check(0, (0,)),)),
    "prlimit64": Call((302, 261), (Check(0, (0,)), Check(1, (0,)))),
    # Time and chance. Clocks are calls where the machine's clock cannot be read without one.
    "getrandom": Call((318, 278)),
    "clock_gettime": Call((228, 113)),
    "clock_getres": Call((229, 114)),
    "gettimeofday": Call((96, 169)),
    "time": Call((201, None)),
    "clock_nanosleep": Call((230, 115)),
    "nanosleep": Call((35, 101)),
}
# What a process needs besides to answer each question in a fork. The fork gives it up.
_FORKING: Final[dict[str, Call]] = {
    "clone": Call((56, 220), (Check(0, (*_THREAD, _FORK)),)),
    "wait4": Call((61, 260)),
    "pipe2": Call((293, 59), (Check(1, (_O_CLOEXEC,)),)),
    # PR_SET_PDEATHSIG to SIGKILL, and PR_SET_SECCOMP to SECCOMP_MODE_FILTER: a further filter
    # refuses more, never less.
    "prctl": Call((157, 167), (Check(0, (1, 22)), Check(1, (signal.SIGKILL, 2)))),
}
# No library makes these calls on its own in a process that cannot fork. Who tries them is ended.
_FATAL: Final[dict[str, Call]] = {
    "execve": Call((59, 221)),
    "execveat": Call((322, 281)),
    "ptrace": Call((101, 117)),
    "process_vm_readv": Call((310, 270)),
    "process_vm_writev": Call((311, 271)),
}


def calls(*, forks: bool) -> dict[str, Call]:
    """Returns the calls that are allowed, by name."""
    return {**_ANSWERING, **_FORKING} if forks else dict(_ANSWERING)


def program(machine: str, *, forks: bool) -> bytes | None:
    """Returns the filter for a process; None if the machine is not known.

    machine: As platform.machine() names it. forks: Whether the process answers in forks. Refused
    calls answer EPERM, newer ones ENOSYS. Calls of another ABI and those that only an attacker
    makes end the process by SIGSYS.
    """
    if machine not in _MACHINES:
        return None
    architecture, place = _MACHINES[machine]
    code: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_AT_LEAST, 0, 1, _X32_CALLS),
        (_RETURN, 0, 0, _KILL_PROCESS),
    ]
    for call in calls(forks=forks).values():
        code += _at(call.numbers[place], _allowing(call))
    for call in _FATAL.values():
        code += _at(call.numbers[place], [(_RETURN, 0, 0, _KILL_PROCESS)])
    code += [
        (_JUMP_AT_LEAST, 0, 1, _NEWER_CALLS),
        (_RETURN, 0, 0, _ENOSYS),
        (_RETURN, 0, 0, _EPERM),
    ]
    return _packed(code)


def program_of_fork(machine: str) -> bytes | None:
    """Returns the filter that a fork adds, which gives up what it does not need itself.

    It is short, because the kernel runs it in addition to the other one for each call.
    """
    if machine not in _MACHINES:
        return None
    place = _MACHINES[machine][1]
    code: list[_Instruction] = [(_LOAD, 0, 0, _NUMBER)]
    for name, call in _FORKING.items():
        allowed = _ANSWERING.get(name)
        answer = _allowing(allowed) if allowed else [(_RETURN, 0, 0, _EPERM)]
        code += _at(call.numbers[place], answer)
    return _packed([*code, (_RETURN, 0, 0, _ALLOW)])


def number_of_seccomp(machine: str) -> int:
    """Returns the number of the call that sets a filter, on a known machine."""
    return _SECCOMP[_MACHINES[machine][1]]


def _at(number: int | None, answer: list[_Instruction]) -> list[_Instruction]:
    """Returns the instructions that answer a call, which must end in returning."""
    return [] if number is None else [(_JUMP_EQUAL, 0, len(answer), number), *answer]


def _allowing(call: Call) -> list[_Instruction]:
    code: list[_Instruction] = []
    for check in call.checks:
        count = len(check.values)
        code.append((_LOAD, 0, 0, _ARGUMENTS + check.argument * _ARGUMENT_BYTES))
        if check.mask != _ALL_BITS:
            code.append((_AND, 0, 0, check.mask))
        code += [(_JUMP_EQUAL, count - i, 0, value) for i, value in enumerate(check.values)]
        code.append((_RETURN, 0, 0, _EPERM))
    return [*code, (_RETURN, 0, 0, _ALLOW)]


def _packed(code: list[_Instruction]) -> bytes:
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
