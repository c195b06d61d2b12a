"""Toxics on the links of a mesh: what is a fault, and a few seconds of each kind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.chaos.links.ailing import HEAD, AilingFigures, Held, run_toxic
from bench.chaos.links.clients import Heard
from bench.emulate.toxics import TOXICS, Toxic

FIGURES = AilingFigures(
    toxic=TOXICS["reset"],
    seconds=10.0,
    near=Heard(num_texts=3, gaps_s=[(1.0, 0.05, 9)]),
    far=Heard(num_texts=2, failures={"lost": 1}),
    held=(Held(5, 30), Held(5, 30)),
    num_left=2,
    num_resets=7,
)


def test_each_fault_is_said() -> None:
    assert FIGURES.faults() == []
    bad = replace(
        FIGURES,
        near=Heard(num_wrong=1, failures={"x": 1}),
        held=(Held(5, 30), Held(5, 31)),
        notes=["no recovery"],
    )
    assert bad.faults() == [
        "reset: no recovery",
        "reset: 1 wrong texts",
        "reset: requests at the hub failed: {'x': 1}",
        "reset: no text was finished at the hub, so the run shows nothing",
        f"reset: the coordinator held {Held(5, 30)} before and {Held(5, 31)} after",
    ]


def test_a_row_fits_its_head() -> None:
    row = FIGURES.row()
    assert row == "| reset | 0, 5, 1 | 2 | 7 | 50 50 50 | nan nan nan | +0, +0 |"
    assert row.count("|") == HEAD.splitlines()[0].count("|")


@pytest.mark.parametrize(
    "toxic",
    [
        Toxic(name="reset", reset_bytes=5_000.0),
        TOXICS["drip"],
    ],
    ids=lambda toxic: toxic.name,
)
async def test_texts_are_as_undisturbed_and_nothing_is_left(toxic: Toxic) -> None:
    found = await run_toxic(toxic, 6.0, 1)
    assert found.near.num_wrong == found.far.num_wrong == 0
    assert found.near.failures == {}
    assert found.near.num_tokens > 0
    assert found.notes == []
    assert (found.num_resets > 0) == (toxic.name == "reset")
