"""Simulates a plan: when each draft node, each medium and the target work on which batch.

Every stage takes its predicted time. A batch starts when its last pass has ended, and not before
`min_cycle_s` after its last start. Half a round trip later its draft nodes have the request. Each
drafts and sends its guesses when the medium is free, and half a round trip later the target has
them. If the target is on a medium, the guesses and its answer also take a message's time there.
Each stage serves batches in the order of their arrival. While the target has no batch, it decodes
plain streams.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from policies.cycle import block_sums, evaluate
from policies.plan import Plan
from policies.priced import in_plan_order
from policies.problem import CycleProblem

# Cycles until a schedule has settled, and further cycles that may be simulated to find a start.
_WARM_UP_CYCLES = 4
_SPARE_CYCLES = 4
# Most starts of batches in a cycle. Batches that are far faster than others start less often.
_MAX_STARTS = 2000


@dataclass(frozen=True, slots=True)
class Span:
    """Work on one batch. batch: its number from 1; 0 for passes of plain streams only."""

    batch: int
    start_s: float
    end_s: float
    num_passes: int = 1


@dataclass(frozen=True, slots=True)
class Lane:
    """The work of one device or medium. kind: draft, air or target. name: "" for the target."""

    kind: str
    name: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """The spans of all lanes between 0 and end_s, where 0 is a start of the first batch.

    cycle_s: mean seconds between starts of the first batch; None if it starts at most once. It may
    differ from the predicted cycle, which contains only mean waits.
    """

    end_s: float
    cycle_s: float | None
    lanes: tuple[Lane, ...]


def timeline_of(problem: CycleProblem, plan: Plan, num_cycles: int = 2) -> Timeline:
    """Returns the schedule of a plan over some cycles, after it has settled.

    The plan must have a prediction.
    """
    assert plan.prediction is not None
    cycle_s = plan.prediction.cycle_s
    warm_s = _WARM_UP_CYCLES * cycle_s if plan.batches else 0.0
    schedule = _Schedule(problem, plan)
    schedule.run(warm_s + (num_cycles + _SPARE_CYCLES) * cycle_s)
    starts = schedule.starts
    settled = [at for at in starts if warm_s <= at <= warm_s + _SPARE_CYCLES * cycle_s]
    start_s = settled[0] if settled else warm_s
    end_s = start_s + num_cycles * cycle_s
    lanes = [
        *(("draft", *lane) for lane in zip(problem.node_names, schedule.drafting, strict=True)),
        *(("air", *lane) for lane in zip(problem.medium_names, schedule.sending, strict=True)),
        ("target", "", schedule.verifying),
    ]
    turns = [at for at in starts if at >= start_s]
    return Timeline(
        end_s - start_s,
        (turns[-1] - turns[0]) / (len(turns) - 1) if len(turns) > 1 else None,
        tuple(
            Lane(kind, name, _between(spans, start_s, end_s))
            for kind, name, spans in lanes
            if spans or kind == "target"
        ),
    )


def _between(spans: list[Span], start_s: float, end_s: float) -> tuple[Span, ...]:
    return tuple(
        replace(span, start_s=span.start_s - start_s, end_s=span.end_s - start_s)
        for span in spans
        if span.end_s > start_s and span.start_s < end_s
    )


class _Schedule:
    """The spans of all draft nodes, media and the target, and the starts of the first batch."""

    def __init__(self, problem: CycleProblem, plan: Plan) -> None:
        assert plan.prediction is not None
        self.drafting: list[list[Span]] = [[] for _ in problem.node_names]
        self.sending: list[list[Span]] = [[] for _ in problem.medium_names]
        self.verifying: list[Span] = []
        self.starts: list[float] = []
        self._problem, self._plan = problem, plan
        num_batches = len(plan.batches)
        ordered, cycle = in_plan_order(problem, plan)
        sums = block_sums(ordered, cycle.gammas[None], cycle.bounds)
        drafted, guesses = np.diff(sums.counts[0, ..., 0]), np.diff(sums.guesses[..., 0])
        air_s = problem.message_s(drafted, guesses)
        if plan.equal_shares:
            # All nodes send at once with equal shares, until the one with most to send is done.
            for medium in set(problem.media.tolist()):
                mine = problem.media == medium
                air_s[mine] = (drafted[mine] > 0).sum(axis=0) * air_s[mine].max(axis=0)
        # By draft node and batch: seconds of drafting and sending. By batch: seconds of a message
        # to or from the target and of the pass, and the draft nodes.
        self._draft_s = evaluate(ordered, cycle).stages.draft_s.tolist()
        self._air_s = air_s.tolist()
        way_s = problem.target_air.of(drafted.sum(axis=0), guesses.sum(axis=0)) / 2
        self._way_s = way_s.tolist()
        self._verify_s = [times.verify_s for times in plan.prediction.batches]
        self._nodes = [np.flatnonzero(drafted[:, m]).tolist() for m in range(num_batches)]
        shortest_s = plan.prediction.cycle_s * num_batches / _MAX_STARTS
        self._min_cycle_s = max(plan.min_cycle_s, shortest_s)
        # By batch: when it may start again, and the draft nodes whose guesses are to come.
        self._not_before_s = [0.0] * num_batches
        self._num_missing = [0] * num_batches
        self._now_s = 0.0
        self._num_resumed = 0
        # Rounds by the time at which each goes on; each yields when it goes on next.
        self._resumed: list[tuple[float, int, Iterator[float]]] = []

    def run(self, horizon_s: float) -> None:
        num_batches = len(self._plan.batches)
        for m in range(num_batches if self._plan.overlap else min(1, num_batches)):
            self._start(m)
        while self._resumed and self._resumed[0][0] <= horizon_s:
            self._now_s, _, a_round = heapq.heappop(self._resumed)
            for at_s in a_round:
                self._resume(at_s, a_round)
                break
        self._decode_plainly(horizon_s)

    def _resume(self, at_s: float, a_round: Iterator[float]) -> None:
        # Of rounds that go on at one instant, the one that was put in first comes first.
        self._num_resumed += 1
        heapq.heappush(self._resumed, (at_s, self._num_resumed, a_round))

    def _start(self, m: int) -> None:
        if m == 0:
            self.starts.append(self._now_s)
        self._not_before_s[m] = self._now_s + self._min_cycle_s
        self._num_missing[m] = len(self._nodes[m])
        for j in self._nodes[m]:
            self._resume(self._now_s + self._problem.rtt_s[j] / 2, self._round(m, j))

    def _round(self, m: int, j: int) -> Iterator[float]:
        """The round of a batch at one draft node, from when the node has the request.

        The round of the node whose guesses arrive last goes on with the pass and the next start.
        """
        yield self._occupy(self.drafting[j], m, self._draft_s[j][m])
        sent_s = self._send(self.sending[self._problem.media[j]], m, self._air_s[j][m])
        yield sent_s + self._problem.rtt_s[j] / 2
        self._num_missing[m] -= 1
        if self._num_missing[m]:
            return
        at_target, way_s = self.sending[self._problem.target_air.medium], self._way_s[m]
        if way_s:
            yield self._occupy(at_target, m, way_s)
        self._decode_plainly(self._now_s)
        end_s = self._occupy(self.verifying, m, self._verify_s[m])
        if way_s:
            yield end_s
            end_s = self._occupy(at_target, m, way_s)
            yield end_s
        following = m if self._plan.overlap else (m + 1) % len(self._nodes)
        yield max(end_s, self._not_before_s[following])
        self._start(following)

    def _occupy(self, lane: list[Span], m: int, seconds: float) -> float:
        """Append work to a lane, as early as possible; returns when it ends."""
        start_s = max(self._now_s, lane[-1].end_s) if lane else self._now_s
        lane.append(Span(m + 1, start_s, start_s + seconds))
        return start_s + seconds

    def _send(self, lane: list[Span], m: int, air_s: float) -> float:
        """Append the message of a draft node to its medium; returns when it ends."""
        end_s = self._now_s + air_s
        if air_s == 0:
            return end_s
        last = lane[-1] if self._plan.equal_shares and lane else None
        if last is None or last.batch != m + 1 or last.end_s < self._now_s:
            return self._occupy(lane, m, air_s)
        # The links of a medium send the guesses of a batch at once.
        lane[-1] = replace(last, end_s=max(last.end_s, end_s))
        return end_s

    def _decode_plainly(self, until_s: float) -> None:
        """Add passes of plain streams one after another, the last one begun before until_s."""
        start_s = self.verifying[-1].end_s if self.verifying else 0.0
        if not self._plan.plain or until_s <= start_s:
            return
        pass_s = float(self._problem.plain_pass_s(len(self._plan.plain)))
        num_passes = math.ceil((until_s - start_s) / pass_s)
        self.verifying.append(Span(0, start_s, start_s + num_passes * pass_s, num_passes))
