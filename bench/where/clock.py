"""Clocks around functions: each one's seconds, less those of functions with clocks inside it."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any


class Clocks:
    """Seconds and calls by name, in one thread. Calls in other threads are not timed.

    The timed thread is the first one that enters the function named `outermost`.
    """

    def __init__(self, outermost: str, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self.thread_id = 0
        self._outermost, self._now = outermost, now
        self._open: list[str] = []
        self._since = 0.0

    def around(self, owner: Any, function: str, name: str) -> None:
        """Give a function a clock. owner: the class or module in which callers look it up."""
        timed = getattr(owner, function)

        @functools.wraps(timed)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not self._enter(name):
                return timed(*args, **kwargs)
            try:
                return timed(*args, **kwargs)
            finally:
                self._leave()

        setattr(owner, function, wrapper)

    def _enter(self, name: str) -> bool:
        thread_id = threading.get_native_id()
        if not self.thread_id and name == self._outermost:
            self.thread_id = thread_id
        if thread_id != self.thread_id or (not self._open and name != self._outermost):
            return False
        self._charge()
        self._open.append(name)
        self.calls[name] += 1
        return True

    def _leave(self) -> None:
        self._charge()
        self._open.pop()

    def _charge(self) -> None:
        now = self._now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def counted(owner: Any, function: str, count: Callable[..., None]) -> None:
    """Wrap a function so that `count` is called with its result and arguments after each call."""
    inner = getattr(owner, function)

    @functools.wraps(inner)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        count(result, *args, **kwargs)
        return result

    setattr(owner, function, wrapper)
