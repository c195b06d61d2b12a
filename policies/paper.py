"""The scheme of Zhu et al. 2025 (arXiv 2510.11331) as a policy: for comparisons, not for serving.

All streams have one speculation length, at least 1. A dynamic program cuts them into batches so
that a round of the two-stage pipeline is complete as early as possible. A batch stays as it is
until its last stream has ended, and new streams form batches of their own. The paper has one draft
node and one acceptance; the slowest draft node and the mean acceptance stand for them here.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from airdraft.policies.acceptance import Floats
from airdraft.policies.cycle import CyclePlan
from airdraft.policies.describe import describe, trivial_plan
from airdraft.policies.plan import Observation, Plan
from airdraft.policies.problem import CATCH_UP_TOKENS, CycleProblem, problem_of

# When the target and the draft have finished some batches, and their sizes.
_Way: TypeAlias = tuple[float, float, list[int]]


def paper_plan(observation: Observation) -> Plan:
    """Keep the batches in force, without streams that have left, and form new ones for others."""
    early = trivial_plan(observation, "paper")
    if early is not None:
        return early
    problem = problem_of(observation)
    row_of = {stream_id: row for row, stream_id in enumerate(problem.stream_ids)}
    kept = [[row_of[s] for s in group if s in row_of] for group in observation.groups]
    kept = [rows for rows in kept if rows]
    held = {row for rows in kept for row in rows}
    others = [row for stream_id, row in sorted(row_of.items()) if row not in held]
    sizes = [len(rows) for rows in kept]

    def token_s(length: int) -> tuple[float, int, list[int]]:
        done_s, new = _cut(*_seconds(problem, length), sizes, len(others))
        return done_s / float(problem.earned[:, length].mean()), length, new

    # The paper tries speculation lengths up to 10; a plan here uses at most 8.
    _, length, new = min(map(token_s, range(1, problem.max_gamma + 1)))
    order = np.array([*(row for rows in kept for row in rows), *others], dtype=np.int64)
    ordered = problem.in_order(order)
    bounds = np.concatenate([[0], np.cumsum([*sizes, *new])])
    gammas = np.clip(length, ordered.least, ordered.most)
    return describe(ordered, CyclePlan(tuple(bounds.tolist()), gammas), "paper")


def _cut(draft_s: Floats, verify_s: Floats, kept: list[int], num: int) -> tuple[float, list[int]]:
    """Returns when all batches are finished, and the sizes of those of num streams after the kept.

    Among the ways to serve the first streams, the recursion continues with the one that finishes
    first, as the paper's does.
    """

    def after(way: _Way, size: int) -> _Way:
        verified_s, drafted_s, sizes = way
        drafted_s += float(draft_s[size])
        verified_s = max(verified_s, drafted_s) + float(verify_s[size])
        return verified_s, drafted_s, [*sizes, size]

    way = (0.0, 0.0, list[int]())
    for size in kept:
        way = after(way, size)
    ways = [(way[0], way[1], list[int]())]
    for end in range(1, num + 1):
        found = (after(way, end - before) for before, way in enumerate(ways))
        ways.append(min(found, key=lambda way: way[:2]))
    return ways[-1][0], ways[-1][2]


def _seconds(problem: CycleProblem, length: int) -> tuple[Floats, Floats]:
    """(n + 1,) seconds of drafting and of verifying batches of 0, 1, ... n streams.

    The first step of the draft also reads the tokens that were committed last. Then messages go to
    the target, which runs all guesses and one more token a stream in one pass.
    """
    sizes = np.arange(problem.num_streams + 1)
    draft_s = problem.draft_s.max(axis=0)
    steps_s = draft_s.take(CATCH_UP_TOKENS * sizes, mode="clip")
    steps_s = steps_s + (length - 1) * draft_s.take(sizes, mode="clip")
    air_s = problem.message_air_s.max() + problem.rtt_s.max()
    air_s = air_s + sizes * problem.stream_air_s.max()
    air_s = air_s + sizes * length * problem.token_air_s.max()
    verify_s = problem.target_s.take(sizes * (1 + length), mode="clip")
    is_some = sizes > 0
    return (steps_s + air_s) * is_some, verify_s * is_some
