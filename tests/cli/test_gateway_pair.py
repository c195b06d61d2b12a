"""The default pair behind a gateway process: what people ask gets what the bare engine gives."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

import numpy as np
import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

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


class City(BaseModel):
    """What an answer by SCHEMA has to be."""

    model_config = ConfigDict(extra="forbid", strict=True)

    city: Annotated[str, Field(max_length=16)]
    people: Annotated[int, Field(ge=0, le=99_999_999)]
    sizes: Annotated[list[Literal["small", "large"]], Field(max_length=3)]


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
# The default pair's files say nothing of sampling: it is as llama.cpp's server has it.
LEFT_OPEN: dict[str, Any] = asdict(SamplingDefaults())
PROMPT = "The quick brown fox jumps over"
SCORED = ["The quick brown fox jumps over the lazy dog.", "Two and two is four, café 🙂."]


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

    def logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """Of all tokens but the first."""
        found = []
        for position, token_id in enumerate(token_ids[:-1]):
            (row,) = self.model.forward([Span(0, position, [token_id], 1)])
            logits = row.astype(np.longdouble)
            total = logits.max() + np.log(np.exp(logits - logits.max()).sum())
            found.append(float(logits[token_ids[position + 1]] - total))
        self.model.truncate(0, 0)
        return found


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


def test_a_stream_tells_of_each_commit_and_ends_before_its_stop(
    client: openai.OpenAI, bare: Bare
) -> None:
    ids = bare.tokenizer.encode("One, two, three,")
    whole = bare.text(ids, 24, Sampling())
    stop = whole[12:16]
    asked: Any = {"model": MODEL, "prompt": "One, two, three,", "max_tokens": 24, "temperature": 0}
    for stream in (False, True):
        found = client.completions.create(**asked, stop=stop, stream=stream)
        choices = [c.choices[0] for c in found] if stream else [found.choices[0]]
        assert "".join(choice.text for choice in choices) == whole[: whole.index(stop)]
        assert choices[-1].finish_reason == "stop"
    events = list(client.completions.create(**asked, stream=True, logprobs=0))
    tokens = [len(e.choices[0].logprobs.tokens) for e in events if e.choices[0].logprobs]
    assert sum(tokens) == 24
    # A pass commits its guesses that were right and one token more.
    assert max(tokens) <= 17
    assert events[-1].choices[0].finish_reason == "length"


def test_log_probabilities_of_both_apis_are_of_the_raw_logits(
    client: openai.OpenAI, bare: Bare
) -> None:
    ids = bare.tokenizer.encode(PROMPT)
    found = client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=5, temperature=0, logprobs=3
    )
    made = found.choices[0].logprobs
    assert made is not None
    assert made.tokens is not None
    assert made.top_logprobs is not None
    known = [*ids, *(bare.tokenizer.encode(token)[0] for token in made.tokens)]
    expected = bare.logprobs(known)[len(ids) - 1 :]
    assert made.token_logprobs == pytest.approx(expected, abs=1e-5)
    for token, top in zip(made.tokens, made.top_logprobs, strict=True):
        # Greedy: the token is the most probable.
        assert len(top) == 3
        assert max(top, key=top.__getitem__) == token
    chat = client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        max_tokens=4,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
    )
    assert chat.choices[0].logprobs is not None
    content = chat.choices[0].logprobs.content
    assert content is not None
    for entry in content:
        assert entry.bytes == list(entry.token.encode())
        assert entry.top_logprobs[0].logprob == entry.logprob > entry.top_logprobs[1].logprob


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("as_ids", [False, True])
def test_scoring_as_evaluation_harnesses_do_it(
    client: openai.OpenAI, bare: Bare, max_tokens: int, *, as_ids: bool
) -> None:
    ids = [bare.tokenizer.encode(text) for text in SCORED]
    prompt: Any = ids if as_ids else SCORED
    found = client.completions.create(
        model=MODEL, prompt=prompt, max_tokens=max_tokens, logprobs=1, echo=True, temperature=0
    )
    assert [choice.index for choice in found.choices] == [0, 1]
    for choice, token_ids, text in zip(found.choices, ids, SCORED, strict=True):
        made = choice.logprobs
        assert made is not None
        assert made.token_logprobs is not None
        assert made.top_logprobs is not None
        assert made.text_offset is not None
        assert len(made.token_logprobs) == len(made.text_offset) == len(token_ids) + max_tokens
        assert made.token_logprobs[0] is made.top_logprobs[0] is None
        scores = made.token_logprobs[1 : len(token_ids)]
        for score, expected in zip(scores, bare.logprobs(token_ids), strict=True):
            assert score is not None
            assert math.isclose(score, expected, abs_tol=1e-5)
        if not as_ids:
            assert choice.text.startswith(text)
            assert made.text_offset[0] == 0


def test_schemas_are_kept_to(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"A city as JSON. {CANARY}"}],
        max_tokens=160,
        seed=11,
        n=5,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": SCHEMA, "strict": True},
        },
    )
    texts = [choice.message.content or "" for choice in found.choices]
    for text in texts:
        City.model_validate_json(text)
    assert len(set(texts)) == 5
    found = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "A person with a name, as JSON."}],
        max_tokens=200,
        temperature=0,
        response_format={"type": "json_object"},
    )
    if found.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(found.choices[0].message.content or ""), dict)
    assert (found.choices[0].message.content or "").lstrip().startswith("{")


def test_what_cannot_be_is_a_400_of_the_official_client(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "prompt": CANARY, "max_tokens": 8}
    for extra in (
        {"grammar": "root ::= ("},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
        {"logit_bias": {"999999": 1}},
        {"max_tokens": 32_000},
        {"prompt": [49_152]},
        {"logprobs": 21},
    ):
        with pytest.raises(openai.BadRequestError):
            client.completions.create(**{**asked, "extra_body": extra})
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(**{**asked, "model": "gpt-4o"})
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_the_async_client_asks_for_many_at_a_time(url: str, bare: Bare) -> None:
    ids = bare.tokenizer.encode(PROMPT)
    expected = [bare.text(ids, 12, Sampling(**LEFT_OPEN, seed=s)) for s in range(6)]
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def ask(seed: int) -> str:
            stream = await client.completions.create(
                model=MODEL, prompt=PROMPT, max_tokens=12, seed=seed, stream=True, user=f"u{seed}"
            )
            return "".join([chunk.choices[0].text async for chunk in stream])

        assert await asyncio.gather(*(ask(seed) for seed in range(6))) == expected


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl(url: str, bare: Bare) -> None:
    messages = [{"role": "user", "content": "Name a colour."}]
    body = {"messages": messages, "max_tokens": 8, "temperature": 0, "stream": True}
    command = ["curl", "-sSN", f"{url}/chat/completions", "-H", "Content-Type: application/json"]
    done = subprocess.run(
        [*command, "-d", json.dumps(body)], capture_output=True, text=True, check=True
    )
    *events, last = done.stdout.strip().split("\n\n")
    assert last == "data: [DONE]"
    deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events]
    ids = bare.tokenizer.encode_chat([("user", "Name a colour.")])
    assert "".join(delta.get("content", "") for delta in deltas) == bare.text(ids, 8, Sampling())
    bad = subprocess.run(
        [*command, "-w", "%{http_code}", "-d", '{"messages": []}'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert bad.stdout.endswith("400")
