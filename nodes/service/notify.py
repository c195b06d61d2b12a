"""Telling the service manager how this process is: the protocol of sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

logger = logging.getLogger(__name__)


class Notifier:
    """Sends to the socket that the manager gave; where there is none, nothing happens.

    environ: NOTIFY_SOCKET, and WATCHDOG_USEC and WATCHDOG_PID of sd_watchdog_enabled(3).
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environ)

    @property
    def is_on(self) -> bool:
        """Whether a manager listens."""
        return bool(self._address)

    def ready(self) -> None:
        """It serves from now on."""
        self._send("READY=1")

    def stopping(self) -> None:
        """It has been told to end, and does."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + " ".join(text.split()))

    def alive(self) -> None:
        """All is well: to be said within each period of the watchdog."""
        self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """It needs so many seconds from now for what it is doing, be it starting or stopping."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def _send(self, line: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # The event loop must not wait for a manager that does not read.
                sender.setblocking(False)
                sender.sendto(line.encode(), self._address)
        except OSError as error:
            logger.debug("the service manager was not told %s: %s", line, error)


def _address(given: str) -> str:
    """A path, or a name in the abstract space; others, such as vsock, are not spoken to."""
    if given.startswith("@"):
        return "\0" + given[1:]
    return given if given.startswith("/") else ""


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """The period of the watchdog; 0.0 where there is none, or it is meant for another process."""
    try:
        period_us = int(environ.get("WATCHDOG_USEC", "0"))
        meant_for = int(environ.get("WATCHDOG_PID", "") or os.getpid())
    except ValueError:
        return 0.0
    return period_us / 1e6 if period_us > 0 and meant_for == os.getpid() else 0.0
