"""A request from submit to its end, with the draft nodes that guess for it or without any."""

from __future__ import annotations

import pytest

from nodes.coordinator.requests.conversation import prompt_hash
from nodes.coordinator.sends import Send
from nodes.messages import (
    ChainPart,
    CloseStreamNotice,
    GuessNotice,
    LeaseRequest,
    OpenStreamRequest,
    RequestFailedNotice,
    StartedNotice,
    StreamFailedNotice,
    StreamReadyNotice,
    TokensNotice,
)
from tests.nodes.builders import PROMPT, make_profile
from tests.nodes.coordinator.script import (
    CLIENT,
    DRAFT,
    OTHER,
    TARGET,
    TEXT_PROMPT,
    Mesh,
    failure,
    make_mesh,
    opened,
    said,
    to,
)


def test_a_request_runs_from_submit_to_finish() -> None:
    mesh = make_mesh(with_draft=True)
    sends = mesh.submit(gamma=0)
    kind = "integers", "toy-0-1", prompt_hash(PROMPT)
    started = StartedNotice(1, 7, 3, True, "toy-1", "toy-0.8", True, *kind, limit_s=3600.0)
    assert to(CLIENT, sends) == [started]
    assert opened(sends) == [1]
    for send in sends:
        mesh.state.sent(send, 100, 0.0)
    (lease,) = mesh.ready()
    assert isinstance(lease.message, LeaseRequest)
    (tokens,) = mesh.commit(token_ids=(8, 9), text=b"ab", num_bytes=30)
    assert tokens == Send(CLIENT, TokensNotice(1, 0, 0, b"ab", (8, 9)))
    tokens, finished = mesh.finish(1, 5, text=b"!", num_bytes=20)
    assert tokens.message == TokensNotice(1, 0, 2, b"!", (9,), is_last=True)
    assert (finished.message.num_tokens, finished.message.finish_reason) == (3, "stop")
    figures = finished.message.figures
    assert (figures.num_rounds, figures.num_plain_steps) == (0, 2)
    assert (figures.target_wire_bytes, figures.draft_wire_bytes) == (150, 0)
    assert figures.plain_reason == "draft off: the request sets gamma to 0"
    # The id is free again.
    assert opened(mesh.submit()) == [2]


def test_a_request_id_in_use_is_refused_and_the_first_request_goes_on(mesh: Mesh) -> None:
    mesh.submit()
    assert failure(mesh.submit()) == ("bad_request", "request id 1 is in use")
    assert isinstance(mesh.ready()[0].message, LeaseRequest)


def test_without_a_target_a_request_is_refused() -> None:
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    assert failure(mesh.submit()) == ("unavailable", "no target node has joined: start one")


def test_what_a_target_reads_of_prompts_beside_its_streams_counts_as_its_load(mesh: Mesh) -> None:
    ((_, scheduler),) = mesh.state.roster.schedulers()
    mesh.submit()
    mesh.hear(TARGET, StreamReadyNotice(1, 1, 3), 1.0)
    shares = []
    for place, num_read in enumerate((0, 32)):
        mesh.commit(1, 3 + place, pass_s=0.01, num_read=num_read, now=1.0)
        shares.append(scheduler.target.prefill_share(1.0))
    assert shares[0] == 0 < shares[1]


def test_without_any_target_requests_wait_for_a_while_and_then_fail_with_its_name() -> None:
    mesh = make_mesh(max_streams=1)
    mesh.submit(1)
    mesh.submit(2, **TEXT_PROMPT)
    mesh.submit(3)
    assert to(CLIENT, mesh.gone(TARGET, 1.0)) == []
    assert said(mesh.tick(30.9), RequestFailedNotice) == []
    failed = said(mesh.tick(31.0), RequestFailedNotice)
    assert {notice.code for notice in failed} == {"unavailable"}
    # Those placed there, those it tokenized for, and those that only waited for it.
    assert {notice.request_id: notice.reason for notice in failed} == {
        1: "target target left: connection gone, perhaps because of this request: it is tried on "
        "no other; no other suitable target joined within 30 s",
        2: "target target left: connection gone; no other suitable target joined within 30 s",
        3: "all targets that could serve this request left; no other suitable target joined "
        "within 30 s",
    }
    assert mesh.num_under_way(31.0) == 0
    # A new target starts with nothing.
    assert opened(mesh.join(OTHER, "target", make_profile())) == []


