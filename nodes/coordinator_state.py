"""The coordinator without its sockets: nodes, requests, and one scheduler a target.

Messages and `now` in, messages to send out. Nothing here waits or reads a clock.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mesh.errors import DecodeError
from mesh.heartbeat import HeartbeatState
from mesh.membership import Joined, Left, MembershipState, Refused
from mesh.messages import Bye, Hello, Ping, Pong, Refuse, Welcome
from nodes.messages import (
    CancelRequest,
    CommitReply,
    DraftReply,
    EngineProfile,
    FinishedNotice,
    NodeFields,
    NodesReply,
    NodesRequest,
    RequestFailedNotice,
    StartedNotice,
    StreamFailedNotice,
    StreamFigures,
    StreamReadyNotice,
    SubmitRequest,
    TokenizeReply,
    TokenizeRequest,
    TokensNotice,
)
from nodes.profile import costs_of, decode_profile, same_vocabulary
from nodes.requests import BadRequestError, Choice, Request, new_request, specs_of
from nodes.scheduler import (
    Abort,
    Emit,
    Finish,
    Instruction,
    SchedulerState,
    ToDraft,
    ToTarget,
)
from nodes.stream import StreamId
from nodes.target_state import cells_needed
from policies.latency import NodeCosts
from policies.plan import Policy

logger = logging.getLogger(__name__)

PROGRESS_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Send:
    """A message for a peer; its bytes are charged to the streams it is about."""

    peer: bytes
    message: Any
    streams: tuple[StreamId, ...] = ()
    to_draft: bool = False


@dataclass(slots=True)
class _Node:
    name: str
    role: str
    peer: bytes
    profile: EngineProfile
    costs: NodeCosts
    heartbeat: HeartbeatState
    scheduler: SchedulerState | None = None
    used_cells: int = 0


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
    ) -> None:
        self.cluster = cluster
        self.epoch = epoch
        self._policy = policy
        self._interval_s = heartbeat_interval_s
        self._timeout_s = heartbeat_timeout_s
        self._max_waiting = max_waiting
        self._membership = MembershipState(heartbeat_timeout_s, PROGRESS_TIMEOUT_S)
        self._nodes: dict[str, _Node] = {}
        self._clients: dict[bytes, HeartbeatState] = {}
        self._requests: dict[tuple[bytes, int], Request] = {}
        self._streams: dict[StreamId, Request] = {}
        self._waiting: list[StreamId] = []
        self._tokenizing: dict[int, tuple[Request, str]] = {}
        self._next_id = 1
        self.num_stale = 0

    # -- what comes in -----------------------------------------------------------------------

    def on_message(
        self, peer: bytes, cluster: str, epoch: int, message: Any, num_bytes: int, now: float
    ) -> list[Send]:
        if isinstance(message, Hello):
            return self._on_hello(peer, message, now)
        member = self._membership.on_message(peer, now)
        if member is None or (cluster, epoch) != (self.cluster, self.epoch):
            self.num_stale += 1
            return []
        if isinstance(message, Bye):
            return self._on_left(self._membership.on_bye(peer, message.reason, now), now)
        if isinstance(message, Pong):
            self._on_pong(peer, message, now)
            return []
        if isinstance(message, Ping):
            return [Send(peer, Pong(message.seq, 0))]
        node = self._nodes.get(member.node)
        if node is not None and node.peer == peer:
            return self._on_node_message(node, message, num_bytes, now)
        if member.role == "client":
            return self._on_client_message(peer, message, now)
        return []

    def peer_gone(self, peer: bytes, now: float) -> list[Send]:
        return self._on_left(self._membership.on_gone(peer, now), now)

    def tick(self, now: float) -> list[Send]:
        """Heartbeats, silent members, late rounds; to be called some 20 times a second."""
        out = self._on_left(self._membership.tick(now), now)
        beats = [(node.peer, node.heartbeat) for node in self._nodes.values()]
        for peer, heartbeat in [*beats, *self._clients.items()]:
            ping = heartbeat.due(now)
            if ping is not None:
                out.append(Send(peer, ping))
        for node in list(self._nodes.values()):
            if node.scheduler is not None:
                out += self._carry_out(node, node.scheduler.tick(now), now)
        return out

    def peers(self) -> list[bytes]:
        """Every member, nodes and clients."""
        return [member.peer for member in self._membership.members()]

    def charge(self, send: Send, num_bytes: int) -> None:
        """Book the bytes of a sent message on the streams it is about."""
        self._charge(send.streams, num_bytes, to_draft=send.to_draft)

    def _charge(self, streams: Sequence[StreamId], num_bytes: int, *, to_draft: bool) -> None:
        for stream_id in streams:
            request = self._streams.get(stream_id)
            if request is None:
                continue
            wire = request.choices[stream_id].wire
            if to_draft:
                wire.draft_bytes += num_bytes // len(streams)
            else:
                wire.target_bytes += num_bytes // len(streams)

    # -- membership ----------------------------------------------------------------------------

    def _on_hello(self, peer: bytes, hello: Hello, now: float) -> list[Send]:
        profile = None
        if hello.role in ("target", "draft"):
            try:
                profile = decode_profile(hello.profile)
                costs = costs_of(profile)
            except (DecodeError, ValueError) as error:
                return [Send(peer, Refuse(f"malformed profile: {error}"[:256]))]
            reason = self._mismatch(hello.role, profile)
            if reason:
                return [Send(peer, Refuse(reason[:256]))]
        elif hello.role != "client":
            return [Send(peer, Refuse(f"unknown role {hello.role}"[:256]))]
        out: list[Send] = []
        events = self._membership.on_hello(peer, hello, now)
        out += self._on_left([e for e in events if isinstance(e, Left)], now)
        for event in events:
            if isinstance(event, Refused):
                out.append(Send(peer, Refuse(event.reason[:256])))
            elif isinstance(event, Joined):
                logger.info("%s %s joined", hello.role, hello.node)
                out.append(self._welcome(peer, hello.node))
                heartbeat = HeartbeatState(self._interval_s, self._timeout_s)
                if profile is None:
                    self._clients[peer] = heartbeat
                else:
                    node = _Node(hello.node, hello.role, peer, profile, costs, heartbeat)
                    self._nodes[hello.node] = node
                    out += self._on_node_joined(node, now)
        if not events:
            # The Welcome crossed a repeated Hello, or was lost.
            out.append(self._welcome(peer, hello.node))
        return out

    def _welcome(self, peer: bytes, node: str) -> Send:
        return Send(
            peer, Welcome(node, self.cluster, self.epoch, self._interval_s, self._timeout_s)
        )

    def _mismatch(self, role: str, profile: EngineProfile) -> str:
        """Why a node's vocabulary fits none of the other role; "" if it fits or none is there."""
        others = [n for n in self._nodes.values() if n.role in ("target", "draft")]
        others = [n for n in others if n.role != role]
        if not others:
            return ""
        for other in others:
            pair = (profile, other.profile) if role == "draft" else (other.profile, profile)
            if same_vocabulary(*pair):
                return ""
        kind = "target" if role == "draft" else "draft"
        return (
            f"vocabularies differ: {role} model {profile.model} cannot work with "
            f"{kind} model {others[0].profile.model}: choose models of one family"
        )

    def _on_node_joined(self, node: _Node, now: float) -> list[Send]:
        if node.role == "target":
            node.scheduler = SchedulerState(self._policy, node.costs)
            for draft in self._nodes.values():
                if draft.role == "draft" and _can_pair(draft.profile, node.profile):
                    node.scheduler.draft_joined(draft.name, draft.costs)
            return self._admit_waiting(now)
        out: list[Send] = []
        for target in self._targets():
            if _can_pair(node.profile, target.profile):
                assert target.scheduler is not None
                joined = target.scheduler.draft_joined(node.name, node.costs)
                out += self._carry_out(target, joined, now)
        return out

    def _targets(self) -> list[_Node]:
        return [n for n in self._nodes.values() if n.role == "target"]

    def _on_left(self, events: Sequence[Left], now: float) -> list[Send]:
        out: list[Send] = []
        for event in events:
            member = event.member
            if member.role != "client" or event.reason != "done":
                logger.info("%s %s left: %s", member.role, member.node, event.reason)
            node = self._nodes.get(member.node)
            if node is not None and node.peer == member.peer:
                del self._nodes[member.node]
                out += self._on_node_left(node, event.reason, now)
            elif self._clients.pop(member.peer, None) is not None:
                for key in [k for k in self._requests if k[0] == member.peer]:
                    out += self._cancel(self._requests[key], now)
        return out

    def _on_node_left(self, node: _Node, reason: str, now: float) -> list[Send]:
        out: list[Send] = []
        if node.role == "draft":
            for target in self._targets():
                assert target.scheduler is not None
                out += self._carry_out(target, target.scheduler.draft_lost(node.name, now), now)
            return out
        lost = {
            id(request): request
            for request in self._requests.values()
            if any(choice.target == node.name for choice in request.choices.values())
        }
        for number, (request, name) in list(self._tokenizing.items()):
            if name == node.name:
                del self._tokenizing[number]
                lost[id(request)] = request
        for request in lost.values():
            out += self._fail(request, "unavailable", f"target {node.name} left: {reason}", now)
        return out

    def _on_pong(self, peer: bytes, pong: Pong, now: float) -> None:
        member = self._membership.by_peer(peer)
        assert member is not None
        node = self._nodes.get(member.node)
        busy = node is not None and node.scheduler is not None and node.scheduler.num_streams > 0
        self._membership.on_pong(peer, pong.progress, busy, now)
        heartbeat = node.heartbeat if node is not None else self._clients.get(peer)
        if heartbeat is not None:
            heartbeat.on_pong(pong, now)

    # -- nodes -----------------------------------------------------------------------------------

    def _on_node_message(self, node: _Node, message: Any, num_bytes: int, now: float) -> list[Send]:
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
                failed = node.scheduler.target_failed(StreamId(s), g, reason)
                return self._carry_out(node, failed, now)
            case TokenizeReply() if node.role == "target":
                return self._on_tokenized(message, now)
            case DraftReply() | StreamReadyNotice() | StreamFailedNotice():
                return self._on_draft_message(node, message, num_bytes, now)
        self.num_stale += 1
        return []

    def _on_draft_message(
        self, node: _Node, message: Any, num_bytes: int, now: float
    ) -> list[Send]:
        # Stream ids are unique in the mesh, round ids in a target: only one takes the message.
        out: list[Send] = []
        for target in self._targets():
            scheduler = target.scheduler
            assert scheduler is not None
            match message:
                case DraftReply(entries=entries):
                    if entries and scheduler.stream(StreamId(entries[0].stream_id)) is None:
                        continue
                    streams = [StreamId(e.stream_id) for e in entries]
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
        self, target: _Node, instructions: Sequence[Instruction], now: float
    ) -> list[Send]:
        out: list[Send] = []
        freed = False
        for instruction in instructions:
            match instruction:
                case ToTarget(message=message):
                    out.append(Send(target.peer, message, streams_of(message)))
                case ToDraft(node=name, message=message):
                    draft = self._nodes.get(name)
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
                return [Send(peer, NodesReply(request_id, self._node_fields()))]
        self.num_stale += 1
        return []

    def _node_fields(self) -> tuple[NodeFields, ...]:
        return tuple(
            NodeFields(
                n.name,
                n.role,
                n.profile.model,
                n.profile.exact,
                n.profile.emulated,
                n.scheduler.num_streams if n.scheduler is not None else 0,
            )
            for n in self._nodes.values()
        )

    def _submit(self, peer: bytes, submit: SubmitRequest, now: float) -> list[Send]:
        def refuse(code: str, reason: str) -> list[Send]:
            return [Send(peer, RequestFailedNotice(submit.request_id, code, reason[:1024]))]

        if (peer, submit.request_id) in self._requests:
            return refuse("bad_request", f"request id {submit.request_id} is in use")
        if len(self._waiting) + submit.num_choices > self._max_waiting:
            return refuse("overloaded", f"{len(self._waiting)} streams wait already: try later")
        try:
            request = new_request(peer, submit)
        except BadRequestError as error:
            return refuse("bad_request", str(error))
        targets = self._targets()
        if not targets:
            return refuse("unavailable", "no target node has joined: start one")
        target = min(targets, key=lambda n: n.used_cells)
        self._requests[(peer, submit.request_id)] = request
        if submit.prompt_token_ids:
            return self._open(request, target, submit.prompt_token_ids, now)
        number = self._next_id
        self._next_id += 1
        self._tokenizing[number] = (request, target.name)
        return [Send(target.peer, TokenizeRequest(number, submit.prompt, submit.chat))]

    def _on_tokenized(self, reply: TokenizeReply, now: float) -> list[Send]:
        request, name = self._tokenizing.pop(reply.request_id, (None, ""))
        target = self._nodes.get(name)
        if request is None or target is None:
            self.num_stale += 1
            return []
        if reply.error:
            return self._fail(request, "bad_request", reply.error, now)
        return self._open(request, target, reply.prompt_token_ids, now)

    def _open(
        self, request: Request, target: _Node, prompt: tuple[int, ...], now: float
    ) -> list[Send]:
        try:
            specs = specs_of(request, request.client.hex(), self._next_id, prompt, target.profile)
        except BadRequestError as error:
            return self._fail(request, "bad_request", str(error), now)
        self._next_id += len(specs)
        for spec in specs:
            request.choices[spec.stream_id] = Choice(spec)
            self._streams[spec.stream_id] = request
            self._waiting.append(spec.stream_id)
        return self._admit_waiting(now)

    def _admit_waiting(self, now: float) -> list[Send]:
        """Place waiting streams, first come first served, as far as cells and sequences go."""
        out: list[Send] = []
        while self._waiting:
            stream_id = self._waiting[0]
            request = self._streams[stream_id]
            choice = request.choices[stream_id]
            needed = cells_needed(choice.spec)
            fitting = [n for n in self._targets() if _has_room(n, needed)]
            if not fitting:
                break
            target = min(fitting, key=lambda n: n.used_cells)
            self._waiting.pop(0)
            choice.target = target.name
            target.used_cells += needed
            if not request.has_started:
                request.has_started = True
                out.append(Send(request.client, self._started(request, target)))
            assert target.scheduler is not None
            admitted = target.scheduler.admit(choice.spec, request.fixed_gamma)
            out += self._carry_out(target, admitted, now)
        return out

    def _started(self, request: Request, target: _Node) -> StartedNotice:
        spec = next(iter(request.choices.values())).spec
        drafts = [n.profile.model for n in self._nodes.values() if n.role == "draft"]
        return StartedNotice(
            request_id=request.request_id,
            seed=request.seed,
            num_prompt_tokens=spec.num_prompt_tokens,
            exact=target.profile.exact,
            target=target.profile.model,
            draft=", ".join(drafts)[:256],
        )

    def _emit(self, emit: Emit) -> list[Send]:
        request = self._streams.get(emit.stream_id)
        if request is None:
            return []
        choice = request.choices[emit.stream_id]
        choice.num_tokens = emit.position + len(emit.token_ids)
        notice = TokensNotice(
            request.request_id,
            choice.spec.sampling.choice,
            emit.position,
            emit.text,
            emit.token_ids,
        )
        return [Send(request.client, notice)]

    def _finish(self, target: _Node, stream_id: StreamId, reason: str) -> list[Send]:
        request = self._streams.pop(stream_id, None)
        if request is None:
            return []
        choice = request.choices.pop(stream_id)
        target.used_cells -= cells_needed(choice.spec)
        if not request.choices:
            del self._requests[(request.client, request.request_id)]
            logger.info("request %d finished: %s", request.request_id, reason)
        figures = self._figures(target, stream_id, choice)
        finished = FinishedNotice(
            request.request_id, choice.spec.sampling.choice, choice.num_tokens, reason, figures
        )
        return [Send(request.client, finished)]

    def _figures(self, target: _Node, stream_id: StreamId, choice: Choice) -> StreamFigures:
        assert target.scheduler is not None
        figures, plain_reason = target.scheduler.take_figures(stream_id)
        return StreamFigures(
            num_rounds=figures.num_rounds,
            num_plain_steps=figures.num_plain_steps,
            num_draft_tokens=figures.num_draft_tokens,
            num_accepted_tokens=figures.num_accepted_tokens,
            draft_wire_bytes=choice.wire.draft_bytes,
            target_wire_bytes=choice.wire.target_bytes,
            plain_reason=plain_reason[:256],
        )

    def _cancel(self, request: Request, now: float) -> list[Send]:
        out: list[Send] = []
        self._drop_tokenizing(request)
        for stream_id, choice in list(request.choices.items()):
            target = self._nodes.get(choice.target)
            if target is not None and target.scheduler is not None:
                out += self._carry_out(target, target.scheduler.cancel(stream_id, now), now)
            else:
                self._forget_stream(request, stream_id)
        self._requests.pop((request.client, request.request_id), None)
        return out

    def _fail(self, request: Request, code: str, reason: str, now: float) -> list[Send]:
        """End a whole request with an error; whatever still runs of it is closed."""
        self._requests.pop((request.client, request.request_id), None)
        self._drop_tokenizing(request)
        out: list[Send] = []
        choices = dict(request.choices)
        for stream_id in choices:
            self._forget_stream(request, stream_id)
        for stream_id, choice in choices.items():
            target = self._nodes.get(choice.target)
            if target is not None and target.scheduler is not None:
                target.used_cells -= cells_needed(choice.spec)
                # Finish is for a stream that is forgotten already: nothing is told twice.
                out += self._carry_out(target, target.scheduler.cancel(stream_id, now), now)
                target.scheduler.take_figures(stream_id)
        out.append(
            Send(request.client, RequestFailedNotice(request.request_id, code, reason[:1024]))
        )
        return out

    def _forget_stream(self, request: Request, stream_id: StreamId) -> None:
        request.choices.pop(stream_id, None)
        self._streams.pop(stream_id, None)
        if stream_id in self._waiting:
            self._waiting.remove(stream_id)

    def _drop_tokenizing(self, request: Request) -> None:
        for number in [n for n, (r, _) in self._tokenizing.items() if r is request]:
            del self._tokenizing[number]


def _can_pair(draft: EngineProfile, target: EngineProfile) -> bool:
    """A target that cannot take guesses back is served plainly."""
    return same_vocabulary(draft, target) and target.can_roll_back


def _has_room(node: _Node, needed: int) -> bool:
    scheduler = node.scheduler
    return (
        scheduler is not None
        and scheduler.num_streams < node.profile.max_streams
        and node.used_cells + needed <= node.profile.num_cells
    )


def streams_of(message: Any) -> tuple[StreamId, ...]:
    """The streams a message to a node is about."""
    entries = getattr(message, "entries", None)
    if entries is not None:
        return tuple(StreamId(entry.stream_id) for entry in entries)
    return (StreamId(message.stream_id),)
