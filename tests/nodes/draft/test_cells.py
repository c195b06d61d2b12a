"""What texts take of a draft node: cells, and turns to be read."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from nodes.draft.state import ModelDrafter
from nodes.draft.stream import Drafted, Event, Job
from nodes.engine.toy import ToyConfig
from nodes.stream import StreamId
from nodes.target.events import Failed, Ready
from policies.confidence import Calibration, DraftCalibration
from tests.nodes.builders import make_spec
from tests.nodes.draft.script import (
    ONE,
    SAMPLED,
    TWO,
    RecordingModel,
    expected,
    make_drafter,
    run,
)


def test_texts_take_the_cells_that_they_need_soon_not_all_that_they_might() -> None:
    """Answers seldom are as long as they may be: of eight places more than two are used."""
    drafter, _ = make_drafter(num_cells=400, max_sequences=8)
    for number in range(1, 5):
        assert drafter.open(make_spec(number, max_tokens=300)) == []
    # 83 cells each: the prompt, 64 tokens more and guesses.
    reason = "toy-1 is full: 4 streams, 83 cells wanted"
    assert drafter.open(make_spec(5, max_tokens=300)) == [Failed(StreamId(5), 1, reason)]
    run(drafter)
    lengths = dict.fromkeys(range(1, 5), 3)
    failed: list[Event] = []
    round_id = 0
    while not failed:
        round_id += 1
        jobs = [Job(StreamId(k), 1, n, (5,) * 20, 4) for k, n in lengths.items()]
        events = [*drafter.draft(round_id, jobs), *run(drafter)]
        failed = [event for event in events if isinstance(event, Failed)]
        lengths = {k: n + 20 for k, n in lengths.items()}
    # Who came last goes; the others' round is answered.
    full = "toy-1 is full: 3 other streams, no cells left"
    assert failed == [Failed(StreamId(4), 1, full)]
    assert 4 * (lengths[1] - 20 + 3) <= 400 < 4 * (lengths[1] + 3)
    (drafted,) = [event for event in events if isinstance(event, Drafted)]
    assert [len(guess.token_ids) for guess in drafted.guesses] == [4, 4, 4]


def test_a_text_that_can_never_fit_is_refused_for_good_and_pushes_nobody_out() -> None:
    drafter, _ = make_drafter(num_cells=400)
    reason = "toy-1 has 400 cells, this text may need 419"
    too_long = make_spec(1, max_tokens=400)
    assert drafter.open(too_long) == [Failed(ONE, 1, reason, "bad_request")]
    # Of one that is told in pieces all counts that there is.
    drafter.open(make_spec(2, max_tokens=300))
    told = make_spec(3, max_tokens=300, num_known=250)
    (failed,) = drafter.open(told)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.reason) == (
        "unavailable",
        "toy-1 is full: 1 streams, 319 cells wanted",
    )


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_asked_no_pass_is_too_large_and_nobody_is_given_up_without_need(
    seed: int,
) -> None:
    """Texts come and go, some of one owner, in pieces, with rounds of any streams meanwhile."""
    random = Random(seed)
    num_cells = 300
    drafter, model = make_drafter(num_cells=num_cells, max_batch_tokens=24, max_sequences=6)
    texts: dict[int, int] = {}
    num_given_up = number = round_id = 0

    def told(events: Sequence[Event]) -> None:
        nonlocal num_given_up
        for event in events:
            if isinstance(event, Failed):
                texts.pop(event.stream_id, None)
                num_given_up += "no cells left" in event.reason

    for _ in range(400):
        what = random.random()
        if what < 0.08:
            number += 1
            length = random.choice((1, 2, 40, 90))
            prompt = tuple(k % 9 + 1 for k in range(length))
            spec = make_spec(number, prompt=prompt, max_tokens=150, owner=f"{number % 2}")
            texts[number] = length
            told(drafter.open(spec))
        elif what < 0.09 and texts:
            gone = random.choice(sorted(texts))
            drafter.close(StreamId(gone), 1)
            del texts[gone]
        elif what < 0.45 and texts:
            round_id += 1
            jobs = []
            for chosen in random.sample(sorted(texts), random.randint(1, len(texts))):
                new = tuple(random.randint(1, 9) for _ in range(random.choice((0, 1, 4, 20))))
                gamma = random.choice((0, 1, 4, 8))
                jobs.append(Job(StreamId(chosen), 1, texts[chosen], new, gamma))
                texts[chosen] += len(new)
            told(drafter.draft(round_id, jobs, ahead=random.random() < 0.5))
        else:
            streams = drafter._streams.values()
            wanted = sum(len(s.token_ids) + s.gamma for s in streams)
            before = num_given_up
            told(drafter.step())
            assert num_given_up == before or wanted > num_cells
    told(run(drafter))
    assert num_given_up > 0
    for left in list(texts):
        drafter.close(StreamId(left), 1)
    assert (drafter.num_streams, model.free_cells()) == (0, num_cells)


def test_what_was_guessed_ahead_goes_before_any_stream() -> None:
    model = RecordingModel(ToyConfig(num_cells=130))
    sure = Calibration((), (1.0,))
    drafter = ModelDrafter(model, DraftCalibration(sure, sure))
    drafter.open(make_spec(1, prompt=(7,) * 40, max_tokens=40))
    drafter.open(make_spec(2, prompt=(8, 9), max_tokens=12))
    run(drafter)
    drafter.draft(1, [Job(ONE, 1, 40, (5,) * 60, 8)], ahead=True)
    run(drafter)
    # 99 tokens are read, 8 guessed and more of them ahead.
    assert model.free_cells() < 130 - 108
    drafter.draft(2, [Job(TWO, 1, 2, (6,) * 15, 4)])
    (drafted,) = run(drafter)
    assert isinstance(drafted, Drafted)
    assert len(drafted.guesses[0].token_ids) == 4
    assert drafter.num_streams == 2


def test_a_short_text_does_not_wait_for_a_long_one() -> None:
    drafter, _ = make_drafter(max_batch_tokens=8)
    drafter.open(make_spec(1, prompt=(7,) * 400))
    drafter.open(make_spec(2, prompt=(8,) * 9))
    events: list[Event] = []
    for _ in range(3):
        events += drafter.step()
    assert events == [Ready(TWO, 1)]
    # Nor does the long one wait for any number of short ones.
    ready_at = 0
    for number in range(3, 203):
        drafter.open(make_spec(number, prompt=(9,) * 9))
        if Ready(ONE, 1) in drafter.step():
            ready_at = number
            break
        drafter.close(StreamId(number - 1), 1)
    assert 50 <= ready_at <= 110


LONG = tuple(k % 50 + 1 for k in range(100))


@pytest.mark.parametrize(("owner", "num_run"), [("one", 101), ("other", 201)])
def test_what_texts_of_one_owner_have_in_common_is_read_once(owner: str, num_run: int) -> None:
    """As the choices of one request have; nobody else learns from it what others ask."""
    drafter, model = make_drafter(max_batch_tokens=16)
    whole = (*LONG, 7)
    drafter.open(make_spec(1, prompt=whole, owner="one", sampling=SAMPLED))
    drafter.open(make_spec(2, prompt=(*LONG, 8, 9), owner=owner, sampling=SAMPLED))
    assert set(run(drafter)) == {Ready(ONE, 1), Ready(TWO, 1)}
    # The last token of a prompt waits for its first guess.
    assert sum(map(sum, model.sizes)) == num_run
    drafter.draft(1, [Job(ONE, 1, 101, (), 4), Job(TWO, 1, 102, (), 4)])
    (drafted,) = run(drafter)
    assert isinstance(drafted, Drafted)
    texts = [expected(whole)[:4], expected((*LONG, 8, 9))[:4]]
    assert [guess.token_ids for guess in drafted.guesses] == texts


def test_what_is_copied_for_a_round_is_not_run_by_it() -> None:
    """A prompt of one token is ready before anything is read; what follows is another's text."""
    drafter, model = make_drafter()
    drafter.open(make_spec(1, prompt=(7, *LONG), owner="one", sampling=SAMPLED))
    run(drafter)
    assert drafter.open(make_spec(2, prompt=(7,), owner="one", sampling=SAMPLED)) == [Ready(TWO, 1)]
    del model.sizes[:]
    drafter.draft(1, [Job(TWO, 1, 1, LONG, 4)])
    (drafted,) = run(drafter)
    assert isinstance(drafted, Drafted)
    assert drafted.guesses[0].token_ids == expected((7, *LONG))[:4]
    assert model.sizes == [[1], [1], [1], [1]]


