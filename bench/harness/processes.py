"""Processes of a mesh, signalled by pidfd and never by name, and what the kernel says of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypedDict

ROOT: Final = Path(__file__).parents[2]
# How long SIGUSR2 blocks the event loop of a forked process: the mesh notices it within 2.5 s, and
# later if the coordinator has to wait for a processor.
BLOCK_S: Final = 6.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_END_LIMIT_S = 5.0
_OVER = "the nursery of processes has ended"


class Wanted(TypedDict):
    """A process to start. argv: of airdraft, or of any program if it is to be executed. log: file
    for its output, in whose directory it works. max_files: limit of open files; 0 for the present.
    """

    argv: list[str]
    executes: bool
    environ: dict[str, str]
    log: str
    max_files: int


class Process:
    """One process. code: exit code as in subprocess, None while it runs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None
        self.is_stopped = False
        # Whether this harness has killed it.
        self.was_killed = False
        self.ended = asyncio.Event()
        # A pidfd stays with this process even if its pid is reused.
        self._fd: int | None = None
        with contextlib.suppress(ProcessLookupError):
            self._fd = os.pidfd_open(pid)

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; return whether the process still existed."""
        if self._fd is None:
            return False
        if number == signal.SIGKILL:
            self.was_killed = True
        if number == signal.SIGCONT:
            self.is_stopped = False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)
            return True
        return False

    async def kill(self) -> None:
        """Send SIGKILL and wait until the process is gone."""
        self.signal(signal.SIGKILL)
        await self.ended.wait()

    def has_ended(self, code: int) -> None:
        self.code = code
        self.is_stopped = False
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self.ended.set()


class Nursery:
    """The parent's side of bench.harness.nursery."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process
        self._asked: deque[asyncio.Future[Process]] = deque()
        self._children: dict[int, Process] = {}
        self._is_over = False
        # Called with each process that has ended.
        self.on_end: Callable[[Process], None] = lambda _process: None

    async def start(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        *,
        executes: bool = False,
        max_files: int = 0,
    ) -> Process:
        """Run `airdraft ARGV` and append its output to `log`. Raises OSError after the end.

        executes: run the program argv instead. max_files: limit of its open files; 0 for none.
        """
        if self._is_over:
            raise OSError(_OVER)
        asked: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        wanted = Wanted(
            argv=[*argv],
            executes=executes,
            environ={**environ},
            log=str(log),
            max_files=max_files,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        return await asked

    async def listen(self) -> None:
        """Read reports about the processes until the nursery and thus all processes end."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._receive(json.loads(line))
        self._is_over = True
        for process in self._children.values():
            process.was_killed = True
            process.has_ended(-signal.SIGKILL)
        self._children.clear()
        for asked in self._asked:
            if not asked.done():
                asked.set_exception(OSError(_OVER))

    def _receive(self, report: dict[str, int]) -> None:
        if "pid" in report:
            process = self._children[report["pid"]] = Process(report["pid"])
            asked = self._asked.popleft()
            if asked.done():
                process.signal(signal.SIGKILL)
            else:
                asked.set_result(process)
        elif "stopped" in report:
            self._children[report["stopped"]].is_stopped = True
        else:
            process = self._children.pop(report["ended"])
            process.has_ended(report["code"])
            self.on_end(process)

    async def close(self) -> None:
        """End all processes, within a limit."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _END_LIMIT_S)
        except TimeoutError:
            # The kernel kills its children when it ends.
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    """Start a nursery; at the end of the block end it with all of its processes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.harness.nursery"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    made = Nursery(process)
    listening = asyncio.create_task(made.listen())
    try:
        yield made
    finally:
        await asyncio.shield(made.close())
        await listening


async def ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their ends, whatever these are."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def num_threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def num_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
