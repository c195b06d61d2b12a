"""Flow control: limits what is in transit to a peer that may have stopped reading. Pure.

A successful send proves nothing, because kernels and ZeroMQ accept thousands of messages for a
process that stands still. A peer grants as many messages as it has read, and is never sent more
than the window beyond that.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

# All 16,384 requests of a gateway may end at once. A fast mesh sends 10,000 messages a second, and
# a process on a busy machine may stand still for some tenths of a second.
WINDOW_MESSAGES: Final = 32_768
# Limit for unread replies to a peer's own queries, because some of them are large.
MAX_ANSWER_BYTES: Final = 1 << 21
# A receiver sends a Credit after this many messages, or after this many bytes.
GRANT_MESSAGES: Final = 256
GRANT_BYTES: Final = 1 << 19


@dataclass(slots=True)
class _Window:
    """answers: for each unread reply its number among all sent messages, and its bytes."""

    num_sent: int = 0
    num_read: int = 0
    answers: deque[tuple[int, int]] = field(default_factory=deque)
    answer_bytes: int = 0

    @property
    def num_unread(self) -> int:
        return self.num_sent - self.num_read


class Credits:
    """Counts what may still be sent to each peer."""

    def __init__(self) -> None:
        self._windows: dict[bytes, _Window] = {}

    def open(self, peer: bytes) -> None:
        """Start a membership with a full window; that of a present member stays as it is."""
        self._windows.setdefault(peer, _Window())

    def close(self, peer: bytes) -> None:
        self._windows.pop(peer, None)

    def keep(self, peers: Collection[bytes]) -> None:
        """Forget all peers but these."""
        self._windows = {peer: found for peer, found in self._windows.items() if peer in peers}

    def __len__(self) -> int:
        return len(self._windows)

    def grant(self, peer: bytes, num_messages: int) -> None:
        """Note messages that a peer reports as read; a window never exceeds its full size."""
        window = self._windows.get(peer)
        if window is None:
            return
        window.num_read += min(num_messages, window.num_unread)
        while window.answers and window.answers[0][0] <= window.num_read:
            window.answer_bytes -= window.answers.popleft()[1]

    def take(self, peer: bytes, answer_bytes: int = 0) -> bool:
        """Count one more message; False if the peer must read first. Non-members have no limit.

        answer_bytes: bytes of a reply to a query; 0 for any other message.
        """
        window = self._windows.get(peer)
        if window is None:
            return True
        if window.num_unread >= WINDOW_MESSAGES or (
            window.answers and window.answer_bytes + answer_bytes > MAX_ANSWER_BYTES
        ):
            return False
        window.num_sent += 1
        if answer_bytes:
            window.answers.append((window.num_sent, answer_bytes))
            window.answer_bytes += answer_bytes
        return True


class Meter:
    """The receiver's side: decides when to grant how many messages."""

    def __init__(self) -> None:
        self._num_read = self._num_bytes = 0

    def reset(self) -> None:
        self._num_read = self._num_bytes = 0

    def read(self, num_bytes: int = 0) -> int:
        """Count one more read message; return how many to grant now, or 0."""
        self._num_read += 1
        self._num_bytes += num_bytes
        if self._num_read < GRANT_MESSAGES and self._num_bytes < GRANT_BYTES:
            return 0
        granted = self._num_read
        self.reset()
        return granted
