"""Writes output files: either as a whole, or an existing file stays as it is."""

import os
import stat
from pathlib import Path

import click

from airdraft.mesh.whole_files import write_whole


def write_output(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file as a whole. mode: permissions of a new file. Raises ClickException.

    A path that is not a regular file (a pipe, a terminal, a link) is written in place.
    """
    try:
        _write(path, data, mode)
    except OSError as error:
        raise click.ClickException(
            f"{path} cannot be written: {error.strerror}: give another path"
        ) from error


def _write(path: Path, data: bytes, mode: int) -> None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        return
    if path.exists():
        mode = stat.S_IMODE(path.stat().st_mode)
    write_whole(path, data, mode)
