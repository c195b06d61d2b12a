"""The real command line as processes, with a temporary folder that marks all of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Of commands that take a second on an idle machine. Only a test that fails waits as long.
LIMIT_S = 90.0


class Commands:
    """Starts airdraft commands; knows every process that comes of them, whoever its parent is."""

    def __init__(self, folder: Path) -> None:
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        self._mark = f"TMPDIR={self.tmp}".encode()

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "nodes.cli", *arguments]

    def _environment(self, changes: dict[str, str]) -> dict[str, str]:
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
            self._command(arguments),
            cwd=ROOT,
            env=self._environment(environ),
            input=given,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    @contextlib.contextmanager
    def started(self, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
        """A running command; killed at the end if it still runs.

        The pipe of its output is small: who writes a long text waits until it is read.
        """
        with subprocess.Popen(
            self._command(arguments),
            cwd=ROOT,
            env=self._environment(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pipesize=4096,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def alive(self, *roles: str) -> dict[int, str]:
        """Process id -> role (a command's first argument) of all that run; roles filters."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self._mark not in (folder / "environ").read_bytes().split(b"\0"):
                    continue
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                role = words[words.index("nodes.cli") + 1] if "nodes.cli" in words else words[0]
                if not roles or role in roles:
                    found[int(folder.name)] = role
        return found

    def kill_all(self) -> None:
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    give_up_at = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up_at, "the condition did not come true in time"
        time.sleep(0.01)
