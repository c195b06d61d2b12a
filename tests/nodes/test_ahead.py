"""Drafting ahead: the next round's guesses while these are verified, and nothing lost by it."""

from __future__ import annotations

from dataclasses import replace

from nodes.draft.ahead import Ahead
from nodes.draft.outlook import Outlook
from nodes.draft.state import ModelDrafter
from nodes.draft.stream import Drafted, Guess, Job
from nodes.engine.toy import ToyConfig
from policies.confidence import Calibration, DraftCalibration
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.draft.test_state import ONE, SAMPLED, TWO, RecordingModel, expected, run


def sure_drafter(rate: float = 0.99) -> tuple[ModelDrafter, RecordingModel]:
    """One whose guesses are known to be accepted at some rate."""
    model = RecordingModel(ToyConfig())
    known = Calibration((), (rate,))
    return ModelDrafter(model, DraftCalibration(known, known)), model


def test_after_a_hit_the_next_guesses_are_there_when_they_are_asked_for() -> None:
    drafter, model = sure_drafter()
    drafter.open(make_spec(sampling=SAMPLED))
    drafter.draft(1, [Job(ONE, 1, 3, (), 3)], ahead=True)
    text = expected()
    assert run(drafter)[-1] == Drafted(1, (Guess(ONE, 1, 3, text[:3]),))
    del model.sizes[:]
    # All three were right, and the target's own token is the one that came after them.
    done = drafter.draft(2, [Job(ONE, 1, 3, text[:4], 3)], ahead=True)
    assert done == [Drafted(2, (Guess(ONE, 1, 7, text[4:7]),), num_ready=3)]
    assert model.sizes == []
    # It goes on from there.
    run(drafter)
    done = drafter.draft(3, [Job(ONE, 1, 7, text[4:8], 5)])
    assert done == []
    assert run(drafter) == [Drafted(3, (Guess(ONE, 1, 11, text[8:13]),), num_ready=3)]
    # Nothing was asked for after that one.
    assert not drafter.has_work()


def test_after_a_miss_it_is_as_if_nothing_had_been_drafted_ahead() -> None:
    drafter, model = sure_drafter()
    drafter.open(make_spec(sampling=SAMPLED))
    drafter.draft(1, [Job(ONE, 1, 3, (), 3)], ahead=True)
    run(drafter)
    del model.sizes[:]
    wrong = (expected()[0], (expected()[1] + 1) % 50)
    drafter.draft(2, [Job(ONE, 1, 3, wrong, 2)])
    (done,) = run(drafter)
    assert isinstance(done, Drafted)
    assert (done.num_ready, done.num_wasted) == (0, 4)
    assert done.guesses[0].token_ids == expected((*PROMPT, *wrong))[:2]
    # The right guess is not run again, what came after it is.
    assert model.sizes == [[1], [1]]
    # Fewer tokens than were guessed prove nothing of what came after them.
    drafter.draft(3, [Job(ONE, 1, 5, expected((*PROMPT, *wrong))[:1], 1)])
    (done,) = run(drafter)
    assert isinstance(done, Drafted)
    assert (done.num_ready, done.num_wasted) == (0, 0)


def test_rounds_and_prompts_go_before_what_may_be_of_no_use() -> None:
    drafter, model = sure_drafter()
    drafter.open(make_spec(1, sampling=SAMPLED))
    drafter.draft(1, [Job(ONE, 1, 3, (), 2)], ahead=True)
    while not drafter.step():
        pass
    drafter.step()
    drafter.open(make_spec(2, prompt=tuple(range(2, 22)), sampling=SAMPLED))
    del model.sizes[:]
    drafter.step()
    assert model.sizes == [[19]]
    drafter.draft(2, [Job(TWO, 1, 20, (), 2)])
    drafter.step()
    assert model.sizes[1:] == [[1]]
    run(drafter)
    assert not drafter.has_work()


def test_what_is_unlikely_to_be_of_use_is_not_drafted_ahead() -> None:
    drafter, _ = sure_drafter(0.5)
    drafter.open(make_spec(sampling=SAMPLED))
    drafter.draft(1, [Job(ONE, 1, 3, (), 2)], ahead=True)
    run(drafter)
    # Two guesses are right with a chance of a quarter.
    drafter.draft(2, [Job(ONE, 1, 3, expected()[:3], 2)])
    (done,) = run(drafter)
    assert isinstance(done, Drafted)
    assert (done.num_ready, done.num_wasted) == (0, 0)


def test_a_round_that_ended_for_want_of_chance_is_not_gone_on_with() -> None:
    ahead, outlook = Ahead(), Outlook()
    outlook.begin(0.6)
    outlook.takes(5, 0.5, Calibration((), (0.5,)))
    ahead.begin(outlook, 4)
    assert not ahead.goes_on
    outlook.begin(0.0)
    ahead.begin(outlook, 4)
    assert ahead.goes_on
    for token_id in range(5):
        ahead.add(token_id, 0.9, 1.0, is_end=False)
    assert not ahead.goes_on
    assert ahead.after([7], (7, 0)) == [(t, 0.9) for t in (1, 2, 3, 4)]
    assert ahead.num_drafted == 0


def test_no_text_is_drafted_ahead_of_its_end() -> None:
    ahead, outlook = Ahead(), Outlook()
    outlook.begin(0.0)
    ahead.begin(outlook, 4)
    ahead.add(0, 0.9, 1.0, is_end=True)
    assert not ahead.goes_on


def test_ready_guesses_end_where_a_round_would_end() -> None:
    drafter, _ = sure_drafter()
    drafter.open(make_spec(sampling=SAMPLED))
    drafter.draft(1, [Job(ONE, 1, 3, (), 3)], ahead=True)
    run(drafter)
    text = expected()
    done = drafter.draft(2, [replace(Job(ONE, 1, 3, text[:4], 3), gamma=2)])
    assert done == [Drafted(2, (Guess(ONE, 1, 7, text[4:6]),), num_ready=2, num_wasted=1)]
