"""Scenario files: what each key means."""

import copy
import math
import re
import textwrap
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.policies.analytic import Device, TransformerShape, node_costs
from airdraft.policies.baselines import POLICIES
from airdraft.policies.explain import explain, text_of
from airdraft.policies.latency import CostTable
from airdraft.policies.plan import Link
from airdraft.policies.scenario import ScenarioError, scenario_from
from airdraft.policies.scenario import read as reading
from tests.policies.scenarios import ANALYTIC, DEVICE, GOOD, SHAPE, SPLIT, read, scenario

FOLDER = Path(__file__).parents[2] / "bench" / "scenarios"


def shipped(_, path):
    return tomllib.loads((FOLDER / path).read_text())


def test_every_key_arrives_where_it_belongs():
    found = scenario(GOOD)
    name, observation = found.name, found.observation
    assert (name, found.split, observation.token_bits) == ("a test", None, 16)
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
    assert (first.alpha, first.tokens_left) == (0.75, 90)
    assert (first.draft, first.fixed_gamma, first.weight) == ("nano", 3, 2.0)
    assert (second.draft, second.stream_id) == ("nano", 2)
    assert third.alpha == 0.6
    assert (third.fixed_gamma, third.weight, third.tokens_left) == (None, 1.0, 256)
    assert (fourth.draft, fourth.alpha) == (None, 0.0)


def test_rounds_wait_for_the_way_to_a_target_that_has_a_link():
    link = "[target.link]\nrate = 1e5\nrtt_ms = 30\nmedium = 'cell'\n"
    text = GOOD.replace("[[draft]]", f"{link}[[draft]]", 1)
    plain, made = scenario(GOOD).observation, scenario(text).observation
    assert made.target_link == Link(rate_bps=1e5, rtt_s=0.03, medium="cell")
    assert plain.target_link == Link()
    before = [draft.link for draft in plain.drafts]
    assert [draft.link for draft in made.drafts] == [
        replace(link, rtt_s=link.rtt_s + 0.03) for link in before
    ]


def test_the_example_of_the_documentation_is_a_scenario():
    text = re.search(r"    name =.*(?=^Paths are)", reading.__doc__, re.DOTALL | re.MULTILINE)[0]
    mapping = tomllib.loads(textwrap.dedent(text))
    found = scenario_from(mapping, "x", shipped).observation
    # The round trip of the target's link is contained in that of each draft node.
    assert found.drafts[0].link == Link(20e6, 0.005, "wifi", 0.0003)
    # It shows every key there is: of a key that is none a refusal says which are known.
    (draft,), (streams,) = mapping["draft"], mapping["streams"]
    (stage,) = mapping["target"]["stage"]
    shown = {*mapping, *mapping["target"], *stage, *draft, *draft["link"], *streams}
    known = set()
    for line in ("token_bits = 16", "used_cells = 500", "rtt_ms = 12", "count = 2"):
        with pytest.raises(ScenarioError) as caught:
            scenario(GOOD.replace(line, "zz = 1"))
        known |= set(str(caught.value).partition("known: ")[2].split(", "))
    assert shown == known - {"prefill"}


def test_tables_in_the_scenario_itself_need_no_files():
    in_files, mapping = scenario(ANALYTIC), tomllib.loads(ANALYTIC)
    del mapping["models"]
    mapping["target"] |= {"device": {**DEVICE, "kind": "cpu"}, "model": SHAPE}
    assert read(mapping) == in_files
    assert in_files.observation.target == node_costs(TransformerShape(**SHAPE), Device(**DEVICE))


def test_a_model_in_stages_costs_what_its_machines_take_one_after_the_other():
    found, shape = scenario(SPLIT), TransformerShape(**SHAPE)
    one = node_costs(shape, Device(**DEVICE))
    costs, split = found.observation.target, found.split
    assert [(share.name, share.first, share.end) for share in split.shares] == [
        ("nano", 0, 1),
        ("the target", 1, 2),
    ]
    assert split.told.startswith("nano has the blocks 0 to 0 (0.00 GB), the target has the blocks")
    # The devices are equal: their overhead comes twice, and the round trip on top of it.
    for size in (1, 8, 64):
        more_s = costs.decode.at(size, 100) - one.decode.at(size, 100)
        assert more_s == pytest.approx(DEVICE["pass_overhead_s"] + 0.003, rel=0.01)
    # Prompts pass through both at the same time.
    assert costs.prefill.at(512) < 0.7 * one.prefill.at(512)


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
    found = scenario(GOOD.replace('"500 kbit/s"', text)).observation
    assert found.drafts[0].link.rate_bps == pytest.approx(rate_bps, rel=1e-12)
    without = scenario(GOOD.replace('rate = "500 kbit/s"\n', "")).observation
    assert without.drafts[0].link.rate_bps == math.inf


