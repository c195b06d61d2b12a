"""What texts take of a draft node: cells, and turns to be read."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from airdraft.nodes.draft.state import Event
from airdraft.nodes.messages import StreamFailedNotice, StreamReadyNotice
from airdraft.nodes.worker.stream import StreamId
from tests.nodes.builders import make_spec
from tests.nodes.draft.script import ONE, SAMPLED, TWO, guessed_of, make_draft, run, text_of


def test_texts_take_the_cells_that_they_need_soon_not_all_that_they_might() -> None:
    """Answers seldom are as long as they may be: of eight places more than two are used."""
    draft, _ = make_draft(num_cells=400, max_sequences=8)
    for number in range(1, 5):
        assert draft.open(make_spec(number, max_tokens=300)) == []
    # 83 cells each: the prompt, 64 tokens more and guesses.
    reason = "toy-1 is full: 4 streams, 83 cells needed"
    assert draft.open(make_spec(5, max_tokens=300)) == [StreamFailedNotice(StreamId(5), 1, reason)]
    run(draft)
    failed: list[Event] = []
    length = 3
    while not failed:
        for number in range(1, 5):
            draft.committed(StreamId(number), 1, length, (5,) * 20)
        failed = [event for event in run(draft) if isinstance(event, StreamFailedNotice)]
        length += 20
    # Who came last goes, and the others go on.
    full = "toy-1 is full: 3 other streams, no cells left"
    assert failed == [StreamFailedNotice(StreamId(4), 1, full)]
    assert 4 * (length - 20) <= 400 < 4 * (length + 3)
    draft.committed(ONE, 1, length, (6,))
    assert guessed_of(run(draft))


def test_a_text_that_does_not_fit_is_refused_for_good_and_pushes_nobody_out() -> None:
    draft, _ = make_draft(num_cells=400)
    reason = "toy-1 has 400 cells, this text needs 419"
    too_long = make_spec(1, max_tokens=400, num_known=350)
    assert draft.open(too_long) == [StreamFailedNotice(ONE, 1, reason, "bad_request")]
    # Of one that is told in pieces all counts that there is.
    draft.open(make_spec(2, max_tokens=300))
    told = make_spec(3, max_tokens=300, num_known=250)
    (failed,) = draft.open(told)
    assert isinstance(failed, StreamFailedNotice)
    assert (failed.code, failed.reason) == (
        "unavailable",
        "toy-1 is full: 1 streams, 319 cells needed",
    )


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_asked_no_pass_is_too_large_and_nobody_is_given_up_without_need(
    seed: int,
) -> None:
    """Texts come and go, some of one owner; tokens of any of them are committed meanwhile."""
    random = Random(seed)
    num_cells = 300
    draft, model = make_draft(num_cells=num_cells, max_batch_tokens=24, max_sequences=6)
    texts: dict[int, int] = {}
    num_given_up = number = 0

    def told(events: Sequence[Event]) -> None:
        nonlocal num_given_up
        for event in events:
            if isinstance(event, StreamFailedNotice):
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
            told(draft.open(spec))
        elif what < 0.09 and texts:
            gone = random.choice(sorted(texts))
            draft.close(StreamId(gone), 1)
            del texts[gone]
        elif what < 0.45 and texts:
            chosen = random.choice(sorted(texts))
            new = tuple(random.randint(1, 9) for _ in range(random.choice((1, 1, 4, 20))))
            told(draft.committed(StreamId(chosen), 1, texts[chosen], new))
            if chosen in texts:
                texts[chosen] += len(new)
        else:
            wanted = sum(texts.values())
            before = num_given_up
            told(draft.step())
            # Guesses are given up before any stream is.
            assert num_given_up == before or wanted + len(texts) > num_cells
    told(run(draft))
    assert num_given_up > 0
    for left in list(texts):
        draft.close(StreamId(left), 1)
    draft.forget_all()
    assert (draft.num_streams, model.free_cells()) == (0, num_cells)


def test_a_short_text_does_not_wait_for_a_long_one() -> None:
    draft, _ = make_draft(max_batch_tokens=8)
    draft.open(make_spec(1, prompt=(7,) * 400))
    draft.open(make_spec(2, prompt=(8,) * 9))
    events: list[Event] = []
    for _ in range(3):
        events += draft.step()
    assert [event for event in events if isinstance(event, StreamReadyNotice)] == [
        StreamReadyNotice(TWO, 1)
    ]
    # Nor does the long one wait for any number of short ones.
    ready_at = 0
    for number in range(3, 203):
        draft.open(make_spec(number, prompt=(9,) * 9))
        if StreamReadyNotice(ONE, 1) in draft.step():
            ready_at = number
            break
        draft.close(StreamId(number - 1), 1)
    assert 50 <= ready_at <= 110


LONG = tuple(k % 50 + 1 for k in range(100))


@pytest.mark.parametrize(("owner", "num_run"), [("one", 101), ("other", 201)])
def test_what_texts_of_one_owner_have_in_common_is_read_once(owner: str, num_run: int) -> None:
    """As the choices of one request have; nobody else learns from it what others ask."""
    draft, model = make_draft(max_batch_tokens=16)
    whole = (*LONG, 7)
    # Of which no guess is wanted: what is run is read.
    draft.open(make_spec(1, prompt=whole, owner="one", max_tokens=1))
    draft.open(make_spec(2, prompt=(*LONG, 8, 9), owner=owner, max_tokens=1))
    assert set(run(draft)) == {StreamReadyNotice(ONE, 1), StreamReadyNotice(TWO, 1)}
    # The last token of a prompt waits for its first guess.
    assert sum(map(sum, model.sizes)) == num_run


def test_what_was_copied_is_guessed_from_like_what_was_read() -> None:
    draft, _ = make_draft(max_batch_tokens=16)
    prompts = {ONE: (*LONG, 7), TWO: (*LONG, 8, 9)}
    for number, prompt in prompts.items():
        draft.open(make_spec(number, prompt=prompt, owner="one", sampling=SAMPLED))
    events = run(draft)
    for number, prompt in prompts.items():
        guessed = guessed_of(events, number)
        assert guessed
        assert guessed == text_of(prompt)[: len(guessed)]


def test_what_is_copied_is_not_run_before_a_guess() -> None:
    """A prompt of one token is ready before anything is read; what follows is another's text."""
    draft, model = make_draft()
    draft.open(make_spec(1, prompt=(7, *LONG), owner="one", sampling=SAMPLED, max_tokens=1))
    run(draft)
    own = make_spec(2, prompt=(7,), owner="one", sampling=SAMPLED, max_tokens=104)
    assert draft.open(own) == [StreamReadyNotice(TWO, 1)]
    draft.committed(TWO, 1, 1, LONG)
    model.passes.clear()
    guessed = guessed_of(run(draft), TWO)
    assert guessed == text_of((7, *LONG))[: len(guessed)]
    assert model.sizes == [[1]] * len(guessed)


def test_a_text_that_another_one_is_the_beginning_of_is_ready_without_a_pass() -> None:
    draft, model = make_draft()
    draft.open(make_spec(1, prompt=(*LONG, 7), owner="one", max_tokens=1))
    run(draft)
    model.passes.clear()
    draft.open(make_spec(2, prompt=LONG, owner="one", max_tokens=1))
    assert run(draft) == [StreamReadyNotice(TWO, 1)]
    assert model.sizes == []


def test_what_cannot_be_followed_is_refused_with_the_reason() -> None:
    draft, _ = make_draft(max_sequences=1)
    outside = StreamFailedNotice(TWO, 1, "token ids outside the vocabulary of toy-1")
    assert draft.open(make_spec(2, prompt=(96,))) == [outside]
    draft.open(make_spec(1))
    full = StreamFailedNotice(TWO, 1, "toy-1 is full: 1 streams, 27 cells needed")
    assert draft.open(make_spec(2)) == [full]
