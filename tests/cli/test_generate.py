"""What is said beside an answer, of a mesh in which a node has a name that commands terminals."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import pytest

from nodes.api.answers import Assembly
from nodes.cli.chat.terminal import figures_line
from nodes.cli.generate import print_request
from nodes.client.generation import GenerateOptions
from nodes.messages import FinishedNotice, StartedNotice, StreamFigures

FIGURES = StreamFigures(0, 1, 0, 0, 0, 0, "draft node \x1b]0;x\x07 had no guess in time")
NOTICES = StartedNotice(1, 5, 3, True, "t", "d", False), FinishedNotice(1, 0, 0, "stop", FIGURES)
SHOWN = "\n[draft node \\x1b]0;x\\x07 had no guess in time]"


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
    assert capsys.readouterr().err.endswith(f"{SHOWN}\n")


def test_a_chat_shows_no_control_characters_of_a_name() -> None:
    assembly = Assembly(1)
    for notice in NOTICES:
        assembly.take(notice)
    assert figures_line(assembly.completion(1.0)).endswith(SHOWN)
