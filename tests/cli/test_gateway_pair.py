"""The default pair behind a gateway process: what people ask gets what the bare engine gives."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import openai
import pytest

from nodes.catalog import default_cache_dir
from nodes.engine.grammar import Grammars
from nodes.engine.llama import LlamaConfig
from nodes.engine.load import OpenedModel, open_model
from nodes.engine.protocol import Span
from nodes.engine.rules import Grammar, LogitBias, LogitRules
from nodes.engine.sampler import Sampler
from nodes.engine.sampling import Sampling
from nodes.engine.traits import SamplingDefaults
from tests.cli.default_pair import CANARY, MODEL, NEEDS_PAIR, default_target

pytestmark = NEEDS_PAIR
MESSAGES: list[Any] = [
    {"role": "system", "content": f"You are brief, {CANARY}."},
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": "Red."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Another one, "}, {"type": "text", "text": "please?"}],
    },
]
# The default pair's files say nothing of sampling: it is as llama.cpp's server has it.
LEFT_OPEN: dict[str, Any] = asdict(SamplingDefaults())
PROMPT = "The quick brown fox jumps over"


class Bare:
    """The engine by itself: one sequence, one token a pass."""

    def __init__(self, opened: OpenedModel) -> None:
        self.model = opened.model
        self.tokenizer = opened.model.vocabulary
        self._grammars = Grammars(self.tokenizer, self.model.info)

    def text(self, token_ids: Sequence[int], max_tokens: int, sampling: Sampling) -> str:
        sampler = Sampler(
            sampling,
            num_vocab=self.model.info.num_vocab,
            token_ids=token_ids,
            num_prompt_tokens=len(token_ids),
            grammars=self._grammars,
        )
        known, text = list(token_ids), b""
        rows = self.model.forward([Span(0, 0, known, 1)])
        while True:
            token_id = sampler.sample(rows[0], len(known))
            if token_id in self.model.info.eog_token_ids:
                break
            sampler.push(token_id)
            known.append(token_id)
            text += self.tokenizer.piece(token_id)
            if len(known) - len(token_ids) == max_tokens:
                break
            rows = self.model.forward([Span(0, len(known) - 1, known[-1:], 1)])
        self.model.truncate(0, 0)
        return text.decode("utf-8", "replace")


@pytest.fixture(scope="module")
def bare() -> Iterator[Bare]:
    path = default_target()
    assert path is not None
    cache = default_cache_dir(os.environ) / "calibration"
    opened = open_model(LlamaConfig(path=path, num_cells=1024, max_sequences=2), cache)
    yield Bare(opened)
    opened.model.close()


def test_a_conversation_is_answered_as_by_the_bare_engine(
    client: openai.OpenAI, bare: Bare
) -> None:
    pairs = [
        (m["role"], m["content"])
        if isinstance(m["content"], str)
        else (m["role"], "".join(part["text"] for part in m["content"]))
        for m in MESSAGES
    ]
    ids = bare.tokenizer.encode_chat(pairs)
    asked: Any = {"model": MODEL, "messages": MESSAGES, "max_tokens": 24, "seed": 5, "n": 3}
    found = client.chat.completions.create(**asked)
    expected = [bare.text(ids, 24, Sampling(**LEFT_OPEN, seed=5, choice=c)) for c in range(3)]
    assert [choice.message.content for choice in found.choices] == expected
    assert len(set(expected)) > 1
    assert found.usage is not None
    assert found.usage.prompt_tokens == len(ids)
    assert found.usage.model_extra is not None
    assert found.usage.model_extra["airdraft"]["exact"] is bare.model.info.exact
    again = client.chat.completions.create(**asked)
    assert [choice.message.content for choice in again.choices] == expected


def test_rules_are_those_of_the_bare_engine(client: openai.OpenAI, bare: Bare) -> None:
    ids = bare.tokenizer.encode(PROMPT)
    banned = bare.tokenizer.encode(" the")[0]
    found = client.completions.create(
        model=MODEL,
        prompt=PROMPT,
        max_tokens=16,
        seed=2,
        temperature=0.7,
        top_p=0.95,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias={str(banned): -100},
        extra_body={"top_k": 40, "min_p": 0.02},
    )
    rules = LogitRules((LogitBias(banned, -100.0),), 0.5, 0.25)
    sampling = Sampling(temperature=0.7, top_k=40, top_p=0.95, min_p=0.02, seed=2, rules=rules)
    assert found.choices[0].text == bare.text(ids, 16, sampling)
    grammar = 'root ::= "<" [0-9]{3} ">"'
    found = client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=16, temperature=0, extra_body={"grammar": grammar}
    )
    (choice,) = found.choices
    assert choice.finish_reason == "stop"
    sampling = Sampling(rules=LogitRules(grammar=Grammar("gbnf", grammar)))
    assert choice.text == bare.text(ids, 16, sampling)