def test_a_text_that_another_one_is_the_beginning_of_is_ready_without_a_pass() -> None:
    drafter, model = make_drafter()
    drafter.open(make_spec(1, prompt=(*LONG, 7), owner="one"))
    run(drafter)
    del model.sizes[:]
    drafter.open(make_spec(2, prompt=LONG, owner="one"))
    assert run(drafter) == [Ready(TWO, 1)]
    assert model.sizes == []
    # And goes on when the other one has gone.
    drafter.close(ONE, 1)
    drafter.draft(1, [Job(TWO, 1, 100, (), 2)])
    (drafted,) = run(drafter)
    assert model.sizes == [[1], [1]]
    assert isinstance(drafted, Drafted)


def test_what_does_not_fit_is_refused_with_the_reason() -> None:
    drafter, model = make_drafter(num_cells=60, max_sequences=2)
    drafter.open(make_spec(1))
    assert drafter.open(make_spec(2, max_tokens=15)) == [
        Failed(TWO, 1, "toy-1 is full: 1 streams, 34 cells wanted")
    ]
    outside = Failed(TWO, 1, "token ids outside the vocabulary of toy-1")
    assert drafter.open(make_spec(2, prompt=(96,))) == [outside]
    drafter.open(make_spec(2))
    refused = drafter.open(make_spec(3))
    assert refused == [Failed(StreamId(3), 1, "toy-1 is full: 2 streams, 27 cells wanted")]
    run(drafter)
    drafter.close(ONE, 1)
    drafter.close(TWO, 1)
    assert (drafter.num_streams, model.free_cells()) == (0, 60)
