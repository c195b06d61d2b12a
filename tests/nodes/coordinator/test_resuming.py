"""Requests that began with another coordinator, and the time that requests have."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.messages import Ping
from nodes.config.settings import LimitSettings
from nodes.coordinator.placing.stranded import STRANDED_LIMIT_S
from nodes.coordinator.requests.request import BadRequestError, new_request, specs_of
from nodes.coordinator.requests.resuming import Returning, prompt_hash
from nodes.coordinator.sends import Send
from nodes.messages import (
    CancelRequest,
    CommitEntry,
    CommitReply,
    FinishedNotice,
    NodeCommandRequest,
    OpenStreamRequest,
    StartedNotice,
    SubmitRequest,
    TokenizeReply,
    TokenizeRequest,
    TokensNotice,
)
from nodes.worker.stream import StreamId
from tests.nodes.builders import PROMPT, make_profile, make_submit
from tests.nodes.coordinator.script import CLIENT, OTHER, TARGET, Mesh, failure, opened, to

KIND = {"numerics_class": "integers", "model_hash": "toy-0-1"}


def resumed(*resume_from: int, committed: tuple[int, ...] = (), **changes: Any) -> SubmitRequest:
    """Of a request that began on a toy."""
    fields: dict[str, Any] = {
        "request_id": 1,
        "num_choices": len(resume_from),
        "resume_from": resume_from,
        "prompt_token_ids": (*PROMPT, *committed),
        **KIND,
        **changes,
    }
    return make_submit(**fields)


def tick(mesh: Mesh, now: float) -> list[Send]:
    """Heartbeats left aside."""
    mesh.state._roster._membership._heartbeat_timeout_s = 1e9
    return [send for send in mesh.state.tick(now) if not isinstance(send.message, Ping)]


def make_mesh(*, with_target: bool = True, **changes: Any) -> Mesh:
    mesh = Mesh(**changes)
    mesh.join(CLIENT, "client")
    if with_target:
        mesh.join(TARGET, "target", make_profile())
    return mesh


def openings(sends: list[Send], peer: bytes = TARGET) -> list[OpenStreamRequest]:
    return [m for m in to(peer, sends) if isinstance(m, OpenStreamRequest)]


# -- what it is ------------------------------------------------------------------------------------


def test_its_streams_are_those_that_are_not_over_with_all_that_is_known_of_them() -> None:
    submit = resumed(2, -1, 0, 1, committed=(8, 9, 10), temperature=0.5)
    specs = specs_of(new_request(CLIENT, submit), "o", 5, PROMPT, make_profile())
    assert [(s.stream_id, s.sampling.choice) for s in specs] == [(5, 0), (6, 2), (7, 3)]
    assert [s.token_ids for s in specs] == [(*PROMPT, 8, 9), PROMPT, (*PROMPT, 10)]
    assert [s.num_committed for s in specs] == [2, 0, 1]
    assert {s.num_prompt_tokens for s in specs} == {3}


def test_of_a_prompt_that_has_tokens_after_it_nothing_is_scored_again() -> None:
    submit = resumed(1, 0, committed=(8,), scores_prompt=True)
    request = new_request(CLIENT, submit)
    assert not any(s.scores_prompt for s in specs_of(request, "o", 1, PROMPT, make_profile()))
    submit = resumed(-1, 0, scores_prompt=True)
    (spec,) = specs_of(new_request(CLIENT, submit), "o", 1, PROMPT, make_profile())
    assert (spec.scores_prompt, spec.sampling.choice) == (True, 1)


@pytest.mark.parametrize(
    ("submit", "reason"),
    [
        (resumed(1, num_choices=2, committed=(8,)), "give one number per choice"),
        (resumed(-1, -1), "at least one not negative"),
        (resumed(8, committed=(8,) * 8), "one choice already has max_tokens tokens"),
        (resumed(5, prompt_token_ids=(1, 2)), "its numbers exceed the number of token ids"),
        (resumed(3, prompt_token_ids=(1, 2, 3)), "the prompt is empty"),
    ],
)
def test_what_does_not_fit_together_is_refused(submit: SubmitRequest, reason: str) -> None:
    with pytest.raises(BadRequestError, match=reason):
        new_request(CLIENT, submit)


def test_tokens_outside_the_vocabulary_are_refused() -> None:
    request = new_request(CLIENT, resumed(1, committed=(96,)))
    with pytest.raises(BadRequestError, match="token id 96 is outside the vocabulary"):
        specs_of(request, "o", 1, PROMPT, make_profile())


def test_the_hash_of_a_prompt_is_of_its_ids() -> None:
    assert prompt_hash((1, 2)) == prompt_hash([1, 2])
    assert len({prompt_hash(ids) for ids in ((1, 2), (2, 1), (1, 2, 0), (258,))}) == 4


def test_who_waits_for_the_return_of_targets_is_counted_by_role() -> None:
    returning = Returning()
    request = new_request(CLIENT, resumed(0, 0))
    returning.add(request)
    assert (returning.num_of("client"), returning.num_of("gateway")) == (2, 0)
    assert list(returning) == [request]
    returning.drop(request)
    returning.drop(request)
    assert (returning.num_of("client"), list(returning)) == (0, [])


# -- going on --------------------------------------------------------------------------------------


def test_it_goes_on_where_its_client_is() -> None:
    mesh = make_mesh()
    sends = mesh.hear(CLIENT, resumed(2, committed=(8, 9)))
    (there,) = openings(sends)
    assert (there.token_ids, there.num_prompt_tokens) == ((*PROMPT, 8, 9), 3)
    started = to(CLIENT, sends)[0]
    assert isinstance(started, StartedNotice)
    assert (started.num_prompt_tokens, started.numerics_class, started.model_hash) == (
        3,
        *KIND.values(),
    )
    assert (started.prompt_hash, started.limit_s) == (prompt_hash(PROMPT), 3600.0)
    entry = CommitEntry(there.stream_id, 1, 5, 1, 0, 0, "stop", b"!")
    tokens, finished = to(CLIENT, mesh.hear(TARGET, CommitReply(0.0, (entry,), (7,))))
    assert tokens == TokensNotice(1, 0, 2, b"!", (7,), is_last=True)
    assert isinstance(finished, FinishedNotice)
    assert finished.num_tokens == 3
    assert mesh.state._serving.ledger.requests == {}


def test_an_end_without_more_tokens_counts_those_that_are_known() -> None:
    mesh = make_mesh()
    (there,) = openings(mesh.hear(CLIENT, resumed(2, committed=(8, 9))))
    entry = CommitEntry(there.stream_id, 1, 5, 0, 0, 0, "stop", b"")
    (finished,) = to(CLIENT, mesh.hear(TARGET, CommitReply(0.0, (entry,), ())))
    assert finished.num_tokens == 2


def test_it_waits_for_targets_to_come_back_while_new_ones_are_refused() -> None:
    mesh = make_mesh(with_target=False)
    text = {"prompt": "hi", "request_id": 2}
    assert mesh.hear(CLIENT, resumed(1, committed=(8,))) == []
    assert mesh.hear(CLIENT, resumed(2, **text, prompt_token_ids=(8, 9))) == []
    assert failure(mesh.hear(CLIENT, make_submit(3)))[0] == "unavailable"
    assert mesh.state._serving.num_waiting("client") == 2
    sends = mesh.join(TARGET, "target", make_profile())
    assert [m.token_ids for m in openings(sends)] == [(*PROMPT, 8)]
    (question,) = [m for m in to(TARGET, sends) if isinstance(m, TokenizeRequest)]
    assert question.prompt == "hi"
    sends = mesh.hear(TARGET, TokenizeReply(question.request_id, "", (4,)))
    assert [m.token_ids for m in openings(sends)] == [(4, 8, 9)]
    assert mesh.state._serving.num_waiting("client") == 0
    assert to(CLIENT, tick(mesh, STRANDED_LIMIT_S + 1.0)) == []
    assert len(mesh.state._serving.ledger.requests) == 2


def test_it_does_not_wait_for_ever() -> None:
    mesh = make_mesh(with_target=False)
    mesh.hear(CLIENT, resumed(1, committed=(8,)))
    mesh.hear(CLIENT, resumed(1, prompt="hi", prompt_token_ids=(8,), request_id=2))
    mesh.hear(CLIENT, resumed(1, committed=(8,), request_id=3))
    mesh.hear(CLIENT, CancelRequest(3))
    # Of another kind: it is of no use to them.
    mesh.join(OTHER, "target", make_profile(model_hash="other"))
    mesh.join(b"class", "target", make_profile(numerics_class="other"))
    assert to(CLIENT, tick(mesh, STRANDED_LIMIT_S - 0.1)) == []
    failed = to(CLIENT, tick(mesh, STRANDED_LIMIT_S))
    assert [(m.request_id, m.code) for m in failed] == [(1, "unavailable"), (2, "unavailable")]
    assert failed[0].reason == (
        "no present target can continue this request; no other suitable target joined within 30 s"
    )
    assert mesh.state._serving.ledger.requests == {}
    assert opened(mesh.join(TARGET, "target", make_profile())) == []


def test_it_stays_in_its_class_and_exact_if_it_was_so() -> None:
    mesh = make_mesh(with_target=False)
    mesh.join(OTHER, "target", make_profile(exact=False))
    assert opened(mesh.hear(CLIENT, resumed(0, is_exact=True)), OTHER) == []
    assert opened(mesh.join(TARGET, "target", make_profile())) == [1]
    # What was not exact may become so.
    assert opened(mesh.hear(CLIENT, resumed(0, request_id=2)), OTHER) == [2]


def test_before_its_first_token_it_still_stays_where_it_was_told_to_be() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, resumed(0))
    mesh.state.peer_gone(TARGET, 0.0)
    assert opened(mesh.join(OTHER, "target", make_profile(numerics_class="x")), OTHER) == []
    assert opened(mesh.join(TARGET, "target", make_profile())) == [1]


def test_of_what_nothing_has_come_any_class_will_do() -> None:
    mesh = make_mesh(with_target=False)
    mesh.hear(CLIENT, resumed(0, numerics_class=""))
    mesh.hear(CLIENT, resumed(0, numerics_class="", prompt="hi", prompt_token_ids=(), request_id=2))
    sends = mesh.join(OTHER, "target", make_profile(numerics_class="x"))
    assert opened(sends, OTHER) == [1]
    assert [m.prompt for m in to(OTHER, sends) if isinstance(m, TokenizeRequest)] == ["hi"]
    # Of another model, it would be another text.
    mesh.hear(CLIENT, resumed(0, numerics_class="", model_hash="other", request_id=3))
    assert opened(tick(mesh, 0.1), OTHER) == []


def test_a_target_that_is_too_small_for_it_is_not_the_last_word() -> None:
    mesh = make_mesh(with_target=False)
    mesh.join(OTHER, "target", make_profile(num_cells=20, context_length=20))
    assert to(CLIENT, mesh.hear(CLIENT, resumed(1, committed=(8,)))) == []
    assert opened(mesh.join(TARGET, "target", make_profile())) == [1]


def test_a_target_that_is_being_drained_does_for_what_began_on_its_kind() -> None:
    mesh = make_mesh()
    mesh.join(b"admin", "admin")
    # It leaves when it is empty, and is asked for its name only.
    mesh.hear(CLIENT, make_submit(9))
    mesh.hear(b"admin", NodeCommandRequest(1, "drain", "target"))
    assert len(opened(mesh.hear(CLIENT, resumed(1, committed=(8,))))) == 1
    assert failure(mesh.hear(CLIENT, make_submit(3)))[0] == "unavailable"


def test_a_text_that_reads_otherwise_by_now_is_not_gone_on_with() -> None:
    mesh = make_mesh()
    known = prompt_hash((4, 5))
    fields = {"prompt": "hi", "prompt_token_ids": (8,), "prompt_hash": known}
    for number, ids in ((1, (4, 5)), (2, (4, 6))):
        sends = mesh.hear(CLIENT, resumed(1, request_id=number, **fields))
        (question,) = [m for m in to(TARGET, sends) if isinstance(m, TokenizeRequest)]
        sends = mesh.hear(TARGET, TokenizeReply(question.request_id, "", ids))
        assert len(openings(sends)) == (ids == (4, 5))
    code, reason = failure(sends)
    assert (code, reason.partition(":")[0]) == (
        "internal",
        "the prompt has other token ids than when the request began",
    )


def test_the_word_of_a_client_is_no_place_in_the_line_that_of_a_gateway_is() -> None:
    for role, order in (("client", [2, 3]), ("gateway", [3, 2])):
        mesh = Mesh()
        mesh.join(CLIENT, role)
        mesh.join(TARGET, "target", make_profile(max_streams=1))
        mesh.hear(CLIENT, make_submit(1))
        mesh.hear(CLIENT, make_submit(2), now=1.0)
        mesh.hear(CLIENT, resumed(1, committed=(8,), request_id=3), now=2.0)
        served: list[int] = []
        for stream_id in (1, *order):
            length = 4 if stream_id == 3 else 3
            entry = CommitEntry(stream_id, 1, length, 1, 0, 0, "stop", b"!")
            served += opened(mesh.hear(TARGET, CommitReply(0.0, (entry,), (9,))))
        assert served == order


def test_limits_are_those_of_others() -> None:
    mesh = make_mesh(with_target=False, limits=LimitSettings(max_waiting=2, max_requests=2))
    assert mesh.hear(CLIENT, resumed(0, 0)) == []
    assert failure(mesh.hear(CLIENT, resumed(0, request_id=2)))[0] == "overloaded"


# -- deadlines -------------------------------------------------------------------------------------


def test_a_request_ends_by_its_deadline_with_a_code_of_its_own() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(1, deadline_s=10.0), now=5.0)
    mesh.hear(CLIENT, make_submit(2), now=5.0)
    assert to(CLIENT, tick(mesh, 14.9)) == []
    sends = tick(mesh, 15.0)
    assert failure(sends) == ("deadline", "the request was not done within its 10 s")
    assert mesh.state._serving.ledger.target_of(StreamId(1)) == ""
    assert mesh.state._serving.ledger.outcomes["deadline"] == 1
    assert len(mesh.state._serving.ledger.deadlines) == 1


def test_nobody_gets_more_time_than_the_coordinator_gives() -> None:
    mesh = make_mesh(limits=LimitSettings(max_request_s=20.0))
    sends = mesh.hear(CLIENT, make_submit(1, deadline_s=1000.0))
    assert to(CLIENT, sends)[0].limit_s == 20.0
    mesh.hear(CLIENT, make_submit(2, prompt="x", prompt_token_ids=()))
    failed = to(CLIENT, tick(mesh, 20.0))
    assert [(m.request_id, m.code) for m in failed] == [(1, "deadline"), (2, "deadline")]
    assert (mesh.state._serving.ledger.requests, len(mesh.state._serving.ledger.tokenizing)) == (
        {},
        0,
    )


def test_one_whose_time_is_over_makes_room() -> None:
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    mesh.join(TARGET, "target", make_profile(max_streams=1))
    mesh.hear(CLIENT, make_submit(1, deadline_s=1.0))
    mesh.hear(CLIENT, make_submit(2, deadline_s=1.0))
    mesh.hear(CLIENT, make_submit(3))
    assert 3 in opened(tick(mesh, 1.0))
    assert list(mesh.state._serving.ledger.requests) == [(CLIENT, 3)]
