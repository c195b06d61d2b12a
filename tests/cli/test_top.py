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
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from nodes.cli.main import cli
from nodes.telemetry.status import decode_status
from tests.cli.commands import LIMIT_S, ROOT, Commands


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    try:
        yield made
        assert made.alive() == {}
    finally:
        made.kill_all()


@contextlib.contextmanager
def toys(commands: Commands) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A mesh, and its endpoint."""
    models = ("--model", "toy:1", "--draft", "toy:0.8", "--listen", "tcp://127.0.0.1:*")
    with commands.started("up", *models, "--http", "off") as mesh:
        assert mesh.stdout is not None
        yield mesh, mesh.stdout.readline().removeprefix("listening on ").strip()
        if mesh.poll() is None:
            mesh.send_signal(signal.SIGINT)
            mesh.wait(LIMIT_S)


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

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)


@contextlib.contextmanager
def top(commands: Commands, endpoint: str) -> Iterator[Terminal]:
    ours, its = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = commands._environment({"TERM": "xterm"})
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "nodes.cli", "top", "--connect", endpoint]
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
        once = commands.run("top", "--connect", endpoint, "--once")
        assert (once.returncode, once.stderr) == (0, "")
        assert "\x1b" not in once.stdout
        for part in ("airdraft up 0:00:", "target", "draft", "PLAN of target", "30 tokens: "):
            assert part in once.stdout
        document = commands.run("top", "--connect", endpoint, "--json")
        assert (document.returncode, document.stderr) == (0, "")
        status = decode_status(document.stdout.encode())
        assert json.loads(document.stdout)["totals"]["requests"]["done"] == 1
        assert {node.role for node in status.nodes} == {"target", "draft"}
        assert "canary" not in once.stdout + document.stdout


def test_live_it_resizes_and_leaves_the_terminal_as_it_was(commands: Commands) -> None:
    with toys(commands) as (_, endpoint):
        with top(commands, endpoint) as terminal:
            place = terminal.wait_for(b"STREAM ")
            assert b"IN/OUT" not in terminal.seen
            terminal.resize(30, 150)
            place = terminal.wait_for(b"IN/OUT", place)
            terminal.wait_for(b"airdraft up", place)
            os.write(terminal.ours, b"q")
            terminal.wait_for(b"\x1b[?1049l", place)
            assert terminal.process.wait(LIMIT_S) == 0
            assert termios.tcgetattr(terminal.its) == terminal.before
        with top(commands, endpoint) as terminal:
            terminal.wait_for(b"STREAM ")
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.process.wait(LIMIT_S) == 130
            terminal.wait_for(b"\x1b[?1049l")
            assert termios.tcgetattr(terminal.its) == terminal.before


def test_a_coordinator_that_stops_ends_it_with_a_line(commands: Commands) -> None:
    with toys(commands) as (mesh, endpoint), top(commands, endpoint) as terminal:
        terminal.wait_for(b"STREAM ")
        mesh.send_signal(signal.SIGINT)
        place = terminal.wait_for(b"\x1b[?1049l")
        terminal.wait_for(b"error: the coordinator at ", place)
        assert terminal.process.wait(LIMIT_S) == 69
        assert b"Traceback" not in terminal.seen
        # A second signal would end it at once, before its nodes.
        mesh.wait(LIMIT_S)
        assert termios.tcgetattr(terminal.its) == terminal.before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "standard output is not a terminal: give --once or --json"),
        (["--once", "--json"], "--once and --json exclude each other: give one of them"),
    ],
)
def test_what_cannot_be_shown_is_a_usage_error(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(cli, ["top", *arguments])
    assert done.exit_code == 2
    assert says in done.output


def test_nobody_there_is_one_line(commands: Commands) -> None:
    done = commands.run("top", "--once", "--connect", f"ipc://{commands.tmp}/nobody")
    assert done.returncode == 69
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no coordinator answered at ")
