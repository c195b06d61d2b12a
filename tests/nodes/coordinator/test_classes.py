"""Each request has one numerics class, which follows from the request and the present targets."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from nodes.coordinator.placing.choosing import LATELY_S, classes_in_order, score_of, standings_of
from nodes.coordinator.requests.conversation import conversation_of
from nodes.messages import ChatMessage, EngineProfile, SubmitRequest
from tests.nodes.builders import make_submit
from tests.nodes.coordinator.fleet import Answer, Fleet, ask_thrice, cases, profile, two_classes
from tests.nodes.coordinator.script import Mesh

WEIGHTS = {"a": 1, "b": 3}


def order_of(
    profiles: Sequence[EngineProfile], conversation: bytes, weights: dict[str, int]
) -> list[str]:
    return classes_in_order(standings_of(profiles), "content", conversation, weights)


def text(number: int) -> bytes:
    return b"conversation %d" % number


# -- their order -----------------------------------------------------------------------------------


def test_exact_classes_go_first_then_fast_ones_then_by_name() -> None:
    profiles = [
        profile("c", 10),
        profile("d", 20),
        profile("d", 5),
        profile("b", 10),
        profile("a", 1, exact=False),
        profile("e", 1),
        profile("e", 1, exact=False),
    ]
    assert order_of(profiles, b"", {}) == ["d", "b", "c", "a", "e"]
    assert order_of(profiles[::-1], b"x", {}) == ["d", "b", "c", "a", "e"]


def test_conversations_are_shared_by_weight_and_the_others_serve_in_their_place() -> None:
    profiles = [profile("a1"), profile("b1", 90), profile("c1", 1), profile("d1", 2, exact=False)]
    orders = [order_of(profiles, text(n), WEIGHTS) for n in range(4000)]
    first = Counter(order[0] for order in orders)
    # Drawn once and for all: 1000 and 3000 are expected, with a deviation of 27.
    assert abs(first["a1"] - 1000) < 100
    assert first["a1"] + first["b1"] == 4000
    assert all(order[2:] == ["c1", "d1"] for order in orders)


def test_a_class_that_goes_changes_the_place_of_no_other() -> None:
    profiles = [profile(name) for name in ("a", "b", "c")]
    weights = {"a": 2, "b": 1, "c": 5}
    for number in range(200):
        order = order_of(profiles, text(number), weights)
        for gone in order:
            left = [p for p in profiles if p.numerics_class != gone]
            expected = [name for name in order if name != gone]
            assert order_of(left, text(number), weights) == expected


def test_the_scores_are_the_same_everywhere() -> None:
    """They decide what a mesh answers: any coordinator, of any version, must find the same."""
    found = [score_of(weight, "content", b"x", name) for weight in (1, 3) for name in ("a", "b")]
    assert found == SCORES


SCORES = [7120163423766407801, 3814042432261352661, 18124554907496338894, 18003069736493774960]


def test_a_weight_that_is_a_prefix_of_two_classes_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mesh = Mesh(class_weights={"a": 1, "b": 1})
    for number, name in enumerate(("ab", "b", "ab")):
        mesh.join(b"%d" % number, "target", profile(name))
    assert not caplog.records
    mesh.join(b"9", "target", profile("ac"))
    (record,) = caplog.records
    assert record.getMessage().startswith("classes.weights: a is a prefix of ab and ac, ")


# -- conversations ---------------------------------------------------------------------------------


def chat(*turns: tuple[str, str]) -> SubmitRequest:
    messages = tuple(ChatMessage(role, content) for role, content in turns)
    return make_submit(prompt_token_ids=(), messages=messages)


def test_all_turns_of_a_conversation_are_the_same() -> None:
    begin = ("system", "be brief"), ("user", "hello")
    first = conversation_of(chat(*begin), ())
    later = chat(*begin, ("assistant", "hi"), ("user", "and you?"))
    assert conversation_of(later, ()) == first
    assert conversation_of(chat(("user", "hello")), ()) != first
    assert conversation_of(chat(("system", "be brief"), ("user", "hi")), ()) != first
    assert conversation_of(chat(("system", "be"), ("user", "brief")), ()) != conversation_of(
        chat(("system", "bebrief"), ("user", "")), ()
    )


def of_text(prompt: str) -> bytes:
    return conversation_of(make_submit(prompt=prompt, prompt_token_ids=()), ())


def of_ids(ids: tuple[int, ...]) -> bytes:
    return conversation_of(make_submit(prompt_token_ids=ids), ids)


@pytest.mark.parametrize(
    ("of", "size", "one", "other"), [(of_text, 256, "x", "y"), (of_ids, 64, (1,), (2,))]
)
def test_a_conversation_is_told_by_the_beginning_of_its_text_or_token_ids(
    of: Callable[[Any], bytes], size: int, one: Any, other: Any
) -> None:
    assert of(one * size + other * 9) == of(one * size)
    assert of(one * (size - 1) + other * 9) != of(one * size)


# -- a mesh ----------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("weights", "texts"), [({}, {b"a!"}), (WEIGHTS, {b"a!", b"b!"})], ids=["fastest", "weights"]
)
def test_a_request_is_answered_alike_whatever_else_there_is_to_do(
    weights: dict[str, int], texts: set[bytes]
) -> None:
    found = ask_thrice(two_classes(class_weights=weights), cases(200))
    assert all(len(answers) == 1 for answers in found)
    assert {answer.text for answers in found for answer in answers} == texts


@pytest.mark.timeout(300)
def test_the_next_class_serves_while_the_first_is_down_and_says_so() -> None:
    fleet = two_classes()
    fleet.lose("a1")
    # Its other target is there: it is waited for, though it has room for one.
    assert ask_thrice(fleet, cases(50)) == [{Answer(b"a!", ("content", "a"))}] * 50
    fleet.lose("a2")
    assert ask_thrice(fleet, cases(200), 10_000) == [{Answer(b"b!", ("content", "b"))}] * 200
    fleet.join("a2", profile("a", 12, max_streams=1))
    assert ask_thrice(fleet, cases(50), 20_000) == [{Answer(b"a!", ("content", "a"))}] * 50


def test_a_target_that_restarts_does_not_change_which_class_is_the_first() -> None:
    fleet = Fleet()
    fleet.join("a1", profile("a", 10))
    fleet.join("a2", profile("a", 30))
    fleet.join("b1", profile("b", 20))
    fleet.lose("a1")
    # The class is as fast as it was with what is gone for the moment.
    for number, now, found in ((1, LATELY_S, "a"), (2, LATELY_S + 0.1, "b")):
        fleet.now = now
        fleet.submit(number)
        assert fleet.started[number].numerics_class == found


def test_a_conversation_stays_in_its_class() -> None:
    fleet = two_classes(class_weights={"a": 1, "b": 1})
    order, number = random.Random(3), 0
    by_conversation: dict[int, set[Answer]] = {n: set() for n in range(40)}
    turns: dict[int, list[ChatMessage]] = {n: [] for n in by_conversation}
    for turn in range(4):
        asked = {}
        for conversation in order.sample(sorted(turns), len(turns)):
            number += 1
            turns[conversation].append(ChatMessage("user", f"{conversation} says {turn}"))
            messages = tuple(turns[conversation])
            fleet.submit(number, messages=messages, prompt_token_ids=(), seed=turn)
            asked[number] = conversation
        fleet.answer_all(order)
        for request_id, conversation in asked.items():
            answer = fleet.found(request_id)
            by_conversation[conversation].add(answer)
            turns[conversation].append(ChatMessage("assistant", answer.text.decode()))
    assert all(len(answers) == 1 for answers in by_conversation.values())
    assert len({answer for answers in by_conversation.values() for answer in answers}) == 2


def test_a_class_that_is_full_is_waited_for() -> None:
    fleet = Fleet()
    fleet.join("a1", profile("a", 10, max_streams=1))
    fleet.join("b1", profile("b", 20))
    fleet.submit(1, num_choices=2)
    fleet.submit(2)
    assert [peer for peer, _ in fleet.opened] == [b"a1"]
    fleet.drain("a1")
    # A request that has not begun does not wait for a draining target; a second choice does.
    assert [peer for peer, _ in fleet.opened] == [b"a1", b"b1"]
    fleet.answer_all(random.Random(0))
    assert [fleet.found(n).text for n in (1, 2)] == [b"a!", b"b!"]
