from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from mesh.codec import encode, encode_struct
from mesh.messages import (
    NOT_ALLOWED,
    OTHER_PROTOCOL,
    PROTOCOL_VERSION,
    UNSUITABLE,
    Bye,
    Hello,
    Ping,
    Pong,
    Refuse,
    Welcome,
)
from nodes.config import LimitSettings
from nodes.coordinator.members.access import ForbiddenError
from nodes.coordinator.requests.resuming import prompt_hash
from nodes.coordinator.requests.tokenizing import MAX_AT_ONCE
from nodes.coordinator.sends import Send, streams_of
from nodes.coordinator.state import CoordinatorState
from nodes.messages import (
    CancelRequest,
    ChatMessage,
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    DraftReply,
    DraftRequest,
    EngineProfile,
    FinishedNotice,
    GuessEntry,
    LeaseRequest,
    NodeCommandReply,
    NodesReply,
    NodesRequest,
    OpenStreamRequest,
    RequestFailedNotice,
    StartedNotice,
    StreamFailedNotice,
    StreamParkedNotice,
    StreamReadyNotice,
    TokenizeReply,
    TokenizeRequest,
    TokensNotice,
    VerifyRequest,
)
from policies.joint import joint_plan
from policies.plan import Policy
from tests.nodes.builders import PROMPT, make_profile, make_submit, one_batch

HELLO = (ChatMessage("user", "hi"),)
TARGET, DRAFT, CLIENT, OTHER = b"target", b"draft", b"client", b"other"
CLUSTER, EPOCH = "test", 5


class Mesh:
    """A coordinator and what it last sent."""

    def __init__(self, policy: Policy = one_batch, **changes: Any) -> None:
        self.state = CoordinatorState(
            policy,
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
    ) -> list[Send]:
        data = b"" if profile is None else encode_struct(profile)
        name = name or peer.decode()
        return self.hear(peer, Hello(name, role, hash(peer) % 2**60, PROTOCOL_VERSION, data), now)


def make_mesh(*, with_draft: bool = False, policy: Policy = one_batch, **changes: Any) -> Mesh:
    """One target (changes are fields of its profile), perhaps a draft, one client."""
    mesh = Mesh(policy)
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


# -- membership ------------------------------------------------------------------------------------


def test_nodes_and_clients_are_welcomed_again_if_they_say_hello_again() -> None:
    mesh = Mesh()
    for peer, role, profile in ((TARGET, "target", make_profile()), (CLIENT, "client", None)):
        welcome = Send(peer, Welcome(peer.decode(), CLUSTER, EPOCH, 0.5, 5.0, False))
        assert mesh.join(peer, role, profile) == [welcome]
        assert mesh.join(peer, role, profile) == [welcome]
    assert mesh.state.peers() == [TARGET, CLIENT]


def test_who_cannot_be_a_member_is_refused_in_a_line() -> None:
    mesh = Mesh()
    assert mesh.join(OTHER, "oracle") == [Send(OTHER, Refuse("unknown role oracle", NOT_ALLOWED))]
    malformed = mesh.hear(OTHER, Hello("x", "target", 1, PROTOCOL_VERSION, b"\xc1"))
    assert to(OTHER, malformed)[0].reason.startswith("malformed profile: ")
    bad_costs = make_profile()
    bad_costs = replace(bad_costs, decode=replace(bad_costs.decode, seconds=(0.0, 1.0)))
    assert (
        "a pass takes a positive time" in to(OTHER, mesh.join(OTHER, "draft", bad_costs))[0].reason
    )
    old = mesh.hear(OTHER, Hello("x", "client", 1, PROTOCOL_VERSION + 1, b""))
    ours, theirs = PROTOCOL_VERSION, PROTOCOL_VERSION + 1
    reason = f"protocol {theirs}, this side speaks {ours}"
    assert to(OTHER, old) == [Refuse(reason, OTHER_PROTOCOL)]
    assert mesh.state.peers() == []


def test_a_draft_whose_vocabulary_differs_is_refused_with_both_names() -> None:
    mesh = Mesh()
    mesh.join(TARGET, "target", make_profile(model="big", vocab_hash="a"))
    assert mesh.join(OTHER, "draft", make_profile(model="small", vocab_hash="b")) == [
        Send(
            OTHER,
            Refuse(
                "vocabularies differ: draft model small cannot work with "
                "target model big: choose models of one family",
                UNSUITABLE,
            ),
        )
    ]


