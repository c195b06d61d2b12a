"""Progress of long steps, and their end in good order."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator

from airdraft.nodes.cli.progress import Progress as Bar

Progress = Callable[[str, int, int | None], None]
_LINE_EVERY_S = 60.0


class Reporter(Bar):
    """A line that is redrawn on a terminal, a line a minute in a log."""

    def __init__(self) -> None:
        super().__init__()
        self._written_s = time.monotonic()

    def __call__(self, label: str, done: int, total: int | None) -> None:
        if self._on_terminal:
            super().__call__(label, done, total)
        elif time.monotonic() - self._written_s >= _LINE_EVERY_S or done == total:
            self.note(f"{label}: {done}" + (f" of {total}" if total else ""))
            self._written_s = time.monotonic()

    def note(self, line: str) -> None:
        """A line that stays."""
        self.clear()
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def stop_flag() -> Iterator[Callable[[], bool]]:
    """Let a step end in good order: in the block, SIGTERM or Ctrl-C makes the function return true.

    A second Ctrl-C ends it at once.
    """
    stopped = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
