"""A compact copy of a draft's file is made once, where it is a gain, and is never in the way."""

import contextlib
import logging
import os
from pathlib import Path

import pytest

from airdraft.nodes.catalog import DEFAULT_TARGET, Catalog, CatalogError, default_cache_dir
from airdraft.nodes.catalog.compact import FORM, compact_copy
from airdraft.nodes.catalog.fetch import quantize_in_child
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.protocol import Span
from tests.engine.llama_texts import needs_model
from tests.nodes.catalog.fakes import gguf_bytes

_F32, _Q4_0 = 0, 2
_MANY = 60_000_000


class _Quantizer:
    """Writes a small file, and counts how often."""

    def __init__(self, reason: str = "") -> None:
        self.num_made = 0
        self._reason = reason

    def __call__(self, source: Path, made: Path, file_type: str) -> None:
        self.num_made += 1
        made.write_bytes(gguf_bytes())
        if self._reason:
            raise CatalogError(self._reason)


def _model(folder: Path, num_values: int = _MANY, tensor_type: int = _F32) -> Path:
    """A file with a hole where its weights would be."""
    path = folder / "draft.gguf"
    path.write_bytes(gguf_bytes(num_values, tensor_type=tensor_type, value_bytes=0))
    os.truncate(path, path.stat().st_size + 4 * num_values)
    return path


def test_a_copy_is_made_once_and_goes_by_the_name_of_its_model(tmp_path: Path) -> None:
    path, root, quantize = _model(tmp_path), tmp_path / "cache", _Quantizer()
    copy, copy_hash = compact_copy(path, "abc", root, quantize=quantize)
    assert copy != path
    assert copy.name == path.name
    assert copy.read_bytes() == gguf_bytes()
    assert copy_hash != "abc"
    assert compact_copy(path, "abc", root, quantize=quantize) == (copy, copy_hash)
    assert quantize.num_made == 1
    # Another model of that name has a copy of its own, and a damaged one is made again.
    assert compact_copy(path, "abd", root, quantize=quantize)[0] != copy
    os.truncate(copy, 100)
    assert compact_copy(path, "abc", root, quantize=quantize) == (copy, copy_hash)
    assert copy.read_bytes() == gguf_bytes()


@pytest.mark.parametrize(
    ("num_values", "tensor_type"), [(1000, _F32), (_MANY, _Q4_0)], ids=["small", "compact"]
)
def test_a_file_that_a_copy_would_not_make_faster_is_used(
    tmp_path: Path, num_values: int, tensor_type: int
) -> None:
    path, quantize = _model(tmp_path, num_values, tensor_type), _Quantizer()
    assert compact_copy(path, "abc", tmp_path / "cache", quantize=quantize) == (path, "abc")
    assert not quantize.num_made


def test_where_a_copy_cannot_be_made_the_file_is_used_and_nothing_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, root = _model(tmp_path), tmp_path / "cache"
    with caplog.at_level(logging.WARNING):
        found = compact_copy(path, "abc", root, quantize=_Quantizer("no such type"))
    assert found == (path, "abc")
    assert "no compact copy of draft.gguf can be made" in caplog.text
    assert "no such type" in caplog.text
    assert not list(root.rglob("*.gguf"))


def test_copies_that_were_not_used_for_long_go(tmp_path: Path) -> None:
    path, root, quantize = _model(tmp_path), tmp_path / "cache", _Quantizer()
    first, second, *_ = (
        compact_copy(path, f"{number}", root, quantize=quantize)[0] for number in range(4)
    )
    for age, copy in enumerate((second, first)):
        os.utime(copy.parent, (age, age))
    compact_copy(path, "another", root, quantize=quantize)
    assert first.exists()
    assert not second.exists()


@needs_model
def test_a_real_model_runs_from_its_copy(tmp_path: Path) -> None:
    path = Catalog(default_cache_dir(os.environ)).path(DEFAULT_TARGET)
    made = tmp_path / "copy.gguf"
    quantize_in_child(path, made, FORM)
    # Q8_0 has 34 bytes where Q4_0 has 18.
    assert made.stat().st_size < 0.6 * path.stat().st_size
    config = LlamaConfig(path=made, num_cells=256, profile="fast")
    with contextlib.closing(LlamaModel(config)) as model:
        token_ids = list(model.vocabulary.encode("The capital of France is"))
        logits = model.forward([Span(0, 0, token_ids, 1)])[0]
        best = {model.vocabulary.piece(int(token_id)) for token_id in logits.argsort()[-5:]}
        assert b" Paris" in best
