"""What a jailed process cannot do, tried in processes of their own."""

import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

Run: TypeAlias = Callable[[str], "subprocess.CompletedProcess[str]"]

needs_a_known_machine = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64") or sys.platform != "linux",
    reason="no filter of system calls is known for this machine",
)
pytestmark = needs_a_known_machine

BEGIN = """
import ctypes, fcntl, mmap, os, resource, signal, socket, subprocess, sys, threading
from airdraft.nodes.engine.sandbox import jail
from airdraft.nodes.engine.sandbox.stack import LargeStack
path, other = sys.argv[1], int(sys.argv[2])
reading, writing = os.pipe()
stack, done = LargeStack(), []
libc = ctypes.CDLL(None, use_errno=True)
page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
place = 0 if os.uname().machine == "x86_64" else 1
def call(numbers, *arguments):
    number = numbers[place] if isinstance(numbers, tuple) else numbers
    longs = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    if libc.syscall(ctypes.c_long(number), *longs) < 0:
        raise OSError(ctypes.get_errno(), "")
def in_fork(act):
    child = os.fork()
    if child == 0:
        try:
            jail.give_up_forks()
            jail.limit(cpu_s=2, wall_s=60.0, is_final=True)
            act()
        except PermissionError:
            os._exit(7)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 7:
        raise PermissionError(1, "")
    assert code == 0, code
def send_by_descriptor():
    fcntl.fcntl(reading, fcntl.F_SETOWN, other)
    fcntl.fcntl(reading, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(writing, b"x")
def set_limit(kind, value, process=0):
    try:
        resource.prlimit(process, kind, value)
    except ValueError:
        # What Python makes of EPERM.
        raise PermissionError(1, "")
assert jail.confine(address_space=jail.address_space_bytes() + (1 << 30), forks=True)
try:
    {act}
except OSError as error:
    # EPERM or ENOSYS.
    print("refused" if error.errno in (1, 38) else error, flush=True)
else:
    print("done", flush=True)
os._exit(0)
"""

REFUSED = (
    # Files, also by calls that are newer than the filter.
    "open('/etc/hostname')",
    "open('/tmp/airdraft-jail-test', 'w')",
    "in_fork(lambda: open('/etc/hostname'))",
    "os.stat(path)",
    "os.listdir('/')",
    "os.unlink(path)",
    "os.rename(path, path + '2')",
    "os.mkdir('/tmp/airdraft-jail-test')",
    "os.mknod('/tmp/airdraft-jail-test')",
    "os.chmod(path, 0o666)",
    "call(452, -100, path.encode(), 0o666, 0)",  # fchmodat2
    "os.utime(path, (0, 0))",
    "os.setxattr(path, 'user.a', b'b')",
    "call(428, -100, b'/etc/passwd', 0)",  # open_tree
    "os.chdir('/')",
    "os.memfd_create('x')",
    # Connections, and what processes share.
    "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "socket.socketpair()",
    "libc.shmget(0x41, 4096, 0o1600) < 0 and os.stat(path)",
    "call((240, 180), b'airdraft', 0o102, 0o600, None)",  # mq_open
    "mmap.mmap(-1, 4096)",
    # Other processes and namespaces.
    "os.kill(other, 0)",
    "signal.pthread_kill(threading.get_ident(), signal.SIGTERM)",
    "signal.pidfd_send_signal(0, signal.SIGTERM)",
    "send_by_descriptor()",
    "os.setpriority(os.PRIO_PROCESS, other, 19)",
    "os.sched_setaffinity(other, {0})",
    "set_limit(resource.RLIMIT_CPU, (1, 1), other)",
    "call((272, 97), 0x10000000)",  # unshare
    "call((56, 220), 0x10000011, 0, 0, 0, 0)",  # clone
    "in_fork(lambda: subprocess.run(['true']))",
    "in_fork(os.fork)",
    # The kernel's other services.
    "call((294, 26), 0)",  # inotify_init1
    "call(425, 1, bytes(120))",  # io_uring_setup
    # Its own limits and protection.
    "set_limit(resource.RLIMIT_AS, (-1, -1))",
    "set_limit(resource.RLIMIT_CORE, (-1, -1))",
    "in_fork(lambda: set_limit(resource.RLIMIT_CPU, (-1, -1)))",
    "in_fork(lambda: set_limit(resource.RLIMIT_CPU, (999, 999)))",
    "libc.prctl(4, 1) and os.stat(path)",  # PR_SET_DUMPABLE
    "libc.prctl(1, 0) and os.stat(path)",  # PR_SET_PDEATHSIG to none
    "libc.mprotect(ctypes.c_void_p(address), 4096, 5) and os.stat(path)",
    "mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_EXEC)",
)
# What an answer takes.
ALLOWED = (
    "os.write(writing, b'x') and os.read(reading, 1) == b'x' or 1 / 0",
    "bytearray(1 << 24)",
    "stack.run(lambda: done.append(1)) or done or 1 / 0",
    "threading.Thread(target=os.getpid).start()",
    "in_fork(os.getpid)",
    "in_fork(lambda: stack.run(lambda: done.append(1)))",
    "jail.limit(cpu_s=9, wall_s=9.0)",
    # A failed assertion of a library still ends the process.
    "os.WIFSIGNALED(os.waitpid(os.fork() or os.abort(), 0)[1]) or 1 / 0",
)
# What ends the process.
FATAL = (
    "os.execv('/bin/true', ['true'])",
    "libc.ptrace(0, 0, 0, 0)",
    "call((310, 270), other, 0, 0, 0, 0, 0)",  # process_vm_readv
    "call(0x40000000 + 39)",  # the other ABI of x86-64
)


