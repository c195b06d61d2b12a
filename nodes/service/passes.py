"""Measures on this machine what passes of some blocks of a model take, without the model."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path

from airdraft.nodes.catalog.gguf import GgufError, declared_by
from airdraft.nodes.catalog.sample import write_sample
from airdraft.nodes.config.settings import EngineSettings
from airdraft.nodes.engine.cores import available_memory
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.engine.split.stage import StageModel
from airdraft.nodes.engine.split.timing import stage_times
from airdraft.nodes.worker.engines import llama_config
from airdraft.policies.latency import CostTable


def measured_passes(
    sample: bytes, file_bytes: int, settings: EngineSettings, folder: Path
) -> CostTable:
    """Returns the times of passes. sample, file_bytes: as of Sample in nodes/catalog/sample.py.

    folder: where the file is meanwhile. Raises EngineError.
    """
    # The weights are in memory twice while they are laid out anew.
    if 2 * file_bytes > available_memory():
        raise EngineError(f"no memory to measure passes of {file_bytes / 1e9:.2f} GB")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="sample-") as made:
            path = Path(made) / "sample.gguf"
            write_sample(sample, file_bytes, path)
            config = llama_config(replace(settings, max_streams=1), path)
            model = StageModel(config, model_hash=declared_by(path).model_hash)
            with contextlib.closing(model):
                return stage_times(model)
    except (GgufError, OSError) as error:
        raise EngineError(f"passes cannot be measured: {error}") from error
