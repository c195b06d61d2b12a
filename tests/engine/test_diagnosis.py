"""The diagnosis names the operation that depends on the batch, as some of ggml's kernels do."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tests.engine.kernels.tiny_models import SHAPES, write_model
from tests.engine.printed import printed

# A process of its own, for ggml reads such variables once.
_ASK = """
import contextlib, sys
from pathlib import Path
from nodes.engine.llama import LlamaConfig, LlamaModel
config = LlamaConfig(path=Path(sys.argv[1]), num_cells=256, repack=False)
with contextlib.closing(LlamaModel(config)) as model:
    print(model.first_difference())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="ggml has such tiles for x86 alone")
def test_the_first_product_that_depends_on_the_batch_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_model(path, SHAPES["width 512"], "Q6_K")
    assert (
        printed(_ASK, str(path), GGML_CPU_TILED_MM="1") == "MUL_MAT of blk.0.attn_q.weight (q6_K)"
    )
    assert printed(_ASK, str(path), GGML_CPU_TILED_MM="0") == ""
