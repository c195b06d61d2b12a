"""Turns on a shared medium, and texts that give way to rounds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mesh.grants import Air
from nodes.messages import (
    MAX_PROMPT_TOKENS,
    DraftReply,
    DraftRequest,
    GuessEntry,
    OpenStreamRequest,
)
from nodes.scheduler import SchedulerState
from nodes.scheduler.air import Asked, Reservation, ways_in_turn
from nodes.scheduler.drafting.draft_node import DraftNode
from nodes.scheduler.instructions import Instruction, ToDraft
from nodes.stream import StreamId
from policies.airtime import release_shares
from policies.plan import Link
from tests.nodes.builders import make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import ONE, TWO, FixedPolicy, answer, commit_one

# 20 kB/s: a byte takes 50 us.
SLOW = Link(160e3, rtt_s=0.01, medium="cell-a")
# Two requests are on the way before the first node has guessed.
QUICK = Link(290e3, rtt_s=0.01, medium="cell-a")


def make_scheduler(*nodes: str, link: Link = SLOW, **options: object) -> SchedulerState:
    policy = options.pop("policy", FixedPolicy(gamma=4))
    scheduler = SchedulerState(policy, TARGET_COSTS, **options)  # type: ignore[arg-type]
    for node in nodes:
        scheduler.draft_joined(node, DRAFT_COSTS, link)
    return scheduler


def to_drafts(out: list[Instruction], kind: type) -> list[tuple[str, DraftRequest]]:
    found = [(i.node, i.message) for i in out if isinstance(i, ToDraft)]
    return [(node, message) for node, message in found if isinstance(message, kind)]  # type: ignore[misc]


def start_both(scheduler: SchedulerState) -> list[Instruction]:
    """Streams one and two, each on its draft node, start in one round."""
    for stream_id in (ONE, TWO):
        scheduler.admit(make_spec(stream_id), None)
    # One node would have fewer messages on the air, but has no room.
    scheduler.draft_failed("a", TWO, 1, "no room", 0.0)
    out: list[Instruction] = []
    for stream_id in (ONE, TWO):
        stream = scheduler.stream(stream_id)
        assert stream is not None
        assert stream.draft is not None
        scheduler.draft_ready(stream.draft.node, stream_id, stream.draft.generation, 0.0)
    for stream_id in (ONE, TWO):
        out += scheduler.target_ready(stream_id, 1, 0.0)
    return out


def test_the_second_answer_of_a_medium_waits_for_the_first() -> None:
    scheduler = make_scheduler("a", "b", link=QUICK)
    out = start_both(scheduler)
    # The first stream went alone; its round ends, and then both go.
    answer(scheduler, 1, "a")
    requests = to_drafts(commit_one(scheduler, ONE, 1.0), DraftRequest)
    assert [node for node, _ in requests] == ["a", "b"]
    holds = [request.hold_us for _, request in requests]
    assert len(to_drafts(out, DraftRequest)) == 1
    # The second request arrives after the first one; the first answer is through when its node has
    # guessed and sent.
    node = DraftNode("any", DRAFT_COSTS, QUICK)
    asked_s = [node.message_s(1, len(request.new_token_ids)) for _, request in requests]
    through_s = asked_s[0] + node.draft_s((4,), 1) + node.message_s(1, 4)
    assert sum(asked_s) + holds[1] * 1e-6 == pytest.approx(through_s, abs=2e-6)
    assert holds[0] < holds[1]


@pytest.mark.parametrize("rate_bps", [160e3, 1e9, math.inf])
def test_a_piece_of_a_text_fits_a_message_whatever_the_rate(rate_bps: float) -> None:
    node = DraftNode("any", DRAFT_COSTS, Link(rate_bps))
    assert 0 < node.piece_tokens <= MAX_PROMPT_TOKENS


def test_requests_are_on_the_air_before_any_answer() -> None:
    """However slow the cell is: they leave at once, and nodes guess longer than that takes."""
    air = Air()
    nodes = [DraftNode(name, DRAFT_COSTS, SLOW) for name in ("a", "b", "c")]
    asked = [Asked(node, (), (), (4,), 1) for node in nodes]
    ways = ways_in_turn(air, asked, 0.0)
    request_s, answer_s = asked[0].request_s, asked[0].answer_s
    first_s = max(3 * request_s, asked[0].ready_s)
    through_s = [way.waits_s + asked[0].ready_s + answer_s for way in ways]
    assert through_s[0] == pytest.approx(first_s + answer_s)
    # Each answer waits for the one before it, or for its own node.
    assert through_s == sorted(through_s)
    assert through_s[2] <= first_s + 3 * answer_s + asked[0].draft_s + 1e-9


def test_a_turn_ends_with_the_answer_it_was_for() -> None:
    air = Air()
    scheduler = make_scheduler("a", "b", link=QUICK, air=air)
    start_both(scheduler)
    answer(scheduler, 1, "a")
    requests = to_drafts(commit_one(scheduler, ONE, 1.0), DraftRequest)
    assert len(requests) == 2
    # Both requests are through, neither answer is there.
    assert not air["cell-a"].is_free(1.0095, 1.0)
    answer(scheduler, 2, "a")
    assert not air["cell-a"].is_free(1.0095, 1.0)
    answer(scheduler, 2, "b")
    assert air["cell-a"].is_free(1.0095, 1.0)


def test_shares_are_over_with_the_last_answer() -> None:
    medium = Air()["cell-a"]
    reserved = Reservation(medium, medium.reserve(0.0, 1.0, 1.0), 2)
    reserved.answered()
    assert not medium.is_free(0.0, 5.0)
    reserved.answered()
    assert medium.is_free(0.0, 5.0)


def test_links_of_their_own_hold_nobody() -> None:
    own = Link(160e3, rtt_s=0.01)
    scheduler = make_scheduler("a", "b", link=own)
    start_both(scheduler)
    answer(scheduler, 1, "a")
    requests = to_drafts(commit_one(scheduler, ONE, 1.0), DraftRequest)
    assert [request.hold_us for _, request in requests] == [0, 0]


def test_a_long_text_goes_in_pieces() -> None:
    scheduler = make_scheduler("a")
    prompt = tuple(k % 50 for k in range(1000))
    opened = to_drafts(scheduler.admit(make_spec(1, prompt=prompt), None), OpenStreamRequest)
    # 50 ms of the link carry 1,000 bytes: 250 ids of four.
    ((_, request),) = opened
    assert len(request.token_ids) == 250  # type: ignore[attr-defined]
    scheduler.target_ready(ONE, 1, 0.0)
    told = list(request.token_ids)  # type: ignore[attr-defined]
    out = scheduler.draft_ready("a", ONE, 1, 0.0)
    for now in range(1, 9):
        requests = to_drafts(out, DraftRequest)
        if not requests:
            break
        ((_, piece),) = requests
        assert piece.entries[0].prefix_len == len(told)
        assert len(piece.new_token_ids) <= 250
        told += piece.new_token_ids
        entry = GuessEntry(ONE, 1, len(told), 0)
        out = scheduler.drafted("a", DraftReply(piece.round, (entry,), ()), float(now))
    assert told[:1000] == list(prompt)[: len(told)]
    # What is left goes along with the first round.
    assert len(told) >= 1000 - 256
    assert to_drafts(out, DraftRequest) == []


def test_a_piece_of_text_waits_while_a_round_has_its_turn() -> None:
    air = Air()
    scheduler = make_scheduler("a", air=air)
    prompt = tuple(k % 50 for k in range(1000))
    scheduler.admit(make_spec(1, prompt=prompt), None)
    scheduler.target_ready(ONE, 1, 0.0)
    air["cell-a"].reserve(0.0, 0.02, 0.01)
    assert to_drafts(scheduler.draft_ready("a", ONE, 1, 0.0), DraftRequest) == []
    # The turn is over.
    assert to_drafts(scheduler.plan(0.05), DraftRequest) != []


def test_a_stream_that_shall_guess_waits_no_longer_than_batches_take_turns() -> None:
    air = Air()
    scheduler = make_scheduler("a", air=air, policy=FixedPolicy(gamma=4, cycle_s=0.1))
    prompt = tuple(k % 50 for k in range(1000))
    scheduler.admit(make_spec(1, prompt=prompt), None)
    scheduler.target_ready(ONE, 1, 0.0)
    for turn in range(20):
        air["cell-a"].reserve(0.0, 0.01 + 0.05 * turn, 0.04)
    out = scheduler.draft_ready("a", ONE, 1, 0.0)
    assert to_drafts(out, DraftRequest) == []
    assert to_drafts(scheduler.plan(0.09), DraftRequest) == []
    assert to_drafts(scheduler.plan(0.11), DraftRequest) != []


def test_a_fast_link_tells_a_text_at_once() -> None:
    scheduler = make_scheduler("a", link=Link())
    prompt = tuple(k % 50 for k in range(5000))
    ((_, request),) = to_drafts(
        scheduler.admit(make_spec(1, prompt=prompt), None), OpenStreamRequest
    )
    assert len(request.token_ids) == 5000  # type: ignore[attr-defined]
    assert scheduler.stream(StreamId(1)) is not None


SHARED = replace(SLOW, shares=True)


def test_answers_of_a_medium_of_shares_end_together() -> None:
    quick = replace(QUICK, shares=True)
    scheduler = make_scheduler("a", "b", link=quick)
    start_both(scheduler)
    answer(scheduler, 1, "a")
    requests = to_drafts(commit_one(scheduler, ONE, 1.0), DraftRequest)
    assert [node for node, _ in requests] == ["a", "b"]
    node = DraftNode("any", DRAFT_COSTS, quick)
    asked_s = [node.message_s(1, len(request.new_token_ids)) for _, request in requests]
    ready = [sum(asked_s[: k + 1]) + node.draft_s((4,), 1) for k in range(2)]
    shares, _ = release_shares([node.message_s(1, 4)] * 2, ready)
    for (_, request), share in zip(requests, shares, strict=True):
        assert request.rate_bps == pytest.approx(share * 290e3, rel=1e-4)
        assert request.hold_us == 0
    # Who is ready first has less of the medium.
    assert requests[0][1].rate_bps < requests[1][1].rate_bps


def test_rounds_on_a_medium_of_shares_follow_one_another() -> None:
    scheduler = make_scheduler("a", link=SHARED, air=(air := Air()))
    scheduler.admit(make_spec(ONE), None)
    air["cell-a"].reserve(0.0, 0.001, 5.0)
    scheduler.draft_ready("a", ONE, 1, 0.0)
    ((_, request),) = to_drafts(scheduler.target_ready(ONE, 1, 0.0), DraftRequest)
    # Alone in its round it has all of the rate, and waits as it would for a turn.
    assert request.rate_bps == 160_000
    assert request.hold_us == 0.0 or request.hold_us <= 1_000_000


def test_a_share_of_a_link_of_unknown_rate_is_no_limit() -> None:
    unknown = Link(rtt_s=0.01, medium="cell-a", shares=True)
    scheduler = make_scheduler("a", link=unknown)
    scheduler.admit(make_spec(ONE), None)
    scheduler.draft_ready("a", ONE, 1, 0.0)
    ((_, request),) = to_drafts(scheduler.target_ready(ONE, 1, 0.0), DraftRequest)
    assert (request.rate_bps, request.hold_us) == (0, 0)
