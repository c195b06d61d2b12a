"""Processes of a mesh, signalled by pidfd and never by name, and what the kernel says of them.

Python's fork server has imported everything and forks each process within milliseconds. Starting a
new interpreter for each of a thousand processes would measure little but these starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
# The command `airdraft` with what tests add to it.
PROGRAM: Final = (sys.executable, "-m", "bench.harness.airdraft")
# How long SIGUSR2 blocks the event loop of a forked process: the mesh notices it within 2.5 s, and
# later if the coordinator has to wait for a processor.
BLOCK_S: Final = 6.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG: Final = 1
_MOST_FDS: Final = 4096
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["__main__", "bench.harness.airdraft"])


class Process:
    """One process, which runs a command and appends its output to `log`.

    It works in the directory of the log, and ends with this harness. A command that begins with
    PROGRAM goes on in the fork. on_end: called when it has ended. code:
    exit code as in subprocess, None while it runs.
    """

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        *,
        on_end: Callable[[Process], None] = lambda _process: None,
    ) -> None:
        self.code: int | None = None
        # Whether this harness has killed it.
        self.was_killed = False
        self.ended = asyncio.Event()
        self._on_end = on_end
        wanted = (list(command), dict(environ), log)
        self._forked = _forks.Process(target=_run, args=wanted)
        self._forked.start()
        assert self._forked.pid is not None
        self.pid = self._forked.pid
        # A pidfd stays with this process even if its pid is reused.
        self._fd: int | None = None
        with contextlib.suppress(ProcessLookupError):
            self._fd = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(self._forked.sentinel, self._reap)

    @property
    def is_stopped(self) -> bool:
        with contextlib.suppress(OSError):
            return self.code is None and _stat(self.pid)[0] == "T"
        return False

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; return whether the process still existed."""
        if self._fd is None:
            return False
        if number == signal.SIGKILL:
            self.was_killed = True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)
            return True
        return False

    async def kill(self) -> None:
        """Send SIGKILL and wait until the process is gone."""
        self.signal(signal.SIGKILL)
        await self.ended.wait()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._forked.sentinel)
        self.code = self._forked.exitcode
        self._forked.close()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self.ended.set()
        self._on_end(self)


def _run(command: list[str], environ: dict[str, str], log: Path) -> None:
    """Make the fork look like a process started from a command line, and run its program."""
    os.setsid()
    # It ends with the fork server, which ends with the harness.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGUSR2, lambda *_: time.sleep(BLOCK_S))
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for file, number in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(file, number)
    os.closerange(3, _MOST_FDS)
    os.chdir(log.parent)
    os.environ.clear()
    os.environ.update(environ)
    own = len(PROGRAM)
    if tuple(command[:own]) != PROGRAM:
        os.execvp(command[0], command)
    from bench.harness.airdraft import main as airdraft

    sys.argv = ["airdraft", *command[own:]]
    airdraft()


@contextlib.asynccontextmanager
async def beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run coroutines until the end of the block, which raises the error of one that has failed."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield tasks
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def stop(process: subprocess.Popen[Any], limit_s: float) -> None:
    """End a process by SIGTERM, or by SIGKILL if it does not end within the limit."""
    process.terminate()
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def resident_bytes(pid: int) -> int:
    """Returns the resident memory of a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def num_threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def num_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """Returns a process and its living descendants; an empty list if it has ended."""
    found, left = [], [pid]
    while left:
        current = left.pop()
        try:
            # A child belongs to the thread that started it.
            threads = os.listdir(f"/proc/{current}/task")
        except OSError:
            continue
        found.append(current)
        for thread in threads:
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{current}/task/{thread}/children").read_text()
                left += map(int, children.split())
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Returns the processor time that processes, and children they have waited for, have used."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks / _TICKS_PER_S


def _stat(pid: int) -> list[str]:
    """Returns the fields of /proc/PID/stat after the name. Raises OSError if it has ended."""
    # The name in brackets may contain spaces and brackets, so split after the last one.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


# These ports lie below the range from which the kernel takes the local ports of connections. A
# connection to a port of that range on which no process listens may get this very port as its
# local one. It is then connected to itself, and no process can bind the port.
_PORTS: Final = range(20_000, 32_000)


def free_port() -> int:
    """Returns a free loopback port that stays free while the coordinator restarts."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


HUB: Final = "hub"


class Places:
    """Where programs run: on this machine, over loopback, unless a subclass has other places.

    hub_host: the address at which the hub listens.
    """

    hub_host = "127.0.0.1"

    def command(self, place: str, argv: Sequence[str]) -> list[str]:
        """Returns the command that runs argv at a place."""
        del place
        return list(argv)

    def entered(self, place: str) -> contextlib.AbstractContextManager[None]:
        """Have connections of this process begin at a place, if their threads start within it."""
        del place
        return contextlib.nullcontext()

    async def dial(self, station: str, port: int) -> tuple[str, int]:
        """Returns host and port at which a station reaches a port of the hub."""
        del station
        return self.hub_host, port
