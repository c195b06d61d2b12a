"""Compares recorded plans with those that another policy makes for the same observations."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nodes.telemetry.trace.records import PlanRecord
from policies.explain.explanation import ranges
from policies.plan import Batch, Plan, Policy, Prediction

_MAX_BATCHES_SHOWN = 4
WIDTH = 80


@dataclass(frozen=True, slots=True)
class Replanned:
    """A recorded plan and another policy's plan for the same observation, both with prices."""

    record: PlanRecord
    recorded: Prediction
    plan: Plan
    planned: Prediction

    @property
    def ratio(self) -> float:
        """The other plan's price divided by the recorded one's; below 1.0 it is cheaper."""
        return self.planned.price_s / self.recorded.price_s


def replan(records: Iterable[PlanRecord], policy: Policy) -> list[Replanned]:
    """Return a policy's plan for each record; observations without a plan are left out."""
    found = []
    for record in records:
        if record.prediction is None or not record.observation.streams:
            continue
        plan = policy(record.observation)
        if plan.prediction is not None:
            found.append(Replanned(record, record.prediction, plan, plan.prediction))
    return found


def table_of(replanned: Sequence[Replanned], policy: str) -> str:
    """Return a table of 80 columns: for each record its own plan and the policy's."""
    origin_s = replanned[0].record.at_s
    lines = [f"{'at s':>7} {'streams':>7}  {'plan':<25}{'price ms':>9} {'ratio':>6}  batches"]
    for item in replanned:
        record = item.record
        head = f"{record.at_s - origin_s:>7.2f} {len(record.observation.streams):>7}"
        recorded = _row(f"recorded ({record.policy})", item.recorded, 1.0)
        planned = _row(policy, item.planned, item.ratio)
        lines += _with_batches(f"{head}  {recorded}", record.batches, record.plain)
        lines += _with_batches(f"{'':15}  {planned}", item.plan.batches, item.plan.plain)
    ratios = [item.ratio for item in replanned]
    mean = math.exp(np.mean(np.log(ratios)))
    lines += [
        "",
        f"{policy} to recorded, {len(ratios)} plans: prices {mean:.3f} on average (geometric), "
        f"{min(ratios):.3f} to {max(ratios):.3f}",
    ]
    return "\n".join(lines)


def _row(name: str, prediction: Prediction, ratio: float) -> str:
    return f"{name:<25}{prediction.price_s * 1e3:>9.2f} {ratio:>6.3f}"


def _with_batches(head: str, batches: Sequence[Batch], plain: Sequence[int]) -> list[str]:
    """Return the row with its first batch, and the other batches on lines below."""
    shown = [_batch(batch) for batch in batches[:_MAX_BATCHES_SHOWN]]
    if len(batches) > len(shown):
        shown.append(f"and {len(batches) - len(shown)} more")
    if plain:
        shown.append(f"plain {ranges(plain)}")
    first, *rest = shown
    return [f"{head}  {first}", *(f"{'':{len(head)}}  {text}" for text in rest)]


def _batch(batch: Batch) -> str:
    """Return streams with their gammas, such as `1-3,7: 4 4 4 2`; one gamma if all are equal."""
    gammas = batch.gammas[:1] if len(set(batch.gammas)) == 1 else batch.gammas
    return f"{ranges(batch.stream_ids)}: {' '.join(map(str, gammas))}"
