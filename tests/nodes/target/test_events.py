"""Failures as the coordinator is told them."""

from __future__ import annotations

import pytest

from nodes.engine.grammar import GrammarError
from nodes.messages import StreamFailedNotice
from nodes.worker.events import Failed, failed_by, failed_notice
from nodes.worker.stream import StreamId
from tests.nodes.builders import make_spec


@pytest.mark.parametrize(
    ("is_request_bad", "code"), [(True, "bad_request"), (False, "unavailable")]
)
def test_a_bad_grammar_is_the_clients_and_a_missing_library_the_nodes(
    is_request_bad: bool, code: str
) -> None:
    error = GrammarError("no", is_request_bad=is_request_bad)
    assert failed_by(make_spec(3), 7, error) == Failed(StreamId(3), 7, "no", code)


def test_a_failure_says_whose_it_is_in_a_line_that_fits() -> None:
    notice = failed_notice(Failed(StreamId(1), 2, "x" * 2000, "bad_request"))
    assert notice == StreamFailedNotice(1, 2, "x" * 1024, "bad_request")
