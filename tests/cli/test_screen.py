"""A terminal that is a pty: taken, drawn on, and given back as it was."""

import asyncio
import contextlib
import io
import os
import pty
import signal
import termios
from collections.abc import Iterator

import pytest

from nodes.cli.screen import Screen, painted


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Our end and the program's."""
    ours, its = pty.openpty()
    yield ours, its
    os.close(ours)
    os.close(its)


def screen_of(its: int) -> Screen:
    return Screen(os.fdopen(its, "w", closefd=False))


def shown_until(terminal: int, wanted: bytes) -> bytes:
    """What was written to a terminal until that was there; it comes in pieces."""
    shown = b""
    while wanted not in shown:
        shown += os.read(terminal, 1000)
    return shown


async def test_it_hears_keys_and_sizes_and_is_given_back_after_an_error(
    terminal: tuple[int, int],
) -> None:
    ours, its = terminal
    before = termios.tcgetattr(its)
    screen = screen_of(its)
    with contextlib.suppress(KeyError), screen.taken(its):
        assert termios.tcgetattr(its)[3] & termios.ICANON == 0
        assert shown_until(ours, b"\x1b[?1049h").startswith(b"\x1b[?1049h")
        os.write(ours, b"q")
        assert await screen.wait(30.0) == "q"
        os.kill(os.getpid(), signal.SIGWINCH)
        assert await screen.wait(30.0) == ""
        assert await screen.wait(0.0) == ""
        raise KeyError
    assert termios.tcgetattr(its) == before
    shown_until(ours, b"\x1b[?1049l")
    loop = asyncio.get_running_loop()
    assert not loop.remove_reader(its)
    assert not loop.remove_signal_handler(signal.SIGWINCH)


async def test_a_terminal_that_is_gone_is_as_good_as_q() -> None:
    ours, its = pty.openpty()
    # It draws elsewhere, so that the screen can still be given back.
    screen = Screen(io.StringIO())
    with contextlib.suppress(termios.error), screen.taken(its):
        os.close(ours)
        assert await screen.wait(30.0) == "q"
    os.close(its)


async def test_without_a_keyboard_it_only_draws(terminal: tuple[int, int]) -> None:
    ours, its = terminal
    screen = screen_of(its)
    before = termios.tcgetattr(its)
    with screen.taken(None):
        assert termios.tcgetattr(its) == before
        os.read(ours, 100)
        screen.draw(["title", "line"])
        assert b"line" in os.read(ours, 1000)


def test_a_frame_is_drawn_over_the_last_one_without_scrolling() -> None:
    assert painted(["one", "two"], 5) == "\x1b[H\x1b[7mone  \x1b[0m\r\ntwo\x1b[K\x1b[J"
