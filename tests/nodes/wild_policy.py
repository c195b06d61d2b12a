"""A policy that does what it likes, as far as a plan may: what a scheduler must stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from nodes.messages import MAX_GAMMA
from policies.plan import Batch, Observation, Plan, Prediction


@dataclass(frozen=True, slots=True)
class WildPolicy:
    """Any gammas, stops, batches, waits and prices; some streams are left out.

    below: picks a number from 0 to below what it is given.
    """

    below: Callable[[int], int]

    def __call__(self, observation: Observation) -> Plan:
        batches: list[list[tuple[int, int, float]]] = [[], [], []]
        plain = []
        for view in observation.streams:
            pick = self.below(10)
            if pick < 7 and view.draft is not None:
                stop = (0.0, 0.3, 0.9, 1.0)[self.below(4)]
                batches[pick % 3].append((view.stream_id, 1 + self.below(MAX_GAMMA), stop))
            elif pick < 9:
                plain.append(view.stream_id)
        plan = Plan(
            tuple(self._batch(batch) for batch in batches if batch),
            tuple(plain),
            overlap=self.below(2) > 0,
            min_cycle_s=(0.0, 0.0, 0.01, 1.0)[self.below(4)],
            is_cheapest=self.below(2) > 0,
        )
        if self.below(2):
            # A price that no plan in force comes near to, or one that every plan does.
            price_s = (1e-9, 1e9)[self.below(2)]
            plan = replace(plan, prediction=Prediction(0.02, "", price_s, 1.0))
        return plan

    def _batch(self, members: list[tuple[int, int, float]]) -> Batch:
        ids, gammas, stops = zip(*members, strict=True)
        return Batch(ids, gammas, stops, ahead=self.below(2) > 0)
