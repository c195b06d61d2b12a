"""Whole meshes with their API, each in its own processes."""

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
# Fields of a body that switch a model's default filters off, so that only the temperature counts.
ALL_TOKENS: Final = {"top_k": 0, "top_p": 1, "min_p": 0}
TOYS: Final = ("--model", "toy:1", "--draft", "toy:0.8")


@dataclass(frozen=True, slots=True)
class Up:
    """A running mesh. endpoint: that of the coordinator. url: base of the API, which the same
    process serves. keys: directory of keys."""

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
    """Run an airdraft command until the end of the block.

    log: file for its standard error. folder: working directory; None for the current one. module:
    the module to run, with its arguments before the command.
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
    """Run a mesh with its API, with the default pair unless arguments name other models."""
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
