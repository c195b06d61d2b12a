"""A large request in pieces, from the client's side."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import nodes.client.client
from mesh.messages import Pong
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.client.upload import LEAST_BYTES, Granted, Upload, is_worth_offering
from nodes.messages import (
    MAX_PIECE_BYTES,
    LinkFields,
    SubmitRequest,
    UploadGrant,
    UploadOffer,
    UploadPiece,
)
from tests.nodes.memory_mesh import Members, ask, check, mesh

AIR = LinkFields("cell-a", 2e6, 0.0)
LONG = tuple(k % 50 + 1 for k in range(2000))


@pytest.mark.parametrize(
    ("link", "size", "is_offered"),
    [
        (AIR, LEAST_BYTES + 500, True),
        (AIR, LEAST_BYTES, False),
        (LinkFields("cell-a", 0.0, 0.0), LEAST_BYTES + 1, True),
        # 2,000 bytes are through in less time than it takes to ask.
        (LinkFields("cell-a", 1e8, 0.0), 2000, False),
        (LinkFields("", 2e6, 0.0), 20_000, False),
        (None, 20_000, False),
    ],
)
def test_large_requests_on_a_shared_medium_are_offered(
    link: LinkFields | None, size: int, is_offered: bool
) -> None:
    assert is_worth_offering(link, [b"x" * (size - 1), b"y"]) is is_offered
    assert not is_worth_offering(link, [])


def test_pieces_are_the_frames_in_order() -> None:
    upload = Upload(7, [b"head", b"tokens"])
    assert upload.offer(3, AIR) == UploadOffer(7, 10, 4, 3, AIR)
    assert upload.piece(6) == UploadPiece(7, 0, b"headto")
    assert not upload.is_over
    assert upload.piece(100) == UploadPiece(7, 6, b"kens")
    assert upload.is_over


def test_the_rest_goes_in_messages_that_are_allowed() -> None:
    upload = Upload(7, [b"x" * 70_000, b""])
    upload.piece(1000)
    pieces = upload.rest()
    assert [len(piece.data) for piece in pieces] == [MAX_PIECE_BYTES, MAX_PIECE_BYTES, 3464]
    assert upload.is_over


def test_a_delay_counts_from_when_the_grant_came() -> None:
    assert Granted(UploadGrant(1, 256, 1500), 10.0).send_at == pytest.approx(10.0015)


class OnAir:
    """A client on a shared medium, and what it sent but for answers to heartbeats."""

    def __init__(
        self, members: Members, monkeypatch: pytest.MonkeyPatch, *, rejoins: bool = False
    ) -> None:
        self.client = Client(
            members._connect("client"), endpoint="memory", declared=AIR, rejoins=rejoins
        )
        self.sent: list[Any] = []
        # The kind of which the next one does not leave.
        self.stuck: type | None = None
        send = self.client._link.send

        def noting(message: Any) -> bool:
            if not isinstance(message, Pong):
                self.sent.append(message)
            if self.stuck is not None and isinstance(message, self.stuck):
                self.stuck = None
                return False
            return send(message)

        monkeypatch.setattr(self.client._link, "send", noting)
        members.tasks["client"] = asyncio.create_task(self.client.run())

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]


async def test_a_long_prompt_goes_in_pieces_and_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with mesh(0.8) as made:
        on_air = OnAir(made, monkeypatch)
        await made.wait_for(on_air.client, {"target", "draft-0"})
        options = GenerateOptions(max_tokens=10)
        check(await ask(on_air.client, options, LONG), options, LONG)
        assert len(on_air.of(UploadOffer)) == 1
        # 5 kB in each 20 ms; the first is as large as any.
        assert len(on_air.of(UploadPiece)) >= 2 * len(LONG) // 5000 + 1
        assert on_air.of(SubmitRequest) == []
        check(await ask(on_air.client, options, LONG[:50]), options, LONG[:50])
        assert len(on_air.of(SubmitRequest)) == 1


@pytest.mark.parametrize("kind", [UploadOffer, UploadPiece])
async def test_a_part_that_does_not_leave_is_noticed_at_once(
    monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    async with mesh() as made:
        on_air = OnAir(made, monkeypatch, rejoins=True)
        await made.wait_for(on_air.client, {"target"})
        on_air.stuck = kind
        options = GenerateOptions(max_tokens=10)
        check(await ask(on_air.client, options, LONG), options, LONG)
        # The whole request was made anew, and none of it sent again for want of an answer.
        assert len(on_air.of(UploadOffer)) == 2
        assert on_air.of(SubmitRequest) == []


async def test_a_coordinator_that_knows_no_offers_is_sent_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nodes.client.client, "ANSWER_LIMIT_S", 0.05)
    async with mesh() as made:
        on_air = OnAir(made, monkeypatch)
        await made.wait_for(on_air.client, {"target"})
        monkeypatch.setattr(
            "nodes.coordinator.requests.uploads.Uploads.offered", lambda *_arguments: []
        )
        options = GenerateOptions(max_tokens=10)
        for _ in range(2):
            check(await ask(on_air.client, options, LONG), options, LONG)
        # It is not asked again.
        assert len(on_air.of(UploadOffer)) == 1
        assert len(on_air.of(SubmitRequest)) == 2


async def test_who_is_forgotten_in_line_sends_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes.client.client, "GRANT_LIMIT_S", 0.05)
    async with mesh() as made:
        on_air = OnAir(made, monkeypatch)
        await made.wait_for(on_air.client, {"target"})
        monkeypatch.setattr(
            "nodes.coordinator.requests.uploads.Uploads._next_grant", lambda *_: 1e9
        )
        options = GenerateOptions(max_tokens=10)
        check(await ask(on_air.client, options, LONG), options, LONG)
        assert on_air.of(SubmitRequest) == []
        assert [len(p.data) for p in on_air.of(UploadPiece)] == [
            on_air.of(UploadOffer)[0].num_bytes
        ]


async def test_a_request_that_is_given_up_while_it_is_sent_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    async with mesh() as made:
        on_air = OnAir(made, monkeypatch)
        await made.wait_for(on_air.client, {"target"})
        monkeypatch.setattr(
            "nodes.coordinator.requests.uploads.Uploads._next_grant", lambda *_: 1e9
        )
        asking = asyncio.create_task(ask(on_air.client, GenerateOptions(max_tokens=4), LONG))
        await eventually(lambda: on_air.of(UploadOffer))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert type(on_air.sent[-1]).__name__ == "CancelRequest"


async def test_an_upload_whose_coordinator_is_lost_begins_anew(
    monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    async with mesh(0.8) as made:
        on_air = OnAir(made, monkeypatch, rejoins=True)
        await made.wait_for(on_air.client, {"target", "draft-0"})
        options = GenerateOptions(max_tokens=10)
        with monkeypatch.context() as patch:
            patch.setattr("nodes.coordinator.requests.uploads.Uploads._next_grant", lambda *_: 1e9)
            asking = asyncio.create_task(ask(on_air.client, options, LONG))
            await eventually(lambda: on_air.of(UploadOffer))
            await made.kill("coordinator")
        made.start_coordinator()
        check(await asking, options, LONG)
        first, second = on_air.of(UploadOffer)
        assert first.request_id != second.request_id
        assert {piece.request_id for piece in on_air.of(UploadPiece)} == {second.request_id}
