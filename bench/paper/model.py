"""Runs of a task set: prompts arrive, are read, and streams decode in waves until all have ended.

Tasks are admitted in the order of their arrival while the cells of their whole prompts and outputs
fit. When a phase begins, all prompts that have arrived are prefilled at once, and nothing is
decoded meanwhile; this gives each task its first token. Then all active streams circulate by one
plan until an eighth of them (`replan_share`) has ended or as many prompts have arrived. A stream's
tokens come in rounds: it ends after ceil(tokens left / tokens of a round) rounds. Acceptance takes
its expected value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.paper.tasks import TaskSet
from bench.paper.world import World, problem_at, whole_problem
from policies.acceptance import Floats
from policies.cycle import CyclePlan, evaluate
from policies.problem import CycleProblem, Ints

Planner = Callable[[CycleProblem], CyclePlan]
# Keeps rounding errors from adding a round to a finished stream.
_SLACK = 1e-9
_STATIC_STEPS = 8


@dataclass(frozen=True, slots=True)
class Pace:
    """Tokens (n,) that each stream commits every period_s (n,)."""

    period_s: Floats
    tokens: Floats

    def finish_s(self, tokens_left: Floats) -> Floats:
        """(n,) seconds until the round that commits a stream's last token has ended."""
        return np.ceil(tokens_left / self.tokens - _SLACK) * self.period_s


def pace_of(problem: CycleProblem, plan: CyclePlan, *, overlap: bool = True) -> Pace:
    """Return the speed of a plan's streams; plain streams also get passes of their own."""
    cost = evaluate(problem, plan, overlap=overlap)
    guesses = plan.gammas > 0
    num_plain = int((~guesses).sum())
    period_s = np.full(len(guesses), cost.cycle_s)
    if guesses.any() and num_plain:
        passes = float((cost.verify_s > 0).sum())
        passes += (cost.cycle_s - float(cost.verify_s.sum())) / float(problem.target_s[num_plain])
        period_s[~guesses] = cost.cycle_s / passes
    return Pace(period_s, problem.earned[np.arange(len(guesses)), plan.gammas])


def run_waves(
    world: World,
    tasks: TaskSet,
    arrived_s: Floats,
    planner: Planner,
    *,
    overlap: bool = True,
    drafts: bool = True,
) -> Floats:
    """Return (n,) seconds from 0 to each task's last token.

    arrived_s: (n,) arrival time of each prompt. overlap: as in policies.cycle.evaluate. drafts:
    whether the draft node reads prompts, too. Each task alone must fit the caches (`world_of`).
    """
    whole = whole_problem(world, tasks)
    row_of = np.argsort(np.array(whole.stream_ids))
    queue = np.argsort(arrived_s, kind="stable").tolist()
    ended_s = np.zeros(tasks.num)
    left = np.zeros(tasks.num)
    active: list[int] = []
    clock_s = 0.0
    while queue or active:
        # More may arrive while prompts are read.
        while admitted := _admit(world, tasks, queue, active, arrived_s <= clock_s):
            clock_s += _prefill_s(world, tasks.prompts[admitted], drafts)
            left[admitted] = tasks.outputs[admitted] - 1
            ended_s[admitted] = clock_s
            active += [k for k in admitted if left[k] > 0]
        if not active:
            clock_s = max(clock_s, arrived_s[queue[0]]) if queue else clock_s
            continue
        rows = np.sort(row_of[active])
        streams = np.array(whole.stream_ids)[rows]
        done = tasks.outputs[streams] - left[streams]
        cells = int(tasks.prompts[streams].sum() + done.sum())
        problem = problem_at(world, whole, rows, left[streams], cells)
        pace = pace_of(problem, planner(problem), overlap=overlap)
        finish_s = pace.finish_s(left[streams])
        waits = bool(queue) and arrived_s[queue[0]] <= clock_s
        coming_s = np.array([] if waits else arrived_s[queue] - clock_s)
        phase_s = _phase_s(finish_s, coming_s, world.replan_share)
        left[streams] -= pace.tokens * (phase_s / pace.period_s)
        # A stream in its last round finishes by the old plan.
        ends = (finish_s <= phase_s) | (left[streams] <= 0.0)
        ended_s[streams[ends]] = clock_s + finish_s[ends]
        active = streams[~ends].tolist()
        clock_s += phase_s
    return ended_s


def _phase_s(finish_s: Floats, coming_s: Floats, replan_share: float) -> float:
    """Return the seconds until the share of streams has finished or as many prompts arrived."""
    events = np.sort(np.concatenate([finish_s, coming_s]))
    num = math.ceil(replan_share * len(finish_s))
    return float(events[min(num, len(events)) - 1])


def _admit(
    world: World, tasks: TaskSet, queue: list[int], active: list[int], is_there: np.ndarray
) -> list[int]:
    """Remove from the head of the queue the tasks that have arrived and fit; return them."""
    room = world.cells - int(tasks.needs[active].sum())
    admitted = []
    while queue and is_there[queue[0]] and tasks.needs[queue[0]] <= room:
        k = queue.pop(0)
        room -= int(tasks.needs[k])
        admitted.append(k)
    return admitted


def _prefill_s(world: World, prompts: Ints, drafts: bool) -> float:
    """Return the seconds of reading prompts, which both nodes do at the same time."""
    target_s = world.target.prefill_s(prompts)
    return max(target_s, world.draft.prefill_s(prompts)) if drafts else target_s


def run_static(world: World, tasks: TaskSet, arrived_s: Floats, gamma: int) -> Floats:
    """Return (n,) seconds to each task's last token in static batches.

    A batch takes tasks in the order of arrival while its prompts, all padded to its longest, and
    its outputs fit. It begins when all its prompts have arrived and the batch before has ended.
    Members that have ended keep their cells, and are verified, until the longest one ends.
    """
    whole = whole_problem(world, tasks)
    row_of = np.argsort(np.array(whole.stream_ids))
    queue = np.argsort(arrived_s, kind="stable").tolist()
    ended_s = np.zeros(tasks.num)
    clock_s = 0.0
    while queue:
        size = _static_size(world, tasks, queue)
        batch, queue = np.array(queue[:size]), queue[size:]
        longest = int(tasks.prompts[batch].max())
        clock_s = max(clock_s, float(arrived_s[batch].max()))
        clock_s += _prefill_s(world, np.full(size, longest), gamma > 0)
        rows = np.sort(row_of[batch])
        outputs = tasks.outputs[np.array(whole.stream_ids)[rows]]
        tokens = whole.earned[rows, gamma]
        rounds = np.ceil((outputs - 1) / tokens - _SLACK)
        marks = np.linspace(0.0, rounds.max(), _STATIC_STEPS + 1)
        times_s = [0.0]
        plan = CyclePlan((0, size), np.full(size, gamma))
        for first, last in pairwise(marks.tolist()):
            written = np.minimum(outputs, 1 + tokens * (first + last) / 2)
            cells = int(size * longest + written.sum())
            problem = problem_at(world, whole, rows, np.full(size, math.inf), cells)
            times_s.append(times_s[-1] + (last - first) * evaluate(problem, plan).cycle_s)
        ended_s[np.array(whole.stream_ids)[rows]] = clock_s + np.interp(rounds, marks, times_s)
        clock_s += times_s[-1]
    return ended_s


def _static_size(world: World, tasks: TaskSet, queue: list[int]) -> int:
    prompts = np.maximum.accumulate(tasks.prompts[queue]) * np.arange(1, len(queue) + 1)
    fits = prompts + np.cumsum(tasks.outputs[queue]) <= world.cells
    return len(queue) if fits.all() else int(np.argmin(fits))
