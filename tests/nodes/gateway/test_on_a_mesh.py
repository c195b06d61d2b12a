"""The gateway in front of a real coordinator, targets and a draft node, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest

import airdraft
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.config.settings import LinkSettings
from airdraft.nodes.engine.toy import ToyConfig
from airdraft.nodes.gateway.config import GatewayConfig
from airdraft.nodes.gateway.server import run_gateway
from tests.nodes.api.toy_mesh import alone, toy_mesh
from tests.nodes.gateway.fake_mesh import Eventually
from tests.nodes.gateway.served import serving
from tests.nodes.memory_mesh import Members, Passing, mesh

_PACKAGE = Path(airdraft.__file__).parent
# By folder: how many of its modules a request passes, but for the engine's, which make logits.
_MOST_MODULES = {"nodes/gateway/": 25, "nodes/coordinator/": 26, "nodes/scheduler/": 13}
Body = dict[str, Any]
NODES = {"target", "draft-0"}
FIRST = ToyConfig(seed=7, max_sequences=3)
PROMPT = "several devices"


@dataclass(frozen=True)
class Asked:
    """A gateway of a mesh."""

    members: Members
    client: MeshClient
    http: httpx.AsyncClient

    async def answer(self, body: Body, **headers: str) -> Any:
        """A whole answer of /completions."""
        found = await self.http.post("/completions", json=body, headers=headers)
        assert found.status_code == 200, found.text
        return found.json()

    @contextlib.asynccontextmanager
    async def streamed(self, body: Body, **headers: str) -> AsyncIterator[Streamed]:
        asked = {**body, "stream": True}
        async with self.http.stream("POST", "/completions", json=asked, headers=headers) as answer:
            assert answer.status_code == 200
            yield Streamed(answer)


class Streamed:
    """An answer that is read by events."""

    def __init__(self, answer: httpx.Response) -> None:
        self.texts: dict[int, str] = {}
        self.fingerprints: set[str] = set()
        self._lines = answer.aiter_lines()

    async def read(self, num_events: int = 1_000_000) -> None:
        """Go on by so many events, or to the end."""
        async for line in self._lines:
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                (choice,) = chunk["choices"]
                self.texts[choice["index"]] = self.texts.get(choice["index"], "") + choice["text"]
                self.fingerprints.add(chunk["system_fingerprint"])
                num_events -= 1
                if not num_events:
                    return
            elif line:
                assert line == "data: [DONE]"


@contextlib.asynccontextmanager
async def gateway(tmp_path: Path) -> AsyncIterator[Asked]:
    async with mesh(0.8) as members:
        client = members.start_client("gateway", role="gateway")
        await members.wait_for(client, NODES)
        async with (
            serving(client, tmp_path, openai_defaults=True) as server,
            httpx.AsyncClient(base_url=server.http.url, timeout=120) as http,
        ):
            yield Asked(members, client, http)


def text_alone(max_tokens: int, prompt: str = PROMPT, **options: Any) -> str:
    return alone(prompt, max_tokens, **options).text.decode()


async def test_the_text_is_that_of_the_model_alone(tmp_path: Path) -> None:
    body = {"prompt": PROMPT, "max_tokens": 60, "seed": 5, "temperature": 0.9, "n": 3}
    expected = [text_alone(60, temperature=0.9, seed=5, choice=c) for c in range(3)]
    async with gateway(tmp_path) as asked:
        found = await asked.answer(body)
        assert [choice["text"] for choice in found["choices"]] == expected
        assert found["usage"]["completion_tokens"] == 180
        assert found["usage"]["airdraft"]["exact"] is True
        async with asked.streamed(body) as stream:
            await stream.read()
        assert [stream.texts[choice] for choice in range(3)] == expected


def start_first_class(members: Members) -> None:
    """Start a target of the same file, whose class comes before the mesh's own and computes other
    bits, which shows in every text."""
    said = {"model_hash": members.model.info.model_hash, "numerics_class": "first"}
    members.start_target("first", Passing(FIRST, **said))


async def test_what_a_key_began_is_answered_again_in_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though one that comes first is there meanwhile."""
    # Otherwise the class that has served stays in force for new requests as well.
    monkeypatch.setattr("airdraft.nodes.coordinator.requests.classes.SETTLED_S", math.inf)
    key = {"idempotency-key": "k"}
    body = {"prompt": PROMPT, "max_tokens": 120, "seed": 5, "temperature": 0.9, "n": 2}
    texts = [text_alone(120, temperature=0.9, seed=5, choice=c) for c in range(2)]
    async with gateway(tmp_path) as asked:
        async with asked.streamed(body, **key) as first:
            await first.read(1)
        (fingerprint,) = first.fingerprints
        start_first_class(asked.members)
        await asked.members.wait_for(asked.client, {*NODES, "first"})
        async with asked.streamed(body, **key) as stream:
            await stream.read()
        assert ([stream.texts[c] for c in range(2)], stream.fingerprints) == (texts, {fingerprint})
        # A new request goes to the first class, unless it names another one.
        new = await asked.answer(body)
        assert new["choices"][0]["text"] != texts[0]
        assert new["system_fingerprint"] != fingerprint
        named = await asked.answer({**body, "system_fingerprint": fingerprint})
        assert [choice["text"] for choice in named["choices"]] == texts
        assert named["system_fingerprint"] == fingerprint


