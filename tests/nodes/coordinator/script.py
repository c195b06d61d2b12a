"""What a coordinator is told and what it sends, in few words; for its tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesh.codec import encode_struct
from mesh.messages import PROTOCOL_VERSION, Hello
from nodes.coordinator.sends import Send
from nodes.coordinator.state import CoordinatorState
from nodes.messages import (
    CommitEntry,
    CommitReply,
    EngineProfile,
    OpenStreamRequest,
    ProbeReply,
    ProbeRequest,
    RequestFailedNotice,
)
from nodes.scheduler.planning import MODES, Mode
from tests.nodes.builders import make_profile

TARGET, DRAFT, CLIENT, OTHER = b"target", b"draft", b"client", b"other"
CLUSTER, EPOCH = "test", 5


class Mesh:
    """A coordinator and what it last sent."""

    def __init__(self, mode: Mode = MODES["auto"], **changes: Any) -> None:
        self.state = CoordinatorState(
            mode,
            cluster=CLUSTER,
            epoch=EPOCH,
            heartbeat_interval_s=0.5,
            heartbeat_timeout_s=5.0,
            **changes,
        )

    def hear(self, peer: bytes, message: Any, now: float = 0.0, num_bytes: int = 10) -> list[Send]:
        return self.state.on_message(peer, CLUSTER, EPOCH, message, num_bytes, now)

    def join(
        self,
        peer: bytes,
        role: str,
        profile: EngineProfile | None = None,
        name: str = "",
        now: float = 0.0,
        incarnation: int | None = None,
    ) -> list[Send]:
        """Say Hello; a target answers its probe as all do, so what this returns is of both.

        incarnation: of its process; None for the same one each time.
        """
        sends = self.greet(peer, role, profile, name, now, incarnation)
        for message in to(peer, sends):
            if isinstance(message, ProbeRequest):
                sends = [send for send in sends if send.message is not message]
                sends += self.hear(peer, ProbeReply(message.seed, "d" * 64), now)
        return sends

    def greet(
        self,
        peer: bytes,
        role: str,
        profile: EngineProfile | None = None,
        name: str = "",
        now: float = 0.0,
        incarnation: int | None = None,
    ) -> list[Send]:
        """Say Hello, and nothing else."""
        data = b"" if profile is None else encode_struct(profile)
        name = name or peer.decode()
        process = hash(peer) % 2**60 if incarnation is None else incarnation
        return self.hear(peer, Hello(name, role, process, PROTOCOL_VERSION, data), now)


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


def opened(sends: Sequence[Send], peer: bytes = TARGET) -> list[int]:
    return [m.stream_id for m in to(peer, sends) if isinstance(m, OpenStreamRequest)]


def failure(sends: Sequence[Send], peer: bytes = CLIENT) -> tuple[str, str]:
    (notice,) = to(peer, sends)
    assert isinstance(notice, RequestFailedNotice)
    return notice.code, notice.reason


def finish(stream_id: int, prefix_len: int = 3) -> CommitReply:
    entry = CommitEntry(stream_id, 1, prefix_len, 1, 0, 0, "stop", b"!")
    return CommitReply(0.0, (entry,), (9,))
