"""Texts of requests that a target tokenizes first, a few at a time."""

from __future__ import annotations

from typing import Any

import pytest

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.messages import Welcome
from airdraft.nodes.coordinator.requests.texts import MAX_AT_ONCE, MAX_CHARS_AT_ONCE
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.engine.rules import GRAMMAR_KINDS, MAX_GRAMMAR_CHARS, Grammar, LogitRules
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.traits import ModelTraits
from airdraft.nodes.messages import (
    EMBEDDING,
    TEXT,
    TOKENS,
    ChatMessage,
    NodeCommandReply,
    RequestFailedNotice,
    StreamFailedNotice,
    TokenizeReply,
    TokenizeRequest,
)
from tests.nodes.builders import make_profile, make_spec, make_submit
from tests.nodes.coordinator.script import (
    CLIENT,
    OTHER,
    TARGET,
    TEXT_PROMPT,
    Mesh,
    Sends,
    make_mesh,
)

HELLO = (ChatMessage("user", "hi"),)
GATEWAY = b"gateway"


def asked(sends: Sends, peer: bytes = TARGET) -> list[int]:
    """The numbers of texts that a target is to tokenize."""
    return [message.request_id for message in sends.said(TokenizeRequest, peer)]


def test_a_text_is_tokenized_by_the_target_first(mesh: Mesh) -> None:
    (send,) = mesh.submit(messages=HELLO, prompt_token_ids=())
    assert send == Send(TARGET, TokenizeRequest(1, "", HELLO))
    (request,) = mesh.tokenized(1, 4, 5).openings()
    assert request.token_ids == (4, 5)
    assert mesh.tokenized(1, 4, 5) == []
    assert mesh.state.reporting.num_stale == 1


def test_a_text_that_cannot_be_tokenized_is_the_clients_error(mesh: Mesh) -> None:
    mesh.submit(**TEXT_PROMPT)
    failed = mesh.tokenized(1, error="the model has no chat template")
    assert failed.failure() == ("bad_request", "the model has no chat template")
    mesh.submit(**TEXT_PROMPT)
    empty = "the prompt is empty: give some text or token ids"
    assert mesh.tokenized(2).failure() == ("bad_request", empty)


def test_only_the_target_that_was_asked_says_what_a_text_is(mesh: Mesh) -> None:
    mesh.join(OTHER, "target", make_profile())
    (number,) = asked(mesh.submit(**TEXT_PROMPT))
    assert mesh.tokenized(number, 7, 7, peer=OTHER) == []
    assert mesh.tokenized(number, peer=OTHER, error="no") == []
    assert mesh.state.reporting.num_stale == 2
    (opening,) = mesh.tokenized(number, 5, 6).openings()
    assert opening.token_ids == (5, 6)


def test_what_clients_and_targets_may_say_can_be_passed_on(mesh: Mesh) -> None:
    messages = tuple(ChatMessage("user", "x" * 1000) for _ in range(300))
    for number, prompt in ((1, {"prompt": "\u00e9" * 150_000}), (2, {"messages": messages})):
        (passed_on,) = mesh.submit(number, prompt_token_ids=(), **prompt).to(TARGET)
        encode(passed_on)
        mesh.tokenized(number, error="read")
    reason = "\U0001f600" * 1024
    for message in (
        TokenizeReply(1, reason, ()),
        StreamFailedNotice(1, 1, reason),
        RequestFailedNotice(1, "bad_request", reason),
        NodeCommandReply(1, reason, 0),
    ):
        encode(message)


@pytest.mark.parametrize("kind", GRAMMAR_KINDS)
def test_the_longest_grammars_and_tools_fit_their_messages(kind: str) -> None:
    rules = LogitRules(grammar=Grammar(kind, "\u00f6" * MAX_GRAMMAR_CHARS))
    tools = "x" * 200_000
    for message in (
        make_submit(messages=HELLO, rules=rules),
        make_spec(sampling=Sampling(rules=rules)),
        make_submit(messages=HELLO, tools=tools),
        TokenizeRequest(1, "", HELLO, tools=tools),
    ):
        assert decode(encode(message)).message == message


def test_texts_that_cannot_be_sent_keep_no_place_at_their_target(mesh: Mesh) -> None:
    for number in range(2 * MAX_AT_ONCE):
        (sent,) = mesh.submit(number, **TEXT_PROMPT)
        assert mesh.undeliverable(sent, "too large").failure()[0] == "internal"


# -- a few at a time -------------------------------------------------------------------------------


def full_mesh(num_more: int = 0) -> Mesh:
    """A target that has as many texts as it gets at a time, and others that wait."""
    mesh = make_mesh()
    numbers = range(1, MAX_AT_ONCE + num_more + 1)
    told = [number for n in numbers for number in asked(mesh.submit(n, **TEXT_PROMPT))]
    assert told == list(range(1, MAX_AT_ONCE + 1))
    return mesh


