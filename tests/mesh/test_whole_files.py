"""A file is written whole or not at all, whatever fails on the way."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.authorized import AuthorizedNodes, Entry
from mesh.whole_files import write_whole


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.toml"
    path.write_bytes(b"before")
    return path


def failing(number: int) -> Callable[..., object]:
    def fail(*_args: object, **_options: object) -> object:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(("options", "mode"), [((), 0o600), ((0o644,), 0o644)])
def test_a_file_is_replaced_and_has_the_mode_asked_for(
    path: Path, options: tuple[int, ...], mode: int
) -> None:
    before = os.umask(0o022)
    try:
        write_whole(path, b"after", *options)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"after"
    assert path.stat().st_mode & 0o777 == mode
    assert [p.name for p in path.parent.iterdir()] == ["state.toml"]


@pytest.mark.parametrize("call", ["open", "fdopen", "fsync", "replace"])
def test_what_fails_leaves_the_one_before(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    descriptors: list[int] = []

    def fdopen(descriptor: int, *_args: object) -> object:
        descriptors.append(descriptor)
        return failing(errno.ENOSPC)()

    with monkeypatch.context() as broken:
        place = Path if call == "replace" else os
        broken.setattr(place, call, fdopen if call == "fdopen" else failing(errno.ENOSPC))
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, b"after")
    for descriptor in descriptors:
        os.close(descriptor)
    assert path.read_bytes() == b"before"
    assert [p.name for p in path.parent.iterdir()] == ["state.toml"]


def test_what_ends_it_is_told_and_not_what_fails_then(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    monkeypatch.setattr(Path, "unlink", failing(errno.EROFS))
    with pytest.raises(OSError, match="Input/output error"):
        write_whole(path, b"after")
    assert path.read_bytes() == b"before"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to files and directories, in order."""
    steps: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("sync directory" if is_directory else "sync file")
        real_sync(descriptor)

    def replace(path: Path, target: Path) -> Path:
        steps.append("rename")
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    return steps


def revoke(path: Path) -> None:
    AuthorizedNodes(path.parent, frozenset({"draft"})).revoke("nano")


@pytest.mark.parametrize("write", [lambda path: write_whole(path, b"after"), revoke])
def test_a_file_and_a_revocation_outlast_a_power_cut(
    path: Path, steps: list[str], write: Callable[[Path], None]
) -> None:
    store = AuthorizedNodes(path.parent, frozenset({"draft"}))
    store.add(Entry("a" * 40, "nano", frozenset({"draft"})))
    steps.clear()
    write(path)
    assert steps == ["sync file", "rename", "sync directory"]


def test_a_directory_that_cannot_be_synced_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        write_whole(path, b"after")
    assert path.read_bytes() == b"after"
