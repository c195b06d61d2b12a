"""A mesh whose target has its model in two processes more, one of which dies in a request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from airdraft.mesh.authorized import Entry
from airdraft.mesh.keys import ClientKeys, KeyPair, KnownCoordinator
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.config.settings import CoordinatorConfig, TargetEngine
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.keys.keyring import Keyring
from airdraft.nodes.messages.access import ROLES
from airdraft.nodes.messages.stages import IN_USE, StageFactsRequest
from airdraft.nodes.service.local import local_mesh
from airdraft.nodes.stage.asking import StageAddress, facts_of
from bench.harness.processes import free_port
from tests.engine.kernels.tiny_models import Shape, write_model
from tests.nodes.memory_mesh import ask

pytestmark = pytest.mark.slow

LIMIT_S = 120.0
PROMPT = tuple(range(260, 290))


async def text_of(client: MeshClient, on_tokens=lambda: None) -> list[int]:
    options = GenerateOptions(max_tokens=300, temperature=1.0, seed=3, ignore_eog=True)
    (answer,) = await ask(client, options, PROMPT, on_tokens)
    return answer.token_ids


@contextlib.asynccontextmanager
async def running(
    words: Sequence[str], endpoint: str, environ: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that says where it listens."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "airdraft", *words), stdout=asyncio.subprocess.PIPE, env=environ
    )
    assert process.stdout is not None
    try:
        assert endpoint in (await process.stdout.readline()).decode()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def stage(
    file: Path, part: str, endpoint: str
) -> contextlib.AbstractAsyncContextManager[asyncio.subprocess.Process]:
    words = "stage", str(file), "--part", part, "--listen", endpoint, "-t", "1"
    return running(words, endpoint)


async def test_a_text_goes_on_when_a_stage_was_lost_and_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRDRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AIRDRAFT_KEYS", str(tmp_path / "keys"))
    whole = tmp_path / "tiny.gguf"
    write_model(whole, Shape(256, 4, 1, 64, 256, layers=4), "Q8_0")
    engine = TargetEngine(model=str(whole), cells=2048, threads=1)
    async with (
        asyncio.timeout(LIMIT_S),
        local_mesh(engine, None, tell=lambda _line: None) as (_, client),
    ):
        wanted = await text_of(client)
        (node,) = (await client.status()).nodes
    endpoints = [f"ipc://{tmp_path}/{number}" for number in (1, 2)]
    engine = TargetEngine(model=str(whole), across=", ".join(endpoints), cells=2048, threads=1)
    told, labels = list[str](), list[str]()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(LIMIT_S))
        first, second = [
            await stack.enter_async_context(stage(whole, f"{number}/3", endpoint))
            for number, endpoint in enumerate(endpoints, start=1)
        ]
        mesh, client = await stack.enter_async_context(
            local_mesh(
                engine,
                None,
                restarts=True,
                tell=told.append,
                progress=lambda label, *_: labels.append(label),
            )
        )
        (split,) = (await client.status()).nodes
        assert split.model == "tiny.gguf"
        assert "self-test" in labels
        assert split.numerics_class == node.numerics_class
        assert await text_of(client) == wanted
        begun, target = asyncio.Event(), mesh.pid("target")
        asking = asyncio.create_task(text_of(client, begun.set))
        await begun.wait()
        second.kill()
        await second.wait()
        await stack.enter_async_context(stage(whole, "2/3", endpoints[1]))
        assert await asking == wanted
        assert first.returncode is None
        assert (mesh.pid("target"), told) == (target, [])
        # The self-test of these stages need not run again.
        labels.clear()
        os.kill(target, signal.SIGKILL)
        assert await text_of(client) == wanted
        assert labels
        assert "self-test" not in labels


def lent(ours: Keyring, theirs: Keyring, name: str, at: KnownCoordinator) -> KeyPair:
    """Returns the key of a machine, which may be a stage in the mesh of ours."""
    pair = theirs.make_own()
    ours.authorized().add(Entry(pair.public, name, frozenset({"stage"})))
    theirs.keep_coordinator(at)
    return pair


def member(
    keys: Keyring, listens: str, cache: Path
) -> contextlib.AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """A stage that has joined a mesh, with files of its own."""
    words = "stage", "--keys", str(keys.directory), "--listen", listens, "-t", "1"
    return running(words, listens, os.environ | {"AIRDRAFT_CACHE": str(cache)})


def parsed(name: str) -> tuple[int, int]:
    """The blocks of a file by its name."""
    _, first, end = name.removesuffix(".gguf").split("-")
    return int(first), int(end)


async def test_a_machine_that_joins_is_sent_its_part_and_only_its_target_may_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mesh has keys, and each stage has an own folder of keys and one of models."""
    monkeypatch.setenv("AIRDRAFT_CACHE", str(tmp_path / "cache"))
    whole = tmp_path / "tiny.gguf"
    write_model(whole, Shape(256, 4, 1, 64, 256, layers=4), "Q8_0")
    ours, theirs = Keyring(tmp_path / "keys"), Keyring(tmp_path / "theirs")
    server, own = ours.make_coordinator_pair(), ours.make_own()
    ours.authorized().add(Entry(own.public, "box", ROLES))
    at, listens = f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}"
    other = lent(ours, theirs, "nano", KnownCoordinator(at, server.public))
    config = CoordinatorConfig(keys=str(ours.directory))
    engine = TargetEngine(model=str(whole), across="nano", cells=2048, threads=1)
    told = list[str]()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(LIMIT_S))

        async def lend() -> None:
            await asyncio.sleep(2.0)
            await stack.enter_async_context(member(theirs, listens, tmp_path / "b"))

        lending = asyncio.create_task(lend())
        _, client = await stack.enter_async_context(
            local_mesh(engine, None, listen=at, config=config, tell=told.append)
        )
        await lending
        nodes = {node.role: node for node in (await client.nodes()).nodes}
        assert nodes["stage"].node == "nano/stage"
        # Who has what follows from what passes take.
        first, end = parsed(nodes["stage"].model)
        assert first == 0 < end < 4
        # What to expect is told before it serves.
        (line,) = told
        assert line.startswith(f"nano has the blocks 0 to {end - 1} (")
        assert "tokens/s" in line
        assert len(await text_of(client)) == 300
        (part,) = (tmp_path / "b" / "stages").glob("*/*")
        assert parsed(part.name) == (0, end)
        # The target keeps its own part alone.
        (own_part,) = (tmp_path / "cache" / "stages").glob("*/*.gguf")
        assert parsed(own_part.name) == (end, 4)
        # It accepts no key but the target's, and the target uses it.
        for pair, reason in ((other, "did not answer"), (own, IN_USE)):
            address = StageAddress(listens, ClientKeys(pair, other.public), "nano")
            with pytest.raises(EngineError, match=reason):
                await asyncio.to_thread(facts_of, [address], StageFactsRequest(), 3.0)


