"""What a stream counts as wrong, as failed, and as a gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from bench.chaos.links.clients import Heard, Streams
from nodes.client.client import Event, RequestFailedError
from nodes.engine.recording import RecordedText
from nodes.messages import FinishedNotice, StreamFigures, TokensNotice

TEXT = RecordedText("kind", "p", False, (1, 2), (10, 11, 12, 13), ())
LOST = RequestFailedError("unavailable", "the coordinator was lost")


def tokens(position: int, *token_ids: int) -> Event:
    return TokensNotice(1, 0, position, b"", token_ids)


FINISHED = FinishedNotice(1, 0, 4, "length", StreamFigures(1, 2, 0, 0, 0, 0, ""))


@dataclass
class Scripted:
    """A client whose answers are written down; after the last one it waits for ever."""

    answers: list[list[Event | Exception]]
    asked: list[Any] = field(default_factory=list)

    async def generate(self, prompt: Any, options: Any) -> AsyncIterator[Event]:
        self.asked.append((prompt, options.max_tokens))
        if not self.answers:
            await asyncio.Event().wait()
        for step in self.answers.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step


async def heard_of(eventually: Any, *answers: list[Event | Exception]) -> tuple[Heard, Scripted]:
    client = Scripted(list(answers))
    streams = Streams(client, [TEXT])  # type: ignore[arg-type]
    asking = asyncio.create_task(streams.stream(0, 1))
    await eventually(lambda: len(client.asked) > len(answers))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return streams.take(), client


async def test_whole_texts_are_counted_with_the_gaps_inside_them(eventually) -> None:
    right: list[Event | Exception] = [tokens(0, 10), tokens(1, 11, 12), tokens(3, 13), FINISHED]
    heard, client = await heard_of(eventually, right, right)
    assert (heard.num_texts, heard.num_tokens, heard.num_wrong, heard.num_failed) == (2, 8, 0, 0)
    # Between two texts is no gap.
    assert [length for *_, length in heard.gaps_s] == [3, 5, 3, 5]
    assert len(heard.waits_s) == 1
    assert client.asked[0] == ((1, 2), 4)
    assert heard.guessing_share == pytest.approx(1 / 3)
    assert Heard().guessing_share == 0.0


def test_what_was_heard_later_is_added() -> None:
    first = Heard(
        num_tokens=1, num_texts=2, failures={"a": 1}, gaps_s=[(1.0, 0.1, 7)], waits_s=[9.0]
    )
    first.add(Heard(num_tokens=10, num_wrong=3, failures={"a": 1, "b": 1}, waits_s=[0.5]))
    assert first == Heard(
        num_tokens=11,
        num_texts=2,
        num_wrong=3,
        failures={"a": 2, "b": 1},
        gaps_s=[(1.0, 0.1, 7)],
        waits_s=[0.5],
    )


async def test_changed_missing_and_repeated_tokens_are_wrong(eventually) -> None:
    heard, _ = await heard_of(
        eventually,
        [tokens(0, 10, 11, 99, 13), FINISHED],
        [tokens(0, 10, 11), FINISHED],
        [tokens(0, 10, 11), tokens(1, 11, 12, 13), FINISHED],
        [tokens(0, 10), tokens(2, 12), LOST],
    )
    assert (heard.num_texts, heard.num_wrong) == (3, 4)


async def test_a_failed_request_is_not_wrong_and_its_stall_is_a_gap(eventually) -> None:
    heard, _ = await heard_of(
        eventually, [tokens(0, 10, 11), LOST], [tokens(0, 10, 11, 12, 13), FINISHED], [LOST]
    )
    assert (heard.num_texts, heard.num_wrong) == (1, 0)
    assert heard.failures == {"the coordinator was lost": 2}
    assert len(heard.gaps_s) == 1
    assert heard.gaps_s[0][1] >= 0.2
