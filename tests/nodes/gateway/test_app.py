import logging
from pathlib import Path
from typing import Any

import pytest

from airdraft.nodes.gateway.apikeys import ApiKey, ApiKeys, digest
from airdraft.nodes.gateway.app import Gateway
from airdraft.nodes.gateway.config import GatewayConfig
from tests.nodes.gateway.calls import app_of, ask, get, keyed_app, open_app, post
from tests.nodes.gateway.fake_mesh import MODEL, FakeMesh, text_answer

PATH = "/v1/chat/completions"
CHAT = {"messages": [{"role": "user", "content": "CANARY hi"}], "seed": 4}


async def test_a_body_must_be_json_and_not_too_large() -> None:
    mesh = FakeMesh(text_answer("a"))
    app = app_of(mesh, max_body_bytes=2000)
    plain = await post(app, PATH, CHAT, **{"content-type": "text/plain"})
    assert plain.status == 415
    large = await post(app, PATH, {**CHAT, "user": "x" * 3000})
    assert (large.status, large.json["error"]["code"]) == (413, "body_too_large")
    declared = await post(app, PATH, CHAT, **{"content-length": "3000"})
    assert declared.status == 413
    assert (await post(app, PATH, b"{")).status == 400
    assert mesh.asked == []
    with_charset = {"content-type": "application/json; charset=utf-8"}
    assert (await post(app, PATH, CHAT, **with_charset)).status == 200


async def test_who_asked_owns_the_request(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("a"))
    app = keyed_app(mesh, tmp_path)
    limits = {"max_tokens": 9, "max_choices": 2}
    keys = ApiKeys(tmp_path / "apikeys.toml")
    keys.add(ApiKey(name="laptop", sha256=digest("ad-1"), **limits))  # type: ignore[arg-type]
    bearer = {"authorization": "Bearer ad-1"}
    await post(app, PATH, CHAT, **bearer)
    await post(app, PATH, {**CHAT, "user": "ann"}, **bearer)
    assert [options.user for _, options in mesh.asked] == ["laptop", "laptop/ann"]
    # A key's own limits; what nobody asked for stays within them, too.
    assert mesh.asked[0][1].max_tokens == 9
    for more in ({"max_tokens": 10}, {"n": 3}):
        found = await post(app, PATH, {**CHAT, **more}, **bearer)
        assert (found.status, found.json["error"]["param"]) == (400, next(iter(more)))
    # A key that lacks the scope.
    for path in (PATH, "/v1/completions"):
        assert (await post(app, path, CHAT, authorization="Bearer ad-looker")).status == 403
    assert (await get(app, "/v1/models", authorization="Bearer ad-looker")).status == 403


async def test_the_log_has_a_line_a_request_and_no_text(caplog: pytest.LogCaptureFixture) -> None:
    app = app_of(FakeMesh(text_answer("CANARY", "b")))
    with caplog.at_level(logging.DEBUG):
        found = await post(app, PATH, CHAT)
        await post(app, PATH, {**CHAT, "stop": ["CANARY"] * 10})
        await post(app, PATH, {**CHAT, "CANARY": 1})
    assert "CANARY" not in caplog.text
    lines = [r.getMessage() for r in caplog.records if r.name == "airdraft.nodes.gateway.generate"]
    assert len(lines) == 3
    assert f"request {found.json['id']} of anybody: status 200, 2 tokens" in lines[0]
    assert "status 400" in lines[1]
    assert lines[2].endswith("s, ignored fields: 1 unknown")


async def test_ignored_fields_are_told_or_refused_where_that_is_wanted() -> None:
    body = {**CHAT, "store": True, "über\x7f\n": 1}
    mesh = FakeMesh(text_answer("a", "b"))
    found = await ask(mesh, PATH, body)
    warning = '299 airdraft "ignored: store, \\u00fcber\\u007f\\n"'
    assert (found.status, found.headers["warning"]) == (200, warning)
    assert "warning" not in (await ask(mesh, PATH, CHAT)).headers
    strict = open_app(Gateway(mesh, GatewayConfig(strict_fields=True)))
    found = await post(strict, PATH, body)
    assert (found.status, found.json["error"]["param"]) == (400, "store")


async def test_a_model_that_is_not_served_is_a_404() -> None:
    mesh = FakeMesh(text_answer("a"))
    found = await ask(mesh, PATH, {**CHAT, "model": "other"})
    assert (found.status, found.json["error"]["code"]) == (404, "model_not_found")
    for model in (None, "", MODEL):
        body: dict[str, Any] = {**CHAT, "model": model}
        assert (await ask(mesh, PATH, body)).json["model"] == MODEL


async def test_a_method_that_a_route_lacks_is_a_405_that_names_those_it_has() -> None:
    found = await get(app_of(FakeMesh()), PATH)
    assert (found.status, found.headers["allow"]) == (405, "POST")
    assert found.json["error"]["code"] == "method_not_allowed"
    found = await post(app_of(FakeMesh()), "/v1/models", {})
    assert (found.status, set(found.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})
