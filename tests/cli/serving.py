"""A mesh with its gateway as processes of `airdraft up`."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cli.commands import LIMIT_S, Commands, told


@dataclass(frozen=True, slots=True)
class Serving:
    """endpoint: where nodes join the mesh. url: of the API. log: what `up` says on standard error.
    pid: of `up`."""

    commands: Commands
    endpoint: str
    url: str
    log: Path
    pid: int


@contextlib.contextmanager
def serving(folder: Path, up: tuple[str, ...]) -> Iterator[Serving]:
    """Start `up` in a folder; it must stop in good order, and leave no process behind."""
    commands = Commands(folder)
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            commands.command((*up, "--http", "127.0.0.1:0", "-v", "-v")),
            cwd=Path(__file__).parents[2],
            env=commands.environment({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    assert process.stdout is not None
    try:
        endpoint = told(process, "listening on ")
        url = told(process, "OpenAI API at ")
        yield Serving(commands, endpoint, url, log, process.pid)
        process.terminate()
        assert process.wait(LIMIT_S) == 0
        assert commands.alive() == {}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        commands.kill_all()
