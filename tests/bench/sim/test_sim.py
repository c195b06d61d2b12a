from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from bench.sim.closed_loop import BELIEFS, COMPARED, Outcome, report, run_seed
from bench.sim.events import Clock, Medium
from bench.sim.random_scenarios import (
    random_scenario,
    with_acceptance_off_by,
    with_draft_costs_off_by,
    with_learnt_acceptance,
)
from bench.sim.world import ClientFigures, Result, Scenario, SimClient, SimDraftNode, World
from nodes.scheduler.instructions import Abort, Emit, Finish, Instruction
from nodes.stream import StreamId
from policies.baselines import POLICIES
from policies.latency import CostTable, NodeCosts
from policies.plan import Batch, Link, Observation, Plan, Policy

# 10 ms for one token, 14 for two, 16 for four, 20 for eight.
TARGET = NodeCosts(
    CostTable((1, 2, 4, 8), (0.010, 0.014, 0.016, 0.020)), CostTable((32,), (0.012,))
)
# 2 ms for any number up to 32.
DRAFT = NodeCosts(CostTable((1, 32), (2e-3, 2e-3)), CostTable((32,), (2e-3,)))
HEADER_BITS, ENTRY_BITS, TOKEN_BITS = 8 * 153, 8 * 10, 32
DELAY_S = 1e-4


def make_client(alphas: Sequence[float] = (0.8,), **changes: Any) -> SimClient:
    """A client whose first answer lasts longer than any run here."""
    client = SimClient(
        alphas=tuple(alphas),
        num_prompt_tokens=8,
        max_tokens=(20_000, 20_000),
        think_s=0.0,
        starts_at=0.0,
        believed=(0.8,) * 8,
    )
    return replace(client, **changes)


def make_scenario(
    clients: Sequence[SimClient], links: Sequence[Link] = (), **changes: Any
) -> Scenario:
    scenario = Scenario(
        seed=1,
        target=TARGET,
        drafts=tuple(SimDraftNode(costs=DRAFT, link=link) for link in links),
        clients=tuple(clients),
        duration_s=30.0,
        warm_up_s=2.0,
        noise=0.0,
        target_delay_s=DELAY_S,
    )
    return replace(scenario, **changes)


def each_alone(observation: Observation) -> Plan:
    """Four guesses for every stream that has a draft node, in a batch of its own."""
    guessing = [view.stream_id for view in observation.streams if view.draft is not None]
    plain = tuple(view.stream_id for view in observation.streams if view.draft is None)
    return Plan(tuple(Batch((stream_id,), (4,)) for stream_id in guessing), plain)


class Watched(World):
    """Keeps what its clients were sent, and when."""

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Emit(stream_id=stream_id, position=position, token_ids=token_ids):
                    assert position == self.sent.setdefault(stream_id, 0)
                    self.sent[stream_id] += len(token_ids)
                    self.last[stream_id] = self._clock.now
                case Finish(stream_id=stream_id, reason=reason):
                    assert reason == "length"
                    # Its luck has an entry for every token that was asked for.
                    assert self.sent.pop(stream_id) == len(self._texts[stream_id].luck)
                    self.num_finished += 1
        super()._carry_out(instructions)

    def run(self) -> Result:
        self.sent: dict[int, int] = {}
        self.last: dict[int, float] = {}
        self.num_finished = 0
        return super().run()


# -- figures that can be worked out by hand --------------------------------------------------------


def test_plain_streams_get_a_token_a_pass_of_the_targets_table() -> None:
    result = World(make_scenario([make_client()] * 3), POLICIES["ad"]).run()
    # Half way between 14 and 16 ms.
    assert result.price_s == pytest.approx(0.015, rel=0.01)
    assert result.tokens_per_s == pytest.approx(3 / 0.015, rel=0.01)
    assert result.target_busy == pytest.approx(1.0, abs=0.02)
    assert result.worst_share == pytest.approx(1.0, abs=0.01)
    assert result.num_guesses == 0


