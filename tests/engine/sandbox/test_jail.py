"""What a jailed process cannot do, tried in processes of their own."""

import platform
import signal
import subprocess
import sys

import pytest

from tests.engine.printed import printed

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(
        platform.machine() not in ("x86_64", "aarch64") or sys.platform != "linux",
        reason="no filter of system calls is known for this machine",
    ),
]

BEGIN = """
import os, resource, signal, socket, subprocess, sys, threading
from nodes.engine.sandbox import jail
reading, writing = os.pipe()
assert jail.refuse_calls()
try:
    {act}
except OSError as error:
    print(type(error).__name__)
else:
    print("done")
"""


REFUSED = (
    "open('/etc/hostname')",
    "open('/tmp/airdraft-jail-test', 'w')",
    "os.unlink('/tmp/airdraft-jail-test')",
    "os.mkdir('/tmp/airdraft-jail-test')",
    "os.rename('/tmp/a', '/tmp/b')",
    "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "socket.socketpair()",
    "os.execv('/bin/true', ['true'])",
    "os.memfd_create('x')",
    "os.fork() or open('/etc/hostname') or os._exit(0)",
    "os.mknod('/tmp/airdraft-jail-test')",
    "os.kill(os.getppid(), 0)",
    "signal.pthread_kill(threading.get_ident(), signal.SIGTERM)",
    "resource.prlimit(os.getppid(), resource.RLIMIT_CORE)",
    "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))",
)
# What an answer takes.
ALLOWED = (
    "os.write(writing, b'x') == os.read(reading, 1) == b'x'",
    "bytearray(1 << 24)",
    "os.waitpid(os.fork() or os._exit(0), 0)",
    "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    # A failed assertion of a library still ends the process.
    "os.WIFSIGNALED(os.waitpid(os.fork() or os.abort(), 0)[1]) or 1 / 0",
)


@pytest.mark.parametrize("act", [*REFUSED, *ALLOWED])
def test_what_is_refused_and_what_is_allowed(act: str) -> None:
    found = printed(BEGIN.format(act=act))
    assert "PermissionError" in found if act in REFUSED else found == "done"


def end_of(act: str, **limits: float) -> int:
    given = {"address_space": 1 << 40, "cpu_s": 100, "wall_s": 100.0, **limits}
    script = (
        f"from nodes.engine.sandbox import jail\nlimits = {given}\njail.limit(**limits)\n{act}\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True).returncode


def test_time_and_memory_are_bounded() -> None:
    assert end_of("while True: pass", cpu_s=1) == -signal.SIGXCPU
    assert end_of("import time; time.sleep(100)", wall_s=0.2) == -signal.SIGALRM
    too_much = "try: bytearray(1 << 31)\nexcept MemoryError: exit(7)"
    assert end_of(too_much, address_space=1 << 30) == 7


def test_the_time_of_one_question_is_not_the_next_ones() -> None:
    # Together they take more than the limit of each.
    work = "import time\ndef burn():\n    end = time.process_time() + 0.7\n"
    work += "    while time.process_time() < end: pass\n"
    again = "for _ in range(4):\n    jail.limit(**limits)\n    burn()\njail.rest()\n"
    assert end_of(work + again, cpu_s=2) == 0
