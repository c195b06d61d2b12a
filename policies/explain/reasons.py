"""Why the plain streams of a plan have no guesses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.cycle import block_sums, stages_of, verify_times
from policies.plan import Observation, Plan, StreamView
from policies.problem import CycleProblem


@dataclass(frozen=True, slots=True)
class PlainGroup:
    """Plain streams with the same reason."""

    reason: str
    streams: tuple[int, ...]


def plain_groups(
    observation: Observation, problem: CycleProblem, plan: Plan
) -> tuple[PlainGroup, ...]:
    """Returns the plain streams of a plan by their reasons. problem: that of the observation."""
    views = {view.stream_id: view for view in observation.streams}
    groups: dict[str, list[int]] = {}
    for stream_id in sorted(plan.plain):
        reason = _reason(problem, views[stream_id], len(plan.plain))
        groups.setdefault(f"draft off: {reason}", []).append(stream_id)
    return tuple(PlainGroup(reason, tuple(ids)) for reason, ids in groups.items())


def _reason(problem: CycleProblem, view: StreamView, num_plain: int) -> str:
    if view.fixed_gamma == 0:
        return "the request sets gamma to 0"
    if view.draft not in problem.node_names:
        return "no draft node holds the stream"
    if view.tokens_left <= 1:
        return "one token is left"
    return _price_of_guessing(problem, problem.stream_ids.index(view.stream_id), num_plain)


def _price_of_guessing(problem: CycleProblem, k: int, num_plain: int) -> str:
    """Returns the time and tokens of the best gamma if only stream k guessed."""
    gammas = np.arange(1, int(problem.most[k]) + 1)
    options = np.zeros((len(gammas), problem.num_streams), dtype=np.int64)
    options[:, k] = gammas
    sums = block_sums(problem, options, (0, problem.num_streams))
    stages = stages_of(problem, sums.counts[:, :, 1], sums.guesses[:, 1], sums.worth[1])
    # Its guesses are verified in a pass with all other plain streams.
    verify_s, _ = verify_times(problem, stages, np.array(num_plain - 1))
    round_s = stages.head_s + verify_s
    earned = problem.earned[k, gammas]
    best = int((round_s / earned).argmin())
    plain_s = float(problem.plain_pass_s(num_plain))
    guesses = f"{best + 1} guesses make" if best else "1 guess makes"
    text = (
        f"{guesses} a round of {round_s[best] * 1e3:.0f} ms, which gives "
        f"{earned[best]:.2f} tokens at acceptance {problem.alphas[k]:.2f}, "
        f"and a plain step takes {plain_s * 1e3:.0f} ms"
    )
    if round_s[best] / earned[best] < plain_s:
        text += "; the guesses would slow the other streams down"
    return text
