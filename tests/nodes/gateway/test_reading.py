"""What a model thinks is told from what it answers, wherever its text is cut."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from nodes.engine.traits import ModelTraits, SamplingDefaults
from nodes.gateway.app import Gateway
from nodes.gateway.config import GatewayConfig
from nodes.gateway.reading import ThinkingReader
from tests.nodes.gateway.calls import CHAT, KEY, TALK, ask, open_app, post
from tests.nodes.gateway.fake_mesh import (
    THINKING,
    FakeMesh,
    finished,
    scored,
    started,
    text_answer,
    tokens,
)


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


async def message(mesh: FakeMesh, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await ask(mesh, CHAT, {**TALK, **body})).json["choices"][0]["message"]
    return found


async def test_what_a_grammar_holds_does_not_think() -> None:
    mesh = FakeMesh(text_answer('{"a": 1}'), traits=ModelTraits("hermes", "opened"))
    wanted = {"response_format": {"type": "json_object"}}
    tool = {"type": "function", "function": {"name": "f"}}
    for body in (wanted, {**wanted, "tools": [tool]}, {"grammar": 'root ::= "x"'}):
        found = await message(mesh, **body)
        assert found["content"] == '{"a": 1}'
        assert "reasoning_content" not in found


async def test_chats_have_thoughts_in_a_field_of_their_own() -> None:
    pieces = ["<think>", "hm", "</think>", "\n\nYes", "."]
    batches = [tokens(p, n, scores=(scored(p, -0.5),)) for n, p in enumerate(pieces)]
    mesh = FakeMesh([started(), *batches, finished(len(pieces))], traits=THINKING)
    found = await message(mesh)
    assert (found["reasoning_content"], found["content"]) == ("hm", "Yes.")
    call = await ask(mesh, CHAT, {**TALK, "stream": True, "logprobs": True}, **KEY)
    choices = [event["choices"][0] for event in call.events[:-1]]
    deltas = [choice["delta"] for choice in choices]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
    assert "".join(delta.get("content") or "" for delta in deltas) == "Yes."
    # Events have no ids: what a reader holds back is in none of them.
    assert {event_id for event_id, _ in call.marked_events} == {""}
    # Tokens of thoughts are told, too.
    scores = [(choice["logprobs"] or {"content": []})["content"] for choice in choices]
    assert [entry["token"] for each in scores for entry in each] == pieces


async def test_what_is_left_open_is_as_the_model_has_it() -> None:
    traits = ModelTraits(sampling=SamplingDefaults(0.25, 7, 0.5, 0.125))
    mesh = FakeMesh(text_answer("Yes."), traits=traits)
    app = open_app(Gateway(mesh, GatewayConfig()))
    found = (await post(app, CHAT, {**TALK, "top_k": 9})).json
    options = mesh.asked[0][1]
    assert (options.temperature, options.top_k, options.top_p) == (0.25, 9, 0.5)
    assert found["usage"]["airdraft"]["sampling"]["min_p"] == 0.125
    await ask(mesh, CHAT, TALK)
    assert (mesh.asked[1][1].temperature, mesh.asked[1][1].top_k) == (1.0, 0)
