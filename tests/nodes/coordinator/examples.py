"""One well-formed message of each type, for tests of who may send which."""

from __future__ import annotations

from typing import Any

from mesh import messages as mesh
from nodes import messages as nodes
from nodes.engine.sampling import Sampling
from tests.nodes.builders import make_submit

SCORE = nodes.Score(9, -0.5, b"x")
MESSAGES: tuple[Any, ...] = (
    mesh.Hello("other", "client", 7, mesh.PROTOCOL_VERSION, b""),
    mesh.Welcome("x", "test", 1, 0.5, 5.0, False),
    mesh.Refuse("no"),
    mesh.Ping(1, 1),
    mesh.Pong(1, 1),
    mesh.Credit(1),
    mesh.Bye("done"),
    mesh.EnrolRequest("k" * 40, "x"),
    mesh.EnrolReply("", "x", ("draft",)),
    mesh.KeyNotice(""),
    nodes.TokenizeRequest(1, "x"),
    nodes.TokenizeReply(1, "", (1,)),
    nodes.OpenStreamRequest(1, 1, "x", Sampling(), 4, (), False, 1, (1,)),
    nodes.StreamReadyNotice(1, 1),
    nodes.StreamFailedNotice(1, 1, "full"),
    nodes.StreamParkedNotice(1, 1),
    nodes.CloseStreamNotice(1, 1),
    nodes.GuessNotice((nodes.ChainPart(1, 1, 1, 3, b"\xff"),), (7,)),
    nodes.HoldNotice((nodes.HoldEntry(1, 1, 1, 2, 3),)),
    nodes.CommitNotice((nodes.AddedEntry(1, 1, 3, 1),), (7,)),
    nodes.LeaseRequest(()),
    nodes.ProbeRequest(1),
    nodes.ProbeReply(1, "d"),
    nodes.CommitReply(0.0, (nodes.CommitEntry(1, 1, 3, 1, 0, 0, "", b"x"),), (9,)),
    make_submit(
        9,
        num_choices=2,
        resume_from=(1, -1),
        numerics_class="class",
        deadline_s=9.0,
        model_hash="model",
        is_exact=True,
        prompt_hash="prompt",
    ),
    nodes.CancelRequest(1),
    nodes.ReadNotice(1, "t", "model", (1, 2), b"ab", b"1234"),
    nodes.StartedNotice(1, 1, 3, True, "t", "d", False, "class", "model", "prompt", 60.0),
    nodes.TokensNotice(1, 0, 0, b"x", (1,), is_last=True),
    nodes.OutputNotice((nodes.OutputEntry(1, 0, 0, b"x", 1, 0, 0, (), True),), (1,)),
    nodes.FinishedNotice(1, 0, 1, "stop", nodes.StreamFigures(0, 0, 0, 0, 0, 0, "")),
    nodes.RequestFailedNotice(1, "internal", "x"),
    nodes.NodesRequest(1),
    nodes.NodesReply(1, ()),
    nodes.TraceRequest(1, -1),
    nodes.TraceReply(1, 0, 0, False, b""),
    nodes.StatusRequest(1),
    nodes.StatusReply(1, b"{}"),
    nodes.PromptScoresNotice(1, 1, 0, (nodes.TokenScores(SCORE, (SCORE,)),)),
    nodes.PromptLogprobsNotice(1, 0, (nodes.TokenScores(SCORE, ()),)),
    nodes.NodeCommandRequest(1, "drain", "nobody"),
    nodes.NodeCommandReply(1, "", 0),
    nodes.UploadOffer(1, 2000, 1500, 5, nodes.LinkFields("cell-a", 1e6, 0.0)),
    nodes.UploadGrant(1, 256, 100),
    nodes.UploadPiece(1, 0, b"x"),
)
