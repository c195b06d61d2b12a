"""What is recorded of whole runs; tests/nodes/scheduler/test_watch.py looks at single steps."""

from __future__ import annotations

from collections import Counter

import pytest

from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig
from nodes.trace.recorder import RingRecorder
from nodes.trace.records import LapRecord, PassRecord, PlanRecord, RoundRecord, from_line
from nodes.trace.ring import Ring
from tests.nodes.pure_mesh import Case, DraftCase, PureMesh, StreamCase


def stream(first: int, gamma: int | None) -> StreamCase:
    return StreamCase(
        prompt=(first, 6, 7),
        max_tokens=60,
        sampling=Sampling(),
        stops=(),
        ignore_eog=True,
        gamma=gamma,
        is_cancelled=False,
    )


def make_case(move_seed: int) -> Case:
    return Case(
        target=ToyConfig(num_cells=1000, max_sequences=4),
        drafts=(
            DraftCase(
                agreement=0.8,
                num_cells=1000,
                max_sequences=4,
                max_batch_tokens=64,
                starts_alive=True,
            ),
        ),
        streams=(stream(3, 4), stream(4, 2), stream(5, 0)),
        num_churns=0,
        num_late_drafts=2,
        has_wild_policy=False,
        has_lookup=False,
        has_trials=False,
        moves=b"",
        move_seed=move_seed,
    )


@pytest.mark.parametrize("move_seed", range(5))
def test_records_of_a_run_add_up(move_seed: int) -> None:
    """Every token of every text is in one pass, and no text is another for being recorded."""
    mesh, ring = PureMesh(make_case(move_seed)), Ring()
    mesh.scheduler.record(RingRecorder(ring, "t", lambda: 0.0), 0.0)
    mesh.run()
    records = [from_line(line) for line in ring.after(0, 10**9).lines.splitlines()]
    committed, accepted = Counter[int](), Counter[int]()
    started = {r.round_id: r for r in records if isinstance(r, RoundRecord)}
    for record in records:
        if isinstance(record, PassRecord):
            for part in record.streams:
                committed[part.stream_id] += part.num_tokens
                accepted[part.stream_id] += part.num_accepted_tokens
                if part.round_id:
                    asked = {s.stream_id: s.gamma for s in started[part.round_id].streams}
                    assert part.num_draft_tokens <= asked[part.stream_id]
                else:
                    assert part.num_draft_tokens == 0
    assert committed == {stream_id: len(ids) for stream_id, ids in mesh.token_ids.items()}
    assert accepted[3] == 0
    assert accepted[1] > 0
    times = [record.at_s for record in records]
    assert times == sorted(times)
    laps = [r.round_id for r in records if isinstance(r, LapRecord)]
    assert len(laps) == len(set(laps))
    assert set(laps) <= started.keys()
    assert len(laps) > 1
    assert any(isinstance(r, PlanRecord) and r.batches for r in records)
