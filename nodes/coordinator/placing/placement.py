"""Chooses the target for a stream that waits or has to leave its own, by seconds per token.

A request has one numerics class, whose engines compute equal bits. Before its first token
choosing.py picks the class among the present ones; after that it stays. This module only decides;
it sends nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import Roster
from nodes.coordinator.placing.choosing import Choosing, is_of_kind
from nodes.coordinator.placing.suspects import Process, Suspicion
from nodes.coordinator.placing.waiting import Kind, Waiting
from nodes.coordinator.requests.ledger import Ledger
from nodes.coordinator.requests.request import Choice, Request
from nodes.messages import EngineProfile
from nodes.scheduler import passes
from nodes.scheduler.stream import Stream

# Interval between moves of streams that are stuck: what was moved has been read by then.
LOOK_S: Final = 2.0
# Tokens: nearly all answers of chats are shorter.
_USUAL_ANSWER: Final = 1024


@dataclass(frozen=True, slots=True)
class Move:
    """A stream goes on at another target."""

    choice: Choice
    target: NodeRecord


def _room(profile: EngineProfile) -> int:
    """Tokens of the longest text that a target can hold."""
    return min(profile.num_cells, profile.context_length)


def _kinds(choice: Choice, targets: Iterable[NodeRecord]) -> frozenset[Kind]:
    """Return the kinds of target a stream waits for; for an accused one, the targets by name.

    Targets of different sizes are of different kinds: a stream that only the largest can hold does
    not keep the others from those behind it.
    """

    def kind(target: NodeRecord) -> Kind:
        size = f"{target.profile.num_cells} {target.profile.context_length}"
        return (*target.kind, size, target.name) if choice.is_accused else (*target.kind, size)

    return frozenset(map(kind, targets))


def _journal_of(choice: Choice) -> Stream:
    return choice.journal or Stream(choice.spec, list(choice.spec.token_ids))


class Placement:
    """Keeps the waiting streams and chooses targets for them."""

    def __init__(self, roster: Roster, ledger: Ledger) -> None:
        self.choosing = Choosing(roster)
        self.waiting = Waiting(ledger.waits)
        self._ledger = ledger
        self._roster = roster
        # When the next accused stream has waited long enough for the target that was lost with it.
        self._freed_at = math.inf
        self._next_look = 0.0

    def profile_to_fit(
        self, request: Request, target: NodeRecord, num_prompt_tokens: int
    ) -> EngineProfile:
        """Return the profile into which a request must fit: of the target of its model that holds
        the longest text.

        A request whose max_tokens may shrink is fitted to the smallest target instead, so that any
        target can take it over. Targets without room for an answer of usual length are left out.
        """
        model = target.profile.model_hash
        staying = [n.profile for n in self._roster.nodes("target") if not n.is_draining]
        kin = [p for p in staying if is_of_kind(p, request) and p.model_hash == model]
        if request.submit.fits:
            least = num_prompt_tokens + _USUAL_ANSWER
            if roomy := [profile for profile in kin if _room(profile) >= least]:
                return min(roomy, key=_room)
        return max(kin, key=_room, default=target.profile)

    def wait(self, choice: Choice, now: float) -> None:
        self.waiting.add(choice, _kinds(choice, self._able(choice, now)), now)
        if choice.suspicion is not None and choice.suspicion.waits_until > now:
            self._freed_at = min(self._freed_at, choice.suspicion.waits_until)
        self._note_targets(choice.request, now)

    def _note_targets(self, request: Request, now: float) -> None:
        """Note whether each waiting stream of a request has a target that could serve it."""
        waiting = [stream_id for stream_id in request.choices if stream_id in self.waiting]
        is_able = all(map(self.waiting.has_targets, waiting))
        self._ledger.note_targets(request, is_able=is_able, now=now)

    def bind(self, choice: Choice, target: NodeRecord, now: float) -> None:
        """Take a placed stream off the line, and bind its request to the target's class."""
        self.waiting.take(choice, now)
        request = choice.request
        request.numerics_class = target.profile.numerics_class
        if request.is_exact is None:
            request.is_exact = target.profile.exact

    def targets_changed(self, now: float) -> None:
        """Update which targets may serve each waiting stream, and note those without any."""
        for choice in self.waiting:
            self.waiting.change(choice, _kinds(choice, self._able(choice, now)))
        for request in dict.fromkeys(choice.request for choice in self.waiting):
            self._note_targets(request, now)

    def target_lives(self, process: Process, now: float) -> dict[Request, Suspicion]:
        """Clear the suspects of a death that did not happen, because the process has asked to join.

        Returns the requests of which it proves that they ended the process before it.
        """
        self._reconsider(lambda suspicion: suspicion.without(process), now)
        convicted = dict[Request, Suspicion]()
        for choice in self.waiting:
            suspicion = choice.suspicion
            if suspicion is not None and suspicion.is_confirmed_by(process):
                suspicion.is_proven = True
                convicted[choice.request] = suspicion
        # What was lost together with a culprit has an explanation.
        explained = {each for suspicion in convicted.values() for each in suspicion.accused_by}
        self._reconsider(lambda each: None if each.last in explained else each, now, but=convicted)
        return convicted

    def _reconsider(
        self,
        left_of: Callable[[Suspicion], Suspicion | None],
        now: float,
        but: Container[Request] = (),
    ) -> None:
        """Reduce suspicions to what new evidence leaves of them, except those of some requests."""
        for choice in self._ledger.streams.values():
            known = choice.suspicion
            if known is None or choice.request in but or (left := left_of(known)) is known:
                continue
            is_waiting = choice.spec.stream_id in self.waiting
            if is_waiting:
                self.waiting.remove(choice)
            choice.suspicion = left
            if is_waiting:
                self.wait(choice, now)

    def tick(self, now: float) -> None:
        """Let accused streams go to any target once theirs did not return in time."""
        if now < self._freed_at:
            return
        ends = [c.suspicion.waits_until for c in self.waiting if c.suspicion is not None]
        self._freed_at = min((end for end in ends if end > now), default=math.inf)
        self.targets_changed(now)

    def next_placed(self, now: float) -> tuple[Choice, NodeRecord] | None:
        """Return the first waiting stream for which there is room, with its best target.

        Streams that wait for the same targets do not overtake each other; otherwise small ones
        could keep a large one waiting forever.
        """
        # Kinds of targets that have no room for a stream further ahead.
        blocked: set[Kind] = set()
        # Suspects that wait for their trial, for which streams that are no suspects leave room.
        kept: list[tuple[frozenset[str], Stream]] = []
        # The streams behind the first of a line wait for targets of the same kinds.
        for head in self.waiting.heads():
            if head.kinds <= blocked:
                continue
            choice, able = head.choice, self._able(head.choice, now)
            free = [n for n in able if not _kinds(choice, [n]) <= blocked]
            if choice.suspicion is not None:
                free = [n for n in free if not self._is_trying(n)]
                if not free:
                    kept = self._suspects(now)
                    continue
            stream, others = _journal_of(choice), [] if choice.suspicion else kept
            fitting = [
                n
                for n in free
                if n.has_room([stream, *(other for names, other in others if n.name in names)])
            ]
            if fitting:
                return choice, self._best(choice, stream, fitting, now)
            blocked |= _kinds(choice, free)
            if choice.is_accused:
                kept.append((frozenset(n.name for n in free), stream))
        return None

    def _suspects(self, now: float) -> list[tuple[frozenset[str], Stream]]:
        """Return each waiting suspect, after the names of the targets that it may go to."""
        return [
            (frozenset(n.name for n in self._able(choice, now)), _journal_of(choice))
            for choice in self.waiting
            if choice.suspicion is not None
        ]

    def _is_trying(self, target: NodeRecord) -> bool:
        """Whether a target has a suspect without a token; a second one must not join it."""
        held = self._ledger.streams
        return any(held[s].suspicion is not None for s in target.streams if s in held)

    def _able(self, choice: Choice, now: float) -> list[NodeRecord]:
        """Return the targets, full ones too, that may serve a stream without changing its text.

        Draining ones are included only if there is no other and the request has begun.
        """
        request = choice.request
        able = [
            n
            for n in self._roster.nodes("target")
            if is_of_kind(n.profile, request)
            and n.can_hold(choice.spec)
            and (choice.suspicion is None or choice.suspicion.may_go_to(n.name, now))
        ]
        staying = [n for n in able if not n.is_draining]
        if not staying and (request.has_started or request.is_resumed):
            staying = able
        return self.choosing.of_first_class(staying, request, now)

    def _best(
        self, choice: Choice, stream: Stream, targets: Sequence[NodeRecord], now: float
    ) -> NodeRecord:
        def price_s(target: NodeRecord) -> float:
            """Seconds per token, including a share of the time to read the prompt."""
            assert target.scheduler is not None
            num_unread = len(stream.token_ids)
            # A prompt that another choice has brought here is not read again.
            if any(other.target == target.name for other in choice.request.choices.values()):
                num_unread -= stream.spec.num_prompt_tokens
            reading_s = passes.reading_s(target.scheduler, num_unread)
            here = target.scheduler.streams.values()
            token_s = passes.token_s(target.scheduler, here, [stream], now)
            return token_s + reading_s / max(1, stream.tokens_left)

        def num_untried(target: NodeRecord) -> int:
            """Streams of other requests on a target whose passes were not observed yet. It gets one
            where others are known, and otherwise as many as the others: what it says of itself does
            not count."""
            if target.is_observed:
                return 0
            held = self._ledger.streams
            return sum(s in held and held[s].request is not choice.request for s in target.streams)

        for target in targets if len(targets) > 1 else ():
            if target.scheduler is not None:
                passes.forget_old(target.scheduler, now)
        return min(targets, key=lambda n: (num_untried(n), price_s(n), n.admitted_cells))

    def evacuated(self, choice: Choice, now: float) -> Move | None:
        """Return a move of a draining target's stream to a target with room; None without one."""
        source = self._roster.node(choice.target)
        stream = None if source is None else source.streams.get(choice.spec.stream_id)
        if source is None or not source.is_draining or stream is None:
            return None
        return self._elsewhere(choice, stream, now)

    def next_move(self, now: float) -> Move | None:
        """Return a move of a stream that is parked, or about which its target is silent, to a
        target with room, if one is due."""
        if now < self._next_look:
            return None
        self._next_look = now + LOOK_S
        for source in self._roster.nodes("target"):
            for stream in source.streams.values():
                choice = self._ledger.streams.get(stream.spec.stream_id)
                # One that was opened again has had no token for a minute.
                is_stuck = stream.is_parked or stream.num_reopened > 0
                if choice is None or choice.suspicion is not None or not is_stuck:
                    continue
                if move := self._elsewhere(choice, stream, now):
                    return move
        return None

    def _elsewhere(self, choice: Choice, stream: Stream, now: float) -> Move | None:
        able = [n for n in self._able(choice, now) if not n.is_draining]
        able = [n for n in able if n.name != choice.target]
        if choice.suspicion is not None:
            able = [n for n in able if not self._is_trying(n)]
        fitting = [n for n in able if n.has_room([stream])]
        return Move(choice, self._best(choice, stream, fitting, now)) if fitting else None
