"""When streams may guess before their draft node's guesses were tried on them.

A stream that is decoded plainly makes those with guesses wait for its passes in every lap, and so
costs more than it could lose by bad guesses until that is noticed. Where the others guess, or would
if it did, what a new stream is worth is learnt from its rounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.planning import Hope
from nodes.scheduler.stream import Stream
from policies.plan import Observation


def hope_for(streams: Iterable[Stream], drafts: DraftPool, seen: Observation) -> Hope | None:
    """What would be seen if streams on probation could guess; None if there are none.

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
        return None
    views = tuple(
        replace(view, draft=nodes.get(view.stream_id, view.draft)) for view in seen.streams
    )
    return Hope(replace(seen, streams=views), frozenset(nodes))


def end(streams: Iterable[Stream], hope: Hope) -> None:
    """Where the others guess these do so, too."""
    for stream in streams:
        if stream.spec.stream_id in hope.stream_ids and stream.tries is not None:
            stream.tries.num_first = 0
