"""Bodies of every kind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings

from nodes.client.generation import GenerateOptions, Prompt
from tests.nodes.gateway.calls import gateway_of, open_app, post
from tests.nodes.gateway.fake_mesh import FakeMesh, Step, finished, started, tokens
from tests.nodes.gateway.strange_bodies import fault_of, requests


def script(_prompt: Prompt, options: GenerateOptions) -> Sequence[Step]:
    options.rules.check()
    steps: list[Step] = [started()]
    for choice in range(options.num_choices):
        steps += [tokens("a", 0, choice), finished(1, choice=choice)]
    return steps


@settings(max_examples=int(os.environ.get("AIRDRAFT_FUZZ_BODIES", "150")))
@given(requests)
def test_no_body_is_a_fault_of_ours(request: tuple[str, bytes]) -> None:
    mesh = FakeMesh(script)
    app = open_app(gateway_of(mesh), Path("/nonexistent"))
    path, body = request
    call = asyncio.run(post(app, path, body))
    is_stream = call.headers["content-type"].startswith("text/event-stream")
    assert fault_of(call.status, call.body, is_stream=is_stream) == ""
    assert mesh.num_open == 0
