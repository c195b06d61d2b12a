"""Training: gradients are those of autograd, batches repeat, a stop changes nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `distill` is not installed (torch)")
pytest.importorskip("gguf", reason="the extra `distill` is not installed (gguf)")

from bench.decoding import tokenizer_of  # noqa: E402
from bench.distill.report import Reporter  # noqa: E402
from bench.distill.sampling.answers import Answer, AnswerFolder, Recipe  # noqa: E402
from bench.distill.training.data import (  # noqa: E402
    HELD_OUT_EVERY,
    AnswerBatches,
    CorpusBatches,
    pack,
    split_answers,
)
from bench.distill.training.loss import backward_head, choose_candidates  # noqa: E402
from bench.distill.training.model import Shape, fake_quantised, round_q4_0  # noqa: E402
from bench.distill.training.train import Schedule, Trainer, fit, load_draft, validation  # noqa: E402
from nodes.engine.protocol import EngineError  # noqa: E402
from tests.bench.distill.fakes import write_target  # noqa: E402

_NUM_VOCAB = 288
_SHAPE = Shape(num_vocab=_NUM_VOCAB, width=32, num_layers=1, num_heads=2, num_hidden=32)


def _answer(index: int, length: int = 20) -> Answer:
    source = np.random.default_rng(index)
    best = np.stack([source.choice(_NUM_VOCAB, 4, replace=False) for _ in range(length)])
    # The best token follows from the one before, so there is something to learn.
    ids = [int(index) % 7]
    for _ in range(length):
        ids.append((ids[-1] * 3 + 1) % 50)
    best[:, 0] = ids[1:]
    logps = np.tile(np.log(np.array([0.7, 0.1, 0.1, 0.05])), (length, 1))
    return Answer(
        index=index,
        kind="chat",
        seed=1,
        temperature=0.0,
        top_p=1.0,
        prompt_ids=np.asarray([200, 201, ids[0]], dtype=np.uint32),
        answer_ids=np.asarray(ids[1:], dtype=np.uint32),
        best_ids=best.astype(np.uint32),
        best_logps=logps.astype(np.float16),
    )


def _batches(count: int = 30) -> AnswerBatches:
    return AnswerBatches(
        [_answer(i) for i in range(count)],
        per_batch=6,
        length=64,
        seed=1,
        temperature=0.8,
        best_share=0.2,
    )


def _never() -> bool:
    return False


def test_the_written_gradient_is_that_of_autograd() -> None:
    batch = _batches().batch(0)
    states = torch.randn(len(batch.positions), 16, generator=torch.Generator().manual_seed(1))
    embedding = torch.nn.Parameter(torch.randn(_NUM_VOCAB, 16) * 0.3)
    for num_negatives in (40, _NUM_VOCAB):
        candidates = choose_candidates(batch, _NUM_VOCAB, num_negatives, np.random.default_rng(1))
        embedding.grad = None
        loss, _, gradient = backward_head(states, embedding, batch, candidates, 0.8, torch.bfloat16)
        ours = embedding.grad.clone()
        embedding.grad = None
        x = states.clone().requires_grad_()
        logits = x @ embedding[candidates.token_ids].T / 0.8 + candidates.log_weights
        picked = torch.log_softmax(logits, 1).gather(1, candidates.places)
        expected = -(picked * torch.from_numpy(batch.teacher_weights)).sum() / len(states)
        expected.backward()
        assert loss == pytest.approx(expected.item(), rel=0.01)
        for mine, theirs in ((gradient, x.grad), (ours, embedding.grad)):
            assert float((mine - theirs).norm() / theirs.norm()) < 0.02


def test_the_sampled_denominator_is_right_on_average() -> None:
    batch = _batches().batch(0)
    logits = torch.randn(_NUM_VOCAB, generator=torch.Generator().manual_seed(2))
    sums = []
    for seed in range(400):
        chosen = choose_candidates(batch, _NUM_VOCAB, 30, np.random.default_rng(seed))
        assert len(set(chosen.token_ids.tolist())) == len(chosen.token_ids)
        sums.append(float((logits[chosen.token_ids] + chosen.log_weights).exp().sum()))
        places = chosen.token_ids[chosen.places]
        assert (places.numpy() == batch.teacher_ids).all()
    assert np.mean(sums) == pytest.approx(float(logits.exp().sum()), rel=0.02)


def test_packed_positions_are_those_before_the_answer_tokens() -> None:
    answers = [_answer(1, 20), _answer(2, 30), _answer(3, 5)]
    batch = pack(answers, 16, 1.0, 0.0)
    assert batch.token_ids.shape[1] == 16
    flat = batch.token_ids.reshape(-1)
    inputs = np.concatenate([[a.prompt_ids[-1], *a.answer_ids[:-1]] for a in answers])
    assert flat[batch.positions].tolist() == inputs.tolist()
    assert (
        batch.teacher_ids[:, 0].tolist() == np.concatenate([a.answer_ids for a in answers]).tolist()
    )
    assert batch.teacher_weights.sum(axis=1) == pytest.approx(1.0)


def test_an_epoch_takes_every_answer_once_in_another_order() -> None:
    batches = _batches(30)
    assert batches.steps_per_epoch == 5

    def firsts(epoch: int) -> list[int]:
        rows = [batches.batch(5 * epoch + step) for step in range(5)]
        return [int(i) for b in rows for i in b.teacher_ids[:, 1].tolist()]

    assert sorted(firsts(0)) == sorted(firsts(1))
    assert firsts(0) != firsts(1)
    assert firsts(0) == firsts(0)


def test_corpus_windows_repeat_and_are_followed_by_their_next_token(tmp_path: Path) -> None:
    np.save(tmp_path / "corpus.npy", np.arange(500, dtype=np.uint32))
    batches = CorpusBatches(tmp_path / "corpus.npy", rows=3, length=10, seed=1)
    batch = batches.batch(4)
    assert (batch.teacher_ids[:, 0] == batch.token_ids.reshape(-1) + 1).all()
    assert (batch.token_ids == batches.batch(4).token_ids).all()
    assert (batch.token_ids != batches.batch(5).token_ids).any()


def _phase(num_steps: int) -> Schedule:
    return Schedule(
        name="answers",
        num_steps=num_steps,
        matrix_rate=1e-2,
        other_rate=1e-2,
        warmup_steps=3,
        num_negatives=20,
        full_share=0.3,
        quantised_share=0.3,
    )


def test_a_stopped_run_ends_with_the_weights_of_a_whole_one(tmp_path: Path) -> None:
    whole = Trainer(tmp_path / "whole", _SHAPE, seed=1, embedding=None)
    with Reporter() as reporter:
        whole.run(_phase(20), _batches(), reporter, should_stop=_never)
        steps = iter(range(100))
        part = Trainer(tmp_path / "part", _SHAPE, seed=1, embedding=None)
        assert not part.run(_phase(20), _batches(), reporter, should_stop=lambda: next(steps) > 8)
        again = Trainer(tmp_path / "part", _SHAPE, seed=1, embedding=None)
        assert again.done == {"answers": 9}
        assert again.run(_phase(20), _batches(), reporter, should_stop=_never)
    for name, parameter in whole.model.named_parameters():
        assert torch.allclose(parameter, again.model.get_parameter(name), atol=1e-6), name


def test_training_learns_what_the_teacher_prefers(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, _SHAPE, seed=1, embedding=None)
    measure = validation(_batches().batch(0), 0.8)
    before = measure(trainer.model)
    with Reporter() as reporter:
        trainer.run(_phase(60), _batches(), reporter, should_stop=_never, validate=measure)
    after = measure(load_draft(tmp_path))
    assert after["held_out_agreement"] > 0.9 > before["held_out_agreement"]
    assert after["held_out_overlap"] > before["held_out_overlap"]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 60
    assert lines[-1]["held_out_agreement"] == pytest.approx(after["held_out_agreement"])


def test_a_folder_of_another_shape_is_refused(tmp_path: Path) -> None:
    Trainer(tmp_path, _SHAPE, seed=1, embedding=None).save()
    other = Shape(num_vocab=_NUM_VOCAB, width=64, num_layers=1, num_heads=2, num_hidden=32)
    with pytest.raises(EngineError, match="another shape"):
        Trainer(tmp_path, other, seed=1, embedding=None)
    with pytest.raises(EngineError, match="no checkpoint"):
        load_draft(tmp_path / "elsewhere")


def test_too_little_to_train_on_is_told_in_a_line(tmp_path: Path) -> None:
    np.save(tmp_path / "corpus.npy", np.arange(11, dtype=np.uint32))
    CorpusBatches(tmp_path / "corpus.npy", rows=1, length=9, seed=1).batch(0)
    with pytest.raises(
        EngineError, match=r"corpus\.npy holds 11 tokens, fewer than the 12 of a row"
    ):
        CorpusBatches(tmp_path / "corpus.npy", rows=1, length=10, seed=1)
    write_target(tmp_path / "target.gguf", width=256)
    settings = {"corpus_tokens": 1, "epochs": 1.0, "seed": 1, "threads": 1}
    vocab_hash = tokenizer_of(tmp_path / "target.gguf").content_hash()
    for corpus, made_for, says in (
        (None, "", "nothing to train on: give --corpus"),
        (tmp_path / "run", "", "no corpus in .*run: run `python"),
        (tmp_path, "another", "holds tokens of another target than target"),
        # A token is no step.
        (tmp_path, vocab_hash, "nothing to train on: give --corpus"),
    ):
        np.save(tmp_path / "corpus.npy", np.arange(1000, dtype=np.uint32))
        (tmp_path / "corpus.json").write_text(json.dumps({"vocab_hash": made_for}))
        with pytest.raises(EngineError, match=says):
            fit(tmp_path / "target.gguf", corpus, [], tmp_path / "run", _never, **settings)


def test_fake_quantisation_is_for_the_forward_pass_only() -> None:
    parameter = torch.nn.Parameter(torch.randn(4, 64))
    exact = parameter.detach().clone()
    with fake_quantised(parameter, enabled=True):
        assert torch.equal(parameter.detach(), round_q4_0(exact))
        assert not torch.equal(parameter.detach(), exact)
    assert torch.equal(parameter.detach(), exact)
    assert (round_q4_0(torch.zeros(1, 32)) == 0).all()


def test_one_of_so_many_answers_is_held_out(tmp_path: Path) -> None:
    folder = AnswerFolder(tmp_path, Recipe("m", "v", _NUM_VOCAB, 4, 20, 1, "p"))
    for index in range(2 * HELD_OUT_EVERY):
        folder.add(_answer(index))
    trained, held_out = split_answers([folder])
    assert [answer.index for answer in held_out] == [0, HELD_OUT_EVERY]
    assert len(trained) == 2 * HELD_OUT_EVERY - 2
