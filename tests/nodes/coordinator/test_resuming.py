"""Requests that began with another coordinator, and the time that requests have."""

from __future__ import annotations

from typing import Any

import pytest

from nodes.config.settings import LimitSettings
from nodes.coordinator.requests.conversation import prompt_hash
from nodes.coordinator.requests.ledger import STRANDED_LIMIT_S
from nodes.messages import OpenStreamRequest, RequestFailedNotice, TokenizeRequest, TokensNotice
from tests.nodes.builders import PROMPT, make_profile
from tests.nodes.coordinator.script import (
    CLIENT,
    OTHER,
    TARGET,
    TEXT_PROMPT,
    Mesh,
    failure,
    failures,
    opened,
    said,
    to,
)
from tests.nodes.coordinator.test_requests import KIND, resumed


def make_mesh(*, with_target: bool = True, role: str = "client", **changes: Any) -> Mesh:
    """changes: of the target's profile."""
    mesh = Mesh()
    mesh.join(CLIENT, role)
    if with_target:
        mesh.join(TARGET, "target", make_profile(**changes))
    return mesh


def test_it_goes_on_where_its_client_is(mesh: Mesh) -> None:
    sends = mesh.submit(**resumed(2, committed=(8, 9)))
    (there,) = said(sends, OpenStreamRequest)
    assert (there.token_ids, there.num_prompt_tokens) == ((*PROMPT, 8, 9), 3)
    started = to(CLIENT, sends)[0]
    told = started.num_prompt_tokens, started.numerics_class, started.model_hash
    assert told == (3, *KIND.values())
    assert (started.prompt_hash, started.limit_s) == (prompt_hash(PROMPT), 3600.0)
    tokens, finished = to(CLIENT, mesh.finish(1, 5, token_ids=(7,), text=b"!"))
    assert tokens == TokensNotice(1, 0, 2, b"!", (7,), is_last=True)
    assert finished.num_tokens == 3
    assert mesh.num_under_way() == 0


def test_an_end_without_more_tokens_counts_those_that_are_known(mesh: Mesh) -> None:
    mesh.submit(**resumed(2, committed=(8, 9)))
    (finished,) = to(CLIENT, mesh.finish(1, 5, token_ids=()))
    assert finished.num_tokens == 2


def test_it_waits_for_targets_to_come_back_while_new_ones_are_refused() -> None:
    mesh = make_mesh(with_target=False)
    assert mesh.submit(1, **resumed(1, committed=(8,))) == []
    assert mesh.submit(2, **resumed(2, prompt="hi", prompt_token_ids=(8, 9))) == []
    assert failure(mesh.submit(3))[0] == "unavailable"
    sends = mesh.join(TARGET, "target", make_profile())
    assert [m.token_ids for m in said(sends, OpenStreamRequest)] == [(*PROMPT, 8)]
    (question,) = said(sends, TokenizeRequest, TARGET)
    assert question.prompt == "hi"
    sends = mesh.tokenized(question.request_id, 4)
    assert [m.token_ids for m in said(sends, OpenStreamRequest)] == [(4, 8, 9)]
    assert to(CLIENT, mesh.tick(STRANDED_LIMIT_S + 1.0)) == []
    assert mesh.num_under_way(STRANDED_LIMIT_S + 1.0) == 2


def test_it_does_not_wait_for_ever() -> None:
    mesh = make_mesh(with_target=False)
    mesh.submit(1, **resumed(1, committed=(8,)))
    mesh.submit(2, **resumed(1, prompt="hi", prompt_token_ids=(8,)))
    mesh.submit(3, **resumed(1, committed=(8,)))
    mesh.cancel(3)
    # Of another kind: it is of no use to them.
    mesh.join(OTHER, "target", make_profile(model_hash="other"))
    mesh.join(b"class", "target", make_profile(numerics_class="other"))
    assert to(CLIENT, mesh.tick(STRANDED_LIMIT_S - 0.1)) == []
    sends = mesh.tick(STRANDED_LIMIT_S)
    assert failures(sends) == [(1, "unavailable"), (2, "unavailable")]
    assert said(sends, RequestFailedNotice)[0].reason == (
        "no present target can continue this request; no other suitable target joined within 30 s"
    )
    assert opened(mesh.join(TARGET, "target", make_profile())) == []


def test_it_stays_in_its_class_and_exact_if_it_was_so() -> None:
    mesh = make_mesh(with_target=False)
    mesh.join(OTHER, "target", make_profile(exact=False))
    assert opened(mesh.submit(1, **resumed(0, is_exact=True)), OTHER) == []
    assert opened(mesh.join(TARGET, "target", make_profile())) == [1]
    # What was not exact may become so.
    assert opened(mesh.submit(2, **resumed(0)), OTHER) == [2]


def test_before_its_first_token_it_still_stays_where_it_was_told_to_be(mesh: Mesh) -> None:
    mesh.submit(**resumed(0))
    mesh.gone(TARGET)
    assert opened(mesh.join(OTHER, "target", make_profile(numerics_class="x")), OTHER) == []
    assert opened(mesh.join(TARGET, "target", make_profile())) == [1]


