"""What is said beside an answer, of a mesh in which a node has a name that commands terminals."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import pytest

from airdraft.nodes.cli.generate import print_request
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.messages import FinishedNotice, StartedNotice, StreamFigures

FIGURES = StreamFigures(0, 1, 0, 0, 0, 0, "draft node \x1b]0;x\x07 had no guess in time")
NOTICES = StartedNotice(1, 5, 3, True, "t", "d", False), FinishedNotice(1, 0, 0, "stop", FIGURES)


class FakeClient:
    async def generate(self, *_asked: object) -> AsyncIterator[Any]:
        for notice in NOTICES:
            yield notice


async def test_a_request_shows_no_control_characters_of_a_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    client: Any = FakeClient()
    await print_request(
        client, "hi", {**asdict(GenerateOptions()), "as_json": False, "thinking": None}
    )
    said = "\n[draft node \\x1b]0;x\\x07 had no guess in time]\n"
    assert capsys.readouterr().err.endswith(said)
