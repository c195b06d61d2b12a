"""Long texts are there again after a restart, and reading them from the disk delays nobody."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

import numpy as np
import pytest

from airdraft.nodes.engine.protocol import SavedPrefix
from airdraft.nodes.engine.toy import ToyConfig, ToyTokenizer
from airdraft.nodes.messages import StreamReadyNotice
from airdraft.nodes.target.residents import PrefixDisk
from airdraft.nodes.target.state import TargetState
from airdraft.nodes.target.stream import Event
from airdraft.nodes.worker import prefix_thread
from airdraft.nodes.worker.prefix_files import PrefixFile
from airdraft.nodes.worker.prefix_thread import PrefixFolder, PrefixThread, open_prefixes
from airdraft.nodes.worker.stream import StreamId
from tests.nodes.builders import make_spec
from tests.nodes.gateway.fake_mesh import Eventually
from tests.nodes.target.script import FLAT, ONE, TWO, RecordingModel, alone, steps, tokens_of

MB = 1_000_000
TEXT = tuple(range(1, 90))


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_thread, "_SOON_S", 0.0)
    monkeypatch.setattr(prefix_thread, "_IDLE_S", 0.3)
    monkeypatch.setattr(prefix_thread, "LEAST_TOKENS", 40)


def place(root: Path, **changes: object) -> PrefixFolder:
    given = {"kind": "class", "most_bytes": MB, "mesh": "key"} | changes
    return PrefixFolder(root, **given)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def running(
    folder: PrefixFolder, loaded: list[SavedPrefix | None] | None = None
) -> AsyncIterator[PrefixThread]:
    took = loaded if loaded is not None else []
    thread = PrefixThread(folder, lambda _file, saved: took.append(saved))
    task = asyncio.create_task(thread.run())
    try:
        yield thread
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def saved(token_ids: Sequence[int], shortest: int = 0) -> SavedPrefix:
    state = np.asarray(token_ids, "<i4").view(np.uint8)
    return SavedPrefix(len(token_ids), state, shortest)


def length_of(thread: PrefixThread, owner: str, token_ids: Sequence[int]) -> int:
    """How much of a text is on the disk."""
    found = thread.longest(owner, list(token_ids))
    return 0 if found is None else found[1]


def unfinished(root: Path) -> list[Path]:
    """Files that have no name yet."""
    return list(root.glob("*/.*"))


def files(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.prefix"))


async def test_a_text_is_found_after_a_restart_by_its_owner_alone(
    tmp_path: Path, eventually: Eventually
) -> None:
    kept, token_ids = saved(TEXT), list(TEXT)
    async with running(place(tmp_path)) as thread:
        thread.keep("me#one", token_ids, kept)
        await eventually(lambda: len(files(tmp_path)) == 1)
    loaded = list[SavedPrefix | None]()
    async with running(place(tmp_path), loaded) as thread:
        found = thread.longest("me#one", [*TEXT[:70], 5])
        assert found is not None
        assert found[1] == 70
        thread.fetch(found[0])
        await eventually(lambda: len(loaded) == 1)
        assert loaded[0] is not None
        assert np.array_equal(loaded[0].state, kept.state)
        assert (loaded[0].length, thread.num_read) == (len(TEXT), 1)
        for other in ("me", "me#two", "you#one"):
            assert thread.longest(other, token_ids) is None
    # Neither for the same name in another mesh, nor for another model.
    for changes in ({"mesh": "another"}, {"kind": "another"}):
        async with running(place(tmp_path, **changes)) as thread:
            assert thread.longest("me#one", token_ids) is None
    # The files tell no name.
    assert "me" not in files(tmp_path)[0].stem


async def test_only_the_last_text_of_a_conversation_is_written_again(
    tmp_path: Path, eventually: Eventually
) -> None:
    turns = [list(TEXT[:length]) for length in (45, 60, 80)]
    async with running(place(tmp_path)) as thread:
        first = saved(turns[0])
        thread.keep("me", turns[0], first)
        await eventually(lambda: len(files(tmp_path)) == 1)
        before = files(tmp_path)
        # More than half of the next turn is there, so it waits, and meanwhile the last one comes.
        second = saved(turns[1])
        thread.keep("me", turns[1], second)
        del second
        third = saved(turns[2])
        thread.keep("me", turns[2], third)
        assert files(tmp_path) == before
        await eventually(lambda: files(tmp_path) not in ([], before))
        # It stands for the first one.
        await eventually(lambda: len(files(tmp_path)) == 1)
        assert length_of(thread, "me", turns[2]) == 80


async def test_a_text_that_cannot_be_cut_does_not_stand_for_its_beginning(
    tmp_path: Path, eventually: Eventually
) -> None:
    short, long = saved(TEXT[:40], 40), saved(TEXT, len(TEXT))
    async with running(place(tmp_path)) as thread:
        thread.keep("me", list(TEXT[:40]), short)
        thread.keep("me", list(TEXT), long)
        await eventually(lambda: length_of(thread, "me", TEXT) == len(TEXT))
        await eventually(lambda: length_of(thread, "me", (*TEXT[:60], 1)) == 40)
        assert len(files(tmp_path)) == 2


async def test_what_is_short_or_of_nobody_who_returns_is_not_written(
    tmp_path: Path, eventually: Eventually
) -> None:
    short, kept = saved(TEXT[:39]), saved(TEXT)
    async with running(place(tmp_path, durable="gateway")) as thread:
        thread.keep("gateway", list(TEXT[:39]), short)
        thread.keep("00ff", list(TEXT), kept)
        thread.keep("gateway/key#user", list(TEXT), kept)
        await eventually(lambda: thread.longest("gateway/key#user", list(TEXT)) is not None)
        await asyncio.sleep(0.1)
        assert len(files(tmp_path)) == 1


async def test_a_full_disk_is_told_once_and_costs_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
) -> None:
    tries = list[int]()

    def full(*_: object) -> None:
        tries.append(1)
        raise OSError(28, "No space left on device")

    kept = [saved(TEXT), saved((7, *TEXT))]
    async with running(place(tmp_path)) as thread:
        with monkeypatch.context() as patch:
            patch.setattr(prefix_thread, "write_prefix", full)
            thread.keep("me", list(TEXT), kept[0])
            thread.keep("me", [7, *TEXT], kept[1])
            await eventually(lambda: len(tries) == 2)
        told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert told == ["texts are not kept on the disk: [Errno 28] No space left on device"]
        thread.keep("me", list(TEXT), kept[0])
        await eventually(lambda: len(files(tmp_path)) == 1)


async def test_a_target_that_ends_leaves_no_half_of_a_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
) -> None:
    monkeypatch.setattr(prefix_thread, "_PAUSE_S", 0.05)
    # Thirty pieces.
    kept = SavedPrefix(len(TEXT), np.zeros(30 << 20, np.uint8))
    async with running(place(tmp_path, most_bytes=100 * MB)) as thread:
        thread.keep("me", list(TEXT), kept)
        await eventually(lambda: unfinished(tmp_path))
        began = time.monotonic()
    assert time.monotonic() - began < 1.0
    assert not files(tmp_path) + unfinished(tmp_path)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_folder_that_cannot_be_used_is_told_and_nothing_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "prefixes"
    root.write_text("no folder")
    assert open_prefixes(place(root), lambda *_: None) is None
    (told,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert told.startswith("texts are not kept on the disk: ")
    assert open_prefixes(None, lambda *_: None) is None


async def test_the_space_for_all_holds(tmp_path: Path, eventually: Eventually) -> None:
    kept = {first: saved((first, *TEXT)) for first in (101, 102, 103)}
    async with running(place(tmp_path, most_bytes=2000)) as thread:
        for number, (first, state) in enumerate(kept.items()):
            thread.keep("me", [first, *TEXT], state)
            await eventually(lambda first=first: thread.longest("me", [first, *TEXT]) is not None)
            assert len(files(tmp_path)) == min(2, 1 + number)
        assert thread.longest("me", [101, *TEXT]) is None
        # One that is too large alone displaces nothing.
        huge = saved(TEXT * 9)
        thread.keep("me", list(TEXT * 9), huge)
        await asyncio.sleep(0.1)
        assert len(files(tmp_path)) == 2


async def test_a_damaged_file_is_deleted_and_its_text_read_anew(
    tmp_path: Path, eventually: Eventually
) -> None:
    kept, loaded = saved(TEXT), list[SavedPrefix | None]()
    async with running(place(tmp_path), loaded) as thread:
        thread.keep("me", list(TEXT), kept)
        await eventually(lambda: thread.longest("me", list(TEXT)) is not None)
        (path,) = files(tmp_path)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        found = thread.longest("me", list(TEXT))
        assert found is not None
        thread.fetch(found[0])
        await eventually(lambda: loaded == [None])
        assert thread.longest("me", list(TEXT)) is None
        assert files(tmp_path) == []


async def test_what_a_key_left_goes_when_it_is_no_longer_authorized(
    tmp_path: Path, eventually: Eventually
) -> None:
    texts = {owner: saved(TEXT) for owner in ("me", "me/api#user", "you#user", "yours")}
    async with running(place(tmp_path, kind="old model")) as thread:
        thread.keep("you", list(TEXT), texts["me"])
        await eventually(lambda: len(files(tmp_path)) == 1)
    async with running(place(tmp_path, mesh="another")) as thread:
        thread.keep("you", list(TEXT), texts["me"])
        await eventually(lambda: len(files(tmp_path)) == 2)
    async with running(place(tmp_path)) as thread:
        for owner, kept in texts.items():
            thread.keep(owner, list(TEXT), kept)
        await eventually(lambda: len(files(tmp_path)) == 6)
        thread.forget_others(("me", "yours"))
        # Those of another mesh stay.
        await eventually(lambda: len(files(tmp_path)) == 4)
        there = ["me", "me/api#user", "yours"]
        await eventually(lambda: [o for o in texts if length_of(thread, o, TEXT)] == there)


# -- a target with a disk --------------------------------------------------------------------------


class FakeDisk(PrefixDisk):
    """Has one text, which comes when the test says so."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self.file = PrefixFile(Path(), "", list(token_ids), len(token_ids), 0, (), 0)
        self.asked = 0

    def longest(self, owner: str, token_ids: Sequence[int]) -> tuple[PrefixFile, int] | None:
        shared = 0
        while self.file.token_ids[shared : shared + 1] == token_ids[shared : shared + 1] != []:
            shared += 1
        return (self.file, shared) if owner == "me" else None

    def fetch(self, file: PrefixFile) -> None:
        self.asked += 1

    def keep(self, owner: str, token_ids: Sequence[int], saved: SavedPrefix) -> None:
        return

    def forget_others(self, keys: Collection[str]) -> None:
        return