def test_no_draft_keeps_a_target_out() -> None:
    mesh = Mesh()
    mesh.join(OTHER, "draft", make_profile(model="small", vocab_hash="b"))
    welcome, refusal = mesh.join(TARGET, "target", make_profile(model="big", vocab_hash="a"))
    assert (welcome.peer, type(welcome.message)) == (TARGET, Welcome)
    # The draft goes: it would wait for ever.
    assert (refusal.peer, type(refusal.message)) == (OTHER, Refuse)
    assert "draft model small cannot work with target model big" in refusal.message.reason
    assert mesh.state.peers() == [TARGET]


def test_a_client_that_leaves_ends_all_its_requests_whatever_ends_with_them() -> None:
    """A target comes back smaller: one waiting request has none that could serve it."""
    mesh = Mesh()
    mesh.join(TARGET, "target", make_profile(max_streams=1, num_cells=8192))
    mesh.join(CLIENT, "client")
    for number, max_tokens in ((1, 8), (2, 8), (3, 2000), (4, 8)):
        mesh.hear(CLIENT, make_submit(number, max_tokens=max_tokens))
    smaller = encode_struct(make_profile(max_streams=1, num_cells=200))
    mesh.hear(TARGET, Hello("target", "target", 99, PROTOCOL_VERSION, smaller))
    # Those that can be served do not wait behind it.
    first = CommitEntry(1, 2, 3, 1, 0, 0, "stop", b"!")
    assert opened(mesh.hear(TARGET, CommitReply(0.0, (first,), (9,)))) == [2]
    second = CommitEntry(2, 1, 3, 1, 0, 0, "stop", b"!")
    assert opened(mesh.hear(TARGET, CommitReply(0.0, (second,), (9,)))) == [4]
    mesh.hear(CLIENT, Bye("done"))
    assert mesh.state._serving.requests == {}
    assert len(mesh.state._serving.placement.waiting) == 0


def texts(mesh: Mesh, sends: Sequence[Send], peer: bytes = TARGET) -> list[int]:
    return [m.request_id for m in to(peer, sends) if isinstance(m, TokenizeRequest)]


def test_a_target_gets_some_texts_to_tokenize_at_a_time() -> None:
    mesh = make_mesh()
    asked: list[int] = []
    for number in range(1, 41):
        text = make_submit(number, prompt="x", prompt_token_ids=())
        asked += texts(mesh, mesh.hear(CLIENT, text))
    assert len(asked) == 4
    for _ in range(40):
        asked += texts(mesh, mesh.hear(TARGET, TokenizeReply(asked.pop(0), "too long", ())))
        if not asked:
            break
    assert (asked, mesh.state._serving.requests) == ([], {})


def test_texts_without_end_are_refused() -> None:
    mesh = make_mesh()
    for number in range(1, 2000):
        sends = mesh.hear(CLIENT, make_submit(number, prompt="x", prompt_token_ids=()))
        if any(isinstance(m, RequestFailedNotice) for m in to(CLIENT, sends)):
            break
    assert failure(sends) == ("overloaded", "64 requests of this client are under way")
    assert number == 65


def test_only_the_target_that_was_asked_says_what_a_text_is() -> None:
    mesh = make_mesh()
    mesh.join(OTHER, "target", make_profile())
    (number,) = texts(mesh, mesh.hear(CLIENT, make_submit(1, prompt="x", prompt_token_ids=())))
    assert mesh.hear(OTHER, TokenizeReply(number, "", (7, 7))) == []
    assert mesh.hear(OTHER, TokenizeReply(number, "no", ())) == []
    assert mesh.state.num_stale == 2
    sends = mesh.hear(TARGET, TokenizeReply(number, "", (5, 6)))
    (opening,) = [m for m in to(TARGET, sends) if isinstance(m, OpenStreamRequest)]
    assert opening.token_ids == (5, 6)


def test_a_list_of_many_nodes_with_long_names_is_still_a_message() -> None:
    mesh = make_mesh()
    for number in range(100):
        peer = b"%d" % number
        mesh.join(
            peer, "draft", make_profile(model="\U0001f600" * 256), "\U0001f600" * 60 + f"{number}"
        )
    ((_, reply),) = [(s.peer, s.message) for s in mesh.hear(CLIENT, NodesRequest(1))]
    assert len(reply.nodes) == 64
    assert encode(reply, cluster="c" * 64, epoch=2**62)


