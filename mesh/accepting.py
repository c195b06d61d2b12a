"""Stops libzmq from accepting connections while this process has too few file descriptors left.

When accept() fails for lack of descriptors, libzmq's thread retries at once and takes a whole core
as long as a connection waits at the port; it has no option against this. So while few descriptors
are left, its listening socket is disabled in its epoll: new connections wait in the kernel's queue,
and existing ones stay. This works on Linux only; elsewhere nothing is done.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import math
import os
import platform
import re
import resource
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

# Descriptors kept free for key files and the like.
RESERVED_FILES: Final = 16
# At or below this number connections are accepted one by one, because a burst could take all.
SCARCE_FILES: Final = 64
_CHECK_S: Final = 0.1
_CHECK_SCARCE_S: Final = 0.01
# The interval while connections are accepted one by one.
_CHECK_BUSY_S: Final = 0.001
# Counting open files takes time for each of them, so the interval grows with their number.
_CHECK_S_A_FILE: Final = 2e-5
_WARN_EVERY_S: Final = 10.0
_MAX_LOOKS, _BETWEEN_LOOKS_S, _LOOK_AGAIN_S = 20, 0.001, 5.0
_EPOLL_CTL_MOD: Final = 3
_EPOLLIN: Final = 1
_EPOLLONESHOT: Final = 1 << 30
# struct epoll_event, which the kernel packs on x86_64 only.
_EVENT: Final = "=IQ" if platform.machine() == "x86_64" else "@IQ"
_FDS: Final = Path("/proc/self/fd")


def files_left() -> int:
    """Returns how many more files this process may open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # The listed directory itself is open too.
        return limit - len(os.listdir(_FDS)) + 1
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return 0
        raise


@dataclass(frozen=True, slots=True)
class Watch:
    """A listening socket in an epoll set, both by their descriptors. data: the epoll data of the
    socket, which must be kept for libzmq."""

    listening: int
    epoll: int
    data: int

    @classmethod
    def of(cls, listening: int) -> Watch | None:
        """Find the epoll set that a listening socket is in; None while it is in none."""
        with contextlib.suppress(OSError):
            for epoll in map(int, os.listdir(_FDS)):
                events, data = _watched(epoll, listening)
                if events & _EPOLLIN:
                    return cls(listening, epoll, data)
        return None

    @property
    def is_on(self) -> bool:
        """Whether new connections are reported now."""
        return bool(_watched(self.epoll, self.listening)[0] & _EPOLLIN)

    def set(self, events: int) -> None:
        event = struct.pack(_EVENT, events, self.data)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.epoll_ctl(self.epoll, _EPOLL_CTL_MOD, self.listening, event):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


class Accepting(Enum):
    """How connections are accepted; the values are the events that libzmq's epoll waits for."""

    OPEN = _EPOLLIN
    # One connection at a time is accepted: one-shot mode must be armed again for each.
    ONE_BY_ONE = _EPOLLIN | _EPOLLONESHOT
    SHUT = 0


class AcceptGate:
    """Controls accepting at the listening socket of libzmq whose descriptor `listening` returns.

    Call check() at the intervals that it returns.
    """

    def __init__(self, listening: Callable[[], int]) -> None:
        self._listening = listening
        self._watch: Watch | None = None
        self._warned_at = -math.inf
        self._has_failed = False
        self.accepting = Accepting.OPEN

    def prepare(self) -> None:
        """Find the epoll set while descriptors for the search are left.

        It retries, because libzmq's thread adds the socket to its epoll some time after the bind.
        """
        for _ in range(_MAX_LOOKS):
            self._watch = Watch.of(self._listening())
            if self._watch is not None:
                return
            time.sleep(_BETWEEN_LOOKS_S)

    def check(self, now: float) -> float:
        """Adjust accepting to the files that are left; return the seconds until the next call."""
        if self._watch is None or self._watch.listening != self._listening():
            # It is not found yet, or its file was gone and it has been bound anew.
            self._watch, self.accepting = Watch.of(self._listening()), Accepting.OPEN
            if self._watch is None:
                return _LOOK_AGAIN_S
        left = files_left()
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        soon_s = _CHECK_SCARCE_S
        if left > SCARCE_FILES:
            self._set(self._watch, Accepting.OPEN)
            soon_s = _CHECK_S
        elif left > RESERVED_FILES:
            if self.accepting is Accepting.ONE_BY_ONE and not self._watch.is_on:
                soon_s = _CHECK_BUSY_S
            self._set(self._watch, Accepting.ONE_BY_ONE)
        else:
            if self.accepting is not Accepting.SHUT and now - self._warned_at >= _WARN_EVERY_S:
                self._warned_at = now
                logger.warning(
                    "new connections have to wait: %d of %d files are open; raise LimitNOFILE",
                    limit - left,
                    limit,
                )
            self._set(self._watch, Accepting.SHUT)
        return max(soon_s, _CHECK_S_A_FILE * (limit - left))

    def _set(self, watch: Watch, accepting: Accepting) -> None:
        if accepting is self.accepting and accepting is not Accepting.ONE_BY_ONE:
            return
        try:
            watch.set(accepting.value)
        except OSError as error:
            if not self._has_failed:
                logger.warning("the accepting of connections cannot be changed: %s", error.strerror)
            self._has_failed = True
        else:
            self.accepting, self._has_failed = accepting, False


def _watched(epoll: int, fd: int) -> tuple[int, int]:
    """Returns the events and data of a descriptor in an epoll set; zeros if it is not in it."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/self/fdinfo/{epoll}").read_text()
        line = rf"^tfd:\s*{fd}\s+events:\s*([0-9a-f]+)\s+data:\s*([0-9a-f]+)"
        if found := re.search(line, text, re.MULTILINE):
            return int(found[1], 16), int(found[2], 16)
    return 0, 0
