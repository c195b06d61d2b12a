"""How much may be on its way to a peer that may have stopped reading; pure.

What was sent proves nothing: kernels and ZeroMQ take thousands of messages for a process that
stands still. A peer grants what it has read, and nobody gets more than the window ahead of it.
"""

from collections.abc import Collection
from typing import Final

# Many streams of one client fill a slow link with some hundreds of messages.
WINDOW_MESSAGES: Final = 1_024
# A peer with many requests may be told at once that all of them have ended.
MAX_WINDOW_MESSAGES: Final = 32_768
# A receiver tells of so many at once.
GRANT_MESSAGES: Final = 256


class Credits:
    """What each peer may still be sent."""

    def __init__(self) -> None:
        self._left: dict[bytes, int] = {}
        self._windows: dict[bytes, int] = {}

    def open(self, peer: bytes, window: int = WINDOW_MESSAGES) -> None:
        """A membership begins, with a whole window."""
        self._left[peer] = self._windows[peer] = window

    def close(self, peer: bytes) -> None:
        self._left.pop(peer, None)
        self._windows.pop(peer, None)

    def keep(self, peers: Collection[bytes]) -> None:
        """Forget all others."""
        self._left = {peer: left for peer, left in self._left.items() if peer in peers}
        self._windows = {peer: self._windows[peer] for peer in self._left}

    def __len__(self) -> int:
        return len(self._left)

    def grant(self, peer: bytes, num_messages: int) -> None:
        """The peer has read that many; never more than the window, whatever it says."""
        if peer in self._left:
            self._left[peer] = min(self._windows[peer], self._left[peer] + num_messages)

    def take(self, peer: bytes) -> bool:
        """One message more is sent; False if the peer has to read first. Strangers may be."""
        left = self._left.get(peer)
        if left is None:
            return True
        if left <= 0:
            return False
        self._left[peer] = left - 1
        return True


class Meter:
    """The receiver's side: when to grant how much."""

    def __init__(self) -> None:
        self._num_read = 0

    def reset(self) -> None:
        self._num_read = 0

    def read(self) -> int:
        """One message more was read; how many to grant now, if any."""
        self._num_read += 1
        if self._num_read < GRANT_MESSAGES:
            return 0
        self._num_read = 0
        return GRANT_MESSAGES
