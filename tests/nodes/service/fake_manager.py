"""A service manager as far as a process sees it: the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path


class FakeManager:
    """Hears what a service says. lines: all so far."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.path = str(path)
        self.lines: list[str] = []

    def environ(self, watchdog_s: float = 0.0) -> dict[str, str]:
        """What a service is started with; its watchdog is meant for whoever it is."""
        environ = {"NOTIFY_SOCKET": self.path}
        return environ | ({"WATCHDOG_USEC": str(round(watchdog_s * 1e6))} if watchdog_s else {})

    def hear(self) -> list[str]:
        """What came since it was last asked."""
        fresh = []
        while True:
            try:
                fresh += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                self.lines += fresh
                return fresh

    async def until(self, line: str, limit_s: float = 90.0) -> None:
        """Wait for a line that has not been heard yet."""
        async with asyncio.timeout(limit_s):
            heard = self.hear()
            while line not in heard:
                await asyncio.sleep(0.01)
                heard = self.hear()

    def __enter__(self) -> FakeManager:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.close()
