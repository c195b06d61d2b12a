from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nodes.trace.records import DraftRecord, LapRecord, PassRecord, RoundRecord
from nodes.trace.spans import Span, Track, spans_of
from policies.plan import Batch
from tests.nodes.trace.examples import OTHERS, ROUND

PLAN, BEGUN, DRAFTED, VERIFY, PASS, LAP = ROUND
COORDINATOR, NODE = "coordinator, for t", "draft node a"


def named(spans: list[Span], thread: str) -> list[Span]:
    return [span for span in spans if span.track.thread == thread]


def times(span: Span) -> Any:
    return pytest.approx((span.start_s, span.end_s))


def test_a_round_is_a_span_on_each_track_it_passes() -> None:
    spans = spans_of(ROUND)
    assert [(span.track, span.name) for span in spans] == [
        (Track(NODE, "link to a"), "round 7: request"),
        (Track(NODE, "draft"), "round 7"),
        (Track(NODE, "link to a"), "round 7: answer"),
        (Track("target t", "pass"), "9 tokens"),
        (Track(COORDINATOR, "batch 1"), "round 7"),
        (Track(COORDINATOR, "plan in force"), "plan: gammas 8 8"),
    ]
    request, draft, back, verified, lap, plan = spans
    # The answer came at 10.05, half a round trip of 10 ms after its end; 30 ms were drafted.
    assert times(request) == (10.0, 10.015)
    assert times(draft) == (10.015, 10.045)
    assert times(back) == (10.045, 10.05)
    # Of 60 ms, reported at 10.12 over a link of 2 ms.
    assert times(verified) == (10.059, 10.119)
    assert times(lap) == (10.0, 10.12)
    assert [(part.name, times(part)) for part in lap.parts] == [
        ("draft", (10.0, 10.05)),
        ("verify", (10.05, 10.12)),
    ]
    assert times(plan) == (10.0, 10.12)
    assert [span.rounds for span in (draft, verified, lap)] == [(("t", 7),)] * 3
    assert draft.notes == {"draft_ms": 30.0, "predicted_ms": 24.0, "streams": [1, 2]}
    assert request.notes == {"link_ms": 20.0, "predicted_ms": 10.0}
    assert verified.notes["accepted"] == 2
    assert (verified.notes["committed"], verified.notes["on_lease"]) == (4, 0)
    assert lap.notes["gammas"] == {1: 4, 2: 3}
    assert lap.notes["stops"] == {1: 0.3}
    assert plan.notes["policy"] == "joint"


def test_nothing_lies_outside_of_what_the_coordinator_saw() -> None:
    """A round trip that is longer than the whole way, a duration longer than the wait."""
    assert isinstance(DRAFTED, DraftRecord)
    assert isinstance(PASS, PassRecord)
    slow_link = replace(DRAFTED, rtt_s=1.0)
    request, draft, back = spans_of((BEGUN, slow_link))
    # The 20 ms that were not drafting are halved.
    assert times(draft) == (10.01, 10.04)
    assert (request.start_s, back.end_s) == (10.0, 10.05)
    early = replace(PASS, pass_s=9.0)
    (passed,) = named(spans_of((BEGUN, DRAFTED, VERIFY, early)), "pass")
    # It cannot have begun before its round was sent.
    assert times(passed) == (10.05, 10.12)


def test_passes_follow_one_another() -> None:
    assert isinstance(PASS, PassRecord)
    plain = replace(PASS, streams=(replace(PASS.streams[0], round_id=0),))
    first, second = spans_of((plain, replace(plain, at_s=10.15)))
    assert first.end_s == second.start_s
    assert second.end_s == 10.15
    # Another target's passes are beside them.
    *_, other = spans_of((plain, replace(plain, at_s=10.15, target="u")))
    assert other.start_s < first.end_s


def test_texts_that_are_read_and_work_ahead_are_told() -> None:
    assert isinstance(PASS, PassRecord)
    assert isinstance(DRAFTED, DraftRecord)
    ahead = replace(DRAFTED, num_ready=3, num_wasted=1)
    spans = spans_of((BEGUN, ahead, VERIFY, replace(PASS, num_read=32)))
    (draft,) = [span for span in spans if span.track == Track(NODE, "draft")]
    assert (draft.notes["drafted_ahead"], draft.notes["ahead_wasted"]) == (3, 1)
    (passed,) = named(spans, "pass")
    assert (passed.name, passed.notes["prompt_tokens"]) == ("41 tokens", 32)


def test_trials_and_late_nodes() -> None:
    spans = spans_of(OTHERS)
    assert [(span.track, span.name) for span in spans if span.start_s == span.end_s] == [
        (Track(NODE, "draft"), "round 8 goes on without it"),
        (Track("draft node b", "draft"), "round 8 goes on without it"),
        (Track(COORDINATOR, "trials"), "stream 3: 1 of 4 guesses right"),
    ]
    (trial,) = [span for span in named(spans, "draft") if span.end_s > span.start_s]
    assert (trial.name, trial.rounds) == ("trial 9", ())


def test_what_began_before_the_recording_is_left_out() -> None:
    assert [span.name for span in spans_of((DRAFTED, VERIFY, LAP))] == []


def test_plans_are_called_by_their_gammas() -> None:
    both = replace(PLAN, batches=(Batch((1, 2), (4, 3)), Batch((5,), (1,))), plain=(7, 8))
    none = replace(PLAN, batches=(), plain=(1,))
    names = [span.name for span in spans_of([both, none])]
    assert names == ["plan: gammas 4 3 | 1, 2 plain", "plan: gammas none, 1 plain"]


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


def test_rounds_of_a_plan_that_is_gone_have_a_track_of_their_own() -> None:
    assert isinstance(BEGUN, RoundRecord)
    assert isinstance(LAP, LapRecord)
    (lap,) = spans_of((replace(BEGUN, batch=0), LAP))
    assert lap.track.thread == "batches of older plans"
    # Nobody verified it.
    assert lap.parts == ()
