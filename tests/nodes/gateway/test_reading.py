"""What a model thinks is told from what it answers, wherever its text is cut."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from nodes.engine.traits import SamplingDefaults
from nodes.gateway.app import Gateway
from nodes.gateway.config import GatewayLimits
from nodes.gateway.reading import ThinkingReader
from tests.nodes.gateway.calls import gateway_of, open_app, post
from tests.nodes.gateway.fake_mesh import (
    FakeMesh,
    Step,
    finished,
    scored,
    started,
    text_answer,
    tokens,
)

PATH = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "hi"}]}
KEY = {"idempotency-key": "0123456789abcdef"}


@pytest.mark.parametrize(
    ("kind", "text", "reasoning", "content"),
    [
        ("marked", "<think>\nhm\n</think>\n\nYes.", "hm\n", "Yes."),
        ("marked", "\n<think>a</think>b", "a", "b"),
        ("marked", "Yes. <think>", "", "Yes. <think>"),
        ("marked", " Yes.", "", " Yes."),
        ("marked", "<thin", "", "<thin"),
        ("marked", "<think>cut off </thi", "cut off </thi", ""),
        ("marked", "<think></think>Yes.", "", "Yes."),
        ("marked", "", "", ""),
        ("opened", "\nhm</think>Yes. </think>", "hm", "Yes. </think>"),
        ("opened", "cut off", "cut off", ""),
    ],
)
def test_thoughts_are_told_apart_wherever_the_text_is_cut(
    kind: str, text: str, reasoning: str, content: str
) -> None:
    for cuts in itertools.combinations(range(len(text) + 1), min(2, len(text))):
        reader, found = ThinkingReader(kind), ["", ""]
        edges = [0, *cuts, len(text)]
        for place, (start, end) in enumerate(itertools.pairwise(edges)):
            parts = reader.read(text[start:end], is_last=place == len(edges) - 2)
            found = [a + b for a, b in zip(found, parts, strict=True)]
        assert found == [reasoning, content], cuts


async def test_what_a_grammar_holds_does_not_think(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer('{"a": 1}'))
    mesh.thinking = "opened"
    app = open_app(gateway_of(mesh), tmp_path)
    wanted = {"response_format": {"type": "json_object"}}
    tool = {"type": "function", "function": {"name": "f"}}
    for body in (wanted, {**wanted, "tools": [tool]}, {"grammar": 'root ::= "x"'}):
        message = (await post(app, PATH, {**ASK, **body})).json["choices"][0]["message"]
        assert message["content"] == '{"a": 1}'
        assert "reasoning_content" not in message


async def test_models_that_think_in_several_forms_have_to_be_named(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("Yes."), models=["a", "b"])
    mesh.hashes = {"target-1": "ff" * 8}
    mesh.thoughts = {"target-1": "opened"}
    app = open_app(gateway_of(mesh), tmp_path)
    call = await post(app, PATH, ASK)
    assert (call.status, call.json["error"]["param"]) == (400, "model")
    assert (await post(app, PATH, {**ASK, "model": "a"})).json["choices"][0]["message"][
        "content"
    ] == "Yes."
    assert (await post(app, "/v1/completions", {"prompt": "hi"})).status == 200


async def test_tokens_of_thoughts_and_calls_are_told_in_streams_too(tmp_path: Path) -> None:
    pieces = ["<think>", "hm", "</think>", "Yes", "."]
    steps: list[Step] = [started()]
    steps += [
        tokens(piece, place, scores=(scored(piece, -0.5),)) for place, piece in enumerate(pieces)
    ]
    mesh = FakeMesh([*steps, finished(len(pieces))])
    mesh.thinking = "marked"
    app = open_app(gateway_of(mesh), tmp_path)
    call = await post(app, PATH, {**ASK, "stream": True, "logprobs": True})
    told = [
        entry["token"]
        for event in call.events[:-1]
        for entry in (event["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert told == pieces


async def test_chats_have_thoughts_in_a_field_of_their_own(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("<think>", "hm", "</think>\n\n", "Yes."))
    mesh.thinking = "marked"
    app = open_app(gateway_of(mesh), tmp_path)
    message = (await post(app, PATH, ASK)).json["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", "Yes.")
    call = await post(app, PATH, {**ASK, "stream": True}, **KEY)
    deltas = [event["choices"][0]["delta"] for event in call.events[:-1]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
    assert "".join(delta.get("content") or "" for delta in deltas) == "Yes."
    # Events have no ids: what a reader holds back is in none of them.
    assert {event_id for event_id, _ in call.marked_events} == {""}


async def test_what_is_left_open_is_as_the_model_has_it(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("Yes."))
    mesh.sampling = SamplingDefaults(0.25, 7, 0.5, 0.125)
    app = open_app(Gateway(mesh, GatewayLimits()), tmp_path)
    found = (await post(app, PATH, {**ASK, "top_k": 9})).json
    options = mesh.asked[0][1]
    assert (options.temperature, options.top_k, options.top_p) == (0.25, 9, 0.5)
    assert found["usage"]["airdraft"]["sampling"] == {
        "temperature": 0.25,
        "top_k": 9,
        "top_p": 0.5,
        "min_p": 0.125,
    }
    await post(open_app(gateway_of(mesh), tmp_path), PATH, ASK)
    assert (mesh.asked[1][1].temperature, mesh.asked[1][1].top_k) == (1.0, 0)
