"""A model is the content of a file, whatever its name. A request may name a model and a class."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from nodes.coordinator.requests.ledger import STRANDED_LIMIT_S
from nodes.messages import RequestFailedNotice, StartedNotice
from tests.nodes.coordinator.fleet import Answer, Fleet, ask_thrice, cases, profile, two_classes

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
