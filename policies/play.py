"""A plan's batches played through, where they are in each other's way.

A batch uses the air twice in a lap, twice more where the target is on a medium, a draft node and
the target once each. Whether the others are there at the same time depends on how all these fit
into one another: with two batches and bursts of 20 ms the closed form of `policies.cycle` misses
laps by up to a seventh, for seconds of the air that would fit between others' may come at the wrong
time. So plans that use shared seconds are played: a few laps of every batch, message by message,
each stage in the order in which it is asked. Durations are expected ones. It is no bound: a stage
that is slower may fit better.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np

from policies.acceptance import Floats
from policies.cycle import CycleCost, CyclePlan, evaluate
from policies.plan import Kind, kind_of
from policies.problem import CycleProblem

# Batches that use the air for less of their cycle hardly meet on it.
_LEAST_AIR = 0.1
# Laps of each batch until all are in step, and laps that are counted.
_LAPS_BEFORE, _LAPS = 4, 10
# Batches make more guesses in one lap than in the next: messages are longer and shorter by up to
# this part. A plan that fits by chance would not do so for long.
_UNEVEN = 0.4
# A batch that is much slower than the others would be played for as long as all their laps take.
_MOST_EVENTS = 20_000
_GOLDEN = (math.sqrt(5) - 1) / 2


def played_cost(
    problem: CycleProblem, plan: CyclePlan, *, equal_shares: bool = False, overlap: bool = True
) -> CycleCost:
    """Price of a plan, of its played laps where batches meet on the air; and of what plans like it
    have yielded of late, for a play leaves things out: prompts, texts, streams that begin and end.
    """
    cost = evaluate(problem, plan, equal_shares=equal_shares, overlap=overlap)
    if not equal_shares and overlap and meets_on_air(cost):
        cost = cost.played(played_lap_s(problem, plan, cost))
    return cost.at_yield(problem.slowness.of(kind_of_cycle(plan)))


def kind_of_cycle(plan: CyclePlan) -> Kind:
    """As of the plan that it becomes: batches in which nobody guesses count as plain streams."""
    sizes = np.add.reduceat(plan.gammas > 0, plan.bounds[:-1])
    return kind_of(int((sizes > 0).sum()), int((plan.gammas == 0).sum()))


def meets_on_air(cost: CycleCost) -> bool:
    """Whether batches may well wait for one another's messages."""
    air_s = float(cost.stages.air_s.sum(axis=1).max())
    return int((cost.verify_s > 0).sum()) > 1 and air_s > _LEAST_AIR * cost.natural_s


def messages_air_s(problem: CycleProblem, plan: CyclePlan, m: int) -> Floats:
    """(J,) seconds on the air of each draft node's messages in a lap of batch m."""
    first, end = plan.bounds[m], plan.bounds[m + 1]
    mine = first + np.flatnonzero(plan.gammas[first:end])
    nodes, num_nodes = problem.nodes[mine], len(problem.node_names)
    streams = np.bincount(nodes, minlength=num_nodes)
    guesses = np.bincount(nodes, problem.sent[mine, plan.gammas[mine]], minlength=num_nodes)
    air_s = streams * problem.stream_air_s + guesses * problem.token_air_s
    return np.asarray(air_s + (streams > 0) * problem.message_air_s)


@dataclass(slots=True)
class _Batch:
    """nodes: those it asks, the shortest messages first. air_s, draft_s: of each of these, air_s of
    one message: a request takes about as long as its answer. way_s: likewise of the messages to
    and from the target. left: answers to come."""

    nodes: list[int]
    air_s: list[float]
    draft_s: list[float]
    verify_s: float
    way_s: float
    left: int = 0
    size: float = 1.0
    num_laps: int = 0
    counted_from_s: float = 0.0
    last_s: float = 0.0


_START, _ASKED, _DRAFTED, _ANSWERED, _TOLD, _RUN, _VERIFIED = range(7)


