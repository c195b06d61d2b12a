"""A part of a prompt that the same owner has in the engine or saved is not read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.engine.protocol import SavedPrefix, common_prefix
from airdraft.nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from airdraft.nodes.messages import StreamReadyNotice
from airdraft.nodes.target.residents import PrefixStore
from airdraft.nodes.target.state import TargetState
from airdraft.nodes.worker.stream import PROMPT_PIECE_TOKENS as PIECE
from airdraft.nodes.worker.stream import StreamId
from tests.nodes.builders import make_spec
from tests.nodes.target.script import (
    FLAT,
    ONE,
    TWO,
    alone,
    make_state,
    run,
    steps,
    text_of,
    tokens_of,
    verify,
)

TEXT = tuple(range(1, 90))
LONG = TEXT * 6
PLENTY = 1_000_000


def read(state: TargetState, stream_id: int, prompt: Sequence[int], owner: str = "me") -> int:
    """Open a stream; returns how many tokens of its prompt are read."""
    events = state.open(make_spec(stream_id, prompt=tuple(prompt), owner=owner)) + steps(state)
    (ready,) = [e for e in events if isinstance(e, StreamReadyNotice) and e.stream_id == stream_id]
    return ready.num_read


def left(state: TargetState, prompt: Sequence[int]) -> None:
    """A stream that has ended; of its prompt all but the last token was read."""
    read(state, 1, (*prompt, 90))
    state.close(ONE, 1)


@pytest.mark.parametrize(
    ("saved", "wanted", "owner", "num_read"),
    [
        (TEXT, (*TEXT, 7, 8), "me", 1),
        # The last token goes in with the first decode.
        (TEXT, TEXT, "me", 0),
        (TEXT, (*TEXT[:50], 7, 8), "me", 1),
        (TEXT, (*TEXT, 7), "you", 89),
        # Short texts are not saved, and short beginnings not restored.
        (TEXT[: PIECE - 1], TEXT, "me", 88),
        (TEXT[:PIECE], TEXT, "me", 88 - PIECE),
        (TEXT[:PIECE], (*TEXT[: PIECE - 1], 90, 91), "me", PIECE),
        # 534 positions are restored in the time in which some 34 tokens are read.
        (LONG, (*LONG[:33], 90, 91), "me", 34),
        (LONG, (*LONG[:34], 90, 91), "me", 1),
    ],
)
def test_what_a_stream_left_is_there_for_the_next_of_its_owner(
    saved: tuple[int, ...], wanted: tuple[int, ...], owner: str, num_read: int
) -> None:
    state, model = make_state(PLENTY, num_cells=600)
    left(state, saved)
    assert model.free_cells() == 600
    assert read(state, 2, wanted, owner) == num_read


@pytest.mark.parametrize(("owner", "num_read"), [("me", 1), ("you", 89)])
def test_what_a_living_stream_has_is_there_for_others_of_its_owner(
    owner: str, num_read: int
) -> None:
    state, _ = make_state(num_cells=600)
    read(state, 1, (*TEXT, 90))
    assert read(state, 2, (*TEXT[:88], 7, 8), owner) == num_read


def test_a_new_coordinator_finds_nothing_saved() -> None:
    state, _ = make_state(PLENTY)
    left(state, TEXT)
    state.forget_all()
    assert read(state, 2, TEXT) == 88


def test_the_better_of_a_living_stream_and_a_saved_one_is_copied() -> None:
    state, _ = make_state(PLENTY)
    left(state, TEXT)
    assert read(state, 2, (*TEXT[:40], 7, 8)) == 1
    assert read(state, 3, (*TEXT, 8, 9)) == 1
    assert read(state, 4, (*TEXT, 8, 4, 5)) == 1


def test_a_saved_prefix_that_finds_no_cells_is_read_again() -> None:
    state, model = make_state(PLENTY, num_cells=600)
    left(state, LONG)
    read(state, 2, (5,) * 350, "you")
    assert model.free_cells() < len(LONG)
    assert read(state, 3, LONG[:100]) == 99


def test_what_several_prompts_have_in_common_is_read_once() -> None:
    """What the third one waits for is what the second will have, who waits for the first."""
    state, model = make_state()
    prompts = TEXT, (*TEXT[:60], 7, 8, 9), (*TEXT[:60], 7, 8, 10)
    for number, prompt in enumerate(prompts, start=1):
        state.open(make_spec(number, prompt=prompt, owner="me"))
    read = {e.stream_id: e.num_read for e in steps(state) if isinstance(e, StreamReadyNotice)}
    assert read == {1: 88, 2: 2, 3: 0}
    assert model.num_read() == 90


def test_the_next_turn_of_a_conversation_is_not_read_from_its_beginning() -> None:
    state, _ = make_state(100_000)
    first = make_spec(1, prompt=TEXT, owner="me", max_tokens=20, num_leased=20)
    state.open(first)
    said = tokens_of(run(state))
    assert said == alone(first).token_ids
    # Prompt and answer, but for the last token, are known; wrong guesses leave nothing behind.
    second = (*TEXT, *said, 4, 5, 6)
    for stream_id, owner, num_read in ((2, "me", 3), (3, "you", len(second) - 1)):
        assert read(state, stream_id, second, owner) == num_read
        verify(state, StreamId(stream_id), 1, len(second), (1, 2, 3))
        run(state)
        state.close(StreamId(stream_id), 1)


def test_guesses_that_were_rejected_at_the_end_are_not_saved() -> None:
    whole = alone(make_spec(prompt=TEXT, max_tokens=20)).token_ids
    stop = text_of(whole[4:6]).decode()
    state, _ = make_state(100_000)
    state.open(make_spec(prompt=TEXT, owner="me", max_tokens=20, stops=(stop,)))
    run(state)
    verify(state, ONE, 1, len(TEXT), (*whole[:5], 1 + whole[5] % 90, 7))
    (commit,) = run(state)
    assert (commit.token_ids, commit.entry.finish_reason) == (whole[:6], "stop")
    prompt = (*TEXT, *whole[:6], 4)
    second = make_spec(2, prompt=prompt, owner="me", max_tokens=20, num_leased=20)
    state.open(second)
    assert tokens_of(run(state), TWO) == alone(second).token_ids


def test_a_text_that_the_store_cannot_keep_is_not_saved_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Saving a long text of a large model takes a second and a gigabyte."""
    state, model = make_state(8 * 60)
    lengths, save = list[int](), model.save

    def counted(seq_id: int) -> SavedPrefix:
        lengths.append(model.length(seq_id))
        return save(seq_id)

    monkeypatch.setattr(model, "save", counted)
    for first in (1, 2, 3):
        left(state, (first, *TEXT))
    assert lengths == [1 + len(TEXT)]
    # A shorter one is kept as ever.
    left(state, TEXT[:50])
    assert read(state, 2, (*TEXT[:50], 7, 8), "me") == 1


