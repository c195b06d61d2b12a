"""A model of random weights in stages, and patience on busy machines."""

from pathlib import Path

import pytest

from airdraft.nodes.catalog.cuts import parts_of
from airdraft.nodes.catalog.stages import write_stage
from airdraft.nodes.stage import chain, node
from tests.engine.kernels.tiny_models import Shape, write_model
from tests.nodes.stage.scene import HASH


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests is not taken for a lost one."""
    monkeypatch.setattr(chain, "_SILENCE_S", 60.0)
    monkeypatch.setattr(node, "_SILENCE_S", 60.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The whole model, and three stages of it."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder / "tiny.gguf", Shape(256, 4, 1, 64, 256, layers=4), "Q8_0")
    return in_parts(folder / "tiny.gguf", [1, 2])


@pytest.fixture(scope="module")
def hybrid_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same of a model whose blocks are recurrent in part."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_model(path, Shape(256, 4, 1, 64, 256, layers=6), "Q8_0", is_hybrid=True)
    return in_parts(path, [2, 4])


def in_parts(path: Path, cuts: list[int]) -> list[Path]:
    found = [path]
    for part in parts_of(path, cuts):
        found.append(path.with_name(f"{part.first}.gguf"))
        write_stage(path, part, HASH, found[-1], lambda *_: None)
    return found
