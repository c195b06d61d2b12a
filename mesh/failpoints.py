"""Named places at which a process can be made to fail. Off unless arm() is called at its start.

A process has at most one fail point, `NAME:ACTION[:WHEN]`, from the environment variable
AIRDRAFT_FAILPOINT only. Actions: `kill` (SIGKILL to itself), `stop` (SIGSTOP), `block:SECONDS` (the
thread sleeps with all that runs on it), `error` (raises FailPointError). WHEN: a number n for only
the n-th time, 1 by default, or a probability below 1 for each time. Names: `send.MESSAGE` before a
message is sent, `receive.MESSAGE` before a received one is handled, and the places below.
docs/design/testing.md describes their use.
"""

import math
import os
import random
import signal
import time
from collections.abc import Callable, Collection
from typing import Final

from mesh.errors import MeshError

VARIABLE: Final = "AIRDRAFT_FAILPOINT"
# On the engine's thread, after a pass and before its result is reported.
ENGINE_PASS: Final = "engine.pass"
PLACES: Final = frozenset({ENGINE_PASS})
_ACTIONS: Final = "kill, stop, block:SECONDS, error"
_LONGEST_BLOCK_S: Final = 3600.0


class FailPointError(MeshError):
    """Raised by the action `error`."""


class FailPoint:
    """One armed fail point. Code that reaches a place calls reached() with its name."""

    def __init__(self, name: str, act: Callable[[], None], *, nth: int, share: float) -> None:
        self._name = name
        self._act = act
        self._left = nth
        self._share = share

    def reached(self, name: str) -> None:
        if name != self._name:
            return
        if self._share:
            if random.random() < self._share:
                self._act()
            return
        self._left -= 1
        if self._left == 0:
            self._act()


_armed: FailPoint | None = None


def reached(name: str) -> None:
    """Mark that a named place is reached."""
    if _armed is not None:
        _armed.reached(name)


def sending(message: object) -> None:
    """Mark that a message is about to be sent."""
    if _armed is not None:
        _armed.reached(f"send.{type(message).__name__}")


def received(message: object) -> None:
    """Mark that a message was received and has not been handled yet."""
    if _armed is not None:
        _armed.reached(f"receive.{type(message).__name__}")


def arm(value: str, messages: Collection[str]) -> None:
    """Make this process fail as specified by value. messages: the names of all messages.

    Raises ValueError for a malformed value.
    """
    global _armed
    _armed = parse(value, messages)


def disarm() -> None:
    global _armed
    _armed = None


def parse(value: str, messages: Collection[str]) -> FailPoint:
    """Parse a specification. Raises ValueError that lists what is accepted."""
    name, _, rest = value.partition(":")
    kind, _, of = name.partition(".")
    if name not in PLACES and not (kind in ("send", "receive") and of in messages):
        known = ", ".join(sorted(PLACES))
        raise _bad(value, f"{name!r} is none of send.MESSAGE, receive.MESSAGE, {known}")
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
