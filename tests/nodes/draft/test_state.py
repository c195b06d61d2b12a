from __future__ import annotations

import pytest

from nodes.draft.state import ModelDrafter
from nodes.draft.stream import Drafted, Guess, Job
from nodes.engine.toy import TOY_EOG, ToyConfig, ToyModel
from nodes.target.events import Failed, Ready
from policies.confidence import Calibration, DraftCalibration
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.draft.script import (
    ONE,
    SAMPLED,
    TWO,
    RecordingModel,
    expected,
    make_drafter,
    run,
)


def test_guesses_come_of_the_same_noise_as_the_targets_tokens() -> None:
    drafter, model = make_drafter()
    assert drafter.open(make_spec(sampling=SAMPLED)) == []
    assert run(drafter) == [Ready(ONE, 1)]
    assert drafter.draft(7, [Job(ONE, 1, 3, (), 4)]) == []
    assert run(drafter) == [Drafted(7, (Guess(ONE, 1, 3, expected()[:4]),))]
    assert model.sizes == [[2], [1], [1], [1], [1]]


def test_all_streams_of_a_round_are_guessed_in_the_same_passes() -> None:
    drafter, model = make_drafter()
    drafter.open(make_spec(1, sampling=SAMPLED))
    drafter.open(make_spec(2, prompt=(8, 9), sampling=SAMPLED))
    run(drafter)
    del model.sizes[:]
    drafter.draft(1, [Job(ONE, 1, 3, (), 2), Job(TWO, 1, 2, (), 4)])
    guesses = (Guess(ONE, 1, 3, expected()[:2]), Guess(TWO, 1, 2, expected((8, 9))[:4]))
    assert run(drafter) == [Drafted(1, guesses)]
    assert model.sizes == [[1, 1], [1, 1], [1], [1]]


def test_guesses_that_proved_right_are_not_run_again() -> None:
    drafter, model = make_drafter()
    drafter.open(make_spec(sampling=SAMPLED))
    drafter.draft(1, [Job(ONE, 1, 3, (), 4)])
    run(drafter)
    del model.sizes[:]
    # Two of the four guesses were right, then came the target's own token.
    right = expected()[:2]
    other = 1 + expected()[2] % 90
    drafter.draft(2, [Job(ONE, 1, 3, (*right, other), 3)])
    prefix = (*PROMPT, *right, other)
    guessed = expected(prefix)[:3]
    assert run(drafter) == [Drafted(2, (Guess(ONE, 1, 6, guessed),))]
    # Only the token that replaced the wrong guess had to be caught up with.
    assert model.sizes == [[1], [1], [1]]


def test_a_round_of_gamma_0_is_answered_once_the_stream_has_caught_up() -> None:
    drafter, _ = make_drafter()
    drafter.open(make_spec())
    assert drafter.draft(1, [Job(ONE, 1, 3, (9,), 0)]) == []
    answer = Drafted(1, (Guess(ONE, 1, 4, ()),))
    assert drafter.step() == [Ready(ONE, 1), answer]
    # Nothing is left to read: the last token waits for a guess to be asked for.
    assert drafter.draft(2, [Job(ONE, 1, 4, (), 0)]) == [Drafted(2, (Guess(ONE, 1, 4, ()),))]


def test_guessing_ends_at_an_end_of_text() -> None:
    drafter, _ = make_drafter(eog_rate=1.0)
    drafter.open(make_spec())
    drafter.draft(1, [Job(ONE, 1, 3, (), 8)])
    assert run(drafter)[-1] == Drafted(1, (Guess(ONE, 1, 3, (TOY_EOG,)),))


def test_an_answer_says_when_it_was_asked_for() -> None:
    drafter, _ = make_drafter()
    drafter.open(make_spec())
    drafter.draft(1, [Job(ONE, 1, 3, (), 1)], asked_at=7.5)
    answers = [event for event in run(drafter) if isinstance(event, Drafted)]
    assert [(answer.round, answer.asked_at) for answer in answers] == [(1, 7.5)]


def test_unknown_streams_and_generations_are_counted_and_left_out_of_the_answer() -> None:
    drafter, _ = make_drafter()
    drafter.open(make_spec(generation=2))
    assert drafter.open(make_spec(generation=2)) == []
    events = drafter.draft(5, [Job(ONE, 1, 3, (), 4), Job(TWO, 1, 3, (), 4)])
    assert events == [Drafted(5, ())]
    assert drafter.num_stale == 3
    drafter.close(ONE, 1)
    assert drafter.num_streams == 1
    assert drafter.open(make_spec(prompt=(4,), generation=3)) == [Ready(ONE, 3)]
    assert drafter.num_streams == 1


def test_a_stream_out_of_step_is_given_up_with_the_reason() -> None:
    drafter, _ = make_drafter()
    drafter.open(make_spec())
    reason = "out of step: at 3 tokens, not 5"
    assert drafter.draft(1, [Job(ONE, 1, 5, (), 4)]) == [Failed(ONE, 1, reason), Drafted(1, ())]
    assert drafter.num_streams == 0


