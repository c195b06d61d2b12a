"""Where models can be cut into stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airdraft.nodes.catalog.cuts import CutError, parts_of, possible_cuts
from airdraft.nodes.catalog.stages import write_stage
from airdraft.nodes.engine.metadata import Blocks
from tests.engine.kernels.tiny_models import Shape, write_header, write_model

# Longer than a second or two.
pytestmark = pytest.mark.slow

SHAPE = Shape(256, 4, 1, 64, 256, layers=6)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_model(path, SHAPE, "Q8_0")
    return path


def header(path: Path, kind: str, blocks: int, **keys: Any) -> Path:
    """A file that says of what kind its blocks are. keys: more, with __ in place of dots."""
    named = {f"{kind}.{key.replace('__', '.')}": value for key, value in keys.items()}
    write_header(path, {"general.architecture": kind, f"{kind}.block_count": blocks, **named})
    return path


def test_blocks_that_are_alike_can_be_cut_anywhere(path: Path) -> None:
    assert possible_cuts(path) == ([1, 2, 3, 4, 5], 6)
    assert parts_of(path, [1, 4]) == [Blocks(0, 1, 6), Blocks(1, 4, 6), Blocks(4, 6, 6)]
    for cuts in ([0], [6], [3, 3], [4, 1]):
        with pytest.raises(CutError, match="rising numbers of 1 to 5 are accepted"):
            parts_of(path, cuts)


def test_each_part_of_a_hybrid_has_blocks_of_both_kinds(tmp_path: Path) -> None:
    # Every other block is recurrent.
    write_model(tmp_path / "hybrid.gguf", SHAPE, "Q8_0", is_hybrid=True)
    assert possible_cuts(tmp_path / "hybrid.gguf") == ([2, 4], 6)
    with pytest.raises(CutError, match="rising numbers of 2, 4 are accepted"):
        parts_of(tmp_path / "hybrid.gguf", [3])


@pytest.mark.parametrize(
    ("kind", "keys", "cuts"),
    [
        ("qwen35", {}, [4, 8]),
        ("qwen35", {"full_attention_interval": 3}, [3, 6, 9]),
        # The last of these blocks are heads that guess.
        ("qwen3next", {"nextn_predict_layers": 4}, [4]),
        ("gpt-oss", {}, [2, 4, 6, 8, 10]),
        ("smollm3", {}, [4, 8]),
        ("falcon-h1", {}, list(range(1, 12))),
        ("lfm2", {"attention__head_count_kv": [0, 0, 4, 0, 4, 0, 4, 4, 0, 0, 0, 0]}, [3, 5, 7]),
        ("lfm2", {}, []),
        (
            "nemotron_h",
            {
                "attention__head_count_kv": [4, 0, 0, 4, 0, 0, 4, 0, 0, 4, 0, 0],
                # Every third block is a network alone.
                "feed_forward_length": [0, 0, 9, 0, 0, 9, 0, 0, 9, 0, 0, 9],
            },
            [2, 5, 8],
        ),
    ],
)
def test_the_kinds_of_blocks_say_where(
    tmp_path: Path, kind: str, keys: dict[str, Any], cuts: list[int]
) -> None:
    assert possible_cuts(header(tmp_path / "m.gguf", kind, 12, **keys)) == (cuts, 12)


def test_what_cannot_be_cut_is_told(path: Path, tmp_path: Path) -> None:
    other = header(tmp_path / "other.gguf", "gemma4", 12)
    with pytest.raises(CutError, match=r"other\.gguf: models of the kind gemma4 cannot be split"):
        possible_cuts(other)
    with pytest.raises(CutError, match="rising numbers of no block are accepted"):
        parts_of(header(tmp_path / "m.gguf", "lfm2", 12), [6])
    write_stage(path, Blocks(0, 2, 6), "ab" * 32, tmp_path / "1.gguf", lambda *_: None)
    with pytest.raises(CutError, match=r"1\.gguf is a stage already"):
        possible_cuts(tmp_path / "1.gguf")
