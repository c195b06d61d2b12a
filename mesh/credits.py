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
# Limit for all other unread messages that are not small. A client that asks for the largest texts
# in 64 requests at once may have 40 MB of them in transit.
MAX_UNREAD_BYTES: Final = 1 << 26
# Smaller messages are bounded by their number alone, and count as this many bytes.
_SMALL_BYTES: Final = 1024
# Limit for all peers together: the process is allowed 1 GiB by its unit.
MAX_ALL_BYTES: Final = 1 << 28
# A receiver sends a Credit after this many messages, or after this many bytes.
GRANT_MESSAGES: Final = 256
GRANT_BYTES: Final = 1 << 19


@dataclass(slots=True)
class _Unread:
    """Unread messages of a kind. sizes: of each its number among all sent messages, and its bytes.

    One is sent however large it is.
    """

    max_bytes: int
    num_bytes: int = 0
    sizes: deque[tuple[int, int]] = field(default_factory=deque)

    def has_room(self, num_bytes: int) -> bool:
        return not self.sizes or self.num_bytes + num_bytes <= self.max_bytes

    def add(self, number: int, num_bytes: int) -> None:
        self.sizes.append((number, num_bytes))
        self.num_bytes += num_bytes

    def read(self, num_read: int) -> None:
        while self.sizes and self.sizes[0][0] <= num_read:
            self.num_bytes -= self.sizes.popleft()[1]


@dataclass(slots=True)
class _Window:
    """answers: unread replies to queries. others: other messages that are not small."""

    num_sent: int = 0
    num_read: int = 0
    answers: _Unread = field(default_factory=lambda: _Unread(MAX_ANSWER_BYTES))
    others: _Unread = field(default_factory=lambda: _Unread(MAX_UNREAD_BYTES))

    @property
    def num_unread(self) -> int:
        return self.num_sent - self.num_read

    @property
    def num_bytes(self) -> int:
        """What the peer has not read, at most."""
        num_large = len(self.answers.sizes) + len(self.others.sizes)
        small = (self.num_unread - num_large) * _SMALL_BYTES
        return self.answers.num_bytes + self.others.num_bytes + small


class Credits:
    """Counts what may still be sent to each peer."""

    def __init__(self) -> None:
        self._windows: dict[bytes, _Window] = {}
        # The sum of num_bytes of all windows.
        self._num_bytes = 0

    def open(self, peer: bytes) -> None:
        """Start a membership with a full window; that of a present member stays as it is."""
        self._windows.setdefault(peer, _Window())

    def close(self, peer: bytes) -> None:
        if (window := self._windows.pop(peer, None)) is not None:
            self._num_bytes -= window.num_bytes

    def keep(self, peers: Collection[bytes]) -> None:
        """Forget all peers but these."""
        for peer in self._windows.keys() - peers:
            self.close(peer)

    def __len__(self) -> int:
        return len(self._windows)

    def grant(self, peer: bytes, num_messages: int) -> None:
        """Note messages that a peer reports as read; a window never exceeds its full size."""
        window = self._windows.get(peer)
        if window is None:
            return
        before = window.num_bytes
        window.num_read += min(num_messages, window.num_unread)
        window.answers.read(window.num_read)
        window.others.read(window.num_read)
        self._num_bytes += window.num_bytes - before

    def take(self, peer: bytes, num_bytes: int = 0, *, is_answer: bool = False) -> bool:
        """Count one more message; False if the peer must read first. Non-members have no limit.

        If all peers together are too far behind, it is the one that is furthest behind. is_answer:
        it is a reply to a query, which its peer may repeat as often as it likes.
        """
        window = self._windows.get(peer)
        if window is None:
            return True
        kind = window.answers if is_answer else window.others
        is_counted = is_answer or num_bytes >= _SMALL_BYTES
        if window.num_unread >= WINDOW_MESSAGES or (is_counted and not kind.has_room(num_bytes)):
            return False
        if self._num_bytes > MAX_ALL_BYTES and window is self._furthest_behind():
            return False
        before = window.num_bytes
        window.num_sent += 1
        if is_counted:
            kind.add(window.num_sent, num_bytes)
        self._num_bytes += window.num_bytes - before
        return True

    def _furthest_behind(self) -> _Window:
        return max(self._windows.values(), key=lambda window: window.num_bytes)


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