def test_a_target_that_cannot_roll_back_gets_no_draft() -> None:
    mesh = make_mesh(with_draft=True, can_roll_back=False)
    sends = mesh.hear(CLIENT, make_submit())
    assert (len(opened(sends)), opened(sends, DRAFT)) == (1, [])


def test_messages_of_strangers_and_of_another_cluster_or_epoch_are_counted() -> None:
    mesh = make_mesh()
    assert mesh.hear(OTHER, make_submit()) == []
    assert mesh.state.on_message(CLIENT, "other", EPOCH, make_submit(), 9, 0.0) == []
    assert mesh.state.on_message(CLIENT, CLUSTER, EPOCH - 1, make_submit(), 9, 0.0) == []
    assert mesh.state.num_stale == 3
    # Neither side may say what only the other one says.
    for peer, message in ((CLIENT, finish(1)), (TARGET, make_submit())):
        with pytest.raises(ForbiddenError, match="may not send"):
            mesh.hear(peer, message)


def test_heartbeats_go_both_ways_and_the_silent_leave() -> None:
    mesh = make_mesh()
    sends = mesh.state.tick(0.0)
    assert {send.peer for send in sends} == {TARGET, CLIENT}
    assert all(isinstance(send.message, Ping) for send in sends)
    assert mesh.hear(CLIENT, Ping(3, 0)) == [Send(CLIENT, Pong(3, 0))]
    for now in (2.0, 4.0, 6.0):
        assert mesh.hear(TARGET, Pong(0, 1), now) == []
        mesh.state.tick(now)
    assert mesh.state.peers() == [TARGET]


def test_members_that_may_be_gone_are_sent_a_ping_and_others_are_not() -> None:
    mesh = make_mesh()
    sends = mesh.state.probe([TARGET, OTHER, CLIENT], 0.1)
    assert [send.peer for send in sends] == [TARGET, CLIENT]
    assert all(isinstance(send.message, Ping) for send in sends)
    assert len(mesh.state.peers()) == 2, "a Ping is no verdict"


def test_while_the_coordinator_did_not_run_nobody_was_silent() -> None:
    mesh = make_mesh()
    mesh.state.tick(0.0)
    mesh.state.paused(59.9, 60.0)
    mesh.state.tick(60.0)
    assert len(mesh.state.peers()) == 2
    assert mesh.state.silent(66.0) == [TARGET, CLIENT]
    mesh.state.heard_of(CLIENT, 65.0)
    mesh.state.tick(66.0)
    assert mesh.state.peers() == [CLIENT]


def test_the_nodes_are_told_to_clients_who_ask() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.hear(CLIENT, make_submit())
    (reply,) = to(CLIENT, mesh.hear(CLIENT, NodesRequest(4)))
    assert isinstance(reply, NodesReply)
    assert [(n.node, n.role, n.model, n.num_streams) for n in reply.nodes] == [
        ("target", "target", "toy-1", 1),
        ("draft", "draft", "toy-0.8", 0),
    ]


# -- requests --------------------------------------------------------------------------------------


def test_a_request_runs_from_submit_to_finish() -> None:
    mesh = make_mesh(with_draft=True, policy=joint_plan)
    sends = mesh.hear(CLIENT, make_submit(gamma=0))
    kind = "integers", "toy-0-1", prompt_hash(PROMPT)
    started = StartedNotice(1, 7, 3, True, "toy-1", "toy-0.8", True, *kind, limit_s=3600.0)
    assert to(CLIENT, sends) == [started]
    assert opened(sends) == [1]
    for send in sends:
        mesh.state.sent(send, 100, 0.0)
    (lease,) = mesh.hear(TARGET, StreamReadyNotice(1, 1))
    assert isinstance(lease.message, LeaseRequest)
    entry = CommitEntry(1, 1, 3, 2, 0, 0, "", b"ab")
    (tokens,) = mesh.hear(TARGET, CommitReply(0.0, (entry,), (8, 9)), num_bytes=30)
    assert tokens == Send(CLIENT, TokensNotice(1, 0, 0, b"ab", (8, 9)))
    tokens, finished = mesh.hear(TARGET, finish(1, 5), num_bytes=20)
    assert tokens.message == TokensNotice(1, 0, 2, b"!", (9,), is_last=True)
    assert isinstance(finished.message, FinishedNotice)
    assert (finished.message.num_tokens, finished.message.finish_reason) == (3, "stop")
    figures = finished.message.figures
    assert (figures.num_rounds, figures.num_plain_steps) == (0, 2)
    assert (figures.target_wire_bytes, figures.draft_wire_bytes) == (150, 0)
    assert figures.plain_reason == "draft off: gamma 0 was asked for"
    # The id is free again.
    assert opened(mesh.hear(CLIENT, make_submit())) == [2]


