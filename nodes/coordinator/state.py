"""The coordinator without its sockets: nodes, requests, and one scheduler a target.

Messages and `now` in, messages to send out. Nothing here waits or reads a clock.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mesh.grants import Air
from mesh.messages import Bye, Credit, Hello, Ping, Pong, Refuse, Welcome
from nodes.coordinator.access import ANYBODY, ROLES, Caller
from nodes.coordinator.requests import (
    BadRequestError,
    Choice,
    Request,
    finished_notice,
    new_request,
    specs_of,
    started_notice,
    tokens_notice,
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
from nodes.coordinator.tokenizing import Tokenizing
from nodes.coordinator.tracing import Tracing
from nodes.messages import (
    CancelRequest,
    CommitReply,
    DraftReply,
    NodesReply,
    NodesRequest,
    RequestFailedNotice,
    StreamFailedNotice,
    StreamReadyNotice,
    SubmitRequest,
    TokenizeReply,
    TokenizeRequest,
    TraceRequest,
)
from nodes.profile import token_bits
from nodes.scheduler import SchedulerState
from nodes.scheduler.instructions import Abort, Emit, Finish, Instruction, ToDraft, ToTarget
from nodes.stream import StreamId
from nodes.target.state import cells_needed
from policies.plan import Policy

logger = logging.getLogger(__name__)

_MAX_REASON = 1024
_MAX_SHORT_REASON = 256
# Requests of one connection at a time.
_MAX_REQUESTS = 64


@dataclass(frozen=True, slots=True)
class Send:
    """A message for a peer; its bytes are charged to the streams it is about."""

    peer: bytes
    message: Any
    streams: tuple[StreamId, ...] = ()
    to_draft: bool = False


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
    ) -> None:
        self.cluster = cluster
        self.pads = pads
        self.epoch = epoch
        self._policy = policy
        self._max_waiting = max_waiting
        self._has_lookup = lookup
        self._has_trials = trials
        self._roster = Roster(heartbeat_interval_s, heartbeat_timeout_s)
        self._requests: dict[tuple[bytes, int], Request] = {}
        self._streams: dict[StreamId, Request] = {}
        self._waiting: list[StreamId] = []
        self._tokenizing = Tokenizing()
        # Draft nodes serve all targets.
        self._air = Air()
        self._tracing = Tracing()
        self._next_id = 1
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
        return self._on_client_message(peer, message, now)

    def peer_gone(self, peer: bytes, now: float) -> list[Send]:
        return self._on_roster(self._roster.gone(peer, now), now)

    def undeliverable(self, send: Send, error: str, now: float) -> list[Send]:
        """End the requests of a message that breaks the limits of the wire."""
        logger.error("%s cannot be sent: %s", type(send.message).__name__, error)
        found = [self._streams.get(stream_id) for stream_id in send.streams]
        number = getattr(send.message, "request_id", 0)
        found.append(self._requests.get((send.peer, number)))
        if isinstance(send.message, TokenizeRequest):
            found.append(self._tokenizing.request(number))
        requests = {id(request): request for request in found if request is not None}
        return [
            out
            for request in requests.values()
            for out in self._fail(request, "internal", f"a message is too large: {error}", now)
        ]

    def tick(self, now: float) -> list[Send]:
        """Heartbeats, silent members, late rounds; to be called some 20 times a second."""
        out = self._on_roster(self._roster.tick(now), now)
        out += [Send(peer, ping) for peer, ping in self._roster.pings(now)]
        for node, scheduler in self._roster.schedulers():
            out += self._carry_out(node, scheduler.tick(now), now)
        self._tracing.tick(self._roster.schedulers(), now)
        return out

    def next_deadline(self) -> float | None:
        """When a scheduler wants to be ticked, if it does."""
        deadlines = [scheduler.next_deadline() for _, scheduler in self._roster.schedulers()]
        return min((d for d in deadlines if d is not None), default=None)

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
        self._charge(send.streams, num_bytes, to_draft=send.to_draft)
        ping = self._roster.sent(send.peer, num_bytes, now)
        return [Send(send.peer, ping)] if ping is not None else []

    def _charge(self, streams: Sequence[StreamId], num_bytes: int, *, to_draft: bool) -> None:
        for stream_id in streams:
            request = self._streams.get(stream_id)
            if request is not None:
                share = num_bytes // len(streams)
                request.choices[stream_id].wire.add(share, to_draft=to_draft)

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
                    for key in [key for key in self._requests if key[0] == peer]:
                        # One that fails frees room, and others may fail before their turn.
                        request = self._requests.get(key)
                        if request is not None:
                            # An error, should it still read: never the end of a whole text.
                            reason = "the client left or was silent"
                            out += self._fail(request, "unavailable", reason, now)
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
            node.scheduler = SchedulerState(
                self._policy,
                node.costs,
                lookup=lookup,
                trials=self._has_trials,
                air=self._air,
                token_bits=token_bits(node.profile),
            )
            for draft in self._roster.nodes("draft"):
                if draft.can_draft_for(node):
                    node.scheduler.draft_joined(draft.name, draft.costs, draft.link, draft.spread)
            self._tracing.target_joined(node, node.scheduler, now)
            return self._admit_waiting(now)
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
        lost = [
            request
            for request in self._requests.values()
            if any(choice.target == node.name for choice in request.choices.values())
        ]
        lost += self._tokenizing.at(node.name)
        self._tokenizing.target_gone(node.name)
        if not self._roster.nodes("target"):
            lost += [self._streams[stream_id] for stream_id in self._waiting]
        for request in {id(request): request for request in lost}.values():
            out += self._fail(request, "unavailable", f"target {node.name} left: {reason}", now)
        return out + self._admit_waiting(now)

    # -- nodes -----------------------------------------------------------------------------------

    def _on_node_message(
        self, node: NodeRecord, message: Any, num_bytes: int, now: float
    ) -> list[Send]:
        match message:
            case CommitReply() if node.scheduler is not None:
                streams = [StreamId(e.stream_id) for e in message.entries]
                self._charge(streams, num_bytes, to_draft=False)
                return self._carry_out(node, node.scheduler.committed(message, now), now)
            case StreamReadyNotice(stream_id=s, generation=g) if node.scheduler is not None:
                return self._carry_out(node, node.scheduler.target_ready(StreamId(s), g, now), now)
            case StreamFailedNotice(stream_id=s, generation=g, reason=reason) if (
                node.scheduler is not None
            ):
                failed = node.scheduler.target_failed(StreamId(s), g, reason, now)
                return self._carry_out(node, failed, now)
            case TokenizeReply() if node.role == "target":
                return self._on_tokenized(node, message, now)
            case DraftReply() | StreamReadyNotice() | StreamFailedNotice():
                return self._on_draft_message(node, message, num_bytes, now)
        self.num_stale += 1
        return []

    def _on_draft_message(
        self, node: NodeRecord, message: Any, num_bytes: int, now: float
    ) -> list[Send]:
        # Stream ids are unique in the mesh, round ids in a target: only one takes the message.
        out: list[Send] = []
        for target, scheduler in self._roster.schedulers():
            match message:
                case DraftReply(entries=entries):
                    streams = [StreamId(e.stream_id) for e in entries]
                    # Some of them may have been cancelled meanwhile.
                    if streams and all(scheduler.stream(s) is None for s in streams):
                        continue
                    self._charge(streams, num_bytes, to_draft=True)
                    out += self._carry_out(target, scheduler.drafted(node.name, message, now), now)
                case StreamReadyNotice(stream_id=s, generation=g):
                    if scheduler.stream(StreamId(s)) is not None:
                        ready = scheduler.draft_ready(node.name, StreamId(s), g, now)
                        out += self._carry_out(target, ready, now)
                case StreamFailedNotice(stream_id=s, generation=g, reason=reason):
                    if scheduler.stream(StreamId(s)) is not None:
                        failed = scheduler.draft_failed(node.name, StreamId(s), g, reason, now)
                        out += self._carry_out(target, failed, now)
        return out

    def _carry_out(
        self, target: NodeRecord, instructions: Sequence[Instruction], now: float
    ) -> list[Send]:
        out: list[Send] = []
        freed = False
        for instruction in instructions:
            match instruction:
                case ToTarget(message=message):
                    out.append(Send(target.peer, message, streams_of(message)))
                case ToDraft(node=name, message=message):
                    draft = self._roster.node(name)
                    if draft is not None:
                        out.append(Send(draft.peer, message, streams_of(message), to_draft=True))
                case Emit():
                    out += self._emit(instruction)
                case Finish(stream_id=stream_id, reason=reason):
                    out += self._finish(target, stream_id, reason)
                    freed = True
                case Abort(stream_id=stream_id, error=error):
                    request = self._streams.get(stream_id)
                    if request is not None:
                        out += self._fail(request, "unavailable", error, now)
                        freed = True
        if freed:
            out += self._admit_waiting(now)
        return out

    # -- clients -----------------------------------------------------------------------------------

    def _on_client_message(self, peer: bytes, message: Any, now: float) -> list[Send]:
        match message:
            case SubmitRequest():
                return self._submit(peer, message, now)
            case CancelRequest(request_id=request_id):
                request = self._requests.get((peer, request_id))
                return self._cancel(request, now) if request is not None else []
            case NodesRequest(request_id=request_id):
                return [Send(peer, NodesReply(request_id, self._roster.fields()))]
            case TraceRequest():
                schedulers = self._roster.schedulers()
                return [Send(peer, self._tracing.answer(message, schedulers, now))]
        self.num_stale += 1
        return []

    def _submit(self, peer: bytes, submit: SubmitRequest, now: float) -> list[Send]:
        def refuse(code: str, reason: str) -> list[Send]:
            return [Send(peer, RequestFailedNotice(submit.request_id, code, reason[:_MAX_REASON]))]

        if (peer, submit.request_id) in self._requests:
            return refuse("bad_request", f"request id {submit.request_id} is in use")
        num_waiting = len(self._waiting) + len(self._tokenizing)
        if num_waiting + submit.num_choices > self._max_waiting:
            return refuse("overloaded", f"{num_waiting} streams wait already: try later")
        if sum(key[0] == peer for key in self._requests) >= _MAX_REQUESTS:
            return refuse("overloaded", f"{_MAX_REQUESTS} requests of this client are under way")
        try:
            request = new_request(peer, submit)
        except BadRequestError as error:
            return refuse("bad_request", str(error))
        targets = self._roster.nodes("target")
        if not targets:
            return refuse("unavailable", "no target node has joined: start one")
        target = min(targets, key=lambda n: n.used_cells)
        self._requests[(peer, submit.request_id)] = request
        if submit.prompt_token_ids:
            return self._open(request, target, submit.prompt_token_ids, now)
        number = self._next_id
        self._next_id += 1
        question = TokenizeRequest(number, submit.prompt, submit.chat)
        self._tokenizing.add(request, target.name, question)
        return self._ask_tokenizers()

    def _ask_tokenizers(self) -> list[Send]:
        out = []
        for name, question in self._tokenizing.due():
            target = self._roster.node(name)
            if target is not None:
                out.append(Send(target.peer, question))
        return out

    def _on_tokenized(self, node: NodeRecord, reply: TokenizeReply, now: float) -> list[Send]:
        request, was_asked = self._tokenizing.answered(node.name, reply.request_id)
        out = self._ask_tokenizers() if was_asked else []
        if request is None:
            self.num_stale += 1
            return out
        if reply.error:
            return [*out, *self._fail(request, "bad_request", reply.error, now)]
        return [*out, *self._open(request, node, reply.prompt_token_ids, now)]

    def _open(
        self, request: Request, target: NodeRecord, prompt: tuple[int, ...], now: float
    ) -> list[Send]:
        try:
            specs = specs_of(request, request.client.hex(), self._next_id, prompt, target.profile)
        except BadRequestError as error:
            return self._fail(request, "bad_request", str(error), now)
        self._next_id += len(specs)
        request.numerics_class = target.profile.numerics_class
        for spec in specs:
            request.choices[spec.stream_id] = Choice(spec)
            self._streams[spec.stream_id] = request
            self._waiting.append(spec.stream_id)
        return self._admit_waiting(now)

    def _admit_waiting(self, now: float) -> list[Send]:
        """Place waiting streams, first come first served within a numerics class."""
        out: list[Send] = []
        blocked: set[str] = set()
        for stream_id in list(self._waiting):
            request = self._streams.get(stream_id)
            # Placed or failed by what came before it in this very loop.
            if request is None or stream_id not in self._waiting:
                continue
            kind = request.numerics_class
            choice = request.choices[stream_id]
            needed = cells_needed(choice.spec)
            targets = self._roster.nodes("target")
            targets = [n for n in targets if n.profile.numerics_class == kind]
            if not any(n.profile.num_cells >= needed for n in targets):
                reason = "no target that could serve the request is left"
                out += self._fail(request, "unavailable", reason, now)
                continue
            if kind in blocked:
                continue
            fitting = [n for n in targets if n.has_room(needed)]
            if not fitting:
                blocked.add(kind)
                continue
            out += self._place(request, choice, min(fitting, key=lambda n: n.used_cells), now)
        return out

    def _place(
        self, request: Request, choice: Choice, target: NodeRecord, now: float
    ) -> list[Send]:
        out: list[Send] = []
        self._waiting.remove(choice.spec.stream_id)
        choice.target = target.name
        target.used_cells += cells_needed(choice.spec)
        if not request.has_started:
            request.has_started = True
            drafts = [n.profile for n in self._roster.nodes("draft")]
            notice = started_notice(request, choice, target.profile, drafts)
            out.append(Send(request.client, notice))
        assert target.scheduler is not None
        admitted = target.scheduler.admit(choice.spec, request.fixed_gamma)
        return out + self._carry_out(target, admitted, now)

    def _emit(self, emit: Emit) -> list[Send]:
        request = self._streams.get(emit.stream_id)
        if request is None:
            return []
        choice = request.choices[emit.stream_id]
        choice.num_tokens = emit.position + len(emit.token_ids)
        notice = tokens_notice(request, choice, emit.position, emit.token_ids, emit.text)
        return [Send(request.client, notice)]

    def _finish(self, target: NodeRecord, stream_id: StreamId, reason: str) -> list[Send]:
        request = self._streams.pop(stream_id, None)
        if request is None:
            return []
        assert target.scheduler is not None
        choice = request.choices.pop(stream_id)
        target.used_cells -= cells_needed(choice.spec)
        if not request.choices:
            del self._requests[(request.client, request.request_id)]
            logger.info("request %d finished: %s", request.request_id, reason)
        figures, plain_reason = target.scheduler.take_figures(stream_id)
        notice = finished_notice(request, choice, reason, figures, plain_reason)
        return [Send(request.client, notice)]

    def _cancel(self, request: Request, now: float) -> list[Send]:
        out: list[Send] = []
        self._tokenizing.drop(request)
        for stream_id, choice in list(request.choices.items()):
            target = self._roster.node(choice.target)
            if target is not None and target.scheduler is not None:
                out += self._carry_out(target, target.scheduler.cancel(stream_id, now), now)
            else:
                self._forget_stream(request, stream_id)
        self._requests.pop((request.client, request.request_id), None)
        return out

    def _fail(self, request: Request, code: str, reason: str, now: float) -> list[Send]:
        """End a whole request with an error; whatever still runs of it is closed."""
        self._requests.pop((request.client, request.request_id), None)
        self._tokenizing.drop(request)
        out: list[Send] = []
        choices = dict(request.choices)
        for stream_id in choices:
            self._forget_stream(request, stream_id)
        for stream_id, choice in choices.items():
            target = self._roster.node(choice.target)
            if target is not None and target.scheduler is not None:
                target.used_cells -= cells_needed(choice.spec)
                # Finish is for a stream that is forgotten already: nothing is told twice.
                out += self._carry_out(target, target.scheduler.cancel(stream_id, now), now)
                target.scheduler.take_figures(stream_id)
        out.append(
            Send(
                request.client, RequestFailedNotice(request.request_id, code, reason[:_MAX_REASON])
            )
        )
        return out

    def _forget_stream(self, request: Request, stream_id: StreamId) -> None:
        request.choices.pop(stream_id, None)
        self._streams.pop(stream_id, None)
        if stream_id in self._waiting:
            self._waiting.remove(stream_id)


def streams_of(message: Any) -> tuple[StreamId, ...]:
    """The streams a message to a node is about."""
    entries = getattr(message, "entries", None)
    if entries is not None:
        return tuple(StreamId(entry.stream_id) for entry in entries)
    return (StreamId(message.stream_id),)
