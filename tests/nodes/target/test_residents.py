"""What streams find in the engine when they get a sequence of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodes.engine.protocol import EngineInfo, Span
from nodes.engine.sampler import Sampler
from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyModel
from nodes.target.residents import Residents
from nodes.target.stream import TargetStream
from nodes.worker.stream import PROMPT_PIECE_TOKENS, StopMatcher
from tests.nodes.builders import make_spec

TEXT = tuple(range(1, 90))
LONG = TEXT * 12
PLENTY = 1_000_000


class Setting:
    """An engine and streams on it, the first one the oldest."""

    def __init__(self, prefix_cache_bytes: int = PLENTY, *, model: ToyModel | None = None) -> None:
        self.model = model or ToyModel(ToyConfig(num_cells=600, max_batch_tokens=300))
        self.residents = Residents(self.model, prefix_cache_bytes)
        self.num_streams = 0

    def enter(self, prompt: tuple[int, ...], owner: str = "me") -> TargetStream:
        self.num_streams += 1
        spec = make_spec(self.num_streams, prompt=prompt, owner=owner)
        stream = TargetStream(
            spec, self.num_streams, 1, list(prompt), StopMatcher(()), Sampler(spec.sampling)
        )
        self.residents.enter(stream)
        return stream

    def read(self, stream: TargetStream, count: int) -> None:
        assert stream.seq_id is not None
        start = self.residents.cached(stream)
        self.model.forward([Span(stream.seq_id, start, stream.token_ids[start : start + count])])

    def read_and_leave(self, prompt: tuple[int, ...], owner: str = "me") -> None:
        stream = self.enter(prompt, owner)
        self.read(stream, len(prompt))
        self.residents.leave(stream)
        assert self.model.free_cells() == 600

    def found(self, prompt: tuple[int, ...], owner: str = "me") -> int:
        """Positions that a new stream need not read."""
        stream = self.enter(prompt, owner)
        assert self.residents.to_read(stream) is stream
        count = self.residents.cached(stream)
        self.residents.leave(stream, num_valid=0)
        return count


def test_what_a_stream_left_is_there_for_the_next_of_its_owner() -> None:
    setting = Setting()
    setting.read_and_leave(TEXT)
    assert setting.found((*TEXT, 7, 8)) == len(TEXT)
    # The last token goes in with the first decode.
    assert setting.found(TEXT) == len(TEXT) - 1
    assert setting.found((*TEXT[:50], 7)) == 50


@pytest.mark.parametrize("is_there", [True, False])
def test_nothing_is_shared_between_owners(is_there: bool) -> None:
    setting = Setting()
    if is_there:
        setting.read(setting.enter(TEXT), len(TEXT))
    else:
        setting.read_and_leave(TEXT)
    assert setting.found((*TEXT, 7), "you") == 0
    assert setting.found((*TEXT, 7), "me") > 0


def test_short_texts_are_not_saved_and_short_beginnings_not_restored() -> None:
    setting = Setting()
    setting.read_and_leave(TEXT[: PROMPT_PIECE_TOKENS - 1])
    assert setting.found(TEXT) == 0
    setting.read_and_leave(TEXT[:PROMPT_PIECE_TOKENS])
    assert setting.found(TEXT) == PROMPT_PIECE_TOKENS
    assert setting.found((*TEXT[: PROMPT_PIECE_TOKENS - 1], 90)) == 0


def test_little_of_much_is_read_rather_than_restored() -> None:
    setting = Setting()
    setting.read_and_leave(LONG)
    # 1,068 positions are restored in the time in which some 67 tokens are read.
    assert setting.found((*LONG[:66], 90)) == 0
    assert setting.found((*LONG[:67], 90)) == 67


def test_only_positions_of_the_text_are_saved() -> None:
    setting = Setting()
    stream = setting.enter(TEXT)
    setting.read(stream, len(TEXT))
    # Two guesses that proved wrong are still in the cache.
    assert stream.seq_id is not None
    setting.model.forward([Span(stream.seq_id, len(TEXT), [7, 7])])
    setting.residents.leave(stream, num_valid=len(TEXT))
    assert setting.found((*TEXT, 7, 7, 7)) == len(TEXT)


def test_without_a_budget_or_over_it_nothing_is_saved() -> None:
    for prefix_cache_bytes in (0, 8 * len(TEXT) - 1):
        setting = Setting(prefix_cache_bytes)
        setting.read_and_leave(TEXT)
        assert setting.found(TEXT) == 0
    setting = Setting(8 * len(TEXT))
    setting.read_and_leave(TEXT)
    assert setting.found(TEXT) == len(TEXT) - 1
    setting.residents.forget_saved()
    assert setting.found(TEXT) == 0


def test_the_better_of_a_living_stream_and_a_saved_one_is_copied() -> None:
    setting = Setting()
    setting.read_and_leave(TEXT)
    living = setting.enter((*TEXT[:40], 7))
    setting.residents.to_read(living)
    assert setting.found((*TEXT, 8)) == len(TEXT)
    ahead = setting.enter((*TEXT, 8, 9))
    setting.residents.to_read(ahead)
    setting.read(ahead, 1)
    assert setting.found((*TEXT, 8, 9, 4)) == len(TEXT) + 1


def test_a_saved_prefix_that_finds_no_cells_is_read_again() -> None:
    setting = Setting()
    setting.read_and_leave(LONG)
    setting.read(setting.enter((5,) * 256, "you"), 256)
    setting.read(setting.enter((6,) * 100, "you"), 100)
    assert setting.model.free_cells() == 600 - 356 < len(LONG)
    assert setting.found(LONG[:100]) == 0


def test_an_earlier_stream_that_will_have_more_is_read_first() -> None:
    setting = Setting()
    residents = setting.residents
    first, second = setting.enter(TEXT), setting.enter((*TEXT[:60], 7, 8))
    third = setting.enter((*TEXT[:60], 7, 9))
    # What the third waits for is what the second will have, who waits for the first.
    assert residents.to_read(third) is first
    assert residents.to_read(first) is first
    setting.read(first, 60)
    assert residents.to_read(third) is second
    assert residents.cached(second) == 60
    setting.read(second, 1)
    assert residents.to_read(third) is third
    assert residents.cached(third) == 61


def test_nobody_waits_for_what_is_saved_already() -> None:
    setting = Setting()
    setting.read_and_leave(TEXT)
    setting.enter((*TEXT, 7))
    assert setting.found((*TEXT, 8)) == len(TEXT)


class Recurrent(ToyModel):
    """Cannot go back within a sequence."""

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, can_roll_back=False)

    def truncate(self, seq_id: int, length: int) -> None:
        assert length in (0, self.length(seq_id)), "cut"
        super().truncate(seq_id, length)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        assert length == self.length(source), "a part"
        super().copy_prefix(source, target, length)

    def restore(self, seq_id: int, saved: object, length: int) -> None:
        assert length == saved.length, "a part"  # type: ignore[attr-defined]
        super().restore(seq_id, saved, length)  # type: ignore[arg-type]


def test_a_model_that_cannot_roll_back_shares_whole_texts_only() -> None:
    setting = Setting(model=Recurrent(ToyConfig(num_cells=600, max_batch_tokens=300)))
    setting.read_and_leave(TEXT)
    assert setting.found((*TEXT, 7)) == len(TEXT)
    assert setting.found((*TEXT[:50], 7), "me") == 0
    other = setting.enter((*LONG, 7), "you")
    setting.read(other, 30)
    assert setting.found((*LONG, 8), "you") == 30
    setting.read(other, 70)
    assert setting.found((*LONG[:80], 8), "you") == 0


def test_room_is_counted_with_growth_and_shortage_with_what_is_unread() -> None:
    setting = Setting()
    residents = setting.residents
    first, second = setting.enter(LONG), setting.enter(LONG, "you")
    # 267 tokens, 8 to come and 16 guesses, twice.
    assert 2 * first.cells == 2 * (267 + 8 + 16)
    third = TargetStream(make_spec(9, prompt=(1,)), 9, 1, [1], StopMatcher(()), Sampler(Sampling()))
    assert not residents.fits(third)
    assert residents.shortage() == 2 * 266 - 600
    setting.read(first, 266)
    first.lease = 300
    assert residents.shortage() == 266 + 1 - 334
    residents.leave(second)
    assert residents.fits(third)
    assert [stream.number for stream in residents.by_age()] == [1]
