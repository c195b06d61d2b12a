"""The default pair behind a gateway process: what people ask gets what the bare engine gives."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from bench.gateway.schemas import SCHEMA, fault_of_city
from nodes.catalog import DEFAULT_TARGET, Catalog, CatalogError, default_cache_dir
from nodes.engine.grammar import Grammars
from nodes.engine.llama import LlamaConfig
from nodes.engine.load import OpenedModel, open_model
from nodes.engine.protocol import Span
from nodes.engine.rules import Grammar, LogitBias, LogitRules
from nodes.engine.sampler import Sampler
from nodes.engine.sampling import Sampling
from tests.cli.commands import LIMIT_S, Commands


def _default_target() -> Path | None:
    try:
        return Catalog(default_cache_dir(os.environ)).path(DEFAULT_TARGET)
    except CatalogError:
        return None


pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(_default_target() is None, reason="the default target is not installed"),
]
UP = ("up", "--listen", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0", "-v", "-v")
MODEL = "smollm2-135m"
CANARY = "CANARY-91c4"
MESSAGES: list[Any] = [
    {"role": "system", "content": f"You are brief, {CANARY}."},
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": "Red."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Another one, "}, {"type": "text", "text": "please?"}],
    },
]
PROMPT = "The quick brown fox jumps over"
SCORED = ["The quick brown fox jumps over the lazy dog.", "Two and two is four, café 🙂."]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pair")
    commands = Commands(folder)
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            commands._command(UP),
            cwd=Path(__file__).parents[2],
            env=commands._environment({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        assert lines[1].startswith("OpenAI API at http://127.0.0.1:"), log.read_text()
        yield lines[1].removeprefix("OpenAI API at ").strip()
        process.terminate()
        assert process.wait(LIMIT_S) == 0
        assert commands.alive() == {}
        # After everything that this file has asked.
        assert CANARY not in log.read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        commands.kill_all()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made


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
    path = _default_target()
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
    expected = [bare.text(ids, 24, Sampling(temperature=1.0, seed=5, choice=c)) for c in range(3)]
    assert [choice.message.content for choice in found.choices] == expected
    assert len(set(expected)) == 3
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
    assert [fault_of_city(text) for text in texts] == [""] * 5
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
    expected = [bare.text(ids, 12, Sampling(temperature=1.0, seed=s)) for s in range(6)]
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


BOOKING: Any = {
    "type": "function",
    "function": {
        "name": "book",
        "description": "Book a table at a restaurant.",
        "parameters": {
            "type": "object",
            "properties": {
                "guests": {"type": "integer", "minimum": 1, "maximum": 12},
                "place": {"enum": ["inside", "outside"]},
                "name": {"type": "string", "maxLength": 20},
                "dishes": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
                "at": {
                    "type": "object",
                    "properties": {"hour": {"type": "integer", "minimum": 0, "maximum": 23}},
                    "required": ["hour"],
                    "additionalProperties": False,
                },
            },
            "required": ["guests", "place", "at"],
        },
    },
}


def fault_of_booking(text: str) -> str:
    """What is wrong with arguments; "" for nothing."""
    found = json.loads(text)
    known = BOOKING["function"]["parameters"]["properties"]
    checks = {
        "unknown names": set(found) <= set(known),
        "guests": type(found["guests"]) is int and 1 <= found["guests"] <= 12,
        "place": found["place"] in ("inside", "outside"),
        "name": len(found.get("name", "")) <= 20,
        "dishes": len(found.get("dishes", ())) <= 3,
        "at": set(found["at"]) == {"hour"} and 0 <= found["at"]["hour"] <= 23,
    }
    return ", ".join(name for name, is_good in checks.items() if not is_good)


def test_calls_of_tools_are_valid_and_the_same_however_they_are_asked_for(
    client: openai.OpenAI,
) -> None:
    asked: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "A table for four tonight, please."}],
        "tools": [BOOKING],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0.8,
        "max_tokens": 256,
    }
    for seed in range(3):
        whole = client.chat.completions.create(**asked, seed=seed).choices[0]
        assert whole.finish_reason == "tool_calls"
        (call,) = whole.message.tool_calls or ()
        assert call.type == "function"
        assert (call.function.name, fault_of_booking(call.function.arguments)) == ("book", "")
        name, arguments = "", ""
        for event in client.chat.completions.create(**asked, seed=seed, stream=True):
            for part in event.choices[0].delta.tool_calls or ():
                assert part.function is not None
                name += part.function.name or ""
                arguments += part.function.arguments or ""
        assert (name, arguments) == (call.function.name, call.function.arguments)


def test_what_a_tool_returned_is_read_and_answered(client: openai.OpenAI) -> None:
    question: Any = {"role": "user", "content": "A table for four tonight, please."}
    asked: Any = {"model": MODEL, "tools": [BOOKING], "max_tokens": 200, "temperature": 0}
    named = {"type": "function", "function": {"name": "book"}}
    first = client.chat.completions.create(**asked, messages=[question], tool_choice=named)
    answer = first.choices[0].message
    (call,) = answer.tool_calls or ()
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": f"Booked, {CANARY}."}
    told: Any = [question, answer.model_dump(exclude_none=True), result]
    second = client.chat.completions.create(**asked, messages=told)
    choice = second.choices[0]
    for made in choice.message.tool_calls or ():
        assert made.type == "function"
        if choice.finish_reason == "tool_calls":
            assert fault_of_booking(made.function.arguments) == ""
    assert choice.message.content or choice.message.tool_calls
    plain = client.chat.completions.create(**asked, messages=told, tool_choice="none")
    assert plain.choices[0].message.content
    assert not plain.choices[0].message.tool_calls
