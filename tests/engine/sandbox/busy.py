"""Asking a sandboxed process on a machine that may be busy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from airdraft.nodes.engine.grammar import GrammarError

T = TypeVar("T")
# Each takes up to 12 s of the wall clock, in which a question needs 2 or 3 s of the processor.
_MOST_ASKED = 10
# For a test that has two questions judged. Each time a process is ended, another one starts.
LIMIT_S = 2 * _MOST_ASKED * (12 + 8)


def judged(ask: Callable[[], T]) -> T:
    """What comes of a question once it got the processor for long enough: whoever asks on a busy
    machine is told so, and may ask again."""
    for _ in range(_MOST_ASKED - 1):
        try:
            return ask()
        except TimeoutError:
            continue
        except GrammarError as error:
            if error.is_request_bad:
                raise
    return ask()
