"""A plan played out: which batch each draft node, medium and the target work on, and when.

Predicted times only, every stage takes what the plan expects of it. A batch starts when its last
pass has ended (and `min_cycle_s` after its last start); half a round-trip later its draft nodes
have the request, each drafts, sends when the medium is free, and half a round-trip later the
target has the guesses, behind a message on its medium where it is on one, as before its answer is
there. Whoever comes first is served first. With plain streams the target decodes
them alone while it would idle.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from policies.cycle import stages_of
from policies.plan import Plan
from policies.problem import CycleProblem, Ints

# Cycles until a schedule has settled, and how many more may be played to find a batch's start.
_WARM_UP_CYCLES = 4
_SPARE_CYCLES = 4
# Starts of batches in a cycle; more, of batches that are far quicker than others, are left out.
_MAX_STARTS = 2000


@dataclass(frozen=True, slots=True)
class Span:
    """Work on one batch, numbered from 1; 0 for passes of plain streams only, one or more."""

    batch: int
    start_s: float
    end_s: float
    num_passes: int = 1


@dataclass(frozen=True, slots=True)
class Lane:
    """What one device or medium does. kind: draft, air or target; name: "" for the target."""

    kind: str
    name: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Spans of all lanes that touch 0 to end_s, where 0 is a start of the first batch.

    cycle_s: between starts of the first batch, mean of some; None where it starts once at most.
    It may differ from the predicted cycle, which knows mean waits only.
    """

    end_s: float
    cycle_s: float | None
    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class _Work:
    """Seconds that one batch takes of each of its draft nodes, its media, and of the target; way_s:
    of each of the messages to and from that."""

    draft_s: dict[int, float]
    air_s: dict[int, float]
    verify_s: float
    way_s: float


def timeline_of(problem: CycleProblem, plan: Plan, num_cycles: int = 2) -> Timeline:
    """The schedule of a plan with a prediction over some cycles, after it has settled."""
    assert plan.prediction is not None
    cycle_s = plan.prediction.cycle_s
    warm_s = _WARM_UP_CYCLES * cycle_s if plan.batches else 0.0
    horizon_s = warm_s + (num_cycles + _SPARE_CYCLES) * cycle_s
    play = _Play(problem, plan, _works(problem, plan), horizon_s)
    play.run()
    settled = [at for at in play.starts if warm_s <= at <= warm_s + _SPARE_CYCLES * cycle_s]
    start_s = settled[0] if settled else warm_s
    end_s = start_s + num_cycles * cycle_s
    named = [("draft", name, play.drafting[j]) for j, name in enumerate(problem.node_names)]
    named += [("air", name, play.sending[i]) for i, name in enumerate(problem.medium_names)]
    lanes = [
        Lane(kind, name, _between(spans, start_s, end_s))
        for kind, name, spans in [*named, ("target", "", play.verifying)]
        if spans or kind == "target"
    ]
    turns = [at for at in play.starts if at >= start_s]
    period_s = (turns[-1] - turns[0]) / (len(turns) - 1) if len(turns) > 1 else None
    return Timeline(end_s - start_s, period_s, tuple(lanes))


def _between(spans: list[Span], start_s: float, end_s: float) -> tuple[Span, ...]:
    return tuple(
        replace(span, start_s=span.start_s - start_s, end_s=span.end_s - start_s)
        for span in spans
        if span.end_s > start_s and span.start_s < end_s
    )


def node_counts(problem: CycleProblem, plan: Plan) -> tuple[Ints, Ints]:
    """(g, J, m) streams of each draft node in each batch that take step 1, 2, ... g of a draft,
    and (J, m) their guesses."""
    at = {stream_id: k for k, stream_id in enumerate(problem.stream_ids)}
    shape = (problem.max_gamma, len(problem.node_names), len(plan.batches))
    counts = np.zeros(shape, dtype=np.int64)
    guesses = np.zeros(shape[1:], dtype=np.int64)
    for m, batch in enumerate(plan.batches):
        for stream_id, gamma in zip(batch.stream_ids, batch.gammas, strict=True):
            k = at[stream_id]
            counts[:gamma, problem.nodes[k], m] += 1
            guesses[problem.nodes[k], m] += gamma
    return counts, guesses


