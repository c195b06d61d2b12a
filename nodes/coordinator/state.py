"""The coordinator without its sockets: nodes, requests, and one scheduler per target.

Its methods take messages and `now`, and return the messages to send. Nothing here waits or reads a
clock.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mesh.grants import Air
from mesh.messages import NOT_ALLOWED, Bye, Credit, Hello, Ping, Pong, Refuse, Welcome
from nodes.config.settings import LimitSettings
from nodes.coordinator import member_messages
from nodes.coordinator.members.challenge import Challenges
from nodes.coordinator.members.drains import Drains
from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import ClientOut, NodeLives, NodeOut, Roster, RosterEvent
from nodes.coordinator.requests.intake import Intake
from nodes.coordinator.requests.uploads import Uploads
from nodes.coordinator.sends import Send, streams_of
from nodes.coordinator.serving import Serving
from nodes.coordinator.status.document import Reporting
from nodes.coordinator.tracing import Tracing
from nodes.messages import (
    NodeCommandRequest,
    NodesReply,
    NodesRequest,
    OpenStreamRequest,
    ProbeReply,
    StatusRequest,
    TokenizeRequest,
    TraceRequest,
)
from nodes.messages.access import ANYBODY, ROLES, Caller, ForbiddenError
from nodes.scheduler import Scheduler
from nodes.scheduler.drafts import Drafts
from nodes.scheduler.planning import Made, Mode, Planning, begin_plan, take_plan
from nodes.worker.profile import token_bits

logger = logging.getLogger(__name__)

_MAX_SHORT_REASON = 256


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
    """Holds the coordinator's data and makes its decisions."""

    def __init__(
        self,
        mode: Mode,
        welcome: Welcome,
        *,
        limits: LimitSettings | None = None,
        lookup: bool = False,
        version: str = "",
    ) -> None:
        """welcome: what is sent to each member, with its name."""
        self.welcome = welcome
        self._mode = mode
        self._has_lookup = lookup
        self.roster = Roster(welcome)
        self.serving = Serving(self.roster)
        self.intake = Intake(self.roster, self.serving, limits or LimitSettings())
        self._drains = Drains(self.roster, self.serving)
        self._challenges = Challenges(welcome.epoch)
        # Draft nodes serve all targets.
        self._air = Air()
        self.uploads = Uploads(self._air, self.roster.client_rtt_s, pads=welcome.pads)
        self._drafts = Drafts()
        self.tracing = Tracing()
        self.reporting = Reporting(version, self.roster, self.serving, self._air, self._drafts)

    # -- incoming events ---------------------------------------------------------------------

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
            if not caller.may_join_as(message.role):
                return [Send(peer, Refuse(_refusal_of(caller, message.role), NOT_ALLOWED))]
            hello = replace(message, node=caller.node_name(message.node))
            return self._on_roster(self.roster.hello(peer, hello, now), now)
        role = self.roster.role_of(peer)
        if role and not caller.may_send(role, message):
            raise ForbiddenError(f"a {role} may not send {type(message).__name__}")
        member = self.roster.membership.on_message(peer, now)
        if member is None or (cluster, epoch) != (self.welcome.cluster, self.welcome.epoch):
            self.reporting.num_stale += 1
            return []
        node = self.roster.node_of(member)
        if node is not None:
            node.bytes_in += num_bytes
        match message:
            case Bye(reason=reason):
                return self._on_roster(
                    self.roster.remove(peer, f"said bye: {reason}", has_died=False), now
                )
            case Pong():
                self.roster.pong(member, message, now)
                return []
            case Ping(seq=seq):
                return [Send(peer, Pong(seq, 0))]
            case Credit():
                # The shell counts the messages in flight and has handled it.
                return []
        if node is not None:
            if isinstance(message, ProbeReply):
                return self._on_probed(node, message, now)
            return member_messages.from_node(self, node, message, num_bytes, now)
        # Requests of one key and user share prefixes, whichever connection they arrive on.
        sender = caller.name or peer.hex()
        answer = member_messages.from_client(self, peer, role, sender, message, now)
        return self._on_query_or_command(peer, message, now) if answer is None else answer

    def peer_gone(self, peer: bytes, now: float) -> list[Send]:
        return self._on_roster(self.roster.remove(peer, "connection gone"), now)

    def revoked(self, peer: bytes, now: float) -> list[Send]:
        """End the membership of a peer whose key no longer has its role; it has not died."""
        return self._on_roster(self.roster.remove(peer, "key revoked", has_died=False), now)

    def undeliverable(self, send: Send, error: str, now: float) -> list[Send]:
        """End the requests of a message that exceeds the limits of the wire."""
        logger.error("%s cannot be sent: %s", type(send.message).__name__, error)
        ledger, number = self.serving.ledger, getattr(send.message, "request_id", 0)
        choices = map(ledger.streams.get, streams_of(send.message))
        found = [choice.request if choice is not None else None for choice in choices]
        found.append(ledger.request(send.peer, number))
        if isinstance(send.message, TokenizeRequest):
            found.append(ledger.tokenizing.unsent(number))
        out: list[Send] = []
        for request in filter(None, dict.fromkeys(found)):
            reason = f"a message is too large: {error}"
            out += self.serving.fail(request, "internal", reason, now)
        return [*out, *self.intake.ask_tokenizers()]

    def tick(self, now: float) -> list[Send]:
        """Send heartbeats, remove silent members and do what is due; call it about 20 times a
        second."""
        out = self._on_roster(self.roster.tick(now), now)
        out += self.roster.pings(now)
        for node, scheduler in self.roster.schedulers():
            out += self.serving.carry_out(node, scheduler.tick(now), now)
        self.tracing.tick(self.roster.schedulers(), now)
        self.reporting.tick(now)
        out += self.uploads.grants(now) + self.serving.tick(now)
        out += self.intake.ask_tokenizers()
        events = self._drains.tick(now)
        for node in self._challenges.overdue(self.roster.nodes(), now):
            events += self.roster.remove(node.peer, "its probe is not answered")
        events += self._challenges.due(self.roster.nodes(), now)
        return [*out, *self._on_roster(events, now)]

    @property
    def is_plan_due(self) -> bool:
        """Whether the caller should make a plan, after it has sent the returned messages."""
        return any(scheduler.is_plan_due for _, scheduler in self.roster.schedulers())

    def begin_plan(self, now: float) -> tuple[NodeRecord, Planning] | None:
        """Return the plan that has been due for longest, if one is due, and its target.

        The caller makes it and calls take_plan() before it begins another one. It may handle
        messages meanwhile.
        """
        due = [(n, scheduler) for n, scheduler in self.roster.schedulers() if scheduler.is_plan_due]
        for node, scheduler in sorted(due, key=lambda each: each[1].plan_at):
            planning = begin_plan(scheduler, now)
            if planning is not None:
                return node, planning
        return None

    def take_plan(self, target: NodeRecord, made: Made, now: float) -> list[Send]:
        """Put a plan in force and return what it starts; nothing if its target has left."""
        if self.roster.node(target.name) is not target or target.scheduler is None:
            return []
        started = take_plan(target.scheduler, made)
        self.tracing.planned(target, target.scheduler, now)
        return self.serving.carry_out(target, started, now)

    def next_deadline(self) -> float | None:
        """Return when a scheduler or an upload next needs a tick, or None."""
        deadlines = [scheduler.next_deadline() for _, scheduler in self.roster.schedulers()]
        deadlines.append(self.uploads.next_deadline)
        return min((d for d in deadlines if d is not None), default=None)

    def sent(self, send: Send, num_bytes: int, now: float) -> list[Send]:
        """Count a sent message's bytes; return what must be sent right after it."""
        self.reporting.traffic.note("out", type(send.message), num_bytes)
        is_ping = isinstance(send.message, Ping)
        if (node := self.roster.node_at(send.peer)) is not None:
            self.serving.ledger.count_bytes(send.message, num_bytes, to_draft=node.role == "draft")
            if isinstance(send.message, OpenStreamRequest):
                node.text_sent(num_bytes, self._air, now)
        ping = self.roster.sent(send.peer, num_bytes, now, is_ping=is_ping)
        return [Send(send.peer, ping)] if ping is not None else []

    # -- membership changes --------------------------------------------------------------------

    def _on_roster(self, events: Sequence[RosterEvent], now: float) -> list[Send]:
        out: list[Send] = []
        for event in events:
            match event:
                case Send():
                    out.append(event)
                case NodeRecord():
                    out += self._on_node_in(event, now)
                case NodeOut():
                    out += self._on_node_out(event, now)
                case ClientOut(peer=peer):
                    self.uploads.gone(peer)
                    out += self.serving.client_gone(peer, now)
                case NodeLives(name=name, incarnation=incarnation):
                    out += self.serving.target_lives((name, incarnation), now)
                    out += self.serving.admit_waiting(now)
        return out

    def _on_node_in(self, node: NodeRecord, now: float) -> list[Send]:
        self.reporting.node_in(node)
        if node.role == "target":
            node.scheduler = self._scheduler_for(node)
            node.scheduler.link = node.target_link()
            for draft in self.roster.nodes("draft"):
                if draft.can_draft_for(node):
                    draft.draft_for(node.scheduler)
            self.tracing.target_joined(node)
            self.intake.target_came(node, now)
            self.serving.targets_changed(now)
            # No stream is placed on it from here on, until it has answered.
            probe = self._challenges.ask(node, now)
            ended = self.serving.target_lives((node.name, node.member.incarnation), now)
            return [probe, *ended, *self.intake.take_up(now)]
        out: list[Send] = []
        for target, scheduler in self.roster.schedulers():
            if node.can_draft_for(target):
                out += self.serving.carry_out(target, node.draft_for(scheduler), now)
        return out

    def _scheduler_for(self, node: NodeRecord) -> Scheduler:
        return Scheduler(
            node.costs,
            self._drafts,
            token_bits=token_bits(node.profile),
            # A target that cannot roll back guesses decodes without them.
            looks_up=self._has_lookup and node.profile.can_roll_back,
            name=node.name,
            counts=self.reporting.counts_of(node.name),
            mode=self._mode,
        )

    def _on_probed(self, node: NodeRecord, reply: ProbeReply, now: float) -> list[Send]:
        """Let streams go to a target that answered its probe, by the class that it has proven."""
        if not self._challenges.answered(node, reply):
            self.reporting.num_stale += 1
            return []
        self.serving.targets_changed(now)
        return [*self.intake.take_up(now), *self.serving.admit_waiting(now)]

    def _on_node_out(self, event: NodeOut, now: float) -> list[Send]:
        out: list[Send] = []
        node = event.record
        self.reporting.node_out(node, event.reason, now)
        if node.role == "draft":
            for target, scheduler in self.roster.schedulers():
                lost = scheduler.draft_lost(node.name, has_died=event.has_died)
                out += self.serving.carry_out(target, lost, now)
            # The first scheduler has removed it and divided its medium anew, if there is a target.
            self._drafts.pop(node.name, None)
            return out
        return [*self.serving.target_gone(event, now), *self.intake.ask_tokenizers()]

    # -- queries and commands ----------------------------------------------------------------------

    def _on_query_or_command(self, peer: bytes, message: Any, now: float) -> list[Send]:
        match message:
            case NodesRequest(request_id=request_id):
                return [Send(peer, NodesReply(request_id, self.roster.fields()))]
            case StatusRequest():
                return [Send(peer, self.reporting.answer(message, now))]
            case TraceRequest():
                schedulers = self.roster.schedulers()
                return [Send(peer, self.tracing.answer(message, schedulers, now))]
            case NodeCommandRequest():
                reply, events = self._drains.command(message, now)
                out = [Send(peer, reply), *self._on_roster(events, now)]
                return [*out, *self.intake.take_up(now)]
        self.reporting.num_stale += 1
        return []
