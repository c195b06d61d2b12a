"""Files that a user asked for: whole, or the one before stays; what is no file is written to."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import click
import pytest

from nodes.cli.chat.conversation import CommandError, Conversation
from nodes.cli.output_file import write_output
from nodes.cli.trace import _write


def full(*_args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_output(path, b"1")
    path.chmod(0o640)
    write_output(path, b"2")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"2", 0o640)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_output(tmp_path / "link", b"1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"1"


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writing = threading.Thread(target=write_output, args=(pipe, b"told"))
    writing.start()
    assert pipe.read_bytes() == b"told"
    writing.join()
    assert pipe.is_fifo()


def test_a_trace_on_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(click.ClickException, match=r"trace.json cannot be written: No space left"):
        _write(path, b"after")
    assert path.read_bytes() == b"before"


def test_a_conversation_that_cannot_be_saved_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "talk.json"
    talk = Conversation({})
    talk.command(f"/save {path}")
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    talk.command("/system be brief")
    with pytest.raises(CommandError, match="No space left"):
        talk.command(f"/save {path}")
    assert path.read_bytes() == before
