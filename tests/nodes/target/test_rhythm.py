"""What is soon read goes along with the next round, where that is soon there."""

from __future__ import annotations

import math

import pytest

from nodes.stream import PROMPT_PIECE_TOKENS, StreamId, StreamSpec
from nodes.target.between import BetweenRounds
from nodes.target.events import Committed, Ready
from nodes.target.rhythm import Rhythm, RoundPace
from nodes.target.state import TargetState
from policies.latency import CostTable
from tests.nodes.builders import make_spec
from tests.nodes.target.script import ONE, RecordingModel, make_state, run

KNOWN = tuple(5 + k % 40 for k in range(150))
BATCH = (1, 2, 3, 4)
# A pass of a few tokens takes as long as one of dozens.
FLAT = CostTable((1, 64), (0.04, 0.041))


def paced(gap_s: float, pass_s: float) -> tuple[RoundPace, float]:
    """A pace after rounds of one batch, and when the last pass ended."""
    pace = RoundPace(FLAT)
    pace.rhythm, ended = circulating(gap_s, pass_s)
    return pace, ended


def circulating(gap_s: float, pass_s: float, num_rounds: int = 50) -> tuple[Rhythm, float]:
    """A rhythm after rounds of one batch, and when the last pass ended."""
    rhythm, now = Rhythm(), 0.0
    for _ in range(num_rounds):
        rhythm.round_came(now, BATCH)
        now += pass_s
        rhythm.round_done(now, pass_s, BATCH, num_tokens=30)
        now += gap_s
    return rhythm, now - gap_s


def test_it_waits_for_a_round_that_comes_before_its_own_pass_would_end() -> None:
    rhythm, ended = circulating(gap_s=0.02, pass_s=0.04)
    assert (rhythm.gap_s, rhythm.pass_s) == (pytest.approx(0.02), pytest.approx(0.04))
    until = rhythm.patient_until(ended + 0.005, BATCH)
    assert until == pytest.approx(ended + 0.03)
    # One that is late is waited for half as long again.
    assert rhythm.patient_until(ended + 0.029, BATCH) == until
    assert rhythm.patient_until(ended + 0.031, BATCH) == ended + 0.031


def test_it_does_not_wait_for_rounds_that_take_longer_than_a_pass() -> None:
    rhythm, ended = circulating(gap_s=0.1, pass_s=0.04)
    assert rhythm.patient_until(ended + 0.01, BATCH) == ended + 0.01
    # But near its end it does: a pass would be in the way.
    assert rhythm.patient_until(ended + 0.08, BATCH) > ended + 0.1


def test_without_rounds_nothing_waits() -> None:
    assert Rhythm().patient_until(5.0, BATCH) == 5.0
    rhythm, ended = circulating(gap_s=0.02, pass_s=0.04)
    # One that has come is under way or about to be.
    rhythm.round_came(ended + 0.02, BATCH)
    assert rhythm.patient_until(ended + 0.021, BATCH) == ended + 0.021
    first = Rhythm()
    first.round_came(1.0, BATCH)
    assert math.isinf(first.gap_s)
    first.round_done(1.04, 0.04, BATCH)
    assert first.patient_until(1.05, BATCH) == 1.05


def unread(state: TargetState) -> int:
    found = state.between_rounds()
    assert found is not None
    return found.num_unread


def serving(num_unread: int) -> TargetState:
    """A target with one stream that waits for guesses and a prompt of so many tokens more."""
    state, _ = make_state()
    state.open(make_spec(ONE, max_tokens=50))
    while state.has_work():
        state.step()
    state.open(make_spec(2, prompt=tuple(5 + k % 40 for k in range(num_unread))))
    return state


def test_only_what_fits_beside_a_round_is_kept() -> None:
    pace, now = paced(gap_s=0.02, pass_s=0.04)
    short = serving(PROMPT_PIECE_TOKENS - 1)
    assert 0 < unread(short) <= PROMPT_PIECE_TOKENS
    assert pace.patience_s(short, now + 0.001) == pytest.approx(0.029)
    assert pace.patience_s(serving(3 * PROMPT_PIECE_TOKENS), now + 0.001) == 0.0


def test_what_can_be_decoded_waits_for_nobody() -> None:
    state = serving(8)
    assert unread(state) > 0
    state.lease(ONE, 1, len(make_spec(ONE).token_ids), 1)
    assert state.between_rounds() is None
    # Nor does a prompt that nobody else is served beside.
    alone, _ = make_state()
    alone.open(make_spec(ONE))
    assert alone.between_rounds() is None


def test_passes_with_rounds_give_the_rhythm() -> None:
    pace, state = RoundPace(FLAT), serving(8)
    state.step()
    assert not state.in_rounds
    pace.passed(state, 1.0, 0.5)
    assert pace.rhythm.pass_s == 0.0
    state.verify(ONE, 1, len(make_spec(ONE).token_ids), (7,))
    state.step()
    assert state.in_rounds
    pace.passed(state, 2.0, 0.5)
    assert pace.rhythm.pass_s == 0.5


