"""Requests that began with another coordinator, and the time that requests have."""

from __future__ import annotations

from typing import Any

import pytest

from nodes.config.settings import LimitSettings
from nodes.coordinator.requests.conversation import prompt_hash
from nodes.coordinator.requests.ledger import STRANDED_LIMIT_S
from nodes.messages import RequestFailedNotice, TokenizeRequest, TokensNotice
from tests.nodes.builders import PROMPT, make_profile
from tests.nodes.coordinator.script import (
    CLIENT,
    OTHER,
    TARGET,
    TEXT_PROMPT,
    Mesh,
    make_mesh,
    mesh_of,
)
from tests.nodes.coordinator.test_requests import KIND, resumed


def test_it_goes_on_where_its_client_is(mesh: Mesh) -> None:
    sends = mesh.submit(**resumed(2, committed=(8, 9)))
    (there,) = sends.openings()
    assert (there.token_ids, there.num_prompt_tokens) == ((*PROMPT, 8, 9), 3)
    started = sends.to(CLIENT)[0]
    told = started.num_prompt_tokens, started.numerics_class, started.model_hash
    assert told == (3, *KIND.values())
    assert (started.prompt_hash, started.limit_s) == (prompt_hash(PROMPT), 3600.0)
    tokens, finished = mesh.finish(1, 5, token_ids=(7,), text=b"!").to(CLIENT)
    assert tokens == TokensNotice(1, 0, 2, b"!", (7,), is_last=True)
    assert finished.num_tokens == 3
    assert mesh.num_under_way() == 0


def test_it_waits_for_targets_to_come_back_while_new_ones_are_refused() -> None:
    mesh = mesh_of()
    assert mesh.submit(1, **resumed(1, committed=(8,))) == []
    assert mesh.submit(2, **resumed(2, prompt="hi", prompt_token_ids=(8, 9))) == []
    assert mesh.submit(3).failure()[0] == "unavailable"
    sends = mesh.join(TARGET, "target", make_profile())
    assert [m.token_ids for m in sends.openings()] == [(*PROMPT, 8)]
    (question,) = sends.said(TokenizeRequest, TARGET)
    assert question.prompt == "hi"
    sends = mesh.tokenized(question.request_id, 4)
    assert [m.token_ids for m in sends.openings()] == [(4, 8, 9)]
    assert mesh.tick(STRANDED_LIMIT_S + 1.0).to(CLIENT) == []
    assert mesh.num_under_way(STRANDED_LIMIT_S + 1.0) == 2


def test_it_does_not_wait_for_ever() -> None:
    mesh = mesh_of()
    mesh.submit(1, **resumed(1, committed=(8,)))
    mesh.submit(2, **resumed(1, prompt="hi", prompt_token_ids=(8,)))
    mesh.submit(3, **resumed(1, committed=(8,)))
    mesh.cancel(3)
    assert mesh.tick(STRANDED_LIMIT_S - 0.1).to(CLIENT) == []
    sends = mesh.tick(STRANDED_LIMIT_S)
    assert sends.failures() == [(1, "unavailable"), (2, "unavailable")]
    assert sends.said(RequestFailedNotice)[0].reason == (
        "no present target can continue this request; no other suitable target joined within 30 s"
    )
    assert mesh.join(TARGET, "target", make_profile()).opened() == []


@pytest.mark.parametrize(
    ("asked", "changes", "does"),
    [
        (resumed(0), {"numerics_class": "other"}, False),
        (resumed(0), {"model_hash": "other"}, False),
        (resumed(0, numerics_class=""), {"model_hash": "other"}, False),
        (resumed(0, numerics_class=""), {"numerics_class": "other"}, True),
        (resumed(0, numerics_class="", **TEXT_PROMPT), {"numerics_class": "other"}, True),
        (resumed(0, is_exact=True), {"exact": False}, False),
        (resumed(0), {"exact": False}, True),
        (resumed(1, committed=(8,)), {"num_cells": 20, "context_length": 20}, False),
    ],
    ids=[
        *("another class", "another model", "no class and another model", "any class"),
        *("any class for a text", "no longer exact", "was not exact", "too small"),
    ],
)
def test_it_waits_for_a_target_that_gives_the_same_text(
    asked: dict[str, Any], changes: dict[str, Any], does: bool
) -> None:
    mesh = mesh_of()
    mesh.join(OTHER, "target", make_profile(**changes))
    sends = mesh.submit(**asked)
    assert sends.where() + sends.where(TokenizeRequest) == (["other"] if does else [])
    sends = mesh.join(TARGET, "target", make_profile())
    assert sends.where() == ([] if does else ["target"])


