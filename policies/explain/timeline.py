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
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from policies.cycle import block_sums, stages_of
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


@dataclass(frozen=True, slots=True)
class _Work:
    """Seconds that one batch takes of its draft nodes, of their messages, and of the target.

    draft_s, air_s: by index of the draft node. way_s: each message to or from the target.
    """

    draft_s: dict[int, float]
    air_s: dict[int, float]
    verify_s: float
    way_s: float


def timeline_of(problem: CycleProblem, plan: Plan, num_cycles: int = 2) -> Timeline:
    """Returns the schedule of a plan over some cycles, after it has settled.

    The plan must have a prediction.
    """
    assert plan.prediction is not None
    cycle_s = plan.prediction.cycle_s
    warm_s = _WARM_UP_CYCLES * cycle_s if plan.batches else 0.0
    horizon_s = warm_s + (num_cycles + _SPARE_CYCLES) * cycle_s
    simulation = _Simulation(problem, plan, _works(problem, plan), horizon_s)
    simulation.run()
    starts = simulation.starts
    settled = [at for at in starts if warm_s <= at <= warm_s + _SPARE_CYCLES * cycle_s]
    start_s = settled[0] if settled else warm_s
    end_s = start_s + num_cycles * cycle_s
    named = [("draft", name, simulation.drafting[j]) for j, name in enumerate(problem.node_names)]
    named += [("air", name, simulation.sending[i]) for i, name in enumerate(problem.medium_names)]
    lanes = [
        Lane(kind, name, _between(spans, start_s, end_s))
        for kind, name, spans in [*named, ("target", "", simulation.verifying)]
        if spans or kind == "target"
    ]
    turns = [at for at in starts if at >= start_s]
    period_s = (turns[-1] - turns[0]) / (len(turns) - 1) if len(turns) > 1 else None
    return Timeline(end_s - start_s, period_s, tuple(lanes))


def _between(spans: list[Span], start_s: float, end_s: float) -> tuple[Span, ...]:
    return tuple(
        replace(span, start_s=span.start_s - start_s, end_s=span.end_s - start_s)
        for span in spans
        if span.end_s > start_s and span.start_s < end_s
    )


def _works(problem: CycleProblem, plan: Plan) -> list[_Work]:
    assert plan.prediction is not None
    ordered, cycle = in_plan_order(problem, plan)
    sums = block_sums(ordered, cycle.gammas[None], cycle.bounds)
    # The last one may be of plain streams.
    counts = np.diff(sums.counts[..., 0], axis=2)[:, :, : len(plan.batches)]
    guesses = np.diff(sums.guesses[..., 0], axis=1)[:, : len(plan.batches)]
    drafted = counts[0]
    nothing = np.zeros(len(plan.batches))
    draft_s = stages_of(problem, counts, guesses, nothing).draft_s
    air_s = problem.message_s(drafted, guesses)
    way_s = nothing
    if problem.target_air is not None:
        way_s = problem.target_air.of(drafted.sum(axis=0), guesses.sum(axis=0)) / 2
    works = []
    for m, times in enumerate(plan.prediction.batches):
        nodes = np.flatnonzero(drafted[:, m])
        shares = {int(j): float(air_s[j, m]) for j in nodes}
        if plan.equal_shares:
            # All nodes send at once with equal shares, until the one with most to send is done.
            for j in nodes:
                beside = nodes[problem.media[nodes] == problem.media[j]]
                shares[int(j)] = float(len(beside) * air_s[beside, m].max())
        drafts = {int(j): float(draft_s[j, m]) for j in nodes}
        works.append(_Work(drafts, shares, times.verify_s, float(way_s[m])))
    return works


_Event = tuple[float, int, Callable[[float, int, int], None], int, int]


