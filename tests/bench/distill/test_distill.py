"""The whole way from texts to figures on a model that fits in a test."""

import re
import signal
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.protocol import EngineError, Span
from airdraft.nodes.worker.engines import calibration_of
from bench.distill.commands import distill
from bench.distill.report import stop_flag
from tests.bench.distill.fakes import write_target


def run(*arguments: str) -> str:
    result = CliRunner().invoke(distill, [*arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_texts_become_a_draft_with_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="the extra `distill` is not installed (torch)")
    pytest.importorskip("gguf", reason="the extra `distill` is not installed (gguf)")
    from bench.distill.training import export, train
    from bench.distill.training.model import DraftModel, Shape

    target = tmp_path / "target.gguf"
    write_target(tmp_path / "vocabulary.gguf")
    shape = Shape(num_vocab=288, width=64, num_layers=1, num_heads=2, num_hidden=64)
    export.write_draft(
        DraftModel(shape, seed=2), tmp_path / "vocabulary.gguf", target, name="t", licence="mit"
    )
    small = partial(Shape, width=32, num_layers=1, num_heads=2, num_hidden=32)
    monkeypatch.setattr(train, "Shape", small)
    # A row of this width is too short for a block of Q6_K.
    monkeypatch.setattr(export, "LAYERS", "Q8_0")
    (tmp_path / "text.txt").write_text("\n\n".join(f"Paragraph {i} of a text." for i in range(400)))
    page = "<h1>Keeping things tidy</h1><nav>menu</nav>" + "<p>The page has this.</p>" * 20
    (tmp_path / "page.html").write_text(page)
    at = {name: str(tmp_path / name) for name in ("corpus", "answers", "more", "run")}
    draft, on = tmp_path / "draft.gguf", ["--target", str(target)]
    texts = [str(tmp_path / name) for name in ("text.txt", "page.html")]
    run("corpus", *texts, *on, "--licence", "text: mine", "--out", at["corpus"])
    assert "Keeping things tidy" in (tmp_path / "corpus" / "topics.txt").read_text()
    few = ("--max-answer", "12", "--width", "4")
    for tokens in ("600", "1200"):
        run(
            *("sample", *on, "--corpus", at["corpus"], "--out", at["answers"]),
            *("--tokens", tokens, *few),
        )
    # Another machine may sample with another seed, but not into the same folder.
    run("sample", *on, "--out", at["more"], "--tokens", "200", *few, "--seed", "2")
    with pytest.raises(EngineError, match="another recipe"):
        run("sample", *on, "--out", at["more"], "--tokens", "400", *few, "--seed", "3")
    both = ("--answers", at["answers"], "--answers", at["more"])
    training = ("train", *on, "--corpus", at["corpus"], *both, "--out", at["run"])
    for epochs in ("0.5", "3"):
        run(*training, "--corpus-tokens", "8192", "--epochs", epochs)
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in log_of(tmp_path / "run")]
    assert losses[-1] < losses[0]
    said = run("export", at["run"], *on, *both, "--out", str(draft))
    assert re.search(r"held-out answers: [01]\.\d+ greedy, [01]\.\d+ sampled", said)
    ids = np.random.default_rng(3).integers(0, 288, 40).tolist()
    with closing(LlamaModel(LlamaConfig(path=draft, num_cells=256, max_sequences=1))) as model:
        calibration = calibration_of(model)
        assert calibration.greedy.chance(0.99) > calibration.greedy.chance(0.01)
        logits = model.forward([Span(0, 0, ids, len(ids))]).copy()
    # What llama.cpp computes from the file is what torch computes, but for quantisation.
    with torch.no_grad():
        expected = train.load_draft(tmp_path / "run").logits(torch.tensor([ids]))[0].numpy()
    assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] > 0.98


def log_of(folder: Path) -> list[str]:
    return (folder / "log.jsonl").read_text().splitlines()


def test_a_signal_stops_a_step_and_not_what_comes_after_it() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_flag() as should_stop:
        assert not should_stop()
        signal.raise_signal(signal.SIGTERM)
        assert should_stop()
    assert signal.getsignal(signal.SIGTERM) is before
