"""Scenario files: what each key means."""

import itertools
import math
import re
import textwrap
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.analytic import device_from, node_costs, shape_from
from policies.latency import CostTable
from policies.plan import Link
from policies.scenario import ScenarioError, files_named, read, scenario_from
from tests.policies.scenarios import ANALYTIC, DEVICE, GOOD, SHAPE, scenario

FOLDER = Path(__file__).parents[2] / "bench" / "scenarios"


def shipped(name):
    with (FOLDER / f"{name}.toml").open("rb") as file:
        mapping = tomllib.load(file)
    files = {}
    for _, path in files_named(mapping):
        with (FOLDER / path).open("rb") as file:
            files[path] = tomllib.load(file)
    return mapping, files


def test_every_key_arrives_where_it_belongs():
    found = scenario(GOOD)
    observation = found.observation()
    assert (found.name, observation.token_bits) == ("a test", 16)
    assert observation.target.decode == CostTable((1, 8), (0.04, 0.06), 1e-6)
    assert observation.target.prefill == CostTable((1, 64), (0.03, 0.2))
    assert (observation.used_cells, observation.prefill_share) == (500, 0.25)
    nano, local = observation.drafts
    assert (nano.name, nano.used_cells) == ("nano", 70)
    assert nano.costs.decode == CostTable((1, 2, 4), (0.01, 0.011, 0.013))
    # Who measured no prompts gets the other times, which plans of cycles do not look at.
    assert nano.costs.prefill == nano.costs.decode
    assert nano.link == Link(rate_bps=500e3, rtt_s=0.012, medium="cell", frame_s=0.0005)
    assert (local.link, local.used_cells) == (Link(), 0)
    first, second, third, fourth = observation.streams
    assert [view.stream_id for view in observation.streams] == [1, 2, 3, 4]
    assert (first.alpha, first.alphas, first.tokens_left) == (0.75, (), 90)
    assert (first.draft, first.fixed_gamma, first.weight) == ("nano", 3, 2.0)
    assert (second.draft, second.stream_id) == ("nano", 2)
    assert third.alphas == (0.9, *(0.6,) * 15)
    assert (third.fixed_gamma, third.weight, third.tokens_left) == (None, 1.0, 256)
    assert (fourth.draft, fourth.alpha) == (None, 0.0)


def test_rounds_wait_for_the_way_to_a_target_that_has_a_link():
    link = "[target.link]\nrate = 1e5\nrtt_ms = 30\nmedium = 'cell'\n"
    text = GOOD.replace("[[draft]]", f"{link}[[draft]]", 1)
    plain, made = scenario(GOOD).observation(), scenario(text).observation()
    assert made.target_link == Link(rate_bps=1e5, rtt_s=0.03, medium="cell")
    assert plain.target_link == Link()
    before = [draft.link for draft in plain.drafts]
    assert [draft.link for draft in made.drafts] == [
        replace(link, rtt_s=link.rtt_s + 0.03) for link in before
    ]


def test_the_example_of_the_documentation_is_a_scenario():
    text = re.search(r"    name =.*(?=^Paths are)", read.__doc__, re.DOTALL | re.MULTILINE)[0]
    mapping = tomllib.loads(textwrap.dedent(text))
    _, files = shipped("two-boxes-wifi")
    found = scenario_from(mapping, source="x", files=files)
    assert found.drafts[0].link == Link(20e6, 0.005, "wifi", 0.0003)
    # It shows every key there is: of a key that is none a refusal says which are known.
    (draft,), (streams,) = mapping["draft"], mapping["streams"]
    shown = {*mapping, *mapping["target"], *draft, *draft["link"], *streams}
    known = set()
    for line in ("token_bits = 16", "used_cells = 500", "rtt_ms = 12", "count = 2"):
        with pytest.raises(ScenarioError) as caught:
            scenario(GOOD.replace(line, "zz = 1"))
        known |= set(str(caught.value).partition("known: ")[2].split(", "))
    assert shown == known - {"prefill"}


def test_tables_in_the_scenario_itself_need_no_files():
    in_files, mapping = scenario(ANALYTIC), tomllib.loads(ANALYTIC)
    del mapping["models"]
    mapping["target"] |= {"device": DEVICE, "model": SHAPE}
    assert list(files_named(mapping)) == []
    assert scenario_from(mapping, source="x") == in_files
    assert in_files.target.costs == node_costs(shape_from(SHAPE), device_from(DEVICE))


def test_files_are_named_with_their_keys():
    mapping = tomllib.loads(
        'models = "m"\ntarget.device = "a"\n[[draft]]\ndevice = {}\n[[draft]]\ndevice = "b"'
    )
    named = [("models", "m"), ("target.device", "a"), ("draft[1].device", "b")]
    assert list(files_named(mapping)) == named
    malformed = {"models": 3, "target": "x", "draft": {"device": "a"}}
    assert list(files_named(malformed)) == []
    assert list(files_named({"draft": [1, {"device": 2}]})) == []


@pytest.mark.parametrize(
    ("text", "rate_bps"),
    [
        ("64000", 64e3),
        ("1.5e6", 1.5e6),
        ('"800 bit/s"', 800),
        ('"500 kbit/s"', 500e3),
        ('"2.5Mbit/s"', 2.5e6),
        ('"1 Gbit/s"', 1e9),
    ],
)
def test_rates(text, rate_bps):
    found = scenario(GOOD.replace('"500 kbit/s"', text))
    assert found.drafts[0].link.rate_bps == pytest.approx(rate_bps, rel=1e-12)
    without = scenario(GOOD.replace('rate = "500 kbit/s"\n', ""))
    assert without.drafts[0].link.rate_bps == math.inf


@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=8))
def test_acceptance_by_position_is_pooled_as_rounds_would_tell_it(by_position):
    """Eight guesses a round: mean accepted over mean accepted and rejected, by enumeration."""
    alphas = [*by_position, *[by_position[-1]] * (8 - len(by_position))]
    mean_accepted = mean_rejected = 0.0
    for outcome in itertools.product((True, False), repeat=8):
        chance = math.prod(a if hit else 1 - a for a, hit in zip(alphas, outcome, strict=True))
        accepted = len(list(itertools.takewhile(bool, outcome)))
        mean_accepted += chance * accepted
        mean_rejected += chance * (accepted < 8)
    text = GOOD.replace("[0.9, 0.6]", repr(by_position))
    view = scenario(text).observation().streams[2]
    assert view.alpha == pytest.approx(mean_accepted / (mean_accepted + mean_rejected), rel=1e-9)
