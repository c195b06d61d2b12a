"""Models, users, gateways and limits of what is submitted."""

from __future__ import annotations

from typing import Any

import pytest

from airdraft.nodes.config.settings import LimitSettings
from airdraft.nodes.coordinator.requests.classes import STRANDED_LIMIT_S
from airdraft.nodes.coordinator.requests.quota import MAX_OF_ALL, MAX_OF_CONNECTION, MAX_OF_TENANT
from airdraft.nodes.engine.rules import MAX_GRAMMAR_CHARS, Grammar, LogitRules
from airdraft.nodes.messages import (
    MAX_PROMPT_TOKENS,
    ChatMessage,
    RequestFailedNotice,
    TokenizeRequest,
)
from airdraft.nodes.messages.access import ANYBODY, Caller
from tests.nodes.builders import make_profile, make_submit
from tests.nodes.coordinator.script import CLIENT, OTHER, TEXT_PROMPT, Mesh, make_mesh, mesh_of

GATEWAY = b"gateway"
LARGE = {"model": "large.gguf", "model_hash": "l", "numerics_class": "l"}
AS_LONG_AS_FITS = {"prompt_token_ids": (5,) * (MAX_PROMPT_TOKENS - 8)}


def with_gateway(**changes: Any) -> Mesh:
    mesh = make_mesh(**changes)
    mesh.join(GATEWAY, "gateway")
    return mesh


def two_models() -> Mesh:
    """Two targets of a small model, one of a large one that has more cells than both."""
    fields = {"model": "small.gguf", "model_hash": "s", "numerics_class": "s", "num_cells": 512}
    small = make_profile(**fields)
    return mesh_of(small=small, small2=small, large=make_profile(**LARGE))


# -- models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("small.gguf", ["small", "small2"]),
        ("small", ["small", "small2"]),
        ("large.gguf", ["large", "large"]),
        # The one with the most cells, whatever the load.
        ("", ["large", "large"]),
    ],
)
def test_a_request_is_served_by_targets_of_its_model(model: str, names: list[str]) -> None:
    mesh = two_models()
    found = [name for n in (1, 2) for name in mesh.submit(n, model=model).where()]
    assert sorted(found) == names
    # A text is tokenized by one of them as well.
    (name,) = mesh.submit(3, model=model, **TEXT_PROMPT).where(TokenizeRequest)
    assert {name, *mesh.tokenized(1, 5, peer=name.encode()).where()} <= set(names)


def test_a_name_that_is_shown_is_taken_however_long_the_model_is_called() -> None:
    mesh = with_gateway(model="m" * 200)
    shown = mesh.nodes()[0].model
    assert len(shown) < 200
    assert mesh.submit(model=shown).opened() == [1]


def test_a_model_that_is_away_is_waited_for_where_it_is_expected_back() -> None:
    mesh = two_models()
    mesh.submit(1, model="large")
    mesh.submit(2, model="large", **TEXT_PROMPT)
    assert mesh.bye(b"large") == []
    mesh.submit(3, STRANDED_LIMIT_S - 0.1, model="large")
    sends = mesh.join(b"large2", "target", make_profile(**LARGE))
    assert sends.where() == ["large2", "large2"]
    assert sends.where(TokenizeRequest) == ["large2"]
    mesh.bye(b"large2", STRANDED_LIMIT_S)
    assert mesh.submit(4, 2 * STRANDED_LIMIT_S, model="large").failure() == (
        "unavailable",
        "no target of model 'large' is present: try later",
    )


def test_what_waits_for_one_model_does_not_keep_out_another() -> None:
    mesh = mesh_of(
        **{name: make_profile(model=name, model_hash=name, max_streams=1) for name in ("a", "b")}
    )
    for number in range(1, 4):
        mesh.submit(number, model="a")
    # Toys of all models call their numerics alike.
    assert mesh.submit(4, model="b").where() == ["b"]


# -- users -----------------------------------------------------------------------------------------


