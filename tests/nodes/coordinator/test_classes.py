"""Each request has one numerics class, which follows from the request and the present targets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from airdraft.nodes.coordinator.requests.classes import (
    LATELY_S,
    SETTLED_S,
    STRANDED_LIMIT_S,
    classes_in_order,
    standings_of,
)
from airdraft.nodes.messages import (
    EngineProfile,
    RequestFailedNotice,
    StartedNotice,
    TokenizeRequest,
)
from tests.nodes.coordinator.fleet import Answer, Fleet, ask_thrice, cases, profile, two_classes


def order_of(profiles: Sequence[EngineProfile]) -> list[str]:
    return classes_in_order(standings_of(profiles), "content")


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
    assert order_of(profiles) == ["d", "b", "c", "a", "e"]
    assert order_of(profiles[::-1]) == ["d", "b", "c", "a", "e"]


# -- a mesh ----------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_a_request_is_answered_alike_whatever_else_there_is_to_do() -> None:
    found = ask_thrice(two_classes(), cases(200))
    assert all(len(answers) == 1 for answers in found)
    assert {answer.text for answers in found for answer in answers} == {b"a!"}


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


def served_by(fleet: Fleet, number: int, now: float, **changes: Any) -> str:
    """The class that serves a request of this moment."""
    fleet.now = now
    fleet.submit(number, **changes)
    return fleet.started[number].numerics_class


def test_the_class_that_serves_stays_in_force_whatever_joins_later() -> None:
    fleet = Fleet()
    fleet.join("a1", profile("a", 10))
    assert served_by(fleet, 1, SETTLED_S) == "a"
    fleet.join("b1", profile("b", 1e-5, exact=True, num_cells=2**31 - 1))
    assert served_by(fleet, 2, SETTLED_S + 1) == "a"
    # Another class serves while it is down, and it serves again if it comes back.
    fleet.lose("a1")
    assert served_by(fleet, 3, SETTLED_S + 2) == "b"
    fleet.join("a1", profile("a", 10))
    assert served_by(fleet, 4, SETTLED_S + 3) == "a"
    fleet.lose("a1")
    assert served_by(fleet, 5, SETTLED_S + 4 + LATELY_S) == "b"
    fleet.join("a1", profile("a", 10))
    assert served_by(fleet, 6, SETTLED_S + 5 + LATELY_S) == "b"


def test_the_order_in_which_targets_join_after_a_start_decides_nothing() -> None:
    for names in ("ab", "ba"):
        fleet = Fleet()
        for number, name in enumerate(names):
            fleet.join(name, profile(name, 10 if name == "a" else 20))
            fleet.submit(number)
        assert served_by(fleet, 9, SETTLED_S) == "a"


@pytest.mark.parametrize("name", ["", "a.gguf"])
def test_the_model_of_a_name_stays_in_force_whatever_joins_later(name: str) -> None:
    fleet = Fleet()
    fleet.join("1", profile("one", num_cells=600, model="a.gguf", model_hash=ONE))
    assert served_by(fleet, 1, SETTLED_S, model=name) == "one"
    fleet.join("2", profile("two", num_cells=2**31 - 1, model="a.gguf", model_hash=TWO))
    assert served_by(fleet, 2, SETTLED_S + 1, model=name) == "one"


def test_targets_of_a_class_take_turns_to_read_texts() -> None:
    fleet = Fleet()
    for name in ("a1", "a2"):
        fleet.join(name, profile("a"))
    asked = [fleet.mesh.submit(n, prompt="hi", prompt_token_ids=()) for n in range(6)]
    assert [sends.where(TokenizeRequest) for sends in asked] == [["a1"], ["a2"]] * 3


# -- models and classes that a request names -------------------------------------------------------


ONE, TWO = "11" * 32, "22" * 32


def model_of(told: StartedNotice | RequestFailedNotice | None) -> str:
    assert isinstance(told, StartedNotice)
    return told.model_hash


def refusal(told: StartedNotice | RequestFailedNotice | None) -> tuple[str, str]:
    assert isinstance(told, RequestFailedNotice)
    return told.code, told.reason


def two_files() -> Fleet:
    """a.gguf on two targets with 1200 cells together, and another file of that name with 1000."""
    fleet = Fleet()
    shared = {"model": "a.gguf", "max_streams": 2}
    one = profile("one", num_cells=600, model_hash=ONE, **shared)
    fleet.join("1a", one)
    fleet.join("1b", one)
    fleet.join("2", profile("two", num_cells=1000, model_hash=TWO, **shared))
    return fleet


@pytest.mark.timeout(300)
def test_files_of_one_name_are_two_models() -> None:
    fleet = two_files()
    asked = [replace(s, model=model) for s in cases(70) for model in ("a", "a.gguf", "")]
    assert ask_thrice(fleet, asked) == [{Answer(b"one!", (ONE, "one"))}] * len(asked)
    asked = [replace(s, model="a@22222222") for s in cases(60)]
    assert ask_thrice(fleet, asked, 10_000) == [{Answer(b"two!", (TWO, "two"))}] * 60


def test_a_name_means_the_same_file_while_one_of_its_targets_restarts() -> None:
    fleet = two_files()
    fleet.lose("1a")
    assert model_of(fleet.submit(1, model="a")) == ONE
    # With none of them there the name means the other one, and the answer says so.
    fleet.lose("1b")
    assert model_of(fleet.submit(2, model="a")) == TWO
    fleet.now += STRANDED_LIMIT_S
    assert refusal(fleet.submit(3, model="a.gguf@11111111")) == (
        "unavailable",
        "no target of model 'a.gguf@11111111' is present: try later",
    )
    assert refusal(fleet.submit(4, model="a@33333333")) == (
        "not_found",
        "no target has model 'a@33333333'; present models: a.gguf",
    )
    fleet.join("1a", fleet.profiles[b"1a"])
    assert model_of(fleet.submit(5, model="a")) == ONE


def test_a_refusal_tells_files_of_one_name_apart() -> None:
    _, reason = refusal(two_files().submit(1, model="b"))
    assert reason == "no target has model 'b'; present models: a.gguf@11111111, a.gguf@22222222"


@pytest.mark.parametrize("order", [(ONE, TWO), (TWO, ONE)])
def test_among_models_of_equal_cells_the_lower_hash_goes_first(order: tuple[str, str]) -> None:
    fleet = Fleet()
    for name in order:
        fleet.join(name, profile(name, model="a", model_hash=name))
    assert model_of(fleet.submit(1, model="a")) == ONE


def test_one_file_of_two_names_is_one_model() -> None:
    fleet = Fleet()
    for name in ("a", "b"):
        fleet.join(name, profile("a", model=name, max_streams=1))
    for number in (1, 2):
        fleet.submit(number, model="a")
    assert sorted(peer for peer, _ in fleet.opened) == [b"a", b"b"]


# -- a model and a class ---------------------------------------------------------------------------

OF_B = {"model_hash": "content", "numerics_class": "b"}


@pytest.mark.timeout(300)
def test_a_request_that_names_a_class_gets_that_class_or_nothing() -> None:
    fleet = two_classes()
    long_hash, long_name = "0123456789abcdef" * 4, "3fa9c1d277bc0011"
    fleet.join("c1", profile(long_name, 90, model_hash=long_hash))
    pinned = [replace(s, **OF_B) for s in cases(60)]
    assert ask_thrice(fleet, pinned) == [{Answer(b"b!", ("content", "b"))}] * 60
    # As fingerprints have them, and in full.
    for number, parts in enumerate((("01234567", long_name[:8]), (long_hash, long_name)), 1):
        fleet.submit(number, model_hash=parts[0], numerics_class=parts[1])
        fleet.answer_all(random.Random(0))
        assert fleet.found(number).fingerprint == (long_hash, long_name)
    # It is waited for.
    fleet.submit(3, **OF_B)
    fleet.lose("b1")
    assert (fleet.opened, fleet.failed) == ([], {})
    fleet.join("b1", profile("b", 11))
    fleet.answer_all(random.Random(0))
    assert fleet.found(3).fingerprint == ("content", "b")
    fleet.lose("b1")
    fleet.now += STRANDED_LIMIT_S
    absent = "unavailable", "no target with fingerprint fp_content_b is present: try later"
    assert refusal(fleet.submit(7, **OF_B)) == absent
    other = fleet.submit(8, model_hash="01234567", numerics_class="b", model="toy-1")
    assert refusal(other)[0] == "unavailable"


def test_a_name_and_a_class_of_another_model_contradict_each_other() -> None:
    fleet = Fleet()
    fleet.join("a", profile("a", model="a.gguf"))
    fleet.join("b", profile("b", model="b.gguf", model_hash="other"))
    of_a = {"model_hash": "content", "numerics_class": "a"}
    assert refusal(fleet.submit(1, model="b", **of_a)) == (
        "bad_request",
        "fingerprint fp_content_a does not belong to model 'b': omit one of them",
    )
    assert refusal(fleet.submit(2, model="c", **of_a))[0] == "not_found"


def test_a_text_that_does_not_fit_into_a_class_goes_to_the_next_or_is_refused() -> None:
    fleet = Fleet()
    fleet.join("a1", profile("a", 10, num_cells=300))
    fleet.join("b1", profile("b", 20, num_cells=4000))
    of_a = {"model_hash": "content", "numerics_class": "a"}
    assert refusal(fleet.submit(1, max_tokens=500, **of_a))[0] == "bad_request"
    for number, max_tokens in ((2, 500), (3, 50)):
        fleet.submit(number, max_tokens=max_tokens)
    assert [fleet.started[number].numerics_class for number in (2, 3)] == ["b", "a"]
