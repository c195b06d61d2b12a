"""Records of each kind: of two streams that one draft node follows, and of what came besides."""

from airdraft.nodes.telemetry.trace.records import (
    FollowRecord,
    GuessRecord,
    PassRecord,
    PassStream,
    PlanRecord,
    Record,
)
from airdraft.policies.joint import joint_plan
from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.openflow import open_price_s
from airdraft.policies.plan import DraftView, Link, Observation, StreamView

TARGET_COSTS = NodeCosts(CostTable((1, 32), (0.04, 0.06)), CostTable((32,), (0.06,)))
DRAFT_COSTS = NodeCosts(CostTable((1, 32), (0.004, 0.008)), CostTable((32,), (0.008,)))


def guessing(num_streams: int = 2, alpha: float = 0.9) -> Observation:
    """Streams for which guesses pay, on one draft node."""
    streams = tuple(StreamView(n + 1, alpha, 100, draft="a") for n in range(num_streams))
    draft = DraftView("a", DRAFT_COSTS, Link(rtt_s=0.01))
    return Observation(streams, TARGET_COSTS, (draft,))


def plan_record(
    observation: Observation, at_s: float = 10.0, *, is_grouped: bool = False
) -> PlanRecord:
    plan = joint_plan(observation)
    return PlanRecord(
        at_s,
        "t",
        observation,
        plan.policy,
        plan.batches,
        plan.plain,
        plan.prediction,
        is_grouped,
        open_price_s(observation),
    )


PLAN = plan_record(guessing())
FOLLOWED = FollowRecord(10.0, "t", 1, "a", "")
GUESSES = GuessRecord(10.02, "t", "a", 2, 7)
# Of 60 ms, reported at 10.12 over a link of 2 ms: one stream had its guesses from a draft node, the
# other its own.
PASS = PassRecord(
    10.12,
    "t",
    0.06,
    0.05,
    0.002,
    (
        PassStream(1, 3, 4, 2, num_offered=6, num_late=1, best_percent=80),
        PassStream(2, 1, 3, 0, num_looked_up=3),
    ),
)
FLOW: tuple[Record, ...] = (PLAN, FOLLOWED, GUESSES, PASS)
OTHERS: tuple[Record, ...] = (
    FollowRecord(10.2, "t", 1, "", "a sent no guesses in time"),
    PassRecord(10.3, "t", 0.04, 0.0, 0.0, (PassStream(3, 1),), 32),
    FollowRecord(10.3, "t", 2, "b", ""),
)
