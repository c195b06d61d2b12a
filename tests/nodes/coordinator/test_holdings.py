"""What clients have sent is bounded by connection, by owner and in all, until it is over."""

from __future__ import annotations

from typing import Any

import pytest

from nodes.coordinator.requests.holdings import (
    MAX_OF_ALL,
    MAX_OF_CONNECTION,
    MAX_OF_TENANT,
    Holdings,
    num_held_by,
)
from nodes.coordinator.requests.request import Request
from nodes.messages import MAX_PROMPT_TOKENS, CancelRequest, ChatMessage
from tests.nodes.builders import make_submit
from tests.nodes.coordinator.script import failure, to
from tests.nodes.coordinator.test_intake import GATEWAY, make_mesh


def request(number: int, client: bytes = b"c", tenant: str = "p", **changes: Any) -> Request:
    return Request(client, make_submit(number, **changes), 7, tenant=tenant)


def test_characters_and_token_ids_count_the_same() -> None:
    messages = (ChatMessage("user", "abc"), ChatMessage("assistant", "de"))
    assert num_held_by(request(1, messages=messages, prompt_token_ids=())) == 5
    assert num_held_by(request(1, prompt="abc", prompt_token_ids=())) == 3
    assert num_held_by(request(1, prompt_token_ids=(1, 2))) == 2


@pytest.mark.parametrize(
    ("most", "whose", "others"),
    [
        (MAX_OF_TENANT, "this owner", [(b"c", "q"), (b"d", "q")]),
        (MAX_OF_CONNECTION, "this client", [(b"d", "q")]),
        (MAX_OF_ALL, "all clients", []),
    ],
)
def test_what_is_full_is_named_and_others_have_room(
    most: int, whose: str, others: list[tuple[bytes, str]]
) -> None:
    holdings = Holdings()
    left, number, first = most - 4, 0, request(0)
    holdings.charge(first, 4)
    while left:
        number += 1
        client = b"c" if most <= MAX_OF_CONNECTION else b"%d" % number
        tenant = "p" if most <= MAX_OF_TENANT else str(number)
        part = min(left, MAX_OF_TENANT)
        holdings.charge(request(number, client, tenant), part)
        left -= part
    assert holdings.what_is_full(request(999), 0) == ""
    assert holdings.what_is_full(request(999), 1).startswith(whose)
    assert [holdings.what_is_full(request(9, *other), 1) for other in others] == [""] * len(others)
    holdings.forget(first)
    assert holdings.what_is_full(request(999), 4) == ""


def test_what_was_never_charged_can_be_forgotten() -> None:
    Holdings().forget(request(1))


def test_prompts_of_token_ids_are_bounded_until_they_are_over() -> None:
    mesh = make_mesh()
    most = (5,) * (MAX_PROMPT_TOKENS - 8)
    asked: dict[str, Any] = {"prompt_token_ids": most, "resume_from": (0,), "model": "elsewhere"}
    number = 0
    # They wait for a target that may come back.
    while not (sends := mesh.hear(GATEWAY, make_submit(number, **asked))):
        number += 1
        assert number <= MAX_OF_TENANT // len(most)
    code, reason = failure(sends, GATEWAY)
    assert (code, reason.partition(" has ")[0]) == ("overloaded", "this owner")
    mesh.hear(GATEWAY, CancelRequest(0))
    assert to(GATEWAY, mesh.hear(GATEWAY, make_submit(1000, **asked))) == []


def test_a_request_that_goes_on_is_refused_where_its_model_can_never_hold_it() -> None:
    mesh = make_mesh()
    most = (5,) * (MAX_PROMPT_TOKENS - 8)
    code, reason = failure(
        mesh.hear(GATEWAY, make_submit(1, prompt_token_ids=most, resume_from=(0,))), GATEWAY
    )
    assert code == "bad_request"
    assert "context overflow" in reason
