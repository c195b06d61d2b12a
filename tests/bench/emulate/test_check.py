"""The live check in short, its prediction against the medium, and the choice of means."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import pytest

from bench.emulate.cell import DOWN, UP, Cell, Counters, Shares, Turns
from bench.emulate.check import (
    BATCH_BYTES,
    Outcome,
    load_of,
    measure,
    narrow_cell,
    order,
    report,
    schemes,
    turns_s,
)
from bench.emulate.medium import Medium
from bench.emulate.open import open_cell
from bench.emulate.proxy import HEADER_BYTES, SEGMENT_BYTES
from bench.netns import NamespacesError
from policies.airtime import batch_shares, batch_time_s, equal_share_time_s
from tests.bench.emulate.test_tun import why_not

CELL = narrow_cell(50e3, 0.002)
LOAD = load_of(CELL, BATCH_BYTES)


def batch_s(cell: Cell) -> float:
    """Virtual seconds until the last of three batches is there, each segment acknowledged."""
    medium = Medium(cell)
    num_segments = BATCH_BYTES // SEGMENT_BYTES
    for station in cell.stations:
        for _ in range(num_segments):
            medium.offer(station.name, UP, SEGMENT_BYTES + HEADER_BYTES, None, 0.0)
    left, now = num_segments * len(cell.stations), 0.0
    while left:
        now = medium.next_event_s()
        assert now < math.inf
        for departure in medium.advance(now):
            if departure.direction == UP:
                left -= 1
                medium.offer(departure.station, DOWN, HEADER_BYTES, None, now)
    return now


def test_shares_and_slots_are_predicted_exactly() -> None:
    shares = Shares(tuple(float(share) for share in batch_shares(LOAD.until_arrived_s)))
    assert batch_s(replace(CELL, access=shares)) == pytest.approx(
        batch_time_s(LOAD.until_arrived_s)
    )
    equal = replace(CELL, access=Shares((1 / 3,) * 3))
    assert batch_s(equal) == pytest.approx(equal_share_time_s(LOAD.until_arrived_s))


def test_turns_are_in_order_of_air() -> None:
    assert order(LOAD) == (2, 1, 0)
    arrivals_s = turns_s(LOAD)
    assert arrivals_s[2] < arrivals_s[1] < arrivals_s[0]
    # The slowest's own batch comes last, after all that the others and the grants took.
    others_s = (LOAD.data_s + 7 * LOAD.ack_s + LOAD.grant_s)[1:].sum()
    own_s = (LOAD.grant_s + 5 * LOAD.ack_s + LOAD.data_s)[0]
    assert arrivals_s[0] == pytest.approx(others_s + own_s)


@pytest.mark.parametrize(
    "means",
    [pytest.param("tun", marks=pytest.mark.skipif(bool(why_not()), reason=why_not())), "proxy"],
)
async def test_the_frames_of_each_scheme_are_those_predicted(means: str) -> None:
    for scheme in schemes(narrow_cell(1e6, 0.002)):
        outcome, kind = await measure(scheme, 2, means)  # type: ignore[arg-type]
        assert ("TUN" in kind) == (means == "tun")
        assert [set(arrived) for arrived in outcome.arrivals_s] == [set(_names(scheme.cell))] * 2
        for name in _names(scheme.cell):
            up, down = outcome.used[name, UP], outcome.used[name, DOWN]
            # Six segments a batch, and the acknowledgement of a grant.
            assert up.num_frames == 2 * (6 + bool(scheme.grants))
            assert up.num_bytes == 2 * (BATCH_BYTES + (6 + bool(scheme.grants)) * HEADER_BYTES)
            assert down.num_frames == 2 * (6 + bool(scheme.grants))
            assert (up.num_collided, down.num_collided) == (0, 0)


def _names(cell: Cell) -> list[str]:
    return [station.name for station in cell.stations]


def test_the_report_has_ratios_and_says_emulated() -> None:
    scheme = schemes(CELL)[0]
    twice = {name: 2 * s for name, s in scheme.arrival_s.items()}
    used = {(name, way): Counters(num_frames=7) for name in twice for way in (UP, DOWN)}
    text = report([Outcome(scheme, [twice, twice], used)], "made of paper")
    assert text.startswith("*emulated* cell (made of paper)")
    assert "| turns by grants | 1.968 | 3.936 (3.936 to 3.936) | 2.000 | 21, 21 | 0 |" in text
    assert "| turns by grants | rate-10 |" in text


async def test_without_privileges_the_proxy_is_used_and_the_reason_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    cell = replace(CELL, access=Turns())
    async with open_cell(cell) as (live, kind):
        assert live.kind == "TCP proxy"
        assert kind == "TCP proxy (network namespaces need root and `ip`)"
    with pytest.raises(NamespacesError, match="need root"):
        async with open_cell(cell, means="tun"):
            pass
