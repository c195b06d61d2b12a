"""Tokens of texts, texts of tokens, vectors of texts, and what is told of all routes."""

import asyncio
import base64
from typing import Any

import numpy as np
import pytest
from starlette.types import ASGIApp

from airdraft.mesh.errors import LocalProtocolError
from airdraft.nodes.client.client import RequestFailedError
from tests.nodes.gateway.calls import Call, app_of, ask, get, post
from tests.nodes.gateway.fake_mesh import MODEL_HASH, FakeMesh, text_answer

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
def app() -> ASGIApp:
    return app_of(FakeMesh(text_answer("a")))


async def test_tokens_of_a_text_and_back(app: ASGIApp) -> None:
    for name in ("content", "prompt"):
        found = (await post(app, "/tokenize", {name: "abc"})).json
        assert found == {"tokens": [97, 98, 99], "count": 3, "model": "toy-1"}
    assert (await post(app, "/tokenize", {"messages": MESSAGES})).json["tokens"] == [104, 105]
    found = (await post(app, "/detokenize", {"tokens": [97, 98]})).json
    assert (found["content"], found["prompt"]) == ("ab", "ab")
    body = {"model": "toy-1", "messages": MESSAGES, "system": "Be brief."}
    call = await post(app, "/v1/messages/count_tokens", body)
    assert call.json == {"input_tokens": len("Be brief.hi")}


async def test_vectors_come_as_numbers_or_base64(app: ASGIApp) -> None:
    async def asked(**body: Any) -> Call:
        return await post(app, "/v1/embeddings", body)

    found = (await asked(input="abc")).json
    assert found["data"] == [{"object": "embedding", "index": 0, "embedding": [3.0, 0.5]}]
    assert (found["object"], found["model"]) == ("list", "toy-1")
    assert found["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    several = (await asked(input=["a", "bb", "ccc"], encoding_format="base64")).json["data"]
    vectors = [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in several]
    assert [float(vector[0]) for vector in vectors] == [1.0, 2.0, 3.0]
    assert (await asked(input=[[97, 98], [99]])).json["usage"]["prompt_tokens"] == 3
    assert (await asked(input="abc", dimensions=2)).status == 200


async def test_all_that_is_posted_is_described(app: ASGIApp) -> None:
    told = (await get(app, "/openapi.json")).json
    assert told["openapi"] == "3.1.0"
    schemas = told["components"]["schemas"]
    for path, item in told["paths"].items():
        if "post" not in item:
            assert (await get(app, path)).status in (200, 503), path
            continue
        content = item["post"]["requestBody"]["content"]["application/json"]["schema"]
        name = content["$ref"].removeprefix("#/components/schemas/")
        assert schemas[name]["type"] == "object", path
        call = await post(app, path, [])
        assert (call.status, call.json["error"]["code"]) == (400, "invalid_json"), path
    chat = schemas["ChatBody"]["properties"]
    assert {"messages", "tools", "temperature", "max_tokens", "seed"} <= set(chat)
    assert not [name for name in schemas if "__" in name]


async def test_what_the_mesh_refuses_of_any_input_is_told() -> None:
    mesh = FakeMesh()
    app = app_of(mesh)
    for given, code, status in (
        (RequestFailedError("bad_request", "too long"), "bad_request", 400),
        (RequestFailedError("overloaded", "later"), "overloaded", 429),
        (LocalProtocolError("too large"), "request_too_large", 413),
    ):
        mesh.failures = {"bb": given}
        for inputs in (["a", "bb", "c"], ["bb", "a"]):
            call = await post(app, "/v1/embeddings", {"input": inputs})
            assert (call.status, call.json["error"]["code"]) == (status, code)
        call = await post(app, "/tokenize", {"content": "bb"})
        assert call.status == status


async def test_all_inputs_are_read_by_the_model_of_the_first_and_for_nobody_who_hung_up() -> None:
    mesh = FakeMesh()
    await ask(mesh, "/v1/embeddings", {"input": ["a", "b"]})
    assert [options.model_hash for _, options in mesh.asked] == ["", MODEL_HASH]
    mesh = FakeMesh(read_gate=asyncio.Event())
    call = Call(app_of(mesh), "POST", "/v1/embeddings", {"input": ["a"] * 40})
    task = call.start()
    await mesh.is_asked.wait()
    call.leave()
    await task
    assert (call.status, len(mesh.asked)) == (0, 1)
