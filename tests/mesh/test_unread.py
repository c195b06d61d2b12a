"""What may have arrived over connections without being read."""

from __future__ import annotations

import pytest

from airdraft.mesh.unread import BARRED_S, FRAME_BYTES, BarredKeys, Unread


class Kernel:
    """What it has received over each descriptor."""

    def __init__(self) -> None:
        self.received: dict[int, int] = {}
        self.unread = Unread(self.received.get, most_bytes=1000)

    def open(self, *fds: int) -> None:
        for fd in fds:
            self.received[fd] = 0
            self.unread.opened(fd)

    def find_furthest(self) -> int | None:
        """What is found at the second look in a row."""
        self.unread.find_furthest()
        return self.unread.find_furthest()


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_the_connection_that_is_furthest_ahead_is_found_once_all_have_too_much(
    kernel: Kernel,
) -> None:
    kernel.open(3, 4, 5)
    kernel.received |= {3: 400, 4: 500, 5: 100}
    assert kernel.find_furthest() is None
    kernel.received[5] = 101
    assert kernel.find_furthest() == 4
    kernel.unread.closed(4)
    assert kernel.find_furthest() is None


def test_what_was_read_counts_no_longer_and_makes_no_room_for_later(kernel: Kernel) -> None:
    kernel.open(3)
    for _ in range(100):
        # Fewer bytes on the wire than what a frame is taken to be.
        kernel.received[3] += 60 + FRAME_BYTES // 2
        kernel.unread.note_read(3, [60])
        assert kernel.find_furthest() is None
    kernel.received[3] += 1001
    assert kernel.find_furthest() == 3


def test_after_a_pause_there_is_time_to_read(kernel: Kernel) -> None:
    kernel.open(3)
    kernel.received[3] = 5000
    assert kernel.unread.find_furthest() is None
    kernel.unread.note_read(3, [5000])
    assert kernel.find_furthest() is None


def test_a_connection_that_is_gone_counts_no_longer(kernel: Kernel) -> None:
    kernel.open(3, 4)
    kernel.received |= {3: 800, 4: 900}
    del kernel.received[4]
    assert kernel.find_furthest() is None
    assert len(kernel.unread) == 1


def test_a_key_is_barred_for_a_while() -> None:
    now = [0.0]
    barred = BarredKeys(lambda: now[0])
    barred.add("a")
    assert ("a" in barred, "b" in barred) == (True, False)
    now[0] = BARRED_S - 1
    barred.add("b")
    assert "a" in barred
    now[0] = BARRED_S
    assert ("a" in barred, "b" in barred) == (False, True)
