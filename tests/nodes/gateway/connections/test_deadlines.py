"""By a clock of the test's own. Whole connections are in test_connection."""

import asyncio
from collections.abc import Callable
from typing import Any

import h11
import pytest

from airdraft.nodes.gateway.config import GatewayLimits
from airdraft.nodes.gateway.connections.deadlines import ReadingDeadline, RequestDeadline

LIMITS = GatewayLimits(header_timeout_s=10, body_timeout_s=20)


class Loop(asyncio.AbstractEventLoop):
    def __init__(self) -> None:
        self.now = 0.0
        self.timers = list[asyncio.TimerHandle]()

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, **_: Any) -> Any:
        self.timers.append(asyncio.TimerHandle(self.now + delay, callback, args, self))
        return self.timers[-1]

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if handle in self.timers:
            self.timers.remove(handle)

    def run_until(self, end: float) -> None:
        while due := [timer for timer in self.timers if timer.when() <= end]:
            first = min(due, key=asyncio.TimerHandle.when)
            self.timers.remove(first)
            self.now = first.when()
            first._run()
        self.now = end


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_each_part_of_a_request_has_its_own_time(loop: Loop) -> None:
    late = list[float]()
    deadline = RequestDeadline(loop, LIMITS, lambda: late.append(loop.now))
    deadline.await_part(h11.IDLE)
    loop.run_until(9)
    deadline.await_part(h11.SEND_BODY)
    loop.run_until(28)
    # Two more seconds, and what comes does not begin the time anew.
    deadline.received(2 * 65_536)
    deadline.await_part(h11.SEND_BODY)
    loop.run_until(30)
    assert late == []
    loop.run_until(40)
    assert late == [31]
    deadline.await_part(h11.DONE)
    deadline.await_part(h11.IDLE)
    deadline.stop()
    loop.run_until(1000)
    assert late == [31]


class Transport(asyncio.Transport):
    unsent = 0
    is_aborted = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.is_aborted = True


def test_who_reads_a_little_in_each_time_may_go_on(loop: Loop) -> None:
    transport = Transport()
    deadline = ReadingDeadline(loop, transport, 30)
    deadline.start()
    assert loop.timers == []
    transport.unsent = 5
    deadline.start()
    while transport.unsent > 2:
        loop.run_until(loop.now + 29)
        transport.unsent -= 1
        loop.run_until(loop.now + 1)
    assert not transport.is_aborted
    loop.run_until(loop.now + 29)
    assert not transport.is_aborted
    loop.run_until(loop.now + 1)
    assert transport.is_aborted