def test_a_text_is_tokenized_by_the_target_first() -> None:
    mesh = make_mesh()
    (send,) = mesh.hear(CLIENT, make_submit(messages=HELLO, prompt_token_ids=()))
    assert send == Send(TARGET, TokenizeRequest(1, "", HELLO))
    sends = mesh.hear(TARGET, TokenizeReply(1, "", (4, 5)))
    (request,) = [m for m in to(TARGET, sends) if isinstance(m, OpenStreamRequest)]
    assert request.token_ids == (4, 5)
    assert mesh.hear(TARGET, TokenizeReply(1, "", (4, 5))) == []
    assert mesh.state.num_stale == 1


def test_a_text_that_cannot_be_tokenized_is_the_clients_error() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(prompt="hi", prompt_token_ids=()))
    failed = mesh.hear(TARGET, TokenizeReply(1, "the model has no chat template", ()))
    assert failure(failed) == ("bad_request", "the model has no chat template")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt_token_ids": ()}, "the prompt is empty: give some text or token ids"),
        ({"temperature": 101.0}, "temperature 101.0 outside 0..100"),
        ({"prompt_token_ids": (96,)}, "token id 96 is outside the vocabulary of toy-1"),
        (
            {"max_tokens": 5000},
            "context overflow: 3 prompt tokens + 5000 to generate exceed the 4096 of toy-1: "
            "shorten the prompt or lower --max-tokens",
        ),
    ],
)
def test_bad_requests_are_refused_with_a_line_and_leave_nothing(
    changes: dict[str, Any], reason: str
) -> None:
    mesh = make_mesh()
    sends = mesh.hear(CLIENT, make_submit(**changes))
    assert failure(sends) == ("bad_request", reason)
    assert opened(mesh.hear(CLIENT, make_submit())) != []


def test_a_request_id_in_use_is_refused_and_the_first_request_goes_on() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit())
    assert failure(mesh.hear(CLIENT, make_submit())) == ("bad_request", "request id 1 is in use")
    assert isinstance(mesh.hear(TARGET, StreamReadyNotice(1, 1))[0].message, LeaseRequest)


def test_without_a_target_a_request_is_refused() -> None:
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    sends = mesh.hear(CLIENT, make_submit())
    assert failure(sends) == ("unavailable", "no target node has joined: start one")


def test_streams_wait_for_sequences_and_clients_take_turns() -> None:
    mesh = make_mesh(max_streams=2)
    mesh.join(OTHER, "client")
    assert opened(mesh.hear(CLIENT, make_submit(1, num_choices=3))) == [1, 2]
    assert mesh.hear(OTHER, make_submit(1)) == []
    sends = mesh.hear(TARGET, finish(2))
    assert opened(sends) == [4]
    assert isinstance(to(OTHER, sends)[0], StartedNotice)
    assert opened(mesh.hear(TARGET, finish(1))) == [3]


def test_a_stream_that_waits_for_cells_is_not_overtaken_by_a_smaller_one() -> None:
    mesh = make_mesh(num_cells=100)
    assert opened(mesh.hear(CLIENT, make_submit(1, max_tokens=40))) == [1]
    assert mesh.hear(CLIENT, make_submit(2, max_tokens=40)) == []
    assert mesh.hear(CLIENT, make_submit(3, max_tokens=1)) == []
    assert opened(mesh.hear(TARGET, finish(1))) == [2, 3]


