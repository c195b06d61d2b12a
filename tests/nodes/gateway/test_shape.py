from __future__ import annotations

import json

from nodes.gateway.answers import Delta
from nodes.gateway.shape import ChunkWriter, Head, Whole, fingerprint, new_id, whole_body

HEAD = Head("id-1", 5, 'a "model"')


def test_an_event_is_one_json_object_of_one_line() -> None:
    for include_usage in (False, True):
        writer = ChunkWriter("kind", include_usage=include_usage)
        for text in ('{"index":0}', '{"index":1}'):
            event = writer.choice(HEAD, text)
            assert event.startswith(b"data: ")
            assert event.endswith(b"\n\n")
            found = json.loads(event[6:])
            assert found["choices"] == [json.loads(text)]
            assert (found["id"], found["object"], found["model"]) == ("id-1", "kind", 'a "model"')
            assert ("usage" in found) is include_usage


def test_the_usage_has_an_event_of_its_own() -> None:
    event = ChunkWriter("kind", include_usage=True).usage(HEAD, {"total_tokens": 3})
    found = json.loads(event[6:])
    assert (found["choices"], found["usage"]) == ([], {"total_tokens": 3})


def test_a_fingerprint_is_of_the_model() -> None:
    assert fingerprint("a") == fingerprint("a") != fingerprint("b")
    assert json.loads(whole_body(HEAD, "kind", [], {}))["system_fingerprint"] == fingerprint(
        HEAD.model
    )


def test_ids_are_drawn() -> None:
    assert new_id("cmpl").startswith("cmpl-")
    assert new_id("cmpl") != new_id("cmpl")


def test_a_choice_is_put_together() -> None:
    choice = Whole()
    choice.add(Delta(0, "a", (), True))
    choice.add(Delta(0, "b", (), False, "stop"))
    assert (choice.texts, choice.finish_reason) == (["a", "b"], "stop")
