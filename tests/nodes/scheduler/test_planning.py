"""When streams wait for each other by the program's plan, and when nobody does."""

from __future__ import annotations

import math

from nodes.scheduler.planning import Choice, Made, Planning, Wait, changed, waits_of
from policies.joint import joint_plan
from policies.latency import CostTable, NodeCosts
from policies.plan import DraftView, Link, Observation, Plan, StreamView


def costs(first_s: float, per_token_s: float = 0.0) -> NodeCosts:
    table = CostTable((1, 101), (first_s, first_s + 100 * per_token_s))
    return NodeCosts(table, table)


def seen(alpha: float = 0.8, draft_s: float = 0.002, rtt_s: float = 0.001) -> Observation:
    streams = tuple(StreamView(k, alpha, 1000, draft="d") for k in (1, 2))
    draft = DraftView("d", costs(draft_s), Link(rtt_s=rtt_s))
    return Observation(streams, costs(0.05, 0.0005), (draft,))


def made(grouped_s: float, open_s: float = 1.0) -> Made:
    return Made(seen(), Plan(), grouped_s, open_s)


def test_what_streams_wait_for_is_what_the_program_says() -> None:
    planned = Planning(seen(), joint_plan).make()
    assert planned.grouped.batches
    waits = waits_of(planned.grouped)
    for number, batch in enumerate(planned.grouped.batches, 1):
        for stream_id, gamma in zip(batch.stream_ids, batch.gammas, strict=True):
            assert (waits[stream_id].group, waits[stream_id].num_guesses) == (number, gamma)
            assert 0.0 < waits[stream_id].most_s < 1.0


def test_a_plan_without_guesses_is_no_alternative() -> None:
    assert Planning(seen(draft_s=0.5), joint_plan).make().grouped_s == math.inf


def decided(choice: Choice, given: Made, observed_s: float, times: int, at: float = 0.0) -> bool:
    for second in range(times):
        choice.decide(given, observed_s, at + second)
    return choice.is_grouped


def test_nobody_waits_where_that_promises_little() -> None:
    assert not decided(Choice(), made(0.95), 1.0, 50)


def test_groups_are_tried_where_they_promise_much_and_kept_where_they_give_it() -> None:
    choice = Choice()
    assert decided(choice, made(0.5), 1.0, 10)
    assert decided(choice, made(0.5), 0.6, 50, 10.0)


def test_groups_that_do_not_give_what_they_promised_are_left_and_rest_for_longer() -> None:
    choice = Choice()
    num_grouped = []
    for _ in range(2):
        grouped = [choice.decide(made(0.5), 1.0, float(now)) for now in range(400)]
        num_grouped.append(sum(grouped))
    assert 0 < num_grouped[0] < 40
    assert num_grouped[1] <= num_grouped[0]


def test_what_weighs_on_both_ways_is_not_held_against_groups() -> None:
    """Everything takes three times what is predicted, before and after."""
    choice = Choice()
    assert decided(choice, made(0.5), 3.0, 10)
    assert decided(choice, made(0.5), 1.8, 50, 10.0)


def test_a_way_that_is_asked_for_stays() -> None:
    assert decided(Choice(is_grouped=True, is_forced=True), made(math.inf), 9.0, 20)
    assert not decided(Choice(is_forced=True), made(0.1), 9.0, 20)


def test_only_streams_that_wait_for_something_else_are_told() -> None:
    a, b = Wait(1, 2, 0.1), Wait(1, 3, 0.1)
    assert changed({1: a, 2: a, 3: a}, {1: a, 2: b, 4: a}) == [2, 3, 4]
