"""TLS: who is served, and how little those get who only connect."""

import contextlib
import gc
import shutil
import ssl
import subprocess
import weakref
from pathlib import Path
from typing import Any

import httpx
import pytest

from airdraft.nodes.config.settings import ConfigError
from airdraft.nodes.gateway.config import GatewayConfig
from airdraft.nodes.gateway.server import HttpServer
from tests.nodes.gateway.fake_mesh import Eventually, FakeMesh
from tests.nodes.gateway.served import connected, recorded_connections, serving, talking

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
LONGER_THAN_A_TEST_S = 300.0


def test_files_that_are_no_certificate_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    for name in ("x", "none"):
        file = str(tmp_path / name)
        with pytest.raises(ConfigError, match="PEM files"):
            HttpServer(FakeMesh(), GatewayConfig(tls_cert=file, tls_key=file), tmp_path)


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, Any]:
    """Settings of a gateway."""
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("no openssl to make a certificate")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    command = [openssl, "req", "-x509", *curve, "-keyout", key, "-out", cert, *names]
    subprocess.run(command, check=True, capture_output=True)
    return {"tls_cert": cert, "tls_key": key, "limits": {"header_timeout_s": LONGER_THAN_A_TEST_S}}


def trusting(certificate: dict[str, Any]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate["tls_cert"])


async def test_who_connects_and_says_nothing_is_closed(
    tmp_path: Path, certificate: dict[str, Any]
) -> None:
    certificate["limits"] = {"header_timeout_s": 0.2}
    async with serving(FakeMesh(), tmp_path, **certificate) as server:
        assert server.http.url.startswith("https://")
        context = trusting(certificate)
        async with httpx.AsyncClient(base_url=server.http.url, verify=context) as client:
            assert (await client.get("/models")).status_code == 200
        # Nothing, the beginning of a handshake, and the beginning of a request behind one.
        for start in (b"", b"\x16\x03\x01\x02\x00\x01"):
            async with connected(server) as raw:
                await raw.send(start)
                assert await raw.rest() == b""
        async with connected(server, ssl=context, server_hostname="127.0.0.1") as raw:
            await raw.send(HEALTH[:9])
            assert (await raw.rest()).startswith(b"HTTP/1.1 408 ")


async def test_handshakes_count_as_connections(
    tmp_path: Path, certificate: dict[str, Any], eventually: Eventually
) -> None:
    certificate["limits"]["max_connections"] = 2
    async with (
        serving(FakeMesh(), tmp_path, **certificate) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(63):
            await stack.enter_async_context(connected(server))
        # There is no room to tell one more so: a handshake comes first.
        async with connected(server) as raw:
            assert await raw.rest() == b""
        assert 2 < server.http.num_connections < 32
        await stack.aclose()
        await eventually(lambda: server.http.num_connections == 0)


async def test_who_came_while_there_was_room_is_served_whoever_comes_later(
    tmp_path: Path, certificate: dict[str, Any], eventually: Eventually
) -> None:
    certificate["limits"]["max_connections"] = 1
    async with talking(FakeMesh(), tmp_path, **certificate) as (server, first):
        await eventually(lambda: server.http.num_connections == 1)
        async with connected(server) as second:
            await eventually(lambda: server.http.num_connections == 2)
            for raw, status in ((first, b"200"), (second, b"503")):
                await raw.writer.start_tls(trusting(certificate), server_hostname="127.0.0.1")
                await raw.send(HEALTH)
                assert (await raw.until(b"\r\n")).startswith(b"HTTP/1.1 " + status)


async def test_what_is_no_tls_is_closed_and_a_stop_does_not_wait_for_handshakes(
    tmp_path: Path, certificate: dict[str, Any], eventually: Eventually
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with serving(FakeMesh(), tmp_path, **certificate) as server:
            async with connected(server) as raw:
                await raw.send(HEALTH)
                assert b"HTTP" not in await raw.rest()
            await eventually(lambda: server.http.num_connections == 0)
            raw = await stack.enter_async_context(connected(server))
            await eventually(lambda: server.http.num_connections == 1)
        assert await raw.rest() == b""
        assert server.http.num_connections == 0


@pytest.mark.parametrize("is_secured", [False, True])
async def test_the_memory_of_a_connection_does_not_wait_for_the_garbage_collector(
    tmp_path: Path, certificate: dict[str, Any], eventually: Eventually, is_secured: bool
) -> None:
    """Strangers could otherwise hold far more of it than connections that are open."""
    settings = certificate if is_secured else {}
    async with serving(FakeMesh(), tmp_path, **settings) as server:
        gc.collect()
        gc.disable()
        try:
            with recorded_connections() as made:
                verify = trusting(certificate) if is_secured else False
                async with httpx.AsyncClient(base_url=server.http.url, verify=verify) as client:
                    assert (await client.get("/models")).status_code == 200
                    assert (await client.post("/nowhere", json={"a": 1})).status_code == 404
                refs = [weakref.ref(connection) for connection in made]
                made.clear()
            assert refs
            await eventually(lambda: not any(ref() for ref in refs))
        finally:
            gc.enable()