def test_prefixes_are_shared_by_what_one_key_or_connection_asks_for_one_user() -> None:
    mesh = with_gateway()
    mesh.join(OTHER, "gateway")
    owners = []
    for number, (peer, key, user) in enumerate(
        [
            (GATEWAY, "gw", "ann"),
            (OTHER, "gw", "ann"),
            (GATEWAY, "gw", "bob"),
            (GATEWAY, "gw", ""),
            (CLIENT, "cl", "ann"),
            (GATEWAY, "gw", "key/" + "u" * 250 + "a"),
            (GATEWAY, "gw", "key/" + "u" * 250 + "b"),
            (OTHER, "", ""),
        ]
    ):
        caller = Caller(key, frozenset({"client", "gateway"})) if key else ANYBODY
        submit = make_submit(number, user=user)
        sends = mesh.hear(peer, submit, caller=caller)
        owners += [message.owner for message in sends.openings()]
    assert owners[0] == owners[1]
    assert len(set(owners)) == 7
    # The key of whoever names no user, or the connection where there are no keys.
    assert (owners[3], owners[7]) == ("gw", OTHER.hex())
    # Nodes are not told what users are called.
    assert not any("ann" in owner for owner in owners)
    assert max(map(len, owners)) < 64


@pytest.mark.parametrize(
    ("asked", "order"),
    [
        ([(GATEWAY, key) for key in "aaaabb"], [1, 2, 5, 3, 6, 4]),
        ([(GATEWAY, f"k/{user}") for user in "aaaabb"], [1, 2, 5, 3, 6, 4]),
        ([*((GATEWAY, f"a/{user}") for user in "uvwx"), *[(GATEWAY, "b")] * 2], [1, 2, 5, 3, 6, 4]),
        ([*((CLIENT, user) for user in "uvwx"), *[(OTHER, "")] * 2], [1, 2, 5, 3, 6, 4]),
        ([(peer, "") for peer in (*[CLIENT] * 4, OTHER, OTHER)], [1, 2, 5, 3, 6, 4]),
    ],
    ids=[
        "keys of a gateway take turns",
        "users of a key take turns",
        "a key gets no more turns by inventing users",
        "a client gets no more turns by inventing users",
        "clients take turns",
    ],
)
def test_waiting_requests_are_served_in_turns(
    asked: list[tuple[bytes, str]], order: list[int]
) -> None:
    mesh = with_gateway(max_streams=1)
    mesh.join(OTHER, "client")
    found: list[int] = []
    for number, (peer, user) in enumerate(asked, 1):
        found += mesh.submit(number, float(number), peer, user=user).opened()
    for now in range(5):
        found += mesh.finish(found[-1], now=100.0 + now).opened()
    assert found == order


# -- limits ----------------------------------------------------------------------------------------


def test_gateways_may_have_more_under_way_than_clients() -> None:
    limits = LimitSettings(max_requests=2, max_gateway_requests=3)
    mesh = with_gateway(limits=limits, max_streams=1)
    for peer, role, limit in ((CLIENT, "client", 2), (GATEWAY, "gateway", 3)):
        for number in range(limit):
            mesh.submit(number, peer=peer)
        reason = f"{limit} requests of this {role} are under way"
        assert mesh.submit(limit, peer=peer).failure(peer) == ("overloaded", reason)
        mesh.cancel(limit - 1, peer=peer)
        assert mesh.submit(limit, peer=peer).to(peer) == []


def test_what_waits_of_gateways_keeps_no_client_out() -> None:
    limits = LimitSettings(max_waiting=1, max_gateway_waiting=2)
    mesh = with_gateway(limits=limits, max_streams=1)
    for number in range(3):
        mesh.submit(number, peer=GATEWAY, user=f"key{number}")
    overloaded = "overloaded", "2 streams are waiting already: try later"
    assert mesh.submit(3, peer=GATEWAY, user="key3").failure(GATEWAY) == overloaded
    assert mesh.submit(1) == []
    assert mesh.submit(2).failure()[0] == "overloaded"


