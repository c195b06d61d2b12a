"""A short form of `python -m bench chaos up`."""

from __future__ import annotations

from random import Random

import pytest

from bench.chaos.up import TOYS, run_up
from bench.chaos.up_asking import Upheaval, simple_toy_cases


@pytest.mark.timeout(300)
async def test_a_target_that_is_killed_costs_no_answer() -> None:
    notes: list[str] = []
    cases = simple_toy_cases(Random(1), 6)
    upheaval = await run_up(
        TOYS, cases, num_kills=1, gap_s=0.0, num_streams=2, seed=1, note=notes.append
    )
    assert upheaval.faults == []
    assert upheaval.lines == ["the target node ended (SIGKILL): starting it again"]
    assert set(upheaval.answers) == {"streamed", "whole"}
    assert (len(upheaval.ready_s), len(notes)) == (1, 1)


def test_what_is_wrong_is_shown() -> None:
    upheaval = Upheaval(faults=["a text"])
    assert "WRONG: 1\na text" in str(upheaval)
    assert "0 wrong" in str(Upheaval())
