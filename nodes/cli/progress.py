"""A progress line on the terminal for work that takes a while."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import Self, TextIO

_SHOW_AFTER_S = 1.0
_REDRAW_EVERY_S = 0.1
# A smaller total counts passes or positions, not bytes.
_LEAST_BYTES = 1_000_000
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
        # The size that a resumed download had at its start.
        self._began_done = 0
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
            self._label, self._began_s, self._began_done = label, now_s, done
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

    def _rate(self, done: int, total: int, now_s: float) -> str:
        """Format bytes done, their rate, and the time that the rest will take."""
        text = f"  {done / 1e6:.0f} of {total / 1e6:.0f} MB"
        bytes_per_s = (done - self._began_done) / max(now_s - self._began_s, 1e-3)
        if bytes_per_s <= 0:
            return text
        left_s = round((total - done) / bytes_per_s)
        left = f"{left_s} s" if left_s < 100 else f"{left_s // 60} min"
        return f"{text}  {bytes_per_s / 1e6:.1f} MB/s  {left} left"

    def _draw(self, done: int, total: int | None, now_s: float) -> None:
        text = f"{self._label} ..."
        if total:
            rate = self._rate(done, total, now_s) if total >= _LEAST_BYTES else ""
            text = f"{self._label} {min(done / total, 1.0):4.0%}{rate}"
        self._stream.write(_CLEAR + text[: shutil.get_terminal_size().columns - 1])
        self._stream.flush()
        self._drawn_s, self._is_drawn = now_s, True
