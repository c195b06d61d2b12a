"""Failures as the coordinator is told them."""

from __future__ import annotations

import pytest

from nodes.engine.grammar import GrammarError
from nodes.messages import StreamFailedNotice
from nodes.worker.stream import StreamId, failed_by


@pytest.mark.parametrize(
    ("is_request_bad", "code"), [(True, "bad_request"), (False, "unavailable")]
)
def test_a_failure_says_whose_it_is_in_a_line_that_fits(is_request_bad: bool, code: str) -> None:
    """A bad grammar is the client's fault, a missing library that of the node."""
    error = GrammarError("x" * 2000, is_request_bad=is_request_bad)
    notice = failed_by(StreamId(1), 2, error)
    assert notice == StreamFailedNotice(1, 2, "x" * 1024, code)