@dataclass
class _Simulation:
    """A simulation of the schedule, which handles events in the order of time."""

    problem: CycleProblem
    plan: Plan
    works: list[_Work]
    horizon_s: float
    drafting: list[list[Span]] = field(init=False)
    sending: list[list[Span]] = field(init=False)
    verifying: list[Span] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    _events: list[_Event] = field(default_factory=list)
    _num_events: int = 0
    _target_free_s: float = 0.0

    def __post_init__(self) -> None:
        self.drafting = [[] for _ in self.problem.node_names]
        self.sending = [[] for _ in self.problem.medium_names]
        self._missing = [0] * len(self.works)
        self._not_before_s = [0.0] * len(self.works)
        assert self.plan.prediction is not None
        shortest_s = self.plan.prediction.cycle_s * len(self.works) / _MAX_STARTS
        self._min_cycle_s = max(self.plan.min_cycle_s, shortest_s)
        self._plain_s = float(self.problem.plain_pass_s(len(self.plan.plain)))

    def run(self) -> None:
        for m in range(len(self.works) if self.plan.overlap else min(1, len(self.works))):
            self._later(0.0, self._start, m)
        while self._events and self._events[0][0] <= self.horizon_s:
            at_s, _, handle, m, j = heapq.heappop(self._events)
            handle(at_s, m, j)
        self._decode_plainly(self.horizon_s)

    def _later(
        self, at_s: float, handle: Callable[[float, int, int], None], m: int, j: int = -1
    ) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (at_s, self._num_events, handle, m, j))

    def _start(self, now_s: float, m: int, _: int) -> None:
        if m == 0:
            self.starts.append(now_s)
        self._not_before_s[m] = now_s + self._min_cycle_s
        self._missing[m] = len(self.works[m].draft_s)
        for j in self.works[m].draft_s:
            self._later(now_s + self.problem.rtt_s[j] / 2, self._requested, m, j)

    def _requested(self, now_s: float, m: int, j: int) -> None:
        end_s = _occupy(self.drafting[j], m, now_s, self.works[m].draft_s[j])
        self._later(end_s, self._drafted, m, j)

    def _drafted(self, now_s: float, m: int, j: int) -> None:
        lane, air_s = self.sending[self.problem.media[j]], self.works[m].air_s[j]
        end_s = now_s
        if air_s > 0:
            together = self.plan.equal_shares and lane and lane[-1].batch == m + 1
            if together and now_s <= lane[-1].end_s:
                last = lane[-1]
                lane[-1] = Span(m + 1, last.start_s, max(last.end_s, now_s + air_s))
                end_s = now_s + air_s
            else:
                end_s = _occupy(lane, m, now_s, air_s)
        self._later(end_s + self.problem.rtt_s[j] / 2, self._arrived, m, j)

    def _arrived(self, now_s: float, m: int, _: int) -> None:
        self._missing[m] -= 1
        if not self._missing[m]:
            self._send(now_s, m, self._at_target)

    def _send(self, now_s: float, m: int, handle: Callable[[float, int, int], None]) -> None:
        """Send a message to or from the target. handle: called when it has arrived."""
        way = self.problem.target_air
        if way is None:
            handle(now_s, m, -1)
        else:
            end_s = _occupy(self.sending[way.medium], m, now_s, self.works[m].way_s)
            self._later(end_s, handle, m)

    def _at_target(self, now_s: float, m: int, _: int) -> None:
        self._decode_plainly(now_s)
        start_s = max(now_s, self._target_free_s)
        end_s = start_s + self.works[m].verify_s
        self.verifying.append(Span(m + 1, start_s, end_s))
        self._target_free_s = end_s
        if self.problem.target_air is None:
            self._answered(end_s, m, -1)
        else:
            self._later(end_s, self._verified, m)

    def _verified(self, now_s: float, m: int, _: int) -> None:
        self._send(now_s, m, self._answered)

    def _answered(self, end_s: float, m: int, _: int) -> None:
        following = m if self.plan.overlap else (m + 1) % len(self.works)
        self._later(max(end_s, self._not_before_s[following]), self._start, following)

    def _decode_plainly(self, until_s: float) -> None:
        """Add passes of plain streams one after another, the last one begun before until_s."""
        idle_s = until_s - self._target_free_s
        if not self.plan.plain or idle_s <= 0:
            return
        num_passes = math.ceil(idle_s / self._plain_s)
        start_s = self._target_free_s
        self._target_free_s += num_passes * self._plain_s
        self.verifying.append(Span(0, start_s, self._target_free_s, num_passes))


def _occupy(lane: list[Span], m: int, now_s: float, seconds: float) -> float:
    """Append work to a lane, as early as possible; returns when it ends."""
    start_s = max(now_s, lane[-1].end_s) if lane else now_s
    lane.append(Span(m + 1, start_s, start_s + seconds))
    return start_s + seconds
