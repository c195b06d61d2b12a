from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from nodes.gateway.apikeys import ApiKey, ApiKeys, digest
from nodes.gateway.app import Gateway
from nodes.gateway.config import GatewayLimits
from tests.nodes.gateway.calls import Call, gateway_of, get, open_app, post
from tests.nodes.gateway.fake_mesh import MODEL, FakeMesh, text_answer

CHAT = {"messages": [{"role": "user", "content": "CANARY hi"}], "seed": 4}


async def test_models(tmp_path: Path) -> None:
    app = open_app(gateway_of(FakeMesh(models=["dir/a", "b"])), tmp_path)
    found = (await get(app, "/v1/models")).json
    assert [entry["id"] for entry in found["data"]] == ["b", "dir/a"]
    assert (await get(app, "/v1/models/dir/a")).json["id"] == "dir/a"
    call = await get(app, "/v1/models/none")
    assert (call.status, call.json["error"]["code"]) == (404, "model_not_found")


async def test_health_and_readiness(tmp_path: Path) -> None:
    mesh = FakeMesh(models=[])
    app = open_app(gateway_of(mesh), tmp_path)
    assert (await get(app, "/healthz")).status == 200
    assert (await get(app, "/readyz")).status == 503
    mesh.models.append(MODEL)
    assert (await get(app, "/readyz")).status == 200
    mesh.is_joined = False
    call = await get(app, "/readyz")
    assert (call.status, call.headers["retry-after"]) == (503, "2")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/v1/models", 405),
        ("PUT", "/v1/completions", 405),
        ("POST", "/v1/images", 404),
        ("GET", "/v1/models/", 404),
    ],
)
async def test_what_is_not_there(tmp_path: Path, method: str, path: str, status: int) -> None:
    call = Call(open_app(gateway_of(FakeMesh()), tmp_path), method, path)
    await call.run()
    assert call.status == status
    assert call.json["error"]["type"] == "invalid_request_error"


async def test_a_body_must_be_json_and_not_too_large(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("a"))
    app = open_app(gateway_of(mesh, max_body_bytes=2000), tmp_path)
    path = "/v1/chat/completions"
    plain = await post(app, path, CHAT, **{"content-type": "text/plain"})
    assert plain.status == 415
    large = await post(app, path, {**CHAT, "user": "x" * 3000})
    assert (large.status, large.json["error"]["code"]) == (413, "body_too_large")
    declared = await post(app, path, CHAT, **{"content-length": "3000"})
    assert declared.status == 413
    assert (await post(app, path, b"{")).status == 400
    assert mesh.asked == []
    with_charset = {"content-type": "application/json; charset=utf-8"}
    assert (await post(app, path, CHAT, **with_charset)).status == 200


async def test_who_asked_owns_the_request(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("a"))
    app = open_app(gateway_of(mesh), tmp_path, is_open=False)
    keys = ApiKeys(tmp_path / "apikeys.toml")
    keys.add(ApiKey(name="laptop", sha256=digest("ad-1"), max_tokens=9, max_choices=2))
    bearer = {"authorization": "Bearer ad-1"}
    path = "/v1/chat/completions"
    await post(app, path, CHAT, **bearer)
    await post(app, path, {**CHAT, "user": "ann"}, **bearer)
    assert [options.user for _, options in mesh.asked] == ["laptop", "laptop/ann"]
    # A key's own limits; what nobody asked for stays within them, too.
    assert mesh.asked[0][1].max_tokens == 9
    for more in ({"max_tokens": 10}, {"n": 3}):
        call = await post(app, path, {**CHAT, **more}, **bearer)
        assert (call.status, call.json["error"]["param"]) == (400, next(iter(more)))


async def test_a_key_without_the_scope_may_not_ask(tmp_path: Path) -> None:
    app = open_app(gateway_of(FakeMesh()), tmp_path, is_open=False)
    entry = ApiKey(name="a", sha256=digest("ad-1"), scopes=("admin",))
    ApiKeys(tmp_path / "apikeys.toml").add(entry)
    for path in ("/v1/completions", "/v1/chat/completions"):
        assert (await post(app, path, CHAT, authorization="Bearer ad-1")).status == 403
    assert (await get(app, "/v1/models", authorization="Bearer ad-1")).status == 403


async def test_a_line_in_the_log_without_any_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = open_app(gateway_of(FakeMesh(text_answer("CANARY", "b"))), tmp_path)
    with caplog.at_level(logging.DEBUG):
        call = await post(app, "/v1/chat/completions", CHAT)
        await post(app, "/v1/chat/completions", {**CHAT, "stop": ["CANARY"] * 10})
        await post(app, "/v1/chat/completions", {**CHAT, "CANARY": 1})
    assert "CANARY" not in caplog.text
    lines = [r.getMessage() for r in caplog.records if r.name == "nodes.gateway.generate"]
    assert len(lines) == 3
    assert f"request {call.json['id']} of anybody: status 200, 2 tokens" in lines[0]
    assert "status 400" in lines[1]
    assert lines[2].endswith("s, ignored fields: 1 unknown")


async def test_ignored_fields_are_told_or_refused_where_that_is_wanted(tmp_path: Path) -> None:
    body = {**CHAT, "store": True, "über\n": 1}
    (tmp_path / "lenient").mkdir()
    app = open_app(gateway_of(FakeMesh(text_answer("a", "b"))), tmp_path / "lenient")
    call = await post(app, "/v1/chat/completions", body)
    assert (call.status, call.headers["warning"]) == (
        200,
        '299 airdraft "ignored: store, \\u00fcber\\n"',
    )
    plain = await post(app, "/v1/chat/completions", CHAT)
    assert "warning" not in plain.headers
    mesh = FakeMesh(text_answer("a", "b"))
    strict = open_app(Gateway(mesh, GatewayLimits(), strict_fields=True), tmp_path)
    call = await post(strict, "/v1/chat/completions", body)
    assert (call.status, call.json["error"]["param"]) == (400, "store")


async def test_a_model_that_is_not_served(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("a"))
    app = open_app(gateway_of(mesh), tmp_path)
    call = await post(app, "/v1/chat/completions", {**CHAT, "model": "other"})
    assert (call.status, call.json["error"]["code"]) == (404, "model_not_found")
    mesh.asked.clear()
    for model in (None, "", MODEL):
        body: dict[str, Any] = {**CHAT, "model": model}
        assert (await post(app, "/v1/chat/completions", body)).json["model"] == MODEL
    assert len(mesh.asked) == 3