def test_output_that_is_yet_to_come_keeps_nobody_waiting() -> None:
    # 3 tokens, 64 of growth and 16 guesses each, though each may come to 519 cells.
    mesh = make_mesh(num_cells=600)
    sends = mesh.hear(CLIENT, make_submit(1, max_tokens=500, num_choices=8))
    assert opened(sends) == [1, 2, 3, 4, 5, 6, 7]
    # The eighth waits for room: one that ends makes it, one that goes on does not.
    commit = CommitEntry(1, 1, 3, 2, 0, 0, "", b"!!")
    assert opened(mesh.hear(TARGET, CommitReply(0.0, (commit,), (9, 9)))) == []
    assert opened(mesh.hear(TARGET, finish(2))) == [8]


def test_a_stream_that_alone_cannot_fit_is_refused() -> None:
    mesh = make_mesh(num_cells=600)
    code, reason = failure(mesh.hear(CLIENT, make_submit(1, max_tokens=582)))
    assert code == "bad_request"
    assert "exceed the 600" in reason


def test_only_what_a_target_read_of_a_prompt_counts_as_its_load() -> None:
    seen = []
    mesh = make_mesh(
        policy=lambda observation: (seen.append(observation), one_batch(observation))[1]
    )
    for request_id, num_read in ((1, 0), (2, 3)):
        (stream_id,) = opened(mesh.hear(CLIENT, make_submit(request_id)))
        mesh.hear(TARGET, StreamReadyNotice(stream_id, 1, num_read), 1.0)
    assert seen[0].prefill_share == 0 < seen[-1].prefill_share


def test_a_parked_stream_goes_on_in_its_next_generation() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(1))
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    assert mesh.hear(TARGET, StreamParkedNotice(1, 1)) == []
    (lease,) = to(TARGET, mesh.hear(TARGET, StreamReadyNotice(1, 2)))
    assert [entry.generation for entry in lease.entries] == [2]
    assert mesh.state.num_stale == 0


def test_more_than_may_wait_are_refused() -> None:
    mesh = Mesh(limits=LimitSettings(max_waiting=2))
    mesh.join(TARGET, "target", make_profile(max_streams=1))
    mesh.join(CLIENT, "client")
    for request_id in (1, 2, 3):
        mesh.hear(CLIENT, make_submit(request_id))
    sends = mesh.hear(CLIENT, make_submit(4))
    assert failure(sends) == ("overloaded", "2 streams wait already: try later")


def test_cancelling_frees_the_place_for_who_waits() -> None:
    mesh = make_mesh(max_streams=1)
    mesh.hear(CLIENT, make_submit(1))
    mesh.hear(CLIENT, make_submit(2))
    sends = mesh.hear(CLIENT, CancelRequest(1))
    assert to(TARGET, sends)[0] == CloseStreamNotice(1, 1)
    assert opened(sends) == [2]
    (finished, _) = to(CLIENT, sends)
    assert finished.finish_reason == "cancelled"
    assert mesh.hear(CLIENT, CancelRequest(1)) == []
    # A waiting one goes without a trace.
    mesh.hear(CLIENT, make_submit(3))
    mesh.hear(CLIENT, CancelRequest(3))
    assert opened(mesh.hear(TARGET, finish(2))) == []


def test_cancelling_while_the_text_is_tokenized() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(prompt="hi", prompt_token_ids=()))
    assert mesh.hear(CLIENT, CancelRequest(1)) == []
    assert mesh.hear(TARGET, TokenizeReply(1, "", (4,))) == []
    assert mesh.state.num_stale == 1


@pytest.mark.parametrize("how", ["bye", "gone", "silent"])
def test_a_client_that_leaves_cancels_its_requests(how: str) -> None:
    mesh = make_mesh(max_streams=2)
    mesh.hear(CLIENT, make_submit(1, num_choices=3))
    if how == "bye":
        sends = mesh.hear(CLIENT, Bye("done"))
    elif how == "gone":
        sends = mesh.state.peer_gone(CLIENT, 0.0)
    else:
        mesh.hear(TARGET, Pong(0, 1), 4.0)
        sends = mesh.state.tick(6.0)
    closed = {m.stream_id for m in to(TARGET, sends) if isinstance(m, CloseStreamNotice)}
    assert closed >= {1, 2}
    assert closed == {1, 2} | set(opened(sends))
    mesh.join(OTHER, "client")
    assert len(opened(mesh.hear(OTHER, make_submit(1, num_choices=2)))) == 2


# -- nodes that fail -------------------------------------------------------------------------------


