"""The real command line as processes, with a temporary folder that marks all of them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
# Of commands that take a second on an idle machine. Only a test that fails waits as long.
LIMIT_S = 90.0


class Commands:
    """Starts airdraft commands; knows every process that comes of them, whoever its parent is."""

    def __init__(self, folder: Path) -> None:
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        self._mark = f"TMPDIR={self.tmp}".encode()

    def command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "airdraft", *arguments]

    def environment(self, changes: dict[str, str]) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("AIRDRAFT_")}
        if "AIRDRAFT_CACHE" in os.environ:
            clean["AIRDRAFT_CACHE"] = os.environ["AIRDRAFT_CACHE"]
        # The keys of whoever runs the tests are none of ours.
        keys = {"AIRDRAFT_KEYS": str(self.tmp / "keys")}
        return {**clean, **keys, "TMPDIR": str(self.tmp), **changes}

    def run(
        self, *arguments: str, given: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. given: what it reads."""
        return subprocess.run(
            self.command(arguments),
            cwd=ROOT,
            env=self.environment(environ),
            input=given,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def printed(self, *arguments: str, given: str = "", **environ: str) -> str:
        """What a command prints that ends well and says nothing else."""
        done = self.run(*arguments, given=given, **environ)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    @contextlib.contextmanager
    def started(
        self, *arguments: str, stderr: IO[str] | int = subprocess.PIPE, **environ: str
    ) -> Iterator[subprocess.Popen[str]]:
        """A running command; killed at the end if it still runs.

        The pipe of its output is small: who writes a long text waits until it is read.
        """
        with subprocess.Popen(
            self.command(arguments),
            cwd=ROOT,
            env=self.environment(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            pipesize=4096,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    @contextlib.contextmanager
    def listening(
        self, *arguments: str, **environ: str
    ) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """A running coordinator or `serve`, and its endpoint."""
        with self.started(*arguments, **environ) as process:
            yield process, told(process, "listening on ")

    def alive(self, *roles: str) -> dict[int, str]:
        """Process id -> role (a command's first argument) of all that run; roles filters."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self._mark not in (folder / "environ").read_bytes().split(b"\0"):
                    continue
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                role = words[words.index("airdraft") + 1] if "airdraft" in words else words[0]
                if not roles or role in roles:
                    found[int(folder.name)] = role
        return found

    def kill_all(self) -> None:
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def told(process: subprocess.Popen[str], start: str) -> str:
    """The rest of the next line of a command's output, which begins like that."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(start), line
    return line.removeprefix(start).strip()


def stopped(
    process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM, code: int = 0
) -> str:
    """End a command by a signal, with this exit code; what it has said on standard error."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, errors
    return errors


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that failed."""
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line.removeprefix("error: ")


def wait_until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    give_up_at = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up_at, "the condition did not come true in time"
        time.sleep(0.01)
