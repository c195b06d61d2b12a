"""Files of rows: strict, changed by one process at a time, and written whole or not at all."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from airdraft.mesh.authorized import AuthorizedNodes, Entry
from airdraft.mesh.errors import KeysError
from airdraft.mesh.private_rows import MAX_ROWS, RowFile, locked
from airdraft.mesh.whole_files import write_whole


@dataclass(frozen=True, slots=True)
class Row:
    key: str
    name: str = ""
    tags: frozenset[str] = frozenset()


def opened(folder: Path) -> RowFile[Row]:
    return RowFile(folder / "deep" / "rows.toml", "row", Row, ("key", "name"), refused_mode=0o022)


def test_what_one_process_writes_another_reads_at_once(tmp_path: Path) -> None:
    file, other = opened(tmp_path), opened(tmp_path)
    assert other.rows() == {}
    for rows in ([Row("a", "x", frozenset("qp")), Row("b")], [Row("b")], [Row("c")], []):
        file.write(rows)
        assert list(other.rows().values()) == list(file.rows().values()) == rows
        # An unchanged file is not parsed again.
        assert other.rows() is other.rows()
    assert file.path.stat().st_mode & 0o777 == 0o600


ROW = "[[row]]\nkey = 'k'\n"


@pytest.mark.parametrize(
    "content",
    [
        *("[[row]", "\0", "row = 3", "row = " + "9" * 5000, "row = " + "[" * 5000),
        *("[[rows]]", "[[row]]", ROW + "other = true", ROW + "tags = 'a'", ROW + "tags = [1]"),
        *(ROW + ROW, ROW + "name = 'n'\n[[row]]\nkey = 'l'\nname = 'n'"),
        "".join(f"[[row]]\nkey = '{number}'\n" for number in range(MAX_ROWS + 1)),
    ],
)
def test_a_file_that_cannot_be_understood_has_no_rows_until_it_is_mended(
    tmp_path: Path, content: str
) -> None:
    file = opened(tmp_path)
    file.write([Row("a")])
    good = file.path.read_bytes()
    file.path.write_text(content)
    for _ in range(2):
        with pytest.raises(KeysError, match=r"rows\.toml"):
            file.rows()
    file.path.write_bytes(good)
    assert list(file.rows()) == ["a"]
    # Nothing is written that would not be read.
    with pytest.raises(KeysError, match="10000 rows, the maximum"):
        file.write(Row(str(number)) for number in range(MAX_ROWS + 1))
    file.path.unlink()
    assert file.rows() == {}


def test_a_file_that_others_can_change_has_no_rows(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.write([Row("a")])
    for mode in (0o620, 0o602, 0o666):
        file.path.chmod(mode)
        with pytest.raises(KeysError, match=rf"other users .*toml .*{mode:o}.*: run chmod 600"):
            file.rows()
    file.path.chmod(0o644)
    assert len(file.rows()) == 1


def test_a_lock_is_waited_for_and_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(KeysError, match="held by another process"), locked(path, 0.05):
            pass
    with locked(path):
        pass
    # What is no folder holds no lock and no rows.
    (tmp_path / "deep").touch()
    with pytest.raises(KeysError, match="cannot be written"), locked(tmp_path / "deep" / ".lock"):
        pass
    with pytest.raises(KeysError, match="Not a directory"):
        opened(tmp_path).rows()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.toml"
    path.write_bytes(b"before")
    return path


def failing(number: int) -> Callable[..., object]:
    def fail(*_args: object, **_options: object) -> object:
        raise OSError(number, os.strerror(number))

    return fail


def only(path: Path) -> bool:
    return [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("options", "mode"), [((), 0o600), ((0o644,), 0o644)])
def test_a_file_is_replaced_and_has_the_mode_asked_for(
    path: Path, options: tuple[int, ...], mode: int
) -> None:
    before = os.umask(0o022)
    try:
        write_whole(path, b"after", *options)
    finally:
        os.umask(before)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"after", mode)
    assert only(path)


@pytest.mark.parametrize("place_and_call", [(os, "open"), (os, "fsync"), (Path, "replace")])
def test_what_fails_leaves_the_one_before(
    path: Path, monkeypatch: pytest.MonkeyPatch, place_and_call: tuple[object, str]
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(*place_and_call, failing(errno.ENOSPC))
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, b"after")
    assert path.read_bytes() == b"before"
    assert only(path)
    # What ends it is told, and not what fails then.
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


def test_a_file_and_a_revocation_outlast_a_power_cut(path: Path, steps: list[str]) -> None:
    store = AuthorizedNodes(path.parent, frozenset({"draft"}))
    store.add(Entry("a" * 40, "nano", frozenset({"draft"})))
    for write in (lambda: write_whole(path, b"after"), lambda: store.revoke("nano")):
        steps.clear()
        write()
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
