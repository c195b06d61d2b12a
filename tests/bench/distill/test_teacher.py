"""The target in torch against libllama, on the same weights."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `distill` is not installed (torch)")
pytest.importorskip("gguf", reason="the extra `distill` is not installed (gguf)")

from bench.distill.sampling.teacher import TorchTarget
from bench.distill.training.export import write_draft
from bench.distill.training.model import DraftModel, Shape
from nodes.engine.llama import LlamaConfig, LlamaModel
from nodes.engine.protocol import EngineError, InvalidInputError, Span
from tests.bench.distill.fakes import write_target

_PROMPT = list(range(260, 280))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    write_target(folder / "target.gguf")
    model = DraftModel(Shape(num_vocab=288, width=64, num_layers=2, num_heads=2, num_hidden=96))
    write_draft(model, folder / "target.gguf", folder / "model.gguf", name="m", licence="none")
    return folder / "model.gguf"


def make(path: Path, sequences: int = 8) -> TorchTarget:
    return TorchTarget(path, max_sequences=sequences, max_length=64, threads=1)


def test_logits_are_those_of_libllama(path: Path) -> None:
    torch_model = make(path)
    llama = LlamaModel(LlamaConfig(path=path, num_cells=512, max_sequences=8))
    prompts = [_PROMPT[: 5 + index] for index in range(6)]
    for model in (torch_model, llama):
        for seq_id, prompt in enumerate(prompts):
            # The second sequence shares the first one's beginning.
            if seq_id == 1:
                model.copy_prefix(0, 1, 5)
                model.forward([Span(1, 5, prompt[5:])])
            else:
                model.forward([Span(seq_id, 0, prompt)])
    for step in range(3):
        # One is left out: the rows of the others stay in order.
        spans = [Span(s, len(p) + step, [270 + s], 1) for s, p in enumerate(prompts) if s != 3]
        ours, theirs = torch_model.forward(spans), llama.forward(spans)
        assert np.abs(ours - theirs).max() < 2e-2 * np.abs(theirs).max()
        assert (ours.argmax(1) == theirs.argmax(1)).all()
    assert [torch_model.length(s) for s in range(6)] == [llama.length(s) for s in range(6)]
    llama.close()


def test_what_it_cannot_run_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        make(path).forward([Span(0, 0, [1, 2]), Span(1, 0, [1])])
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "gemma3")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(EngineError, match=r"other\.gguf is no plain llama model \(gemma3\)"):
        make(tmp_path / "other.gguf")
