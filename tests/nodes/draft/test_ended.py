"""Texts that a draft keeps after their streams, for those that begin with them."""

from __future__ import annotations

from airdraft.nodes.messages import StreamFailedNotice
from airdraft.nodes.worker.stream import StreamId
from tests.nodes.builders import make_spec
from tests.nodes.draft.script import ONE, SAMPLED, TWO, guessed_of, make_draft, run, text_of

HISTORY = tuple(1 + number % 90 for number in range(100))


def test_the_next_request_of_a_conversation_reads_only_what_is_new() -> None:
    draft, model = make_draft()
    draft.open(make_spec(prompt=HISTORY, owner="me", max_tokens=100, sampling=SAMPLED))
    run(draft)
    said = text_of(HISTORY)[:30]
    draft.committed(ONE, 1, len(HISTORY), said)
    run(draft)
    draft.close(ONE, 1)
    grown = (*HISTORY, *said, 7, 8, 9)
    for owner, num_new in (("me", 4), ("other", len(grown))):
        model.passes.clear()
        draft.open(make_spec(2, prompt=grown, owner=owner, max_tokens=100, sampling=SAMPLED))
        events = run(draft)
        num_run = sum(len(span.token_ids) for spans in model.passes for span in spans)
        assert num_new <= num_run < num_new + 30
        # The guesses behind the old text are gone, and those of the new one are right.
        assert guessed_of(events, TWO) == text_of(grown)[: len(guessed_of(events, TWO))] != ()
        draft.close(TWO, 1)


def test_whoever_needs_their_cells_or_sequences_gets_them() -> None:
    draft, model = make_draft(num_cells=480, max_sequences=2, max_batch_tokens=32)
    for number in range(1, 6):
        prompt = tuple(1 + (number * 7 + place) % 90 for place in range(60))
        draft.open(make_spec(number, prompt=prompt, owner="me", max_tokens=30))
        run(draft)
        draft.close(StreamId(number), 1)
        # A quarter of the cells is kept at most.
        assert 480 - model.free_cells() <= 120
    both = [make_spec(n, prompt=HISTORY, owner=f"{n}", max_tokens=90) for n in (7, 8)]
    events = [event for spec in both for event in draft.open(spec)]
    assert not any(isinstance(event, StreamFailedNotice) for event in (*events, *run(draft)))
    draft.forget_all()
    assert model.free_cells() == 480
