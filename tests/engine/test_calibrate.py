"""Calibration measures what a pass costs, and its result comes back from the cache whole."""

import dataclasses
import itertools
import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from airdraft.nodes.engine import calibrate as calibrate_module
from airdraft.nodes.engine.calibrate import (
    as_fast_as_now,
    cache_key,
    calibrate,
    is_much_faster_now,
    load_cached,
    store,
)
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.protocol import InvalidInputError
from airdraft.nodes.engine.selftest import SelfTest
from airdraft.nodes.engine.toy import ToyConfig, ToyModel
from airdraft.policies.latency import CostTable, NodeCosts

COSTS = NodeCosts(
    CostTable((1, 2, 8), (0.001, 0.0015, 0.1 + 0.2), 1e-9, 1e-7), CostTable((32,), (0.004,), 0.0)
)


class PricedModel(ToyModel):
    """Passes take 1 ms, 0.1 ms a token, and for each token 1 us a used cell and 9 an own one."""

    def __init__(self):
        super().__init__()
        self.now_s = 0.0

    def forward(self, spans):
        num_tokens = sum(len(span.token_ids) for span in spans)
        used = self.info.num_cells - self.free_cells()
        own = sum(len(span.token_ids) * span.start for span in spans)
        self.now_s += 1e-3 + 1e-4 * num_tokens + 1e-6 * used * num_tokens + 9e-6 * own
        return super().forward(spans)


@pytest.fixture
def priced(monkeypatch):
    model = PricedModel()
    monkeypatch.setattr(calibrate_module, "time", SimpleNamespace(perf_counter=lambda: model.now_s))
    return model


def test_costs_are_those_of_the_passes(priced):
    seen = []
    costs = calibrate(priced, progress=lambda *step: seen.append(step))
    for table in (costs.decode, costs.prefill):
        assert table.seconds == pytest.approx([1e-3 + 1e-4 * n for n in table.sizes])
    assert costs.decode.per_cell_s == pytest.approx(1e-6)
    assert costs.decode.per_own_cell_s == pytest.approx(9e-6)
    assert costs.decode.at(4, used_cells=100) == pytest.approx(1e-3 + 4e-4 + 4e-4)
    assert priced.free_cells() == priced.info.num_cells
    total = len(seen)
    assert seen == [("calibrating", done, total) for done in range(1, total + 1)]


def test_a_model_that_cannot_roll_back_is_measured_without_cells(priced, monkeypatch):
    """As recurrent models of llama.cpp: their sequences can only be freed."""
    priced.info = dataclasses.replace(priced.info, can_cut=False, can_take_back=False)
    truncate = priced.truncate

    def freed(seq_id, length):
        if 0 < length < priced.length(seq_id):
            raise InvalidInputError("the model cannot roll back a sequence")
        truncate(seq_id, length)

    monkeypatch.setattr(priced, "truncate", freed)
    seen = []
    costs = calibrate(priced, progress=lambda *step: seen.append(step))
    assert costs.decode.seconds == pytest.approx([1e-3 + 1e-4 * n for n in costs.decode.sizes])
    assert (costs.decode.per_cell_s, costs.decode.per_own_cell_s) == (0, 0)
    assert seen[-1][1] == seen[-1][2]
    assert priced.free_cells() == priced.info.num_cells


@pytest.mark.parametrize("max_batch_tokens", [1, 16, 40])
def test_sizes_stay_within_the_engines_limit(max_batch_tokens):
    model = ToyModel(ToyConfig(max_batch_tokens=max_batch_tokens))
    costs = calibrate(model)
    assert max(costs.decode.sizes + costs.prefill.sizes) <= max_batch_tokens
    assert min(costs.decode.seconds) > 0
    assert model.free_cells() == model.info.num_cells


def test_a_machine_that_is_busy_now_and_then_gives_the_table_of_an_idle_one(priced, monkeypatch):
    """Half of all passes take up to ten times as long."""
    source, forward = random.Random(1), priced.forward

    def disturbed(spans):
        before_s = priced.now_s
        logits = forward(spans)
        if source.random() < 0.5:
            priced.now_s += source.uniform(0, 9) * (priced.now_s - before_s)
        return logits

    monkeypatch.setattr(priced, "forward", disturbed)
    costs = calibrate(priced)
    seconds = costs.decode.seconds
    assert seconds == pytest.approx([1e-3 + 1e-4 * n for n in costs.decode.sizes], rel=0.25)
    assert sorted(seconds) == list(seconds)