@pytest.mark.parametrize(
    ("alphas", "expected_tokens", "tolerance"),
    [
        ((1.0,), 5.0, 0.005),
        ((0.0,), 1.0, 0.005),
        ((1.0, 1.0, 0.0), 3.0, 0.005),
        # 1 + 0.8 + 0.8^2 + 0.8^3 + 0.8^4, of some 500 rounds.
        ((0.8,), 3.3616, 0.04),
    ],
)
def test_a_guessing_stream_gets_what_its_laps_earn(
    alphas: tuple[float, ...], expected_tokens: float, tolerance: float
) -> None:
    link = Link(rate_bps=1e6, rtt_s=0.02, frame_s=1e-3)
    world = World(make_scenario([make_client(alphas)], [link]), each_alone)
    result = world.run()
    # Out go the tokens committed last, back come 4 guesses.
    bits = 2 * (HEADER_BITS + ENTRY_BITS) + TOKEN_BITS * (expected_tokens + 4)
    air_s = 2 * 1e-3 + bits / 1e6
    # Four passes of the draft, one of the target with 5 tokens.
    lap_s = air_s + 0.02 + 4 * 2e-3 + 0.017 + 2 * DELAY_S
    assert result.price_s == pytest.approx(lap_s / expected_tokens, rel=tolerance)
    assert result.num_stale == 0


def test_a_medium_bounds_what_its_links_carry_together() -> None:
    rates = {}
    for medium in ("", "cell"):
        links = [Link(rate_bps=4e4, medium=medium)] * 2
        scenario = make_scenario([make_client((1.0,))] * 2, links, duration_s=60.0)
        rates[medium] = World(scenario, each_alone).run().tokens_per_s
    # 2 messages a round, of 5 committed tokens and 4 guesses; the rest takes less than that.
    air_s = (2 * (HEADER_BITS + ENTRY_BITS) + TOKEN_BITS * 9) / 4e4
    rest_s = 4 * 2e-3 + 0.017 + 2 * DELAY_S
    assert rates["cell"] == pytest.approx(5 / air_s, rel=0.02)
    assert rates[""] == pytest.approx(2 * 5 / (air_s + rest_s), rel=0.03)


def test_streams_of_more_weight_get_more_tokens_where_guesses_crowd_the_target() -> None:
    def rates(*weights: float) -> list[float]:
        clients = [make_client(weight=weight) for weight in weights]
        world = World(make_scenario(clients, [Link(rtt_s=5e-3)]), POLICIES["joint"])
        return [client.tokens_per_s for client in world.run().clients]

    equal = rates(1, 1, 1, 1, 1, 1)
    # Priorities 10 and 1.
    weighted = rates(2, 2, 0.2, 0.2, 0.2, 0.2)
    high, low = weighted[:2], weighted[2:]
    assert max(equal) < 1.1 * min(equal)
    assert min(high) > 1.1 * max(equal)
    assert min(high) > 1.4 * max(low)
    # A weight is no precedence.
    assert min(low) > 0.4 * min(equal)


def test_a_prompt_is_read_in_pieces_beside_who_decodes() -> None:
    late = make_client(starts_at=5.0, num_prompt_tokens=3200)
    result = World(make_scenario([make_client(), late], duration_s=6.0), POLICIES["ad"]).run()
    first, second = result.clients
    # 100 pieces of 32 tokens beside one that decodes: 33 tokens by the last slope of the table.
    pass_s = 0.020 + 25 * 0.001
    assert second.num_tokens == 0
    assert first.num_tokens == pytest.approx(3.0 / 0.010 + 1.0 / pass_s, abs=3)


def test_messages_on_one_medium_go_one_after_another() -> None:
    clock, medium = Clock(), Medium()
    arrived: list[tuple[str, float]] = []
    near = Link(rate_bps=2000.0, rtt_s=0.0, frame_s=0.1)
    far = Link(rate_bps=4000.0, rtt_s=4.0, frame_s=0.2)
    for name, link, bits in (("a", far, 2776), ("b", near, 776), ("c", near, 2776)):
        note = partial(lambda name: arrived.append((name, clock.now)), name)
        clock.at(1.0, partial(medium.send, clock, link, bits, note))
    clock.run(100.0)
    # With 1224 bits of headers: a takes 1.2 s, b 1.1 s and c 2.1 s of the medium.
    assert [name for name, _ in arrived] == ["b", "a", "c"]
    assert [at for _, at in arrived] == pytest.approx([3.3, 4.2, 5.4])
    assert medium.busy_s == pytest.approx(4.4)


