"""One record of each kind, all of one round of two streams and what came with it."""

from __future__ import annotations

from nodes.trace.records import (
    DraftRecord,
    GivenUpRecord,
    LapRecord,
    PassRecord,
    PassStream,
    PlanRecord,
    Record,
    RoundNode,
    RoundRecord,
    RoundStream,
    TrialRecord,
    TrialResultRecord,
    VerifyRecord,
)
from policies.joint import joint_plan
from policies.latency import CostTable, NodeCosts
from policies.plan import DraftView, Link, Observation, StreamView

TARGET_COSTS = NodeCosts(CostTable((1, 32), (0.04, 0.06)), CostTable((32,), (0.06,)))
DRAFT_COSTS = NodeCosts(CostTable((1, 32), (0.004, 0.008)), CostTable((32,), (0.008,)))


def guessing(num_streams: int = 2, alpha: float = 0.9) -> Observation:
    """Streams for which guesses pay, on one draft node."""
    streams = tuple(StreamView(n + 1, alpha, 100, draft="a") for n in range(num_streams))
    draft = DraftView("a", DRAFT_COSTS, Link(rtt_s=0.01))
    return Observation(streams, TARGET_COSTS, (draft,))


def plan_record(observation: Observation, at_s: float = 10.0) -> PlanRecord:
    plan = joint_plan(observation)
    return PlanRecord(
        at_s, "t", observation, plan.policy, plan.batches, plan.plain, plan.prediction
    )


ROUND: tuple[Record, ...] = (
    plan_record(guessing()),
    RoundRecord(
        10.0,
        "t",
        7,
        1,
        0.2,
        (RoundStream(1, 4, 0.3), RoundStream(2, 3)),
        (RoundNode("a", 0.02, 0.01, (1, 2)),),
    ),
    DraftRecord(10.05, "t", 7, "a", 0.03, 0.024, 0.01),
    VerifyRecord(10.05, "t", 7, 9, 0.05),
    PassRecord(
        10.12, "t", 0.06, 0.05, 0.002, (PassStream(1, 7, 3, 4, 2), PassStream(2, 7, 1, 3, 0))
    ),
    LapRecord(10.12, "t", 7, 0.12, 0.2),
)
OTHERS: tuple[Record, ...] = (
    GivenUpRecord(10.2, "t", 8, ("a", "b")),
    TrialRecord(10.2, "t", 9, "a", (3,)),
    DraftRecord(10.25, "t", 9, "a", 0.02, 0.0, 0.01, 3, 1),
    TrialResultRecord(10.3, "t", 3, 4, 1),
    PassRecord(10.3, "t", 0.04, 0.0, 0.0, (PassStream(3, 0, 1),), 32),
)
