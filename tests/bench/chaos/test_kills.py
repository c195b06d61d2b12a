"""Short forms of `python -m bench chaos kills`, `points` and `rolling`, and their options."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from bench.chaos.command import chaos
from bench.chaos.kills.backdrop import Run
from bench.chaos.kills.points import POINTS, run_points
from bench.chaos.kills.storm import run_storm
from bench.harness.airdraft import parse
from bench.harness.cases import toy_cases


@pytest.mark.timeout(1800)
async def test_nothing_is_lost_under_kills_of_every_role(tmp_path: Path) -> None:
    run = Run(seed=8, folder=tmp_path)
    tally = await run_storm(run, toy_cases(Random(10), 64), num_kills=80, mean_gap_s=0.15)
    assert tally.faults == [], str(tally)
    assert tally.ends["finished"] > 20
    killed = sum(n for what, n in tally.disturbances.items() if what.endswith("killed"))
    assert killed >= 80


async def test_many_short_requests_end_in_time(tmp_path: Path) -> None:
    run = Run(seed=9, num_streams=16, num_requests=300, deadline_s=30.0, folder=tmp_path)
    tally = await run_storm(run, toy_cases(Random(11), 64, mean_tokens=4.0), mean_gap_s=0.5)
    assert tally.faults == [], str(tally)
    assert tally.num_requests == 300


def test_every_point_is_one_that_a_process_knows() -> None:
    for point in POINTS:
        parse(f"{point.place}:kill:{point.most}")


async def test_processes_that_fail_at_a_point_cost_no_token(tmp_path: Path) -> None:
    wanted = (
        "target-0 send.CommitReply",
        "target-0 engine.pass",
        "draft-0 send.GuessNotice",
        "client send.Credit",
        "coordinator send.OutputNotice",
    )
    points = [p for p in POINTS if f"{p.who} {p.place}" in wanted]
    assert len(points) == 5
    actions = ("kill", "error", "stop", "block:0.3")
    tally = await run_points(Run(seed=5, num_streams=4, folder=tmp_path), points, 4, actions)
    assert tally.faults == [], str(tally)
    assert tally.disturbances.total() == 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["kills", "--roles", "draft,boss"], "unknown: boss; use draft, target, coordinator"),
        (["kills", "--kills", "0"], "--kills"),
        (["points", "--points", "send.Nothing"], "unknown: send.Nothing; use "),
        (["kills", "--requests", "0"], "--requests"),
        (["links", "--profiles", "gale"], "'--profiles': unknown: gale; use "),
        (["stalls", "--hows", "gale"], "'--hows': unknown: gale; use kill, cut"),
        (["scarce", "--scenes", "gale"], "'--scenes': unknown: gale; use full, "),
    ],
)
def test_what_is_not_accepted_is_said(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(chaos, arguments)
    assert result.exit_code == 2
    assert says in result.output