def test_a_target_gets_some_texts_to_tokenize_at_a_time() -> None:
    mesh = full_mesh(30)
    for number in range(1, MAX_AT_ONCE + 31):
        following = [number + MAX_AT_ONCE] if number <= 30 else []
        assert asked(mesh.tokenized(number, error="too long")) == following
    assert mesh.num_under_way() == 0


def test_long_texts_of_one_key_let_the_short_ones_of_another_go_first(mesh: Mesh) -> None:
    mesh.join(GATEWAY, "gateway")
    long = {**TEXT_PROMPT, "prompt": "x" * MAX_CHARS_AT_ONCE}
    told = [asked(mesh.submit(n, peer=GATEWAY, user="long", **long)) for n in range(1, 5)]
    # Each takes its target long, so none is sent ahead.
    assert told == [[1], [], [], []]
    for number in range(5, 9):
        assert asked(mesh.submit(number, peer=GATEWAY, user="short", **TEXT_PROMPT)) == []
    assert asked(mesh.tokenized(1, error="no")) == [5, 6, 7, 8]
    assert [asked(mesh.tokenized(n, error="no")) for n in range(5, 9)] == [[], [], [], [2]]


def test_users_of_a_key_take_turns(mesh: Mesh) -> None:
    mesh.join(GATEWAY, "gateway")
    for number in range(1, 11):
        mesh.submit(number, peer=GATEWAY, user="key/many", **TEXT_PROMPT)
    for number in (11, 12):
        mesh.submit(number, peer=GATEWAY, user="key/few", **TEXT_PROMPT)
    turns = [asked(mesh.tokenized(number, error="no")) for number in range(1, 5)]
    assert turns == [[5], [11], [6], [12]]


def test_keys_of_a_gateway_take_turns(mesh: Mesh) -> None:
    mesh.join(GATEWAY, "gateway")
    for number in range(1, 51):
        mesh.submit(number, peer=GATEWAY, user="many", **TEXT_PROMPT)
    for number in (51, 52):
        mesh.submit(number, peer=GATEWAY, user="few", **TEXT_PROMPT)
    # A user that cancels loses its turn.
    mesh.submit(53, peer=GATEWAY, user="restless", **TEXT_PROMPT)
    mesh.cancel(53, peer=GATEWAY)
    turns = [asked(mesh.tokenized(number, error="no")) for number in range(1, 5)]
    assert turns == [[51], [5], [52], [6]]


def test_a_cancelled_text_frees_its_place_when_the_target_has_answered() -> None:
    mesh = full_mesh(2)
    assert mesh.cancel(1) == []
    assert mesh.cancel(MAX_AT_ONCE + 1) == []
    # The target has it still; its answer is for nobody, and so another one can be asked for.
    sends = mesh.tokenized(1, 4)
    assert (sends.to(CLIENT), asked(sends)) == ([], [MAX_AT_ONCE + 2])
    assert mesh.state.reporting.num_stale == 1


def test_a_text_of_which_nothing_is_heard_is_asked_for_again_and_not_for_ever(mesh: Mesh) -> None:
    mesh.submit(1, **TEXT_PROMPT)
    again: list[int] = []
    for second in range(200):
        sends = mesh.tick(float(second))
        again += [second] * len(asked(sends))
        if second % 7 == 0:
            # Others are answered all the time.
            (number,) = asked(mesh.submit(2 + second, float(second), **TEXT_PROMPT))
            mesh.tokenized(number, error="no")
        if failed := sends.failures():
            break
    assert failed == [(1, "unavailable")]
    first, second, third = again
    assert 10 <= first < second - first < third - second
    # It leaves its place to others.
    assert sum(len(asked(mesh.submit(300 + k, **TEXT_PROMPT))) for k in range(9)) == MAX_AT_ONCE, (
        MAX_CHARS_AT_ONCE
    )


def test_texts_go_to_another_target_when_one_does_not_answer_them() -> None:
    """It serves its streams, but cannot start the process that tokenizes, for example."""
    mesh = full_mesh(1)
    mesh.join(OTHER, "target", make_profile())
    sends, second = Sends(), 0
    while not asked(sends, OTHER):
        second += 1
        sends = mesh.tick(float(second))
    assert second < 30
    assert asked(sends) == []
    # All of them go there, also the one that the first target had not been sent.
    for number in range(1, MAX_AT_ONCE + 2):
        sends += mesh.tokenized(number, 4, peer=OTHER)
    assert asked(sends, OTHER) == list(range(1, MAX_AT_ONCE + 2))
    # Later ones do not wait for the silent one first, unless there is no other.
    assert len(asked(mesh.submit(50, float(second), **TEXT_PROMPT), OTHER)) == 1
    assert len(asked(mesh.gone(OTHER, float(second)))) == 1