def remembering() -> tuple[TargetState, RecordingModel]:
    """A target with one stream that waits for guesses, and with a text of someone who is done."""
    state, model = make_state(prefix_cache_bytes=1 << 20, num_cells=2048)
    state.open(make_spec(ONE, max_tokens=50))
    state.open(make_spec(2, prompt=KNOWN, max_tokens=1, owner="someone"))
    state.lease(StreamId(2), 1, len(KNOWN), 1)
    run(state)
    return state, model


def test_what_is_in_the_cache_or_saved_of_a_prompt_is_not_to_be_read() -> None:
    """A conversation that goes on, most of which the target knows."""
    state, model = remembering()
    num_passes = len(model.passes)
    state.open(make_spec(3, prompt=(*KNOWN, 7, 8, 9), owner="someone"))
    # The last token of all goes in with the first decode.
    assert 0 < unread(state) <= 3
    pace, now = paced(gap_s=0.02, pass_s=0.04)
    assert pace.patience_s(state, now + 0.001) > 0.0
    assert len(model.passes) == num_passes
    # Somebody else's is.
    state.open(make_spec(4, prompt=(*KNOWN, 7, 8, 9), owner="another"))
    assert unread(state) > 150


def test_an_hour_without_anything_to_do_is_soon_forgotten() -> None:
    rhythm, ended = circulating(gap_s=0.02, pass_s=0.04)
    rhythm.round_came(ended + 3600.0, BATCH)
    rhythm.round_done(ended + 3600.04, 0.04, BATCH)
    assert rhythm.patient_until(ended + 3600.05, BATCH) > ended + 3600.06
    # And nobody waits for one that is later than a pass takes.
    far, ended = circulating(gap_s=0.12, pass_s=0.04)
    assert far.patient_until(ended + 0.1, BATCH) == pytest.approx(ended + 0.16)


def test_another_coordinator_has_a_rhythm_of_its_own() -> None:
    state = serving(8)
    pace, now = paced(gap_s=0.02, pass_s=0.04)
    pace.begin_anew()
    assert pace.patience_s(state, now + 0.001) == 0.0


def knowing(num_leased: int) -> tuple[TargetState, StreamSpec]:
    """A target with a stream that waits for guesses, and a text of which it has all."""
    state, _ = remembering()
    again = make_spec(3, prompt=KNOWN, max_tokens=50, owner="someone", num_leased=num_leased)
    state.open(again)
    return state, again


def test_a_text_that_is_known_begins_with_the_next_round() -> None:
    state, again = knowing(num_leased=1)
    assert unread(state) == 0
    pace, now = paced(gap_s=0.02, pass_s=0.04)
    assert pace.patience_s(state, now + 0.001) == pytest.approx(0.029)
    # However often that is asked.
    assert pace.patience_s(state, now + 0.001) == pytest.approx(0.029)
    state.verify(ONE, 1, len(make_spec(ONE).token_ids), (7,))
    events = state.step()
    assert state.in_rounds
    assert events[0] == Ready(again.stream_id, 1, 0, has_begun=True)
    commits = [event for event in events[1:] if isinstance(event, Committed)]
    assert {commit.stream_id for commit in commits} == {ONE, again.stream_id}
    assert not state.has_work()


def test_a_text_that_is_known_is_ready_though_nobody_lets_it_begin() -> None:
    state, again = knowing(num_leased=0)
    assert state.between_rounds() is None
    assert state.has_work()
    assert state.step() == [Ready(again.stream_id, 1, 0, has_begun=False)]
    assert not state.has_work()


def test_batches_that_take_turns_are_told_apart() -> None:
    """The next round is of the batch whose pass has ended first, not of the one just served."""
    rhythm, now = Rhythm(), 0.0
    batches = (1, 2), (3, 4)
    rhythm.round_came(now, batches[0])
    for k in range(1, 60):
        # Each is there six milliseconds before the target has done with the other.
        now += 0.04
        rhythm.round_done(now, 0.04, batches[1 - k % 2], num_tokens=20)
        rhythm.round_came(now - 0.006, batches[k % 2])
    assert rhythm.gap_s == pytest.approx(0.034)
    assert rhythm.interval_s == pytest.approx(0.04)
    now += 0.04
    rhythm.round_done(now, 0.04, batches[1], num_tokens=20)
    # The other's round is late by some milliseconds.
    assert rhythm.patient_until(now + 0.001, BATCH) == pytest.approx(now - 0.04 + 0.051)
    assert rhythm.patient_until(now + 0.001, BATCH, 1, 0.04) > now + 0.001


def test_a_batch_whose_streams_are_in_others_is_not_waited_for() -> None:
    rhythm, _ = circulating(gap_s=0.02, pass_s=0.04)
    rhythm.round_came(100.0, (1, 2))
    rhythm.round_came(100.0, (3, 4))
    rhythm.round_done(100.04, 0.04, BATCH)
    rhythm.round_came(100.06, BATCH)
    assert rhythm.patient_until(100.061, BATCH) == 100.061


