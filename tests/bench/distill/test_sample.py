"""Sampled answers: what is kept, that a stop loses nothing, that a restart changes nothing."""

import signal
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from bench.distill.report import stop_flag
from bench.distill.sampling.answers import Answer, AnswerFolder, Recipe
from bench.distill.sampling.prompts import Prompts, held_out_prompts, prompts_over
from bench.distill.sampling.sample import ChatFrame, Sampler, best_of
from nodes.engine.protocol import EngineError, Span
from nodes.engine.sampling import Sampling, sample
from nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from tests.bench.distill.fakes import NUM_VOCAB, PREFIX, SUFFIX, FramedTokenizer, silent

_RECIPE = Recipe(
    model_hash="toy",
    vocab_hash="toy",
    num_vocab=NUM_VOCAB,
    num_best=4,
    max_answer=12,
    seed=3,
    prompts_sha256="none",
)


def _prompts(seed: int = 3) -> Prompts:
    return prompts_over(["a heading here"], ["A passage of some words."], seed=seed)


def _toy(width: int) -> ToyModel:
    return ToyModel(ToyConfig(max_sequences=width + 1, max_batch_tokens=512, eog_rate=0.05))


def _sample(folder: Path, num_tokens: int, *, width: int = 5, stop_after: int = 10**9) -> int:
    passes = iter(range(10**9))
    sampler = Sampler(_toy(width), FramedTokenizer(), AnswerFolder(folder, _RECIPE), _prompts())
    return sampler.run(num_tokens, silent, should_stop=lambda: next(passes) >= stop_after)


def _by_index(folder: Path) -> dict[int, Answer]:
    return {answer.index: answer for answer in AnswerFolder(folder)}


def test_answers_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    assert _sample(tmp_path, 300) >= 300
    answers = _by_index(tmp_path)
    assert {a.kind for a in answers.values()} >= {"self", "explain"}
    model = _toy(1)
    for answer in answers.values():
        ids = answer.prompt_ids.tolist()
        assert ids[: len(PREFIX)] == PREFIX
        assert ids[-len(SUFFIX) :] == SUFFIX
        sampling = Sampling(
            answer.temperature, top_p=answer.top_p, seed=_RECIPE.seed, choice=answer.index
        )
        rows = model.forward([Span(0, 0, ids, 1)])
        for place, token_id in enumerate(answer.answer_ids.tolist()):
            assert sample(rows[0], sampling, len(ids) + place) == token_id
            best, logps = best_of(rows, _RECIPE.num_best)
            assert answer.best_ids[place].tolist() == best[0].tolist()
            assert answer.best_logps[place] == pytest.approx(logps[0], rel=2e-3)
            rows = model.forward([Span(0, len(ids) + place, [token_id], 1)])
        model.truncate(0, 0)


def test_a_stopped_run_goes_on_and_gives_the_same_answers(tmp_path: Path) -> None:
    _sample(tmp_path / "whole", 400)
    _sample(tmp_path / "parts", 400, stop_after=25)
    num_before = len(_by_index(tmp_path / "parts"))
    assert num_before > 0
    # A kill while an answer is written.
    (tmp_path / "parts" / "unfinished").write_bytes(b"PK")
    assert _sample(tmp_path / "parts", 400, width=3) >= 400
    whole, resumed = (_by_index(tmp_path / name) for name in ("whole", "parts"))
    assert len(resumed) > num_before
    both = whole.keys() & resumed.keys()
    assert len(both) > 20
    for index in both:
        assert whole[index].prompt_ids.tolist() == resumed[index].prompt_ids.tolist()
        assert whole[index].answer_ids.tolist() == resumed[index].answer_ids.tolist()


def test_a_signal_stops_a_step_and_not_what_comes_after_it() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_flag() as should_stop:
        assert not should_stop()
        signal.raise_signal(signal.SIGTERM)
        assert should_stop()
    assert signal.getsignal(signal.SIGTERM) is before


def test_answers_of_another_recipe_are_not_mixed_in(tmp_path: Path) -> None:
    AnswerFolder(tmp_path, _RECIPE)
    with pytest.raises(EngineError, match="another recipe"):
        AnswerFolder(tmp_path, replace(_RECIPE, seed=4))
    with pytest.raises(EngineError, match="no answers"):
        AnswerFolder(tmp_path / "elsewhere")


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    _sample(tmp_path, 50)
    next(tmp_path.glob("*.npz")).write_bytes(b"PK")
    with pytest.raises(EngineError, match=r"npz is damaged"):
        list(AnswerFolder(tmp_path))


def test_held_out_prompts_end_by_themselves(tmp_path: Path) -> None:
    folder = AnswerFolder(tmp_path, replace(_RECIPE, max_answer=3))
    # Prompts beyond a sequence's room are cut; the frame around them stays.
    sampler = Sampler(_toy(4), FramedTokenizer(), folder, held_out_prompts(8))
    sampler.run(10**9, silent, should_stop=lambda: False)
    answers = _by_index(tmp_path)
    assert sorted(answers) == list(range(16))
    assert [answers[i].temperature for i in (0, 15)] == [0.0, 0.8]
    assert len({answer.kind for answer in answers.values()}) == 8
    assert all(len(a.prompt_ids) <= 330 for a in answers.values())


def test_there_are_200_held_out_prompts_of_eight_kinds_and_none_is_a_training_prompt() -> None:
    held_out = list(held_out_prompts().every)
    assert len(held_out) == 400
    assert len({p.text for p in held_out}) == 200
    assert list(Counter(p.kind for p in held_out).values()) == [50] * 8
    trained = {prompt.text for prompt in islice(_prompts().every, 2000)}
    assert not trained & {p.text for p in held_out}


def test_prompts_depend_on_seed_and_number_only() -> None:
    ours, again, other = (list(islice(_prompts(seed).every, 50)) for seed in (3, 3, 4))
    assert ours == again
    assert ours != other


def test_a_template_is_found_by_comparing_prompts() -> None:
    frame = ChatFrame.of(FramedTokenizer())
    assert frame == ChatFrame(PREFIX, SUFFIX)
    assert ChatFrame.of(ToyTokenizer(NUM_VOCAB)) is None


def test_best_of_gives_log_probabilities() -> None:
    logits = np.random.default_rng(1).normal(size=(3, 50)).astype(np.float32)
    ids, logps = best_of(logits, 5)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert ids[:, 0].tolist() == logits.argmax(axis=1).tolist()
    expected = np.take_along_axis(probabilities, ids, axis=1)
    assert np.exp(logps) == pytest.approx(expected, rel=1e-5)
