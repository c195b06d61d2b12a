"""Start processes of `victim.py`, make them fail and bring them back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path

from bench.chaos.fleet.victim import BOUND

_START_LIMIT_S = 60.0
# Longer than the mesh takes to notice.
_BLOCK_S = 4.0
_ROOT = Path(__file__).parents[3]


class NotNoticedError(Exception):
    """An expected event did not happen in time; the text names it."""


class Victim:
    """A process that suffers faults and recovers. away_s: time from a kill to the next start."""

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
        """Kill the process, stop it, or block its event loop. fault: killed, stopped or blocked."""
        assert self._process is not None
        if fault == "killed":
            self._kill()
        elif fault == "stopped":
            self._process.send_signal(signal.SIGSTOP)
        else:
            assert self._process.stdin is not None
            self._process.stdin.write(b"%g\n" % _BLOCK_S)

    async def recover(self, fault: str, struck_at: float) -> None:
        """End a fault; returns when the process can rejoin. struck_at: by time.perf_counter."""
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
        """Kill once: a second signal would take the exit status from the task that awaits it."""
        if self._process is not None and not self._is_killed:
            self._is_killed = True
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