def test_a_text_counts_as_the_streams_that_it_will_become() -> None:
    mesh = make_mesh(limits=LimitSettings(max_waiting=10))
    mesh.submit(1, num_choices=6, **TEXT_PROMPT)
    code, reason = mesh.submit(2, num_choices=6, **TEXT_PROMPT).failure()
    assert (code, reason) == ("overloaded", "6 streams are waiting already: try later")
    # There is never room for this one.
    code, reason = mesh.submit(4, num_choices=11, **TEXT_PROMPT).failure()
    assert (code, reason) == ("overloaded", "at most 10 streams may wait: ask for fewer choices")
    # One whose prompt is only read becomes no stream.
    assert mesh.submit(3, num_choices=1, wants="tokens", **TEXT_PROMPT).failures() == []
    mesh.cancel(1)
    assert mesh.submit(4, num_choices=6, **TEXT_PROMPT).failures() == []


@pytest.mark.parametrize("prompt", [{}, TEXT_PROMPT], ids=["ids", "text"])
def test_what_waits_of_one_client_keeps_no_other_out(prompt: dict[str, Any]) -> None:
    mesh = make_mesh(limits=LimitSettings(max_waiting=8), max_streams=1)
    mesh.join(OTHER, "client")
    mesh.submit(0, peer=OTHER)
    for number in range(7):
        mesh.submit(number, **prompt)
    assert mesh.submit(7, **prompt).failure()[0] == "overloaded"
    for number in (1, 2):
        found = mesh.submit(number, peer=OTHER, **prompt).to(OTHER)
        assert [notice.code for notice in found] == ["overloaded"] * (number == 2)


@pytest.mark.parametrize("prompt", [{}, TEXT_PROMPT], ids=["ids", "text"])
def test_what_waits_of_one_key_is_a_quarter_whatever_users_it_names(prompt: dict[str, Any]) -> None:
    mesh = with_gateway(limits=LimitSettings(max_gateway_waiting=16), max_streams=1)
    mesh.submit(100, peer=GATEWAY)
    codes = []
    for number in range(6):
        sends = mesh.submit(number, peer=GATEWAY, user=f"a/{number}", **prompt)
        codes += [notice.reason for notice in sends.said(RequestFailedNotice)]
    assert codes == ["4 streams of this key are waiting already: try later"] * 2
    assert mesh.submit(7, peer=GATEWAY, user="b", **prompt).failures() == []


@pytest.mark.slow
def test_ten_thousand_streams_of_a_gateway_may_wait_and_end_with_it() -> None:
    mesh = with_gateway(max_streams=1)
    for number in range(10_001):
        mesh.submit(number, peer=GATEWAY, user=f"u{number % 50}")
    assert mesh.status().waiting.num_streams == 10_000
    # None of those that wait gets a place for a moment.
    assert mesh.gone(GATEWAY).opened() == []
    assert mesh.num_under_way(1.0) == 0


@pytest.mark.parametrize(
    ("whose", "most", "num_peers", "num_users"),
    [
        ("this key", MAX_OF_TENANT, 1, 1),
        ("this gateway", MAX_OF_CONNECTION, 1, 99),
        ("all clients", MAX_OF_ALL, 9, 99),
    ],
)
def test_what_clients_have_sent_is_bounded_until_it_is_over(
    whose: str, most: int, num_peers: int, num_users: int
) -> None:
    """Prompts of token ids, which wait for a target that may come back."""
    mesh = with_gateway()
    for number in range(num_peers):
        mesh.join(b"%d" % number, "gateway")

    def submit(number: int) -> list[RequestFailedNotice]:
        peer, user = b"%d" % (number % num_peers), f"u{number % num_users}"
        asked = {"resume_from": (0,), "model": "elsewhere", **AS_LONG_AS_FITS}
        return mesh.submit(number, peer=peer, user=user, **asked).said(RequestFailedNotice)

    number = 0
    while not (failed := submit(number)):
        number += 1
    assert number == most // len(AS_LONG_AS_FITS["prompt_token_ids"])
    assert failed[0].code == "overloaded"
    assert failed[0].reason.startswith(whose)
    mesh.cancel(0, peer=b"0")
    assert submit(number) == []


