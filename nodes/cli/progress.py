"""A progress line on the terminal for work that takes a while."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import Self, TextIO

_SHOW_AFTER_S = 1.0
_REDRAW_EVERY_S = 0.1
_CLEAR = "\r\x1b[K"


class Progress:
    """Call it with (label, done, total or None). Leaving the `with` block removes the line, and so
    does an empty label.

    Nothing is drawn in the first second of a label, nor if the stream (default: standard error) or
    standard output is not a terminal.

        with Progress() as progress:
            catalog.pull(name, progress)
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._on_terminal = self._stream.isatty() and (stream is not None or sys.stdout.isatty())
        self._label = ""
        self._began_s = self._drawn_s = 0.0
        self._is_drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.clear()

    def __call__(self, label: str, done: int, total: int | None) -> None:
        if not label:
            self.clear()
        if not label or not self._on_terminal:
            return
        now_s = self._clock()
        if label != self._label:
            self.clear()
            self._label, self._began_s = label, now_s
        due_s = max(self._began_s + _SHOW_AFTER_S, self._drawn_s + _REDRAW_EVERY_S)
        # Work of unknown length may report once and then block, so it is drawn at once.
        if now_s >= due_s or (total is None and not self._is_drawn):
            self._draw(done, total, now_s)

    def clear(self) -> None:
        """Remove the line, so that something else can be printed."""
        if self._is_drawn:
            self._stream.write(_CLEAR)
            self._stream.flush()
            self._is_drawn = False

    def _draw(self, done: int, total: int | None, now_s: float) -> None:
        text = f"{self._label} ..."
        if total:
            text = f"{self._label} {min(done / total, 1.0):4.0%}"
        self._stream.write(_CLEAR + text[: shutil.get_terminal_size().columns - 1])
        self._stream.flush()
        self._drawn_s, self._is_drawn = now_s, True
