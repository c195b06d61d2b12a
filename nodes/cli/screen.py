"""Takes over a terminal for full-screen output and single keys, and restores it afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from typing import Any, Final, TextIO

from nodes.cli.cells import filled

# Switch to the alternate screen without cursor and line wrapping, and back.
_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_REVERSE, _PLAIN = "\x1b[7m", "\x1b[0m"


def painted(lines: Sequence[str], width: int) -> str:
    """The text that draws a frame over the last one, with its first line as a title."""
    title = [f"{_REVERSE}{filled(line, width)}{_PLAIN}" for line in lines[:1]]
    rows = [line + _CLEAR_LINE for line in lines[1:]]
    return _HOME + "\r\n".join([*title, *rows]) + _CLEAR_BELOW


class Screen:
    """Draws frames and reads keys inside taken(). Keys and changes of size end wait()."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._woken = asyncio.Event()
        self._keys = ""

    @staticmethod
    def size() -> tuple[int, int]:
        """The present number of columns and lines."""
        size = shutil.get_terminal_size()
        return size.columns, size.lines

    def draw(self, lines: Sequence[str]) -> None:
        self._write(painted(lines, self.size()[0]))

    async def wait(self, seconds: float) -> str:
        """Wait and return the keys pressed; "" after the time is over or the size has changed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()
        keys, self._keys = self._keys, ""
        return keys

    @contextlib.contextmanager
    def taken(self, keyboard: int | None) -> Iterator[None]:
        """Take over the terminal. keyboard: descriptor to read keys from, or None for no keys."""
        loop = asyncio.get_running_loop()
        before = termios.tcgetattr(keyboard) if keyboard is not None else None
        loop.add_signal_handler(signal.SIGWINCH, self._woken.set)
        loop.add_signal_handler(signal.SIGTSTP, self._pause, keyboard, before)
        try:
            if keyboard is not None:
                loop.add_reader(keyboard, self._read, keyboard)
            self._enter(keyboard)
            yield
        finally:
            if keyboard is not None:
                loop.remove_reader(keyboard)
            self._leave(keyboard, before)
            loop.remove_signal_handler(signal.SIGTSTP)
            loop.remove_signal_handler(signal.SIGWINCH)

    def _enter(self, keyboard: int | None) -> None:
        if keyboard is not None:
            tty.setcbreak(keyboard)
        self._write(_ENTER)

    def _leave(self, keyboard: int | None, before: Any) -> None:
        self._write(_LEAVE)
        if keyboard is not None and before is not None:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)

    def _pause(self, keyboard: int | None, before: Any) -> None:
        """On Ctrl-Z, restore the terminal for the shell until this process is resumed."""
        self._leave(keyboard, before)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter(keyboard)
        self._woken.set()

    def _read(self, keyboard: int) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(keyboard, 64)
        # A closed terminal sends no more keys, so quit.
        self._keys += data.decode("ascii", "ignore") if data else "q"
        self._woken.set()

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()


def keyboard() -> int | None:
    """The descriptor of standard input if it is a terminal, otherwise None."""
    return sys.stdin.fileno() if sys.stdin.isatty() else None
