"""Simulated meshes in which guesses flow: the states of real nodes on scripted engines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.sim.copies import Copies
from bench.sim.flow import HEAD, Compared, row
from bench.sim.flow_copies import gain_in_flow, run_flow_copies
from bench.sim.flow_world import FlowWorld
from bench.sim.random_scenarios import node_costs, random_scenario
from bench.sim.scripted import NUM_DIGITS, RIGHT, ScriptedModel, prompt_of
from bench.sim.world import Scenario, SimClient, SimDraftNode
from nodes.engine.protocol import Span
from policies.plan import Link


def scenario(alpha: float, draft_s: float = 0.002, **changes: object) -> Scenario:
    client = SimClient(
        alphas=(alpha,) * 8,
        num_prompt_tokens=16,
        max_tokens=(80, 120),
        think_s=0.0,
        starts_at=0.0,
        believed=(alpha,) * 8,
    )
    draft = SimDraftNode(costs=node_costs(draft_s, 4, 0.01), link=Link(rtt_s=1e-3))
    made = Scenario(
        seed=3,
        target=node_costs(0.02, 16, 0.01),
        drafts=(draft,),
        clients=(client, client),
        duration_s=20.0,
        warm_up_s=2.0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_right_guesses_of_a_quick_draft_make_streams_quicker_and_wrong_ones_hardly_slower() -> None:
    for alpha, least in ((0.9, 1.8), (0.05, 0.97)):
        plain = FlowWorld(scenario(alpha), guesses=False).run()
        flow = FlowWorld(scenario(alpha)).run()
        assert plain.price_s / flow.price_s > least
        assert plain.num_guesses == 0


def test_accepted_guesses_are_those_that_the_texts_say() -> None:
    result = FlowWorld(scenario(0.9)).run()
    # Right with 0.9 each: of 16 in a row 0.46 are accepted on average, of one 0.9.
    assert 0.4 < result.num_accepted / result.num_guesses < 0.95


def test_a_run_is_the_same_every_time() -> None:
    made = random_scenario(5, 40)
    assert FlowWorld(made).run() == FlowWorld(made).run()


def test_a_draft_model_that_guessed_wrong_is_wrong_until_it_goes_back() -> None:
    starts = {7: NUM_DIGITS}
    model = ScriptedModel(starts, lambda _text, place, _after: (place != 1, 0.9), num_cells=100)
    found = []
    prompt = list(prompt_of(7, NUM_DIGITS))
    token_ids, start = prompt, 0
    for _ in range(4):
        row_ = model.forward([Span(0, start, token_ids, 1)])[0]
        start += len(token_ids)
        token_ids = [int(row_.argmax())]
        found.append(token_ids[0] == RIGHT)
    assert found == [True, False, False, False]
    model.truncate(0, NUM_DIGITS + 1)
    model.forward([Span(0, NUM_DIGITS + 1, [RIGHT], 1)])
    assert model.forward([Span(0, NUM_DIGITS + 2, [RIGHT], 1)])[0].argmax() == RIGHT


@pytest.mark.parametrize("rtt_s", [3e-4, 3e-2])
def test_lookup_gains_the_same_however_far_the_target_is(rtt_s: float) -> None:
    copies = Copies(table="flat", text="mostly copied", num_streams=2, rtt_s=rtt_s, max_tokens=80)
    assert gain_in_flow(copies, [1]) > 1.5


def test_a_text_that_repeats_nothing_loses_nothing() -> None:
    copies = Copies(table="steep", text="hardly copied", num_streams=1, max_tokens=60)
    lookup, plain = (run_flow_copies(copies, lookup=each) for each in (True, False))
    assert lookup < 1.05 * plain


def test_a_row_has_means_and_extremes() -> None:
    found = [Compared(1, 1.0, 2.0, 1.0, 1.0), Compared(2, 1.0, 0.5, 4.0, 1.0)]
    told = row("known", found)
    assert "2.000 (1.000 to 4.000)" in told
    assert "1.000 (0.500 to 2.000)" in told
    assert told.count("|") == HEAD.splitlines()[0].count("|")
