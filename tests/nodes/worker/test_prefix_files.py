"""Files of saved texts: what was written is read, and nothing else ever is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airdraft.nodes.engine.protocol import SavedPrefix
from airdraft.nodes.worker.prefix_files import (
    DamagedPrefixError,
    PrefixFile,
    delete_unused,
    found_prefixes,
    make_room,
    read_prefix,
    write_prefix,
)

TOKENS = list(range(1000, 1100))
STATE = np.random.default_rng(5).integers(0, 256, 70_000, np.uint8)
SAVED = SavedPrefix(100, STATE, 98, (1098, 1099))
# A file system writes blocks.
BLOCK = 4096


def written(folder: Path, owner: str = "ab", first: int = 1000) -> PrefixFile:
    return write_prefix(folder, owner, [first, *TOKENS[1:]], SAVED, nothing)


def nothing() -> None:
    return


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = written(tmp_path)
    (found,) = found_prefixes(tmp_path)
    assert (found.path, found.owner, found.token_ids) == (file.path, "ab", TOKENS)
    pieces = list[int]()
    saved = read_prefix(found, lambda: pieces.append(1))
    assert (saved.length, saved.shortest, saved.pending) == (100, 98, (1098, 1099))
    assert np.array_equal(saved.state, STATE)
    assert pieces
    # Only this user can read it.
    assert file.path.stat().st_mode & 0o777 == 0o600


def torn(data: bytes, draw: Callable[..., int]) -> bytes:
    """What may be left of a file of which not all blocks were written."""
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(blocks) - 1))
        kind = draw(st.sampled_from(["zeros", "other", "cut", "swap", "bit"]))
        if kind == "zeros":
            blocks[at] = bytes(len(blocks[at]))
        elif kind == "other":
            blocks[at] = os.urandom(len(blocks[at]))
        elif kind == "cut":
            blocks[at] = blocks[at][: draw(st.integers(0, max(0, len(blocks[at]) - 1)))]
            del blocks[at + 1 :]
        elif kind == "swap":
            other = draw(st.integers(0, len(blocks) - 1))
            blocks[at], blocks[other] = blocks[other], blocks[at]
        elif blocks[at]:
            place = draw(st.integers(0, len(blocks[at]) - 1))
            changed = bytes([blocks[at][place] ^ (1 << draw(st.integers(0, 7)))])
            blocks[at] = blocks[at][:place] + changed + blocks[at][place + 1 :]
    return b"".join(blocks)


@settings(max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_after_a_power_cut_a_file_is_whole_or_is_not_used(
    tmp_path: Path, data: st.DataObject
) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    file = written(tmp_path)
    whole = file.path.read_bytes()
    left = torn(whole, data.draw)
    file.path.write_bytes(left)
    for found in found_prefixes(tmp_path):
        try:
            saved = read_prefix(found, nothing)
        except DamagedPrefixError:
            continue
        assert left == whole
        assert np.array_equal(saved.state, STATE)
    # One that was found before it was damaged is none, either.
    if left != whole:
        with pytest.raises((DamagedPrefixError, FileNotFoundError)):
            read_prefix(file, nothing)


@example(b"airdraft prefix 1\n\x02\x00\x00\x00[]" + bytes(100))
@example(b"airdraft prefix 1\n\xff\xff\xff\xff")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200).map(lambda rest: b"airdraft prefix 1\n" + rest))
def test_what_is_no_file_of_ours_is_deleted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ab-0.prefix").write_bytes(content)
    assert found_prefixes(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_what_a_power_cut_left_without_a_name_is_deleted_once_nobody_can_be_writing_it(
    tmp_path: Path,
) -> None:
    old, new = tmp_path / ".ab-0.prefix.1234", tmp_path / ".ab-0.prefix.5678"
    for path in (old, new):
        path.write_bytes(b"airdraft")
    os.utime(old, (0, 0))
    assert found_prefixes(tmp_path) == []
    assert list(tmp_path.iterdir()) == [new]


def aged(file: PrefixFile, mtime: float) -> Path:
    os.utime(file.path, (mtime, mtime))
    return file.path


def test_whoever_has_the_most_loses_what_was_used_longest_ago(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    mine = [aged(written(tmp_path / "a", "me", n), 1000.0 + n) for n in (3, 1, 2)]
    # Those of another model count as well.
    yours = aged(written(tmp_path / "b", "you", 7), 1.0)
    size = yours.stat().st_size
    assert make_room(tmp_path, 5 * size, size) == []
    assert make_room(tmp_path, 4 * size, size) == [mine[1]]
    assert make_room(tmp_path, 3 * size, size) == [mine[2]]
    assert sorted(tmp_path.glob("*/*")) == sorted([mine[0], yours])
    assert make_room(tmp_path, size, 0) == [yours]


def test_what_nobody_uses_is_deleted_after_a_while(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    old, new = aged(written(tmp_path / "a"), 0.0), written(tmp_path / "a", first=1).path
    delete_unused(tmp_path, 3600.0)
    assert list(tmp_path.glob("*/*")) == [new]
    assert not old.exists()
