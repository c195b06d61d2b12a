"""A stage that has not got its part gets the file from the target."""

import contextlib

import numpy as np
import pytest

from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.protocol import EngineError
from tests.nodes.stage.scene import HASH, chain, configured, refusal, stage, texts_of

# Longer than a second or two.
pytestmark = pytest.mark.slow


def test_a_stage_gets_the_file_of_its_part_from_the_target(files, tmp_path):
    whole, *parts = files
    with contextlib.closing(LlamaModel(configured(whole), model_hash=HASH)) as model:
        wanted = texts_of(model)
    made = tmp_path / "0.gguf"
    arrived = parts[0].read_bytes()
    # What an earlier attempt left is not sent again, if the whole has the right hash.
    (tmp_path / "0.gguf.incoming").write_bytes(arrived[:100_000])
    with (
        stage(None, f"ipc://{tmp_path}/1", folder=tmp_path) as (one, _),
        stage(parts[1], f"ipc://{tmp_path}/2") as (two, _),
        chain(parts, [one, two], sends=True) as model,
    ):
        for found, row in zip(texts_of(model), wanted, strict=True):
            assert np.array_equal(found, row)
    assert made.read_bytes() == arrived
    assert not list(tmp_path.glob("*.incoming"))


def test_a_file_that_arrived_damaged_is_not_used(files, tmp_path):
    _, *parts = files
    (tmp_path / "0.gguf.incoming").write_bytes(b"x" * 100_000)
    with (
        stage(None, f"ipc://{tmp_path}/1", folder=tmp_path) as (one, _),
        stage(parts[1], f"ipc://{tmp_path}/2") as (two, _),
    ):
        with (
            pytest.raises(EngineError, match=r"1: 0.gguf arrived damaged: it is fetched again"),
            chain(parts, [one, two], sends=True),
        ):
            pass
        assert not list(tmp_path.glob("0.gguf*"))
        with chain(parts, [one, two], sends=True):
            pass
    assert (tmp_path / "0.gguf").exists()


def test_a_file_that_nobody_has_is_told(files, tmp_path):
    _, *parts = files
    with (
        stage(None, f"ipc://{tmp_path}/1", folder=tmp_path) as (one, _),
        stage(parts[1], f"ipc://{tmp_path}/2") as (two, _),
    ):
        told = refusal(parts, [one, two])
    assert "1 lacks 0.gguf, which cannot be sent: this machine has no 0.gguf" in told
