"""What a stage runs: which names of parts it accepts, and where it finds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from airdraft.nodes.catalog.sample import sample_of
from airdraft.nodes.catalog.stages import part_path
from airdraft.nodes.config.settings import ConfigError, StageEngine
from airdraft.nodes.engine.llama_abi import hash_file
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.service.stages import StageParts
from airdraft.nodes.stage.parts import Part
from tests.engine.kernels.tiny_models import Shape, write_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIRDRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_model(path, Shape(256, 4, 1, 64, 256, layers=4), "Q8_0")
    return path


def parts_of(settings: StageEngine) -> StageParts:
    return StageParts(settings, lambda *_: None)


@pytest.mark.parametrize(
    ("model_hash", "file"),
    [
        ("ab" * 32, "../../x.gguf"),
        ("ab" * 32, "a/b.gguf"),
        ("ab" * 32, ".gguf"),
        ("ab" * 32, "plan.json"),
        ("ab" * 32, "x.gguf\n"),
        ("../" * 20, "x.gguf"),
        ("ab" * 31, "x.gguf"),
    ],
)
def test_a_target_can_name_no_file_outside_the_folder_of_parts(
    cache: Path, model_hash: str, file: str
) -> None:
    parts = parts_of(StageEngine())
    assert parts.refusal(Part(model_hash, file, 0, 2)) == "this is no part of a model"
    good = Part("ab" * 32, "x-0-2.gguf", 0, 2)
    assert not parts.refusal(good)
    assert parts.place(good).is_relative_to(cache / "stages")


def test_a_part_is_found_or_cut_from_the_whole_model(cache: Path, whole: Path) -> None:
    model_hash = hash_file(whole)
    part = Part(model_hash, "tiny-0-2.gguf", 0, 2)
    nothing = parts_of(StageEngine())
    assert nothing.find(part) is None
    cut = parts_of(StageEngine(model=str(whole))).find(part)
    assert cut == part_path(cache / "stages", model_hash, part.file)
    # It is there now for a stage that has not got the whole model.
    assert nothing.find(part) == cut
    # A file with that name and other blocks is none.
    assert nothing.find(Part(model_hash, part.file, 0, 3)) is None


def test_a_stage_that_was_started_with_a_part_runs_no_other(cache: Path, whole: Path) -> None:
    model_hash = hash_file(whole)
    parts = parts_of(StageEngine(model=str(whole), part="0-2"))
    assert parts.fixed == Part(model_hash, "tiny-0-2.gguf", 0, 2)
    assert not parts.refusal(Part(model_hash, "any.gguf", 0, 2))
    assert parts.refusal(Part(model_hash, "tiny-0-3.gguf", 0, 3)) == "it has the blocks 0 to 1"
    assert parts.refusal(Part("ab" * 32, "any.gguf", 0, 2)) == "this is a stage of another model"
    with pytest.raises(ConfigError, match="is the last part, which a target has"):
        parts_of(StageEngine(model=str(whole), part="2-4"))


def test_passes_are_measured_without_the_weights(cache: Path, whole: Path) -> None:
    sample = sample_of(whole, hash_file(whole))
    assert len(sample.header) < 8192
    passes = parts_of(StageEngine()).measure(sample.header, sample.file_bytes)
    # The file of the form has room for all weights, and none of them.
    assert sample.block_bytes < sample.file_bytes < whole.stat().st_size
    assert passes.at(1) <= passes.at(16) < 1.0
    assert not list((cache / "stages").iterdir())


def test_what_is_no_sample_is_refused(cache: Path, whole: Path) -> None:
    sample = sample_of(whole, hash_file(whole))
    parts = parts_of(StageEngine())
    with pytest.raises(EngineError, match=r"no memory to measure passes of 1125899\.91 GB"):
        parts.measure(sample.header, 1 << 50)
    with pytest.raises(EngineError, match="passes cannot be measured: is not a GGUF file"):
        parts.measure(b"x" * 100, 4096)
    with pytest.raises(EngineError, match="passes cannot be measured: is truncated"):
        parts.measure(sample.header, 65_536)
    assert not list((cache / "stages").iterdir())
