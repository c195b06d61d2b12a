"""A large request in pieces, from the client's side."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mesh.codec import decode
from mesh.errors import BackpressureError
from mesh.transport import Frames
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.client.upload import Granted, Upload, is_worth_offering
from nodes.messages import (
    MAX_PIECE_BYTES,
    CancelRequest,
    LinkFields,
    SubmitRequest,
    UploadGrant,
    UploadOffer,
    UploadPiece,
)
from tests.nodes.memory_mesh import Members, ask, check, mesh

AIR = LinkFields("cell-a", 2e6, 0.0)
OPTIONS = GenerateOptions(max_tokens=10)
LONG = tuple(k % 50 + 1 for k in range(2000))


@pytest.mark.parametrize(
    ("air", "rate_bps", "size", "is_offered"),
    [
        ("cell-a", 2e6, 3000, True),
        ("cell-a", 0.0, 3000, True),
        ("cell-a", 2e6, 100, False),
        # They are through in less time than it takes to ask.
        ("cell-a", 1e8, 3000, False),
        ("", 2e6, 20_000, False),
    ],
)
def test_large_requests_on_a_shared_medium_are_offered(
    air: str, rate_bps: float, size: int, is_offered: bool
) -> None:
    link = LinkFields(air, rate_bps, 0.0)
    assert is_worth_offering(link, [b"x" * (size - 1), b"y"]) is is_offered
    assert not is_worth_offering(link, [])
    assert not is_worth_offering(None, [b"x" * size])


def test_pieces_are_the_frames_in_order() -> None:
    upload = Upload(7, [b"head", b"tokens"])
    assert upload.offer(3, AIR) == UploadOffer(7, 10, 4, 3, AIR)
    assert upload.piece(6) == UploadPiece(7, 0, b"headto")
    assert not upload.is_over
    assert upload.piece(100) == UploadPiece(7, 6, b"kens")
    assert upload.is_over
    # The rest goes in messages that are allowed.
    upload = Upload(7, [b"x" * 70_000, b""])
    upload.piece(1000)
    pieces = upload.rest()
    assert [len(piece.data) for piece in pieces] == [MAX_PIECE_BYTES, MAX_PIECE_BYTES, 3464]
    assert upload.is_over


def test_a_delay_counts_from_when_the_grant_came() -> None:
    assert Granted(UploadGrant(1, 256, 1500), 10.0).send_at == pytest.approx(10.0015)


class OnAir:
    """A client on a shared medium, and what goes to and fro."""

    def __init__(self, members: Members, *, rejoins: bool = False) -> None:
        self._heard: list[Any] = []
        # The kind of which the next one does not leave, and kinds that are lost on their way.
        self.stuck: type | None = None
        self.lost: tuple[type, ...] = ()
        members.hub.drop = self._is_dropped
        transport = members.hub.client()
        self.client = Client(transport, endpoint="memory", declared=AIR, rejoins=rejoins)
        members.tasks["client"] = asyncio.create_task(self.client.run())

    def _is_dropped(self, frames: Frames) -> bool:
        message = decode(frames).message
        self._heard.append(message)
        if self.stuck is not None and isinstance(message, self.stuck):
            self.stuck = None
            raise BackpressureError
        return isinstance(message, self.lost)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self._heard if isinstance(message, kind)]


@contextlib.asynccontextmanager
async def on_air(*drafts: float, rejoins: bool = False) -> AsyncIterator[tuple[Members, OnAir]]:
    async with mesh(*drafts) as members:
        made = OnAir(members, rejoins=rejoins)
        names = {"target", *(f"draft-{index}" for index in range(len(drafts)))}
        await members.wait_for(made.client, names)
        yield members, made


async def check_answer(made: OnAir, prompt: tuple[int, ...] = LONG) -> None:
    check(await ask(made.client, OPTIONS, prompt), OPTIONS, prompt)


@pytest.mark.parametrize("kind", [UploadOffer, UploadPiece])
async def test_a_part_that_does_not_leave_is_noticed_at_once(kind: type) -> None:
    async with on_air(rejoins=True) as (_, made):
        made.stuck = kind
        await check_answer(made)
        # The whole request was made anew, and none of it sent again for want of an answer.
        assert len(made.of(UploadOffer)) == 2
        assert made.of(SubmitRequest) == []
        # 5 kB in each 20 ms; the first is as large as any.
        assert len(made.of(UploadPiece)) >= 2 * len(LONG) // 5000 + 1
        await check_answer(made, LONG[:50])
        assert len(made.of(SubmitRequest)) == 1


async def test_a_coordinator_that_knows_no_offers_is_sent_the_whole() -> None:
    async with on_air() as (_, made):
        made.lost = (UploadOffer,)
        for _ in range(2):
            await check_answer(made)
        # It is not asked again.
        assert len(made.of(UploadOffer)) == 1
        assert len(made.of(SubmitRequest)) == 2


async def test_a_request_that_is_given_up_while_it_is_sent_leaves_nothing(
    eventually: Any,
) -> None:
    async with on_air() as (_, made):
        made.lost = (UploadGrant,)
        asking = asyncio.create_task(check_answer(made))
        await eventually(lambda: made.of(UploadOffer))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert [message.request_id for message in made.of(CancelRequest)] == [
            message.request_id for message in made.of(UploadOffer)
        ]


async def test_an_upload_whose_coordinator_is_lost_begins_anew(eventually: Any) -> None:
    async with on_air(0.8, rejoins=True) as (members, made):
        made.lost = (UploadGrant,)
        asking = asyncio.create_task(check_answer(made))
        await eventually(lambda: made.of(UploadOffer))
        await members.kill("coordinator")
        made.lost = ()
        members.start_coordinator()
        await asking
        first, second = made.of(UploadOffer)
        assert first.request_id != second.request_id
        assert {piece.request_id for piece in made.of(UploadPiece)} == {second.request_id}
