"""A short form of `python -m bench chaos up`."""

from __future__ import annotations

from random import Random

import pytest

from bench.chaos.up import run_up
from bench.harness.cases import plain_toy_cases
from bench.harness.up import TOYS, NotStartedError, up


@pytest.mark.timeout(300)
async def test_a_target_that_is_killed_costs_no_answer() -> None:
    notes: list[str] = []
    cases = plain_toy_cases(Random(1), 6)
    found = await run_up(
        TOYS, cases, num_kills=1, gap_s=0.0, num_streams=2, seed=1, note=notes.append
    )
    assert found.faults == []
    told = [line for line in found.told if "WARNING" not in line]
    assert told == ["the target node ended (SIGKILL): starting it again"]
    assert set(found.answers) == {"streamed", "whole"}
    assert (len(found.ready_s), len(notes)) == (1, 1)
    assert str(found).endswith("\n0 faults")


def test_a_mesh_that_cannot_start_says_why() -> None:
    with (
        pytest.raises(NotStartedError, match=r"did not start: .*no-such-model"),
        up("--model", "no-such-model"),
    ):
        pass
