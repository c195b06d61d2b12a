"""Short forms of `python -m bench gateway`."""

from __future__ import annotations

import pytest

from bench.gateway.cost import run_cost
from bench.gateway.fuzz import run_fuzz
from bench.gateway.idle import run_idle

pytestmark = pytest.mark.timeout(60)


def test_no_body_makes_a_500_or_a_hang() -> None:
    findings = run_fuzz(40)
    assert findings.faults == []
    assert findings.statuses[400] > 0
    assert "0 faults" in str(findings)


def test_idle_streams_cost_little() -> None:
    found = run_idle(200)
    # What Python's allocator takes in large pieces counts, too, and more so with few streams.
    assert found.bytes_each < 64 * 1024
    assert "200 idle streams" in str(found)


def test_tokens_are_counted() -> None:
    found = run_cost(2, 40)
    assert (found.num_streams, found.num_tokens) == (2, 40)
    assert "us of processor time a token" in str(found)
