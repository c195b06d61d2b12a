"""A draft node that follows streams: it guesses ahead, goes back, reads in between."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest

from airdraft.nodes.draft.followed import Guesses
from airdraft.nodes.draft.outbox import Outbox
from airdraft.nodes.draft.output_limit import OutputLimit
from airdraft.nodes.draft.state import DraftState, Event
from airdraft.nodes.engine.protocol import Logits, Span
from airdraft.nodes.engine.toy import ToyConfig, ToyModel
from airdraft.nodes.engine.translated import TranslatedModel
from airdraft.nodes.messages import MAX_WINDOW, ChainPart, StreamReadyNotice
from airdraft.nodes.worker.stream import PROMPT_PIECE_TOKENS
from airdraft.policies.acceptance import Calibration, DraftCalibration
from tests.engine.words import Words
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.draft.script import (
    ONE,
    SAMPLED,
    TWO,
    guessed_of,
    make_draft,
    parts_of,
    run,
    text_of,
)
from tests.nodes.recurrent_toy import RecurrentToy


def make(**changes: Any) -> DraftState:
    return make_draft(**changes)[0]


def follow(state: DraftState, **changes: Any) -> list[Event]:
    spec = make_spec(sampling=SAMPLED, max_tokens=200, ignore_eog=True, **changes)
    return [*state.open(spec), *run(state)]


def tokens_in(events: list[Event]) -> tuple[int, ...]:
    return tuple(token for _, token_ids in parts_of(events) for token in token_ids)


def chains_of(events: list[Event]) -> set[int]:
    return {part.chain for part, _ in parts_of(events)}


def test_it_guesses_as_far_ahead_as_a_guess_has_a_chance() -> None:
    events = follow(make())
    guessed = tokens_in(events)
    assert len(guessed) > 4
    assert guessed == text_of()[: len(guessed)]
    starts = [part.start for part, _ in parts_of(events)]
    assert starts == [len(PROMPT) + k for k in range(len(guessed))]
    assert chains_of(events) == {1}


def test_unsure_guesses_end_sooner_and_sure_ones_with_the_window() -> None:
    counts = []
    for chance in (0.4, 0.7, 0.9, 0.999, 1.0):
        calibration = DraftCalibration(*[Calibration((), (chance,))] * 2)
        state = DraftState(ToyModel(ToyConfig()), calibration)
        counts.append(len(tokens_in(follow(state))))
    assert counts[0] < counts[1] < counts[2] < counts[3] == counts[4] <= MAX_WINDOW


def test_what_is_committed_as_guessed_lets_it_go_on_in_the_same_chain() -> None:
    state = make()
    num_ahead = len(tokens_in(follow(state)))
    text = text_of()
    state.committed(ONE, 1, len(PROMPT), text[:4])
    events = run(state)
    assert chains_of(events) == {1}
    guessed = tokens_in(events)
    assert len(guessed) >= 4
    assert guessed == text[num_ahead : num_ahead + len(guessed)]
    # Tokens that are told again change nothing.
    assert state.committed(ONE, 1, len(PROMPT), text[:3]) == []
    assert not state.has_work()


def test_a_recurrent_draft_never_computes_more_than_a_few_dozen_tokens_again() -> None:
    model, text = RecurrentToy(ToyConfig()), text_of()
    state = DraftState(model)
    follow(state)
    for place, token_id in enumerate(text[:150]):
        state.committed(ONE, 1, len(PROMPT) + place, (token_id,))
        run(state)
    model.passes.clear()
    state.committed(ONE, 1, len(PROMPT) + 150, ((text[150] + 1) % 95 + 1,))
    assert guessed_of(run(state))
    assert max(max(sizes) for sizes in model.sizes) < 80


def test_where_it_was_wrong_it_goes_back_and_begins_a_new_chain() -> None:
    state = make()
    follow(state)
    text = text_of()
    other = (text[0], (text[1] + 1) % 95 + 1)
    state.committed(ONE, 1, len(PROMPT), other)
    events = run(state)
    assert chains_of(events) == {2}
    assert parts_of(events)[0][0].start == len(PROMPT) + 2
    assert tokens_in(events)[:5] == text_of((*PROMPT, *other), num_tokens=5)


def test_a_text_in_pieces_is_not_guessed_after_before_all_of_it_is_there() -> None:
    state = make()
    events = follow(state, num_known=len(PROMPT) + 3)
    assert events == []
    text = text_of()
    state.committed(ONE, 1, len(PROMPT), text[:3])
    events = run(state)
    assert any(isinstance(event, StreamReadyNotice) for event in events)
    assert parts_of(events)[0][0].start == len(PROMPT) + 3


def test_long_texts_are_read_in_pieces_beside_the_guesses_of_others() -> None:
    state = make()
    follow(state)
    long = tuple(1 + k % 90 for k in range(200))
    state.open(make_spec(2, prompt=long, sampling=SAMPLED, max_tokens=50, ignore_eog=True))
    text = text_of()
    num_steps = 0
    while not any(isinstance(e, StreamReadyNotice) and e.stream_id == TWO for e in state.step()):
        num_steps += 1
        state.committed(ONE, 1, len(PROMPT) + num_steps - 1, text[num_steps - 1 : num_steps])
    assert num_steps < 199 / PROMPT_PIECE_TOKENS + 2


def test_an_older_following_is_not_known_any_more() -> None:
    state = make()
    follow(state)
    follow(state, generation=4)
    assert state.committed(ONE, 1, len(PROMPT), (1,)) == []
    state.close(ONE, 1)
    assert state.num_streams == 1
    state.close(ONE, 4)
    assert state.num_streams == 0


def guesses(stream_id: int, chain: int, start: int, *token_ids: int) -> Guesses:
    """The chance of each guess is its token id in 255ths, so that none is taken for another."""
    return ChainPart(stream_id, 1, chain, start, bytes(token_ids)), token_ids


def test_a_busy_link_takes_later_guesses_along_but_none_of_a_chain_that_is_over() -> None:
    outbox = Outbox()
    live = {ONE: {1}, TWO: {1, 2, 3}}
    outbox.add([guesses(ONE, 1, 3, 7)], live)
    outbox.add([guesses(ONE, 1, 4, 8, 9), guesses(TWO, 1, 5, 4), guesses(TWO, 2, 5, 6)], live)
    outbox.add([guesses(TWO, 3, 6, 3)], live | {TWO: {2, 3}})
    assert outbox.take() == (
        guesses(ONE, 1, 3, 7, 8, 9),
        guesses(TWO, 2, 5, 6),
        guesses(TWO, 3, 6, 3),
    )
    assert not outbox


def test_more_guesses_than_a_message_holds_go_in_several() -> None:
    outbox = Outbox()
    for start in range(3, 83, 20):
        outbox.add([guesses(ONE, 1, start, *range(start, start + 20))], {ONE: {1}})
    told: list[int] = []
    while outbox:
        (part,) = outbox.take()
        assert part == guesses(ONE, 1, 3 + len(told), *part[1])
        assert len(part[1]) <= MAX_WINDOW
        told += part[1]
    assert told == list(range(3, 83))


def test_a_message_takes_the_longer_the_smaller_the_share_of_the_link_is() -> None:
    outbox = Outbox(rate_bps=1000.0, frame_s=0.5)
    outbox.sent(500, now=10.0)
    assert outbox.free_at == pytest.approx(11.0)
    outbox.allot(250.0)
    outbox.sent(500, now=20.0)
    assert outbox.free_at == pytest.approx(24.0)
    free = Outbox()
    free.sent(10**9, now=5.0)
    assert free.free_at == 0.0


def test_a_rate_that_is_measured_later_does_not_make_a_frame_longer() -> None:
    outbox = Outbox(frame_s=0.0003)
    # Until a rate has been measured, the coordinator names the highest one.
    for rate_bps in (2**31 - 1, 1e6):
        outbox.allot(rate_bps)
    outbox.sent(1000, now=10.0)
    assert outbox.free_at == pytest.approx(10.0013)


# -- how much of its vocabulary a draft node guesses from ------------------------------------------


NUM_VOCAB = 160_000


def limits_of(token_ids: list[int]) -> list[int]:
    """What is set, token by token; the whole vocabulary at first."""
    limits = [NUM_VOCAB]
    limit = OutputLimit(NUM_VOCAB, limits.append)
    for token_id in token_ids:
        limit.committed((token_id,))
    return limits


@pytest.mark.parametrize("highest", [20_000, 70_000])
def test_what_hardly_occurs_is_left_out(highest: int) -> None:
    random = Random(1)
    limits = limits_of([random.randrange(highest) for _ in range(3000)])
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] == highest


@pytest.mark.parametrize(
    ("token_ids", "limit"),
    [
        # One token of a hundred may be missed, but not one of twenty.
        (([5] * 99 + [159_000]) * 50, 10_000),
        (([5] * 19 + [159_000]) * 250, NUM_VOCAB),
        # A few tokens decide little, and the first hundred leave out no more than half.
        ([5] * 10, 150_000),
        ([5] * 100, 80_000),
        # A text of another language has its tokens after some fifty.
        ([5] * 3000, 10_000),
        ([5] * 3000 + [110_000] * 50, 120_000),
    ],
)
def test_what_is_needed_now_and_then_is_kept(token_ids: list[int], limit: int) -> None:
    assert limits_of(token_ids)[-1] == limit


def test_it_learns_from_committed_tokens_whether_they_were_guessed_or_not() -> None:
    limits = list[int]()
    num_vocab = ToyConfig().num_vocab
    state = DraftState(ToyModel(ToyConfig()), limit=OutputLimit(num_vocab, limits.append))
    state.open(make_spec())
    state.committed(ONE, 1, len(PROMPT), (3,) * 200)
    assert 3 < limits[-1] < num_vocab


# -- a draft of another vocabulary than its target's -----------------------------------------------


# Both end with a token that neither text has.
OWN = Words([b"", b" the", b" cat", b" sat", b".", b"\n", b"\n\n", b" on", b" mat", b"s"])
TARGET = Words([b"", b" the", b" cats", b" sat", b".\n", b"\n", b" on", b" mat", b".", b" cat"])
TEXT = b" the cats sat on the mat.\n\n the cat sat." * 3


class Reciter(ToyModel):
    """Says a text, whatever it is asked, and sees to it that it is asked with that text."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        super().__init__(ToyConfig(num_vocab=OWN.num_vocab))
        self._text = token_ids

    def forward(self, spans: Sequence[Span]) -> Logits:
        logits = super().forward(spans).copy()
        row = 0
        for span in spans:
            end = span.start + len(span.token_ids)
            assert list(span.token_ids) == self._text[span.start : end]
            if span.num_outputs:
                logits[row] = np.where(np.arange(OWN.num_vocab) == self._text[end], 20.0, 0.0)
                row += 1
        return logits


@pytest.mark.parametrize("num_prompt_tokens", [1, 3, 7])
def test_a_text_that_the_model_knows_is_guessed_in_the_targets_tokens(
    num_prompt_tokens: int,
) -> None:
    """Where the target has one token for two, or two for one, and a guess goes on from each."""
    wanted = tuple(TARGET.inner_tokens(TEXT.decode()))
    own = [
        own_id for piece in map(TARGET.piece, wanted) for own_id in OWN.inner_tokens(piece.decode())
    ]
    state = DraftState(
        TranslatedModel(Reciter(own), OWN, TARGET, "target's"),
        DraftCalibration(*[Calibration((), (0.95,))] * 2),
    )
    prompt = wanted[:num_prompt_tokens]
    guessed = guessed_of([*state.open(make_spec(prompt=prompt, max_tokens=100)), *run(state)])
    assert len(guessed) >= 10
    assert guessed == wanted[num_prompt_tokens:][: len(guessed)]
    # What comes is read as the text that it is, and the next guesses follow it.
    state.committed(ONE, 1, len(prompt), guessed[:4])
    more = guessed_of(run(state))
    start = num_prompt_tokens + len(guessed)
    assert more
    assert more == wanted[start : start + len(more)]
