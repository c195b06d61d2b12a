"""A coordinator for tests: what it is told and what it sends, in few words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from airdraft.mesh.codec import encode_struct
from airdraft.mesh.messages import PROTOCOL_VERSION, Bye, Hello, Ping, Pong, Welcome
from airdraft.nodes.config.settings import LimitSettings
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.coordinator.state import CoordinatorState
from airdraft.nodes.messages import (
    CancelRequest,
    CommitEntry,
    CommitReply,
    EngineProfile,
    NodeCommandRequest,
    NodeFields,
    NodesReply,
    NodesRequest,
    OpenStreamRequest,
    ProbeReply,
    ProbeRequest,
    RequestFailedNotice,
    StatusReply,
    StatusRequest,
    StreamReadyNotice,
    TokenizeReply,
)
from airdraft.nodes.messages.access import ANYBODY, Caller
from airdraft.nodes.scheduler.planning import MODES, Mode
from airdraft.nodes.telemetry.status import Status, decode_status
from tests.nodes.builders import make_profile, make_submit

TARGET, DRAFT, CLIENT, OTHER, ADMIN = b"target", b"draft", b"client", b"other", b"admin"
CLUSTER, EPOCH = "test", 5
# Fields of a request whose prompt is a text, which a target tokenizes first.
TEXT_PROMPT: dict[str, Any] = {"prompt": "hi", "prompt_token_ids": ()}


class Sends(list[Send]):
    """What a coordinator sends."""

    def to(self, peer: bytes) -> list[Any]:
        return [send.message for send in self if send.peer == peer]

    def said(self, kind: type, peer: bytes | None = None) -> list[Any]:
        """The messages of one kind, to this peer or to anybody."""
        return [s.message for s in self if isinstance(s.message, kind) and peer in (None, s.peer)]

    def openings(self, peer: bytes | None = None) -> list[OpenStreamRequest]:
        """Whatever is to be opened at this peer, or anywhere."""
        return self.said(OpenStreamRequest, peer)

    def opened(self, peer: bytes = TARGET) -> list[int]:
        return [message.stream_id for message in self.openings(peer)]

    def where(self, kind: type = OpenStreamRequest) -> list[str]:
        """The names of those that messages of a kind go to, in order."""
        return [send.peer.decode() for send in self if isinstance(send.message, kind)]

    def failure(self, peer: bytes = CLIENT) -> tuple[str, str]:
        """Code and reason of the only message to a client."""
        (notice,) = self.to(peer)
        assert isinstance(notice, RequestFailedNotice)
        return notice.code, notice.reason

    def failures(self) -> list[tuple[int, str]]:
        """Number and code of each request that has failed."""
        return [(m.request_id, m.code) for m in self.said(RequestFailedNotice)]


class Mesh:
    """A coordinator and what is said to it; each method returns what the coordinator sends."""

    def __init__(
        self, mode: Mode = MODES["auto"], epoch: int = EPOCH, *, pads: bool = False, **changes: Any
    ) -> None:
        welcome = Welcome("", CLUSTER, epoch, 0.5, 5.0, pads)
        self.state = CoordinatorState(mode, welcome, **changes)

    def hear(
        self,
        peer: bytes,
        message: Any,
        now: float = 0.0,
        num_bytes: int = 10,
        caller: Caller = ANYBODY,
    ) -> Sends:
        sends = self.state.on_message(peer, CLUSTER, EPOCH, message, num_bytes, now, caller)
        return Sends(sends)

    def greet(
        self,
        peer: bytes,
        role: str,
        profile: EngineProfile | None = None,
        name: str = "",
        now: float = 0.0,
        incarnation: int | None = None,
    ) -> Sends:
        """Say Hello, and nothing else. incarnation: None for the same process each time."""
        data = b"" if profile is None else encode_struct(profile)
        name = name or peer.decode()
        process = hash(peer) % 2**60 if incarnation is None else incarnation
        return self.hear(peer, Hello(name, role, process, PROTOCOL_VERSION, data), now)

    def join(self, peer: bytes, role: str, *args: Any, now: float = 0.0, **changes: Any) -> Sends:
        """Say Hello as greet() does, and answer the probe that a target is sent."""
        sends = self.greet(peer, role, *args, now=now, **changes)
        for probe in sends.said(ProbeRequest, peer):
            sends = Sends(send for send in sends if send.message is not probe)
            sends += self.hear(peer, ProbeReply(probe.seed, "d" * 64), now)
        return sends

    def submit(
        self, number: int = 1, now: float = 0.0, peer: bytes = CLIENT, **changes: Any
    ) -> Sends:
        return self.hear(peer, make_submit(number, **changes), now)

    def begin(self, number: int = 1, **changes: Any) -> None:
        """A request whose stream, the first of a mesh or of that number, has one token."""
        self.submit(number, **changes)
        self.ready(number)
        self.commit(number)

    def cancel(self, number: int = 1, now: float = 0.0, peer: bytes = CLIENT) -> Sends:
        return self.hear(peer, CancelRequest(number), now)

    def command(self, command: str, node: str, now: float = 0.0) -> Sends:
        """An operator wants something of a node."""
        self.join(ADMIN, "admin", now=now)
        return self.hear(ADMIN, NodeCommandRequest(4, command, node), now)

    def nodes(self) -> tuple[NodeFields, ...]:
        """The nodes as a client is told of them."""
        (reply,) = self.hear(CLIENT, NodesRequest(1)).said(NodesReply, CLIENT)
        return tuple(reply.nodes)

    def tokenized(
        self, number: int, *token_ids: int, peer: bytes = TARGET, error: str = ""
    ) -> Sends:
        return self.hear(peer, TokenizeReply(number, error, token_ids))

    def ready(
        self, stream_id: int = 1, generation: int = 1, peer: bytes = TARGET, now: float = 0.0
    ) -> Sends:
        """A node has read a stream's text."""
        return self.hear(peer, StreamReadyNotice(stream_id, generation), now)

    def commit(
        self,
        stream_id: int = 1,
        prefix_len: int = 3,
        *,
        peer: bytes = TARGET,
        now: float = 0.0,
        num_bytes: int = 10,
        token_ids: tuple[int, ...] = (9,),
        pass_s: float = 0.0,
        num_read: int = 0,
        **changes: Any,
    ) -> Sends:
        """A target tells of a pass; changes are fields of its entry."""
        fields = {
            "generation": 1,
            "num_draft_tokens": 0,
            "num_accepted_tokens": 0,
            "finish_reason": "",
            "text": b"a" * len(token_ids),
            **changes,
        }
        entry = CommitEntry(
            stream_id=stream_id, prefix_len=prefix_len, num_tokens=len(token_ids), **fields
        )
        return self.hear(peer, CommitReply(pass_s, (entry,), token_ids, num_read), now, num_bytes)

    def finish(self, stream_id: int = 1, prefix_len: int = 3, **changes: Any) -> Sends:
        """A target tells of the last token of a stream."""
        return self.commit(stream_id, prefix_len, finish_reason="stop", **changes)

    def bye(self, peer: bytes, now: float = 0.0) -> Sends:
        return self.hear(peer, Bye("over"), now)

    def gone(self, peer: bytes, now: float = 0.0) -> Sends:
        """The connection of a peer has closed."""
        return Sends(self.state.peer_gone(peer, now))

    def undeliverable(self, send: Send, reason: str) -> Sends:
        return Sends(self.state.undeliverable(send, reason, 0.0))

    def due(self, now: float) -> Sends:
        """What is due by now, plans included, with the Pings."""
        sends = Sends(self.state.tick(now))
        while (due := self.state.begin_plan(now)) is not None:
            target, planning = due
            sends += self.state.take_plan(target, planning.make(), now)
        return sends

    def tick(self, now: float, *silent: bytes) -> Sends:
        """Everybody but the silent ones is heard of, and what is due by now is done; without the
        Pings."""
        for peer in self.state.roster.peers():
            if peer not in silent:
                self.hear(peer, Pong(0, round(1e3 * now)), now)
        return Sends(send for send in self.due(now) if not isinstance(send.message, Ping))

    def status(self, now: float = 0.0) -> Status:
        """What is shown to a client that has just joined."""
        self.join(b"onlooker", "client", now=now)
        (reply,) = self.hear(b"onlooker", StatusRequest(1), now).said(StatusReply)
        return decode_status(reply.status)

    def num_under_way(self, now: float = 0.0) -> int:
        """Streams, and requests whose texts are not tokenized yet."""
        status = self.status(now)
        return status.num_streams + status.waiting.num_tokenizing


