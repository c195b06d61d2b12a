"""What everyday programs ask with OpenAI's official client, sync and async, call by call."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import openai
import pydantic
import pytest

from tests.cli.commands import wait_until
from tests.cli.default_pair import MODEL, NEEDS_PAIR
from tests.cli.serving import Serving
from tests.engine.kernels.tiny_models import SHAPES, write_model

pytestmark = NEEDS_PAIR

USER: Any = {"role": "user", "content": "Name a colour."}
CHAT: Any = {"model": MODEL, "messages": [USER], "max_tokens": 12, "seed": 1}
TEXT: Any = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 12, "seed": 1}
PARAMETERS: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "Of a city", "parameters": PARAMETERS},
}
CLOCK: Any = {"type": "function", "function": {"name": "clock", "description": "The time"}}
TOOLS: Any = {**CHAT, "tools": [WEATHER, CLOCK], "max_tokens": 80, "parallel_tool_calls": False}
FUNCTION: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}
EMBEDDER = "tiny-embed"

Client = Any
Case = Callable[[Client], Awaitable[None]]
CASES: dict[str, Case] = {}


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    is_large: bool


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


async def value(found: Any) -> Any:
    """What a call of either client gives."""
    return await found if inspect.isawaitable(found) else found


async def events(found: Any) -> list[Any]:
    """All that a stream of either client gives."""
    stream = await value(found)
    if hasattr(stream, "__aiter__"):
        return [event async for event in stream]
    return list(stream)


def check_weather(arguments: str) -> None:
    found = json.loads(arguments)
    assert set(found) == {"city", "days"}
    assert len(found["city"]) <= 12
    assert found["days"] in (1, 2, 3)


@case
async def chat(client: Client) -> None:
    found = await value(client.chat.completions.create(**CHAT))
    assert found.choices[0].message.role == "assistant"
    assert found.choices[0].message.content
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


@case
async def chat_streamed(client: Client) -> None:
    whole = await value(client.chat.completions.create(**CHAT))
    found = await events(client.chat.completions.create(**CHAT, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in found)
    assert text == whole.choices[0].message.content


@case
async def chat_streamed_with_usage(client: Client) -> None:
    options = {"include_usage": True}
    found = await events(
        client.chat.completions.create(**CHAT, stream=True, stream_options=options)
    )
    assert found[-1].choices == []
    assert found[-1].usage.completion_tokens > 0


@case
async def several_choices(client: Client) -> None:
    found = await value(client.chat.completions.create(**CHAT, n=3, temperature=1.5))
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in found.choices}) > 1


@case
async def the_same_seed(client: Client) -> None:
    found = [await value(client.chat.completions.create(**CHAT)) for _ in range(2)]
    assert found[0].choices[0].message.content == found[1].choices[0].message.content
    assert found[0].system_fingerprint == found[1].system_fingerprint


@case
async def logprobs(client: Client) -> None:
    found = await value(client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=3))
    content = found.choices[0].logprobs.content
    assert "".join(entry.token for entry in content) == found.choices[0].message.content
    assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in content)


@case
async def a_stop(client: Client) -> None:
    asked = {**CHAT, "temperature": 0, "max_tokens": 40}
    whole = (await value(client.chat.completions.create(**asked))).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    found = await value(client.chat.completions.create(**asked, stop=[stop]))
    assert found.choices[0].message.content == whole[: whole.index(stop)]
    assert found.choices[0].finish_reason == "stop"


@case
async def json_object(client: Client) -> None:
    asked = {**CHAT, "max_tokens": 300, "response_format": {"type": "json_object"}}
    found = await value(client.chat.completions.create(**asked, temperature=0))
    assert found.choices[0].message.content.lstrip().startswith("{")


@case
async def json_schema(client: Client) -> None:
    schema = {"name": "city", "schema": PARAMETERS, "strict": True}
    asked = {**CHAT, "response_format": {"type": "json_schema", "json_schema": schema}}
    found = await value(client.chat.completions.create(**{**asked, "max_tokens": 60}))
    check_weather(found.choices[0].message.content)


@case
async def parsed_by_a_class(client: Client) -> None:
    asked = {**CHAT, "max_tokens": 300}
    found = await value(client.chat.completions.parse(**asked, response_format=City))
    assert isinstance(found.choices[0].message.parsed, City)


@case
async def tools_by_choice_of_the_model(client: Client) -> None:
    found = await value(client.chat.completions.create(**TOOLS, tool_choice="auto"))
    message = found.choices[0].message
    assert message.content or message.tool_calls


@case
async def tools_required(client: Client) -> None:
    found = await value(client.chat.completions.create(**TOOLS, tool_choice="required"))
    (call,) = found.choices[0].message.tool_calls
    assert found.choices[0].finish_reason == "tool_calls"
    if call.function.name == "weather":
        check_weather(call.function.arguments)
    else:
        assert (call.function.name, json.loads(call.function.arguments)) == ("clock", {})


@case
async def a_tool_by_name(client: Client) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    found = await value(client.chat.completions.create(**TOOLS, tool_choice=named))
    (call,) = found.choices[0].message.tool_calls
    assert call.function.name == "weather"
    check_weather(call.function.arguments)


@case
async def several_calls_at_once(client: Client) -> None:
    asked = {**TOOLS, "parallel_tool_calls": True, "max_tokens": 200}
    found = await value(client.chat.completions.create(**asked, tool_choice="required"))
    calls = found.choices[0].message.tool_calls
    assert len({call.id for call in calls}) == len(calls) >= 1


@case
async def tools_streamed(client: Client) -> None:
    asked = {**TOOLS, "tool_choice": "required"}
    whole = await value(client.chat.completions.create(**asked))
    found = await events(client.chat.completions.create(**asked, stream=True))
    parts = [part for chunk in found for part in chunk.choices[0].delta.tool_calls or ()]
    (call,) = whole.choices[0].message.tool_calls
    assert "".join(part.function.name or "" for part in parts) == call.function.name
    assert "".join(part.function.arguments or "" for part in parts) == call.function.arguments


@case
async def no_tools(client: Client) -> None:
    found = await value(client.chat.completions.create(**TOOLS, tool_choice="none"))
    assert found.choices[0].message.tool_calls is None


@case
async def what_a_tool_returned(client: Client) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    first = await value(client.chat.completions.create(**TOOLS, tool_choice=named))
    answer = first.choices[0].message
    result = {"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "Sunny."}
    asked = {**CHAT, "messages": [USER, answer, result], "tools": [WEATHER]}
    found = await value(client.chat.completions.create(**asked, tool_choice="none"))
    assert found.choices[0].message.content


@case
async def strict_functions(client: Client) -> None:
    strict = {**WEATHER["function"], "strict": True}
    asked = {**TOOLS, "tools": [{"type": "function", "function": strict}]}
    found = await value(client.chat.completions.create(**asked, tool_choice="required"))
    check_weather(found.choices[0].message.tool_calls[0].function.arguments)


@case
async def hints(client: Client) -> None:
    raw = client.chat.completions.with_raw_response
    found = await value(
        raw.create(
            **CHAT,
            metadata={"a": "b"},
            store=True,
            user="somebody",
            service_tier="auto",
            prompt_cache_key="x",
            safety_identifier="y",
            extra_body={"keep_alive": "5m"},
        )
    )
    assert "metadata" in found.headers["warning"]
    assert "keep_alive" in found.headers["warning"]
    assert found.parse().choices[0].message.content


@case
async def a_name_and_parts_in_a_message(client: Client) -> None:
    message = {"role": "user", "name": "bob", "content": [{"type": "text", "text": "Hi?"}]}
    found = await value(client.chat.completions.create(**{**CHAT, "messages": [message]}))
    assert found.choices[0].message.content


@case
async def the_role_developer(client: Client) -> None:
    told = {"role": "developer", "content": "Be brief."}
    found = await value(client.chat.completions.create(**{**CHAT, "messages": [told, USER]}))
    assert found.choices[0].message.content


@case
async def a_completion(client: Client) -> None:
    found = await value(client.completions.create(**TEXT, echo=True))
    assert found.choices[0].text.startswith("Once upon a time")


@case
async def a_completion_streamed(client: Client) -> None:
    whole = await value(client.completions.create(**TEXT))
    found = await events(client.completions.create(**TEXT, stream=True))
    assert "".join(chunk.choices[0].text for chunk in found) == whole.choices[0].text


@case
async def a_scored_prompt(client: Client) -> None:
    asked = {**TEXT, "max_tokens": 0, "echo": True, "logprobs": 1}
    found = await value(client.completions.create(**asked))
    scores = found.choices[0].logprobs.token_logprobs
    assert scores[0] is None
    assert all(math.isfinite(score) for score in scores[1:])


@case
async def models(client: Client) -> None:
    found = await events(client.models.list())
    assert MODEL in {model.id.removesuffix(".gguf") for model in found}
    assert (await value(client.models.retrieve(MODEL))).object == "model"


@case
async def a_response(client: Client) -> None:
    asked = {"model": MODEL, "input": "Name a colour.", "max_output_tokens": 12}
    found = await value(client.responses.create(**asked, instructions="Be brief.", store=False))
    assert found.output_text
    assert found.usage.output_tokens <= 12


@case
async def a_response_streamed(client: Client) -> None:
    asked = {"model": MODEL, "input": [USER], "max_output_tokens": 12, "temperature": 0}
    whole = await value(client.responses.create(**asked))
    found = await events(client.responses.create(**asked, stream=True))
    text = "".join(e.delta for e in found if e.type == "response.output_text.delta")
    assert text == whole.output_text == found[-1].response.output_text


@case
async def a_response_with_a_tool(client: Client) -> None:
    asked = {
        "model": MODEL,
        "tools": [FUNCTION],
        "tool_choice": "required",
        "max_output_tokens": 99,
    }
    asked |= {"parallel_tool_calls": False}
    first = await value(client.responses.create(**asked, input=[USER]))
    (call,) = first.output
    check_weather(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    told = [USER, *first.output, result]
    second = {**asked, "tool_choice": "none", "max_output_tokens": 12}
    assert (await value(client.responses.create(**second, input=told))).output_text


@case
async def a_response_parsed_by_a_class(client: Client) -> None:
    asked = {"model": MODEL, "input": "A city, please.", "max_output_tokens": 300}
    found = await value(client.responses.parse(**asked, text_format=City))
    assert isinstance(found.output_parsed, City)


@case
async def embeddings(client: Client) -> None:
    found = await value(client.embeddings.create(model=EMBEDDER, input=["word1", "word2 word3"]))
    lengths = [math.sqrt(sum(x * x for x in entry.embedding)) for entry in found.data]
    assert lengths == [pytest.approx(1.0, abs=1e-5)] * 2


@case
async def errors_of_their_own_classes(client: Client) -> None:
    with pytest.raises(openai.NotFoundError):
        await value(client.chat.completions.create(**{**CHAT, "model": "other"}))
    with pytest.raises(openai.BadRequestError, match="temperature"):
        await value(client.chat.completions.create(**CHAT, temperature=9))


@pytest.fixture(scope="module")
def embedder(started: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A second target, which makes vectors."""
    path = tmp_path_factory.mktemp("model") / f"{EMBEDDER}.gguf"
    write_model(path, SHAPES["width 512"], "Q8_0", pooling=1)
    with started.commands.started(
        "target", "--connect", started.endpoint, "--model", str(path), "--name", "embedder"
    ):
        with httpx.Client(base_url=started.url, timeout=60) as http:
            body = {"model": EMBEDDER, "input": "word1"}
            wait_until(lambda: http.post("/embeddings", json=body).status_code == 200)
        yield


@pytest.fixture(params=["sync", "async"])
async def either(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Client]:
    kinds: dict[str, Any] = {"sync": openai.OpenAI, "async": openai.AsyncOpenAI}
    client = kinds[request.param](base_url=url, api_key="none", max_retries=0)
    yield client
    await value(client.close())


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.usefixtures("embedder")
async def test_it_works(name: str, either: Client) -> None:
    await CASES[name](either)
    # The client leaves the ends of its streams to the loop.
    await asyncio.sleep(0.01)


def test_there_are_thirty_of_them() -> None:
    assert len(CASES) >= 30