async def test_another_machine_takes_the_place_of_one_that_stays_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRDRAFT_CACHE", str(tmp_path / "cache"))
    whole = tmp_path / "tiny.gguf"
    write_model(whole, Shape(256, 4, 1, 64, 256, layers=4), "Q8_0")
    ours = Keyring(tmp_path / "keys")
    server, own = ours.make_coordinator_pair(), ours.make_own()
    ours.authorized().add(Entry(own.public, "box", ROLES))
    coordinator = KnownCoordinator(f"tcp://127.0.0.1:{free_port()}", server.public)
    config = CoordinatorConfig(keys=str(ours.directory))
    engine = TargetEngine(
        model=str(whole), across="nano-1", spare="nano-2, nano-3", cells=2048, threads=1
    )
    stages = dict[str, asyncio.subprocess.Process]()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(LIMIT_S))
        for name in ("nano-1", "nano-3"):
            theirs, listens = Keyring(tmp_path / name), f"tcp://127.0.0.1:{free_port()}"
            lent(ours, theirs, name, coordinator)
            process = member(theirs, listens, tmp_path / f"{name}-cache")
            stages[name] = await stack.enter_async_context(process)
        mesh, client = await stack.enter_async_context(
            local_mesh(engine, None, listen=coordinator.endpoint, config=config, restarts=True)
        )
        wanted, target = await text_of(client), mesh.pid("target")
        assert not (tmp_path / "nano-3-cache").exists()
        begun = asyncio.Event()
        asking = asyncio.create_task(text_of(client, begun.set))
        await begun.wait()
        stages["nano-1"].kill()
        assert await asking == wanted
        assert mesh.pid("target") == target
        (part,) = (tmp_path / "nano-3-cache" / "stages").glob("*/*")
        assert parsed(part.name)[0] == 0