def test_a_target_that_is_being_drained_does_for_what_began_on_its_kind(mesh: Mesh) -> None:
    # It leaves when it is empty, and is asked for its name only.
    mesh.submit(9)
    mesh.command("drain", "target")
    assert len(mesh.submit(1, **resumed(1, committed=(8,))).opened()) == 1
    assert mesh.submit(3).failure()[0] == "unavailable"


def test_a_text_that_reads_otherwise_by_now_is_not_gone_on_with(mesh: Mesh) -> None:
    fields = {"prompt": "hi", "prompt_token_ids": (8,), "prompt_hash": prompt_hash((4, 5))}
    for number, ids in ((1, (4, 5)), (2, (5, 4))):
        (question,) = mesh.submit(number, **resumed(1, **fields)).said(TokenizeRequest)
        sends = mesh.tokenized(question.request_id, *ids)
        assert len(sends.opened()) == (ids == (4, 5))
    code, reason = sends.failure()
    assert (code, reason.partition(":")[0]) == (
        "internal",
        "the prompt has other token ids than when the request began",
    )


@pytest.mark.parametrize(("role", "order"), [("client", [2, 3]), ("gateway", [3, 2])])
def test_the_word_of_a_client_is_no_place_in_the_line_that_of_a_gateway_is(
    role: str, order: list[int]
) -> None:
    mesh = Mesh()
    mesh.join(CLIENT, role)
    mesh.join(TARGET, "target", make_profile(max_streams=1))
    mesh.submit(1)
    mesh.submit(2, 1.0)
    mesh.submit(3, 2.0, **resumed(1, committed=(8,)))
    served = [1]
    for _ in order:
        served += mesh.finish(served[-1], 4 if served[-1] == 3 else 3).opened()
    assert served == [1, *order]


def test_limits_are_those_of_others() -> None:
    mesh = Mesh(limits=LimitSettings(max_waiting=2, max_requests=2))
    mesh.join(CLIENT, "client")
    assert mesh.submit(1, **resumed(0, 0)) == []
    assert mesh.submit(2, **resumed(0)).failure()[0] == "overloaded"
    mesh.cancel(1)
    assert mesh.submit(2, **resumed(0)) == []


# -- the time that requests have -------------------------------------------------------------------


def test_a_request_ends_by_its_deadline_with_a_code_of_its_own_and_makes_room() -> None:
    mesh = make_mesh(max_streams=1)
    mesh.submit(1, 5.0, deadline_s=4.0)
    mesh.finish(1)
    mesh.submit(2, 5.0, deadline_s=10.0)
    mesh.submit(3, 5.0, deadline_s=10.0)
    mesh.submit(4, 5.0)
    assert mesh.tick(14.9).to(CLIENT) == []
    sends = mesh.tick(15.0)
    for failed in sends.said(RequestFailedNotice):
        assert failed.code == "deadline"
        assert failed.reason == "the request was not done within its 10 s"
    assert sends.opened()[-1] == 4
    status = mesh.status(15.0)
    assert [stream.stream_id for stream in status.streams] == [4]
    assert status.totals.requests["deadline"] == 2


def test_nobody_gets_more_time_than_the_coordinator_gives() -> None:
    mesh = make_mesh(limits=LimitSettings(max_request_s=20.0))
    assert mesh.submit(1, deadline_s=1000.0).to(CLIENT)[0].limit_s == 20.0
    mesh.submit(2, **TEXT_PROMPT)
    assert mesh.tick(20.0).failures() == [(1, "deadline"), (2, "deadline")]
    assert mesh.num_under_way(20.0) == 0


@pytest.mark.parametrize("how", ["deadline", "unavailable"])
def test_requests_that_end_together_are_told_a_few_at_a_time(how: str) -> None:
    """A client takes only so many messages."""
    mesh = Mesh(limits=LimitSettings(max_requests=1000, max_waiting=1000))
    mesh.join(CLIENT, "client")
    if how == "deadline":
        mesh.join(TARGET, "target", make_profile(max_streams=1))
    asked = {"deadline_s": 30.0} if how == "deadline" else resumed(0)
    for number in range(600):
        mesh.submit(number, **asked)
    told = [mesh.tick(STRANDED_LIMIT_S).failures() for _ in range(4)]
    assert max(map(len, told)) < 300
    ended = sorted(failed for each in told for failed in each)
    assert ended == [(number, how) for number in range(600)]
