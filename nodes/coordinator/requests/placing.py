"""Chooses the target for a stream that waits or has to leave its own, by seconds per token.

A request has one numerics class, whose engines compute equal bits. Before its first token
classes.py picks the class among the present ones; after that it stays. This module only decides; it
changes nothing and sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Final

from airdraft.nodes.coordinator.data import Data
from airdraft.nodes.coordinator.members.record import TargetRecord
from airdraft.nodes.coordinator.requests.classes import fits_request
from airdraft.nodes.coordinator.requests.request import (
    AwaitsPlace,
    Placed,
    Request,
    RequestStream,
    TargetKind,
)
from airdraft.nodes.messages import EngineProfile
from airdraft.nodes.scheduler import passes
from airdraft.nodes.scheduler.stream import Stream

# Tokens: nearly all answers of chats are shorter.
_USUAL_ANSWER: Final = 1024


def profile_to_fit(
    data: Data, request: Request, target: TargetRecord, num_prompt_tokens: int
) -> EngineProfile:
    """Returns the profile into which a request must fit: of the target of its model that holds the
    longest text.

    A request whose max_tokens may shrink is fitted to the smallest target instead, so that any
    target can take it over. Targets without room for an answer of usual length are left out.
    """
    model = target.profile.model_hash
    staying = [n.profile for n in data.roster.targets() if not n.is_draining]
    kin = [p for p in staying if fits_request(p, request) and p.model_hash == model]
    if request.submit.fits:
        least = num_prompt_tokens + _USUAL_ANSWER
        if roomy := [profile for profile in kin if profile.max_length >= least]:
            return min(roomy, key=attrgetter("max_length"))
    return max(kin, key=attrgetter("max_length"), default=target.profile)


def kinds_for(data: Data, stream: RequestStream, now: float) -> frozenset[TargetKind]:
    """Returns the kinds of the targets that may serve a stream, whether they have room or not."""
    return _kinds(stream, _able(data, stream, now))


def _kinds(stream: RequestStream, targets: Iterable[TargetRecord]) -> frozenset[TargetKind]:
    """Returns the kinds of targets; for an accused stream, the targets by name.

    Targets of different sizes are of different kinds: a stream that only the largest can hold does
    not keep the others from those behind it.
    """

    def kind(target: TargetRecord) -> TargetKind:
        size = f"{target.profile.num_cells} {target.profile.context_length}"
        return (*target.kind, size, target.name) if stream.is_accused else (*target.kind, size)

    return frozenset(map(kind, targets))


def _journal_of(stream: RequestStream) -> Stream:
    assert isinstance(stream.phase, AwaitsPlace)
    return stream.phase.journal or Stream(stream.spec, list(stream.spec.token_ids))


def next_placed(data: Data, now: float) -> tuple[RequestStream, TargetRecord] | None:
    """Returns the first waiting stream for which there is room, with its best target.

    Streams that wait for the same targets do not overtake each other; otherwise small ones could
    keep a large one waiting forever.
    """
    # Kinds of targets that have no room for a stream further ahead.
    blocked: set[TargetKind] = set()
    # Suspects that wait for their trial. Streams that are no suspects must leave them room.
    reserved: list[tuple[frozenset[str], Stream]] = []
    # The streams behind the first of a line wait for targets of the same kinds.
    for stream in data.requests.lines.heads():
        assert isinstance(stream.phase, AwaitsPlace)
        if stream.phase.kinds <= blocked:
            continue
        able = _able(data, stream, now)
        free = [n for n in able if not _kinds(stream, [n]) <= blocked]
        if stream.suspicion is not None:
            free = [n for n in free if not _is_trying(data, n)]
            if not free:
                reserved = _suspects(data, now)
                continue
        journal, others = _journal_of(stream), [] if stream.suspicion else reserved
        fitting = [
            n
            for n in free
            if n.has_room([journal, *(other for names, other in others if n.name in names)])
        ]
        if fitting:
            return stream, _best(data, stream, journal, fitting, now)
        blocked |= _kinds(stream, free)
        if stream.is_accused:
            reserved.append((frozenset(n.name for n in free), journal))
    return None


def _suspects(data: Data, now: float) -> list[tuple[frozenset[str], Stream]]:
    """Returns each waiting suspect, after the names of the targets that it may go to."""
    return [
        (frozenset(n.name for n in _able(data, stream, now)), _journal_of(stream))
        for stream in data.requests.lines
        if stream.suspicion is not None
    ]


def _is_trying(data: Data, target: TargetRecord) -> bool:
    """Whether a target has a suspect without a token; a second one must not join it."""
    return any(data.requests.streams[s].suspicion is not None for s in target.streams)


def _able(data: Data, stream: RequestStream, now: float) -> list[TargetRecord]:
    """Returns the targets, full ones too, that may serve a stream without changing its text.

    Draining ones are included only if there is no other and the request has begun.
    """
    request, suspicion = stream.request, stream.suspicion
    able = [
        n
        for n in data.roster.targets()
        if fits_request(n.profile, request)
        and n.can_hold(stream.spec)
        and (suspicion is None or suspicion.may_go_to(n.name, now))
    ]
    staying = [n for n in able if not n.is_draining]
    if not staying and (request.has_started or request.is_resumed):
        staying = able
    return data.classes.of_first_class(staying, request, now)


def _best(
    data: Data, stream: RequestStream, journal: Stream, targets: Sequence[TargetRecord], now: float
) -> TargetRecord:
    request, streams = stream.request, data.requests.streams

    def price_s(target: TargetRecord) -> float:
        """Seconds per token, including a share of the time to read the prompt."""
        num_unread = len(journal.token_ids)
        # What an earlier text has brought here, or another choice, is not read again.
        if any(other.target is target for other in request.streams.values()):
            num_unread -= journal.spec.num_prompt_tokens
        elif len(targets) > 1:
            num_unread -= target.texts.num_known(stream.spec.owner, journal.token_ids)
        reading_s = passes.reading_s(target.scheduler, num_unread)
        here = target.streams.values()
        token_s = passes.token_s(target.scheduler, here, [journal], now)
        return token_s + reading_s / max(1, journal.tokens_left)

    def num_untried(target: TargetRecord) -> int:
        """Streams of other requests on a target whose passes were not observed yet. It gets one
        where others are known, and otherwise as many as the others: what it says of itself does not
        count."""
        if target.is_observed:
            return 0
        return sum(streams[s].request is not request for s in target.streams)

    for target in targets if len(targets) > 1 else ():
        passes.forget_old(target.scheduler, now)
    return min(targets, key=lambda n: (num_untried(n), price_s(n), n.admitted_cells))


def is_stuck(stream: RequestStream) -> bool:
    """Whether a stream is parked, or its target was silent about it for a minute. A suspect stays
    where it is."""
    if stream.suspicion is not None or not isinstance(stream.phase, Placed):
        return False
    journal = stream.phase.target.streams[stream.stream_id]
    # One that was opened again has had no token for a minute.
    return journal.is_parked or journal.num_reopened > 0


def elsewhere(data: Data, stream: RequestStream, now: float) -> TargetRecord | None:
    """Returns the best other target with room for a stream that has a place; None without one."""
    source = stream.target
    assert source is not None
    journal = source.streams[stream.stream_id]
    able = [n for n in _able(data, stream, now) if not n.is_draining and n is not source]
    if stream.suspicion is not None:
        able = [n for n in able if not _is_trying(data, n)]
    fitting = [n for n in able if n.has_room([journal])]
    return _best(data, stream, journal, fitting, now) if fitting else None
