"""Finds streams that another target of their numerics class would serve faster, and plans moves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import Roster
from nodes.coordinator.placing.choosing import is_of_kind
from nodes.coordinator.placing.waiting import Kind
from nodes.coordinator.requests.request import Choice, Request
from nodes.scheduler import passes
from nodes.scheduler.stream import Opening, Stream
from nodes.worker.stream import StreamId

# Interval between examinations of one target, and the least time between two moves of requests:
# what was moved has been read by then.
LOOK_S = 2.0
# The least time between two moves of the same request.
_REST_S = 10.0
# A stream moves only if its time per token exceeds the other target's by this factor, because
# predictions are noisy.
_OVERLOAD = 1.3


@dataclass(frozen=True, slots=True)
class Move:
    """All of a request's choices on one target go to another."""

    request: Request
    choices: tuple[Choice, ...]
    target: NodeRecord


class Rebalancing:
    """Examines targets in turn for streams to move; it only decides and sends nothing."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._next_look = 0.0
        # When each target was last examined.
        self._looked_at: dict[str, float] = {}

    def next_move(self, streams: Mapping[StreamId, Choice], now: float) -> Move | None:
        """Return the move off one target that saves the most seconds; None if none is due or saves.

        One call examines only one target, because tokens of other streams wait meanwhile.
        streams: the choice of each stream.
        """
        if now < self._next_look:
            return None
        kinds: dict[Kind, list[NodeRecord]] = {}
        for target in self._roster.nodes("target"):
            if not target.is_draining:
                kinds.setdefault(target.kind, []).append(target)
        kin = [n for targets in kinds.values() if len(targets) > 1 for n in targets]
        sources = [n for n in kin if n.streams]
        self._looked_at = {n.name: self._looked_at.get(n.name, -math.inf) for n in sources}
        self._next_look = now + LOOK_S / max(1, len(sources))
        source = min(sources, key=lambda n: self._looked_at[n.name], default=None)
        if source is None:
            return None
        self._looked_at[source.name] = now
        # Far more streams may wait than are on this target.
        here = (streams[stream_id] for stream_id in source.streams if stream_id in streams)
        requests = dict.fromkeys(choice.request for choice in here)
        others = [n for n in kinds[source.kind] if n is not source]
        move = _move_of_one(source, others, requests, now)
        if move is not None:
            self._next_look = now + LOOK_S
        return move


def _move_of_one(
    source: NodeRecord, others: Sequence[NodeRecord], requests: Iterable[Request], now: float
) -> Move | None:
    """Return the best move of one request off a target; None if it saves nothing.

    Of the requests that fit elsewhere it takes one of which all streams are parked, otherwise the
    one not considered for longest, and among these the one with most tokens left.
    """
    rested = [request for request in requests if now >= request.moved_at + _REST_S]
    units = [(request, streams) for request in rested if (streams := _unit(request, source))]
    units.sort(key=lambda u: (_share_served(u[1]) > 0, u[0].looked_at, -_num_left(u[1])))
    # Counting room takes time per stream, so stop at the first request that fits elsewhere.
    for request, streams in units:
        # A target of its class may be inexact although the client was notified of exactness.
        suited = [target for target in others if is_of_kind(target.profile, request)]
        if able := [target for target in suited if target.has_room(streams)]:
            request.looked_at = now
            return _best_move(request, streams, source, able, now)
    return None


def _best_move(
    request: Request,
    streams: Sequence[Stream],
    source: NodeRecord,
    able: Iterable[NodeRecord],
    now: float,
) -> Move | None:
    """Return the move of a request's streams that saves the most seconds, if any saves enough."""
    assert source.scheduler is not None
    share = _share_served(streams)
    # What is parked gets no tokens until others have ended.
    here_s = passes.token_s(source.scheduler, streams, (), now) / share if share else math.inf
    # Rates are means over the streams, which go on side by side.
    left = _num_left(streams) / len(streams)
    prompt = streams[0].spec.num_prompt_tokens
    num_unread = prompt + sum(len(stream.token_ids) - prompt for stream in streams)
    gains: list[tuple[float, NodeRecord]] = []
    for target in able:
        assert target.scheduler is not None
        present = target.scheduler.streams.values()
        there_s = passes.token_s(target.scheduler, present, streams, now)
        gain_s = (here_s - there_s) * left - passes.reading_s(target.scheduler, num_unread)
        if here_s > _OVERLOAD * there_s and gain_s > 0:
            gains.append((gain_s, target))
    if not gains:
        return None
    choices = tuple(request.choices[stream.spec.stream_id] for stream in streams)
    return Move(request, choices, max(gains, key=lambda gain: gain[0])[1])


def _num_left(streams: Iterable[Stream]) -> int:
    return sum(stream.tokens_left for stream in streams)


def _share_served(streams: Sequence[Stream]) -> float:
    return sum(not stream.is_parked for stream in streams) / len(streams)


def _unit(request: Request, source: NodeRecord) -> list[Stream]:
    """Return a request's streams on a target, which move together; none while one is being read,
    or is suspected of having ended a target: it is tried where it is."""
    here = [choice for s, choice in request.choices.items() if s in source.streams]
    streams = [source.streams[choice.spec.stream_id] for choice in here]
    is_read = any(isinstance(s.phase, Opening) and not s.is_parked for s in streams)
    return [] if is_read or any(choice.suspicion for choice in here) else streams