def test_texts_of_one_connection_are_bounded_together() -> None:
    mesh = with_gateway()
    messages = (ChatMessage("user", "x" * ((1 << 18) - 4)),) * 4
    for number in range(MAX_OF_CONNECTION >> 20):
        user = f"u{number % 8}"
        mesh.submit(number, peer=GATEWAY, user=user, messages=messages, prompt_token_ids=())
    code, reason = mesh.submit(99, peer=GATEWAY, **TEXT_PROMPT).failure(GATEWAY)
    assert (code, reason.partition(" has ")[0]) == ("overloaded", "this gateway")
    # A text that has become ids is kept no longer.
    mesh.tokenized(1, 5, 6)
    assert mesh.submit(99, peer=GATEWAY, **TEXT_PROMPT).to(GATEWAY) == []


def test_the_roles_of_messages_count_as_their_contents_do() -> None:
    mesh = with_gateway()
    messages = (ChatMessage("r" * 64, ""),) * 1024
    for number in range(MAX_OF_TENANT >> 16):
        asked = {"messages": messages, "prompt_token_ids": ()}
        assert not mesh.submit(number, peer=GATEWAY, **asked).failures()
    code, reason = mesh.submit(99, peer=GATEWAY, **TEXT_PROMPT).failure(GATEWAY)
    assert (code, reason.partition(" has ")[0]) == ("overloaded", "this key")


def test_the_copies_of_a_prompt_that_choices_go_on_with_count() -> None:
    mesh = with_gateway(context_length=MAX_PROMPT_TOKENS, num_cells=MAX_PROMPT_TOKENS)
    prompt, num_choices = (5,) * 100_000, 50
    for number, committed, num_copies in ((1, (), 1), (2, (7,) * num_choices, num_choices)):
        asked = {"num_choices": num_choices, "prompt_token_ids": prompt + committed}
        known = {"resume_from": (len(committed) // num_choices,) * num_choices}
        assert not mesh.submit(number, peer=GATEWAY, **asked, **known).failures()
        # The next one is refused once the copies exceed the limit of an owner.
        failures = mesh.submit(3, peer=GATEWAY).failures()
        assert bool(failures) == (num_copies * len(prompt) > MAX_OF_TENANT)
        mesh.cancel(3, peer=GATEWAY)


def test_grammars_count_until_their_requests_are_over() -> None:
    """A stream needs its grammar again on another target, and no longer its tools."""
    mesh = with_gateway()
    grammar = Grammar("gbnf", "x" * MAX_GRAMMAR_CHARS)
    asked = {"rules": LogitRules(grammar=grammar), "tools": "[]" * (1 << 16)}
    number = 0
    while not (failed := mesh.submit(number, peer=GATEWAY, **asked).said(RequestFailedNotice)):
        number += 1
        assert number * MAX_GRAMMAR_CHARS < MAX_OF_TENANT
    assert failed[0].reason.startswith("this key")
    # The last ones have room for a grammar, but not for the tools that come with it.
    assert number > MAX_OF_TENANT // MAX_GRAMMAR_CHARS - 4
    mesh.cancel(0, peer=GATEWAY)
    assert mesh.submit(0, peer=GATEWAY, **asked).said(RequestFailedNotice) == []


def test_a_request_that_goes_on_is_refused_where_its_model_can_never_hold_it() -> None:
    code, reason = with_gateway().submit(resume_from=(0,), **AS_LONG_AS_FITS).failure()
    assert code == "bad_request"
    assert "context overflow" in reason