class Recurrent(ToyModel):
    """Cannot go back within a sequence."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.info = replace(self.info, can_cut=False, can_take_back=False)

    def shortest(self, seq_id: int) -> int:
        return self.length(seq_id)

    def save(self, seq_id: int) -> SavedPrefix:
        return replace(super().save(seq_id), shortest=self.length(seq_id))

    def truncate(self, seq_id: int, length: int) -> None:
        assert length in (0, self.length(seq_id)), "cut"
        super().truncate(seq_id, length)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        assert length == self.length(source), "a part"
        super().copy_prefix(source, target, length)

    def restore(self, seq_id: int, saved: SavedPrefix, length: int) -> None:
        assert length == saved.length, "a part"
        super().restore(seq_id, saved, length)


def test_a_model_that_cannot_roll_back_shares_whole_texts_only() -> None:
    model = Recurrent(ToyConfig(num_cells=600, max_batch_tokens=300))
    state = TargetState(model, ToyTokenizer(96), PLENTY, costs=FLAT)
    left(state, TEXT)
    assert read(state, 2, (*TEXT, 7, 8)) == 1
    state.close(TWO, 1)
    assert read(state, 2, (*TEXT[:50], 7, 8)) == 51
    # Another turn of the same conversation: what the turn before left is there still.
    assert read(state, 6, (*TEXT, 8, 9)) == 1
    assert read(state, 3, (*LONG[:PIECE], 7), "you") == PIECE
    assert read(state, 4, (*LONG[:PIECE], 8, 9), "you") == 1
    assert read(state, 5, (*LONG[:20], 8), "you") == 20


class Windowed(ToyModel):
    """Saves the last window of 60 positions only; a compaction has cut the second sequence so."""

    def shortest(self, seq_id: int) -> int:
        return self.length(seq_id) if seq_id == 1 else 0

    def save(self, seq_id: int) -> SavedPrefix:
        length = self.length(seq_id)
        return replace(super().save(seq_id), shortest=length if length > 60 else 0)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        assert length >= self.shortest(source), "too short"
        super().copy_prefix(source, target, length)

    def restore(self, seq_id: int, saved: SavedPrefix, length: int) -> None:
        assert length >= saved.shortest, "too short"
        super().restore(seq_id, saved, length)


def test_a_model_with_a_window_shares_no_beginning_that_it_has_not_whole() -> None:
    model = Windowed(ToyConfig(num_cells=600, max_batch_tokens=300))
    state = TargetState(model, ToyTokenizer(96), PLENTY, costs=FLAT)
    left(state, TEXT)
    assert read(state, 2, (*TEXT[:50], 7, 8)) == 51
    state.close(TWO, 1)
    # Of the saved texts, 51 positions are whole, and 89 are good for their continuation.
    assert read(state, 3, (*TEXT[:40], 7, 8)) == 1
    assert read(state, 4, (*TEXT, 8, 9)) == 1
    # Stream 4 is in the second sequence, so 50 saved positions are best.
    assert read(state, 5, (*TEXT[:70], 7, 8)) == 1 + 70 - 50
    # Stream 6 is in the fourth one.
    assert read(state, 6, (*LONG[1:90], 7), "you") == 89
    assert read(state, 7, (*LONG[1:70], 8, 9), "you") == 1


def test_what_other_keys_have_left_can_be_forgotten() -> None:
    state, _ = make_state(PLENTY)
    left(state, TEXT)
    state.forget_others(("me",))
    assert read(state, 2, TEXT) == 0
    state.close(TWO, 1)
    state.forget_others(("you", "me2"))
    assert read(state, 3, TEXT) == 88


# -- the store of prefixes -------------------------------------------------------------------------


def saved(length: int, shortest: int = 0) -> SavedPrefix:
    """A byte a position."""
    return SavedPrefix(length, np.zeros(length, dtype=np.uint8), shortest)


def put(store: PrefixStore, owner: str, *token_ids: int, shortest: int = 0) -> SavedPrefix:
    prefix = saved(len(token_ids), shortest)
    store.put(owner, token_ids, prefix)
    return prefix


def test_the_shortest_entry_with_the_longest_prefix_is_found_and_none_of_another_owner() -> None:
    store = PrefixStore(100)
    long = put(store, "me", 1, 2, 3, 4, 5, 6)
    short = put(store, "me", 1, 2, 3, 4, 7)
    assert store.use_longest("me", (1, 2, 3, 4, 8)) == (short, 4)
    assert store.use_longest("me", (1, 2, 3, 4, 5, 8)) == (long, 5)
    # Nor does a longer text of one replace the text of another.
    put(store, "you", 1, 2, 3, 4, 5, 6, 7)
    assert store.use_longest("me", (1, 2, 3, 4, 5, 6, 7)) == (long, 6)
    assert not store.use_holder("you", (1, 2, 3, 4, 7))


def test_an_entry_goes_when_a_longer_one_has_all_of_it() -> None:
    store = PrefixStore(100)
    put(store, "me", 1, 2)
    put(store, "me", 1, 3)
    put(store, "me", 1, 2, 3)
    assert (len(store), store.num_bytes) == (2, 5)
    again = put(store, "me", 1, 3)
    assert (len(store), store.num_bytes) == (2, 5)
    assert store.use_longest("me", (1, 3)) == (again, 2)
    assert store.use_holder("me", (1, 2))
    assert store.use_holder("me", (1, 2, 3))
    assert not store.use_holder("me", (1, 2, 3, 4))


def test_where_entries_cannot_be_cut_none_stands_for_its_beginning() -> None:
    store = PrefixStore(100)
    long = put(store, "me", 1, 2, 3, 4, shortest=4)
    assert not store.use_holder("me", (1, 2))
    short = put(store, "me", 1, 2, shortest=2)
    assert store.use_longest("me", (1, 2, 3, 5)) == (short, 2)
    assert store.use_longest("me", (1, 2, 3, 4, 5)) == (long, 4)
    again = put(store, "me", 1, 2, 3, 4, shortest=4)
    assert (len(store), store.num_bytes) == (2, 6)
    assert store.use_holder("me", (1, 2))
    assert store.use_longest("me", (1, 2, 3, 4)) == (again, 4)


def test_the_least_recently_used_goes_when_the_budget_is_spent() -> None:
    store = PrefixStore(9)
    for first in (1, 2, 3):
        put(store, "me", first, 0, 0)
    assert store.use_longest("me", (1, 5)) is not None
    assert store.use_holder("me", (2, 0))
    put(store, "you", 4, 0, 0)
    found = [store.use_longest("me", (first,)) is not None for first in (1, 2, 3)]
    assert found == [True, True, False]
    put(store, "you", 5, 0, 0, 0)
    assert (len(store), store.num_bytes) == (2, 7)
    assert store.use_longest("me", (2, 0)) is not None


def test_what_is_over_the_budget_alone_is_not_kept_and_displaces_nothing() -> None:
    store = PrefixStore(4)
    put(store, "me", 1, 2)
    store.put("me", (1, 2, 3, 4, 5), saved(5))
    assert len(store) == 1
    assert store.use_longest("me", (1, 2, 3)) is not None
    store.clear()
    assert (len(store), store.num_bytes) == (0, 0)
    assert not PrefixStore(0).may_keep(1)


texts = st.lists(st.integers(0, 2), max_size=6).map(tuple)


@given(
    puts=st.lists(st.tuples(st.sampled_from("ab"), texts.filter(bool)), max_size=20),
    wanted=texts,
    max_bytes=st.sampled_from([20, 1000]),
)
def test_the_budget_holds_and_the_longest_is_what_a_search_by_hand_finds(
    puts: list[tuple[str, tuple[int, ...]]], wanted: tuple[int, ...], max_bytes: int
) -> None:
    store = PrefixStore(max_bytes)
    for owner, token_ids in puts:
        store.put(owner, token_ids, saved(len(token_ids)))
        assert store.num_bytes <= max_bytes
    for owner in "ab":
        lengths = [by_hand(token_ids, wanted) for of, token_ids in puts if of == owner]
        found = store.use_longest(owner, wanted)
        length = found[1] if found else 0
        # With a small budget some are gone.
        assert length == max(lengths, default=0) or (max_bytes == 20 and length in (0, *lengths))


def by_hand(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


@given(texts, texts)
def test_common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert common_prefix(a, b) == by_hand(a, b)


@pytest.mark.parametrize("sequence", [list, tuple])
def test_common_prefix_of_long_texts(sequence: type) -> None:
    text = sequence(range(5000))
    assert common_prefix(text, text[:4000]) == 4000
    assert common_prefix(text[:1] + text[2:], text) == 1
