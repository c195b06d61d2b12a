"""`airdraft top` on a real mesh of toy models, in a terminal and without one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass

from nodes.telemetry.status import decode_status
from tests.cli.commands import LIMIT_S, ROOT, Commands, stopped


@contextlib.contextmanager
def toys(commands: Commands) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A mesh, and its endpoint."""
    models = ("--model", "toy:1", "--draft", "toy:0.8", "--listen", "tcp://127.0.0.1:*")
    with commands.listening("up", *models, "--http", "off") as (mesh, endpoint):
        yield mesh, endpoint
        if mesh.poll() is None:
            stopped(mesh, signal.SIGINT, 130)


@dataclass(slots=True)
class Terminal:
    """A pty with a program in it."""

    ours: int
    process: subprocess.Popen[bytes]
    before: list[object]
    its: int
    seen: bytes = b""

    def wait_for(self, part: bytes, since: int = 0) -> int:
        """Read until it has been written after a place; returns the place behind it."""
        give_up_at = time.monotonic() + LIMIT_S
        while part not in self.seen[since:]:
            assert time.monotonic() < give_up_at, self.seen
            if select.select([self.ours], [], [], 0.05)[0]:
                self.seen += os.read(self.ours, 65536)
        return self.seen.index(part, since) + len(part)

    def ends_with(self, code: int) -> None:
        """The program ends, and the terminal is as it was before."""
        self.wait_for(b"\x1b[?1049l")
        assert self.process.wait(LIMIT_S) == code
        assert termios.tcgetattr(self.its) == self.before

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)


@contextlib.contextmanager
def top(commands: Commands, endpoint: str) -> Iterator[Terminal]:
    ours, its = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = commands.environment({"TERM": "xterm"})
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
    command = commands.command(("top", "--connect", endpoint))
    before = termios.tcgetattr(its)
    try:
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=its, stdout=its, stderr=its
        ) as process:
            try:
                yield Terminal(ours, process, before, its)
            finally:
                if process.poll() is None:
                    process.kill()
    finally:
        os.close(ours)
        os.close(its)


def test_one_frame_and_the_document_for_scripts(commands: Commands) -> None:
    with toys(commands) as (_, endpoint):
        asked = ("--prompt", "canary-4711", "--max-tokens", "30", "--raw")
        assert commands.run("generate", "--connect", endpoint, *asked).returncode == 0
        once = commands.printed("top", "--connect", endpoint, "--once")
        assert "\x1b" not in once
        for part in ("airdraft up 0:00:", "target", "draft", "PLAN of target", "30 tokens: "):
            assert part in once
        document = commands.printed("top", "--connect", endpoint, "--json")
        assert json.loads(document)["totals"]["requests"]["done"] == 1
        assert {n.role for n in decode_status(document.encode()).nodes} == {"target", "draft"}
        assert "canary" not in once + document


def test_live_it_resizes_and_leaves_the_terminal_as_it_was(commands: Commands) -> None:
    with toys(commands) as (mesh, endpoint):
        with top(commands, endpoint) as terminal:
            terminal.wait_for(b"STREAM ")
            assert b"IN/OUT" not in terminal.seen
            terminal.resize(30, 150)
            place = terminal.wait_for(b"IN/OUT", len(terminal.seen))
            terminal.wait_for(b"airdraft up", place)
            os.write(terminal.ours, b"q")
            terminal.ends_with(0)
        with top(commands, endpoint) as terminal:
            terminal.wait_for(b"STREAM ")
            terminal.process.send_signal(signal.SIGINT)
            terminal.ends_with(130)
        # A coordinator that stops ends it with a line.
        with top(commands, endpoint) as terminal:
            terminal.wait_for(b"STREAM ")
            mesh.send_signal(signal.SIGINT)
            terminal.wait_for(b"error: the coordinator at ", terminal.wait_for(b"\x1b[?1049l"))
            terminal.ends_with(69)
            assert b"Traceback" not in terminal.seen
            # A second signal would end it at once, before its nodes.
            mesh.wait(LIMIT_S)