def _works(problem: CycleProblem, plan: Plan) -> list[_Work]:
    assert plan.prediction is not None
    counts, guesses = node_counts(problem, plan)
    asked = counts[0]
    nothing = np.zeros(len(plan.batches))
    draft_s = stages_of(problem, counts, guesses, nothing).draft_s
    air_s = (
        problem.message_air_s[:, None]
        + asked * problem.stream_air_s[:, None]
        + guesses * problem.token_air_s[:, None]
    )
    way_s = nothing
    if problem.target_air is not None:
        way_s = problem.target_air.of(asked.sum(axis=0), guesses.sum(axis=0)) / 2
    works = []
    for m, times in enumerate(plan.prediction.batches):
        nodes = np.flatnonzero(asked[:, m])
        shares = {int(j): float(air_s[j, m]) for j in nodes}
        if plan.equal_shares:
            # All send at once at equal shares of the medium, as long as the one with most to send.
            for j in nodes:
                beside = nodes[problem.media[nodes] == problem.media[j]]
                shares[int(j)] = float(len(beside) * air_s[beside, m].max())
        drafts = {int(j): float(draft_s[j, m]) for j in nodes}
        works.append(_Work(drafts, shares, times.verify_s, float(way_s[m])))
    return works


_Event = tuple[float, int, Callable[[float, int, int], None], int, int]


@dataclass
class _Play:
    """The schedule as it unfolds: events in order of time, each handled once."""

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
        quickest_s = self.plan.prediction.cycle_s * len(self.works) / _MAX_STARTS
        self._min_lap_s = max(self.plan.min_cycle_s, quickest_s)
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
        self._not_before_s[m] = now_s + self._min_lap_s
        self._missing[m] = len(self.works[m].draft_s)
        for j in self.works[m].draft_s:
            self._later(now_s + self.problem.rtt_s[j] / 2, self._asked, m, j)

    def _asked(self, now_s: float, m: int, j: int) -> None:
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
            self._on_way(now_s, m, self._told)

    def _on_way(self, now_s: float, m: int, handle: Callable[[float, int, int], None]) -> None:
        """Send a message to or from the target; handle: when it is there."""
        way = self.problem.target_air
        if way is None:
            handle(now_s, m, -1)
        else:
            end_s = _occupy(self.sending[way.medium], m, now_s, self.works[m].way_s)
            self._later(end_s, handle, m)

    def _told(self, now_s: float, m: int, _: int) -> None:
        self._decode_plainly(now_s)
        start_s = max(now_s, self._target_free_s)
        end_s = start_s + self.works[m].verify_s
        self.verifying.append(Span(m + 1, start_s, end_s))
        self._target_free_s = end_s
        if self.problem.target_air is None:
            self._answered(end_s, m, -1)
        else:
            self._later(end_s, self._run_through, m)

    def _run_through(self, now_s: float, m: int, _: int) -> None:
        self._on_way(now_s, m, self._answered)

    def _answered(self, end_s: float, m: int, _: int) -> None:
        following = m if self.plan.overlap else (m + 1) % len(self.works)
        self._later(max(end_s, self._not_before_s[following]), self._start, following)

    def _decode_plainly(self, until_s: float) -> None:
        """Passes of plain streams one after another, the last one begun before until_s."""
        idle_s = until_s - self._target_free_s
        if not self.plan.plain or idle_s <= 0:
            return
        num_passes = math.ceil(idle_s / self._plain_s)
        start_s = self._target_free_s
        self._target_free_s += num_passes * self._plain_s
        self.verifying.append(Span(0, start_s, self._target_free_s, num_passes))


def _occupy(lane: list[Span], m: int, now_s: float, seconds: float) -> float:
    """Put work behind what a lane does already; when it ends."""
    start_s = max(now_s, lane[-1].end_s) if lane else now_s
    lane.append(Span(m + 1, start_s, start_s + seconds))
    return start_s + seconds
