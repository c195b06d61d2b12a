"""Which system calls the filters allow: read from the programs, and tried by a process."""

import re
import signal
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.engine.sandbox import call_filter
from tests.engine.printed import printed
from tests.engine.sandbox.test_jail import needs_a_known_machine

# The kernel's own numbers, where its headers are installed. arm64 uses the generic ones.
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = ("x86_64", "aarch64")
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
FIRST_OF_LINUX_5_1 = 424
CLONE_NEWUSER, CLONE_THREAD_FLAGS, CLONE_OF_FORK = 0x10000000, 0x3D0F00, 0x1200011
PROT_READ, PROT_EXEC, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS = 1, 4, 1, 2, 0x20


def answer(program: bytes | None, architecture: int, number: int, arguments: Sequence[int]) -> int:
    """What a program returns for a call, by the rules of classic BPF."""
    assert program is not None
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    code = list(struct.iter_unpack("<HBBI", program))
    at = accumulator = 0
    while True:
        kind, if_true, if_false, value = code[at]
        at += 1
        match kind:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x06:
                return value
            case _:
                raise AssertionError(f"unknown instruction {kind:#x}")


def answer_to(name: str, *arguments: int, machine: str = "x86_64", forks: bool = False) -> int:
    number = call_filter.calls(forks=True)[name].numbers[MACHINES.index(machine)]
    assert number is not None
    program = call_filter.program(machine, forks=forks)
    return answer(program, ARCHITECTURES[machine], number, arguments)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("forks", [False, True])
def test_only_calls_of_the_list_are_allowed(machine: str, forks: bool) -> None:
    program = call_filter.program(machine, forks=forks)
    place = MACHINES.index(machine)
    listed = {call.numbers[place] for call in call_filter.calls(forks=forks).values()}
    for number in range(4096):
        found = answer(program, ARCHITECTURES[machine], number, ())
        if number not in listed:
            assert found in ((ENOSYS,) if number >= FIRST_OF_LINUX_5_1 else (EPERM, KILL)), number


@pytest.mark.parametrize("machine", MACHINES)
@given(number=st.integers(0, 2**32 - 1), other=st.integers(0, 2**32 - 1))
def test_calls_of_another_abi_end_the_process(machine: str, number: int, other: int) -> None:
    program = call_filter.program(machine, forks=True)
    if other != ARCHITECTURES[machine]:
        assert answer(program, other, number, ()) == KILL
    assert answer(program, ARCHITECTURES[machine], number | 0x40000000, ()) == KILL


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", sorted(call_filter.calls(forks=True)))
def test_the_numbers_are_the_kernels(machine: str, name: str) -> None:
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"no {header}")
    pattern = rf"#define __NR(?:3264)?_{name}\s+(\d+)"
    found = re.search(pattern, header.read_text())
    number = call_filter.calls(forks=True)[name].numbers[MACHINES.index(machine)]
    assert number == (int(found[1]) if found else None)


@pytest.mark.parametrize("machine", MACHINES)
@given(arguments=st.tuples(*[st.integers(0, 2**64 - 1)] * 6))
def test_no_memory_is_executable_or_shared(machine: str, arguments: tuple[int, ...]) -> None:
    if answer_to("mprotect", *arguments, machine=machine) == ALLOW:
        assert not arguments[2] & PROT_EXEC
    if answer_to("mmap", *arguments, machine=machine) == ALLOW:
        assert not arguments[2] & PROT_EXEC
        assert arguments[3] & MAP_ANONYMOUS
        assert not arguments[3] & MAP_SHARED


@pytest.mark.parametrize("machine", MACHINES)
@given(flags=st.integers(0, 2**32 - 1), forks=st.booleans())
def test_a_clone_is_a_thread_or_a_fork(machine: str, flags: int, forks: bool) -> None:
    kept = {CLONE_THREAD_FLAGS, *([CLONE_OF_FORK] if forks else [])}
    # One bit more or less than what is allowed, too.
    for near in (flags, *(good ^ 1 << bit for good in kept for bit in range(22)), *kept):
        if answer_to("clone", near, machine=machine, forks=forks) == ALLOW:
            # musl sets CLONE_DETACHED, which the kernel ignores.
            assert near & ~0x400000 in kept
    for good in kept:
        assert answer_to("clone", good, machine=machine, forks=forks) == ALLOW
        assert answer_to("clone", good | CLONE_NEWUSER, machine=machine, forks=forks) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_a_fork_keeps_what_answering_needs_and_loses_what_forking_needs(machine: str) -> None:
    place = MACHINES.index(machine)
    program = call_filter.program_of_fork(machine)
    answering = call_filter.calls(forks=False)
    for name, call in call_filter.calls(forks=True).items():
        for arguments in ((CLONE_THREAD_FLAGS,), (CLONE_OF_FORK,), (1, 1), (1, signal.SIGKILL)):
            number = call.numbers[place]
            if number is None:
                continue
            found = answer(program, ARCHITECTURES[machine], number, arguments)
            is_fork = name == "clone" and arguments[0] != CLONE_THREAD_FLAGS
            is_lost = name not in answering or is_fork
            assert found == (EPERM if is_lost else ALLOW), (name, arguments)


def test_other_machines_have_no_filter() -> None:
    assert call_filter.program("riscv64", forks=True) is None
    assert call_filter.program_of_fork("riscv64") is None


# Each call of 0 to 600 that is not listed, made in a process of its own. One that waits is ended.
TRY_ALL = """
import ctypes, errno, os, platform, signal
from airdraft.nodes.engine.sandbox import call_filter, jail
place = 0 if platform.machine() == "x86_64" else 1
listed = {call.numbers[place] for call in call_filter.calls(forks=True).values()}
if place == 0:
    # The kernel's own, for uprobes: it does not filter them, and they work in its code only.
    listed |= {335, 336}
libc = ctypes.CDLL(None, use_errno=True)
ended = []
for number in set(range(601)) - listed:
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        if not jail.confine(address_space=1 << 40, forks=True):
            os._exit(2)
        found = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 6)
        expected = errno.ENOSYS if number >= 424 else errno.EPERM
        os._exit(0 if found == -1 and ctypes.get_errno() == expected else 1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
        ended.append(number)
    elif status:
        print("not refused:", number, status)
print(sorted(ended))
"""


@needs_a_known_machine
def test_every_call_that_is_not_listed_is_refused() -> None:
    # execve, ptrace, process_vm_readv, process_vm_writev and execveat.
    assert printed(TRY_ALL) in ("[59, 101, 310, 311, 322]", "[117, 221, 270, 271, 281]")
