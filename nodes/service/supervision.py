"""A node as a child process: its command, its reports as lines on standard error, and its end.

In the other direction there is standard input. When it closes, the node ends, too. A node that
gives no sign of life is killed.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import fields
from typing import Final, NoReturn

from airdraft.mesh.pauses import PauseState
from airdraft.nodes.config.settings import DraftConfig, EngineSettings, TargetConfig
from airdraft.nodes.config.sources import environment, schema_of, variable_of
from airdraft.nodes.engine.calibrate import Progress
from airdraft.nodes.service.runtime import StoppedError
from airdraft.nodes.service.systemd import PING, READY, Manager

logger = logging.getLogger(__name__)

PROGRESS: Final = "progress: "
TOLD: Final = "told: "
_MOST_LINES: Final = 20
_POLL_S: Final = 0.02
# The time without a sign of life after which a node is killed; half of it is given to a pass. It is
# longer than that of the units, because a model that is too large for its machine is tried here.
WATCHDOG_S = 300.0


# -- the node's side -------------------------------------------------------------------------------


class Parent(Manager):
    """The process that started this node for its own mesh, and restarts it when it ends.

    It is a service manager that gets its reports as lines.
    """

    def __init__(self) -> None:
        super().__init__({"WATCHDOG_USEC": str(round(WATCHDOG_S * 1e6))})

    def progress(self, label: str, done: int, total: int | None) -> None:
        _write_line(f"{PROGRESS}{label} {done} {'-' if total is None else total}")

    def tell(self, line: str) -> None:
        """Have the parent show a line to its user."""
        _write_line(TOLD + line)

    def _send(self, line: str) -> None:
        if line in (READY, PING):
            _write_line(line)


def _write_line(line: str) -> None:
    # If the parent is gone, the line is lost; the end of standard input then stops the node.
    with contextlib.suppress(OSError):
        # One write for each line, because the engine's thread writes lines, too.
        os.write(sys.stderr.fileno(), (line + "\n").encode())


async def until_parent_gone() -> NoReturn:
    """Wait for the end of standard input, which shows a supervised node that its parent is gone.

    Raises StoppedError then, as if the parent had sent SIGTERM.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        while await reader.read(4096):
            pass
    finally:
        transport.close()
    raise StoppedError(signal.SIGTERM)


# -- the parent's side -----------------------------------------------------------------------------

# The module that supervised nodes run as their program. A program that adds to the command line
# puts its own name here.
program = "airdraft"


def node_command(role: str, endpoint: str, engine: EngineSettings) -> list[str]:
    """Returns the command line that starts a supervised node of this installation.

    With -P Python ignores modules in the current folder.
    """
    command = [sys.executable, "-P", "-m", program, role, "--supervised", "--connect", endpoint]
    return command + engine_options(engine)


def node_environment(keys: str = "") -> dict[str, str]:
    """Returns the environment of a supervised node, which has its settings from its command line.

    Variables with settings are for nodes and clients that connect to another mesh: the link of a
    client would slow the guesses on this machine, and one name would be that of both nodes.
    """
    settings = schema_of(TargetConfig) | schema_of(DraftConfig)
    # The keys are those of every command, unless others are given.
    left_out = {variable_of(key) for key in settings if key != "keys"}
    left = {name: value for name, value in environment().items() if name not in left_out}
    return left | ({variable_of("keys"): keys} if keys else {})


def engine_options(engine: EngineSettings) -> list[str]:
    """Returns an engine's settings as options of the commands that start a node."""
    values = {item.name: getattr(engine, item.name) for item in fields(engine)}
    options = {name.replace("_", "-"): value for name, value in values.items() if value != ""}
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


async def _lines_of(stream: asyncio.StreamReader | None) -> AsyncIterator[bytes]:
    """Yield the lines of a stream until its end, except those longer than its buffer (64 KiB).

    Reading must go on after such a line, because a node whose pipe is full stands still.
    """
    assert stream is not None
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            continue
        if not line:
            return
        yield line


class Child:
    """One process of a node. The constructor starts a task that reads its lines.

    progress: Gets its progress, and the label "" when it has joined the mesh. tell: Gets the lines
    that it has for users. reader: The task, which ends when no process has the node's standard
    error open.
    """

    def __init__(
        self,
        role: str,
        process: asyncio.subprocess.Process,
        progress: Progress,
        tell: Callable[[str], None],
    ) -> None:
        self.role = role
        self._process = process
        self._progress = progress
        self._tell = tell
        self._joined_at: float | None = None
        self._lines: list[str] = []
        # When the node last gave a sign of life; None before the first one.
        self._pinged_at: float | None = None
        self.reader = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def in_mesh_s(self) -> float:
        """How long ago the node has joined the mesh; 0.0 if it has not."""
        now = asyncio.get_running_loop().time()
        return 0.0 if self._joined_at is None else now - self._joined_at

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while the process runs, negative for a signal."""
        return self._process.returncode

    async def _read(self) -> None:
        """Keep the last lines, and pass on the reports for the parent."""
        async for raw in _lines_of(self._process.stderr):
            line = raw.decode("utf-8", "replace").rstrip()
            if line.startswith(PROGRESS):
                label, done, total = line.removeprefix(PROGRESS).rsplit(" ", 2)
                self._progress(label, int(done), None if total == "-" else int(total))
            elif line.startswith(TOLD):
                self._tell(line.removeprefix(TOLD))
            elif line == PING:
                self._pinged_at = asyncio.get_running_loop().time()
            elif line == READY:
                self._joined_at = asyncio.get_running_loop().time()
                self._progress("", 0, None)
            elif line:
                self._lines.append(line)
                del self._lines[:-_MOST_LINES]
                # A node logs warnings and errors, and a library that aborts says why. Whoever
                # restarts the node shows its last error line.
                level = logging.INFO if line.startswith("error: ") else logging.WARNING
                logger.log(level, "%s: %s", self.role, line)

    async def wait_for_end(self) -> int:
        """Wait for the exit code. A node without a sign of life for WATCHDOG_S is killed.

        In some versions of asyncio Process.wait() also waits for the end of standard error, which a
        process that the node has started may keep open. Time in which this process did not run, as
        in a container that was paused, does not count: the node was probably paused with it.
        """
        loop, pauses = asyncio.get_running_loop(), PauseState()
        while (exit_code := self.exit_code) is None:
            paused_s = pauses.looked(loop.time(), _POLL_S)
            if self._pinged_at is not None:
                self._pinged_at = min(loop.time(), self._pinged_at + paused_s)
            if self._pinged_at is not None and loop.time() - self._pinged_at > WATCHDOG_S:
                self._pinged_at = None
                why = f"the {self.role} gave no sign of life for {WATCHDOG_S:g} s"
                self._lines.append(f"error: {why}")
                self.kill()
            await asyncio.sleep(_POLL_S)
        return exit_code

    def last_error(self) -> str:
        """Returns the last error line of the node; "" if there is none."""
        for line in reversed(self._lines):
            if line.startswith("error: "):
                return line.removeprefix("error: ")
        return ""

    def how_it_ended(self) -> str:
        """Returns the kind of end, such as `SIGKILL` or `exit code 1`."""
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
