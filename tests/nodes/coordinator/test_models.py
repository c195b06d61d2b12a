"""A model is the content of a file, whatever that is called."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodes.coordinator.placing.stranded import STRANDED_LIMIT_S
from tests.nodes.builders import make_submit
from tests.nodes.coordinator.fleet import (
    Answer,
    Fleet,
    ask_thrice,
    cases,
    profile,
)
from tests.nodes.coordinator.script import CLIENT, failure


def two_files() -> Fleet:
    """a.gguf on two targets with 1200 cells together, and another file of that name with 1000."""
    fleet = Fleet()
    one = profile("one", num_cells=600, model="a.gguf", max_streams=2)
    fleet.join("1a", replace(one, model_hash="11" * 32))
    fleet.join("1b", replace(one, model_hash="11" * 32))
    other = profile("two", num_cells=1000, model="a.gguf", max_streams=2)
    fleet.join("2", replace(other, model_hash="22" * 32))
    return fleet


@pytest.mark.timeout(300)
def test_files_of_one_name_are_two_models() -> None:
    fleet = two_files()
    asked = [replace(s, model=model) for s in cases(70) for model in ("a", "a.gguf", "")]
    assert ask_thrice(fleet, asked) == [{Answer(b"one!", ("11" * 32, "one"))}] * len(asked)
    asked = [replace(s, model="a@22222222") for s in cases(60)]
    found = ask_thrice(fleet, asked, 10_000)
    assert found == [{Answer(b"two!", ("22" * 32, "two"))}] * 60


def test_a_name_means_the_same_file_while_one_of_its_targets_restarts() -> None:
    fleet = two_files()
    fleet.lose("1a")
    fleet.ask(make_submit(1, model="a"))
    assert fleet.started[1].model_hash == "11" * 32
    # With none of them there the name means the other one, and the answer says so.
    fleet.lose("1b")
    fleet.ask(make_submit(2, model="a"))
    assert fleet.started[2].model_hash == "22" * 32
    fleet.now += STRANDED_LIMIT_S
    asked = make_submit(3, model="a.gguf@11111111")
    assert failure(fleet.mesh.hear(CLIENT, asked, fleet.now)) == (
        "unavailable",
        "no target of model 'a.gguf@11111111' is present: try later",
    )
    assert failure(fleet.mesh.hear(CLIENT, make_submit(4, model="a@33333333"))) == (
        "not_found",
        "no target has model 'a@33333333'; present models: a.gguf",
    )
    fleet.join("1a", replace(fleet.profiles[b"1a"], num_cells=600))
    fleet.ask(make_submit(5, model="a"))
    assert fleet.started[5].model_hash == "11" * 32


def test_who_asks_for_what_is_not_there_is_told_the_files_apart() -> None:
    fleet = two_files()
    _, reason = failure(fleet.mesh.hear(CLIENT, make_submit(1, model="b")))
    assert reason == "no target has model 'b'; present models: a.gguf@11111111, a.gguf@22222222"


def test_of_equal_cells_the_lower_hash_goes_first() -> None:
    for order in (("22", "11"), ("11", "22")):
        fleet = Fleet()
        for name in order:
            fleet.join(name, replace(profile(name, model="a"), model_hash=name * 32))
        fleet.ask(make_submit(1, model="a"))
        assert fleet.started[1].model_hash == "11" * 32


def test_one_file_of_two_names_is_one_model() -> None:
    fleet = Fleet()
    fleet.join("a", profile("a", model="a", max_streams=1))
    fleet.join("b", profile("a", model="b", max_streams=1))
    for number in (1, 2):
        fleet.ask(make_submit(number, model="a"))
    assert sorted(peer for peer, _ in fleet.opened) == [b"a", b"b"]
