from __future__ import annotations

from typing import Any, cast

from nodes.engine.load import TOY_COSTS
from nodes.engine.toy import ToyModel, ToyTokenizer
from nodes.messages import (
    CommitReply,
    PromptScoresNotice,
    Score,
    StreamFailedNotice,
    StreamReadyNotice,
    TokenScores,
)
from nodes.target.events import Committed, PromptScored, ReadBeside
from nodes.target.node import TargetNode
from nodes.worker.events import Failed, Ready
from nodes.worker.stream import StreamId

SCORES = (TokenScores(Score(9, -0.5, b" 9"), ()),)


class Sent:
    """A link that keeps what goes out."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def send(self, message: Any) -> None:
        self.messages.append(message)


def say(*events: object) -> list[Any]:
    model, link = ToyModel(), Sent()
    node = TargetNode(
        cast(Any, None), model, ToyTokenizer(96), TOY_COSTS, endpoint="memory", node="target"
    )
    node._link = cast(Any, link)
    node._on_events(events, 0.25)
    return link.messages


def test_what_a_pass_committed_is_told_last_with_what_it_read_besides() -> None:
    committed = Committed(StreamId(1), 1, 3, (9,), 0, 0, "", b" 9", SCORES)
    ready, reply = say(committed, ReadBeside(32), Ready(StreamId(2), 1, 70))
    assert ready == StreamReadyNotice(2, 1, 70)
    assert isinstance(reply, CommitReply)
    assert (reply.pass_s, reply.token_ids, reply.num_read_tokens) == (0.25, (9,), 32)
    assert reply.entries[0].scores == SCORES


def test_scores_of_a_prompt_go_out_before_what_follows_it() -> None:
    over = Committed(StreamId(1), 1, 3, (), 0, 0, "length", b"")
    scores, reply = say(over, PromptScored(StreamId(1), 1, 2, SCORES))
    assert scores == PromptScoresNotice(1, 1, 2, SCORES)
    assert reply.entries[0].finish_reason == "length"


def test_a_failure_says_whose_it_is_in_a_line_that_fits() -> None:
    (notice,) = say(Failed(StreamId(1), 2, "x" * 2000, "bad_request"))
    assert notice == StreamFailedNotice(1, 2, "x" * 1024, "bad_request")