def test_things_happen_in_order_of_time_and_then_as_they_were_set() -> None:
    clock = Clock()
    seen: list[tuple[str, float]] = []
    for name, time_s in (("c", 2.0), ("a", 1.0), ("b", 1.0), ("never", 3.5)):
        clock.at(time_s, partial(lambda name: seen.append((name, clock.now)), name))
    clock.at(2.0, lambda: clock.after(0.5, lambda: seen.append(("d", clock.now))))
    clock.run(3.0)
    assert seen == [("a", 1.0), ("b", 1.0), ("c", 2.0), ("d", 2.5)]
    assert clock.now == 3.0


# -- what holds of every run -----------------------------------------------------------------------


def test_a_run_is_the_same_every_time_and_another_with_another_seed() -> None:
    scenario = random_scenario(3, 150)
    once, again = (World(scenario, POLICIES["joint"]).run() for _ in range(2))
    assert once == again
    assert World(replace(scenario, seed=4), POLICIES["joint"]).run() != once


def test_a_run_does_not_depend_on_how_names_are_hashed() -> None:
    code = (
        "from bench.sim.world import World\n"
        "from bench.sim.random_scenarios import random_scenario\n"
        "from policies.joint import joint_plan\n"
        "print(World(random_scenario(7, 100), joint_plan).run())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("policy", [POLICIES["joint"], each_alone])
def test_draft_nodes_that_come_and_go_lose_no_stream_and_no_token(policy: Policy) -> None:
    links = [Link(rate_bps=1e7, rtt_s=0.01, medium="cell"), Link(rtt_s=0.03), Link(rtt_s=0.002)]
    clients = [make_client(max_tokens=(30, 90))] * 6
    scenario = make_scenario(clients, links, noise=0.1, duration_s=15.0)
    aways = [(1.0, 3.0), (2.0, 2.3), None]
    drafts = tuple(
        replace(node, away=away) for node, away in zip(scenario.drafts, aways, strict=True)
    )
    world = Watched(replace(scenario, drafts=drafts), policy)
    result = world.run()
    assert result.num_guesses > 500
    assert world.num_finished > 30
    # Every request has ended or was served a moment ago.
    assert len(world._requests) == world._scheduler.num_streams == 6
    assert all(world.last.get(s, 15.0) > 14.5 for s in world._requests)


@pytest.mark.parametrize("seed", range(8))
def test_random_scenarios_lose_no_stream_and_no_token(seed: int) -> None:
    scenario = random_scenario(seed, 150)
    world = Watched(with_learnt_acceptance(scenario), POLICIES["joint"])
    world.run()
    # Some passes of the target may lie between two tokens of a stream, not many.
    pass_s = scenario.target.decode.at(8 * len(scenario.clients)) + 0.3
    for stream_id, request in world._requests.items():
        if request.ready_at >= 0:
            since = max(request.ready_at, world.last.get(stream_id, 0.0))
            assert scenario.duration_s - since < 10 * pass_s


def test_a_stream_that_the_scheduler_gives_up_is_an_error() -> None:
    world = World(make_scenario([make_client()]), POLICIES["ad"])
    with pytest.raises(AssertionError, match="gave a stream up: lost"):
        world._carry_out([Abort(StreamId(1), "lost")])


# -- scenarios and reports -------------------------------------------------------------------------


def test_random_scenarios_are_what_they_say() -> None:
    scenarios = [random_scenario(seed) for seed in range(300)]
    assert random_scenario(5) == scenarios[5]
    counts = {len(scenario.clients) for scenario in scenarios}
    assert counts <= set(range(1, 33))
    assert {1, 32} < counts
    assert {len(scenario.drafts) for scenario in scenarios} == {1, 2, 3, 4}
    assert any(node.away is not None for s in scenarios for node in s.drafts)
    for scenario in scenarios:
        for node in scenario.drafts:
            assert node.away is None or 0 < node.away[0] < node.away[1] < scenario.duration_s
        alphas = [alpha for client in scenario.clients for alpha in client.alphas]
        assert 0.05 <= min(alphas) <= max(alphas) <= 0.95
        assert scenario.target.decode.at(64) >= scenario.target.decode.at(1)


def test_wrong_beliefs_change_what_is_believed_and_nothing_else() -> None:
    scenario = random_scenario(11)
    off = with_acceptance_off_by(scenario, 0.2)
    unlike = 0
    for client, true in zip(off.clients, scenario.clients, strict=True):
        assert client.believed is not None
        errors = [a - b for a, b in zip(client.believed, true.alphas, strict=True)]
        assert max(map(abs, errors)) <= 0.2 + 1e-9
        assert replace(client, believed=true.believed) == true
        unlike += client.believed != true.believed
    assert unlike == len(off.clients)
    half = with_draft_costs_off_by(scenario, 0.5)
    for node, original in zip(half.drafts, scenario.drafts, strict=True):
        assert node.believed is not None
        assert node.believed.decode.at(3) == pytest.approx(original.costs.decode.at(3) / 2)
        assert replace(node, believed=None) == original
    assert all(client.believed is None for client in with_learnt_acceptance(scenario).clients)


def test_figures_of_a_run() -> None:
    clients = [ClientFigures(100, 2.0), ClientFigures(100, 4.0), ClientFigures(0, 0.0)]
    result = Result(clients, num_passes=1, num_events=1, target_busy=1.0)
    assert result.tokens_per_s == 75.0
    assert result.price_s == pytest.approx((0.02 + 0.04) / 2)
    assert result.worst_share == pytest.approx(25 / 37.5)


def test_the_report_compares_with_the_best_of_each_scenario() -> None:
    def outcome(seed: int, joint_s: float, ad_s: float, best_s: float) -> Outcome:
        prices = dict.fromkeys(COMPARED, 9.0) | {"joint": joint_s, "ad": ad_s, "greedy": best_s}
        believing = dict.fromkeys(BELIEFS, 2 * joint_s)
        return Outcome(seed, 3, 1, prices, believing, 0.4, 0.9, 10)

    text = report([outcome(1, 1.0, 2.0, 1.0), outcome(2, 2.0, 1.0, 1.0)])
    assert "mean 0.7500, median 0.7500, least 0.500" in text
    assert "joint to plain decoding: mean 1.250, least 0.500; more than 3 % behind in 1" in text
    assert "below 0.5 in 2" in text
    assert "mean 0.5000  least 0.500" in text


def test_every_policy_runs_a_random_scenario() -> None:
    outcome = run_seed(2, 40)
    assert set(outcome.prices_s) == set(COMPARED)
    assert all(0.0 < price_s < 1.0 for price_s in outcome.prices_s.values())
    assert outcome.to_best <= 1.0
    assert outcome.to_ad == outcome.prices_s["ad"] / outcome.prices_s["joint"]


def test_ticks_of_the_simulator_do_not_multiply() -> None:
    """A batch a stream, all on links of 0.3 s: a draft is always out."""

    def policy(o: Observation) -> Plan:
        return Plan(
            tuple(Batch((v.stream_id,), (4,)) for v in o.streams if v.draft is not None),
            tuple(v.stream_id for v in o.streams if v.draft is None),
        )

    share = []
    for duration_s in (20.0, 80.0):
        slow = NodeCosts(CostTable((1, 64), (0.02, 0.05)), CostTable((32,), (0.05,)))
        scenario = make_scenario(
            [make_client()] * 8, [Link(rtt_s=0.3)], duration_s=duration_s, target=slow
        )
        world = World(scenario, policy)
        num_events = world.run().num_events
        share.append(num_events / duration_s)
    assert share[1] < 1.2 * share[0]


def test_a_client_that_is_never_served_counts() -> None:
    clients = [ClientFigures(100, 2.0), ClientFigures(0, 60.0)]
    result = Result(clients, num_passes=1, num_events=1, target_busy=1.0)
    assert result.price_s > 1.0


@pytest.mark.parametrize("num_streams", [1, 4])
@pytest.mark.parametrize("rtt_s", [0.01, 0.03, 0.06])
def test_a_draft_that_does_not_pay_costs_a_far_target_nothing(
    rtt_s: float, num_streams: int
) -> None:
    """Its streams are plain, and told to it on trial; their leases last for the way all the same.

    Beside the same target nearby without a draft node.
    """
    clients = [
        make_client([0.2], num_prompt_tokens=64, starts_at=0.01 * number, believed=None)
        for number in range(num_streams)
    ]
    far = make_scenario(clients, [Link(rtt_s=4e-3)], trials=True, target_delay_s=rtt_s / 2)
    near = replace(far, drafts=(), target_delay_s=DELAY_S)
    made, plain = (World(each, POLICIES["joint"]).run() for each in (far, near))
    assert made.num_guesses == 0
    assert made.tokens_per_s > 0.95 * plain.tokens_per_s
