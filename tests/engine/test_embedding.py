"""Vectors of texts are those that libllama makes by itself."""

import contextlib
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from airdraft.nodes.catalog.gguf import declared_by
from airdraft.nodes.engine.embedding import EmbeddingModel
from airdraft.nodes.engine.llama_abi import library
from airdraft.nodes.engine.protocol import InvalidInputError
from tests.engine.kernels import tiny_models
from tests.engine.kernels.tiny_models import SHAPES, write_model

MEAN, LAST = 1, 3
TEXTS = ("word1 word2 word3", "été", "a" * 150)


@pytest.mark.parametrize("pooling", [MEAN, LAST])
@pytest.mark.parametrize("file_type", ["F16", "Q8_0"])
def test_vectors_are_those_of_libllama(tmp_path: Path, pooling: int, file_type: str) -> None:
    path = tmp_path / "tiny.gguf"
    write_model(path, SHAPES["width 512"], file_type, pooling=pooling)
    assert declared_by(path).traits.embeds
    plain = llama_cpp.Llama(
        str(path), embedding=True, pooling_type=pooling, n_ctx=512, n_batch=512, verbose=False
    )
    made = EmbeddingModel(path, max_tokens=512, num_threads=2)
    with contextlib.closing(plain), contextlib.closing(made) as model:
        assert model.info.traits.embeds
        vectors = []
        for text in TEXTS:
            token_ids = model.vocabulary.encode(text)
            vector = model.embed(token_ids)
            expected = np.asarray(plain.embed(text, normalize=True), dtype=np.float32)
            assert vector.shape == (512,)
            assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-6)
            # Both round activations to 8 bits where weights have no more, in other places.
            assert float(vector @ expected) > 0.999
            if file_type == "F16":
                np.testing.assert_allclose(vector, expected, atol=2e-3)
            assert np.array_equal(model.embed(token_ids), vector)
            vectors.append(vector)
        # Another text has another vector.
        assert abs(float(vectors[0] @ vectors[1])) < 0.99


def test_layers_that_no_gpu_takes_make_no_other_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.gguf"
    write_model(path, SHAPES["width 512"], "Q8_0", pooling=MEAN)
    monkeypatch.setattr(library(), "llama_supports_gpu_offload", lambda: False)
    classes = set()
    for gpu_layers in (0, 99):
        made = EmbeddingModel(path, max_tokens=16, gpu_layers=gpu_layers)
        with contextlib.closing(made) as model:
            classes.add(model.info.numerics_class)
    assert len(classes) == 1


def test_what_is_too_long_or_no_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_model(path, SHAPES["width 512"], "Q8_0", pooling=MEAN)
    with contextlib.closing(EmbeddingModel(path, max_tokens=16)) as model:
        for token_ids in ([], [5] * 17, [300]):
            with pytest.raises(InvalidInputError):
                model.embed(token_ids)
    write_model(path, SHAPES["width 512"], "Q8_0")
    assert not declared_by(path).traits.embeds


def test_a_vector_that_is_not_of_numbers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON has no way to write it."""
    broken = tiny_models._tensors(SHAPES["width 512"])
    broken["output_norm.weight"][:] = np.finfo(np.float32).max
    monkeypatch.setattr(tiny_models, "_tensors", lambda _shape: broken)
    path = tmp_path / "tiny.gguf"
    write_model(path, SHAPES["width 512"], "F16", pooling=MEAN)
    model = EmbeddingModel(path, max_tokens=16)
    with contextlib.closing(model), pytest.raises(InvalidInputError, match="not of numbers"):
        model.embed([5])
