"""How much may be on its way to a peer that may have stopped reading; pure.

What was sent proves nothing: kernels and ZeroMQ take thousands of messages for a process that
stands still. A peer grants what it has read, and nobody gets more than the window ahead of it.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

# A gateway may be told at once that its 16,384 requests have ended. And a fast mesh sends 10,000
# messages a second: a process on a busy machine stands still for some tenths of a second.
WINDOW_MESSAGES: Final = 32_768
# Of answers to its questions, some of which are large: so many bytes may be unread.
MAX_ANSWER_BYTES: Final = 1 << 21
# A receiver tells of so many messages, or of fewer that have so many bytes, at once.
GRANT_MESSAGES: Final = 256
GRANT_BYTES: Final = 1 << 19


@dataclass(slots=True)
class _Window:
    """left: messages that may be sent. answers: how many messages had been sent with each answer,
    and its bytes."""

    left: int
    num_sent: int = 0
    num_read: int = 0
    answers: deque[tuple[int, int]] = field(default_factory=deque)
    answer_bytes: int = 0


class Credits:
    """What each peer may still be sent."""

    def __init__(self) -> None:
        self._windows: dict[bytes, _Window] = {}

    def open(self, peer: bytes) -> None:
        """A membership begins, with a whole window."""
        self._windows[peer] = _Window(WINDOW_MESSAGES)

    def close(self, peer: bytes) -> None:
        self._windows.pop(peer, None)

    def keep(self, peers: Collection[bytes]) -> None:
        """Forget all others."""
        self._windows = {peer: found for peer, found in self._windows.items() if peer in peers}

    def __len__(self) -> int:
        return len(self._windows)

    def grant(self, peer: bytes, num_messages: int) -> None:
        """The peer has read that many; never more than the window, whatever it says."""
        window = self._windows.get(peer)
        if window is None:
            return
        num_messages = min(num_messages, WINDOW_MESSAGES - window.left)
        window.left += num_messages
        window.num_read += num_messages
        while window.answers and window.answers[0][0] <= window.num_read:
            window.answer_bytes -= window.answers.popleft()[1]

    def take(self, peer: bytes, answer_bytes: int = 0) -> bool:
        """One message more is sent; False if the peer has to read first. Strangers may be.

        answer_bytes: of one that answers a question; 0 of all others.
        """
        window = self._windows.get(peer)
        if window is None:
            return True
        if window.left <= 0 or (
            window.answers and window.answer_bytes + answer_bytes > MAX_ANSWER_BYTES
        ):
            return False
        window.left -= 1
        window.num_sent += 1
        if answer_bytes:
            window.answers.append((window.num_sent, answer_bytes))
            window.answer_bytes += answer_bytes
        return True


class Meter:
    """The receiver's side: when to grant how much."""

    def __init__(self) -> None:
        self._num_read = self._num_bytes = 0

    def reset(self) -> None:
        self._num_read = self._num_bytes = 0

    def read(self, num_bytes: int = 0) -> int:
        """One message more was read; how many to grant now, if any."""
        self._num_read += 1
        self._num_bytes += num_bytes
        if self._num_read < GRANT_MESSAGES and self._num_bytes < GRANT_BYTES:
            return 0
        granted = self._num_read
        self.reset()
        return granted
