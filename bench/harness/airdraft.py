"""The command `airdraft` with emulated nodes and fail points, which only tests and benches use.

`python -m bench.harness.airdraft` takes the arguments of `python -m airdraft`. A model may also be
`replay:FILE.toml`, and upon SIGUSR1 it prints counts that grow if something leaks.

The environment variable AIRDRAFT_FAILPOINT makes the process fail on purpose at one named place:
`NAME:ACTION[:WHEN]`. Actions: `kill` (SIGKILL to itself), `stop` (SIGSTOP), `block:SECONDS` (the
thread sleeps with all that runs on it), `error` (raises FailPointError). WHEN: a number n for only
the n-th time, 1 by default, or a probability below 1 for each time. Names: `send.MESSAGE` before a
message is sent, `receive.MESSAGE` before a received one is handled, and `engine.pass` on the
engine's thread after a pass and before its result is reported. docs/design/testing.md describes
their use.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from airdraft.mesh.codec import decode
from airdraft.mesh.errors import DecodeError, MeshError
from airdraft.mesh.transport import Frames, Received
from airdraft.mesh.zmq_sockets import ZmqClient, ZmqServer
from airdraft.nodes.cli.main import main as airdraft
from airdraft.nodes.config.settings import PLAN_POLICIES
from airdraft.nodes.scheduler.planning import MODES
from airdraft.nodes.service import supervision
from airdraft.nodes.service.runtime import EXIT_CONFIG
from airdraft.nodes.worker.engines import OPENERS
from bench.emulate import replay
from bench.pages.protocol import specs

VARIABLE: Final = "AIRDRAFT_FAILPOINT"
ENGINE_PASS: Final = "engine.pass"
_SYNTAX: Final = re.compile(
    r"(engine\.pass|(?:send|receive)\.(\w+)):(kill|stop|error|block:(\d{1,3}(?:\.\d+)?))"
    r"(?::([1-9]\d*|0?\.\d+))?"
)
_ACCEPTED: Final = (
    "expected NAME:ACTION[:WHEN], where NAME is engine.pass, send.MESSAGE or receive.MESSAGE, "
    "ACTION is kill, stop, error or block:SECONDS below 1000, and WHEN is a count or a probability "
    "below 1"
)


class FailPointError(MeshError):
    """Raised by the action `error`."""


class FailPoint:
    """A place and what happens there. What reaches a place calls reached() with its name.

    when: as WHEN above.
    """

    def __init__(self, name: str, act: Callable[[], None], when: float) -> None:
        self.name = name
        self._act = act
        self._when = when
        self._num_reached = 0

    def reached(self, name: str) -> None:
        if name != self.name:
            return
        self._num_reached += 1
        if random.random() < self._when if self._when < 1.0 else self._num_reached == self._when:
            self._act()


def arm(value: str) -> None:
    """Make this process fail as specified by value. Raises ValueError for a malformed value."""
    from airdraft.nodes.draft.state import DraftState
    from airdraft.nodes.target.state import TargetState

    point = parse(value)
    for state in (DraftState, TargetState):
        _fail_after_pass(state, point)
    for transport in (ZmqClient, ZmqServer):
        _fail_at_messages(transport, point)


def _fail_after_pass(state: Any, point: FailPoint) -> None:
    step = state.step

    def failing(self: Any) -> Any:
        made = step(self)
        point.reached(ENGINE_PASS)
        return made

    state.step = failing


def _fail_at_messages(transport: Any, point: FailPoint) -> None:
    send, recv = transport.send, transport.recv

    def failing_send(self: Any, *arguments: Any) -> None:
        point.reached(f"send.{_name_of(arguments[-1])}")
        send(self, *arguments)

    async def failing_recv(self: Any) -> Any:
        received = await recv(self)
        frames = received.frames if isinstance(received, Received) else received
        point.reached(f"receive.{_name_of(frames)}")
        return received

    transport.send, transport.recv = failing_send, failing_recv


def _name_of(frames: Frames) -> str:
    """Returns the name of the message in these frames; "" if there is none."""
    with contextlib.suppress(DecodeError):
        return type(decode(frames).message).__name__
    return ""


def parse(value: str) -> FailPoint:
    """Parse a specification. Raises ValueError that says what is accepted."""
    match = _SYNTAX.fullmatch(value)
    name, message, action, block_s, when = match.groups() if match else ("",) * 5
    if match is None or (message and message not in {spec.layout.cls.__name__ for spec in specs()}):
        raise ValueError(f"{VARIABLE} = {value!r}: {_ACCEPTED}")

    def act() -> None:
        if block_s:
            time.sleep(float(block_s))
        elif action == "error":
            raise FailPointError("a fail point was reached")
        else:
            os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)

    return FailPoint(name, act, float(when or 1))


def register() -> None:
    """Let this process open emulated nodes and plan by baselines; its nodes run this program."""
    OPENERS[replay.PREFIX] = replay.open_engine
    PLAN_POLICIES[:] = MODES
    supervision.program = "bench.harness.airdraft"


def main() -> None:
    register()
    if value := os.environ.get(VARIABLE, ""):
        try:
            arm(value)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(EXIT_CONFIG)
        print(f"warning: the fail point {value} is on: it fails on purpose", file=sys.stderr)
    signal.signal(signal.SIGUSR1, _print_figures)
    airdraft()


def _print_figures(_number: int, _frame: FrameType | None) -> None:
    """Print one line with what this process holds; its event loop must run."""
    gc.collect()
    tasks, threads = len(asyncio.all_tasks()), threading.enumerate()
    # The event loop's own pool may grow up to its limit without a leak, so it has its own count.
    num_pooled = sum(thread.name.startswith("asyncio_") for thread in threads)
    print(
        f"figures: {tasks} tasks, {num_pooled} threads of the pool, "
        f"{len(gc.get_objects())} objects",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    main()
