"""A request from submit to its end: finished, refused, or failed with what served it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mesh.messages import Ping, Pong
from nodes.coordinator.requests.resuming import prompt_hash
from nodes.coordinator.sends import Send, streams_of
from nodes.messages import (
    MAX_GAMMA,
    CancelRequest,
    ChainPart,
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    FinishedNotice,
    GuessNotice,
    LeaseEntry,
    LeaseRequest,
    OpenStreamRequest,
    RequestFailedNotice,
    StartedNotice,
    StreamFailedNotice,
    StreamParkedNotice,
    StreamReadyNotice,
    TokensNotice,
)
from tests.nodes.builders import PROMPT, make_profile, make_submit
from tests.nodes.coordinator.script import (
    CLIENT,
    OTHER,
    TARGET,
    Mesh,
    failure,
    finish,
    make_mesh,
    opened,
    to,
)


def test_a_request_runs_from_submit_to_finish() -> None:
    mesh = make_mesh(with_draft=True)
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
    assert figures.plain_reason == "draft off: the request sets gamma to 0"
    # The id is free again.
    assert opened(mesh.hear(CLIENT, make_submit())) == [2]


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


def test_what_is_to_fit_is_as_long_as_fits() -> None:
    mesh = make_mesh()
    profile = make_profile()
    room = min(profile.context_length, profile.num_cells - MAX_GAMMA) - len(PROMPT)
    for asked, given in ((5000, room), (room, room), (7, 7)):
        sends = mesh.hear(CLIENT, make_submit(asked, max_tokens=asked, fits=True))
        (request,) = [m for m in to(TARGET, sends) if isinstance(m, OpenStreamRequest)]
        assert request.max_tokens == given
        mesh.hear(CLIENT, CancelRequest(asked))
    # A prompt that leaves no room at all is an error all the same.
    sends = mesh.hear(CLIENT, make_submit(1, prompt_token_ids=(5,) * 5000, fits=True))
    assert failure(sends)[0] == "bad_request"


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


def test_what_a_target_reads_of_prompts_beside_its_streams_counts_as_its_load() -> None:
    mesh = make_mesh()
    (scheduler,) = mesh.state.schedulers
    assert scheduler.target is not None
    mesh.hear(CLIENT, make_submit(1))
    mesh.hear(TARGET, StreamReadyNotice(1, 1, 3), 1.0)
    shares = []
    for place, num_read in enumerate((0, 32)):
        entry = CommitEntry(1, 1, 3 + place, 1, 0, 0, "", b"x")
        mesh.hear(TARGET, CommitReply(0.01, (entry,), (9,), num_read), 1.0)
        shares.append(scheduler.target.prefill_share(1.0))
    assert shares[0] == 0 < shares[1]


def test_a_parked_stream_goes_on_in_its_next_generation() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(1))
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    assert mesh.hear(TARGET, StreamParkedNotice(1, 1)) == []
    (lease,) = to(TARGET, mesh.hear(TARGET, StreamReadyNotice(1, 2)))
    assert [entry.generation for entry in lease.entries] == [2]
    assert mesh.state.num_stale == 0


def test_without_any_target_requests_wait_for_a_while_and_then_fail_with_its_name() -> None:
    mesh = make_mesh(max_streams=1)
    mesh.hear(CLIENT, make_submit(1))
    mesh.hear(CLIENT, make_submit(2, prompt="hi", prompt_token_ids=()))
    mesh.hear(CLIENT, make_submit(3))
    assert to(CLIENT, mesh.state.peer_gone(TARGET, 1.0)) == []
    mesh.hear(CLIENT, Pong(0, 1), 30.9)
    assert failures(mesh.state.tick(30.9)) == {}
    reason = (
        "target target left: connection gone; no other suitable target joined within 30 s",
        "target target left: connection gone, perhaps because of this request: it is tried on no "
        "other; no other suitable target joined within 30 s",
        "all targets that could serve this request left; no other suitable target joined within "
        "30 s",
    )
    # Those placed there, those it tokenized for, and those that only waited for it.
    assert failures(mesh.state.tick(31.0)) == {1: reason[1], 2: reason[0], 3: reason[2]}
    assert mesh.state._serving.ledger.requests == {}
    # A new target starts with nothing.
    assert opened(mesh.join(OTHER, "target", make_profile())) == []


def failures(sends: Sequence[Send]) -> dict[int, str]:
    failed = [m for m in to(CLIENT, sends) if isinstance(m, RequestFailedNotice)]
    assert {m.code for m in failed} <= {"unavailable"}
    return {m.request_id: m.reason for m in failed}


def test_a_stream_that_the_target_refuses_fails_its_request() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(num_choices=2))
    sends = mesh.hear(TARGET, StreamFailedNotice(1, 1, "full"))
    assert to(TARGET, sends) == [CloseStreamNotice(2, 1)]
    assert failure(sends) == ("unavailable", "full")


def test_the_streams_of_a_message() -> None:
    assert streams_of(CloseStreamNotice(4, 1)) == (4,)
    assert streams_of(LeaseRequest((LeaseEntry(2, 1, 3, 1),))) == (2,)
    assert streams_of(GuessNotice((ChainPart(3, 1, 1, 5, b"\xff"),), (9,))) == (3,)


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
