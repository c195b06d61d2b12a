"""What a profile's figures amount to, and a short run of one with real processes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from bench.chaos.links.clients import Heard
from bench.chaos.links.profiles import LinkFigures, Setting, lost_share, row, run_profile
from bench.emulate.cell import DOWN, UP, Counters
from bench.emulate.profiles import PROFILES


def figures(name: str = "wifi", **changes: Any) -> LinkFigures:
    made = LinkFigures(
        profile=PROFILES[name],
        kind="a kind",
        seconds=10.0,
        plain=Heard(num_tokens=500, num_texts=5),
        plain_s=5.0,
        near=Heard(
            num_tokens=1000,
            num_texts=10,
            num_rounds=200,
            num_plain=600,
            gaps_s=[(1.0, 0.05, 9), (2.0, 0.15, 9)],
        ),
        far=Heard(num_tokens=900, num_texts=9, failures={"lost": 2}),
    )
    return replace(made, **changes)


def test_good_figures_have_no_faults() -> None:
    assert figures().faults() == []
    assert figures().ratio == 1.0
    assert figures("bad", deaths=["draft-0 silent"]).faults() == []
    assert figures("blackout", noticed_s=[2.1], healed_s=[4.9]).faults() == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"far": Heard(num_tokens=900, num_texts=9, num_wrong=1)}, "wifi: 1 wrong texts"),
        ({"far": Heard(failures={"lost": 2})}, "wifi: a place received no tokens"),
        ({"deaths": ["draft-0 silent", "draft-0 silent"]}, "wifi: 2 false deaths: draft-0 silent"),
        ({"near": Heard(num_tokens=949)}, "wifi: 0.95 of the speed of the target alone"),
        ({"healed_s": [1.0, 5.1]}, "wifi: a node was back after 5.1 s"),
        ({"healed_s": [math.inf]}, "wifi: a node was back after inf s"),
        ({"near": Heard(num_tokens=1000, failures={"x": 1})}, "requests at the hub failed"),
        ({"near": Heard(num_tokens=1000, waits_s=[9.0])}, "at the hub has waited for 9.0 s"),
    ],
)
def test_each_fault_is_said(changes: dict[str, Any], fault: str) -> None:
    (said,) = figures(**changes).faults()
    assert fault in said


def test_a_row_has_every_figure() -> None:
    made = figures("blackout", noticed_s=[2.1, 2.4], healed_s=[0.5], lost_share=0.1)
    assert row(made) == (
        "| blackout | 10.0% | 0, 24, 2 | 0 | 2.4 | 0.5 | - | 150 150 150 | nan nan nan "
        "| 0.25, 100.0, 1.00 |"
    )


def test_the_share_that_was_lost_is_that_of_the_time() -> None:
    before = {("a", UP): Counters(num_frames=10, num_vanished=10), ("a", DOWN): Counters()}
    after = {
        ("a", UP): Counters(num_frames=15, num_vanished=12),
        ("a", DOWN): Counters(num_frames=13),
    }
    assert lost_share(after, before) == 0.1
    assert lost_share(before, before) == 0.0


SHORT = Setting(seconds=6.0, near=2, far=2, warm_up_s=1.0)


async def test_texts_are_as_undisturbed_over_a_lossy_link() -> None:
    found = await run_profile(PROFILES["wifi"], SHORT, "auto")
    assert found.kind.startswith(("TUN devices", "TCP proxy"))
    heard = found.plain, found.near, found.far
    assert all(each.num_tokens > 0 for each in heard)
    assert sum(each.num_texts for each in heard) > 0
    assert sum(each.num_wrong for each in heard) == 0
    assert found.lost_share > 0.0
    assert found.deaths == []
