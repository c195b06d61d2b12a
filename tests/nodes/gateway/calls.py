"""Requests to an ASGI application without a server: every message is seen when it is sent."""

import asyncio
import json
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message

from airdraft.nodes.gateway.apikeys import SCOPES, ApiKey, ApiKeys, digest
from airdraft.nodes.gateway.app import Gateway
from airdraft.nodes.gateway.config import GatewayConfig, GatewayLimits
from airdraft.nodes.gateway.guard import Guard
from tests.nodes.gateway.fake_mesh import FakeMesh

JSON = {"content-type": "application/json"}
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
ASK: dict[str, Any] = {"prompt": "hi"}
STREAM: dict[str, Any] = {**ASK, "stream": True}
TALK: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
KEY = {"idempotency-key": "k-1"}


class Call:
    """One request."""

    def __init__(
        self,
        app: ASGIApp,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"host": "localhost", **(JSON if body is not None else {}), **(headers or {})}
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self.is_complete = False
        self.is_aborted = False
        self.is_last = False
        self.is_stranger = True
        self._left = asyncio.Event()
        self._incoming: list[Message] = [
            {"type": "http.request", "body": raw if body is not None else b"", "more_body": False}
        ]
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(k.lower().encode(), v.encode()) for k, v in given.items()],
            "state": {"connection": self},
        }
        self._app = app

    def start(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.run())

    async def run(self) -> None:
        await self._app(self.scope, self._receive, self._send)

    def leave(self) -> None:
        """The client goes away."""
        self._left.set()

    def abort(self) -> None:
        """Abort the connection, as the server's own class does."""
        self.is_aborted = True
        self.leave()

    def end_after_this(self) -> None:
        self.is_last = True

    def leave_strangers(self) -> None:
        """A valid key was shown."""
        self.is_stranger = False

    def make_room(self, num_bytes: int) -> None:
        """There is always room."""

    is_full = False

    async def until_read(self) -> None:
        """The reader is always there."""

    @property
    def is_closing(self) -> bool:
        return self._left.is_set()

    async def _receive(self) -> Message:
        if self._incoming:
            return self._incoming.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._left.is_set():
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            return
        if message.get("body"):
            self.parts.append(message["body"])
        self.is_complete = not message.get("more_body", False)

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """What a stream has said so far; "[DONE]" as it is."""
        return [event for _, event in named_events(self)]


def named_events(call: Call) -> list[tuple[str, Any]]:
    """The events of a stream with their names, "" where they have none."""
    found = []
    for event in call.body.decode().split("\n\n")[:-1]:
        *lines, data = event.split("\n")
        assert len(lines) <= 1
        assert all(line.startswith("event: ") for line in lines)
        assert data.startswith("data: ")
        text = data.removeprefix("data: ")
        name = lines[0].removeprefix("event: ") if lines else ""
        found.append((name, text if text == "[DONE]" else json.loads(text)))
    return found


def gateway_of(mesh: FakeMesh, **limits: Any) -> Gateway:
    """A gateway with OpenAI's values for sampling parameters that a body does not name."""
    return Gateway(mesh, GatewayConfig(limits=GatewayLimits(**limits), openai_defaults=True))


def open_app(gateway: Gateway, folder: Path = Path("/nonexistent"), **changes: Any) -> ASGIApp:
    """The whole application, as on loopback without a file of keys."""
    settings: dict[str, Any] = {"is_open": True, "allowed_hosts": ("localhost",), **changes}
    keys = ApiKeys(folder / "apikeys.toml")
    return Guard(gateway.router(), keys, gateway.metrics, **settings)


def app_of(mesh: FakeMesh, **limits: Any) -> ASGIApp:
    return open_app(gateway_of(mesh, **limits))


def add_keys(keys: ApiKeys) -> None:
    """ad-boss has all scopes; ad-guest and ad-looker have one."""
    for name, scopes in (("boss", SCOPES), ("guest", ("infer",)), ("looker", ("admin",))):
        keys.add(ApiKey(name=name, sha256=digest(f"ad-{name}"), scopes=scopes))


def keyed_app(mesh: FakeMesh, folder: Path, **limits: Any) -> ASGIApp:
    """An application for those who have one of these keys."""
    add_keys(ApiKeys(folder / "apikeys.toml"))
    return open_app(gateway_of(mesh, **limits), folder, is_open=False)


async def call(app: ASGIApp, method: str, path: str, body: Any = None, **headers: str) -> Call:
    """An answer, when it is complete."""
    made = Call(app, method, path, body, headers)
    await made.run()
    return made


async def post(app: ASGIApp, path: str, body: Any, **headers: str) -> Call:
    return await call(app, "POST", path, body, **headers)


async def get(app: ASGIApp, path: str, **headers: str) -> Call:
    return await call(app, "GET", path, **headers)


async def ask(mesh: FakeMesh, path: str, body: Any, **headers: str) -> Call:
    """The answer of a new gateway in front of this mesh."""
    return await post(app_of(mesh), path, body, **headers)
