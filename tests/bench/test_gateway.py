"""Short forms of `python -m bench gateway`."""

from __future__ import annotations

import pytest

from bench.gateway.canary import CANARY, Search, requests, run_canary
from bench.gateway.fuzz import run_fuzz
from bench.gateway.idle import run_idle
from bench.gateway.overhead import FirstToken, Rates, run_overhead


def test_no_body_makes_a_500_or_a_hang() -> None:
    findings = run_fuzz(40)
    assert findings.faults == []
    assert findings.statuses[400] > 0
    assert "0 faults" in str(findings)


def test_idle_streams_cost_little() -> None:
    found = run_idle(200, num_pairs=2)
    # What Python's allocator takes in large pieces counts, too, and more so with few streams.
    assert found.bytes_each < 64 * 1024
    assert "200 idle streams" in str(found)


async def test_a_word_of_prompts_is_found_nowhere() -> None:
    search = await run_canary()
    assert search.faults == []
    assert search.num_processes == 4
    assert search.num_files >= 4
    assert search.num_pages == 3
    assert search.num_requests > 2 * len(requests())


def test_a_word_is_found_where_it_is() -> None:
    search = Search()
    search.look("here", b"..." + CANARY.encode() + b"...")
    search.look("there", b"...")
    assert search.faults == ["here"]
    assert "1 faults" in str(search)


@pytest.mark.model
def test_the_gateway_is_measured_beside_a_bare_loop() -> None:
    found: list[object] = []
    run_overhead([2], num_pairs=2, max_tokens=24, prompt_lengths=[40], report=found.append)
    rates, first = found
    assert isinstance(rates, Rates)
    assert isinstance(first, FirstToken)
    assert min(rates.tokens_per_s) > 0
    assert min(first.prefill_s, first.first_token_s) > 0
    assert "2 streams" in str(rates)
    assert "prompt of 40 tokens" in str(first)
