import io

from airdraft.nodes.cli.progress import Progress
from tests.nodes.gateway.fake_mesh import Clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_in_the_first_second_then_a_line_that_goes_away() -> None:
    terminal, clock = Terminal(), Clock()
    with Progress(terminal, clock) as progress:
        progress("downloading m", 0, 100)
        clock.now = 0.9
        progress("downloading m", 10, 100)
        assert terminal.getvalue() == ""
        clock.now = 1.0
        progress("downloading m", 50, 100)
        assert terminal.getvalue() == "\r\x1b[Kdownloading m  50%"
        clock.now = 1.05
        progress("downloading m", 60, 100)
        assert "60%" not in terminal.getvalue()
        clock.now = 1.2
        progress("downloading m", 300, 100)
        assert "100%" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_a_wait_of_unknown_length_is_shown_at_once() -> None:
    terminal = Terminal()
    with Progress(terminal, Clock()) as progress:
        progress("waiting", 0, None)
        progress("waiting", 0, None)
        # It goes when a node has joined.
        progress("", 0, None)
        assert terminal.getvalue().endswith("\r\x1b[K")
    assert terminal.getvalue() == "\r\x1b[Kwaiting ...\r\x1b[K"


def test_silent_where_there_is_no_terminal() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(stream, clock) as progress:
        progress("one", 0, None)
        clock.now = 9.0
        progress("one", 5, 9)
    assert stream.getvalue() == ""