def test_without_any_target_requests_wait_for_a_while_and_then_fail_with_its_name() -> None:
    mesh = make_mesh(max_streams=1)
    mesh.hear(CLIENT, make_submit(1))
    mesh.hear(CLIENT, make_submit(2, prompt="hi", prompt_token_ids=()))
    mesh.hear(CLIENT, make_submit(3))
    assert to(CLIENT, mesh.state.peer_gone(TARGET, 1.0)) == []
    mesh.hear(CLIENT, Pong(0, 1), 30.9)
    assert failures(mesh.state.tick(30.9)) == {}
    reason = (
        "target target left: connection gone; no other that could go on came within 30 s",
        "all targets that could serve it left; no other that could go on came within 30 s",
    )
    # Those placed there, those it tokenized for, and those that only waited for it.
    assert failures(mesh.state.tick(31.0)) == {1: reason[0], 2: reason[0], 3: reason[1]}
    assert mesh.state._serving.requests == {}
    # A new target starts with nothing.
    assert opened(mesh.join(OTHER, "target", make_profile())) == []


def failures(sends: Sequence[Send]) -> dict[int, str]:
    failed = [m for m in to(CLIENT, sends) if isinstance(m, RequestFailedNotice)]
    assert {m.code for m in failed} <= {"unavailable"}
    return {m.request_id: m.reason for m in failed}


def test_who_waits_for_a_kind_of_target_that_is_gone_blocks_nobody() -> None:
    mesh = Mesh()
    mesh.join(TARGET, "target", make_profile(model_hash="a", max_streams=1))
    mesh.join(CLIENT, "client")
    mesh.hear(CLIENT, make_submit(1))
    mesh.hear(CLIENT, make_submit(2))
    mesh.join(OTHER, "target", make_profile(model_hash="b"))
    assert opened(mesh.hear(TARGET, Bye("over")), OTHER) == []
    assert opened(mesh.hear(CLIENT, make_submit(3)), OTHER) == [3]


def test_a_stream_that_the_target_refuses_fails_its_request() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(num_choices=2))
    sends = mesh.hear(TARGET, StreamFailedNotice(1, 1, "full"))
    assert to(TARGET, sends) == [CloseStreamNotice(2, 1)]
    assert failure(sends) == ("unavailable", "full")


def test_a_draft_that_joins_late_is_used_and_one_that_leaves_is_done_without() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(gamma=4, max_tokens=100))
    assert opened(mesh.join(DRAFT, "draft", make_profile(0.8)), DRAFT) == [1]
    mesh.hear(DRAFT, StreamReadyNotice(1, 1))
    sends = mesh.hear(TARGET, StreamReadyNotice(1, 1))
    (request,) = to(DRAFT, sends)
    assert isinstance(request, DraftRequest)
    (verify,) = to(TARGET, mesh.state.peer_gone(DRAFT, 0.0))
    assert verify == VerifyRequest(1, (GuessEntry(1, 1, 3, 0),), ())


def test_guesses_are_charged_and_verified() -> None:
    mesh = _two_streams_in_a_round()
    entries = (GuessEntry(1, 1, 4, 1), GuessEntry(2, 1, 3, 1))
    (send,) = mesh.hear(DRAFT, DraftReply(2, entries, (8, 9)), num_bytes=40)
    assert send == Send(TARGET, VerifyRequest(2, entries, (8, 9)), (1, 2))
    (*_, finished) = to(CLIENT, mesh.hear(TARGET, finish(1, 4)))
    assert finished.figures.draft_wire_bytes == 20


def test_an_answer_counts_even_if_the_first_stream_in_it_was_cancelled() -> None:
    mesh = _two_streams_in_a_round()
    mesh.hear(CLIENT, CancelRequest(1))
    reply = DraftReply(2, (GuessEntry(1, 1, 4, 1), GuessEntry(2, 1, 3, 1)), (8, 9))
    verify = VerifyRequest(2, (GuessEntry(2, 1, 3, 1),), (9,))
    assert to(TARGET, mesh.hear(DRAFT, reply)) == [verify]


def test_a_draft_that_refuses_a_stream_is_told_in_the_figures() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.hear(CLIENT, make_submit(gamma=4))
    mesh.hear(DRAFT, StreamFailedNotice(1, 1, "toy-0.8 is full"))
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    (*_, finished) = to(CLIENT, mesh.hear(TARGET, finish(1)))
    assert finished.figures.plain_reason == "draft off: toy-0.8 is full"


