"""Gateways in front of real coordinators, targets and draft nodes, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from nodes.client.client import Client
from tests.nodes.gateway.served import serving
from tests.nodes.memory_mesh import Members

Body = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A gateway of a mesh. root: its address."""

    members: Members
    client: Client
    root: str
    http: httpx.AsyncClient

    async def answer(self, body: Body, **headers: str) -> Any:
        """A whole answer of /completions."""
        found = await self.http.post("/completions", json=body, headers=headers)
        assert found.status_code == 200, found.text
        return found.json()

    async def refused(self, body: Body, **headers: str) -> tuple[int, dict[str, Any]]:
        found = await self.http.post("/completions", json=body, headers=headers)
        error = found.json()["error"]
        return found.status_code, {**error, "retry": found.headers.get("retry-after")}

    @contextlib.asynccontextmanager
    async def streamed(self, body: Body, **headers: str) -> AsyncIterator[Streamed]:
        asked = {**body, "stream": True}
        async with self.http.stream("POST", "/completions", json=asked, headers=headers) as answer:
            assert answer.status_code == 200
            yield Streamed(answer)

    async def is_ready(self) -> bool:
        found = await self.http.get(f"{self.root}/readyz")
        assert found.status_code == 200 or found.headers["retry-after"] == "2"
        return found.status_code == 200

    async def until_ready(self, wanted: bool) -> None:
        """What is known may be a moment old."""
        while await self.is_ready() is not wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Streamed:
    """An answer that is read by events."""

    def __init__(self, answer: httpx.Response) -> None:
        self.seed = int(answer.headers["x-airdraft-seed"])
        self.texts: dict[int, str] = {}
        self.pieces: list[str] = []
        self.fingerprints: set[str] = set()
        self.last_id = ""
        self.is_done = False
        self._lines = answer.aiter_lines()

    async def read(self, num_events: int = 1_000_000) -> Streamed:
        """Go on by so many events, or to the end."""
        async for line in self._lines:
            if line.startswith("id: "):
                self.last_id = line.removeprefix("id: ")
            elif line.startswith("data: {"):
                self._add(json.loads(line[6:]))
                num_events -= 1
                if not num_events:
                    return self
            elif line:
                assert line == "data: [DONE]"
                self.is_done = True
        return self

    def _add(self, chunk: dict[str, Any]) -> None:
        (choice,) = chunk["choices"]
        self.pieces.append(choice["text"])
        self.texts[choice["index"]] = self.texts.get(choice["index"], "") + choice["text"]
        self.fingerprints.add(chunk["system_fingerprint"])

    @property
    def text(self) -> str:
        return self.texts[0]


@contextlib.asynccontextmanager
async def gateway_on(
    members: Members, tmp_path: Path, *, names: set[str], name: str = "gateway"
) -> AsyncIterator[Asked]:
    """names: of the nodes that it waits for."""
    client = members.start_client(name, role="gateway")
    await members.wait_for(client, names)
    async with serving(client, tmp_path, openai_defaults=True) as server:
        url = server.http.url
        async with httpx.AsyncClient(base_url=url, timeout=120) as http:
            yield Asked(members, client, url.removesuffix("/v1"), http)
