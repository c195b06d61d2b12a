"""Files of rows: read anew when they change, strict, and changed by one process at a time."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from pathlib import Path

import pytest

from mesh.errors import KeysError
from mesh.private_rows import MAX_ROWS, RowFile, locked


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