# -- one line for everything that can be wrong -----------------------------------------------------


A_RATE = 'a number of bit/s or a text like "500 kbit/s" is accepted'
HEAD = "target.decode = {sizes=[1], seconds=[1]}"
# Each row: a part of GOOD, what stands there instead, and what the refusal says.
BAD = [
    # Unknown keys: the nearest that is known, or all.
    ('name = "a', 'nmae = "a', ["nmae = 'a test': unknown key, did you mean name?"]),
    ("rtt_ms", "rtt_s", ["draft[0].link.rtt_s = 12", "did you mean draft[0].link.rtt_ms?"]),
    ("token_bits", "zz", ["zz = 16: unknown key, known: name, models, token_bits, target"]),
    ('name = "a test"', '"a\\nb" = 1', ["'a\\nb' = 1: unknown key"]),
    # Missing keys.
    (GOOD, "", ["target is missing: a table is accepted"]),
    ('name = "nano"\n', "", ["draft[0].name is missing: a name of 1 to 40 ASCII characters"]),
    ("decode = {sizes = [1], seconds = [0.02]}", "", ["draft[1].decode is missing: measured"]),
    (GOOD[GOOD.index("[[streams]]") :], "", ["streams is missing: one table [[streams]] or more"]),
    # Wrong types.
    (GOOD, "target = 3", ["target = 3: a table is accepted"]),
    ("used_cells = 500", "used_cells = true", ["target.used_cells = True: a whole number"]),
    ('name = "nano"', 'name = "näno"', ["draft[0].name = 'näno': a name of 1 to 40 ASCII"]),
    ('medium = "cell"', "medium = 1979-05-27", ["draft[0].link.medium = datetime.date(", "a name"]),
    ("seconds = [0.02]", "seconds = []", ["draft[1].decode.seconds = []: an array of numbers"]),
    ("token_bits = 16", "token_bits = 24", ["token_bits = 24: 16 or 32 is accepted"]),
    # Numbers out of range, infinite, or none.
    ("prefill_share = 0.25", "prefill_share = 1", ["target.prefill_share = 1: a number from 0 to"]),
    ("weight = 2", "weight = nan", ["streams[0].weight = nan: a number from 0.001 to 1000 is"]),
    ("weight = 2", f"weight = {'9' * 400}", ["streams[0].weight = 999", "...: a number from"]),
    ("count = 2", "count = 1023", ["streams = [{", "...: up to 1024 in all are accepted, not"]),
    ("= 0.6", "= 1.01", ["streams[1].acceptance = 1.01: a number from 0 to 1 "]),
    ("= 0.6", "= [0.6]", ["streams[1].acceptance = [0.6]: a number from 0 to 1 "]),
    ("[0.04, 0.06]", "[0.04, 0]", ["target.decode.seconds[1] = 0: a number from"]),
    ("[0.04, 0.06]", "[0.04]", ["target.decode.seconds = [0.04]: as many times as sizes, 2,"]),
    ("[1, 8]", "[8, 1]", ["target.decode.sizes[1] = 1: a whole number from 9 to 65536"]),
    # Links: the rate names its link.
    (
        '"500 kbit/s"',
        "0",
        ["draft[0].link.rate = 0: the link of nano would carry nothing; 1 bit/s"],
    ),
    ('"500 kbit/s"', "inf", ["draft[0].link.rate = inf: 1 bit/s to 1000 Gbit/s is accepted"]),
    ('"500 kbit/s"', '"500 kbps"', ["draft[0].link.rate = '500 kbps'", A_RATE]),
    # Names of draft nodes.
    ('draft = "nano"', 'draft = "nanoo"', ["streams[0].draft = 'nanoo'", "did you mean nano?"]),
    ('name = "local"', 'name = "nano"', ["draft[1].name = 'nano': a name that no other draft"]),
    # Tables where arrays of tables are wanted.
    (GOOD, f"draft = 3\n{HEAD}", ["draft = 3: an array of tables, [[draft]], is accepted"]),
    (GOOD, f"draft = [3]\n{HEAD}", ["draft[0] = 3: an array of tables, [[draft]], is accepted"]),
    # Measured times and others at once.
    ("used_cells = 500", "device = 'box.toml'", ["target.device = 'box.toml': accepted only w"]),
]
# The same of ANALYTIC.
BAD_DEVICES = [
    ('"tiny"', '"tinny"', ["target.model = 'tinny': no such model in models.toml", "tiny?"]),
    ('"box.toml"', "3", ["target.device = 3: a table, or the path of a TOML file with a table"]),
    ('"box.toml"', '"empty.toml"', ["empty.toml: device is missing: a table is accepted"]),
    ('"box.toml"', '"bad-box.toml"', ["bad-box.toml: device.bytes_per_s = -5: a number from 1"]),
    ('"box.toml"', '"slow-box.toml"', ["= 'slow-box.toml': figures that give passes of 1e-07 to"]),
    ('"box.toml"', '"typo-box.toml"', ["device.memory_byte = 1: unknown key, did you mean dev"]),
    ('"box.toml"', '"keen-box.toml"', ["device.overlap = 1.5: a number from 0 to 1 is accepted"]),
    ('"box.toml"', "{name = 'x'}", ["target.device.flops_per_s is missing: a number from 1 to"]),
    ('"tiny"', "3", ["target.model = 3: the name of a model, or a table of its shape, is"]),
    ('"tiny"', "{layers = 0.5}", ["target.model.layers = 0.5: a whole number from 1 to"]),
    ('"tiny"', '"odd"', ["models.toml: model[1].shape.kv_heads = 3: a divisor of heads, 4, is"]),
    ('"tiny"', '"unsure"', ["models.toml: model[3].shape.gated_ffn = 1: true or false is"]),
    ('"tiny"', '"huge"', ["target.model = 'huge': a model of up to 1.0 GB, the memory of"]),
    ('"tiny"', '"tiny"\nused_cells = 4000000', ["target.used_cells = 4000000: 0 to ", "fits bes"]),
    ('"tiny"', '"tiny"\nprefill = {}', ["target.prefill = {}: accepted only with measured times"]),
    ('models = "models.toml"', "", ["models is missing: a text is accepted"]),
    ('"models.toml"', '"empty.toml"', ["models = 'empty.toml'", "this one has none"]),
    # A file of models is named where it is at fault.
    ('"models.toml"', '"list.toml"', ["list.toml: model = 'tiny': an array of tables, [[model]],"]),
    ('"models.toml"', '"shapeless.toml"', ["shapeless.toml: model[0].shape is missing: a table"]),
]
BAD_STAGES = [
    ('model = "tiny"', 'model = "tiny"\nused_cells = 4000', ["target.model = 'tiny': it has 2 bl"]),
    ('"tiny"', '"huge"', ["target.model = 'huge': up to 512 layers are accepted with stages"]),
    ('"tiny"', '"tiny"\ndecode = {}', ["target.decode = {}: accepted only without stages"]),
    ('"nano"', '"the target"', ["target.stage[0].name = 'the target': a name that no other"]),
    ("rtt_ms = 3", "rtt_ms = -1", ["target.stage[0].rtt_ms = -1: a number from 0 to"]),
    (
        SPLIT[SPLIT.index("[[t") : SPLIT.index("[[s")],
        "stage = []\n",
        ["target.stage = []: 1 to 16"],
    ),
]


