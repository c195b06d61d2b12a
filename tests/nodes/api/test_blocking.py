from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest

from nodes.api import (
    ConnectError,
    ConnectionLostError,
    InvalidRequestError,
    Piece,
    SyncClient,
    open_client,
)
from nodes.api.client import Stream
from tests.nodes.api.toy_mesh import ToyMesh, toy_mesh
from tests.nodes.held import held


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ToyMesh]:
    monkeypatch.setenv("AIRDRAFT_KEYS", str(tmp_path / "keys"))
    with toy_mesh() as made:
        yield made


def wait_until_empty(mesh: ToyMesh) -> None:
    give_up_at = time.monotonic() + 60
    while mesh.num_streams():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def client_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "airdraft-client"]


def test_it_answers_and_leaves_no_thread(mesh: ToyMesh) -> None:
    with open_client(mesh.endpoint) as client:
        text = client.complete("hi", max_tokens=20).text
        with client.stream("hi", max_tokens=20) as pieces:
            assert "".join(piece.text for piece in pieces) == text
        assert pieces.completion is not None
        assert pieces.completion.text == text
        assert client.chat("hi", max_tokens=3, num_choices=2).choices[1].text
        assert len(client.nodes()) == 2
    assert client_threads() == []


def test_it_is_used_from_several_threads(mesh: ToyMesh) -> None:
    texts: list[str] = []
    with open_client(mesh.endpoint) as client:
        work = [
            threading.Thread(target=lambda: texts.append(client.complete("hi", max_tokens=20).text))
            for _ in range(4)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
    assert len(texts) == 4
    assert len(set(texts)) == 1


def test_a_stream_that_is_left_is_cancelled(mesh: ToyMesh) -> None:
    with open_client(mesh.endpoint) as client:
        with client.stream("hi", max_tokens=4000) as pieces:
            next(pieces)
        wait_until_empty(mesh)
        for _ in client.stream("hi", max_tokens=4000):
            break
        wait_until_empty(mesh)


def test_errors_come_as_they_are(mesh: ToyMesh, tmp_path: Path) -> None:
    with open_client(mesh.endpoint) as client, pytest.raises(InvalidRequestError):
        client.complete("hi", temperature=-1.0)
    with pytest.raises(ConnectError):
        SyncClient("tcp://127.0.0.1:9", key=tmp_path, timeout_s=0.2)
    assert client_threads() == []


def test_a_closed_client_says_so(mesh: ToyMesh) -> None:
    client = open_client(mesh.endpoint)
    with held(mesh.model, after_passes=20):
        stream = client.stream("hi", max_tokens=4000)
        next(stream)
        client.close()
        client.close()
    with pytest.raises(ConnectionLostError, match="the client was closed"):
        client.complete("hi")
    with pytest.raises(ConnectionLostError):
        next(stream)
    wait_until_empty(mesh)


def test_a_stream_can_be_left_while_its_next_piece_is_asked_for(mesh: ToyMesh) -> None:
    """As by a Ctrl-C before the caller has begun to wait for it."""
    ended: list[str] = []

    async def silence() -> AsyncIterator[Piece]:
        try:
            await asyncio.Event().wait()
            yield Piece("")
        finally:
            ended.append("closed")

    with open_client(mesh.endpoint) as client:
        pieces = client.stream("hi", max_tokens=20)
        pieces.close()
        pieces._stream = cast(Stream, silence())
        asked = asyncio.run_coroutine_threadsafe(pieces._next(), client._loop)
        pieces.close()
        assert ended == ["closed"]
        with pytest.raises(concurrent.futures.CancelledError):
            asked.result(timeout=60)
