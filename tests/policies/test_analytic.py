"""The cost model against the products of a forward pass, and against published speeds."""

import dataclasses
import itertools
import tomllib
from pathlib import Path

import pytest

from airdraft.policies.analytic import (
    Device,
    TransformerShape,
    max_cells,
    node_costs,
    pass_bytes,
    pass_flops,
    pass_seconds,
)

PROFILES = Path(__file__).parents[2] / "bench" / "profiles"
DEVICES = ("desktop-gpu", "jetson-agx-orin", "jetson-orin-nano", "mini-pc", "raspberry-pi-5")
TINY = TransformerShape(
    layers=3, hidden_size=10, heads=4, kv_heads=2, head_dim=3, ffn_size=7, vocab_size=11
)
BOX = Device(
    name="box",
    flops_per_s=1e6,
    bytes_per_s=1e5,
    compute_efficiency=0.5,
    memory_efficiency=0.8,
    pass_overhead_s=0.25,
    layer_overhead_s=0.125,
    memory_bytes=1e5,
)


def profile(name):
    with (PROFILES / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


MODELS = {item["name"]: item for item in profile("models")["model"]}


def model(name, **changes):
    return TransformerShape(**MODELS[name]["shape"] | changes)


def counted(s, num_tokens, held, num_logits):
    """FLOPs, weights and moved bytes of a pass of one sequence, one product after the other."""
    q_size, kv_size = s.heads * s.head_dim, s.kv_heads * s.head_dim
    ups = 2 if s.gated_ffn else 1
    shapes = [(s.hidden_size, q_size), *[(s.hidden_size, kv_size)] * 2, (q_size, s.hidden_size)]
    shapes += [*[(s.hidden_size, s.ffn_size)] * ups, (s.ffn_size, s.hidden_size)]
    flops = weights = cells = 0
    for _ in range(s.layers):
        weights += 2 * s.hidden_size  # the two norms
        weights += sum(rows * columns for rows, columns in shapes)
        flops += sum(2 * num_tokens * rows * columns for rows, columns in shapes)
        for row, _head in itertools.product(range(num_tokens), range(s.heads)):
            # Scores of the cells before it and of its own, and the sum of their values.
            flops += 2 * 2 * s.head_dim * (held + row + 1)
        cells += 2 * (held + num_tokens) * kv_size
    weights += s.hidden_size
    table = s.vocab_size * s.hidden_size
    read = weights + (table if num_logits else 0)
    flops += 2 * num_logits * table
    weights += table if s.tied_embeddings else 2 * table
    return flops, weights, read * s.bits_per_weight / 8 + cells * s.kv_bits / 8


def attended(num_tokens, held):
    """Cells to which the new tokens of one sequence attend."""
    return num_tokens * held + num_tokens * (num_tokens + 1) / 2


SHAPES = [
    TINY,
    dataclasses.replace(TINY, gated_ffn=False, kv_heads=4, kv_bits=8.5),
    dataclasses.replace(TINY, tied_embeddings=True, kv_heads=1, bits_per_weight=4.5, layers=1),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("tokens", "held", "logits"), [(1, 0, 1), (1, 9, 1), (5, 0, 0), (4, 7, 4), (6, 3, 1)]
)
def test_counts_are_those_of_a_forward_pass(shape, tokens, held, logits):
    flops, weights, moved = counted(shape, tokens, held, logits)
    assert pass_flops(shape, tokens, attended(tokens, held), logits) == flops
    assert pass_bytes(shape, tokens, held, logits) == pytest.approx(moved)
    assert shape.num_parameters == weights
    assert shape.weight_bytes == pytest.approx(weights * shape.bits_per_weight / 8)


@pytest.mark.parametrize(
    "name", [n for n, item in MODELS.items() if "published_parameters" in item]
)
def test_parameters_are_the_published_ones(name):
    published = MODELS[name]["published_parameters"]
    assert model(name).num_parameters == pytest.approx(published, rel=0.005)


def test_a_pass_takes_the_longer_of_computing_and_reading():
    flops, moved = pass_flops(TINY, 4, attended(4, 2), 4), pass_bytes(TINY, 4, 2, 4)
    compute_s, memory_s = flops / 0.5e6, moved / 0.8e5
    assert memory_s > compute_s
    seconds = pass_seconds(TINY, BOX, 4, attended(4, 2), 2, 4)
    assert seconds == pytest.approx(0.25 + 3 * 0.125 + memory_s)
    summed = dataclasses.replace(BOX, overlap=0.0)
    assert pass_seconds(TINY, summed, 4, attended(4, 2), 2, 4) == pytest.approx(seconds + compute_s)
    half = dataclasses.replace(BOX, overlap=0.5)
    assert pass_seconds(TINY, half, 4, attended(4, 2), 2, 4) == pytest.approx(
        seconds + compute_s / 2
    )


@pytest.mark.parametrize("used_cells", [0, 3000])
def test_tables_are_passes_that_share_one_cache(used_cells):
    """Every token of a decode pass sees all used cells, which are read once."""
    costs = node_costs(TINY, BOX, used_cells=used_cells)
    for size in costs.decode.sizes:
        flops = pass_flops(TINY, size, size * attended(1, used_cells), size)
        moved = pass_bytes(TINY, size, used_cells, size)
        expected = 0.25 + 3 * 0.125 + max(flops / 0.5e6, moved / 0.8e5)
        assert costs.decode.at(size, used_cells) == pytest.approx(expected)
    for size in costs.prefill.sizes:
        expected = pass_seconds(TINY, BOX, size, attended(size, used_cells), used_cells, 0)
        assert costs.prefill.at(size, used_cells) == pytest.approx(expected)


def test_cells_that_fit():
    shape = model("llama-2-7b")
    device = dataclasses.replace(BOX, memory_bytes=shape.weight_bytes + 10.5 * 2**19)
    assert shape.kv_bytes_per_token == 2**19  # 32 layers, 32 heads, 128 numbers, twice, 2 bytes
    assert max_cells(shape, device) == 10
    assert max_cells(shape, BOX) == 0


@pytest.mark.parametrize("name", DEVICES)
def test_predictions_meet_published_speeds(name):
    content = profile(name)
    figures = {key: value for key, value in content["device"].items() if key != "kind"}
    device = Device(**figures)
    for item in content["measured"]:
        shape = model(item["model"], bits_per_weight=item["bits_per_weight"])
        new, held = item["tokens"], item["context"]
        seconds = pass_seconds(shape, device, new, attended(new, held), held, 1)
        assert item["tokens"] / seconds == pytest.approx(item["tokens_per_s"], rel=0.2), item


@pytest.mark.parametrize("name", DEVICES)
def test_every_figure_of_a_profile_has_a_source(name):
    content = profile(name)
    numbers = set(content["device"]) - {"name", "kind"}
    sources = content["source"]
    assert numbers == {item["field"] for item in sources}
    assert set(content["extrapolated"]) <= numbers
    assert all(item.get("url") or item.get("title") for item in sources + content["measured"])
    assumed = {item["field"] for item in sources if item.get("title") == "assumed"}
    assert assumed <= set(content["extrapolated"])
    assert content["device"]["kind"]


def test_every_model_has_a_source():
    for item in MODELS.values():
        assert {"shape"} <= {source["field"] for source in item["source"]}
        assert ("published_parameters" in item) == (len(item["source"]) == 2)
