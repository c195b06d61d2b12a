"""The coordinator without its sockets: what it does at each event.

Its methods take messages and `now`, and return the messages to send. Nothing here waits or reads a
clock. Each event is applied first: phases of requests change, and nothing gets a place. Then all
settles once: texts and streams get the places that are free now. docs/design/requests.md explains
this.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from airdraft.mesh.grants import Air
from airdraft.mesh.messages import NOT_ALLOWED, Hello, Ping, Refuse, Welcome
from airdraft.nodes.config.settings import LimitSettings
from airdraft.nodes.coordinator import dispatch, membership
from airdraft.nodes.coordinator.data import Data, Sender
from airdraft.nodes.coordinator.members.challenge import Challenges
from airdraft.nodes.coordinator.members.owners import Owners
from airdraft.nodes.coordinator.members.record import DraftRecord, TargetRecord
from airdraft.nodes.coordinator.members.roster import (
    DRAINED,
    ClientOut,
    NodeOut,
    Roster,
    RosterEvent,
)
from airdraft.nodes.coordinator.members.stages import Stages
from airdraft.nodes.coordinator.requests import intake, placing, running
from airdraft.nodes.coordinator.requests.book import Requests
from airdraft.nodes.coordinator.requests.classes import Classes
from airdraft.nodes.coordinator.requests.suspects import Remembered
from airdraft.nodes.coordinator.requests.uploads import Uploads
from airdraft.nodes.coordinator.sends import Send, streams_of
from airdraft.nodes.coordinator.status.document import Reporting
from airdraft.nodes.coordinator.tracing import Tracing
from airdraft.nodes.messages import EngineProfile, OpenStreamRequest, StagesRequest, TokenizeRequest
from airdraft.nodes.messages.access import ANYBODY, GATEWAY, ROLES, Caller, ForbiddenError, key_name
from airdraft.nodes.scheduler.drafts import Drafts
from airdraft.nodes.scheduler.in_force import begin_plan, take_plan
from airdraft.nodes.scheduler.planning import Mode, PlanInput, PlanResult
from airdraft.nodes.scheduler.scheduler import Scheduler
from airdraft.nodes.worker.profile import token_bits
from airdraft.policies.latency import NodeCosts

logger = logging.getLogger(__name__)

_MAX_SHORT_REASON: Final = 256
# Interval between attempts to move streams off drained targets.
_DRAIN_LOOK_S: Final = 0.25
# Interval between moves of streams that are stuck: what was moved has been read by then.
LOOK_S: Final = 2.0


def _refusal_of(caller: Caller, role: str) -> str:
    if role not in ROLES:
        return f"unknown role {role}"[:_MAX_SHORT_REASON]
    roles = ", ".join(sorted(caller.roles or ()))
    return (
        f"the key of {caller.name} lacks the role {role!r} (it has {roles}): on the "
        f"coordinator, run `airdraft keys invite --role {role} --endpoint ...` without a name, and "
        f"join here with that token: roles add up"
    )[:_MAX_SHORT_REASON]


class CoordinatorState:
    """Applies events to the coordinator's data, and settles them."""

    def __init__(
        self,
        mode: Mode,
        welcome: Welcome,
        *,
        secret: bytes = b"",
        limits: LimitSettings | None = None,
        lookup: bool = False,
        version: str = "",
        is_private: bool = False,
    ) -> None:
        """welcome: what is sent to each member, with its name. secret: random bytes, so that nobody
        can predict seeds. is_private: all members are programs of one user of this machine."""
        self.welcome = welcome
        self._mode, self._is_private = mode, is_private
        self._has_lookup = lookup
        self.roster = roster = Roster(welcome, self._new_scheduler)
        requests, air, self._drafts = Requests(), Air(), Drafts()
        self.reporting = Reporting(version, secret, roster, requests, air, self._drafts)
        self.data = Data(
            secret=secret,
            welcome=welcome,
            limits=limits or LimitSettings(),
            roster=roster,
            stages=Stages(roster),
            owners=Owners(roster),
            challenges=Challenges(welcome.epoch),
            requests=requests,
            classes=Classes(roster),
            remembered=Remembered(),
            uploads=Uploads(air, roster.client_rtt_s, pads=welcome.pads),
            drafts=self._drafts,
            air=air,
            reporting=self.reporting,
            tracing=Tracing(),
        )
        self._drains_at = self._stuck_at = 0.0

    def _new_scheduler(self, name: str, profile: EngineProfile, costs: NodeCosts) -> Scheduler:
        return Scheduler(
            costs,
            self._drafts,
            token_bits=token_bits(profile),
            # A target that cannot take guesses back decodes without them.
            looks_up=self._has_lookup and profile.can_take_back,
            name=name,
            counts=self.reporting.counts_of(name),
            mode=self._mode,
        )

    # -- events ------------------------------------------------------------------------------------

    def on_message(
        self,
        peer: bytes,
        cluster: str,
        epoch: int,
        message: Any,
        num_bytes: int,
        now: float,
        caller: Caller = ANYBODY,
    ) -> list[Send]:
        """Handle one message. Messages of another cluster or epoch are counted and dropped.

        Raises ForbiddenError, and changes nothing, if the sender may not send this message.
        """
        self.reporting.traffic.note("in", type(message), num_bytes)
        if isinstance(message, Hello):
            return self._settled(self._on_hello(peer, message, caller, now), now)
        role = self.roster.role_of(peer)
        if role and not dispatch.may_send(caller, role, type(message)):
            raise ForbiddenError(f"a {role} may not send {type(message).__name__}")
        member = self.roster.membership.on_message(peer, now)
        if member is None or (cluster, epoch) != (self.welcome.cluster, self.welcome.epoch):
            self.reporting.num_stale += 1
            return []
        node = self.roster.node_of(member)
        if node is not None:
            node.bytes_in += num_bytes
        # Of the key, whichever connection its messages arrive on, or of the connection.
        name = caller.name or peer.hex()
        if self._is_private and role == GATEWAY:
            # What its requests left on the disk is for those after a restart, too.
            name = GATEWAY
        sender = Sender(peer, role, caller, node, num_bytes, name)
        return self._settled(dispatch.handle(self.data, sender, message, now), now)

    def _on_hello(self, peer: bytes, hello: Hello, caller: Caller, now: float) -> list[Send]:
        if not caller.may_join_as(hello.role):
            return [Send(peer, Refuse(_refusal_of(caller, hello.role), NOT_ALLOWED))]
        hello = replace(hello, node=caller.node_name(hello.node))
        return membership.changed(self.data, self.roster.hello(peer, hello, now), now)

    def peer_gone(self, peer: bytes, now: float) -> list[Send]:
        return self._on_roster(self.roster.remove(peer, "connection gone"), now)

    def revoked(self, peer: bytes, now: float) -> list[Send]:
        """End the membership of a peer whose key no longer has its role; it has not died."""
        node = self.roster.node_at(peer)
        out = self.data.stages.revoked(key_name(node.name)) if node is not None else []
        events = self.roster.remove(peer, "key revoked", has_died=False)
        return [*out, *self._on_roster(events, now)]

    def keys_known(self, names: tuple[str, ...]) -> list[Send]:
        """Take the names of all authorized keys; () if they are not known."""
        return self.data.owners.known(names)

    def stages_asked(
        self, peer: bytes, key: str, caller: Caller, request: StagesRequest, now: float
    ) -> list[Send]:
        """Answer a target, which need not have joined. key: its own; "" where there are none."""
        return self.data.stages.asked(peer, key, caller, request, now)

    def _on_roster(self, events: Iterable[RosterEvent], now: float) -> list[Send]:
        return self._settled(membership.changed(self.data, events, now), now)

    def undeliverable(self, send: Send, error: str, now: float) -> list[Send]:
        """End the requests of a message that exceeds the limits of the wire."""
        logger.error("%s cannot be sent: %s", type(send.message).__name__, error)
        requests, number = self.data.requests, getattr(send.message, "request_id", 0)
        streams = filter(None, map(requests.streams.get, streams_of(send.message)))
        found = [*(stream.request for stream in streams), requests.request(send.peer, number)]
        if isinstance(send.message, TokenizeRequest):
            requests.texts.unsent(number)
            found.append(requests.with_text(number))
        out: list[Send] = []
        for request in filter(None, dict.fromkeys(found)):
            reason = f"a message is too large: {error}"
            out += running.fail(self.data, request, "internal", reason, now)
        return self._settled(out, now)

    def tick(self, now: float) -> list[Send]:
        """Send heartbeats, remove silent members and do what is due; call it about 20 times a
        second."""
        data, roster = self.data, self.roster
        # A target that fell silent together with a client still finds the client's streams.
        out = membership.changed(data, sorted(roster.tick(now), key=_order_of_leaving), now)
        for target in data.challenges.overdue(roster.targets(), now):
            events = roster.remove(target.peer, "its probe is not answered")
            out += membership.changed(data, events, now)
        out += data.challenges.due(roster.targets(), now)
        out += roster.pings(now)
        for target in roster.targets():
            out += running.deliver(data, target, target.scheduler.tick(now), now)
        data.tracing.tick(roster.targets(), now)
        data.reporting.tick(now)
        out += data.uploads.grants(now)
        out += intake.tick(data, now)
        # Which class is in force may change with time alone.
        data.requests.due.places = True
        if now >= self._drains_at:
            self._drains_at = now + _DRAIN_LOOK_S
            data.requests.due.moves = True
        return self._settled(out, now, is_tick=True)

    @property
    def is_plan_due(self) -> bool:
        """Whether the caller should make a plan, after it has sent the returned messages."""
        return any(target.scheduler.is_plan_due for target in self.roster.targets())

    def begin_plan(self, now: float) -> tuple[TargetRecord, PlanInput] | None:
        """Returns the plan that has been due for longest, if one is due, and its target.

        The caller makes it and calls take_plan() before it begins another one. It may handle
        messages meanwhile.
        """
        due = [target for target in self.roster.targets() if target.scheduler.is_plan_due]
        for target in sorted(due, key=lambda each: each.scheduler.plan_at):
            planning = begin_plan(target.scheduler, now)
            if planning is not None:
                return target, planning
        return None

    def take_plan(self, target: TargetRecord, made: PlanResult, now: float) -> list[Send]:
        """Put a plan in force and return what it starts; nothing if its target has left."""
        if self.roster.node(target.name) is not target:
            return []
        started = take_plan(target.scheduler, made)
        self.data.tracing.planned(target, now)
        return self._settled(running.deliver(self.data, target, started, now), now)

    def next_deadline(self) -> float | None:
        """Returns when a scheduler or an upload next needs a tick, or None."""
        deadlines = [target.scheduler.next_deadline() for target in self.roster.targets()]
        deadlines.append(self.data.uploads.next_deadline)
        return min((d for d in deadlines if d is not None), default=None)

    def sent(self, send: Send, num_bytes: int, now: float) -> list[Send]:
        """Count a sent message's bytes; return what must be sent right after it."""
        self.reporting.traffic.note("out", type(send.message), num_bytes)
        is_ping = isinstance(send.message, Ping)
        if (node := self.roster.node_at(send.peer)) is not None:
            is_draft = isinstance(node, DraftRecord)
            self.data.requests.count_bytes(send.message, num_bytes, to_draft=is_draft)
            if isinstance(send.message, OpenStreamRequest):
                node.text_sent(num_bytes, self.data.air, now)
        ping = self.roster.sent(send.peer, num_bytes, now, is_ping=is_ping)
        return [Send(send.peer, ping)] if ping is not None else []

    # -- settling ----------------------------------------------------------------------------------

    def _settled(self, out: list[Send], now: float, *, is_tick: bool = False) -> list[Send]:
        """Returns the messages of an event and those of what it makes possible.

        A step makes work only for later ones, so settling again would do nothing.
        """
        due = self.data.requests.due
        if due.moves:
            due.moves = False
            out += self._leave_drained(now)
        if is_tick:
            out += [*self._leave_stuck(now), *self._dismiss_drained(now)]
        if due.targets:
            due.targets, due.places = False, True
            out += intake.targets_changed(self.data, now)
        if due.places:
            out += running.admit(self.data, now)
            due.places = False
        return [*out, *intake.ask(self.data, now)]

    def _draining(self) -> list[TargetRecord]:
        return [target for target in self.roster.targets() if target.is_draining]

    def _leave_drained(self, now: float) -> list[Send]:
        """Move streams off drained targets where other targets have room for them."""
        out, draining = list[Send](), self._draining()
        for stream in list(self.data.requests.streams.values()) if draining else ():
            if stream.target in draining:
                out += running.move(self.data, stream, now)
        return out

    def _leave_stuck(self, now: float) -> list[Send]:
        """Move one stream that is stuck, now and then."""
        if now < self._stuck_at:
            return []
        self._stuck_at = now + LOOK_S
        stuck = filter(placing.is_stuck, self.data.requests.streams.values())
        moves = (running.move(self.data, stream, now) for stream in stuck)
        return next(filter(None, moves), [])

    def _dismiss_drained(self, now: float) -> list[Send]:
        """Dismiss drained targets that have no streams, and no texts that end with their answer."""
        out: list[Send] = []
        for target in self._draining():
            texts = self.data.requests.texts_of(target)
            if not (target.streams or any(request.submit.wants for request in texts)):
                events = self.roster.dismiss(target, DRAINED)
                out += membership.changed(self.data, events, now)
        return out


def _order_of_leaving(event: RosterEvent) -> int:
    """Targets go out first, then draft nodes, then clients."""
    if isinstance(event, ClientOut):
        return 2
    return int(isinstance(event, NodeOut) and isinstance(event.record, DraftRecord))
