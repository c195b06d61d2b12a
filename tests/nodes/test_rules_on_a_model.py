"""Rules on a real model and vocabulary."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from airdraft.nodes.catalog import Catalog, default_cache_dir
from airdraft.nodes.engine.grammar import Grammars
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.rules import Grammar, LogitBias, LogitRules
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.target.state import TargetState
from airdraft.nodes.target.stream import Committed
from airdraft.nodes.worker.stream import StreamSpec
from tests.nodes.builders import make_spec
from tests.nodes.target.script import FLAT, ONE, run, tokens_of, verify

pytestmark = pytest.mark.model

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


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaModel]:
    path = Catalog(default_cache_dir(os.environ)).ensure("smollm2-135m")
    # Plain weights are exact on every CPU.
    made = LlamaModel(LlamaConfig(path=path, num_cells=1024, max_sequences=2, repack=False))
    yield made
    made.close()


@pytest.fixture(scope="module")
def grammars(model: LlamaModel) -> Grammars:
    return Grammars(model.vocabulary.piece, model.info.num_vocab, model.info.eog_token_ids)


def decoded(
    model: LlamaModel, grammars: Grammars, spec: StreamSpec, known: tuple[int, ...] = ()
) -> list[Committed]:
    """Decode a stream; known: its text, which is guessed, in each third pass with a mistake."""
    state = TargetState(model, model.vocabulary, grammars=grammars, costs=FLAT)
    state.open(spec)
    run(state)
    commits: list[Committed] = []
    while not (commits and commits[-1].entry.finish_reason):
        done = len(tokens_of(commits))
        guesses = list(known[done : done + 4])
        if guesses and len(commits) % 3 == 2:
            guesses[2:] = [9]
        verify(state, ONE, 1, len(spec.token_ids) + done, guesses)
        commits += run(state)
    return commits


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


def test_a_schema_gets_what_it_asks_for_and_guesses_change_no_token(
    model: LlamaModel, grammars: Grammars
) -> None:
    specs = make_specs(model, 3)
    plain = [tokens_of(decoded(model, grammars, spec)) for spec in specs]
    assert len(set(plain)) == 3
    for token_ids in plain:
        check_json(b"".join(map(model.vocabulary.piece, token_ids)))
    commits = decoded(model, grammars, specs[0], plain[0])
    assert tokens_of(commits) == plain[0]
    assert commits[-1].entry.finish_reason == "stop"
    num_guesses = sum(c.entry.num_draft_tokens for c in commits)
    assert sum(c.entry.num_accepted_tokens for c in commits) > num_guesses / 2