def test_a_newer_round_takes_a_stream_out_of_an_abandoned_one() -> None:
    drafter, _ = make_drafter()
    drafter.open(make_spec(1))
    drafter.open(make_spec(2))
    run(drafter)
    drafter.draft(1, [Job(ONE, 1, 3, (), 4), Job(TWO, 1, 3, (), 2)])
    drafter.step()
    drafter.draft(2, [Job(ONE, 1, 3, (9,), 1)])
    events = run(drafter)
    rounds = {e.round: [g.stream_id for g in e.guesses] for e in events if isinstance(e, Drafted)}
    assert rounds == {1: [TWO], 2: [ONE]}


def test_a_stream_closed_in_mid_round_leaves_the_others_their_round() -> None:
    drafter, _ = make_drafter()
    drafter.open(make_spec(1))
    drafter.open(make_spec(2))
    run(drafter)
    drafter.draft(1, [Job(ONE, 1, 3, (), 4), Job(TWO, 1, 3, (), 4)])
    drafter.step()
    drafter.close(ONE, 1)
    (drafted,) = run(drafter)
    assert isinstance(drafted, Drafted)
    assert [g.stream_id for g in drafted.guesses] == [TWO]
    drafter.draft(2, [Job(TWO, 1, 3, (), 4)])
    drafter.close(TWO, 1)
    assert run(drafter) == [Drafted(2, ())]


def test_a_long_prompt_stalls_a_round_only_a_little() -> None:
    drafter, model = make_drafter()
    drafter.open(make_spec(1))
    run(drafter)
    drafter.open(make_spec(2, prompt=tuple(range(1, 91))))
    drafter.draft(1, [Job(ONE, 1, 3, (), 4)])
    del model.sizes[:]
    run(drafter)
    assert model.sizes == [[1, 16], [1, 16], [1, 16], [1, 16], [25]]


def test_a_prompt_longer_than_a_pass_is_caught_up_with_in_pieces() -> None:
    drafter, model = make_drafter(max_batch_tokens=16)
    prompt = tuple(range(1, 41))
    drafter.open(make_spec(prompt=prompt, sampling=SAMPLED))
    drafter.draft(1, [Job(ONE, 1, 40, (), 2)])
    drafted = Drafted(1, (Guess(ONE, 1, 40, expected(prompt)[:2]),))
    assert run(drafter) == [Ready(ONE, 1), drafted]
    assert model.sizes == [[16], [16], [8], [1]]


def test_nothing_is_left_after_forget_all() -> None:
    drafter, model = make_drafter()
    drafter.open(make_spec())
    drafter.draft(1, [Job(ONE, 1, 3, (), 4)])
    drafter.step()
    drafter.forget_all()
    assert not drafter.has_work()
    assert (drafter.num_streams, model.free_cells()) == (0, 4096)


def always(chance: float) -> DraftCalibration:
    """Whatever the draft says of its guesses, they are accepted with this chance."""
    same = Calibration((), (chance,), trust=1e9)
    return DraftCalibration(same, same)


@pytest.mark.parametrize(
    ("stop", "num_guesses"), [(0.0, 6), (0.13, 2), (0.25, 2), (0.5, 1), (0.51, 0), (1.0, 0)]
)
def test_guesses_end_before_the_first_that_is_not_likely_enough(
    stop: float, num_guesses: int
) -> None:
    """Half of the guesses are accepted: a quarter of the second ones, an eighth of the third."""
    model = RecordingModel(ToyConfig())
    drafter = ModelDrafter(model, always(0.5))
    drafter.open(make_spec(sampling=SAMPLED))
    run(drafter)
    del model.sizes[:]
    drafter.draft(1, [Job(ONE, 1, 3, (), 6, stop)])
    guesses = Guess(ONE, 1, 3, expected()[:num_guesses])
    assert run(drafter) == [Drafted(1, (guesses,))]
    # The guess that is kept back has cost a step all the same.
    assert len(model.sizes) == min(6, num_guesses + 1)
    # The next round begins anew, with what the target said instead.
    drafter.draft(2, [Job(ONE, 1, 3, (expected()[0],), 2)])
    assert run(drafter) == [Drafted(2, (Guess(ONE, 1, 4, expected()[1:3]),))]


def test_what_is_committed_teaches_how_far_guesses_can_be_trusted() -> None:
    calibration = DraftCalibration(always(0.5).greedy, Calibration((), (0.5,), trust=2.0))
    drafter = ModelDrafter(ToyModel(ToyConfig()), calibration)
    drafter.open(make_spec(sampling=SAMPLED))
    drafter.draft(1, [Job(ONE, 1, 3, (), 4, 0.2)])
    run(drafter)
    # One of the two guesses made was right; the third, kept back, is not judged after a wrong one.
    drafter.draft(2, [Job(ONE, 1, 3, (expected()[0], 1 + expected()[1] % 90), 0)])
    assert calibration.sampled.chance(0.7) == pytest.approx((2.0 * 0.5 + 0.998) / (2.0 + 1.998))
    assert calibration.greedy.chance(0.7) == 0.5
