"""open_model: the fastest exact form, tested and timed once; with an engine that costs nothing."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from airdraft.nodes.engine import llama_abi, load
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.load import open_model
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.engine.selftest import SelfTest
from airdraft.nodes.engine.toy import ToyModel, ToyTokenizer
from airdraft.policies.latency import CostTable, NodeCosts

COSTS = NodeCosts(CostTable((1, 8), (0.01, 0.02)), CostTable((32,), (0.1,)))


class FakeLlama(ToyModel):
    opened: list[FakeLlama]

    def __init__(self, config, *, model_hash=None):
        super().__init__()
        self.tokenizer = ToyTokenizer(self.info.num_vocab)
        self.llama_config = config
        self.has_kernels = config.repack
        self.model_hash = model_hash
        self.closed = False
        self.verdict = None
        self.opened.append(self)

    def set_tested(self, *, exact, digest, software):
        self.verdict = exact
        self.digest = digest

    def first_difference(self):
        return "MUL_MAT of blk.0.ffn_up.weight (q4_1)"

    def close(self):
        self.closed = True


@pytest.fixture
def machine(monkeypatch):
    """A machine that notes its calls; exact_with says which forms of weights are exact on it."""

    machine = SimpleNamespace(exact_with={True: True, False: True}, calls=[], is_faster=False)
    FakeLlama.opened = []

    def self_test(model, *, prefix_lens):
        machine.calls.append("self-test")
        machine.longest = max(prefix_lens)
        exact = machine.exact_with[model.llama_config.repack]
        return SelfTest(exact, "" if exact else "a pass of 2 differs", "bits")

    def calibrate(model, *, progress=None):
        machine.calls.append("calibrate")
        return COSTS

    def key(info, config, library, prefix_lens):
        assert library == "files"
        return f"{config.repack}-{config.num_threads}-{config.profile}"

    monkeypatch.setattr(load, "LlamaModel", FakeLlama)
    monkeypatch.setattr(load, "run_self_test", self_test)
    monkeypatch.setattr(load, "calibrate", calibrate)
    monkeypatch.setattr(load, "is_much_faster_now", lambda _model, _costs: machine.is_faster)
    monkeypatch.setattr(load, "cache_key", key)
    monkeypatch.setattr(load, "library_hash", lambda: "files")
    return machine


def config(tmp_path, **changes):
    return LlamaConfig(path=tmp_path / "m.gguf", **changes)


@pytest.mark.parametrize(
    ("plain", "repacked", "taken", "verdict"),
    [
        pytest.param(True, True, [True], True, id="repacked weights where they are exact"),
        pytest.param(True, False, [True, False], True, id="plain ones where only they are"),
        # Nothing is promised, so it may as well be fast.
        pytest.param(False, False, [True, False, True], False, id="repacked where none is exact"),
    ],
)
def test_the_fastest_exact_form_is_taken(
    machine, tmp_path, caplog, plain, repacked, taken, verdict
):
    machine.exact_with = {False: plain, True: repacked}
    opened = open_model(config(tmp_path), None)
    *others, last = FakeLlama.opened
    assert [model.llama_config.repack for model in FakeLlama.opened] == taken
    assert (opened.model, opened.costs, last.closed) == (last, COSTS, False)
    assert all(model.closed for model in others)
    assert (last.verdict, last.digest) == (verdict, "bits")
    assert machine.calls == ["self-test", "calibrate"] * len(taken)
    # The file is hashed once.
    known = {model.model_hash for model in FakeLlama.opened[1:]}
    assert known <= {FakeLlama.opened[0].info.model_hash}
    told = "not exact on this device: a pass of 2 differs: MUL_MAT of blk.0"
    assert (told in caplog.text) == (not verdict)


def test_profile_fast_is_not_tested_and_promises_nothing(machine, tmp_path):
    opened = open_model(config(tmp_path, profile="fast"), None)
    assert machine.calls == ["calibrate"]
    assert opened.model.verdict is False
    assert opened.model.llama_config.repack


def test_a_model_that_cannot_roll_back_is_tested_beyond_the_pieces_of_its_layers(
    machine, tmp_path, monkeypatch
):
    class Recurrent(FakeLlama):
        def __init__(self, config, *, model_hash=None):
            super().__init__(config, model_hash=model_hash)
            self.info = replace(self.info, can_cut=False, can_take_back=False)

    monkeypatch.setattr(load, "LlamaModel", Recurrent)
    assert open_model(config(tmp_path), None).model.verdict is True
    # Of 64 tokens each.
    assert machine.longest > 2 * 64


def test_an_architecture_without_flash_attention_is_never_exact(
    machine, tmp_path, caplog, monkeypatch
):
    architecture = {"general.architecture": "grok"}
    monkeypatch.setattr(FakeLlama, "metadata", lambda _self, key: architecture.get(key, ""))
    model = open_model(config(tmp_path), None).model
    assert (model.verdict, model.digest) == (False, "bits")
    assert "adds up the cells of other sequences" in caplog.text


def test_without_a_known_difference_or_a_cache_it_serves_all_the_same(
    machine, tmp_path, caplog, monkeypatch
):
    def no_context(_model):
        raise EngineError("no context")

    machine.exact_with = {True: False, False: False}
    monkeypatch.setattr(FakeLlama, "first_difference", no_context)
    (tmp_path / "cache").write_text("a file in the way")
    opened = open_model(config(tmp_path), tmp_path / "cache")
    assert (opened.model.verdict, opened.costs) == (False, COSTS)
    assert "not exact on this device: a pass of 2 differs" in caplog.text
    assert "the calibration cannot be kept" in caplog.text


def test_the_second_opening_measures_nothing(machine, tmp_path):
    machine.exact_with = {True: False, False: True}
    first = open_model(config(tmp_path), tmp_path / "cache")
    machine.calls.clear()
    second = open_model(config(tmp_path), tmp_path / "cache")
    assert machine.calls == []
    assert (second.self_test, second.costs) == (first.self_test, first.costs)
    assert (second.model.llama_config.repack, second.model.verdict) == (False, True)


def test_times_of_a_busy_machine_are_measured_again_without_another_test(machine, tmp_path):
    first = open_model(config(tmp_path), tmp_path / "cache")
    machine.calls.clear()
    machine.is_faster = True
    second = open_model(config(tmp_path), tmp_path / "cache")
    assert machine.calls == ["calibrate"]
    assert second.self_test == first.self_test


def test_one_sequence_alone_is_measured_with_room_for_two(machine, tmp_path):
    opened = open_model(config(tmp_path, max_sequences=1), None)
    assert FakeLlama.opened == [opened.model]
    assert opened.model.llama_config.max_sequences == 2
    assert opened.model.info.max_sequences == 1


def test_builds_that_differ_in_a_file_have_other_hashes(monkeypatch, tmp_path):
    monkeypatch.setattr(llama_abi, "library", lambda: llama_abi)
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    hash_of_files = llama_abi.library_hash.__wrapped__
    cpu = tmp_path / "libggml-cpu.so"
    cpu.write_bytes(b"compiled for the machine")
    hashes = [hash_of_files()]
    (tmp_path / "README").write_text("no part of it")
    assert [hash_of_files()] == hashes
    cpu.write_bytes(b"compiled with a flag ...")
    hashes.append(hash_of_files())
    monkeypatch.setenv("AIRDRAFT_KERNELS", "any")
    assert len({*hashes, hash_of_files()}) == 3
