"""Which target serves a stream, and when it goes to another: by predicted seconds a token.

A stream that has begun stays with engines of one numerics class, which compute equal bits; before
its first token it may go to any target of its model. Here is only decided; nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nodes.coordinator.requests import Choice, Request
from nodes.coordinator.roster import NodeRecord, Roster
from nodes.coordinator.stranded import Stranded
from nodes.coordinator.waiting import Kind, Waiting
from nodes.messages import EngineProfile
from nodes.scheduler.stream import Opening, Stream
from nodes.stream import StreamId, StreamSpec
from nodes.target.stream import cells_needed, cells_soon

# Between two looks at who on a target is better off elsewhere, at most one request moves in each;
# and between two moves of the same one.
LOOK_S = 2.0
_REST_S = 10.0
# Targets for which a move is planned: those that would decode plainly soonest with it.
_CANDIDATES = 2
# What a stream gets must be so much slower than elsewhere: predictions are noisy.
_OVERLOAD = 1.3


@dataclass(frozen=True, slots=True)
class Placed:
    """A stream that waited is to be served by a target."""

    request: Request
    choice: Choice
    target: NodeRecord


@dataclass(frozen=True, slots=True)
class Move:
    """All choices that a request has on one target go to another."""

    request: Request
    choices: tuple[Choice, ...]
    target: NodeRecord
    gain_s: float


def _can_hold(target: NodeRecord, spec: StreamSpec) -> bool:
    profile = target.profile
    fits = spec.num_prompt_tokens + spec.max_tokens <= profile.context_length
    return fits and cells_needed(spec) <= profile.num_cells


def kind_of(target: NodeRecord) -> Kind:
    return target.profile.model_hash, target.profile.numerics_class


def _kinds(targets: Iterable[NodeRecord]) -> frozenset[Kind]:
    return frozenset(kind_of(target) for target in targets)


def _journal_of(request: Request, choice: Choice) -> Stream:
    if choice.journal is not None:
        return choice.journal
    spec = choice.spec
    return Stream(spec, list(spec.token_ids), request.fixed_gamma, request.weight)


class Placement:
    """Streams that wait, and what targets would give them."""

    def __init__(self, roster: Roster) -> None:
        self.waiting = Waiting()
        self.stranded = Stranded()
        self._roster = roster
        self._next_look = 0.0
        self._looked_at: dict[str, float] = {}
        # The last suspect that each target was given.
        self._tried: dict[str, Choice] = {}

    def widest_of(self, target: NodeRecord) -> EngineProfile:
        """Of all targets of the same model, the one that holds the longest text."""
        model = target.profile.model_hash
        targets = [n for n in self._targets() if not n.is_draining]
        kin = [n.profile for n in targets if n.profile.model_hash == model]
        return max(kin, key=lambda p: min(p.num_cells, p.context_length), default=target.profile)

    def wait(self, request: Request, choice: Choice, now: float) -> None:
        kinds = _kinds(self._able(request, choice))
        self.waiting.add(request, choice, kinds)
        self.stranded.note(request, is_able=bool(kinds), now=now)

    def serve(self, placed: Placed, now: float) -> None:
        """A waiting stream gets its place; the request's others stay with engines of its kind."""
        request, profile = placed.request, placed.target.profile
        self.waiting.serve(request, placed.choice, now)
        is_bound = request.numerics_class == profile.numerics_class
        request.numerics_class = profile.numerics_class
        if request.is_exact is None:
            request.is_exact = profile.exact
        for choice in () if is_bound else request.choices.values():
            if choice.spec.stream_id in self.waiting:
                self.waiting.change(choice, _kinds(self._able(request, choice)))

    def targets_changed(self, now: float) -> None:
        """See anew who may serve whom, and note who waits for a target that is not there."""
        for request, choice in self.waiting:
            kinds = _kinds(self._able(request, choice))
            self.waiting.change(choice, kinds)
            self.stranded.note(request, is_able=bool(kinds), now=now)

    def next_placed(self, now: float) -> Placed | None:
        """The first waiting stream for which there is room, and the target that suits it best.

        Nobody is overtaken by who waits for the same targets: a small one would keep a large one
        out for ever.
        """
        blocked: set[Kind] = set()
        # What suspects will take that wait for others of them: nobody else gets it meanwhile.
        kept: list[tuple[frozenset[Kind], Stream]] = []
        # Whoever is behind the first of a line waits for targets of the same kinds.
        for head in self.waiting.heads():
            if head.kinds <= blocked:
                continue
            request, choice = head.request, head.choice
            free = [n for n in self._able(request, choice) if kind_of(n) not in blocked]
            if choice.suspicion is not None:
                free = [n for n in free if not self._is_trying(n)]
                if not free:
                    kept = [
                        (_kinds(self._able(r, c)), _journal_of(r, c))
                        for r, c in self.waiting
                        if c.suspicion is not None
                    ]
                    continue
            stream, fitting = _journal_of(request, choice), list[NodeRecord]()
            for target in free:
                others = [] if choice.suspicion else [s for k, s in kept if kind_of(target) in k]
                if target.has_room(_cells([stream, *others]), 1 + len(others)):
                    fitting.append(target)
            if fitting:
                return Placed(request, choice, self._best(request, stream, fitting, now))
            blocked |= _kinds(free)
        return None

    def opened(self, choice: Choice, target: NodeRecord) -> None:
        """A target begins with a stream."""
        if choice.suspicion is not None:
            self._tried[target.name] = choice

    def over(self, choice: Choice) -> None:
        """A stream has ended: nobody tries it any more."""
        for name in [name for name, tried in self._tried.items() if tried is choice]:
            del self._tried[name]

    def _is_trying(self, target: NodeRecord) -> bool:
        """Whether a suspect is there from which no token has come: it alone is to be accused."""
        choice = self._tried.get(target.name)
        if choice is None or choice.suspicion is None or target.scheduler is None:
            return False
        return target.scheduler.stream(choice.spec.stream_id) is not None

    def _targets(self) -> list[NodeRecord]:
        return self._roster.nodes("target")

    def _able(self, request: Request, choice: Choice) -> list[NodeRecord]:
        """Targets, crowded or not, that may serve a stream without a change of its text.

        One that is drained only where there is no other, and for what has begun.
        """
        kind = request.numerics_class
        able = [
            n
            for n in self._targets()
            if n.profile.model_hash == request.model_hash
            and kind in ("", n.profile.numerics_class)
            and request.is_exact in (None, n.profile.exact)
            and _can_hold(n, choice.spec)
        ]
        staying = [n for n in able if not n.is_draining]
        return staying or (able if request.has_started or request.is_resumed else [])

    def _best(
        self, request: Request, stream: Stream, targets: Sequence[NodeRecord], now: float
    ) -> NodeRecord:
        if len(targets) == 1:
            return targets[0]

        def token_s(target: NodeRecord) -> float:
            """Seconds a token, its share of the time until the first one included."""
            assert target.scheduler is not None
            forecast = target.scheduler.forecast
            num_unread = len(stream.token_ids)
            # The prompt of several choices is read once.
            if any(other.target == target.name for other in request.choices.values()):
                num_unread -= stream.spec.num_prompt_tokens
            reading_s = forecast.reading_s(num_unread) / max(1, stream.tokens_left)
            return forecast.token_s_of_newcomer(stream, now) + reading_s

        return min(targets, key=lambda n: (token_s(n), n.used_cells))

    def evacuated(self, request: Request, choice: Choice, now: float) -> Move | None:
        """Where a stream of a target that is drained can go on at once, if there is room."""
        source = self._roster.node(choice.target)
        if source is None or source.scheduler is None or not source.is_draining:
            return None
        stream = source.scheduler.stream(choice.spec.stream_id)
        if stream is None:
            return None
        able = [n for n in self._able(request, choice) if not n.is_draining]
        fitting = [n for n in able if _has_room(n, [stream])]
        if not fitting:
            return None
        return Move(request, (choice,), self._best(request, stream, fitting, now), 0.0)

    # -- rebalancing -------------------------------------------------------------------------------

    def next_move(self, streams: Mapping[StreamId, Request], now: float) -> Move | None:
        """Now and then, off one target at a time: the move that saves the most seconds, if any
        saves some. What tokens of others wait for meanwhile are some plans, however many targets.

        streams: whose they are.
        """
        if now < self._next_look:
            return None
        kinds: dict[Kind, list[NodeRecord]] = {}
        for target in self._targets():
            if not target.is_draining:
                kinds.setdefault(kind_of(target), []).append(target)
        sources = [n for targets in kinds.values() if len(targets) > 1 for n in targets]
        names = {source.name for source in sources}
        self._looked_at = {n: at for n, at in self._looked_at.items() if n in names}
        self._next_look = now + LOOK_S / max(1, len(sources))
        source = max(sources, key=lambda n: self._urgency(n, now), default=None)
        if source is None or source.scheduler is None:
            return None
        self._looked_at[source.name] = now
        # Many more may wait than are here.
        ids = source.scheduler.stream_ids
        here = (streams[stream_id] for stream_id in ids if stream_id in streams)
        requests = {id(request): request for request in here}.values()
        others = [n for n in kinds[kind_of(source)] if n is not source]
        moves = self._moves(source, others, requests, now)
        return max(moves, key=lambda move: move.gain_s, default=None)

    def _urgency(self, target: NodeRecord, now: float) -> float:
        """Of a look at a target: the slower it is by now and the longer it was not looked at."""
        assert target.scheduler is not None
        waited_s = now - self._looked_at.get(target.name, now - 2 * LOOK_S)
        return target.scheduler.forecast.plain_s((), now) * waited_s

    def _moves(
        self,
        source: NodeRecord,
        others: Iterable[NodeRecord],
        requests: Iterable[Request],
        now: float,
    ) -> list[Move]:
        """Moves of one request off a target: the one not looked at for longest, of those that fit
        elsewhere, and of these the one that has most to come."""
        units: list[tuple[Request, list[Stream], list[NodeRecord]]] = []
        for request in requests:
            streams = _unit(request, source) if now >= request.moved_at + _REST_S else []
            able = [target for target in others if streams and _has_room(target, streams)]
            if able:
                units.append((request, streams, able))
        if not units or source.scheduler is None:
            return []
        request, streams, able = min(units, key=lambda u: (u[0].looked_at, -_num_left(u[1])))
        request.looked_at = now
        ids = [stream.spec.stream_id for stream in streams]
        here_s = source.scheduler.forecast.token_s(ids, now)
        # Rates are means over the streams, which go on side by side.
        left = _num_left(streams) / len(streams)
        prompt = streams[0].spec.num_prompt_tokens
        num_unread = prompt + sum(len(stream.token_ids) - prompt for stream in streams)
        moves = []
        for target in sorted(able, key=lambda n: _plain_s(n, streams, now))[:_CANDIDATES]:
            assert target.scheduler is not None
            forecast = target.scheduler.forecast
            there_s = forecast.token_s_of_newcomers(streams, now)
            gain_s = (here_s - there_s) * left - forecast.reading_s(num_unread)
            if here_s > _OVERLOAD * there_s and gain_s > 0:
                choices = tuple(request.choices[stream_id] for stream_id in ids)
                moves.append(Move(request, choices, target, gain_s))
        return moves


def _plain_s(target: NodeRecord, newcomers: Sequence[Stream], now: float) -> float:
    assert target.scheduler is not None
    return target.scheduler.forecast.plain_s(newcomers, now)


def _has_room(target: NodeRecord, streams: Sequence[Stream]) -> bool:
    holds = all(_can_hold(target, stream.spec) for stream in streams)
    return holds and target.has_room(_cells(streams), len(streams))


def _cells(streams: Iterable[Stream]) -> int:
    """What streams take at first, as their target counts it."""
    return sum(cells_soon(len(s.token_ids), s.tokens_left) for s in streams)


def _num_left(streams: Iterable[Stream]) -> int:
    return sum(stream.tokens_left for stream in streams)


def _unit(request: Request, source: NodeRecord) -> list[Stream]:
    """What would go together: a request's streams on a target; none while one is being read."""
    assert source.scheduler is not None
    ids = [s for s, choice in request.choices.items() if choice.target == source.name]
    streams = [source.scheduler.stream(stream_id) for stream_id in ids]
    known = [stream for stream in streams if stream is not None]
    return [] if any(isinstance(stream.phase, Opening) for stream in known) else known