def test_a_target_that_has_not_answered_its_probe_reads_no_texts_beside_one_that_has() -> None:
    mesh = make_mesh()
    mesh.greet(OTHER, "target", make_profile())
    for number in range(1, MAX_AT_ONCE + 2):
        assert asked(mesh.submit(number, **TEXT_PROMPT), OTHER) == []
    # Alone it reads them: it may need as long for its probe.
    assert asked(mesh.gone(TARGET), OTHER)


def test_cancelled_texts_that_a_target_never_answers_free_their_places() -> None:
    mesh = full_mesh()
    for number in range(1, MAX_AT_ONCE + 1):
        mesh.cancel(number)
    assert asked(mesh.submit(9, **TEXT_PROMPT)) == []
    sends = Sends(send for second in range(30) for send in mesh.tick(float(second)))
    assert asked(sends)[0] == MAX_AT_ONCE + 1


def test_a_text_that_goes_to_another_target_is_asked_for_there_as_often(mesh: Mesh) -> None:
    mesh.submit(**TEXT_PROMPT)
    num_asked, second = 1, 0
    while num_asked < 4:
        second += 1
        num_asked += len(asked(mesh.tick(float(second))))
    # Before its old connection is known to be gone: it is welcomed first.
    back = mesh.join(OTHER, "target", make_profile(), name="target", now=float(second))
    assert [type(m) for m in back.to(OTHER)] == [Welcome, TokenizeRequest]
    # It is not given up for what the first one did not answer.
    sends = Sends()
    while not sends:
        second += 1
        sends = mesh.tick(float(second))
    assert len(asked(sends, OTHER)) == 1


# -- requests that are only read -------------------------------------------------------------------


def read(mesh: Mesh, number: int, wants: str, **changes: Any) -> Sends:
    """Submit a request of which only the prompt is to be read."""
    return mesh.submit(number, wants=wants, max_tokens=0, **{**TEXT_PROMPT, **changes})


def test_what_is_only_read_ends_with_what_the_target_says_of_it(mesh: Mesh) -> None:
    (number,) = asked(read(mesh, 1, TOKENS))
    (notice,) = mesh.tokenized(number, 5, 6).to(CLIENT)
    assert (notice.request_id, notice.prompt_token_ids) == (1, (5, 6))
    assert mesh.num_under_way() == 0
    # Its number may be used again.
    assert asked(read(mesh, 1, TOKENS))


def test_the_text_of_token_ids_is_asked_of_a_target(mesh: Mesh) -> None:
    (question,) = read(mesh, 1, TEXT, prompt="", prompt_token_ids=(5, 6)).to(TARGET)
    assert (question.token_ids, question.wants) == ((5, 6), TEXT)
    reply = TokenizeReply(question.request_id, "", (5, 6), b"ab")
    (notice,) = mesh.hear(TARGET, reply).to(CLIENT)
    assert notice.text == b"ab"


@pytest.mark.parametrize(
    ("wants", "changes", "code", "reason"),
    [
        ("all", {}, "bad_request", "wants: accepted values are "),
        (TEXT, {}, "bad_request", "wants: `text` needs token ids as the prompt"),
        (TOKENS, {"prompt": "", "prompt_token_ids": (5,)}, "bad_request", "wants: `text` needs"),
        (EMBEDDING, {}, "not_found", "no target serves an embedding model"),
    ],
)
def test_what_cannot_be_read_is_refused(
    wants: str, changes: dict[str, Any], code: str, reason: str
) -> None:
    found = read(make_mesh(), 1, wants, **changes).failure()
    assert (found[0], found[1][: len(reason)]) == (code, reason)


def test_texts_and_vectors_go_to_targets_that_make_them(mesh: Mesh) -> None:
    embeds = make_profile(model="e", model_hash="ee", traits=ModelTraits(embeds=True))
    mesh.join(OTHER, "target", embeds)
    (number,) = asked(read(mesh, 1, EMBEDDING), OTHER)
    (notice,) = mesh.hear(OTHER, TokenizeReply(number, "", (5,), b"", b"1234")).to(CLIENT)
    assert (notice.embedding, notice.model) == (b"1234", "e")
    (number,) = asked(mesh.submit(2, **TEXT_PROMPT))
    assert mesh.tokenized(number, 5).opened() == [1]
    for sends, reason in (
        (mesh.submit(3, model="e", **TEXT_PROMPT), "model 'e' produces embeddings and no text"),
        (read(mesh, 3, EMBEDDING, model="toy-1"), "model 'toy-1' produces text and no embeddings"),
    ):
        assert sends.failure() == ("bad_request", reason)
