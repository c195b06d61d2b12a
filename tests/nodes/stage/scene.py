"""Stages in threads, with a model of random weights, and targets that use them."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.mesh.keys import ClientKeys
from airdraft.mesh.security import ServerKeys
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.catalog.gguf import declared_by
from airdraft.nodes.catalog.stages import embedding_of
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.noise import drawn_ids
from airdraft.nodes.engine.protocol import EngineError, Span
from airdraft.nodes.engine.split.embedding import Embedding
from airdraft.nodes.engine.split.last import SplitModel
from airdraft.nodes.engine.split.stage import StageModel
from airdraft.nodes.stage.asking import StageAddress
from airdraft.nodes.stage.links import StageLinks
from airdraft.nodes.stage.node import StageNode
from airdraft.nodes.stage.outgoing import PartFiles
from airdraft.nodes.stage.parts import Part
from airdraft.policies.latency import CostTable

HASH = "ab" * 32
TEXT = drawn_ids(1, 300, 300)


def configured(path: Path, max_sequences: int = 3) -> LlamaConfig:
    return LlamaConfig(path=path, num_cells=1024, max_sequences=max_sequences)


def part_of(path: Path) -> Part:
    blocks = declared_by(path).blocks
    assert blocks is not None
    return Part(HASH, path.name, blocks.first, blocks.end)


class Files:
    """Implements Parts with a file; without one, with what a target sends into a folder."""

    def __init__(self, path: Path | None, folder: Path | None, most_saved_bytes: int) -> None:
        self._path, self._folder, self._most_saved = path, folder, most_saved_bytes
        self.fixed = part_of(path) if path is not None else None

    def progress(self, label: str, done: int, total: int | None) -> None: ...

    def free_bytes(self, loaded: Part | None) -> int:
        return 1 << 30

    def measure(self, sample: bytes, file_bytes: int) -> CostTable:
        if not file_bytes:
            raise EngineError("no memory to measure passes")
        return CostTable((1,), (float(file_bytes),))

    def refusal(self, part: Part) -> str:
        is_other = self.fixed is not None and not self.fixed.is_same_as(part)
        return "this is a stage of another model" if is_other else ""

    def find(self, part: Part) -> Path | None:
        return self._path

    def place(self, part: Part) -> Path:
        assert self._folder is not None
        return self._folder / part.file

    def open(self, path: Path, max_sequences: int, *, keeps_states: bool) -> StageModel:
        config = replace(configured(path, max_sequences), takes_back=keeps_states)
        return StageModel(config, model_hash=HASH)

    def most_saved_bytes(self) -> int:
        return self._most_saved


@contextlib.contextmanager
def stage(
    path: Path | None,
    endpoint: str,
    *,
    folder: Path | None = None,
    keys: ServerKeys | None = None,
    may_use: Callable[[str], bool] = lambda _key: True,
    most_saved_bytes: int = 1 << 30,
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Runs a stage in a thread; yields its endpoint, and what ends it."""
    parts, loop = Files(path, folder, most_saved_bytes), asyncio.new_event_loop()
    bound, ending = threading.Event(), asyncio.Event()
    endpoints = list[str]()

    async def serve() -> None:
        with ZmqContext() as context:
            transport = context.bind(endpoint, keys)
            endpoints.append(transport.endpoint)
            served = StageNode(transport, parts, may_use)
            running = asyncio.create_task(served.run())
            bound.set()
            await ending.wait()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()

    def end() -> None:
        if thread.is_alive():
            loop.call_soon_threadsafe(ending.set)
            thread.join()

    try:
        assert bound.wait(10)
        yield endpoints[0], end
    finally:
        end()
        loop.close()


def linked(
    stages: list[StageAddress], files: list[Path], limit_s: float = 30.0, sends: bool = False
) -> StageLinks:
    by_name = {path.name: path for path in files}
    cut = (lambda part: (by_name[part.file], False)) if sends else None
    parts = [part_of(path) for path in files]
    return StageLinks(parts, lambda _: stages, limit_s, PartFiles(cut, lambda *_: None))


@contextlib.contextmanager
def chain(
    files: list[Path],
    stages: list[str],
    keys: ClientKeys | None = None,
    limit_s: float = 30.0,
    sends: bool = False,
) -> Iterator[SplitModel]:
    """A target with all files of a model but the whole one. sends: stages get theirs from it."""
    *before, last = files
    ahead = linked([StageAddress(each, keys, each) for each in stages], before, limit_s, sends)
    embedding = Embedding(embedding_of(last))
    with contextlib.closing(
        SplitModel(configured(last), ahead, embedding, model_hash=HASH)
    ) as model:
        yield model


def refusal(files: list[Path], stages: list[str], limit_s: float = 30.0) -> str:
    with pytest.raises(EngineError) as caught, chain(files, stages, limit_s=limit_s):
        pass
    return str(caught.value)


def texts_of(model: Any) -> list[np.ndarray]:
    """The rows of passes with wrong guesses, copies, and a text that is saved and restored."""
    rows = [model.forward([Span(0, 0, TEXT[:200], 3)]).copy()]
    rows.append(model.forward([Span(0, 200, [*TEXT[200:203], 7, 8], 3, keeps=True)]).copy())
    model.truncate(0, 203)
    model.copy_prefix(0, 1, 150)
    rows.append(model.forward([Span(0, 203, TEXT[203:204], 1), Span(1, 150, [9], 1)]).copy())
    saved = model.save(0)
    model.truncate(0, 0)
    model.restore(2, saved, 190)
    rows.append(model.forward([Span(2, 190, TEXT[190:200], 10)]).copy())
    for seq_id in (1, 2):
        model.truncate(seq_id, 0)
    return rows
