"""Files that a user asked for: whole, or the one before stays; what is no file is written to."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from nodes.cli.output_file import write_output


def test_a_file_keeps_its_mode_and_a_link_is_followed(tmp_path: Path) -> None:
    path, link = tmp_path / "a", tmp_path / "link"
    write_output(path, b"1")
    path.chmod(0o640)
    link.symlink_to(path)
    write_output(link, b"2")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"2", 0o640)
    assert link.is_symlink()


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writing = threading.Thread(target=write_output, args=(pipe, b"told"))
    writing.start()
    assert pipe.read_bytes() == b"told"
    writing.join()
    assert pipe.is_fifo()


def test_what_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write_output(path, b"before")

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_output(path, b"after")
    assert path.read_bytes() == b"before"
