"""Starts a node as a child process, reads the lines that it writes, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import fields

from nodes.config.settings import EngineSettings
from nodes.service.supervision import HASHED, JOINED, PROGRESS

logger = logging.getLogger(__name__)

_MOST_LINES = 20
_POLL_S = 0.02


def node_command(role: str, endpoint: str, engine: EngineSettings, hashed: str = "") -> list[str]:
    """Return the command line that starts a supervised node of this installation.

    With -P Python ignores modules in the current folder. hashed: As in Parent.
    """
    command = [sys.executable, "-P", "-m", "nodes.cli", role, "--supervised", "--connect", endpoint]
    if hashed:
        command += ["--hashed", hashed]
    return command + engine_options(engine)


def engine_options(engine: EngineSettings) -> list[str]:
    """Return an engine's settings as options of the commands that start a node."""
    values = {item.name: getattr(engine, item.name) for item in fields(engine)}
    options = {name.replace("_", "-"): value for name, value in values.items() if value != ""}
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


class Child:
    """One process of a node. The constructor starts a task that reads its lines.

    status: Gets its progress, and "" when it has joined. on_joined: Called when the node has joined
    the mesh. hashed: The node's report about its model file, for the next process. reader: The
    task, which ends when no process has the node's standard error open.
    """

    def __init__(
        self,
        role: str,
        process: asyncio.subprocess.Process,
        status: Callable[[str], None],
        on_joined: Callable[[], None],
    ) -> None:
        self.role = role
        self.hashed = ""
        self._process = process
        self._status = status
        self._on_joined = on_joined
        self._lines: list[str] = []
        self.reader = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while the process runs, negative for a signal."""
        return self._process.returncode

    async def _read(self) -> None:
        """Keep the last lines, and pass on the reports for the parent."""
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            if line.startswith(PROGRESS):
                self._status(line.removeprefix(PROGRESS))
            elif line.startswith(HASHED):
                self.hashed = line.removeprefix(HASHED)
            elif line == JOINED:
                self._status("")
                self._on_joined()
            elif line:
                self._lines.append(line)
                del self._lines[:-_MOST_LINES]
                level = logging.WARNING if " WARNING " in line else logging.INFO
                logger.log(level, "%s: %s", self.role, line)

    def is_silent(self) -> bool:
        """Whether no process has the node's standard error open any more."""
        assert self._process.stderr is not None
        return self._process.stderr.at_eof()

    async def ended(self) -> int:
        """Wait for the exit code.

        In some versions of asyncio Process.wait() also waits for the end of standard error, which a
        process that the node has started may keep open.
        """
        exit_code = self.exit_code
        while exit_code is None:
            await asyncio.sleep(_POLL_S)
            exit_code = self.exit_code
        return exit_code

    def last_error(self) -> str:
        """Return the last error line of the node; "" if there is none."""
        for line in reversed(self._lines):
            if line.startswith("error: "):
                return line.removeprefix("error: ")
        return ""

    def how_it_ended(self) -> str:
        """Return the kind of end, such as `SIGKILL` or `exit code 1`."""
        code = self.exit_code
        if code is None or code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"

    def close_stdin(self) -> None:
        """Close standard input, upon which the node stops."""
        if self.exit_code is None:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def kill(self) -> None:
        """Kill the process and all that it has started."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


async def start_child(
    role: str,
    command: list[str],
    status: Callable[[str], None] = lambda _line: None,
    on_joined: Callable[[], None] = lambda: None,
) -> Child:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        # Ctrl-C in a terminal reaches all foreground processes, but this process stops the nodes.
        start_new_session=True,
    )
    return Child(role, process, status, on_joined)
