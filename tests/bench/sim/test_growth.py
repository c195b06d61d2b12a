"""Many cells under one coordinator: all are served, and what is spent is told apart."""

from __future__ import annotations

import pytest

from bench.sim.growth import HEAD, STREAMS_A_CELL, CellsWorld, Kind, grow, grow_apart


@pytest.mark.parametrize("kind", ["apart", "together"])
def test_cells_of_sixteen_streams_are_all_served(kind: Kind) -> None:
    grown = grow(2 * STREAMS_A_CELL, kind, 0.3, 0.5)
    assert (grown.num_streams, grown.num_cells) == (32, 2)
    # A pass takes 40 ms, and no stream waits for more than some of them.
    assert grown.num_passes >= 32 * 0.5 / 0.2
    # Plans cost something, and nothing where none was made.
    assert (grown.num_plans > 0) == (grown.seconds["planner"] > 0.0)
    assert all(seconds >= 0.0 for seconds in grown.seconds.values())
    assert min(grown.seconds[step] for step in ("state", "codec", "admission", "joining")) > 0.0
    assert grown.row().count("|") == HEAD.splitlines()[0].count("|")


def test_plans_are_made_for_streams_that_have_draft_nodes() -> None:
    world = CellsWorld(3, "together")
    world.run(2.5)
    assert world.num_plans > 0


def test_a_size_of_its_own_has_the_memory_of_its_own() -> None:
    grown = grow_apart(STREAMS_A_CELL, "apart", 0.1, 0.1)
    assert 0 < grown.bytes < 1 << 28