def test_a_late_draft_is_left_behind_by_the_tick() -> None:
    mesh = _two_streams_in_a_round()
    verify = VerifyRequest(2, (GuessEntry(1, 1, 4, 0), GuessEntry(2, 1, 3, 0)), ())
    assert verify in to(TARGET, mesh.state.tick(1.5))


def test_the_streams_of_a_message() -> None:
    assert streams_of(CloseStreamNotice(4, 1)) == (4,)
    assert streams_of(VerifyRequest(1, (GuessEntry(2, 1, 3, 0),), ())) == (2,)


def _two_streams_in_a_round() -> Mesh:
    """Round 2 is being drafted: stream 1 after 4 tokens and stream 2 after 3."""
    mesh = make_mesh(with_draft=True)
    mesh.hear(CLIENT, make_submit(1, gamma=4))
    mesh.hear(CLIENT, make_submit(2, gamma=4))
    mesh.hear(DRAFT, StreamReadyNotice(1, 1))
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    # Once the first is being verified the second waits for it.
    mesh.hear(DRAFT, DraftReply(1, (), ()))
    mesh.hear(DRAFT, StreamReadyNotice(2, 1))
    mesh.hear(TARGET, StreamReadyNotice(2, 1))
    first = CommitEntry(1, 1, 3, 1, 0, 0, "", b"a")
    sends = mesh.hear(TARGET, CommitReply(0.0, (first,), (9,)))
    ((request,),) = [to(DRAFT, sends)]
    assert [(e.stream_id, e.prefix_len) for e in request.entries] == [(1, 3), (2, 3)]
    return mesh


def test_a_message_that_breaks_the_limits_of_the_wire_ends_its_request_only() -> None:
    mesh = make_mesh()
    sends = mesh.hear(CLIENT, make_submit())
    (open_send,) = [s for s in sends if isinstance(s.message, OpenStreamRequest)]
    mesh.hear(CLIENT, make_submit(2))
    out = mesh.state.undeliverable(open_send, "9000 bytes, at most 8192", 0.0)
    assert failure(out)[0] == "internal"
    assert to(CLIENT, mesh.hear(TARGET, finish(open_send.message.stream_id + 1)))


def test_a_client_that_falls_silent_is_told_of_an_error_not_of_an_end() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit())
    mesh.hear(TARGET, Pong(0, 0), now=8.0)
    out = mesh.state.tick(8.1)
    messages = [m for m in to(CLIENT, out) if not isinstance(m, Ping)]
    assert [type(m) for m in messages] == [RequestFailedNotice]


def test_what_clients_and_targets_may_say_can_be_passed_on() -> None:
    mesh = make_mesh()
    text = make_submit(prompt="\u00e9" * 150_000, prompt_token_ids=())
    messages = tuple(ChatMessage("user", "x" * 1000) for _ in range(300))
    chat = make_submit(2, prompt="", messages=messages, prompt_token_ids=())
    for submit in (text, chat):
        encode(submit)
        (asked,) = to(TARGET, mesh.hear(CLIENT, submit))
        encode(asked)
    reason = "\U0001f600" * 1024
    for message in (
        TokenizeReply(1, reason, ()),
        StreamFailedNotice(1, 1, reason),
        RequestFailedNotice(1, "bad_request", reason),
        NodeCommandReply(1, reason, 0),
    ):
        encode(message)


def test_texts_that_cannot_be_sent_keep_no_place_at_their_target() -> None:
    mesh = make_mesh()
    for number in range(2 * MAX_AT_ONCE):
        sends = mesh.hear(CLIENT, make_submit(number, prompt="hi", prompt_token_ids=()))
        (asked,) = [send for send in sends if isinstance(send.message, TokenizeRequest)]
        assert failure(mesh.state.undeliverable(asked, "too large", 0.0))[0] == "internal"


def test_a_target_that_comes_back_is_welcomed_before_it_is_asked_for_texts_again() -> None:
    mesh = make_mesh()
    submit = make_submit(prompt="hi", prompt_token_ids=())
    assert [type(m) for m in to(TARGET, mesh.hear(CLIENT, submit))] == [TokenizeRequest]
    # Before its old connection is known to be gone.
    back = mesh.join(OTHER, "target", make_profile(), name="target")
    assert [type(m) for m in to(OTHER, back)] == [Welcome, TokenizeRequest]