def test_a_machine_that_becomes_busier_does_not_seem_to_pay_for_cells(priced, monkeypatch):
    """Once other sequences are in the cache, each pass takes 0.1 s more."""
    forward, later = priced.forward, [False]

    def slower(spans):
        later[0] |= priced.free_cells() < priced.info.num_cells
        priced.now_s += 0.1 * later[0]
        return forward(spans)

    monkeypatch.setattr(priced, "forward", slower)
    assert calibrate(priced).decode.per_cell_s == pytest.approx(1e-6)


@pytest.mark.parametrize(("factor", "is_faster"), [(0.5, False), (1.1, False), (1.5, True)])
def test_a_calibration_of_a_busy_machine_is_recognised(priced, factor, is_faster):
    costs = calibrate(priced)
    known = NodeCosts(costs.decode.scaled(factor), costs.prefill.scaled(factor))
    assert is_much_faster_now(priced, known) == is_faster
    # Without another calibration its costs are scaled.
    now = as_fast_as_now(priced, known)
    assert now.decode.at(4) == pytest.approx((costs if is_faster else known).decode.at(4))
    assert (now is known) != is_faster
    assert priced.free_cells() == priced.info.num_cells


def test_a_stored_result_comes_back_equal(tmp_path):
    directory = tmp_path / "new" / "calibration"
    for self_test in (SelfTest(True, "", "a1"), SelfTest(False, "a pass of 5 differs")):
        store(directory, "key", self_test, COSTS)
        assert load_cached(directory, "key") == (self_test, COSTS)
    assert [path.name for path in directory.iterdir()] == ["key.json"]
    assert load_cached(directory, "other") is None


TABLE = {"sizes": [1, 2], "seconds": [1.0, 2.0], "per_cell_s": 0.0, "per_own_cell_s": 0.0}
GOOD = {"exact": True, "failure": "", "digest": "a1", "decode": TABLE, "prefill": TABLE}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff\xfe", b"[1, 2]", b"null", json.dumps(GOOD).encode()[:-10]),
        {"exact": "false"},
        {"failure": 7},
        {"decode": TABLE | {"sizes": [2, 1]}},
        {"decode": TABLE | {"seconds": ["1", 1.0]}},
        {"prefill": TABLE | {"per_cell_s": "0"}},
        {"prefill": TABLE | {"per_own_cell_s": -1.0}},
        {"prefill": {"sizes": [1]}},
    ],
)
def test_a_damaged_file_counts_as_none(tmp_path, content):
    data = content if isinstance(content, bytes) else json.dumps(GOOD | content).encode()
    (tmp_path / "key.json").write_bytes(data)
    assert load_cached(tmp_path, "key") is None


def test_the_key_changes_with_all_that_changes_the_costs():
    info = ToyModel().info

    def key(info=info, library="files", prefix_lens=(24,), **form):
        return cache_key(info, LlamaConfig(path=Path("m.gguf"), **form), library, prefix_lens)

    keys = [
        key(),
        key(dataclasses.replace(info, model_hash="another")),
        key(dataclasses.replace(info, numerics_class="another")),
        key(num_threads=2),
        key(profile="fast"),
        key(library="others"),
        key(repack=False),
        key(prefix_lens=(24, 520)),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_less_is_measured_of_a_slow_model(priced, monkeypatch):
    looks = itertools.count(1)
    seen = []
    with monkeypatch.context() as patch:
        slow = SimpleNamespace(perf_counter=lambda: priced.now_s + 0.05 * next(looks))
        patch.setattr(calibrate_module, "time", slow)
        costs = calibrate(priced, progress=lambda *step: seen.append(step))
    assert priced.now_s < 0.1
    assert {1, 8} < set(costs.decode.sizes) < set(calibrate(priced).decode.sizes)
    assert costs.decode.per_own_cell_s == 0
    assert [done for _, done, _ in seen] == list(range(1, seen[-1][2] + 1))
