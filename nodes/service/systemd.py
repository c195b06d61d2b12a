"""The protocols of systemd: reports of a process, sockets that it inherits, and lines of its log.

Without systemd all of them do nothing.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import IO

from airdraft.nodes.config.settings import ConfigError

logger = logging.getLogger(__name__)

READY = "READY=1"
PING = "WATCHDOG=1"
# The time between two checks whether a starting process is ready.
_POLL_S = 0.02
# The extension of the timeout that a starting process requests repeatedly.
_STEP_S = 30.0
# An hour of them, each sent after a third of the time that the last one gave.
_MOST_STEPS = 360
_STOP_MARGIN_S = 5.0
# The first of the descriptors that are passed to a process, from sd_listen_fds(3).
_FIRST_FD = 3
# syslog(3).
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}
_DEBUG = 7


class Manager:
    """The service manager that started this process, if there is one; otherwise does nothing.

    Reports go by the protocol of sd_notify(3). environ: The variables NOTIFY_SOCKET, and
    WATCHDOG_USEC and WATCHDOG_PID of sd_watchdog_enabled(3).
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog_s = _watchdog_s(environ)

    @contextlib.asynccontextmanager
    async def patient(self, doing: str) -> AsyncIterator[None]:
        """Extend the manager's timeout while the block runs, for an hour at most."""

        async def extend() -> None:
            self._send(f"STATUS={doing}")
            for _ in range(_MOST_STEPS if self._address else 0):
                self._extend(_STEP_S)
                await asyncio.sleep(_STEP_S / 3)

        extending = asyncio.create_task(extend())
        try:
            yield
        finally:
            extending.cancel()
            await asyncio.gather(extending, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def attending(
        self,
        is_ready: Callable[[], bool],
        is_well: Callable[[float], bool] = lambda _limit_s: True,
        on_ready: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[None]:
        """Report readiness, then send a ping in each period of the watchdog while all is well.

        is_well: Whether no work has been stuck for more than the given seconds. A blocked event
        loop also stops the pings. on_ready: Called when the process is ready, with or without a
        manager. If reporting fails, the error is logged when the block ends.
        """

        async def attend() -> None:
            async with self.patient("joining the mesh"):
                while not is_ready():  # noqa: ASYNC110 - nothing tells when it is
                    await asyncio.sleep(_POLL_S)
            on_ready()
            self._send(READY)
            self._send("STATUS=serving")
            # Half of the period is the limit of is_well, and half passes until a ping is missed.
            half_s = self._watchdog_s / 2
            while half_s:
                if is_well(half_s):
                    self._send(PING)
                await asyncio.sleep(half_s / 2)

        task = asyncio.create_task(attend())
        try:
            yield
        finally:
            task.cancel()
            (error,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(error, Exception):
                logger.error("the reports to the service manager ended", exc_info=error)

    def stopping(self, limit_s: float) -> None:
        """Report that the process stops, and extend the manager's timeout beyond its own limit."""
        self._send("STOPPING=1")
        self._extend(limit_s + _STOP_MARGIN_S)

    def _extend(self, seconds: float) -> None:
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
    """Returns the socket's path or abstract name; "" for other addresses, such as vsock."""
    if given.startswith("@"):
        return "\0" + given[1:]
    return given if given.startswith("/") else ""


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """Returns the watchdog's period; 0.0 if there is none, or it is for another process."""
    try:
        period_us = int(environ.get("WATCHDOG_USEC", "0"))
        meant_for = int(environ.get("WATCHDOG_PID", "") or os.getpid())
    except ValueError:
        return 0.0
    return period_us / 1e6 if period_us > 0 and meant_for == os.getpid() else 0.0


def take_inherited(environ: Mapping[str, str], name: str) -> int | None:
    """Returns the descriptor of the socket that was passed under a name, or None.

    No process that this one starts inherits it. The name is FileDescriptorName= of a socket unit. A
    unit without it passes its sockets under the unit's name, so a single socket is taken under any
    name. Raises ConfigError for several sockets of the name: only one is served, and clients of the
    others would wait for ever.
    """
    try:
        if int(environ.get("LISTEN_PID", "0")) != os.getpid():
            return None
        count = int(environ.get("LISTEN_FDS", "0"))
    except ValueError:
        return None
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    meant = [0] if count == 1 else [k for k, other in enumerate(names[:count]) if other == name]
    if len(meant) > 1:
        raise ConfigError(
            f"the socket unit {name} has {len(meant)} ListenStream=, but only one is served: "
            f"write an empty ListenStream= before the one that replaces the others"
        )
    if not meant:
        return None
    fd = _FIRST_FD + meant[0]
    os.set_inheritable(fd, False)
    return fd


def endpoint_of(fd: int) -> str:
    """Returns the address of a listening TCP or Unix socket as an endpoint of the mesh.

    Raises OSError if the descriptor is not a listening stream socket of these kinds.
    """
    with socket.socket(fileno=os.dup(fd)) as bound:
        is_listening = bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if bound.type != socket.SOCK_STREAM or not is_listening:
            raise OSError(f"descriptor {fd} is not a listening stream socket")
        address = bound.getsockname()
        if bound.family == socket.AF_INET:
            return f"tcp://{address[0]}:{address[1]}"
        if bound.family == socket.AF_INET6:
            return f"tcp://[{address[0]}]:{address[1]}"
        if bound.family == socket.AF_UNIX and isinstance(address, str) and address:
            return f"ipc://{address}"
    raise OSError(f"descriptor {fd} is bound to {address!r}: a TCP address or a path is accepted")


def is_journal(environ: Mapping[str, str], stream: IO[str]) -> bool:
    """Whether a stream goes to journald: JOURNAL_STREAM has its device and inode."""
    device, colon, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return bool(colon) and (device, inode) == (str(found.st_dev), str(found.st_ino))


def with_priority(text: str, level: int) -> str:
    """Returns lines that begin with the priority of a level, such as `<4>`, as journald takes."""
    priority = _PRIORITIES.get(level, _DEBUG)
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))
