"""Sends the state of this process to the service manager: the protocol of sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

logger = logging.getLogger(__name__)


class Notifier:
    """Sends to the manager's socket; without a socket it does nothing.

    environ: The variables NOTIFY_SOCKET, and WATCHDOG_USEC and WATCHDOG_PID of
    sd_watchdog_enabled(3).
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environ)

    @property
    def is_on(self) -> bool:
        """Whether there is a manager."""
        return bool(self._address)

    def ready(self) -> None:
        """Report that the process serves from now on."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Report that the process is stopping."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Send one line for `systemctl status`."""
        self._send("STATUS=" + " ".join(text.split()))

    def alive(self) -> None:
        """Send a ping, which the watchdog needs in each of its periods."""
        self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """Extend the timeout for starting or stopping to so many seconds from now."""
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
            logger.debug("cannot send %s to the service manager: %s", line, error)


def _address(given: str) -> str:
    """Return the socket's path or abstract name; "" for other kinds of addresses, such as vsock."""
    if given.startswith("@"):
        return "\0" + given[1:]
    return given if given.startswith("/") else ""


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """Return the watchdog's period; 0.0 if there is none, or it is for another process."""
    try:
        period_us = int(environ.get("WATCHDOG_USEC", "0"))
        meant_for = int(environ.get("WATCHDOG_PID", "") or os.getpid())
    except ValueError:
        return 0.0
    return period_us / 1e6 if period_us > 0 and meant_for == os.getpid() else 0.0
