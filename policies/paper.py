"""The scheme of Zhu et al. 2025 (arXiv 2510.11331) as a policy: for comparisons, not for serving.

One speculation length for all streams, at least 1; batches by a dynamic program that minimises when
one round of the two-stage pipeline is complete; and a batch stays as it is until its last stream
has ended, while streams that come form batches of their own. The paper has one draft node and the
same acceptance for all; here the slowest draft node and the mean acceptance stand for these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from policies.acceptance import Floats
from policies.cycle import CyclePlan
from policies.describe import describe, trivial_plan
from policies.plan import Observation, Plan
from policies.problem import CATCH_UP_TOKENS, CycleProblem, problem_of

# The largest speculation length that the paper tries is 10; a plan here asks for no more than 8.
_LEAST_LENGTH: Final = 1


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """Seconds of batches of 0, 1, ... n streams at one speculation length: (n + 1,) each."""

    draft_s: Floats
    verify_s: Floats

    def after(self, sizes: list[int]) -> tuple[float, float]:
        """When draft and target are through with batches of these sizes."""
        drafted_s = verified_s = 0.0
        for size in sizes:
            drafted_s += float(self.draft_s[size])
            verified_s = max(verified_s, drafted_s) + float(self.verify_s[size])
        return drafted_s, verified_s

    def cut(self, kept: list[int], num: int) -> tuple[list[int], float]:
        """Sizes of the batches of num streams that follow those kept, and when all are through.

        Of several ways to serve the first streams the recursion goes on with the one that is
        through first, as the paper's does.
        """
        drafted_s, verified_s = self.after(kept)
        ways = [(verified_s, drafted_s, list[int]())]
        for end in range(1, num + 1):
            found = []
            for before, (done_s, begun_s, sizes) in enumerate(ways):
                size = end - before
                drafts_s = begun_s + float(self.draft_s[size])
                done_s = max(done_s, drafts_s) + float(self.verify_s[size])
                found.append((done_s, drafts_s, [*sizes, size]))
            ways.append(min(found, key=lambda way: way[:2]))
        return ways[-1][2], ways[-1][0]


def paper_plan(observation: Observation) -> Plan:
    """Batches in force as far as their streams are still there, and new ones for the others."""
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
    best: tuple[float, int, list[int]] | None = None
    for length in range(_LEAST_LENGTH, max(_LEAST_LENGTH, problem.max_gamma) + 1):
        pipeline = _pipeline(problem, length)
        new, done_s = pipeline.cut(sizes, len(others))
        tokens = float(problem.earned[:, min(length, problem.max_gamma)].mean())
        if best is None or done_s / tokens < best[0]:
            best = done_s / tokens, length, new
    assert best is not None
    _, length, new = best
    order = np.array([*(row for rows in kept for row in rows), *others], dtype=np.int64)
    problem = problem.in_order(order)
    bounds = np.concatenate([[0], np.cumsum([*sizes, *new])])
    gammas = np.clip(length, problem.least, problem.most)
    return describe(observation, problem, CyclePlan(tuple(bounds.tolist()), gammas), "paper")


def _pipeline(problem: CycleProblem, length: int) -> _Pipeline:
    """A round of a batch: the first step of the draft also reads what was committed last, then
    messages go to the target, which runs all guesses and one token more in one pass."""
    sizes = np.arange(problem.num_streams + 1)
    draft_s = problem.draft_s.max(axis=0) if len(problem.draft_s) else np.zeros(1)
    steps_s = draft_s.take(CATCH_UP_TOKENS * sizes, mode="clip")
    steps_s = steps_s + (length - 1) * draft_s.take(sizes, mode="clip")
    air_s = problem.message_air_s.max(initial=0.0) + problem.rtt_s.max(initial=0.0)
    air_s = air_s + sizes * problem.stream_air_s.max(initial=0.0)
    air_s = air_s + sizes * length * problem.token_air_s.max(initial=0.0)
    verify_s = problem.target_s.take(sizes * (1 + length), mode="clip")
    is_some = sizes > 0
    return _Pipeline((steps_s + air_s) * is_some, verify_s * is_some)
