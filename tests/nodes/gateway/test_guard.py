import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from airdraft.nodes.gateway.apikeys import ANYBODY, ApiKey, ApiKeys, digest
from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.guard import Guard
from airdraft.nodes.telemetry.metrics.gateway import GatewayMetrics
from tests.nodes.gateway.calls import Call, call, get


class Inner:
    """The application behind the guard: keeps who came through."""

    def __init__(self, error: Exception | None = None, *, late: bool = False) -> None:
        self.keys: list[ApiKey] = []
        self._error = error
        self._late = late

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.keys.append(scope["state"]["key"])
        if self._error is not None and not self._late:
            raise self._error
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if self._error is not None:
            raise self._error
        await send({"type": "http.response.body", "body": b"ok"})


def guard(inner: Inner, tmp_path: Path, **changes: Any) -> Guard:
    settings: dict[str, Any] = {"is_open": True, "allowed_hosts": ("localhost", "::1"), **changes}
    return Guard(inner, ApiKeys(tmp_path / "apikeys.toml"), GatewayMetrics([]), **settings)


async def test_where_keys_are_needed_health_check_and_page_alone_go_without(tmp_path: Path) -> None:
    inner = Inner()
    made = guard(inner, tmp_path, is_open=False)
    ApiKeys(tmp_path / "apikeys.toml").add(ApiKey(name="a", sha256=digest("ad-1")))
    for authorization in ("", "Bearer", "Bearer ad-2", "Basic ad-1", "ad-1", "Bearer \xff"):
        for path in ("/v1/models", "/metrics", "/api/status", "/readyz", "/none"):
            asked = Call(made, "GET", path)
            asked.scope["headers"].append((b"authorization", authorization.encode("latin-1")))
            await asked.run()
            assert (asked.status, asked.json["error"]["code"]) == (401, "invalid_api_key")
            assert asked.headers["www-authenticate"] == "Bearer"
    assert inner.keys == []
    for path in ("/healthz", "/"):
        assert (await get(made, path)).status == 200
    assert (await get(made, "/v1/models", authorization="bearer ad-1")).status == 200
    assert [key.name for key in inner.keys] == ["anybody", "anybody", "a"]


async def test_a_file_of_keys_that_comes_later_closes_for_good(tmp_path: Path) -> None:
    inner = Inner()
    made = guard(inner, tmp_path)
    assert (await get(made, "/v1/models")).status == 200
    assert inner.keys == [ANYBODY]
    keys = ApiKeys(tmp_path / "apikeys.toml")
    keys.add(ApiKey(name="a", sha256=digest("ad-1")))
    assert (await get(made, "/v1/models")).status == 401
    assert (await get(made, "/v1/models", authorization="Bearer ad-1")).status == 200
    keys.path.unlink()
    assert (await get(made, "/v1/models")).status == 401


async def test_a_file_of_keys_that_cannot_be_read_lets_nobody_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "apikeys.toml"
    path.symlink_to(tmp_path / "none")
    assert (await get(guard(Inner(), tmp_path), "/v1/models")).status == 401
    path.unlink()
    path.touch(mode=0o600)
    path.write_text("[[")
    assert (await get(guard(Inner(), tmp_path), "/", authorization="Bearer x")).status == 200
    found = await get(guard(Inner(), tmp_path), "/v1/models", authorization="Bearer x")
    assert found.status == 503
    assert "apikeys.toml" in caplog.text
    made = guard(Inner(), tmp_path / "keys")
    assert (await get(made, "/v1/models")).status == 200
    # As when a directory may not be entered any more, which would stop nobody who tests as root.
    (tmp_path / "keys").touch()
    assert (await get(made, "/v1/models")).status == 503


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("", 421),
    ],
)
async def test_names_that_are_not_ours_are_refused(tmp_path: Path, host: str, status: int) -> None:
    assert (await get(guard(Inner(), tmp_path), "/v1/models", host=host)).status == status
    assert (await get(guard(Inner(), tmp_path), "/healthz", host=host)).status == 200
    anywhere = guard(Inner(), tmp_path, allowed_hosts=None)
    assert (await get(anywhere, "/v1/models", host=host)).status == 200


async def test_pages_of_other_sites_are_let_in_only_where_listed(tmp_path: Path) -> None:
    origin, other = "https://a.example", "https://b.example"
    closed = await get(guard(Inner(), tmp_path), "/v1/models", origin=origin)
    assert "access-control-allow-origin" not in closed.headers
    inner = Inner()
    made = guard(inner, tmp_path, allowed_origins=(origin,))
    found = await get(made, "/v1/models", origin=origin)
    assert found.headers["access-control-allow-origin"] == origin
    assert found.headers["vary"] == "origin"
    found = await get(made, "/v1/models", origin=other)
    assert "access-control-allow-origin" not in found.headers
    # A preflight needs no key.
    inner.keys.clear()
    made = guard(inner, tmp_path, is_open=False, allowed_origins=(origin,))
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    for page, status in ((origin, 204), (other, 403)):
        found = await call(made, "OPTIONS", "/v1/completions", origin=page, **asked)
        assert found.status == status
    assert inner.keys == []


async def test_a_fault_is_a_500_without_its_text_and_with_the_security_headers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fault = ValueError("CANARY")
    with caplog.at_level(logging.DEBUG):
        for error, status in ((None, 200), (ApiError(400, "no"), 400), (fault, 500)):
            found = await get(guard(Inner(error), tmp_path), "/v1/models")
            assert found.status == status
            assert found.headers["x-content-type-options"] == "nosniff"
            assert found.headers["cache-control"] == "no-store"
        assert found.json["error"]["type"] == "server_error"
        late = await get(guard(Inner(fault, late=True), tmp_path), "/v1/models")
        assert late.is_aborted
    assert "CANARY" not in caplog.text
    # Where it was, is.
    assert "ValueError" in caplog.text
    assert "test_guard.py" in caplog.text
