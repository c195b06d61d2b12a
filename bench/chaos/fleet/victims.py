"""Processes of `victim.py`: started, struck and brought back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path

from bench.chaos.fleet.victim import BOUND

_START_LIMIT_S = 60.0
# Longer than it takes to notice.
_BLOCK_S = 4.0
_ROOT = Path(__file__).parents[3]


class NotNoticedError(Exception):
    """Something that was waited for did not happen; the text says what."""


class Victim:
    """A process that can be started anew, away_s after it was killed."""

    def __init__(self, role: str, endpoint: str, keys: Path, away_s: float) -> None:
        self.role = role
        self._away_s = away_s
        self._arguments = (role, endpoint, str(keys))
        self._process: asyncio.subprocess.Process | None = None
        self._is_killed = False

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.chaos.fleet.victim", *self._arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=_ROOT,
            start_new_session=True,
        )
        self._is_killed = False
        if self.role == "coordinator":
            assert self._process.stdout is not None
            line = await asyncio.wait_for(self._process.stdout.readline(), _START_LIMIT_S)
            if line.split() != [BOUND.encode()]:
                raise NotNoticedError("the coordinator did not start")

    def suffer(self, fault: str) -> None:
        assert self._process is not None
        if fault == "killed":
            self._kill()
        elif fault == "stopped":
            self._process.send_signal(signal.SIGSTOP)
        else:
            assert self._process.stdin is not None
            self._process.stdin.write(b"%g\n" % _BLOCK_S)

    async def recover(self, fault: str, struck_at: float) -> None:
        """Returns when it can be there again."""
        assert self._process is not None
        if fault == "killed":
            await self.end()
            await asyncio.sleep(self._away_s)
            await self.start()
        elif fault == "stopped":
            self._process.send_signal(signal.SIGCONT)
        else:
            await asyncio.sleep(struck_at + _BLOCK_S - time.perf_counter())

    async def end(self) -> None:
        if self._process is None:
            return
        self._kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    def _kill(self) -> None:
        """Once: a second signal would take the exit status from who waits for it."""
        if self._process is not None and not self._is_killed:
            self._is_killed = True
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