@pytest.mark.parametrize(
    ("code", "told"), [("bad_request", "bad_request"), ("nonsense", "unavailable")]
)
def test_a_stream_that_a_target_refuses_fails_its_request_as_what_the_target_may_say(
    code: str, told: str
) -> None:
    mesh = make_mesh()
    mesh.submit(num_choices=2)
    sends = mesh.hear(TARGET, StreamFailedNotice(1, 1, "no", code))
    assert failure(sends) == (told, "no")
    # All that there is of the request ends.
    assert to(TARGET, sends) == [CloseStreamNotice(2, 1)]


def test_a_message_that_breaks_the_limits_of_the_wire_ends_its_request_only(mesh: Mesh) -> None:
    (sent,) = [s for s in mesh.submit() if isinstance(s.message, OpenStreamRequest)]
    mesh.submit(2)
    out = mesh.state.undeliverable(sent, "9000 bytes, at most 8192", 0.0)
    assert failure(out)[0] == "internal"
    assert to(CLIENT, mesh.finish(2))


def test_a_client_that_falls_silent_is_told_of_an_error_not_of_an_end(mesh: Mesh) -> None:
    mesh.submit()
    out = mesh.tick(8.1, CLIENT)
    assert [type(message) for message in to(CLIENT, out)] == [RequestFailedNotice]


# -- draft nodes ----------------------------------------------------------------------------------


def part(stream_id: int, start: int = len(PROMPT)) -> ChainPart:
    return ChainPart(stream_id, 1, 1, start, b"\xf0")


def running(*stream_ids: int) -> Mesh:
    """Streams that a draft node and the target have read."""
    mesh = make_mesh(with_draft=True)
    for stream_id in stream_ids:
        mesh.submit(stream_id)
        for peer in (DRAFT, TARGET):
            mesh.ready(stream_id, peer=peer)
    return mesh


def test_a_target_that_cannot_roll_back_gets_no_draft() -> None:
    sends = make_mesh(with_draft=True, can_roll_back=False).submit()
    assert (len(opened(sends)), opened(sends, DRAFT)) == (1, [])


def test_a_draft_that_joins_late_is_used_and_one_that_leaves_is_done_without(mesh: Mesh) -> None:
    mesh.submit(max_tokens=100)
    mesh.ready()
    assert opened(mesh.join(DRAFT, "draft", make_profile(0.8)), DRAFT) == [1]
    mesh.ready(peer=DRAFT)
    assert mesh.gone(DRAFT) == []
    assert to(CLIENT, mesh.finish())


def test_a_draft_that_left_a_mesh_without_targets_comes_back_as_what_it_is_then(mesh: Mesh) -> None:
    mesh.join(DRAFT, "draft", make_profile(0.8, max_streams=1))
    mesh.gone(TARGET)
    mesh.gone(DRAFT)
    mesh.join(b"another target", "target", make_profile())
    mesh.join(b"another draft", "draft", make_profile(0.8, max_streams=2), DRAFT.decode())
    # No more texts are told a draft node than it holds by now.
    told = [opened(mesh.submit(number), b"another draft") for number in (1, 2, 3)]
    assert told == [[1], [2], []]


def test_guesses_are_passed_on_and_charged_to_the_streams_they_are_of() -> None:
    mesh = running(1, 2)
    notice = GuessNotice((part(1), part(2)), (8, 9))
    assert mesh.hear(DRAFT, notice, num_bytes=40) == [Send(TARGET, notice, (1, 2))]
    (*_, finished) = to(CLIENT, mesh.finish())
    assert finished.figures.draft_wire_bytes == 20


def test_guesses_of_a_cancelled_stream_are_dropped_and_those_of_others_are_not() -> None:
    mesh = running(1, 2)
    assert CloseStreamNotice(1, 1) in to(DRAFT, mesh.cancel(1))
    sends = mesh.hear(DRAFT, GuessNotice((part(1), part(2)), (8, 9)))
    assert to(TARGET, sends) == [GuessNotice((part(2),), (9,))]
    assert mesh.hear(DRAFT, GuessNotice((part(1),), (8,))) == []


def test_a_draft_that_refuses_a_stream_is_told_in_the_figures() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.submit()
    mesh.hear(DRAFT, StreamFailedNotice(1, 1, "toy-0.8 is full"))
    mesh.ready()
    (*_, finished) = to(CLIENT, mesh.finish())
    assert finished.figures.plain_reason == "draft off: toy-0.8 is full"
