"""What an engine runs for a model that takes guesses back by computing tokens again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.engine.protocol import InvalidInputError, Span
from airdraft.nodes.engine.replay import Replay


class Engine:
    """Runs passes as an engine does, and knows what each sequence has read since its states."""

    def __init__(self, num_sequences):
        self.replay = Replay(num_sequences)
        self.texts = [[] for _ in range(num_sequences)]

    def run(self, spans, most=64, num_cells=1000):
        passes = self.replay.passes(spans, most, num_cells)
        for part in passes:
            assert len({len(span.token_ids) for span in part}) == 1
            assert len(part) == 1 or sum(len(span.token_ids) for span in part) <= most
            for span in part:
                assert span.start == len(self.texts[span.seq_id])
                self.texts[span.seq_id] += span.token_ids
                self.replay.ran(span)
        for span in (span for part in passes for span in part):
            if span.num_padding:
                self.cut(span.seq_id, span.start + len(span.token_ids) - span.num_padding)
        return passes

    def cut(self, seq_id, length):
        text = self.texts[seq_id]
        del text[self.replay.cut(seq_id, length, len(text)) :]

    def text(self, seq_id):
        return [*self.texts[seq_id], *self.replay.pending(seq_id)]


def test_accepted_tokens_come_again_in_front_of_the_next_guesses():
    engine = Engine(1)
    engine.run([Span(0, 0, [1, 2, 3])])
    engine.run([Span(0, 3, [4, 5, 6, 7], 4, keeps=True)])
    engine.cut(0, 5)
    ((span,),) = engine.run([Span(0, 5, [8, 9], 2, keeps=True)])
    assert (span.start, span.token_ids, span.num_outputs) == (3, [4, 5, 8, 9], 2)


def test_spans_that_may_be_taken_back_are_filled_up_to_one_length_if_that_fits():
    spans = [Span(0, 0, [1, 2, 3], 3, keeps=True), Span(1, 0, [4], 1, keeps=True)]
    prompt = Span(2, 0, [5] * 9)
    first, last = Engine(3).run([*spans, prompt])
    assert first == [prompt]
    assert [len(span.token_ids) for span in last] == [3, 3]
    assert [span.num_padding for span in last] == [0, 2]
    for limits in ({"most": 5}, {"num_cells": 14}):
        engine = Engine(3)
        passes = engine.run([*spans, prompt], **limits)
        assert [span.num_padding for part in passes for span in part] == [0, 0, 0]


@given(st.data())
def test_texts_are_what_was_run_and_not_cut(data):
    engine, texts = Engine(3), [[], [], []]
    for _ in range(data.draw(st.integers(1, 12))):
        spans, kept = [], {}
        for seq_id in data.draw(st.sets(st.integers(0, 2), min_size=1)):
            new = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
            start = len(texts[seq_id])
            if data.draw(st.booleans()):
                kept[seq_id] = start
            spans.append(Span(seq_id, start, new, 0, keeps=seq_id in kept))
            texts[seq_id] += new
        engine.run(spans, data.draw(st.sampled_from([6, 12, 64])), data.draw(st.integers(0, 99)))
        for seq_id, start in kept.items():
            length = data.draw(st.integers(max(1, start), len(texts[seq_id])))
            if length < len(texts[seq_id]):
                engine.cut(seq_id, length)
                del texts[seq_id][length:]
        assert [engine.text(seq_id) for seq_id in range(3)] == texts
        assert engine.replay.num_pending == sum(map(len, texts)) - sum(map(len, engine.texts))


def test_a_text_cannot_go_back_behind_its_kept_state():
    engine = Engine(1)
    engine.run([Span(0, 0, [1, 2, 3])])
    with pytest.raises(InvalidInputError, match="sequence 0 has no state to go back to 2 tokens"):
        engine.cut(0, 2)
    engine.cut(0, 0)
    assert engine.text(0) == []
