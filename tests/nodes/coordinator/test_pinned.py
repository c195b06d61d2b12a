"""Requests that name the model and class which is to answer them."""

from __future__ import annotations

import random
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
    two_classes,
)
from tests.nodes.coordinator.script import CLIENT, failure


@pytest.mark.timeout(300)
def test_who_names_a_class_gets_it_or_nothing() -> None:
    fleet = two_classes()
    long = "3fa9c1d277bc0011"
    fleet.join("c1", replace(profile(long, 90), model_hash="0123456789abcdef" * 4))
    pinned = [replace(s, model_hash="content", numerics_class="b") for s in cases(60)]
    assert ask_thrice(fleet, pinned) == [{Answer(b"b!", ("content", "b"))}] * 60
    # As fingerprints have them, and in full.
    for number, parts in enumerate((("01234567", long[:8]), ("0123456789abcdef" * 4, long)), 1):
        fleet.ask(make_submit(number, model_hash=parts[0], numerics_class=parts[1]))
        fleet.answer_all(random.Random(0))
        assert fleet.found(number).fingerprint == ("0123456789abcdef" * 4, long)
    fleet.lose("b1")
    fleet.now += STRANDED_LIMIT_S
    wanted = make_submit(7, model_hash="content", numerics_class="b")
    assert failure(fleet.mesh.hear(CLIENT, wanted, fleet.now)) == (
        "unavailable",
        "no target with fingerprint fp_content_b is present: try later",
    )
    other = make_submit(8, model_hash="01234567", numerics_class="b", model="toy-1")
    assert failure(fleet.mesh.hear(CLIENT, other, fleet.now))[0] == "unavailable"


def test_a_name_and_a_class_of_another_model_contradict_each_other() -> None:
    fleet = Fleet()
    fleet.join("a", profile("a", model="a.gguf"))
    fleet.join("b", replace(profile("b", model="b.gguf"), model_hash="other"))
    asked = make_submit(1, model="b", model_hash="content", numerics_class="a")
    assert failure(fleet.mesh.hear(CLIENT, asked)) == (
        "bad_request",
        "fingerprint fp_content_a does not belong to model 'b': omit one of them",
    )
    asked = make_submit(1, model="c", model_hash="content", numerics_class="a")
    assert failure(fleet.mesh.hear(CLIENT, asked))[0] == "not_found"


def test_what_asked_for_a_class_waits_for_it_when_its_target_is_lost() -> None:
    fleet = two_classes()
    fleet.ask(make_submit(1, model_hash="content", numerics_class="b"))
    fleet.lose("b1")
    assert (fleet.opened, fleet.failed) == ([], {})
    fleet.join("b2", profile("b", 90))
    assert [peer for peer, _ in fleet.opened] == [b"b2"]


def test_a_text_that_is_too_long_for_the_class_is_refused_at_once() -> None:
    fleet = Fleet()
    fleet.join("a1", profile("a", 10, num_cells=300))
    fleet.join("b1", profile("b", 20, num_cells=4000))
    fleet.ask(make_submit(1, max_tokens=500, model_hash="content", numerics_class="a"))
    assert fleet.failed[1].code == "bad_request"


def test_what_was_not_exact_may_begin_anew_with_what_is() -> None:
    fleet = Fleet()
    fleet.join("a1", profile("a", exact=False))
    fleet.ask(make_submit(1))
    fleet.join("b1", profile("b"))
    fleet.lose("a1")
    assert (fleet.started[1].numerics_class, fleet.started[1].exact) == ("b", True)
