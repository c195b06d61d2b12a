"""The whole way from texts to figures on a model that fits in a test."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="the extra `distill` is not installed (torch)")
pytest.importorskip("gguf", reason="the extra `distill` is not installed (gguf)")

from bench.distill.commands import distill  # noqa: E402
from bench.distill.sampling import sample  # noqa: E402
from bench.distill.training import export, train  # noqa: E402
from bench.distill.training.export import write_draft  # noqa: E402
from bench.distill.training.model import DraftModel, Shape  # noqa: E402
from nodes.engine.llama import LlamaConfig, LlamaModel  # noqa: E402
from nodes.engine.protocol import EngineError  # noqa: E402
from nodes.worker.engines import calibration_of  # noqa: E402
from tests.bench.distill.fakes import write_target  # noqa: E402


def test_texts_become_a_draft_with_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target.gguf"
    write_target(tmp_path / "vocabulary.gguf")
    shape = Shape(num_vocab=288, width=64, num_layers=1, num_heads=2, num_hidden=64)
    write_draft(
        DraftModel(shape, seed=2), tmp_path / "vocabulary.gguf", target, name="t", licence="mit"
    )
    small = partial(Shape, width=32, num_layers=1, num_heads=2, num_hidden=32)
    monkeypatch.setattr(train, "Shape", small)
    # A row of this width is too short for a block of Q6_K.
    monkeypatch.setattr(export, "LAYERS", "Q8_0")
    (tmp_path / "text.txt").write_text("\n\n".join(f"Paragraph {i} of a text." for i in range(400)))

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(distill, [*arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    at = {name: str(tmp_path / name) for name in ("corpus", "answers", "more", "run", "held-out")}
    draft = str(tmp_path / "draft.gguf")
    on = ["--target", str(target)]
    run("corpus", str(tmp_path / "text.txt"), *on, "--licence", "text: mine", "--out", at["corpus"])
    for tokens in ("600", "1200"):
        run(
            *("sample", *on, "--corpus", at["corpus"], "--out", at["answers"]),
            *("--tokens", tokens, "--max-answer", "12", "--width", "4"),
        )
    # Another machine may sample with another seed.
    run(
        *("sample", *on, "--out", at["more"], "--tokens", "200", "--max-answer", "12"),
        *("--width", "4", "--seed", "2", "--engine", "torch"),
    )
    both = ("--answers", at["answers"], "--answers", at["more"])
    run(
        *("train", *on, "--corpus", at["corpus"], *both, "--out", at["run"]),
        *("--corpus-tokens", "8192", "--epochs", "1"),
    )
    run("export", at["run"], *on, *both, "--out", draft)
    model = LlamaModel(LlamaConfig(path=Path(draft), num_cells=256, max_sequences=1))
    calibration = calibration_of(model)
    model.close()
    assert calibration.greedy.chance(0.99) > calibration.greedy.chance(0.01)
    evaluate = ["evaluate", draft, *on, "--out", at["held-out"], "--prompts", "8"]
    evaluate += ["--max-answer", "6"]
    with monkeypatch.context() as patch:
        patch.setattr(sample, "stop_flag", lambda: nullcontext(lambda: True))
        with pytest.raises(EngineError, match="stopped after 0 of 16"):
            run(*evaluate)
    output = run(*evaluate)
    assert "| greedy |" in output
    assert "| greedy | 0.5 |" in output
    assert "coupled / rejection" in output
