"""What everyday programs ask with OpenAI's official client, call by call."""

import json
import math
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest

from tests.cli.serving import Serving, serving

pytestmark = pytest.mark.model

UP = ("serve", "--listen", "tcp://127.0.0.1:*")
MODEL = "smollm2-135m"
CANARY = "CANARY-91c4"
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
TOOLS: Any = {**CHAT, "tools": [WEATHER], "max_tokens": 80, "parallel_tool_calls": False}
FUNCTION: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    is_large: bool


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("pair"), UP) as made:
        yield made
    # After everything that has been asked.
    assert CANARY not in made.log.read_text()


@pytest.fixture
def client(started: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=started.url, api_key="none", max_retries=0) as made:
        yield made


def check_weather(arguments: str) -> None:
    found = json.loads(arguments)
    assert set(found) == {"city", "days"}
    assert len(found["city"]) <= 12
    assert found["days"] in (1, 2, 3)


def test_a_chat_is_the_same_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=3)
    choice, usage = whole.choices[0], whole.usage
    assert choice.message.role == "assistant"
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    scores = choice.logprobs.content
    assert "".join(entry.token for entry in scores) == choice.message.content
    assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in scores)
    options = {"include_usage": True}
    *found, last = list(client.chat.completions.create(**CHAT, stream=True, stream_options=options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in found)
    assert text == choice.message.content
    assert (last.choices, last.usage.completion_tokens) == ([], usage.completion_tokens)


def test_answers_are_parsed_by_a_class(client: openai.OpenAI) -> None:
    asked = {**CHAT, "max_tokens": 300}
    found = client.chat.completions.parse(**asked, response_format=City)
    assert isinstance(found.choices[0].message.parsed, City)
    asked = {"model": MODEL, "input": "A city, please.", "max_output_tokens": 300}
    found = client.responses.parse(**asked, text_format=City)
    assert isinstance(found.output_parsed, City)


def test_a_required_tool_is_called_and_its_result_read(client: openai.OpenAI) -> None:
    asked = {**TOOLS, "tool_choice": "required", "temperature": 0.8}
    answer = client.chat.completions.create(**asked).choices[0].message
    (call,) = answer.tool_calls
    check_weather(call.function.arguments)
    found = list(client.chat.completions.create(**asked, stream=True))
    parts = [part for chunk in found for part in chunk.choices[0].delta.tool_calls or ()]
    assert "".join(part.function.name or "" for part in parts) == call.function.name == "weather"
    assert "".join(part.function.arguments or "" for part in parts) == call.function.arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": f"Sunny, {CANARY}."}
    asked = {**CHAT, "messages": [USER, answer, result], "tools": [WEATHER]}
    found = client.chat.completions.create(**asked, tool_choice="none")
    assert found.choices[0].message.content
    assert found.choices[0].message.tool_calls is None


def test_a_completion_is_streamed_and_a_prompt_scored(client: openai.OpenAI) -> None:
    whole = client.completions.create(**TEXT)
    found = list(client.completions.create(**TEXT, stream=True))
    assert "".join(chunk.choices[0].text for chunk in found) == whole.choices[0].text
    asked = {**TEXT, "max_tokens": 0, "echo": True, "logprobs": 1}
    found = client.completions.create(**asked)
    scores = found.choices[0].logprobs.token_logprobs
    assert scores[0] is None
    assert all(math.isfinite(score) for score in scores[1:])


def test_a_response_is_the_same_whole_and_streamed(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "input": [USER], "max_output_tokens": 12, "temperature": 0}
    whole = client.responses.create(**asked, instructions="Be brief.", store=False)
    found = list(client.responses.create(**asked, instructions="Be brief.", stream=True))
    text = "".join(e.delta for e in found if e.type == "response.output_text.delta")
    assert text == whole.output_text == found[-1].response.output_text
    assert 0 < whole.usage.output_tokens <= 12


def test_a_response_calls_a_tool_and_goes_on_with_its_result(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "tools": [FUNCTION], "parallel_tool_calls": False}
    asking = {"tool_choice": "required", "max_output_tokens": 99, "input": [USER]}
    first = client.responses.create(**asked, **asking)
    (call,) = first.output
    check_weather(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    told = [USER, *first.output, result]
    second = {"tool_choice": "none", "max_output_tokens": 12, "input": told}
    assert client.responses.create(**asked, **second).output_text


def test_errors_have_classes_of_their_own(client: openai.OpenAI) -> None:
    assert MODEL in {model.id.removesuffix(".gguf") for model in client.models.list()}
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**{**CHAT, "model": "other"})
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(**CHAT, temperature=9)
