"""The coordinator without its sockets: nodes, requests, and one scheduler a target.

Messages and `now` in, messages to send out. Nothing here waits or reads a clock.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mesh.codec import decode
from mesh.grants import Air
from mesh.messages import Bye, Credit, Hello, Ping, Pong, Refuse, Welcome
from nodes.coordinator.access import ANYBODY, ROLES, Caller
from nodes.coordinator.requests import (
    BadRequestError,
    new_request,
)
from nodes.coordinator.roster import (
    ClientOut,
    NodeIn,
    NodeOut,
    NodeRecord,
    Rejected,
    Roster,
    RosterEvent,
    Welcomed,
)
from nodes.coordinator.sends import Send
from nodes.coordinator.serving import Serving
from nodes.coordinator.tracing import Tracing
from nodes.coordinator.uploads import Uploads
from nodes.messages import (
    CancelRequest,
    CommitReply,
    DraftReply,
    NodesReply,
    NodesRequest,
    RequestFailedNotice,
    StreamFailedNotice,
    StreamParkedNotice,
    StreamReadyNotice,
    SubmitRequest,
    TokenizeReply,
    TokenizeRequest,
    TraceRequest,
    UploadOffer,
    UploadPiece,
)
from nodes.profile import token_bits
from nodes.scheduler import SchedulerState
from nodes.scheduler.instructions import Instruction
from nodes.scheduler.rounds import RoundIds
from nodes.stream import StreamId
from policies.plan import Policy

logger = logging.getLogger(__name__)

_MAX_REASON = 1024
_MAX_SHORT_REASON = 256
# Requests of one connection at a time.
_MAX_REQUESTS = 64


class ForbiddenError(Exception):
    """A member sent what its role may not send."""


def _why_not(caller: Caller, role: str) -> str:
    if role not in ROLES:
        return f"unknown role {role}"[:_MAX_SHORT_REASON]
    roles = ", ".join(sorted(caller.roles or ()))
    return f"the key of {caller.name} is authorized as {roles}, not as {role}"[:_MAX_SHORT_REASON]


class CoordinatorState:
    """Everything the coordinator knows and decides."""

    def __init__(
        self,
        policy: Policy,
        *,
        cluster: str,
        epoch: int,
        heartbeat_interval_s: float,
        heartbeat_timeout_s: float,
        max_waiting: int = 1024,
        lookup: bool = False,
        trials: bool = False,
        pads: bool = False,
        plans_later: bool = False,
    ) -> None:
        """plans_later: plan_anew() is called when what the last call gave has been sent."""
        self.cluster = cluster
        self._plans_later = plans_later
        # Targets whose schedulers want another plan, in order.
        self._plans_due: dict[str, None] = {}
        self.pads = pads
        self.epoch = epoch
        self._policy = policy
        self._max_waiting = max_waiting
        self._has_lookup = lookup
        self._has_trials = trials
        self._roster = Roster(heartbeat_interval_s, heartbeat_timeout_s)
        self._serving = Serving(self._roster)
        # Draft nodes serve all targets.
        self._air = Air()
        self._uploads = Uploads(self._air, self._roster.client_rtt_s, pads=pads)
        self._round_ids = RoundIds()
        self._draft_load = Counter[str]()
        self._tracing = Tracing()
        self._next_question = 1
        self.num_stale = 0

    # -- what comes in -----------------------------------------------------------------------

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
        """Answer one message. What is not of this cluster and epoch is counted and dropped.

        What the sender may not say changes nothing. Raises ForbiddenError.
        """
        if isinstance(message, Hello):
            if not caller.may_join_as(message.role):
                return [Send(peer, Refuse(_why_not(caller, message.role)))]
            hello = replace(message, node=caller.node_name(message.node))
            return self._on_roster(self._roster.hello(peer, hello, now), now)
        role = self._roster.role_of(peer)
        if role and not caller.may_send(role, message):
            raise ForbiddenError(f"a {role} may not send {type(message).__name__}")
        member = self._roster.message(peer, now)
        if member is None or (cluster, epoch) != (self.cluster, self.epoch):
            self.num_stale += 1
            return []
        match message:
            case Bye(reason=reason):
                return self._on_roster(self._roster.bye(peer, reason, now), now)
            case Pong():
                self._roster.pong(member, message, now)
                return []
            case Ping(seq=seq):
                return [Send(peer, Pong(seq, 0))]
            case Credit():
                # For the shell, which knows what is on its way.
                return []
        node = self._roster.node_of(member)
        if node is not None:
            return self._on_node_message(node, message, num_bytes, now)
        # Prefixes are shared by the requests of one key, wherever they come from.
        return self._on_client_message(peer, caller.name or peer.hex(), message, now)

    def peer_gone(self, peer: bytes, now: float) -> list[Send]:
        return self._on_roster(self._roster.gone(peer, now), now)

    def undeliverable(self, send: Send, error: str, now: float) -> list[Send]:
        """End the requests of a message that breaks the limits of the wire."""
        logger.error("%s cannot be sent: %s", type(send.message).__name__, error)
        found = [self._serving.streams.get(stream_id) for stream_id in send.streams]
        number = getattr(send.message, "request_id", 0)
        found.append(self._serving.requests.get((send.peer, number)))
        if isinstance(send.message, TokenizeRequest):
            found.append(self._serving.tokenizing.request(number))
        requests = {id(request): request for request in found if request is not None}
        return [
            out
            for request in requests.values()
            for out in self._serving.fail(
                request, "internal", f"a message is too large: {error}", now
            )
        ]

    def tick(self, now: float) -> list[Send]:
        """Heartbeats, silent members, late rounds; to be called some 20 times a second."""
        out = self._on_roster(self._roster.tick(now), now)
        out += [Send(peer, ping) for peer, ping in self._roster.pings(now)]
        for node, scheduler in self._roster.schedulers():
            out += self._carry_out(node, scheduler.tick(now), now)
        self._tracing.tick(self._roster.schedulers(), now)
        return out + self._uploads.grants(now) + self._serving.tick(now)

    def plan_anew(self, now: float) -> list[Send]:
        """Plan where that is due; what may start by it."""
        out: list[Send] = []
        due = list(self._plans_due)
        self._plans_due.clear()
        for name in due:
            node = self._roster.node(name)
            if node is not None and node.scheduler is not None:
                out += self._carry_out(node, node.scheduler.plan_anew(now), now)
        return out

    def next_deadline(self) -> float | None:
        """When a scheduler or an upload wants a tick, if one does."""
        deadlines = [scheduler.next_deadline() for _, scheduler in self._roster.schedulers()]
        deadlines.append(self._uploads.next_deadline)
        return min((d for d in deadlines if d is not None), default=None)

    @property
    def schedulers(self) -> list[SchedulerState]:
        """Of all targets: what is planned, and how well that was predicted."""
        return [scheduler for _, scheduler in self._roster.schedulers()]

    def roles(self) -> dict[bytes, str]:
        """What each member joined as, by peer."""
        return self._roster.roles()

    def is_node(self, peer: bytes) -> bool:
        """Whether a peer joined as a target or draft node."""
        return self._roster.role_of(peer) in ("target", "draft")

    def peers(self) -> list[bytes]:
        """Every member, nodes and clients."""
        return self._roster.peers()

    def sent(self, send: Send, num_bytes: int, now: float) -> list[Send]:
        """Book the bytes of a message on the streams it is about; what is to follow it."""
        self._serving.charge(send.streams, num_bytes, to_draft=send.to_draft)
        ping = self._roster.sent(send.peer, num_bytes, now)
        return [Send(send.peer, ping)] if ping is not None else []

    # -- members come and go -------------------------------------------------------------------

    def _on_roster(self, events: Sequence[RosterEvent], now: float) -> list[Send]:
        out: list[Send] = []
        for event in events:
            match event:
                case Welcomed(peer=peer, node=name):
                    out.append(Send(peer, self._welcome(name)))
                case Rejected(peer=peer, reason=reason):
                    out.append(Send(peer, Refuse(reason)))
                case NodeIn(record=node):
                    out += self._on_node_in(node, now)
                case NodeOut(record=node, reason=reason):
                    out += self._on_node_out(node, reason, now)
                case ClientOut(peer=peer):
                    self._uploads.gone(peer)
                    for key in [key for key in self._serving.requests if key[0] == peer]:
                        # One that fails frees room, and others may fail before their turn.
                        request = self._serving.requests.get(key)
                        if request is not None:
                            # An error, should it still read: never the end of a whole text.
                            reason = "the client left or was silent"
                            out += self._serving.fail(request, "unavailable", reason, now)
        return out

    def _welcome(self, name: str) -> Welcome:
        roster = self._roster
        return Welcome(
            name,
            self.cluster,
            self.epoch,
            roster.heartbeat_interval_s,
            roster.heartbeat_timeout_s,
            self.pads,
        )

    def _on_node_in(self, node: NodeRecord, now: float) -> list[Send]:
        if node.role == "target":
            # A target that cannot take guesses back is served plainly.
            lookup = self._has_lookup and node.profile.can_roll_back
            due = partial(self._plans_due.setdefault, node.name)
            node.scheduler = SchedulerState(
                self._policy,
                node.costs,
                lookup=lookup,
                trials=self._has_trials,
                air=self._air,
                token_bits=token_bits(node.profile),
                round_ids=self._round_ids,
                draft_load=self._draft_load,
                plans_later=due if self._plans_later else None,
            )
            for draft in self._roster.nodes("draft"):
                if draft.can_draft_for(node):
                    node.scheduler.draft_joined(draft.name, draft.costs, draft.link, draft.spread)
            self._tracing.target_joined(node, node.scheduler, now)
            self._serving.tokenizing.target_came(node.name, now)
            self._serving.placement.targets_changed(now)
            return [*self._ask_tokenizers(), *self._serving.admit_waiting(now)]
        out: list[Send] = []
        for target, scheduler in self._roster.schedulers():
            if node.can_draft_for(target):
                joined = scheduler.draft_joined(node.name, node.costs, node.link, node.spread)
                out += self._carry_out(target, joined, now)
        return out

    def _on_node_out(self, node: NodeRecord, reason: str, now: float) -> list[Send]:
        out: list[Send] = []
        if node.role == "draft":
            for target, scheduler in self._roster.schedulers():
                out += self._carry_out(target, scheduler.draft_lost(node.name, now), now)
            return out
        return [*self._serving.target_gone(node, reason, now), *self._ask_tokenizers()]

    # -- nodes -----------------------------------------------------------------------------------

    def _on_node_message(
        self, node: NodeRecord, message: Any, num_bytes: int, now: float
    ) -> list[Send]:
        match message:
            case CommitReply() if node.scheduler is not None:
                streams = [StreamId(e.stream_id) for e in message.entries]
                self._serving.charge(streams, num_bytes, to_draft=False)
                return self._carry_out(node, node.scheduler.committed(message, now), now)
            case StreamReadyNotice(stream_id=s, generation=g, num_read=num_read) if (
                node.scheduler is not None
            ):
                ready = node.scheduler.target_ready(StreamId(s), g, now, num_read)
                return self._carry_out(node, ready, now)
            case StreamFailedNotice(stream_id=s, generation=g, reason=reason) if (
                node.scheduler is not None
            ):
                failed = node.scheduler.target_failed(StreamId(s), g, reason, now)
                return self._carry_out(node, failed, now)
            case StreamParkedNotice(stream_id=s, generation=g) if node.scheduler is not None:
                return self._carry_out(node, node.scheduler.target_parked(StreamId(s), g, now), now)
            case TokenizeReply() if node.role == "target":
                return self._on_tokenized(node, message, now)
            case DraftReply() | StreamReadyNotice() | StreamFailedNotice():
                return self._on_draft_message(node, message, num_bytes, now)
        self.num_stale += 1
        return []

    def _on_draft_message(
        self, node: NodeRecord, message: Any, num_bytes: int, now: float
    ) -> list[Send]:
        # Ids of streams and of rounds are unique in the mesh: only those who have them are asked.
        out: list[Send] = []
        match message:
            case DraftReply():
                streams = [StreamId(e.stream_id) for e in message.entries]
                self._serving.charge(streams, num_bytes, to_draft=True)
                # Some of its streams may have been cancelled or moved meanwhile.
                holders = self._holders(streams) if streams else self._roster.schedulers()
                for target, scheduler in holders:
                    out += self._carry_out(target, scheduler.drafted(node.name, message, now), now)
            case StreamReadyNotice(stream_id=s, generation=g):
                for target, scheduler in self._holders([StreamId(s)]):
                    ready = scheduler.draft_ready(node.name, StreamId(s), g, now)
                    out += self._carry_out(target, ready, now)
            case StreamFailedNotice(stream_id=s, generation=g, reason=reason):
                for target, scheduler in self._holders([StreamId(s)]):
                    failed = scheduler.draft_failed(node.name, StreamId(s), g, reason, now)
                    out += self._carry_out(target, failed, now)
        return out

    def _holders(self, streams: Sequence[StreamId]) -> list[tuple[NodeRecord, SchedulerState]]:
        """The targets that have any of these streams."""
        names = dict.fromkeys(self._serving.target_of(stream_id) for stream_id in streams)
        nodes = [self._roster.node(name) for name in names]
        return [(n, n.scheduler) for n in nodes if n is not None and n.scheduler is not None]

    def _carry_out(
        self, target: NodeRecord, instructions: Sequence[Instruction], now: float
    ) -> list[Send]:
        return self._serving.carry_out(target, instructions, now)

    # -- clients -----------------------------------------------------------------------------------

    def _on_client_message(self, peer: bytes, owner: str, message: Any, now: float) -> list[Send]:
        match message:
            case SubmitRequest():
                self._uploads.forget(peer, message.request_id)
                return self._submit(peer, owner, message, now)
            case UploadOffer():
                return self._uploads.offered(peer, message, now)
            case UploadPiece():
                return self._uploaded(peer, owner, message, now)
            case CancelRequest(request_id=request_id):
                self._uploads.forget(peer, request_id)
                request = self._serving.requests.get((peer, request_id))
                return self._serving.cancel(request, now) if request is not None else []
            case NodesRequest(request_id=request_id):
                return [Send(peer, NodesReply(request_id, self._roster.fields()))]
            case TraceRequest():
                schedulers = self._roster.schedulers()
                return [Send(peer, self._tracing.answer(message, schedulers, now))]
        self.num_stale += 1
        return []

    def _uploaded(self, peer: bytes, owner: str, piece: UploadPiece, now: float) -> list[Send]:
        """A piece of a large request. Raises DecodeError or ForbiddenError for what is none."""
        frames, is_known = self._uploads.arrived(peer, piece, now)
        self.num_stale += not is_known
        grants = self._uploads.grants(now)
        if frames is None:
            return grants
        whole = decode(frames)
        if not isinstance(whole.message, SubmitRequest):
            raise ForbiddenError(f"only requests are uploaded, not {type(whole.message).__name__}")
        if whole.message.request_id != piece.request_id:
            raise ForbiddenError("an upload is of another request than was offered")
        return [*grants, *self._submit(peer, owner, whole.message, now)]

    def _submit(self, peer: bytes, owner: str, submit: SubmitRequest, now: float) -> list[Send]:
        def refuse(code: str, reason: str) -> list[Send]:
            return [Send(peer, RequestFailedNotice(submit.request_id, code, reason[:_MAX_REASON]))]

        if (peer, submit.request_id) in self._serving.requests:
            return refuse("bad_request", f"request id {submit.request_id} is in use")
        num_waiting = self._serving.num_waiting
        if num_waiting + submit.num_choices > self._max_waiting:
            return refuse("overloaded", f"{num_waiting} streams wait already: try later")
        if sum(key[0] == peer for key in self._serving.requests) >= _MAX_REQUESTS:
            return refuse("overloaded", f"{_MAX_REQUESTS} requests of this client are under way")
        try:
            request = new_request(peer, submit)
            request.owner = owner
        except BadRequestError as error:
            return refuse("bad_request", str(error))
        name = self._serving.tokenizer()
        target = self._roster.node(name)
        if target is None:
            return refuse("unavailable", "no target node has joined: start one")
        request.arrived_at = now
        self._serving.requests[(peer, submit.request_id)] = request
        if submit.prompt_token_ids:
            return self._serving.open(request, target, submit.prompt_token_ids, now)
        number = self._next_question
        self._next_question += 1
        question = TokenizeRequest(number, submit.prompt, submit.messages)
        self._serving.tokenizing.add(request, name, question)
        return self._ask_tokenizers()

    def _ask_tokenizers(self) -> list[Send]:
        out = []
        for name, question in self._serving.tokenizing.due():
            target = self._roster.node(name)
            if target is not None:
                out.append(Send(target.peer, question))
        return out

    def _on_tokenized(self, node: NodeRecord, reply: TokenizeReply, now: float) -> list[Send]:
        request, was_asked = self._serving.tokenizing.answered(node.name, reply.request_id)
        out = self._ask_tokenizers() if was_asked else []
        if request is None:
            self.num_stale += 1
            return out
        if reply.error:
            return [*out, *self._serving.fail(request, "bad_request", reply.error, now)]
        return [*out, *self._serving.open(request, node, reply.prompt_token_ids, now)]