@pytest.mark.parametrize(
    ("base", "old", "new", "parts"),
    [(GOOD, *row) for row in BAD]
    + [(ANALYTIC, *row) for row in BAD_DEVICES]
    + [(SPLIT, *row) for row in BAD_STAGES],
)
def test_a_bad_file_is_told_in_one_line(base, old, new, parts):
    assert old in base
    with pytest.raises(ScenarioError) as caught:
        scenario(base.replace(old, new, 1))
    line = str(caught.value)
    assert line.startswith("bad.toml: ")
    assert "\n" not in line
    assert len(line) < 300
    assert [part for part in parts if part not in line] == []


JUNK = st.one_of(
    st.booleans(),
    st.integers(-3, 70_000),
    st.integers(10**20, 10**40),
    st.floats(),
    st.floats(0, 1),
    st.sampled_from(["", "nano", "7 kbit/s", "a\nb", "\x00", "x" * 500]),
    st.lists(st.floats(0, 1), max_size=3),
    st.just({}),
    st.just({"sizes": [3], "seconds": [1e-3]}),
)


def places(value, path=()):
    """Every place of nested tables and arrays."""
    children = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in children:
        yield (*path, key)
        if isinstance(child, dict | list):
            yield from places(child, (*path, key))


@pytest.mark.slow
@settings(max_examples=150)
@given(st.data())
def test_whatever_a_file_holds_it_is_refused_in_one_line_or_can_be_planned(data):
    mapping = tomllib.loads(data.draw(st.sampled_from([GOOD, SPLIT])))
    for _ in range(data.draw(st.integers(1, 2))):
        *above, last = data.draw(st.sampled_from(list(places(mapping))))
        table = mapping
        for key in above:
            table = table[key]
        table[last] = copy.deepcopy(data.draw(JUNK))
    refusal = None
    try:
        found = read(mapping).observation
    except ScenarioError as error:
        refusal = str(error)
    if refusal is not None:
        assert "\n" not in refusal
        assert refusal.startswith("bad.toml: ")
        return
    text = text_of(explain(found, data.draw(st.sampled_from(list(POLICIES)))), "x")
    assert [line for line in text.splitlines() if len(line) > 80] == []
