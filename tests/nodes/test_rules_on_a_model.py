"""Rules and scores on a real model and vocabulary."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator

import numpy as np
import pytest

from nodes.catalog import Catalog, default_cache_dir
from nodes.draft.state import DraftState
from nodes.engine.grammar import Grammars
from nodes.engine.llama import LlamaConfig, LlamaModel
from nodes.engine.protocol import Span
from nodes.engine.rules import Grammar, LogitBias, LogitRules
from nodes.engine.sampling import Sampling
from nodes.messages import PromptScoresNotice
from nodes.target.events import Committed
from nodes.target.state import TargetState
from nodes.worker.stream import StreamId, StreamSpec, sampler_of
from tests.nodes.builders import make_spec
from tests.nodes.draft.script import parts_of, run
from tests.nodes.target.script import FLAT, verify

pytestmark = pytest.mark.model

ONE = StreamId(1)
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 16},
        "people": {"type": "integer", "minimum": 0, "maximum": 99_999_999},
        "sizes": {"type": "array", "items": {"enum": ["small", "large"]}, "maxItems": 3},
    },
    "required": ["city", "people", "sizes"],
    "additionalProperties": False,
}
GRAMMAR = Grammar("json_schema", json.dumps(SCHEMA))
PROMPT = "A city, its people and sizes, as JSON: "
TEXT = "The quick brown fox jumps over the lazy dog, and then it sleeps. " * 4


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaModel]:
    path = Catalog(default_cache_dir(os.environ)).ensure("smollm2-135m")
    # Plain weights are exact on every CPU.
    made = LlamaModel(LlamaConfig(path=path, num_cells=1024, max_sequences=2, repack=False))
    yield made
    made.close()


@pytest.fixture(scope="module")
def grammars(model: LlamaModel) -> Grammars:
    return Grammars(model.vocabulary, model.info)


def plain_loop(model: LlamaModel, spec: StreamSpec, grammars: Grammars) -> tuple[int, ...]:
    """One sequence, one token a pass."""
    sampler = sampler_of(spec, model.info.num_vocab, grammars)
    token_ids = list(spec.token_ids)
    model.forward([Span(0, 0, token_ids[:-1])])
    while len(token_ids) - len(spec.token_ids) < spec.max_tokens:
        (row,) = model.forward([Span(0, len(token_ids) - 1, token_ids[-1:], 1)])
        token_id = sampler.sample(row, len(token_ids))
        if token_id in model.info.eog_token_ids:
            break
        sampler.push(token_id)
        token_ids.append(token_id)
    model.truncate(0, 0)
    return tuple(token_ids[len(spec.token_ids) :])


def make_specs(model: LlamaModel, num_seeds: int) -> list[StreamSpec]:
    rules = LogitRules((LogitBias(28, -1.0),), 0.3, 0.1, GRAMMAR)
    prompt = tuple(model.vocabulary.encode(PROMPT))
    return [
        make_spec(
            prompt=prompt,
            sampling=Sampling(temperature=1.0, seed=seed, rules=rules),
            max_tokens=120,
        )
        for seed in range(num_seeds)
    ]


def check_json(text: bytes) -> None:
    found = json.loads(text)
    assert set(found) == {"city", "people", "sizes"}
    assert isinstance(found["city"], str)
    assert len(found["city"]) <= 16
    assert isinstance(found["people"], int)
    assert 0 <= found["people"] <= 99_999_999
    assert len(found["sizes"]) <= 3
    assert set(found["sizes"]) <= {"small", "large"}


def test_what_a_schema_asks_for_is_what_comes(model: LlamaModel, grammars: Grammars) -> None:
    texts = set()
    for spec in make_specs(model, 6):
        token_ids = plain_loop(model, spec, grammars)
        text = b"".join(map(model.vocabulary.piece, token_ids))
        check_json(text)
        texts.add(text)
    assert len(texts) == 6


def test_guesses_change_no_token_of_a_text_with_rules(
    model: LlamaModel, grammars: Grammars
) -> None:
    """The model drafts for itself, with its own grammars; each third pass gets a wrong guess."""
    (spec,) = make_specs(model, 1)
    expected = plain_loop(model, spec, grammars)
    path = model.config.path
    other = LlamaModel(LlamaConfig(path=path, num_cells=512, max_sequences=1, repack=False))
    try:
        own = Grammars(other.tokenizer, other.info)
        drafter = DraftState(other, grammars=own)
        state = TargetState(model, model.vocabulary, grammars=grammars, costs=FLAT)
        for node in (drafter, state):
            node.open(spec)
        while state.has_work():
            state.step()
        length = len(spec.token_ids)
        commits: list[Committed] = []
        # By position.
        guessed: dict[int, int] = {}
        while not (commits and commits[-1].entry.finish_reason):
            for part in parts_of(run(drafter)):
                guessed.update(enumerate(part.token_ids, part.start))
            guesses = [guessed[p] for p in range(length, length + 4) if p in guessed]
            if len(commits) % 3 == 2:
                guesses[2:] = [9]
            verify(state, ONE, 1, length, guesses)
            (commit,) = [e for e in state.step() if isinstance(e, Committed)]
            commits.append(commit)
            drafter.committed(ONE, 1, length, commit.token_ids)
            length += len(commit.token_ids)
        token_ids = tuple(t for c in commits for t in c.token_ids)
        assert token_ids == expected
        assert commits[-1].entry.finish_reason == "stop"
        check_json(b"".join(c.entry.text for c in commits))
        num_drafted = sum(c.entry.num_draft_tokens for c in commits)
        assert sum(c.entry.num_accepted_tokens for c in commits) > num_drafted / 2
    finally:
        other.close()


def test_scores_of_a_prompt_are_those_of_the_bare_engine(model: LlamaModel) -> None:
    token_ids = model.vocabulary.encode(TEXT)
    expected = []
    for position, token_id in enumerate(token_ids[:-1]):
        (row,) = model.forward([Span(0, position, [token_id], 1)])
        logits = row.astype(np.longdouble)
        logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        best = sorted(range(len(row)), key=lambda i: (-row[i], i))[:3]
        expected.append((logprobs[token_ids[position + 1]], best, [logprobs[i] for i in best]))
    model.truncate(0, 0)
    spec = make_spec(prompt=tuple(token_ids), max_tokens=0, scores_prompt=True, num_logprobs=3)
    state = TargetState(model, model.vocabulary)
    events = list(state.open(spec))
    while state.has_work():
        events += state.step()
    scores = [s for e in events if isinstance(e, PromptScoresNotice) for s in e.scores]
    assert len(scores) == len(token_ids) - 1 > 40
    for scored, token_id, (logprob, best, best_logprobs) in zip(
        scores, token_ids[1:], expected, strict=True
    ):
        assert scored.chosen.token_id == token_id
        assert scored.chosen.piece == model.vocabulary.piece(token_id)
        assert math.isclose(scored.chosen.logprob, logprob, abs_tol=1e-5)
        assert [s.token_id for s in scored.top] == best
        for score, wanted in zip(scored.top, best_logprobs, strict=True):
            assert math.isclose(score.logprob, wanted, abs_tol=1e-5)