def leased(num_streams: int, *, beside_rounds: bool) -> TargetState:
    """A target with one stream that waits for guesses and others that may go on without."""
    state, _ = make_state()
    for number in range(1, num_streams + 2):
        state.open(make_spec(number, max_tokens=50))
    run(state)
    length = len(make_spec(ONE).token_ids)
    for number in range(2, num_streams + 2):
        state.lease(StreamId(number), 1, length, 2, beside_rounds=beside_rounds)
    return state


def test_what_is_leased_beside_rounds_waits_for_one_that_is_soon_there() -> None:
    pace, now = paced(gap_s=0.02, pass_s=0.04)
    state = leased(2, beside_rounds=True)
    assert state.between_rounds() == BetweenRounds(frozenset({ONE}), 0, 2)
    assert pace.patience_s(state, now + 0.001) == pytest.approx(0.029)
    # A pass now would end before the round is there.
    far, ended = paced(gap_s=0.1, pass_s=0.04)
    assert far.patience_s(state, ended + 0.001) == 0.0
    assert pace.patience_s(leased(2, beside_rounds=False), now + 0.001) == 0.0


def test_many_streams_do_not_wait_for_a_few() -> None:
    """Of 30 tokens in 60 ms a round that has to wait for 20 ms loses ten."""
    pace, now = paced(gap_s=0.02, pass_s=0.04)
    for num_streams, waits in ((8, True), (14, False)):
        rhythm = pace.rhythm
        assert (rhythm.patient_until(now, BATCH, num_streams, 0.04) > now) is waits


def test_a_pass_of_their_own_that_is_short_is_run() -> None:
    """On a processor, where a pass takes what its tokens take."""
    pace = RoundPace(CostTable((1, 64), (0.005, 0.3)))
    pace.rhythm, now = circulating(gap_s=0.02, pass_s=0.15)
    assert pace.patience_s(leased(2, beside_rounds=True), now + 0.001) == 0.0
    # Unless many tokens wait for it.
    pace.rhythm.num_tokens = 100.0
    assert pace.patience_s(leased(2, beside_rounds=True), now + 0.018) > 0.0


def test_a_new_lease_says_anew_whether_it_is_one_beside_rounds() -> None:
    state = leased(1, beside_rounds=True)
    state.lease(StreamId(2), 1, len(make_spec(ONE).token_ids), 4)
    assert state.between_rounds() is None


def test_streams_that_may_go_on_are_not_waited_for() -> None:
    """Nor those that have ended: nobody makes guesses for them."""
    rhythm, ended = circulating(gap_s=0.02, pass_s=0.04)
    assert rhythm.patient_until(ended + 0.001, (BATCH[0],)) > ended + 0.001
    assert rhythm.patient_until(ended + 0.001, (77,)) == ended + 0.001
    pace, now = paced(gap_s=0.02, pass_s=0.04)
    state = leased(2, beside_rounds=True)
    state.lease(ONE, 1, len(make_spec(ONE).token_ids), 2, beside_rounds=True)
    assert state.between_rounds() is None
    assert pace.patience_s(state, now + 0.001) == 0.0


def test_gaps_of_many_passes_are_learnt() -> None:
    """Of a fast target whose draft nodes are far away."""
    rhythm, ended = circulating(gap_s=0.055, pass_s=0.005, num_rounds=150)
    assert rhythm.gap_s == pytest.approx(0.055, rel=0.02)
    assert rhythm.interval_s == pytest.approx(0.06, rel=0.02)
    assert rhythm.patient_until(ended + 0.02, BATCH) == ended + 0.02
    assert rhythm.patient_until(ended + 0.053, BATCH) > ended + 0.055


def test_what_a_pass_has_no_room_for_is_in_the_next_one() -> None:
    rhythm, ended = circulating(gap_s=0.02, pass_s=0.04)
    now = ended + 0.02
    for batch in ((1, 2), (3, 4)):
        rhythm.round_came(now, batch)
    rhythm.round_done(now + 0.04, 0.04, (1, 2), num_tokens=5)
    assert rhythm.patient_until(now + 0.041, (3, 4)) == now + 0.041
    assert rhythm.patient_until(now + 0.041, (1, 2)) > now + 0.041
    rhythm.round_done(now + 0.08, 0.04, (3, 4), num_tokens=5)
    assert rhythm.patient_until(now + 0.081, (3, 4)) > now + 0.081


def test_guesses_that_come_too_late_are_no_round() -> None:
    state, _ = make_state()
    state.open(make_spec(ONE, max_tokens=50))
    run(state)
    length = len(make_spec(ONE).token_ids)
    assert not state.verify(ONE, 1, length - 1, (7,))
    assert not state.verify(StreamId(9), 1, length, (7,))
    assert state.verify(ONE, 1, length, (7, 8))
    state.step()
    assert state.in_rounds == {ONE}
    assert 1 <= state.num_committed <= 3