def profile(pass_ms: float, **changes: Any) -> EngineProfile:
    """Of a target whose passes take so long for one token, a fifth more for each other one."""
    made = make_profile(**changes)
    pass_s = pass_ms / 1e3
    decode = replace(made.decode, sizes=(1, 11), seconds=(pass_s, 3 * pass_s))
    return replace(made, decode=decode, prefill=replace(made.prefill, seconds=(pass_s,)))


def make_mesh(
    *,
    with_draft: bool = False,
    mode: Mode = MODES["auto"],
    limits: LimitSettings | None = None,
    **changes: Any,
) -> Mesh:
    """One target (changes are fields of its profile), perhaps a draft, one client."""
    mesh = Mesh(mode, limits=limits)
    mesh.join(TARGET, "target", make_profile(**changes))
    if with_draft:
        mesh.join(DRAFT, "draft", make_profile(0.8))
    mesh.join(CLIENT, "client")
    return mesh


def guessing_mesh(mode: Mode = MODES["auto"], **changes: Any) -> Mesh:
    """One stream that a draft node follows; changes are fields of its request."""
    mesh = make_mesh(with_draft=True, mode=mode)
    mesh.submit(**{"max_tokens": 100, **changes})
    for peer in (DRAFT, TARGET):
        mesh.ready(peer=peer)
    return mesh


def mesh_of(**targets: EngineProfile) -> Mesh:
    """Targets by name, in the order of joining, and a client."""
    mesh = Mesh()
    for name, profile in targets.items():
        mesh.join(name.encode(), "target", profile)
    mesh.join(CLIENT, "client")
    return mesh
