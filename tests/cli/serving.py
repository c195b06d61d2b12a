"""A mesh with its gateway as processes of `airdraft serve`."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cli.commands import LIMIT_S, Commands, told


@dataclass(frozen=True, slots=True)
class Serving:
    """endpoint: where nodes join the mesh. url: of the API. log: what `serve` says on standard
    error. pid: of `serve`."""

    commands: Commands
    endpoint: str
    url: str
    log: Path
    pid: int


@contextlib.contextmanager
def serving(folder: Path, up: tuple[str, ...], **environ: str) -> Iterator[Serving]:
    """Start `serve` in a folder; it must stop in good order, and leave no process behind."""
    commands = Commands(folder)
    log = folder / "log"
    up = (*up, "--port", "0", "-v", "-v")
    try:
        with log.open("w") as file, commands.started(*up, stderr=file, **environ) as process:
            endpoint = told(process, "listening on ")
            url = told(process, "OpenAI API at ")
            yield Serving(commands, endpoint, url, log, process.pid)
            process.terminate()
            assert process.wait(LIMIT_S) == 0
            assert commands.alive() == {}
    finally:
        commands.kill_all()
