"""check_spans refuses all that libllama would answer with an abort."""

import pytest

from nodes.engine.protocol import InvalidInputError, Span, check_spans
from nodes.engine.toy import ToyConfig, ToyModel

INFO = ToyModel(ToyConfig(num_vocab=10, max_sequences=3, max_batch_tokens=6)).info
LENGTHS = [4, 0, 0]


def test_good_spans_are_counted():
    assert check_spans([Span(0, 4, [0, 9], 1), Span(2, 0, [1, 2, 3, 4], 4)], INFO, LENGTHS) == 6


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ([], "0 tokens"),
        ([Span(-1, 0, [1])], "sequence id -1 outside 0..2"),
        ([Span(3, 0, [1])], "sequence id 3 outside 0..2"),
        ([Span(1, 0, [1]), Span(1, 1, [1])], "sequence 1 appears twice"),
        ([Span(1, 0, [])], "sequence 1: no tokens"),
        ([Span(0, 3, [1])], "position 3, but 4 are"),
        ([Span(1, -1, [1])], "position -1"),
        ([Span(1, 0, [1], 2)], "2 outputs"),
        ([Span(1, 0, [1], -1)], "-1 outputs"),
        ([Span(1, 0, [1, 10])], "outside the vocabulary"),
        ([Span(1, 0, [-1])], "outside the vocabulary"),
        ([Span(1, 0, [1] * 4), Span(2, 0, [1] * 3)], "7 tokens in one pass, limit 6"),
    ],
)
def test_bad_spans_are_refused_with_the_reason(spans, reason):
    with pytest.raises(InvalidInputError, match=reason):
        check_spans(spans, INFO, LENGTHS)
