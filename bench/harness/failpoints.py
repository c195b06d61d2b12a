"""Named places at which a process can be made to fail on purpose.

A process has at most one fail point, `NAME:ACTION[:WHEN]`, from the environment variable
AIRDRAFT_FAILPOINT. Actions: `kill` (SIGKILL to itself), `stop` (SIGSTOP), `block:SECONDS` (the
thread sleeps with all that runs on it), `error` (raises FailPointError). WHEN: a number n for only
the n-th time, 1 by default, or a probability below 1 for each time. Names: `send.MESSAGE` before a
message is sent, `receive.MESSAGE` before a received one is handled, and `engine.pass` on the
engine's thread after a pass and before its result is reported. docs/design/testing.md describes
their use.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import nodes.messages  # noqa: F401 - declares the messages of nodes
from mesh.codec import decode
from mesh.errors import DecodeError, MeshError
from mesh.messages import MAX_TAG, spec_of_tag
from mesh.transport import Frames, Received
from mesh.zmq_sockets import ZmqClient, ZmqServer

VARIABLE: Final = "AIRDRAFT_FAILPOINT"
ENGINE_PASS: Final = "engine.pass"
_ACTIONS: Final = "kill, stop, block:SECONDS, error"
_LONGEST_BLOCK_S: Final = 3600.0


class FailPointError(MeshError):
    """Raised by the action `error`."""


class FailPoint:
    """A place and what happens there. What reaches a place calls reached() with its name."""

    def __init__(self, name: str, act: Callable[[], None], *, nth: int, share: float) -> None:
        self.name = name
        self._act = act
        self._left = nth
        self._share = share

    def reached(self, name: str) -> None:
        if name != self.name:
            return
        if self._share:
            if random.random() < self._share:
                self._act()
            return
        self._left -= 1
        if self._left == 0:
            self._act()


def arm(value: str) -> None:
    """Make this process fail as specified by value. Raises ValueError for a malformed value."""
    point = parse(value)
    if point.name == ENGINE_PASS:
        from nodes.draft.state import DraftState
        from nodes.target.state import TargetState

        for state in (DraftState, TargetState):
            _fail_after_pass(state, point)
    elif point.name.startswith("send."):
        for transport in (ZmqClient, ZmqServer):
            _fail_before_send(transport, point)
    else:
        for transport in (ZmqClient, ZmqServer):
            _fail_after_recv(transport, point)


def _fail_after_pass(state: Any, point: FailPoint) -> None:
    step = state.step

    @wraps(step)
    def failing(self: Any) -> Any:
        made = step(self)
        point.reached(ENGINE_PASS)
        return made

    state.step = failing


def _fail_before_send(transport: Any, point: FailPoint) -> None:
    send = transport.send

    @wraps(send)
    def failing(self: Any, *arguments: Any) -> None:
        point.reached(f"send.{_name_of(arguments[-1])}")
        send(self, *arguments)

    transport.send = failing


def _fail_after_recv(transport: Any, point: FailPoint) -> None:
    recv = transport.recv

    @wraps(recv)
    async def failing(self: Any) -> Any:
        received = await recv(self)
        frames = received.frames if isinstance(received, Received) else received
        point.reached(f"receive.{_name_of(frames)}")
        return received

    transport.recv = failing


def _name_of(frames: Frames) -> str:
    """Return the name of the message in these frames; "" if there is none."""
    with contextlib.suppress(DecodeError):
        return type(decode(frames).message).__name__
    return ""


def parse(value: str) -> FailPoint:
    """Parse a specification. Raises ValueError that lists what is accepted."""
    name, _, rest = value.partition(":")
    kind, _, of = name.partition(".")
    if name != ENGINE_PASS and not (kind in ("send", "receive") and of in _messages()):
        raise _bad(value, f"{name!r} is none of send.MESSAGE, receive.MESSAGE, {ENGINE_PASS}")
    action, *more = rest.split(":")
    if action == "block":
        if not more:
            raise _bad(value, "block needs its seconds")
        seconds = _number(value, more.pop(0))
        if not 0.0 < seconds <= _LONGEST_BLOCK_S:
            raise _bad(value, f"block takes 0 to {_LONGEST_BLOCK_S:g} seconds")
        act: Callable[[], None] = lambda: time.sleep(seconds)  # noqa: E731
    elif action in ("kill", "stop"):
        number = signal.SIGKILL if action == "kill" else signal.SIGSTOP
        act = lambda: os.kill(os.getpid(), number)  # noqa: E731
    elif action == "error":
        act = _fail
    else:
        raise _bad(value, f"action {action!r} is none of {_ACTIONS}")
    if len(more) > 1:
        raise _bad(value, "too many parts")
    when = _number(value, more[0]) if more else 1.0
    if not (0.0 < when < 1.0 or (when >= 1.0 and when == int(when))):
        raise _bad(value, f"{when:g} is neither a count nor a probability below 1")
    is_share = when < 1.0
    return FailPoint(name, act, nth=0 if is_share else int(when), share=when if is_share else 0.0)


def _messages() -> set[str]:
    """Return the names of all messages."""
    specs = (spec_of_tag(tag) for tag in range(1, MAX_TAG + 1))
    return {spec.layout.cls.__name__ for spec in specs if spec is not None}


def _fail() -> None:
    raise FailPointError("a fail point was reached")


def _number(value: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _bad(value, f"{text!r} is not a number")
    return number


def _bad(value: str, why: str) -> ValueError:
    return ValueError(
        f"{VARIABLE} = {value!r}: {why}; NAME:ACTION[:COUNT or PROBABILITY] is accepted, with the "
        f"actions {_ACTIONS}"
    )
