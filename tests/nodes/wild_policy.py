"""A policy that does what it likes, as far as a plan may: what a scheduler must stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from airdraft.nodes.messages import MAX_GAMMA
from airdraft.policies.plan import Batch, BatchTimes, Observation, Plan, Prediction


@dataclass(frozen=True, slots=True)
class WildPolicy:
    """Any gammas, batches, waits and prices; some streams are left out.

    below: picks a number from 0 to below what it is given.
    """

    below: Callable[[int], int]

    def __call__(self, observation: Observation) -> Plan:
        batches: list[list[tuple[int, int]]] = [[], [], []]
        plain = []
        for view in observation.streams:
            pick = self.below(10)
            if pick < 7 and view.draft is not None:
                batches[pick % 3].append((view.stream_id, 1 + self.below(MAX_GAMMA)))
            elif pick < 9:
                plain.append(view.stream_id)
        plan = Plan(
            tuple(Batch(*zip(*batch, strict=True)) for batch in batches if batch), tuple(plain)
        )
        if self.below(2):
            # A price that no plan in force comes near to, or one that every plan does.
            price_s = (1e-9, 1e9)[self.below(2)]
            times = tuple(self._times() for _ in plan.batches)
            plan = replace(plan, prediction=Prediction(0.02, "", price_s, 1.0, times))
        return plan

    def _times(self) -> BatchTimes:
        """What a batch is waited for."""
        return BatchTimes(0.0, 0.0, 0.0, (0.0, 1e-3, 0.1)[self.below(3)], 1)
