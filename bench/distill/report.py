"""Progress of long steps: a line that is redrawn on a terminal, a line a minute in a log. Their
end in good order."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from nodes.cli.progress import Progress as Bar

Progress = Callable[[str, int, int | None], None]
_LINE_EVERY_S = 60.0


class Reporter:
    """Call it with (label, done, total or None) as often as you like."""

    def __init__(self) -> None:
        self._bar = Bar()
        self._on_terminal = sys.stderr.isatty()
        self._written_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.clear()

    def __call__(self, label: str, done: int, total: int | None) -> None:
        if self._on_terminal:
            self._bar(label, done, total)
        elif time.monotonic() - self._written_s >= _LINE_EVERY_S or done == total:
            self.note(f"{label}: {done}" + (f" of {total}" if total else ""))
            self._written_s = time.monotonic()

    def note(self, line: str) -> None:
        """A line that stays."""
        self._bar.clear()
        print(line, file=sys.stderr, flush=True)


def stop_flag() -> Callable[[], bool]:
    """True once SIGTERM or Ctrl-C came: the step ends in good order; a second Ctrl-C at once."""
    stopped = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return lambda: stopped
