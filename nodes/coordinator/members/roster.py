"""The coordinator's list of members: nodes with engines, and clients. Pure."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from airdraft.mesh.errors import DecodeError
from airdraft.mesh.latest import Latest
from airdraft.mesh.membership import REPLACED, Left, Member, MembershipState, Refused
from airdraft.mesh.messages import (
    DISMISSED,
    OTHER_PROTOCOL,
    Bye,
    Hello,
    Ping,
    Pong,
    Refuse,
    Welcome,
)
from airdraft.nodes.coordinator.members.record import (
    STAGE_PROFILE,
    DraftRecord,
    NodeRecord,
    StageRecord,
    TargetRecord,
    ping_bits,
)
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages import EngineProfile, NodeFields
from airdraft.nodes.messages.access import NODE_ROLES, Role, key_name
from airdraft.nodes.scheduler.scheduler import Scheduler
from airdraft.nodes.worker.profile import costs_of, decode_profile, link_of, same_vocabulary
from airdraft.policies.latency import NodeCosts
from airdraft.policies.plan import Link

logger = logging.getLogger(__name__)

_MAX_REASON = 256
# 64 nodes with names of four bytes a character take some 70 KB of the 96 KB allowed. 64 characters
# hold a whole SHA-256.
_MAX_NODES_SHOWN, MAX_MODEL_CHARS = 64, 64
# The highest round trip that a message can hold.
_MOST_RTT_US = 2**31 - 1
# Dismissed processes that are remembered.
_MAX_DISMISSED = 1024
DRAINED = "drained by an operator: restart the node to bring it back"
DROPPED = "dropped by an operator: restart the node to bring it back"
# The seq of a Ping that is sent before a suspect stream; heartbeats use lower ones. Its Pong proves
# that the target was alive when it received the stream.
PROOF = 2**62


@dataclass(frozen=True, slots=True)
class NodeOut:
    """has_died: it left neither by itself nor by an operator's command. last_seen: when its last
    message came."""

    record: NodeRecord
    reason: str
    has_died: bool
    last_seen: float


@dataclass(frozen=True, slots=True)
class ClientOut:
    peer: bytes


@dataclass(frozen=True, slots=True)
class NodeLives:
    """A process that may not join has asked to join, so it has not died."""

    name: str
    incarnation: int


# A record stands for a node that has joined.
RosterEvent = Send | NodeRecord | NodeOut | ClientOut | NodeLives


def _refusal(peer: bytes, reason: str, code: str = "") -> Send:
    return Send(peer, Refuse(reason[:_MAX_REASON], code))


class Roster:
    """Keeps the members with their roles and records. membership: with their heartbeats."""

    def __init__(
        self, welcome: Welcome, new_scheduler: Callable[[str, EngineProfile, NodeCosts], Scheduler]
    ) -> None:
        """welcome: what is sent to each member, with its name. new_scheduler: called for each
        target that joins."""
        self.welcome = welcome
        self._new_scheduler = new_scheduler
        self.membership = MembershipState(welcome.heartbeat_interval_s, welcome.heartbeat_timeout_s)
        self._nodes: dict[str, NodeRecord] = {}
        # Why a process, by name and incarnation, may not join again.
        self._dismissed = Latest[tuple[str, int], str](_MAX_DISMISSED)

    def peers(self) -> list[bytes]:
        return [member.peer for member in self.membership.members()]

    def role_of(self, peer: bytes) -> str:
        """Returns the role a peer joined in; "" if it is no member."""
        member = self.membership.by_peer(peer)
        return member.role if member is not None else ""

    def roles(self) -> dict[bytes, str]:
        return {member.peer: member.role for member in self.membership.members()}

    def node(self, name: str) -> NodeRecord | None:
        return self._nodes.get(name)

    def node_of(self, member: Member) -> NodeRecord | None:
        record = self._nodes.get(member.node)
        return record if record is not None and record.peer == member.peer else None

    def node_at(self, peer: bytes) -> NodeRecord | None:
        member = self.membership.by_peer(peer)
        return self.node_of(member) if member is not None else None

    def nodes(self) -> list[NodeRecord]:
        return list(self._nodes.values())

    def target(self, name: str) -> TargetRecord | None:
        node = self._nodes.get(name)
        return node if isinstance(node, TargetRecord) else None

    def targets(self) -> list[TargetRecord]:
        return [node for node in self._nodes.values() if isinstance(node, TargetRecord)]

    def drafts(self) -> list[DraftRecord]:
        return [node for node in self._nodes.values() if isinstance(node, DraftRecord)]

    def shown(self) -> list[NodeRecord]:
        """Returns the nodes that others see, as many as fit into one message.

        If there are more, draining nodes come first, because a client that drains a node waits
        until it has left this list; then come targets, because gateways learn models from them.
        Among these the keys take turns, so that the nodes of one key hide no other's.
        """
        nodes = list(self._nodes.values())
        if len(nodes) <= _MAX_NODES_SHOWN:
            return nodes
        turns, num_before = {}, Counter[tuple[str, str]]()
        for node in nodes:
            key = node.role, key_name(node.name)
            turns[node.name] = num_before[key]
            num_before[key] += 1
        nodes.sort(key=lambda n: (not n.is_draining, n.role != Role.TARGET, turns[n.name]))
        return nodes[:_MAX_NODES_SHOWN]

    def fields(self) -> tuple[NodeFields, ...]:
        """Returns what clients may see of the nodes."""
        return tuple(
            NodeFields(
                n.name,
                n.role.value,
                n.profile.model[:MAX_MODEL_CHARS],
                n.profile.exact,
                n.profile.emulated,
                n.num_streams,
                n.is_draining,
                # A node may answer an old Ping an hour late.
                min(_MOST_RTT_US, round(1e6 * (n.heartbeat.rtt_s or 0.0))),
                n.profile.model_hash[:MAX_MODEL_CHARS],
                n.profile.numerics_class[:MAX_MODEL_CHARS],
                n.profile.traits,
            )
            for n in self.shown()
        )

    def hello(self, peer: bytes, hello: Hello, now: float) -> list[RosterEvent]:
        profile = None
        process, held = (hello.node, hello.incarnation), self._nodes.get(hello.node)
        left: list[RosterEvent] = []
        is_back = (
            held is not None and held.member.incarnation == hello.incarnation and held.peer != peer
        )
        if held is not None and is_back and held.is_draining:
            # A process that connects again has forgotten its streams, so its drain is over.
            left = self.remove(held.peer, REPLACED, has_died=False)
        if reason := self._dismissed.get(process, ""):
            return [*left, _refusal(peer, reason, DISMISSED), NodeLives(*process)]
        if hello.role in NODE_ROLES:
            try:
                is_stage = hello.role == Role.STAGE
                profile = STAGE_PROFILE if is_stage else decode_profile(hello.profile)
                costs = costs_of(profile)
                link = link_of(profile)
            except (DecodeError, ValueError) as error:
                return [_refusal(peer, f"malformed profile: {error}", OTHER_PROTOCOL)]
            reason = self._mismatch(profile) if hello.role == Role.DRAFT else ""
            if reason:
                # No code: its target may still come, so a supervisor starts it again.
                return [_refusal(peer, reason)]
        elif hello.profile:
            return [_refusal(peer, f"a {hello.role} has no profile")]
        events = self.membership.on_hello(peer, hello, now)
        out: list[RosterEvent] = []
        welcome = Send(peer, replace(self.welcome, node=hello.node))
        for event in events:
            if isinstance(event, Left):
                # The same incarnation is a process that reconnects; another one replaces a dead
                # process.
                has_died = event.member.incarnation != hello.incarnation
                out.append(self._left(event, has_died=has_died))
            elif isinstance(event, Refused):
                out.append(_refusal(peer, event.reason, event.code))
            else:
                out.append(welcome)
                if profile is None:
                    continue
                logger.info("%s %s joined with %s", hello.role, hello.node, profile.model)
                record = self._record(hello, profile, costs, link, event.member)
                record.pace_heartbeats(self.welcome)
                self._nodes[hello.node] = record
                out.append(record)
                if isinstance(record, TargetRecord):
                    out += self._dismiss_drafts()
        if not events:
            # The first Welcome was lost, or a repeated Hello crossed it.
            out.append(welcome)
        return out

    def _record(
        self, hello: Hello, profile: EngineProfile, costs: NodeCosts, link: Link, member: Member
    ) -> NodeRecord:
        bits = ping_bits(pads=self.welcome.pads)
        known = hello.node, member.peer, profile, costs, member, link, bits
        if hello.role == Role.DRAFT:
            return DraftRecord(*known)
        if hello.role == Role.STAGE:
            return StageRecord(*known)
        scheduler = self._new_scheduler(hello.node, profile, costs)
        target = TargetRecord(*known, scheduler=scheduler)
        scheduler.link = target.target_link()
        return target

    def _dismiss_drafts(self) -> list[RosterEvent]:
        """Dismiss draft nodes that fit no target, now that a target has joined.

        They joined before it, and a draft node never prevents a target from joining.
        """
        out: list[RosterEvent] = []
        for draft in self.drafts():
            reason = self._mismatch(draft.profile)
            if reason:
                out.append(_refusal(draft.peer, reason))
                out += self.remove(draft.peer, reason, has_died=False)
        return out

    def _mismatch(self, draft: EngineProfile) -> str:
        """Returns why a draft's vocabulary fits no target that generates text; "" if it fits one or
        there is no target."""
        targets = [node for node in self.targets() if not node.profile.traits.embeds]
        if not targets or any(same_vocabulary(draft, n.profile) for n in targets):
            return ""
        return (
            f"vocabularies differ: draft model {draft.model} cannot work with "
            f"target model {targets[0].profile.model}: write the target's with `airdraft models "
            f"vocabulary` and start the draft node with --vocabulary FILE"
        )

    def remove(self, peer: bytes, reason: str, *, has_died: bool = True) -> list[RosterEvent]:
        """End a peer's membership, if it is a member; it may join again."""
        left = self.membership.leave(peer, reason)
        return [self._left(event, has_died=has_died) for event in left]

    def dismiss(self, record: NodeRecord, reason: str) -> list[RosterEvent]:
        """Dismiss a node. Its process may not join again; a new process may."""
        self._dismissed[record.name, record.member.incarnation] = reason[:_MAX_REASON]
        return [Send(record.peer, Bye(reason)), *self.remove(record.peer, reason, has_died=False)]

    def tick(self, now: float) -> list[RosterEvent]:
        """Remove members that are silent, and nodes that make no progress."""
        out = [self._left(event, has_died=True) for event in self.membership.tick(now)]
        for node in self.nodes():
            stuck_s = now - node.member.progress_at
            if stuck_s > node.progress_timeout_s:
                out += self.remove(node.peer, f"no progress for {stuck_s:.1f} s")
        return out

    def pings(self, now: float) -> list[Send]:
        """Returns the Pings that are due now."""
        due = [(m.peer, m.heartbeat.due(now)) for m in self.membership.members()]
        return [Send(peer, ping) for peer, ping in due if ping is not None]

    def extra_pings(self, peers: Sequence[bytes], now: float) -> list[Send]:
        """Returns a Ping for each member among these peers; sending it fails if one is gone."""
        members = [self.membership.by_peer(peer) for peer in peers]
        return [Send(m.peer, m.heartbeat.probe(now)) for m in members if m is not None]

    def forget_pings(self, peer: bytes) -> None:
        """Take no samples from the Pings to a member that are under way."""
        member = self.membership.by_peer(peer)
        if member is not None:
            member.heartbeat.forget_pings()

    def sent(self, peer: bytes, num_bytes: int, now: float, *, is_ping: bool) -> Ping | None:
        """Note a message to a peer; return a Ping to send after it if that measures the rate."""
        node = self.node_at(peer)
        if node is None:
            return None
        node.bytes_out += num_bytes
        if not is_ping:
            node.heartbeat.said(now)
        if node.profile.link.rate_bps > 0:
            return None
        return node.heartbeat.sent(num_bytes, now)

    def client_rtt_s(self, peer: bytes) -> float:
        """Returns the round trip to a client; 0 while it is unknown."""
        member = self.membership.by_peer(peer)
        return member.heartbeat.rtt_s or 0.0 if member is not None else 0.0

    def pong(self, peer: bytes, pong: Pong, now: float) -> None:
        node = self.node_at(peer)
        busy = node is not None and bool(node.num_streams)
        self.membership.on_pong(peer, pong, busy, now)
        if node is None:
            return
        node.pace_heartbeats(self.welcome)
        if isinstance(node, TargetRecord) and pong.seq == PROOF:
            node.proved_at = now
        if node.heartbeat.rtt_s is None:
            return
        if isinstance(node, TargetRecord):
            node.scheduler.link = node.target_link()
        for target in self.targets() if isinstance(node, DraftRecord) else ():
            target.scheduler.draft_link(node.name, node.measured_link())

    def _left(self, event: Left, *, has_died: bool) -> RosterEvent:
        member, record = event.member, self.node_of(event.member)
        if record is None:
            return ClientOut(member.peer)
        logger.info("%s %s left: %s", record.role, record.name, event.reason)
        del self._nodes[record.name]
        if record.is_draining:
            self._dismissed[record.name, record.member.incarnation] = DRAINED
        return NodeOut(record, event.reason, has_died, member.last_seen)
