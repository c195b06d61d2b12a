import asyncio
import errno
import json
import resource
from pathlib import Path
from typing import Any

import httpx
import pytest

from airdraft.mesh.errors import KeysError
from airdraft.nodes.config.settings import ConfigError
from airdraft.nodes.gateway.apikeys import ApiKey, ApiKeys, digest
from airdraft.nodes.gateway.config import GatewayConfig, ListenError
from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.running import Running
from airdraft.nodes.gateway.server import HttpServer, connections_allowed
from tests.nodes.gateway.fake_mesh import Eventually, FakeMesh, started, text_answer, tokens
from tests.nodes.gateway.served import connected, port_of, request, serving, talking

STREAM = json.dumps({"prompt": "hi", "stream": True}).encode()


def make(tmp_path: Path, **changes: Any) -> HttpServer:
    return HttpServer(FakeMesh(), GatewayConfig(**changes), tmp_path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"listen": "0.0.0.0:0"}, "apikeys add"),
        ({"listen": "[::]:0"}, "apikeys add"),
        ({"listen": "example.org:80"}, "apikeys add"),
        # A file that was named must be there on loopback, too.
        ({"apikeys": "{folder}/apikeys.toml"}, "apikeys add"),
        ({"allowed_hosts": "airdraft.lan"}, "has no API keys, but allowed_hosts needs some: .*add"),
        ({"cors_origins": "https://a.example"}, "has no API keys, but cors_origins needs some"),
        ({"require_keys": True}, "has no API keys, but require_keys needs some"),
    ],
)
def test_where_others_may_ask_it_does_not_start_without_keys(
    tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    given = {"listen": "127.0.0.1:0", **settings}
    if "apikeys" in given:
        given["apikeys"] = given["apikeys"].format(folder=tmp_path)
    with pytest.raises(KeysError, match=says):
        make(tmp_path, **given)
    keys = ApiKeys(tmp_path / "apikeys.toml")
    keys.add(ApiKey(name="a", sha256=digest("ad-1")))
    make(tmp_path, **given)
    keys.remove("a")
    with pytest.raises(KeysError, match="has no API keys"):
        make(tmp_path, **given)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0.0.0.0:0"])
async def test_with_keys_any_name_off_loopback_will_do_and_nobody_else(
    tmp_path: Path, listen: str
) -> None:
    keys = ApiKeys(tmp_path / "apikeys.toml")
    keys.add(ApiKey(name="a", sha256=digest("ad-1")))
    headers = {"host": "box.example", "authorization": "Bearer ad-1"}
    async with (
        serving(FakeMesh(), tmp_path, listen=listen) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port_of(server)}", timeout=60) as client,
    ):
        found = await client.get("/v1/models", headers=headers)
        assert found.status_code == (421 if listen.startswith("127") else 200)
        # Keys that vanish let nobody in.
        keys.path.unlink()
        assert (await client.get("/v1/models")).status_code == 401


@pytest.mark.parametrize(
    ("most", "wanted", "allowed"), [(100_000, 16_384, 16_384), (128, 16_384, 64), (1024, 8, 8)]
)
def test_connections_leave_files_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, most: int, wanted: int, allowed: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (most, most))
    assert connections_allowed(wanted) == allowed


def test_with_too_few_files_it_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (79, 79))
    with pytest.raises(ConfigError, match=r"open files is 79, .* needs 80: raise LimitNOFILE"):
        make(tmp_path, listen="127.0.0.1:0")


async def test_accepts_without_files_are_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(FakeMesh(), tmp_path):
        loop = asyncio.get_running_loop()
        error = OSError(errno.EMFILE, "Too many open files")
        # asyncio reports it once for each place in the backlog.
        for _ in range(3):
            loop.call_exception_handler(
                {"message": "socket.accept() out of system resource", "exception": error}
            )
        assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
            "new connections have to wait: [Errno 24] Too many open files"
        ]
        loop.call_exception_handler({"message": "something else"})
        assert "something else" in caplog.text


async def test_an_address_that_is_taken_is_an_error(tmp_path: Path) -> None:
    async with serving(FakeMesh(), tmp_path) as server:
        with pytest.raises(ListenError, match="Address already in use"):
            await make(tmp_path, listen=f"127.0.0.1:{port_of(server)}").serve()


def refuses_new(running: Running) -> bool:
    try:
        running.check_open()
    except ApiError:
        return True
    return False


async def test_stopping_lets_streams_end_by_themselves(
    tmp_path: Path, eventually: Eventually
) -> None:
    gate = asyncio.Event()
    script = text_answer("a", "b")
    mesh = FakeMesh([*script[:2], gate, *script[2:]])
    limits = {"stop_timeout_s": 120.0}
    async with talking(mesh, tmp_path, limits=limits) as (server, raw):
        await raw.send(request(STREAM))
        await raw.until(b'"text":"a"')
        stopping = server.task
        stopping.cancel()
        await eventually(lambda: refuses_new(server.http.gateway.running))
        root = server.http.url.removesuffix("/v1")
        # As long as something is under way whoever comes is told so.
        async with httpx.AsyncClient(base_url=root, timeout=60) as client:
            refused = [
                await client.post("/v1/completions", json={"prompt": "hi"}),
                await client.get("/readyz"),
            ]
            assert (await client.get("/healthz")).status_code == 200
        for answer in refused:
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            assert answer.headers["connection"] == "close"
        assert not stopping.done()
        gate.set()
        assert (await raw.rest()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        await asyncio.wait({stopping})
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port_of(server))


async def test_stopping_ends_streams_that_do_not_end(
    tmp_path: Path, eventually: Eventually
) -> None:
    mesh = FakeMesh([started(), tokens("a", 0), asyncio.Event()])
    async with serving(mesh, tmp_path) as server:
        async with connected(server) as raw, connected(server) as whole:
            await raw.send(request(STREAM))
            await whole.send(request(json.dumps({"prompt": "hi"}).encode()))
            await raw.until(b'"text":"a"')
            await eventually(lambda: mesh.num_open == 2)
            stopping = server.task
            stopping.cancel()
            rest, answer = await raw.rest(), await whole.rest()
        assert b"the gateway is stopping" in rest
        assert b"[DONE]" not in rest
        # Of what had not begun to be told, a status.
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 2\r\n" in answer
        await asyncio.wait({stopping})
        assert mesh.num_cancelled == 2


async def test_who_asks_again_over_another_connection_ends_the_first_answer(
    tmp_path: Path, eventually: Eventually
) -> None:
    mesh = FakeMesh([started(), tokens("a", 0), asyncio.Event()])
    head = b"POST /v1/completions HTTP/1.1\r\n"
    keyed = request(STREAM).replace(head, head + b"idempotency-key: k-1\r\n")
    async with talking(mesh, tmp_path) as (server, second), connected(server) as first:
        await first.send(keyed)
        await first.until(b'"text":"a"')
        await second.send(keyed)
        await eventually(lambda: mesh.num_cancelled == 1 and mesh.num_open == 1)
        assert b"[DONE]" not in await first.rest()
