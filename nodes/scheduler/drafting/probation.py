"""When streams may guess before their draft node's guesses were tried on them.

A stream that is decoded plainly makes those with guesses wait for its passes in every lap, and so
costs more than it could lose by bad guesses until that is noticed. Where the others guess, or would
if it did, what a new stream is worth is learnt from its rounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nodes.scheduler.cycle import CycleState
from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.stream import Stream
from policies.plan import Observation, Plan


def end_where_others_guess(
    streams: Iterable[Stream], drafts: DraftPool, cycle: CycleState, seen: Observation
) -> Observation:
    """Let streams on probation guess beside others; returns the observation with them so.

    Only those whose draft nodes have been tried on some stream: of them something is known.
    """
    nodes: dict[int, str] = {
        stream.spec.stream_id: stream.draft.node
        for stream in streams
        if stream.is_on_probation
        and stream.draft is not None
        and not drafts[stream.draft.node].acceptance.is_untried
    }
    if not nodes:
        return seen
    views = tuple(
        replace(view, draft=nodes.get(view.stream_id, view.draft)) for view in seen.streams
    )
    hopeful = replace(seen, streams=views)
    if not _most_guess(cycle.plan, nodes) and not _most_guess(cycle.policy(hopeful), nodes):
        return seen
    for stream in streams:
        if stream.spec.stream_id in nodes and stream.tries is not None:
            stream.tries.num_first = 0
    return hopeful


def _most_guess(plan: Plan, on_probation: Iterable[int]) -> bool:
    """Whether a plan has guesses made for most of the streams that are not on probation."""
    apart = set(on_probation)
    guessing = {stream_id for batch in plan.batches for stream_id in batch.stream_ids} - apart
    return len(guessing) > len(set(plan.plain) - apart)