def with_disk(token_ids: Sequence[int]) -> tuple[TargetState, RecordingModel, FakeDisk]:
    config, disk = ToyConfig(num_cells=600), FakeDisk(token_ids)
    model = RecordingModel(config)
    tokenizer = ToyTokenizer(config.num_vocab)
    return TargetState(model, tokenizer, MB, costs=FLAT, disk=disk), model, disk


def state_of(token_ids: Sequence[int]) -> SavedPrefix:
    """What a toy saves of a text."""
    state, model, _ = with_disk(())
    state.open(make_spec(1, prompt=(*token_ids, 90), owner="me"))
    steps(state)
    model.truncate(0, len(token_ids))
    return model.save(0)


def read_of(events: Sequence[Event]) -> dict[int, int]:
    """The tokens that each stream had to read."""
    return {e.stream_id: e.num_read for e in events if isinstance(e, StreamReadyNotice)}


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_stream_waits_for_its_text_and_no_other_stream_does(is_damaged: bool) -> None:
    state, _, disk = with_disk(TEXT)
    waiting = make_spec(1, prompt=(*TEXT, 7, 8), owner="me", max_tokens=5, num_leased=5)
    again = make_spec(3, prompt=(*TEXT, 7, 9), owner="me", max_tokens=5, num_leased=5)
    other = make_spec(2, prompt=TEXT, owner="you", max_tokens=5, num_leased=5)
    for spec in (waiting, other, again):
        state.open(spec)
    events = steps(state)
    # The engine has nothing to do, and does not spin.
    assert not state.has_work()
    assert tokens_of(events, TWO) == alone(other).token_ids
    assert (disk.asked, read_of(events)) == (1, {2: len(TEXT) - 1})
    state.fetched(disk.file, None if is_damaged else state_of(TEXT))
    events = steps(state)
    ready = read_of(events)
    # Without the file one stream reads, and the other one copies.
    assert ready[1] + ready[3] == (len(TEXT) + 1 if is_damaged else 1)
    for spec in (waiting, again):
        assert tokens_of(events, StreamId(spec.stream_id)) == alone(spec).token_ids
    assert disk.asked == 1


def test_a_stream_that_ends_while_its_text_comes_leaves_it_to_the_next_one() -> None:
    state, _, disk = with_disk(TEXT)
    state.open(make_spec(1, prompt=(*TEXT, 7), owner="me"))
    steps(state)
    state.close(ONE, 1)
    state.fetched(disk.file, state_of(TEXT))
    state.open(make_spec(2, prompt=(*TEXT, 8), owner="me", num_leased=1))
    assert read_of(steps(state)) == {2: 0}
    assert disk.asked == 1
    state.close(TWO, 1)


def test_what_is_in_memory_is_not_asked_of_the_disk() -> None:
    state, _, disk = with_disk(TEXT)
    state.open(make_spec(1, prompt=(*TEXT[:70], 9), owner="you"))
    state.open(make_spec(2, prompt=TEXT[:20], owner="me"))
    steps(state)
    # Of another owner, and shorter than a piece.
    assert disk.asked == 0
