"""Stages over a network: the whole model's bits, who may use them, and what their loss does."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.keys import ClientKeys
from airdraft.mesh.security import ServerKeys, new_key_pair
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.catalog.stages import embedding_of
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.protocol import EngineError, SequencesLostError, Span
from airdraft.nodes.engine.split.embedding import Embedding
from airdraft.nodes.engine.split.last import SplitModel, StageLostError
from airdraft.nodes.engine.split.stage import Piece, StageModel
from airdraft.nodes.messages.stages import (
    CUT,
    IN_USE,
    KEEP,
    LOADING,
    ROOM,
    SAVE,
    StageCommand,
    StageFactsRequest,
    StageOpenReply,
    StageOpenRequest,
    StagePassReply,
    StagePassRequest,
    StagePiece,
)
from airdraft.nodes.stage import links
from airdraft.nodes.stage.asking import StageAddress, facts_of
from tests.nodes.stage.scene import HASH, TEXT, chain, configured, linked, refusal, stage, texts_of

# Longer than a second or two.
pytestmark = pytest.mark.slow


def test_stages_of_a_network_compute_the_bits_of_the_whole_model(files, tmp_path):
    whole, *parts = files
    first, second, _ = parts
    with contextlib.closing(LlamaModel(configured(whole), model_hash=HASH)) as model:
        wanted, numerics = texts_of(model), model.info.numerics_class
    with (
        stage(first, f"ipc://{tmp_path}/1") as (one, _),
        stage(second, f"ipc://{tmp_path}/2") as (two, _),
    ):
        for _ in range(2):
            # A second target finds the stages empty.
            with chain(parts, [one, two]) as model:
                assert model.info.numerics_class == numerics
                assert model.info.model == "tiny.gguf"
                for found, row in zip(texts_of(model), wanted, strict=True):
                    assert np.array_equal(found, row)


def test_wrong_stages_are_told_by_their_endpoint(files, tmp_path):
    _, *parts = files
    first, second, _ = parts
    with (
        stage(first, f"ipc://{tmp_path}/1") as (one, _),
        stage(second, f"ipc://{tmp_path}/2") as (two, _),
    ):
        assert "2: this is a stage of another model" in refusal(parts, [two, one])
        with chain(parts, [one, two]):
            assert f"1 cannot be used: {IN_USE} (" in refusal(parts, [one, two], 3.0)
    assert "1 did not answer: is it running, and reachable" in refusal(parts, [one, two], 3.0)


def test_a_stage_that_stays_away_ends_the_passes_of_its_target(files, tmp_path, monkeypatch):
    monkeypatch.setattr(links, "_RETURN_S", 1.0)
    _, *parts = files
    first, second, _ = parts
    with (
        stage(first, f"ipc://{tmp_path}/1") as (one, _),
        stage(second, f"ipc://{tmp_path}/2") as (two, end),
        chain(parts, [one, two]) as model,
    ):
        model.forward([Span(0, 0, TEXT[:20])])
        end()
        with pytest.raises(EngineError, match="2 did not answer"):
            model.forward([Span(0, 20, TEXT[20:21], 1)])


def test_a_target_goes_on_with_a_stage_that_is_back(files, tmp_path):
    whole, *parts = files
    first, second, _ = parts
    with contextlib.closing(LlamaModel(configured(whole), model_hash=HASH)) as model:
        wanted = texts_of(model)
    at_second = f"ipc://{tmp_path}/2"
    with stage(first, f"ipc://{tmp_path}/1") as (one, _), contextlib.ExitStack() as stack:
        _, end = stack.enter_context(stage(second, at_second))
        model = stack.enter_context(chain(parts, [one, at_second]))
        model.forward([Span(0, 0, TEXT[:80])])
        model.forward([Span(1, 0, TEXT[:70])])
        saved = model.save(1)
        end()
        stack.enter_context(stage(second, at_second))
        with pytest.raises(SequencesLostError, match="2 is lost: "):
            model.forward([Span(0, 80, TEXT[80:81], 1)])
        assert [model.length(seq_id) for seq_id in range(3)] == [0, 0, 0]
        with pytest.raises(EngineError, match="cannot be restored"):
            model.restore(1, saved, 70)
        for found, row in zip(texts_of(model), wanted, strict=True):
            assert np.array_equal(found, row)


def test_a_stage_that_is_lost_again_and_again_ends_the_passes(files, tmp_path):
    _, *parts = files
    first, second, _ = parts
    places = f"ipc://{tmp_path}/1", f"ipc://{tmp_path}/2"
    with stage(first, places[0]), contextlib.ExitStack() as stack:
        _, end = stack.enter_context(stage(second, places[1]))
        model = stack.enter_context(chain(parts, list(places)))
        for error in (*(SequencesLostError,) * 3, StageLostError):
            end()
            _, end = stack.enter_context(stage(second, places[1]))
            with pytest.raises(error, match="2 is lost: "):
                model.forward([Span(0, 0, TEXT[:20], 1)])


def test_only_a_key_of_a_target_may_use_a_stage(files, tmp_path):
    _, *parts = files
    first, second, last = parts
    server, target, other = new_key_pair(), new_key_pair(), new_key_pair()
    keys = ServerKeys(server, lambda key: key in (target.public, other.public))
    with (
        stage(first, "tcp://127.0.0.1:*", keys=keys, may_use=lambda key: key == target.public) as (
            one,
            _,
        ),
        stage(second, f"ipc://{tmp_path}/2") as (two, _),
    ):
        others = [StageAddress(two, None, two)]
        for pair, fails in ((other, True), (target, False)):
            first_link = StageAddress(one, ClientKeys(pair, server.public), one)
            ahead = linked([first_link, *others], [first, second])
            config, embedding = configured(last), Embedding(embedding_of(last))
            if fails:
                with pytest.raises(EngineError, match="this key is not one of a target"):
                    SplitModel(config, ahead, embedding, model_hash=HASH)
            else:
                SplitModel(config, ahead, embedding, model_hash=HASH).close()


@contextlib.contextmanager
def recorded(port: int) -> Iterator[tuple[int, bytearray]]:
    """Passes connections on to a port; yields its own port and all bytes that it passed on."""
    seen, ports, loops = bytearray(), queue.SimpleQueue[int](), list[asyncio.AbstractEventLoop]()
    ending = asyncio.Event()

    async def carry(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                seen.extend(data)
                to.write(data)
        finally:
            to.close()

    async def accept(near: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        far, onward = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(carry(near, onward), carry(far, out))

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        ports.put(server.sockets[0].getsockname()[1])
        await ending.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield ports.get(timeout=10), seen
    finally:
        loops[0].call_soon_threadsafe(ending.set)
        thread.join()


@pytest.mark.parametrize("has_keys", [True, False])
def test_with_keys_no_row_can_be_read_on_the_wire(files, has_keys):
    _, first, _, _ = files
    server, own = new_key_pair(), new_key_pair()
    keys = ServerKeys(server, lambda key: key == own.public) if has_keys else None
    rows = np.random.default_rng(1).standard_normal((9, 256), np.float32)
    with (
        stage(first, "tcp://127.0.0.1:*", keys=keys) as (endpoint, _),
        recorded(int(endpoint.rpartition(":")[2])) as (port, seen),
        contextlib.closing(StageModel(configured(first), model_hash=HASH)) as model,
    ):
        link_keys = ClientKeys(own, server.public) if has_keys else None
        ahead = linked([StageAddress(f"tcp://127.0.0.1:{port}", link_keys, "one")], [first])
        ahead.open(model.info)
        ahead.begin([Piece(0, 0, 9)], rows)
        made = ahead.finish()
        ahead.close()
        assert np.array_equal(made, model.run([Piece(0, 0, 9)], rows))
    for row in (*rows, *made):
        assert (row.tobytes()[:64] in seen) == (not has_keys)


class Stranger:
    """Sends a stage what it likes, as a target that it accepts."""

    def __init__(self, context: ZmqContext, endpoint: str, numerics: str) -> None:
        self._client = context.connect(endpoint)
        self._numerics = numerics

    async def ask(self, message: Any) -> Any:
        await self._client.writable()
        self._client.send(encode(message))
        return decode(await self._client.recv()).message

    async def open(self, **changes: Any) -> StageOpenReply:
        fields = {"model_hash": HASH, "numerics_class": self._numerics, "max_sequences": 3}
        fields |= {"part": "0.gguf", "first": 0, "end": 1}
        while True:
            reply = await self.ask(StageOpenRequest(**(fields | changes)))
            assert isinstance(reply, StageOpenReply)
            if reply.reason != LOADING:
                return reply
            await asyncio.sleep(0.01)


ONE_ROW = np.zeros(256, np.float32).tobytes()
PIECE = (StagePiece(0, 0, 1),)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (StagePassRequest(1, (), PIECE, b"123"), "3 bytes of rows for 1 tokens"),
        (StagePassRequest(1, (), (StagePiece(0, 0, 1 << 40),), b""), "bytes of rows for"),
        (StagePassRequest(1, (), (StagePiece(7, 0, 1),), ONE_ROW), "sequence id 7 outside"),
        (StagePassRequest(1, (), (StagePiece(0, 5, 1),), ONE_ROW), "tokens at position 5"),
        (StagePassRequest(1, (), PIECE, np.full(256, np.nan, np.float32).tobytes()), "not finite"),
        (StagePassRequest(1, (StageCommand(CUT, 0, 0, 9),), PIECE, ONE_ROW), "cannot keep 9"),
        (StagePassRequest(1, (StageCommand(CUT, 99),), PIECE, ONE_ROW), "99 out of range"),
        (StagePassRequest(1, (StageCommand(SAVE, 0, 1),), PIECE, ONE_ROW), "is empty"),
        (StagePassRequest(1, (StageCommand(KEEP, 0),), PIECE, ONE_ROW), "keeps no states"),
        (StagePassRequest(1, (StageCommand(ROOM, 0, 0, 1 << 40),), PIECE, ONE_ROW), "cells wanted"),
        (StagePassRequest(2, (), PIECE, ONE_ROW), "pass 2 came in the place of 1"),
    ],
)
def test_what_a_target_may_not_ask_ends_its_use_and_nothing_else(files, tmp_path, request_, reason):
    first = files[1]
    with contextlib.closing(StageModel(configured(first), model_hash=HASH)) as model:
        numerics = model.info.numerics_class

    async def ask(endpoint: str) -> None:
        with ZmqContext() as context:
            async with asyncio.timeout(20):
                stranger = Stranger(context, endpoint, numerics)
                for changes, why in (
                    ({"model_hash": "cd" * 32}, "another model"),
                    ({"numerics_class": "x"}, "another build, profile or kernels"),
                ):
                    assert why in (await stranger.open(**changes)).reason
                assert not (await stranger.open()).reason
                reply = await stranger.ask(request_)
                assert isinstance(reply, StagePassReply)
                assert reason in reply.reason
                # It is free for another one, and empty.
                other = Stranger(context, endpoint, numerics)
                assert not (await other.open()).reason
                reply = await other.ask(StagePassRequest(1, (), PIECE, ONE_ROW))
                assert (reply.reason, len(reply.rows)) == ("", len(ONE_ROW))

    with stage(first, f"ipc://{tmp_path}/1") as (one, _):
        asyncio.run(ask(one))


def test_saved_texts_have_a_limit_in_a_stage(files, tmp_path):
    _, *parts = files
    first, second, _ = parts
    with (
        stage(first, f"ipc://{tmp_path}/1", most_saved_bytes=10_000) as (one, _),
        stage(second, f"ipc://{tmp_path}/2") as (two, _),
        chain(parts, [one, two]) as model,
    ):
        # It has as much of a text as each of the two blocks of the last stage.
        assert model.most_saved_bytes == 2 * 5_000
        model.forward([Span(0, 0, TEXT[:200])])
        saved = model.save(0)
        lost = "1 is lost: this stage has no memory for more saved"
        with pytest.raises(SequencesLostError, match=lost):
            model.forward([Span(0, saved.length, TEXT[200:201], 1)])


def test_a_target_is_told_what_was_measured_of_its_own_sample(tmp_path: Path) -> None:
    with stage(None, f"ipc://{tmp_path}/0", folder=tmp_path) as (endpoint, _):
        address = StageAddress(endpoint, None, "nano")

        def seconds(sample: bytes, file_bytes: int) -> float:
            (facts,) = facts_of([address], StageFactsRequest(sample, file_bytes), 10.0)
            assert facts.passes is not None
            return facts.passes.at(1)

        with pytest.raises(EngineError, match="stage nano cannot be used: no memory to measure"):
            seconds(b"large", 0)
        assert seconds(b"large", 7) == 7.0
        # Two targets that ask at the same time are each told of their own sample.
        with ThreadPoolExecutor(2) as threads:
            found = threads.map(seconds, (b"first", b"second"), (5, 9))
            assert list(found) == [5.0, 9.0]
