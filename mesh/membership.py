"""The members of the mesh. Pure.

A peer is a connection, and a node is a name.
"""

from dataclasses import dataclass
from typing import Final

from airdraft.mesh.heartbeat import HeartbeatState
from airdraft.mesh.messages import OTHER_PROTOCOL, PROTOCOL_VERSION, UNSUITABLE, Hello, Pong

REPLACED: Final = "replaced"
_MAX_SUPERSEDED: Final = 16
_MAX_NODE_NAMES: Final = 4096


@dataclass
class Member:
    """A node that is a member. All times are seconds of the owner's monotonic clock."""

    node: str
    role: str
    peer: bytes
    incarnation: int
    joined_at: float
    last_seen: float
    heartbeat: HeartbeatState
    progress: int = 0
    progress_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Joined:
    """A node joined and must be sent a Welcome."""

    member: Member


@dataclass(frozen=True, slots=True)
class Left:
    """A node left, and its work must be done elsewhere."""

    member: Member
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A node was refused and must be sent a Refuse."""

    reason: str
    code: str = ""


class MembershipState:
    """Takes events and `now`, and returns joins, leaves and refusals.

    heartbeat_interval_s: interval of the Pings to a member. heartbeat_timeout_s: silence after
    which it has left.
    """

    def __init__(self, heartbeat_interval_s: float, heartbeat_timeout_s: float) -> None:
        self._heartbeat_interval_s = heartbeat_interval_s
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._by_peer: dict[bytes, Member] = {}
        self._by_node: dict[str, Member] = {}
        # The incarnations of the last processes of each name, which outlive a membership; the
        # latest is the last one.
        self._history: dict[str, tuple[int, ...]] = {}

    def on_hello(self, peer: bytes, hello: Hello, now: float) -> list[Joined | Left | Refused]:
        """Handle a Hello. A repeated one of a present member only refreshes it: no event."""
        here = self._by_peer.get(peer)
        processes = self._history.get(hello.node, ())
        if hello.protocol != PROTOCOL_VERSION:
            reason = f"protocol {hello.protocol}, but this side speaks {PROTOCOL_VERSION}"
            return [Refused(reason, OTHER_PROTOCOL)]
        if not hello.node or not hello.role:
            return [Refused("a node needs a name and a role")]
        if here is not None and here.node != hello.node:
            return [Refused(f"this connection joined as {here.node!r}")]
        if hello.incarnation in processes[:-1]:
            # Otherwise two live processes with one name would replace each other forever.
            reason = "a later process joined under this name: give one of them another --name"
            return [Refused(reason, UNSUITABLE)]
        if hello.node not in self._history and not self._make_room_for_a_name():
            return [Refused("too many nodes are members")]
        if here is not None and here.incarnation == hello.incarnation:
            here.last_seen = now
            return []
        events: list[Joined | Left | Refused] = []
        old = self._by_node.get(hello.node)
        if old is not None:
            events.append(self._remove(old, REPLACED))
        if hello.incarnation not in processes:
            processes = (*processes[-_MAX_SUPERSEDED:], hello.incarnation)
        self._history[hello.node] = processes
        member = Member(
            node=hello.node,
            role=hello.role,
            peer=peer,
            incarnation=hello.incarnation,
            joined_at=now,
            last_seen=now,
            heartbeat=HeartbeatState(self._heartbeat_interval_s),
            progress_at=now,
        )
        self._by_peer[peer] = self._by_node[member.node] = member
        return [*events, Joined(member)]

    def _make_room_for_a_name(self) -> bool:
        """Make room for a name by removing the oldest one without a member, if needed.

        Names accumulate because clients draw a new one each time.
        """
        if len(self._history) < _MAX_NODE_NAMES:
            return True
        oldest = next((name for name in self._history if name not in self._by_node), None)
        if oldest is None:
            return False
        del self._history[oldest]
        return True

    def on_message(self, peer: bytes, now: float) -> Member | None:
        """Note a message, or part of one, which proves that a member is alive.

        Returns None if the peer is no member and the message must be dropped.
        """
        member = self._by_peer.get(peer)
        if member is not None:
            member.last_seen = max(member.last_seen, now)
            member.heartbeat.on_any(now)
        return member

    def on_pong(self, peer: bytes, pong: Pong, busy: bool, now: float) -> None:
        """Note a Pong. busy: the member has work in progress, so its progress should advance."""
        member = self.on_message(peer, now)
        if member is None:
            return
        member.heartbeat.on_pong(pong, now)
        if pong.progress != member.progress or not busy:
            member.progress, member.progress_at = pong.progress, now

    def leave(self, peer: bytes, reason: str) -> list[Left]:
        """End the membership of a peer, if it is a member."""
        member = self._by_peer.get(peer)
        return [] if member is None else [self._remove(member, reason)]

    def paused(self, seconds: float, now: float) -> None:
        """Discount the seconds until now in which this side did not read any messages.

        They count neither as silence nor as lack of progress, nor as part of a round trip.
        """
        for member in self.members():
            member.heartbeat.forget_pings()
            member.last_seen = min(now, member.last_seen + seconds)
            member.progress_at = min(now, member.progress_at + seconds)

    def silent(self, now: float) -> list[bytes]:
        """Returns the peers that leave at the next tick for silence unless a message is noted."""
        return [m.peer for m in self.members() if now - m.last_seen > self._heartbeat_timeout_s]

    def tick(self, now: float) -> list[Left]:
        """End the memberships of members that are silent for too long."""
        silent = (self._by_peer[peer] for peer in self.silent(now))
        return [self._remove(m, f"silent for {now - m.last_seen:.1f} s") for m in silent]

    def by_peer(self, peer: bytes) -> Member | None:
        return self._by_peer.get(peer)

    def members(self) -> list[Member]:
        """Returns the members in order of joining."""
        return list(self._by_node.values())

    def _remove(self, member: Member, reason: str) -> Left:
        del self._by_peer[member.peer]
        del self._by_node[member.node]
        return Left(member, reason)
