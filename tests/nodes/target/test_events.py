"""Failures as the coordinator is told them."""

from __future__ import annotations

from nodes.messages import StreamFailedNotice
from nodes.worker.events import Failed, failed_notice
from nodes.worker.stream import StreamId


def test_a_failure_says_whose_it_is_in_a_line_that_fits() -> None:
    notice = failed_notice(Failed(StreamId(1), 2, "x" * 2000, "bad_request"))
    assert notice == StreamFailedNotice(1, 2, "x" * 1024, "bad_request")
