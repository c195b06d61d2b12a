"""The recorder of one target's scheduler: what it is told becomes records in a ring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nodes.messages import CommitEntry
from nodes.scheduler.rounds import Round
from nodes.stream import StreamId
from nodes.trace.records import (
    DraftRecord,
    GivenUpRecord,
    LapRecord,
    PassRecord,
    PassStream,
    PlanRecord,
    RoundNode,
    RoundRecord,
    RoundStream,
    TrialRecord,
    TrialResultRecord,
    VerifyRecord,
)
from nodes.trace.ring import Ring
from policies.plan import Observation, Plan


class RingRecorder:
    """A Recorder. rtt_s: tells the round trip to the target, 0.0 while it is not known."""

    def __init__(self, ring: Ring, target: str, rtt_s: Callable[[], float]) -> None:
        self._ring, self._target, self._rtt_s = ring, target, rtt_s

    def planned(self, observation: Observation, plan: Plan, now: float) -> None:
        self._ring.add(
            PlanRecord(
                now,
                self._target,
                observation,
                plan.policy,
                plan.batches,
                plan.plain,
                plan.prediction,
            )
        )

    def round_started(
        self, current: Round, batch: int, stops: Mapping[StreamId, float], now: float
    ) -> None:
        streams = tuple(
            RoundStream(stream_id, gamma, stops.get(stream_id, 0.0))
            for stream_id, gamma in current.asked.items()
        )
        nodes = tuple(
            RoundNode(name, share.draft_s, share.link_s, share.stream_ids)
            for name, share in current.shares.items()
        )
        round_id, predicted_s = current.round_id, current.predicted_s
        self._ring.add(RoundRecord(now, self._target, round_id, batch, predicted_s, streams, nodes))

    def drafted(
        self,
        round_id: int,
        node: str,
        draft_s: float,
        predicted_s: float,
        rtt_s: float,
        now: float,
        ahead: tuple[int, int] = (0, 0),
    ) -> None:
        times = draft_s, predicted_s, rtt_s
        self._ring.add(DraftRecord(now, self._target, round_id, node, *times, *ahead))

    def given_up(self, round_id: int, nodes: Sequence[str], now: float) -> None:
        self._ring.add(GivenUpRecord(now, self._target, round_id, tuple(nodes)))

    def verify_sent(self, round_id: int, num_tokens: int, predicted_s: float, now: float) -> None:
        self._ring.add(VerifyRecord(now, self._target, round_id, num_tokens, predicted_s))

    def committed(
        self,
        pass_s: float,
        predicted_s: float,
        entries: Sequence[tuple[CommitEntry, int]],
        now: float,
        num_read: int = 0,
    ) -> None:
        streams = tuple(
            PassStream(
                entry.stream_id,
                round_id,
                entry.num_tokens,
                entry.num_draft_tokens,
                entry.num_accepted_tokens,
            )
            for entry, round_id in entries
        )
        times = pass_s, predicted_s, self._rtt_s()
        self._ring.add(PassRecord(now, self._target, *times, streams, num_read))

    def lap_done(self, current: Round, now: float) -> None:
        lap_s = now - current.started
        self._ring.add(LapRecord(now, self._target, current.round_id, lap_s, current.predicted_s))

    def trial_started(
        self, round_id: int, node: str, stream_ids: Sequence[int], now: float
    ) -> None:
        self._ring.add(TrialRecord(now, self._target, round_id, node, tuple(stream_ids)))

    def trial_decided(
        self, stream_id: StreamId, num_draft_tokens: int, num_right: int, now: float
    ) -> None:
        self._ring.add(TrialResultRecord(now, self._target, stream_id, num_draft_tokens, num_right))
