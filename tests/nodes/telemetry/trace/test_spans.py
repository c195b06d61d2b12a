from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nodes.telemetry.trace.chrome import Span, Track, spans_of
from policies.plan import Batch
from tests.nodes.telemetry.trace.examples import FLOW, FOLLOWED, GUESSES, OTHERS, PASS, PLAN

COORDINATOR, NODE, TARGET = "coordinator, for t", "draft node a", "target t"


def named(spans: list[Span], thread: str) -> list[Span]:
    return [span for span in spans if span.track.thread == thread]


def times(span: Span) -> Any:
    return pytest.approx((span.start_s, span.end_s))


def test_guesses_a_pass_a_plan_and_a_follower_are_spans_of_their_tracks() -> None:
    spans = spans_of(FLOW)
    assert [(span.track, span.name) for span in spans] == [
        (Track(NODE, "guesses"), "7 guesses"),
        (Track(TARGET, "pass"), "9 tokens"),
        (Track(COORDINATOR, "plan in force"), "open flow"),
        (Track(COORDINATOR, "stream 1"), "followed by a"),
    ]
    message, verified, plan, following = spans
    assert times(message) == (10.02, 10.02)
    assert message.notes == {"streams": 2, "for": "t"}
    # Of 60 ms, reported at 10.12 over a link of 2 ms.
    assert times(verified) == (10.059, 10.119)
    # What is open at the end of the recording ends there.
    assert times(plan) == (10.0, 10.12)
    assert times(following) == (10.0, 10.12)


def test_a_pass_tells_what_became_of_its_guesses() -> None:
    (verified,) = named(spans_of((PASS,)), "pass")
    assert verified.notes == {
        "pass_ms": 60.0,
        "predicted_ms": 50.0,
        "streams": [1, 2],
        "committed": 4,
        "guesses": 7,
        "accepted": 2,
        "looked_up": 3,
        "offered": 6,
        "late": 1,
        "best_chances": {1: 0.8},
        "prompt_tokens": 0,
    }


def test_a_plan_tells_both_prices_and_which_way_is_in_force() -> None:
    (plan,) = spans_of((replace(PLAN, batches=(Batch((1, 2), (8, 4)),)),))
    assert PLAN.prediction is not None
    assert plan.notes["in_force"] == "open flow"
    assert plan.notes["open_price_ms"] == pytest.approx(PLAN.open_price_s * 1e3, abs=1e-3)
    assert plan.notes["groups_price_ms"] == pytest.approx(PLAN.prediction.price_s * 1e3, abs=1e-3)
    assert plan.notes["groups"] == [{1: 8, 2: 4}]
    assert plan.notes["policy"] == "joint"


def test_groups_in_force_are_called_by_their_guesses() -> None:
    grouped = replace(PLAN, is_grouped=True)
    both = replace(grouped, batches=(Batch((1, 2), (4, 3)), Batch((5,), (1,))), plain=(7, 8))
    none = replace(grouped, batches=(), plain=(1,))
    unknown = replace(none, prediction=None)
    spans = spans_of([both, none, unknown])
    assert [span.name for span in spans] == ["groups: 4 3 | 1", "groups: none", "groups: none"]
    assert spans[0].notes["plain"] == [7, 8]
    assert "bound" not in spans[2].notes


def test_each_plan_lasts_until_the_next_one() -> None:
    later = [replace(PLAN, at_s=at_s) for at_s in (10.0, 11.0, 11.5)]
    other = replace(PLAN, at_s=11.2, target="u")
    spans = spans_of([later[0], later[1], other, later[2]])
    found = [(span.track.process, span.start_s, span.end_s) for span in spans]
    assert found == [
        (COORDINATOR, 10.0, 11.0),
        (COORDINATOR, 11.0, 11.5),
        ("coordinator, for u", 11.2, 11.5),
        (COORDINATOR, 11.5, 11.5),
    ]


def test_a_following_lasts_until_it_ends_or_another_one_begins() -> None:
    other = replace(FOLLOWED, at_s=10.1, node="b")
    first, second = named(spans_of((FOLLOWED, other, *OTHERS)), "stream 1")
    assert (first.name, times(first)) == ("followed by a", (10.0, 10.1))
    assert (second.name, times(second)) == ("followed by b", (10.1, 10.2))
    assert second.notes == {"until": "draft off: a sent no guesses in time"}
    # What began before the recording is not known.
    assert named(spans_of(OTHERS), "stream 1") == []


def test_nothing_lies_outside_of_what_the_coordinator_saw() -> None:
    (verified,) = named(spans_of((replace(PASS, pass_s=90.0, rtt_s=1.0),)), "pass")
    assert verified.end_s <= PASS.at_s


def test_passes_follow_one_another() -> None:
    first, second = spans_of((PASS, replace(PASS, at_s=10.15)))
    assert first.end_s == second.start_s
    assert second.end_s == 10.15
    # Another target's passes are beside them.
    *_, other = spans_of((PASS, replace(PASS, at_s=10.15, target="u")))
    assert other.start_s < first.end_s


def test_texts_that_are_read_beside_are_told() -> None:
    (verified,) = spans_of((replace(PASS, num_read=32),))
    assert (verified.name, verified.notes["prompt_tokens"]) == ("41 tokens", 32)


def test_messages_for_several_targets_share_the_track_of_their_draft_node() -> None:
    spans = spans_of((GUESSES, replace(GUESSES, target="u")))
    assert {span.track for span in spans} == {Track(NODE, "guesses")}
    assert [span.notes["for"] for span in spans] == ["t", "u"]