def played_lap_s(problem: CycleProblem, plan: CyclePlan, cost: CycleCost) -> float:
    """Seconds of a lap, on average over laps and batches; 0.0 where laps are so unequal that some
    are hardly begun when others have been through many.

    A pass that is in the way of a batch that comes back, where plain streams have some, costs it
    half of that, as in the closed form.
    """
    batches = _batches(problem, plan, cost)
    media, rtt_s = problem.media.tolist(), problem.rtt_s.tolist()
    num_plain = int((plan.gammas == 0).sum())
    plain_s = float(problem.target_s[num_plain]) / 2
    # Where the way to the target takes nothing of a medium, messages are there when they are sent.
    target_medium = -1 if problem.target_air is None else problem.target_air.medium
    medium_free_s = [0.0] * len(problem.medium_names)
    node_free_s = [0.0] * len(problem.node_names)
    target_free_s = 0.0

    def on_air(medium: int, at_s: float, seconds: float) -> float:
        """When a message is through that is sent at a time."""
        medium_free_s[medium] = max(at_s, medium_free_s[medium]) + seconds
        return medium_free_s[medium]

    # (seconds, order, what, batch, place of the node in the batch)
    events = [(k * cost.natural_s / len(batches), k, _START, k, 0) for k in range(len(batches))]
    order = len(batches)
    num_starts = 0
    num_running = len(batches)
    while num_running and order < _MOST_EVENTS:
        now, _, what, number, place = heapq.heappop(events)
        batch = batches[number]
        then: list[tuple[float, int, int]] = []
        if what == _ANSWERED:
            batch.left -= 1
            if not batch.left and target_medium >= 0:
                told_s = on_air(target_medium, now, batch.size * batch.way_s)
                then.append((told_s, _TOLD, 0))
            elif not batch.left:
                what = _TOLD
        if what == _START:
            batch.left = len(batch.nodes)
            num_starts += 1
            # As even as random numbers are not, and the same in every plan.
            batch.size = 1.0 + _UNEVEN * (2.0 * (num_starts * _GOLDEN % 1.0) - 1.0)
            for k, node in enumerate(batch.nodes):
                asked_s = on_air(media[node], now, batch.size * batch.air_s[k])
                then.append((asked_s + rtt_s[node] / 2, _ASKED, k))
        elif what == _ASKED:
            node = batch.nodes[place]
            node_free_s[node] = max(now, node_free_s[node]) + batch.draft_s[place]
            then.append((node_free_s[node], _DRAFTED, place))
        elif what == _DRAFTED:
            node = batch.nodes[place]
            answered_s = on_air(media[node], now, batch.size * batch.air_s[place])
            then.append((answered_s + rtt_s[node] / 2, _ANSWERED, place))
        elif what == _TOLD:
            target_free_s = max(now + plain_s, target_free_s) + batch.verify_s
            then.append((target_free_s, _RUN if target_medium >= 0 else _VERIFIED, 0))
        elif what == _RUN:
            then.append((on_air(target_medium, now, batch.size * batch.way_s), _VERIFIED, 0))
        elif what == _VERIFIED:
            batch.num_laps += 1
            if batch.num_laps == _LAPS_BEFORE:
                batch.counted_from_s = now
            elif batch.num_laps == _LAPS_BEFORE + _LAPS:
                batch.last_s = now
                num_running -= 1
            # Those that are through go on, for they are in the others' way.
            then.append((now, _START, 0))
        for at_s, next_one, k in then:
            heapq.heappush(events, (at_s, order, next_one, number, k))
            order += 1
    if num_running:
        return 0.0
    return sum(batch.last_s - batch.counted_from_s for batch in batches) / _LAPS / len(batches)


def _batches(problem: CycleProblem, plan: CyclePlan, cost: CycleCost) -> list[_Batch]:
    made = []
    way_s, stretch = np.zeros(len(plan.bounds) - 1), np.ones(len(problem.node_names))
    way = problem.target_air
    if way is not None:
        longer = float(problem.stretch(int((plan.gammas == 0).sum())))
        way_s = way.of(cost.stages.num_streams, cost.stages.num_guesses) / 2 * longer
        stretch[problem.media == way.medium] = longer
    for m in np.flatnonzero(cost.verify_s > 0).tolist():
        air_s = messages_air_s(problem, plan, m) / 2 * stretch
        nodes = np.flatnonzero(cost.stages.draft_s[:, m] > 0)
        nodes = nodes[np.argsort(air_s[nodes], kind="stable")]
        draft_s = cost.stages.draft_s[nodes, m]
        messages_s, verify_s = air_s[nodes].tolist(), float(cost.verify_s[m])
        made.append(_Batch(nodes.tolist(), messages_s, draft_s.tolist(), verify_s, float(way_s[m])))
    return made
