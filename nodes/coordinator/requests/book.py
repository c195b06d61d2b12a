"""Keeps every request that is not over, and changes the phases of requests and streams. Pure.

What a phase owns is taken when it begins and given back when it ends, here and nowhere else: a
place in a queue or a line, a count, an entry in an index. Nothing here sends a message or chooses a
target.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, assert_never

from airdraft.nodes.coordinator.members.record import TargetRecord
from airdraft.nodes.coordinator.requests.classes import STRANDED_LIMIT_S
from airdraft.nodes.coordinator.requests.lines import Lines
from airdraft.nodes.coordinator.requests.quota import Quota
from airdraft.nodes.coordinator.requests.request import (
    Asked,
    AwaitsPlace,
    AwaitsScores,
    NoReader,
    Over,
    Placed,
    Queued,
    Request,
    RequestPhase,
    RequestStream,
    Serving,
    StreamPhase,
    TargetKind,
    check_transition,
)
from airdraft.nodes.coordinator.requests.suspects import Suspicion
from airdraft.nodes.coordinator.requests.texts import Texts
from airdraft.nodes.coordinator.sends import streams_of
from airdraft.nodes.scheduler.stream import Stream
from airdraft.nodes.worker.stream import StreamId, StreamSpec

# Outcomes of requests: two of their own, and the codes of RequestFailedNotice.
OUTCOMES: Final = (
    *("done", "cancelled", "left"),
    *("bad_request", "not_found", "overloaded", "unavailable", "deadline", "internal"),
)
# Requests ended at a time, because a client takes only so many messages at once.
_MAX_AT_ONCE: Final = 256


@dataclass(slots=True)
class Due:
    """Which steps of settling have something to do; see docs/design/requests.md.

    moves: streams may leave their targets. targets: targets came, went or changed. places: a
    waiting stream may have a place now.
    """

    moves: bool = False
    targets: bool = False
    places: bool = False


class Requests:
    """The requests that are not over, with their streams.

    outcomes: the number of finished requests with each of OUTCOMES. stranded: requests that no
    present target can serve, with the times since when, the first one first. reading: requests
    whose token ids are not known yet, or that have no reader. trial_at: when the next accused
    stream has waited long enough for the target that was lost with it.
    """

    def __init__(self) -> None:
        # By client and then by number.
        self._requests: dict[bytes, dict[int, Request]] = {}
        self.streams: dict[StreamId, RequestStream] = {}
        self.reading: dict[Request, None] = {}
        self._texts: dict[int, Request] = {}
        self.stranded: dict[Request, float] = {}
        self.lines, self.texts, self.quota, self.due = Lines(), Texts(), Quota(), Due()
        self.outcomes = Counter[str]()
        self.num_moved = 0
        self.trial_at = math.inf
        self._next_id = 1

    def request(self, client: bytes, number: int) -> Request | None:
        return self._requests.get(client, {}).get(number)

    def of_client(self, client: bytes) -> list[Request]:
        return list(self._requests.get(client, {}).values())

    def overdue(self, now: float) -> list[Request]:
        """Returns requests whose deadline has passed, at most _MAX_AT_ONCE of them."""
        every = itertools.chain.from_iterable(each.values() for each in self._requests.values())
        return list(itertools.islice((r for r in every if r.ends_at <= now), _MAX_AT_ONCE))

    def given_up(self, now: float) -> list[Request]:
        """Returns requests that no target could serve for too long, at most _MAX_AT_ONCE."""
        long_ago = now - STRANDED_LIMIT_S
        over = itertools.takewhile(lambda each: each[1] <= long_ago, self.stranded.items())
        return [request for request, _ in itertools.islice(over, _MAX_AT_ONCE)]

    def without_reader(self) -> list[Request]:
        return [request for request in self.reading if isinstance(request.phase, NoReader)]

    def with_text(self, number: int) -> Request | None:
        """Returns the request whose text has this number, until it is read."""
        return self._texts.get(number)

    def texts_of(self, target: TargetRecord) -> list[Request]:
        """Returns the requests whose texts a target is to read, or reads."""
        phases = ((request, request.phase) for request in self.reading)
        return [r for r, p in phases if isinstance(p, Queued | Asked) and p.target is target]

    # -- phases of requests ------------------------------------------------------------------------

    def _change(self, request: Request, phase: RequestPhase, now: float) -> None:
        """Give back what the present phase owns, and take what the next one does."""
        before = request.phase
        check_transition(before, phase)
        match before:
            case None:
                self._requests.setdefault(request.client, {})[request.request_id] = request
                self.quota.charge(request, request.num_submitted)
            case Queued() | Asked():
                del self._texts[before.number]
                if isinstance(before, Queued):
                    self.texts.remove(request, before)
            case Serving(streams=streams):
                for stream in list(streams.values()):
                    self._change_stream(stream, Over(), now)
        if request not in self.reading and not isinstance(phase, Serving | Over):
            self.reading[request] = None
            self.quota.wait(request, request.num_to_wait)
        elif request in self.reading and isinstance(phase, Serving | Over):
            del self.reading[request]
            self.quota.wait(request, -request.num_to_wait)
        request.phase = phase
        match phase:
            case NoReader() | Serving():
                pass
            case Queued():
                self._texts[phase.number] = request
                self.texts.add(request, phase)
            case Asked():
                self._texts[phase.number] = request
                self.texts.asked(request, phase)
            case Over():
                self.quota.charge(request, 0)
                of_client = self._requests[request.client]
                del of_client[request.request_id]
                if not of_client:
                    del self._requests[request.client]
            case _:
                assert_never(phase)
        self._note_stranded(request, now)

    def _note_stranded(self, request: Request, now: float) -> None:
        phases = (stream.phase for stream in request.streams.values())
        is_stranded = any(isinstance(phase, AwaitsPlace) and not phase.kinds for phase in phases)
        if is_stranded or isinstance(request.phase, NoReader):
            self.stranded.setdefault(request, now)
        else:
            self.stranded.pop(request, None)

    def lose_reader(self, request: Request, now: float) -> None:
        """No present target can read the prompt of a request."""
        self._change(request, NoReader(), now)

    def queue(self, request: Request, target: TargetRecord, now: float) -> None:
        """Queue a request's text at a target. One that was not answered in time keeps its number,
        so that its target's late answer still counts."""
        before = request.phase
        if isinstance(before, Queued | Asked):
            phase = Queued(target, before.number, before.num_asked)
        else:
            phase = Queued(target, self.texts.new_number())
        self._change(request, phase, now)

    def ask(self, now: float) -> list[Request]:
        """Take the texts that may be sent to their targets now, and return their requests."""
        asked: list[Request] = []
        for request in self.texts.due() if self._texts else ():
            phase = request.phase
            assert isinstance(phase, Queued)
            asked.append(request)
            self._change(request, Asked(phase.target, phase.number, phase.num_asked + 1), now)
        return asked

    def serve(
        self,
        request: Request,
        specs: Sequence[StreamSpec],
        prompt: tuple[int, ...],
        prompt_hash: str,
        now: float,
    ) -> list[RequestStream]:
        """Begin to serve a request whose token ids are known. Returns its streams, which have no
        phase yet. specs: the first one has the number next_id."""
        self._next_id += len(specs)
        streams = [RequestStream(request, spec, spec.num_committed) for spec in specs]
        found = {stream.stream_id: stream for stream in streams}
        self._change(request, Serving(found, len(prompt), prompt_hash), now)
        self.streams |= found
        # Choices without tokens of their own share the prompt's ids; each other one has a copy.
        kept = {id(spec.token_ids): len(spec.token_ids) for spec in specs}
        request.forget_text()
        self.quota.charge(request, request.num_submitted + sum(kept.values()))
        return streams

    @property
    def next_id(self) -> int:
        """The number of the next stream."""
        return self._next_id

    def end(self, request: Request, outcome: str, now: float) -> None:
        """End a request and all its streams; the caller has closed those that have a place."""
        self._change(request, Over(), now)
        self.outcomes[outcome] += 1

    # -- phases of streams -------------------------------------------------------------------------

    def _change_stream(self, stream: RequestStream, phase: StreamPhase, now: float) -> None:
        check_transition(stream.phase, phase)
        if isinstance(stream.phase, AwaitsPlace):
            self.lines.remove(stream)
            self.quota.wait(stream.request, -1)
        stream.phase = phase
        if isinstance(phase, AwaitsPlace):
            self.lines.add(stream)
            self.quota.wait(stream.request, 1)
        elif isinstance(phase, Over):
            del self.streams[stream.stream_id], stream.request.streams[stream.stream_id]
        self.due.places = True
        self._note_stranded(stream.request, now)

    def await_scores(self, stream: RequestStream, now: float) -> None:
        self._change_stream(stream, AwaitsScores(), now)

    def wait(
        self,
        stream: RequestStream,
        kinds: frozenset[TargetKind],
        now: float,
        journal: Stream | None = None,
    ) -> None:
        """Have a stream wait for a place. kinds: those of the targets that may serve it. journal:
        the stream as its last target left it."""
        self._change_stream(stream, self.lines.entry(stream, kinds, journal), now)
        self._note_trial(stream, now)

    def _note_trial(self, stream: RequestStream, now: float) -> None:
        if stream.suspicion is not None and stream.suspicion.waits_until > now:
            self.trial_at = min(self.trial_at, stream.suspicion.waits_until)

    def begin_trials(self, now: float) -> None:
        """Let accused streams go to any target once theirs did not return in time."""
        if now >= self.trial_at:
            self.trial_at = math.inf
            for stream in self.lines:
                self._note_trial(stream, now)
            self.due.targets = True

    def change_kinds(self, stream: RequestStream, kinds: frozenset[TargetKind], now: float) -> None:
        """Change the kinds of the targets that may serve a waiting stream."""
        phase = stream.phase
        assert isinstance(phase, AwaitsPlace)
        if phase.kinds != kinds:
            self.lines.leave(stream)
            stream.phase = replace(phase, kinds=kinds)
            self.lines.enter(stream)
        self._note_stranded(stream.request, now)

    def suspect(self, stream: RequestStream, suspicion: Suspicion | None, now: float) -> None:
        """Replace the suspicion against a stream; it may then have to wait in another line."""
        is_waiting = isinstance(stream.phase, AwaitsPlace)
        if is_waiting:
            self.lines.leave(stream)
        stream.suspicion = suspicion
        if is_waiting:
            self.lines.enter(stream)
            self._note_trial(stream, now)
            self.due.targets = True
        self.due.places = True

    def place(self, stream: RequestStream, target: TargetRecord, now: float) -> Stream | None:
        """Give a waiting stream a place, and bind its request to the target's class. Returns its
        journal, if it had a place before."""
        phase, request = stream.phase, stream.request
        assert isinstance(phase, AwaitsPlace)
        self._change_stream(stream, Placed(target, now), now)
        self.lines.served(phase.owner, now)
        request.numerics_class = target.profile.numerics_class
        if request.is_exact is None:
            request.is_exact = target.profile.exact
        return phase.journal

    def move(self, stream: RequestStream, target: TargetRecord, now: float) -> None:
        """Give a stream that has a place another one."""
        self.num_moved += 1
        self._change_stream(stream, Placed(target, now), now)

    def note_tokens(self, stream: RequestStream, num_tokens: int, position: int) -> None:
        """Note output tokens from a stream's target, which clear it of suspicion. position: of the
        first of them."""
        assert isinstance(stream.phase, Placed)
        stream.num_tokens = position + num_tokens
        if num_tokens:
            stream.phase.is_new = False
            if stream.suspicion is not None:
                # The next suspect may be tried now.
                stream.suspicion, self.due.places = None, True

    def end_stream(self, stream: RequestStream, outcome: str, now: float) -> None:
        """End one stream, and its request with the last one."""
        self._change_stream(stream, Over(), now)
        if not stream.request.streams:
            self.end(stream.request, outcome, now)

    def count_bytes(self, message: Any, num_bytes: int, *, to_draft: bool) -> None:
        """Add the bytes of a message to or from a node to the figures of the streams that it is
        about, in equal shares."""
        streams = streams_of(message)
        for stream in filter(None, map(self.streams.get, streams)):
            share = num_bytes // len(streams)
            stream.draft_bytes += share * to_draft
            stream.target_bytes += share * (not to_draft)
