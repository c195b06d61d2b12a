"""Whole meshes with their API, each in processes of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
# In a body, so that a text depends on the temperature alone, whatever model answers.
ALL_TOKENS: Final = {"top_k": 0, "top_p": 1, "min_p": 0}
TOYS: Final = ("--model", "toy:1", "--draft", "toy:0.8")


@dataclass(frozen=True, slots=True)
class Up:
    """endpoint: the coordinator's. url: base of the API, in the same process. keys: directory."""

    endpoint: str
    url: str
    keys: Path
    process: subprocess.Popen[str]


@contextlib.contextmanager
def started(
    command: str,
    *arguments: str,
    keys: Path,
    log: Path | None = None,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
    module: Sequence[str] = ("nodes.cli",),
) -> Iterator[subprocess.Popen[str]]:
    """A command of airdraft that runs until the end of the block.

    log: of its standard error. folder: where it runs, if not here. module: that is run, and what it
    is told before the command.
    """
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(log.open("w")) if log is not None else None
        process = subprocess.Popen(
            [sys.executable, "-m", *module, command, *arguments],
            cwd=folder,
            env={
                **os.environ,
                "AIRDRAFT_KEYS": str(keys),
                "PYTHONPATH": str(_ROOT),
                **(environ or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


@contextlib.contextmanager
def up(*arguments: str, log: Path | None = None, **environ: str) -> Iterator[Up]:
    """A mesh with its API; the default pair if no arguments say otherwise."""
    fixed = ("--listen", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0")
    with (
        tempfile.TemporaryDirectory() as keys,
        started("up", *arguments, *fixed, keys=Path(keys), log=log, environ=environ) as process,
    ):
        assert process.stdout is not None
        endpoint, url = (process.stdout.readline() for _ in range(2))
        yield Up(
            endpoint.removeprefix("listening on ").strip(),
            url.removeprefix("OpenAI API at ").strip(),
            Path(keys),
            process,
        )