def test_of_what_nothing_has_come_any_class_will_do() -> None:
    mesh = make_mesh(with_target=False)
    mesh.submit(1, **resumed(0, numerics_class=""))
    mesh.submit(2, **resumed(0, numerics_class="", **TEXT_PROMPT))
    sends = mesh.join(OTHER, "target", make_profile(numerics_class="x"))
    assert opened(sends, OTHER) == [1]
    assert [m.prompt for m in said(sends, TokenizeRequest, OTHER)] == ["hi"]
    # Of another model, it would be another text.
    mesh.submit(3, **resumed(0, numerics_class="", model_hash="other"))
    assert opened(mesh.tick(0.1), OTHER) == []


def test_a_target_that_is_too_small_for_it_is_not_the_last_word() -> None:
    mesh = make_mesh(with_target=False)
    mesh.join(OTHER, "target", make_profile(num_cells=20, context_length=20))
    assert to(CLIENT, mesh.submit(**resumed(1, committed=(8,)))) == []
    assert opened(mesh.join(TARGET, "target", make_profile())) == [1]


def test_a_target_that_is_being_drained_does_for_what_began_on_its_kind(mesh: Mesh) -> None:
    # It leaves when it is empty, and is asked for its name only.
    mesh.submit(9)
    mesh.command("drain", "target")
    assert len(opened(mesh.submit(1, **resumed(1, committed=(8,))))) == 1
    assert failure(mesh.submit(3))[0] == "unavailable"


def test_a_text_that_reads_otherwise_by_now_is_not_gone_on_with(mesh: Mesh) -> None:
    fields = {"prompt": "hi", "prompt_token_ids": (8,), "prompt_hash": prompt_hash((4, 5))}
    for number, ids in ((1, (4, 5)), (2, (5, 4))):
        (question,) = said(mesh.submit(number, **resumed(1, **fields)), TokenizeRequest)
        sends = mesh.tokenized(question.request_id, *ids)
        assert len(opened(sends)) == (ids == (4, 5))
    code, reason = failure(sends)
    assert (code, reason.partition(":")[0]) == (
        "internal",
        "the prompt has other token ids than when the request began",
    )


@pytest.mark.parametrize(("role", "order"), [("client", [2, 3]), ("gateway", [3, 2])])
def test_the_word_of_a_client_is_no_place_in_the_line_that_of_a_gateway_is(
    role: str, order: list[int]
) -> None:
    mesh = make_mesh(role=role, max_streams=1)
    mesh.submit(1)
    mesh.submit(2, 1.0)
    mesh.submit(3, 2.0, **resumed(1, committed=(8,)))
    served = [1]
    for _ in order:
        served += opened(mesh.finish(served[-1], 4 if served[-1] == 3 else 3))
    assert served == [1, *order]


def test_limits_are_those_of_others() -> None:
    mesh = Mesh(limits=LimitSettings(max_waiting=2, max_requests=2))
    mesh.join(CLIENT, "client")
    assert mesh.submit(1, **resumed(0, 0)) == []
    assert failure(mesh.submit(2, **resumed(0)))[0] == "overloaded"
    mesh.cancel(1)
    assert mesh.submit(2, **resumed(0)) == []


# -- the time that requests have -------------------------------------------------------------------


def test_a_request_ends_by_its_deadline_with_a_code_of_its_own(mesh: Mesh) -> None:
    mesh.submit(1, 5.0, deadline_s=10.0)
    mesh.submit(2, 5.0)
    mesh.submit(3, 5.0, deadline_s=4.0)
    mesh.finish(3)
    assert to(CLIENT, mesh.tick(14.9)) == []
    sends = mesh.tick(15.0)
    assert failure(sends) == ("deadline", "the request was not done within its 10 s")
    status = mesh.status(15.0)
    assert [stream.stream_id for stream in status.streams] == [2]
    assert status.totals.requests["deadline"] == 1


def test_nobody_gets_more_time_than_the_coordinator_gives() -> None:
    mesh = Mesh(limits=LimitSettings(max_request_s=20.0))
    mesh.join(CLIENT, "client")
    mesh.join(TARGET, "target", make_profile())
    assert to(CLIENT, mesh.submit(1, deadline_s=1000.0))[0].limit_s == 20.0
    mesh.submit(2, **TEXT_PROMPT)
    assert failures(mesh.tick(20.0)) == [(1, "deadline"), (2, "deadline")]
    assert mesh.num_under_way(20.0) == 0


def test_one_whose_time_is_over_makes_room() -> None:
    mesh = make_mesh(max_streams=1)
    mesh.submit(1, deadline_s=1.0)
    mesh.submit(2, deadline_s=1.0)
    mesh.submit(3)
    sends = mesh.tick(1.0)
    assert failures(sends) == [(1, "deadline"), (2, "deadline")]
    assert 3 in opened(sends)


@pytest.mark.parametrize("how", ["deadline", "unavailable"])
def test_of_many_that_end_at_once_some_are_told_at_a_time(how: str) -> None:
    """A client takes only so many messages."""
    mesh = Mesh(limits=LimitSettings(max_requests=1000, max_waiting=1000))
    mesh.join(CLIENT, "client")
    if how == "deadline":
        mesh.join(TARGET, "target", make_profile(max_streams=1))
    asked = {"deadline_s": 30.0} if how == "deadline" else resumed(0)
    for number in range(600):
        mesh.submit(number, **asked)
    told = [failures(mesh.tick(STRANDED_LIMIT_S)) for _ in range(4)]
    assert max(map(len, told)) < 300
    ended = sorted(failed for each in told for failed in each)
    assert ended == [(number, how) for number in range(600)]
