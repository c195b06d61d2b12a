"""Texts of requests that a target tokenizes first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesh.codec import encode
from mesh.messages import Welcome
from nodes.coordinator.requests.tokenizing import MAX_AT_ONCE
from nodes.coordinator.sends import Send
from nodes.engine.traits import ModelTraits
from nodes.messages import (
    EMBEDDING,
    TEXT,
    TOKENS,
    CancelRequest,
    ChatMessage,
    NodeCommandReply,
    OpenStreamRequest,
    ReadNotice,
    RequestFailedNotice,
    StreamFailedNotice,
    SubmitRequest,
    TokenizeReply,
    TokenizeRequest,
)
from tests.nodes.builders import make_profile, make_submit
from tests.nodes.coordinator.script import CLIENT, OTHER, TARGET, Mesh, failure, make_mesh, to

HELLO = (ChatMessage("user", "hi"),)


def texts(mesh: Mesh, sends: Sequence[Send], peer: bytes = TARGET) -> list[int]:
    return [m.request_id for m in to(peer, sends) if isinstance(m, TokenizeRequest)]


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
    assert (asked, mesh.state._serving.ledger.requests) == ([], {})


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


def test_cancelling_while_the_text_is_tokenized() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(prompt="hi", prompt_token_ids=()))
    assert mesh.hear(CLIENT, CancelRequest(1)) == []
    assert mesh.hear(TARGET, TokenizeReply(1, "", (4,))) == []
    assert mesh.state.num_stale == 1


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


def read(number: int, wants: str, **changes: Any) -> SubmitRequest:
    """A request of which only the prompt is to be read."""
    given = {"prompt": "x", "prompt_token_ids": (), **changes}
    return make_submit(number, wants=wants, max_tokens=0, **given)


def test_what_is_only_read_ends_with_what_the_target_says_of_it() -> None:
    mesh = make_mesh()
    (number,) = texts(mesh, mesh.hear(CLIENT, read(1, TOKENS)))
    (notice,) = to(CLIENT, mesh.hear(TARGET, TokenizeReply(number, "", (5, 6))))
    assert isinstance(notice, ReadNotice)
    assert (notice.request_id, notice.prompt_token_ids) == (1, (5, 6))
    assert mesh.state._serving.ledger.requests == {}
    # Its number may be used again.
    assert texts(mesh, mesh.hear(CLIENT, read(1, TOKENS)))


def test_the_text_of_token_ids_is_asked_of_a_target() -> None:
    mesh = make_mesh()
    sends = mesh.hear(CLIENT, read(1, TEXT, prompt="", prompt_token_ids=(5, 6)))
    (asked,) = to(TARGET, sends)
    assert (asked.token_ids, asked.wants) == ((5, 6), TEXT)
    reply = TokenizeReply(asked.request_id, "", (5, 6), b"ab")
    (notice,) = to(CLIENT, mesh.hear(TARGET, reply))
    assert notice.text == b"ab"


def test_what_cannot_be_read_is_refused() -> None:
    mesh = make_mesh()
    for wants, changes in (
        ("all", {}),
        (TEXT, {}),
        (TOKENS, {"prompt": "", "prompt_token_ids": (5,)}),
    ):
        assert failure(mesh.hear(CLIENT, read(1, wants, **changes)))[0] == "bad_request"
    code, reason = failure(mesh.hear(CLIENT, read(1, EMBEDDING)))
    assert (code, "no target serves an embedding model" in reason) == ("not_found", True)


def test_texts_and_vectors_go_to_targets_that_make_them() -> None:
    mesh = make_mesh()
    mesh.join(
        OTHER, "target", make_profile(model="e", model_hash="ee", traits=ModelTraits(embeds=True))
    )
    sends = mesh.hear(CLIENT, read(1, EMBEDDING))
    (number,) = texts(mesh, sends, OTHER)
    reply = TokenizeReply(number, "", (5,), b"", b"1234")
    (notice,) = to(CLIENT, mesh.hear(OTHER, reply))
    assert (notice.embedding, notice.model) == (b"1234", "e")
    assert texts(mesh, mesh.hear(CLIENT, make_submit(2, prompt="x", prompt_token_ids=())))
    for asked in (
        make_submit(3, prompt="x", prompt_token_ids=(), model="e"),
        read(3, EMBEDDING, model=make_profile().model),
    ):
        code, reason = failure(mesh.hear(CLIENT, asked))
        assert (code, "produces" in reason) == ("bad_request", True), reason
