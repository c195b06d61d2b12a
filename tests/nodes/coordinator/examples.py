"""One well-formed message of each type, for tests of who may send which."""

from __future__ import annotations

from typing import Any

from mesh.messages import (
    PROTOCOL_VERSION,
    Bye,
    Credit,
    EnrolReply,
    EnrolRequest,
    Hello,
    KeyNotice,
    Ping,
    Pong,
    Refuse,
    Welcome,
)
from nodes.engine.sampling import Sampling
from nodes.messages import (
    CancelRequest,
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    DraftReply,
    DraftRequest,
    FinishedNotice,
    LeaseRequest,
    NodesReply,
    NodesRequest,
    OpenStreamRequest,
    RequestFailedNotice,
    StartedNotice,
    StreamFailedNotice,
    StreamFigures,
    StreamReadyNotice,
    TokenizeReply,
    TokenizeRequest,
    TokensNotice,
    TraceReply,
    TraceRequest,
    VerifyRequest,
)
from tests.nodes.builders import make_submit

MESSAGES: tuple[Any, ...] = (
    Hello("other", "client", 7, PROTOCOL_VERSION, b""),
    Welcome("x", "test", 1, 0.5, 5.0, False),
    Refuse("no"),
    Ping(1, 1),
    Pong(1, 1),
    Credit(1),
    Bye("done"),
    EnrolRequest("k" * 40, "x"),
    EnrolReply("", "x", ("draft",)),
    KeyNotice(""),
    TokenizeRequest(1, "x", False),
    TokenizeReply(1, "", (1,)),
    OpenStreamRequest(1, 1, "x", Sampling(), 4, (), False, 1, (1,)),
    StreamReadyNotice(1, 1),
    StreamFailedNotice(1, 1, "full"),
    CloseStreamNotice(1, 1),
    DraftRequest(1, (), ()),
    DraftReply(1, (), ()),
    VerifyRequest(1, (), ()),
    LeaseRequest(()),
    CommitReply(0.0, (CommitEntry(1, 1, 3, 1, 0, 0, "", b"x"),), (9,)),
    make_submit(9),
    CancelRequest(1),
    StartedNotice(1, 1, 3, True, "t", "d", False),
    TokensNotice(1, 0, 0, b"x", (1,)),
    FinishedNotice(1, 0, 1, "stop", StreamFigures(0, 0, 0, 0, 0, 0, "")),
    RequestFailedNotice(1, "internal", "x"),
    NodesRequest(1),
    NodesReply(1, ()),
    TraceRequest(1, -1),
    TraceReply(1, 0, 0, False, b""),
)
