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
    found = [folder / "tiny.gguf"]
    write_model(found[0], Shape(256, 4, 1, 64, 256, layers=4), "Q8_0")
    for part in parts_of(found[0], [1, 2]):
        found.append(folder / f"{part.first}.gguf")
        write_stage(found[0], part, HASH, found[-1], lambda *_: None)
    return found