@pytest.mark.slow
async def test_what_outlives_its_coordinator_stays_in_its_class(
    tmp_path: Path, eventually: Eventually
) -> None:
    body = {"prompt": PROMPT, "max_tokens": 1500, "seed": 5, "temperature": 0.9}
    async with gateway(tmp_path) as asked:
        async with asked.streamed(body) as stream:
            await stream.read(1)
            await asked.members.stop("coordinator")
            await eventually(lambda: not asked.client.is_joined)
            start_first_class(asked.members)
            asked.members.start_coordinator()
            await stream.read()
        assert stream.texts[0] == text_alone(1500, temperature=0.9, seed=5)
        assert len(stream.fingerprints) == 1


async def test_a_gateway_joins_as_one_who_asks_for_many(
    tmp_path: Path, eventually: Eventually
) -> None:
    """On a shared medium it sends long requests in pieces; they are answered as any other."""
    link = LinkSettings(air="cell-a", rate_kbps=400)
    asked = {"prompt": "a long text " * 250, "max_tokens": 2}
    urls: list[str] = []
    with toy_mesh() as mesh:
        config = GatewayConfig(
            listen="127.0.0.1:0", connect=mesh.endpoint, keys=str(tmp_path), link=link
        )
        running = asyncio.create_task(run_gateway(config, urls.append))
        await eventually(
            lambda: urls and "gateway" in mesh.coordinator.state.roster.roles().values()
        )
        async with httpx.AsyncClient(base_url=urls[0], timeout=60) as http:
            answer = await http.post("/completions", json=asked)
        assert answer.json()["usage"]["completion_tokens"] == 2
        # Some 3 kB at 50 kB/s, 20 ms each.
        assert mesh.num_received("UploadPiece") >= 3
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_request_goes_through_few_modules(tmp_path: Path) -> None:
    """From HTTP to its last token: whoever follows one has to know what each of these is for."""
    async with gateway(tmp_path) as asked:
        seen: set[str] = set()

        def note(frame: FrameType, event: str, _arg: object) -> None:
            if event == "call":
                seen.add(frame.f_code.co_filename)

        sys.setprofile(note)
        try:
            await asked.answer({"prompt": PROMPT, "max_tokens": 20})
        finally:
            sys.setprofile(None)
    ours = [Path(name) for name in seen if name.startswith(str(_PACKAGE))]
    modules = {path.relative_to(_PACKAGE).as_posix() for path in ours}
    counts = {
        folder: sum(module.startswith(folder) for module in modules) for folder in _MOST_MODULES
    }

    assert all(num <= _MOST_MODULES[folder] for folder, num in counts.items()), sorted(modules)
