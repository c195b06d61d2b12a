"""What a coordinator is told and what it sends, in few words; for its tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesh.codec import encode_struct
from mesh.messages import PROTOCOL_VERSION, Bye, Hello, Ping, Pong
from nodes.coordinator.sends import Send
from nodes.coordinator.state import CoordinatorState
from nodes.messages import (
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
from nodes.scheduler.planning import MODES, Mode
from nodes.telemetry.status import Status, decode_status
from tests.nodes.builders import make_profile, make_submit

TARGET, DRAFT, CLIENT, OTHER, ADMIN = b"target", b"draft", b"client", b"other", b"admin"
CLUSTER, EPOCH = "test", 5
# Fields of a request whose prompt is a text, which a target tokenizes first.
TEXT_PROMPT: dict[str, Any] = {"prompt": "hi", "prompt_token_ids": ()}


class Mesh:
    """A coordinator and what is said to it; each method returns what the coordinator sends."""

    def __init__(self, mode: Mode = MODES["auto"], epoch: int = EPOCH, **changes: Any) -> None:
        self.state = CoordinatorState(
            mode,
            cluster=CLUSTER,
            epoch=epoch,
            heartbeat_interval_s=0.5,
            heartbeat_timeout_s=5.0,
            **changes,
        )

    def hear(self, peer: bytes, message: Any, now: float = 0.0, num_bytes: int = 10) -> list[Send]:
        return self.state.on_message(peer, CLUSTER, EPOCH, message, num_bytes, now)

    def greet(
        self,
        peer: bytes,
        role: str,
        profile: EngineProfile | None = None,
        name: str = "",
        now: float = 0.0,
        incarnation: int | None = None,
    ) -> list[Send]:
        """Say Hello, and nothing else. incarnation: None for the same process each time."""
        data = b"" if profile is None else encode_struct(profile)
        name = name or peer.decode()
        process = hash(peer) % 2**60 if incarnation is None else incarnation
        return self.hear(peer, Hello(name, role, process, PROTOCOL_VERSION, data), now)

    def join(
        self, peer: bytes, role: str, *args: Any, now: float = 0.0, **changes: Any
    ) -> list[Send]:
        """Say Hello as greet() does, and answer the probe that a target is sent."""
        sends = self.greet(peer, role, *args, now=now, **changes)
        for probe in said(sends, ProbeRequest, peer):
            sends = [send for send in sends if send.message is not probe]
            sends += self.hear(peer, ProbeReply(probe.seed, "d" * 64), now)
        return sends

    def submit(
        self, number: int = 1, now: float = 0.0, peer: bytes = CLIENT, **changes: Any
    ) -> list[Send]:
        return self.hear(peer, make_submit(number, **changes), now)

    def cancel(self, number: int = 1, now: float = 0.0, peer: bytes = CLIENT) -> list[Send]:
        return self.hear(peer, CancelRequest(number), now)

    def command(self, command: str, node: str, now: float = 0.0) -> list[Send]:
        """An operator wants something of a node."""
        self.join(ADMIN, "admin", now=now)
        return self.hear(ADMIN, NodeCommandRequest(4, command, node), now)

    def nodes(self) -> tuple[NodeFields, ...]:
        """The nodes as a client is told of them."""
        (reply,) = said(self.hear(CLIENT, NodesRequest(1)), NodesReply, CLIENT)
        return tuple(reply.nodes)

    def tokenized(
        self, number: int, *token_ids: int, peer: bytes = TARGET, error: str = ""
    ) -> list[Send]:
        return self.hear(peer, TokenizeReply(number, error, token_ids))

    def ready(
        self, stream_id: int = 1, generation: int = 1, peer: bytes = TARGET, now: float = 0.0
    ) -> list[Send]:
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
    ) -> list[Send]:
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

    def finish(self, stream_id: int = 1, prefix_len: int = 3, **changes: Any) -> list[Send]:
        """A target tells of the last token of a stream."""
        return self.commit(stream_id, prefix_len, finish_reason="stop", **changes)

    def bye(self, peer: bytes, now: float = 0.0) -> list[Send]:
        return self.hear(peer, Bye("over"), now)

    def gone(self, peer: bytes, now: float = 0.0) -> list[Send]:
        """The connection of a peer has closed."""
        return self.state.peer_gone(peer, now)

    def tick(self, now: float, *silent: bytes) -> list[Send]:
        """Everybody but the silent ones is heard of, and what is due by now is done; without the
        Pings."""
        for peer in self.state.roster.peers():
            if peer not in silent:
                self.hear(peer, Pong(0, round(1e3 * now)), now)
        return [send for send in self.state.tick(now) if not isinstance(send.message, Ping)]

    def status(self, now: float = 0.0) -> Status:
        """What is shown to a client that has just joined."""
        self.join(b"onlooker", "client", now=now)
        (reply,) = said(self.hear(b"onlooker", StatusRequest(1), now), StatusReply)
        return decode_status(reply.status)

    def num_under_way(self, now: float = 0.0) -> int:
        """Streams, and requests whose texts are not tokenized yet."""
        status = self.status(now)
        return status.num_streams + status.waiting.num_tokenizing


def make_mesh(*, with_draft: bool = False, mode: Mode = MODES["auto"], **changes: Any) -> Mesh:
    """One target (changes are fields of its profile), perhaps a draft, one client."""
    mesh = Mesh(mode)
    mesh.join(TARGET, "target", make_profile(**changes))
    if with_draft:
        mesh.join(DRAFT, "draft", make_profile(0.8))
    mesh.join(CLIENT, "client")
    return mesh


def to(peer: bytes, sends: Sequence[Send]) -> list[Any]:
    return [send.message for send in sends if send.peer == peer]


def said(sends: Sequence[Send], kind: type, peer: bytes | None = None) -> list[Any]:
    """The messages of one kind, to this peer or to anybody."""
    return [s.message for s in sends if isinstance(s.message, kind) and peer in (None, s.peer)]


def opened(sends: Sequence[Send], peer: bytes = TARGET) -> list[int]:
    return [message.stream_id for message in said(sends, OpenStreamRequest, peer)]


def where(sends: Sequence[Send], kind: type = OpenStreamRequest) -> list[str]:
    """The names of those that messages of a kind go to, in order."""
    return [send.peer.decode() for send in sends if isinstance(send.message, kind)]


def failure(sends: Sequence[Send], peer: bytes = CLIENT) -> tuple[str, str]:
    """Code and reason of the only message to a client."""
    (notice,) = to(peer, sends)
    assert isinstance(notice, RequestFailedNotice)
    return notice.code, notice.reason


def failures(sends: Sequence[Send]) -> list[tuple[int, str]]:
    """Number and code of each request that has failed."""
    return [(m.request_id, m.code) for m in said(sends, RequestFailedNotice)]
