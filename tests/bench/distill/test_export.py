"""What torch computes is what llama.cpp computes from the exported file."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `distill` is not installed (torch)")
gguf = pytest.importorskip("gguf", reason="the extra `distill` is not installed (gguf)")

from bench.distill.training.export import quantise_draft, write_draft  # noqa: E402
from bench.distill.training.model import DraftModel, Shape, reduced_embedding, round_q4_0  # noqa: E402
from bench.distill.training.train import read_embedding  # noqa: E402
from nodes.engine.llama import LlamaConfig, LlamaModel  # noqa: E402
from nodes.engine.protocol import Span  # noqa: E402
from tests.bench.distill.fakes import write_target  # noqa: E402

_SHAPE = Shape(num_vocab=288, width=64, num_layers=2, num_heads=2, num_hidden=96)
_IDS = np.random.default_rng(3).integers(0, 288, 40).tolist()


@pytest.fixture(scope="module")
def model() -> DraftModel:
    made = DraftModel(_SHAPE, seed=4)
    with torch.no_grad():
        # A fresh model's norms are all ones: a file that forgot them would look right.
        for name, parameter in made.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(1.0 + 0.3 * torch.randn(parameter.shape))
            elif not name.startswith("token_embd"):
                parameter.mul_(3.0)
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target.gguf"
    write_target(path)
    return path


def _export(model: DraftModel, target: Path, path: Path, dtype: type) -> Path:
    write_draft(model, target, path, name="tiny", licence="apache-2.0", dtype=dtype)
    return path


def _logits(path: Path, ids: list[int]) -> np.ndarray:
    engine = LlamaModel(LlamaConfig(path=path, num_cells=256, max_sequences=2))
    try:
        return engine.forward([Span(0, 0, ids, len(ids))]).copy()
    finally:
        engine.close()


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 0.004), (np.float16, 0.02)])
def test_llama_cpp_computes_the_logits_of_torch(
    model: DraftModel, target: Path, tmp_path: Path, dtype: type, tolerance: float
) -> None:
    path = _export(model, target, tmp_path / "draft.gguf", dtype)
    with torch.no_grad():
        expected = model.logits(torch.tensor([_IDS]))[0].numpy()
    logits = _logits(path, _IDS)
    assert expected.std() > 0.2
    # The K and V of llama.cpp's cache are float16 in both cases.
    assert np.abs(logits - expected).max() < tolerance * expected.std() * 4
    # The order of tokens matters, so the rotation was compared too.
    with torch.no_grad():
        turned = model.logits(torch.tensor([[*_IDS[:20][::-1], *_IDS[20:]]]))[0].numpy()
    assert np.abs(turned[-1] - expected[-1]).max() > 0.1 * expected.std()


def test_the_targets_vocabulary_is_copied_whole(
    model: DraftModel, target: Path, tmp_path: Path
) -> None:
    path = _export(model, target, tmp_path / "draft.gguf", np.float16)
    ours, theirs = gguf.GGUFReader(path).fields, gguf.GGUFReader(target).fields
    keys = {key for key in theirs if key.startswith("tokenizer.")}
    assert len(keys) >= 7
    for key in keys:
        assert ours[key].contents() == theirs[key].contents(), key
    assert ours["general.license"].contents() == "apache-2.0"


def test_a_quantised_draft_has_the_types_asked_for_and_runs(
    model: DraftModel, target: Path, tmp_path: Path
) -> None:
    whole = _export(model, target, tmp_path / "whole.gguf", np.float16)
    small = tmp_path / "small.gguf"
    quantise_draft(whole, small, embedding="Q4_0", layers="Q8_0")
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(small).tensors}
    assert types["token_embd.weight"] == "Q4_0"
    assert types["blk.1.ffn_down.weight"] == "Q8_0"
    assert types["output_norm.weight"] == "F32"
    assert "output.weight" not in types
    embedding = model.token_embd.weight.detach().half().float()
    assert read_embedding(small) == pytest.approx(round_q4_0(embedding).numpy(), abs=1e-6)
    rows = _logits(small, _IDS)
    assert np.isfinite(rows).all()


def test_the_reduced_embedding_keeps_the_products_of_rows(target: Path) -> None:
    basis = np.random.default_rng(1).normal(size=(8, 64))
    rows = np.random.default_rng(2).normal(size=(288, 8)) @ basis
    reduced = reduced_embedding(torch.tensor(rows, dtype=torch.float32), 32).double().numpy()
    ours, theirs = reduced @ reduced.T, rows @ rows.T
    assert np.allclose(ours / ours[0, 0], theirs / theirs[0, 0], atol=1e-4)
    assert read_embedding(target).shape == (288, 64)
