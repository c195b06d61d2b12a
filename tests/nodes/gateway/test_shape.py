from __future__ import annotations

import json

from nodes.client.generation import GenerateOptions
from nodes.gateway.answers import Delta, ScoredToken
from nodes.gateway.fields import Job
from nodes.gateway.shape import DONE, ChunkWriter, Head, Whole, new_id, whole_body
from tests.nodes.gateway.fake_mesh import scored


def job(include_usage: bool) -> Job:
    return Job(("x",), GenerateOptions(), include_usage=include_usage, tells_tokens=True)


HEAD = Head("id-1", 5, 'a "model"', "fp_a_b")


def test_an_event_is_one_json_object_of_one_line() -> None:
    for include_usage in (False, True):
        writer = ChunkWriter("kind", job(include_usage))
        for choice in ({"index": 0}, {"index": 1}):
            event = writer.choice(HEAD, choice)
            assert event.startswith(b"data: ")
            assert event.endswith(b"\n\n")
            found = json.loads(event[6:])
            assert found["choices"] == [choice]
            assert (found["id"], found["object"], found["model"]) == ("id-1", "kind", 'a "model"')
            assert ("usage" in found) is include_usage


def test_the_usage_has_an_event_of_its_own() -> None:
    end = ChunkWriter("kind", job(True)).end(HEAD, {"total_tokens": 3})
    event = end.removesuffix(DONE)
    found = json.loads(event[6:])
    assert (found["choices"], found["usage"]) == ([], {"total_tokens": 3})
    assert ChunkWriter("kind", job(False)).end(HEAD, {"total_tokens": 3}) == DONE


def test_every_part_of_an_answer_has_its_fingerprint() -> None:
    whole = whole_body(HEAD, "kind", [], {})
    event = ChunkWriter("kind", job(False)).choice(HEAD, {"index": 0})
    for content in (whole, event[6:]):
        assert json.loads(content)["system_fingerprint"] == "fp_a_b"


def test_ids_are_drawn() -> None:
    assert new_id("cmpl").startswith("cmpl-")
    assert new_id("cmpl") != new_id("cmpl")


def test_a_choice_is_put_together() -> None:
    choice = Whole()
    choice.add(Delta(0, "a", (), True))
    choice.add(Delta(0, "b", (), False, "stop"))
    assert (choice.texts, choice.finish_reason) == (["a", "b"], "stop")


def test_tokens_are_told_beside_the_choices() -> None:
    told = [
        ScoredToken(scored('a"', -0.123456), kind="accepted"),
        ScoredToken(scored(b"\xe2\x82", -1.0), kind="corrected"),
        ScoredToken(scored("b", 0.0), is_first=True, kind="prompt"),
    ]
    for include_usage in (False, True):
        writer = ChunkWriter("kind", job(include_usage))
        found = json.loads(writer.choice(HEAD, {"index": 0}, told)[6:])
        assert found["choices"] == [{"index": 0}]
        assert found["airdraft"]["tokens"] == [
            ['a"', "accepted", -0.1235],
            [[0xE2, 0x82], "corrected", -1.0],
            ["b", "prompt", None],
        ]
        assert ("usage" in found) is include_usage