@pytest.fixture(scope="module")
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.fixture
def run(other: subprocess.Popen[bytes], tmp_path: Path) -> Run:
    """Runs an act in a jailed process, and checks that it changed nothing outside."""
    path = tmp_path / "file"
    path.touch(0o600)
    before = path.stat()

    def run(act: str) -> subprocess.CompletedProcess[str]:
        arguments = BEGIN.replace("{act}", act), str(path), str(other.pid)
        done = subprocess.run(
            [sys.executable, "-c", *arguments], capture_output=True, text=True, timeout=60
        )
        assert other.poll() is None
        after = path.stat()
        assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
        return done

    return run


@pytest.mark.parametrize("act", REFUSED)
def test_what_is_refused(run: Run, act: str) -> None:
    done = run(act)
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.parametrize("act", ALLOWED)
def test_what_is_allowed(run: Run, act: str) -> None:
    done = run(act)
    assert done.stdout == "done\n", done.stderr


@pytest.mark.parametrize("act", FATAL)
def test_what_ends_the_process(run: Run, act: str) -> None:
    done = run(act)
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "")


# getpid by the call of 32-bit programs: mov eax, 20; int 0x80; ret.
CALL_OF_32_BITS = """
import ctypes, mmap
from airdraft.nodes.engine.sandbox import jail
rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, rights)
page.write(bytes.fromhex("b814000000cd80c3"))
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
jail.confine(address_space=1 << 40, forks=False)
print(call(), flush=True)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="a call of x86")
def test_a_call_of_32_bits_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", CALL_OF_32_BITS], capture_output=True)
    # SIGSEGV where the kernel has no such calls.
    assert done.returncode in (-signal.SIGSYS, -signal.SIGSEGV)
    assert done.stdout == b""


# A filter around the process, such as a service's, may not know seccomp().
AROUND = """
from airdraft.nodes.engine.sandbox import call_filter, jail
call_filter.number_of_seccomp = lambda machine: 9999
assert jail.confine(address_space=1 << 40, forks=False)
open("/etc/hostname")
"""
# Services may have no memory that is writable and executable (PR_SET_MDWE, Linux 6.3).
WITHOUT_CODE = """
import ctypes, os
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)
from airdraft.nodes.engine.sandbox import jail
from airdraft.nodes.engine.sandbox.stack import LargeStack
stack = LargeStack()
assert jail.confine(address_space=jail.address_space_bytes() + (1 << 30), forks=False)
stack.run(lambda: os.write(1, b"run"))
os._exit(0)
"""


def test_it_is_confined_inside_other_confinements() -> None:
    around = subprocess.run([sys.executable, "-c", AROUND], capture_output=True, text=True)
    assert "Operation not permitted" in around.stderr
    done = subprocess.run([sys.executable, "-c", WITHOUT_CODE], capture_output=True, text=True)
    assert done.stdout == "run", done.stderr


def end_of(act: str, **limits: float) -> int:
    given = {"cpu_s": 100, "wall_s": 100.0, **limits}
    script = (
        "from airdraft.nodes.engine.sandbox import jail\n"
        f"limits = {given}\njail.limit(**limits)\n{act}\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True).returncode


def test_time_and_memory_are_bounded() -> None:
    assert end_of("while True: pass", cpu_s=1) == -signal.SIGXCPU
    assert end_of("while True: pass", cpu_s=1, is_final=True) == -signal.SIGXCPU
    assert end_of("import time; time.sleep(100)", wall_s=0.2) == -signal.SIGALRM
    too_much = "try: bytearray(1 << 31)\nexcept MemoryError: import os; os._exit(7)"
    assert end_of(f"jail.confine(address_space=1 << 30, forks=False)\n{too_much}") == 7


def test_a_fork_that_ignores_signals_is_ended_by_the_hard_limit() -> None:
    ignore = "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert end_of(ignore, cpu_s=1, is_final=True) == -signal.SIGKILL


def test_the_time_of_one_question_is_not_the_next_ones() -> None:
    # Together they take more than the limit of each.
    work = "import time\ndef burn():\n    end = time.process_time() + 0.7\n"
    work += "    while time.process_time() < end: pass\n"
    again = "for _ in range(4):\n    jail.limit(**limits)\n    burn()\njail.rest()\n"
    assert end_of(work + again, cpu_s=2) == 0
