"""A short form of `python -m bench chaos points`."""

from __future__ import annotations

from pathlib import Path

from bench.chaos.kills.points import POINTS, points_of, run_points
from mesh.failpoints import parse
from mesh.messages import MAX_TAG, spec_of_tag
from nodes.messages import CommitReply


def test_every_point_is_one_that_a_process_knows() -> None:
    assert CommitReply
    specs = [spec_of_tag(tag) for tag in range(1, MAX_TAG + 1)]
    names = {spec.layout.cls.__name__ for spec in specs if spec is not None}
    for point in POINTS:
        parse(f"{point.place}:kill:{point.most}", names)
    assert {point.who for point in points_of(("client", "draft"))} == {"client", "draft-0"}


async def test_processes_that_fail_at_a_point_cost_no_token(tmp_path: Path) -> None:
    wanted = (
        "target-0 send.CommitReply",
        "draft-0 send.GuessNotice",
        "client send.Credit",
        "coordinator send.TokensNotice",
    )
    points = [p for p in POINTS if f"{p.who} {p.place}" in wanted]
    assert len(points) == 4
    actions = ("kill", "error", "stop", "block:0.3")
    tally = await run_points(5, points, 4, num_streams=4, actions=actions, folder=tmp_path)
    assert tally.is_good, str(tally)
    assert tally.disturbances.total() == 16
