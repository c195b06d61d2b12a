"""A command at a terminal, which is a pty."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

from tests.cli.commands import LIMIT_S, ROOT, Commands


class AtTerminal:
    """seen: what was written since what was last waited for."""

    def __init__(self, main: int, its: int, process: subprocess.Popen[bytes]) -> None:
        self._main = main
        self._its = its
        self._before = termios.tcgetattr(its)
        self.process = process
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def press_until(self, key: str, text: str) -> None:
        """Python misses a signal that comes just before it waits for the next key."""
        for _ in range(60):
            self.type(key)
            with contextlib.suppress(TimeoutError):
                self.wait_for(text, 0.5)
                return
        raise AssertionError(f"no {text!r} after 60 keys")

    def wait_for(self, text: str, seconds: float = LIMIT_S) -> str:
        """Read until it has been written; returns what was before it."""
        give_up_at = time.monotonic() + seconds
        while text not in self.seen:
            left_s = max(0.0, give_up_at - time.monotonic())
            if not select.select([self._main], [], [], left_s)[0]:
                raise TimeoutError(f"no {text!r} in {self.seen!r}")
            self.seen += os.read(self._main, 65536).decode("utf-8", "replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def ends_with(self, code: int) -> None:
        """The command ends, and the terminal is as it was before."""
        assert self.process.wait(LIMIT_S) == code
        assert termios.tcgetattr(self._its) == self._before

    def resize(self, lines: int, columns: int) -> None:
        resize(self._main, lines, columns)
        self.process.send_signal(signal.SIGWINCH)


def resize(terminal: int, lines: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@contextlib.contextmanager
def at_terminal(commands: Commands, *arguments: str, term: str = "xterm") -> Iterator[AtTerminal]:
    """A command at a terminal of 24 lines and 80 columns."""
    main, its = pty.openpty()
    resize(main, 24, 80)
    environment = commands.environment({"TERM": term})
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
    with subprocess.Popen(
        commands.command(arguments),
        cwd=ROOT,
        env=environment,
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        try:
            yield AtTerminal(main, its, process)
        finally:
            process.kill()
            process.wait()
            os.close(main)
            os.close(its)
