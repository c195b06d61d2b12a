import asyncio
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from airdraft.nodes.client.client import RequestFailedError
from airdraft.nodes.engine.traits import ModelTraits, SamplingDefaults
from airdraft.nodes.gateway.app import Gateway
from airdraft.nodes.gateway.config import GatewayConfig
from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.models import Looking, Models
from airdraft.nodes.messages import NodesReply
from airdraft.nodes.telemetry.status import Status, encode_status
from tests.nodes.gateway.calls import CHAT, KEY, TALK, get, keyed_app, open_app, post
from tests.nodes.gateway.fake_mesh import Clock, FakeMesh, text_answer
from tests.nodes.status_examples import STATUS


async def test_files_that_are_called_alike_are_told_apart() -> None:
    mesh = FakeMesh(models=["a.gguf", "b.gguf", "b.gguf"], hashes={"target-2": "ff" * 32})
    made = Models(mesh)
    served = {entry["id"]: entry for entry in await made.served(7)}
    assert set(served) == {"a.gguf", "b.gguf@01234567", "b.gguf@ffffffff"}
    shown = served["b.gguf@ffffffff"]["airdraft"]
    assert (shown["model_hash"], shown["tool_style"]) == ("ff" * 32, "hermes")
    for name in ("b.gguf@ffffffff", "b@FFFFFFFFFF", "b@" + "ff" * 32):
        assert await made.find(name, 7) == served["b.gguf@ffffffff"]
    assert await made.find("a", 7) == await made.find("a.gguf@01234567", 7) == served["a.gguf"]
    both = await made.find("b.gguf", 7)
    assert both is not None
    assert (both["id"], both["airdraft"]["num_targets"]) == ("b.gguf", 2)
    assert both["airdraft"]["model_hash"] is None
    for name in ("b@ffffff", "b@eeeeeeee", "c", "@ffffffff"):
        assert await made.find(name, 7) is None


async def test_the_mesh_is_asked_once_a_second_and_more_often_by_who_must_know() -> None:
    mesh, clock = FakeMesh(), Clock()
    made = Models(mesh, clock)
    for clock.now in (0.0, 0.99):
        await made.served(7)
    assert mesh.num_node_requests == 1
    mesh.models.clear()
    assert await made.served(7)
    # Also while the mesh has no target.
    for clock.now in (1.0, 1.1, 1.24):
        with pytest.raises(ApiError, match="the mesh has no target"):
            await made.check_ready()
    assert mesh.num_node_requests == 2
    mesh.models.append("a")
    clock.now = 1.25
    await made.check_ready()
    assert mesh.num_node_requests == 3


async def test_targets_that_are_drained_serve_no_model() -> None:
    mesh, clock = FakeMesh(models=["a", "b"]), Clock()
    mesh.draining = {"a"}
    made = Models(mesh, clock)
    assert [entry["id"] for entry in await made.served(7)] == ["b"]
    await made.check_ready()
    mesh.draining = {"a", "b"}
    clock.now = 1.0
    with pytest.raises(ApiError, match="being drained") as caught:
        await made.check_ready()
    assert (caught.value.status, caught.value.retry_after_s) == (503, 2)


async def _traits(models: Models, name: str) -> list[ModelTraits]:
    return [target.traits for target in await models.candidates(name)]


async def test_the_traits_of_a_model_whose_target_has_left_are_those_that_were_seen_last() -> None:
    thinks, calls = ModelTraits("hermes", "marked"), ModelTraits("llama3")
    mesh, clock = FakeMesh(models=["a", "b"], traits=thinks), Clock()
    mesh.others, mesh.hashes = {"target-1": calls}, {"target-1": "ff" * 8}
    made = Models(mesh, clock)
    assert await _traits(made, "") == [thinks, calls]
    mesh.models = ["a"]
    clock.now = 1.0
    assert await _traits(made, "") == [thinks]
    assert await _traits(made, "b") == [calls]
    mesh.models = []
    clock.now = 2.0
    assert await _traits(made, "") == await _traits(made, "a") == [thinks]
    assert await _traits(made, "b") == [calls]
    assert await _traits(made, "c") == []


async def test_a_request_that_waits_for_its_target_is_the_same_request() -> None:
    own = ModelTraits("llama3", "marked", SamplingDefaults(0.3, 20, 0.9, 0.0))
    mesh = FakeMesh(text_answer("<think>Hm.</think>", "Yes"), traits=own)
    gateway = Gateway(mesh, GatewayConfig())
    tools = [{"type": "function", "function": {"name": "mail"}}]
    for body in ({**TALK, "seed": 7}, {**TALK, "seed": 7, "tools": tools}):
        answers = []
        for mesh.models in (["toy-1"], []):
            await gateway.models.nodes.latest(0.0)
            answers.append((await post(open_app(gateway), CHAT, body)).json["choices"])
        assert answers[0] == answers[1]
        before, now = mesh.asked[-2:]
        assert before == now


@pytest.mark.parametrize("more", [{}, {"stream": True}])
async def test_no_model_answers_for_which_a_request_was_not_read(more: dict[str, bool]) -> None:
    """As one whose target is back after the gateway has started: the same body would get another
    text."""
    own = ModelTraits("hermes", "marked", SamplingDefaults(0.3, 20, 0.9, 0.0))
    mesh = FakeMesh(text_answer("<think>Hm.</think>", "Yes"), models=[], traits=own)
    gateway = Gateway(mesh, GatewayConfig())
    body = {**TALK, **more}
    refused = await post(open_app(gateway), CHAT, body)
    assert (refused.status, refused.headers["retry-after"]) == (503, "2")
    assert "send it again" in refused.json["error"]["message"]
    mesh.models.append("toy-1")
    await gateway.models.nodes.latest(0.0)
    assert (await post(open_app(gateway), CHAT, body)).status == 200


@pytest.mark.parametrize("how", ["fingerprint", "key"])
async def test_an_answer_comes_again_however_many_models_there_are_by_then(how: str) -> None:
    own = ModelTraits("hermes", "marked", SamplingDefaults(0.3, 20, 0.9, 0.0))
    mesh = FakeMesh(text_answer("<think>Hm.</think>", "Yes"), models=["toy-1"], traits=own)
    mesh.others, mesh.hashes = {"target-1": ModelTraits("llama3")}, {"target-1": "ff" * 8}
    gateway = Gateway(mesh, GatewayConfig())
    body, headers = {**TALK, "seed": 7}, KEY if how == "key" else {}
    first = await post(open_app(gateway), CHAT, body, **headers)
    mesh.models.append("other")
    await gateway.models.nodes.latest(0.0)
    if how == "fingerprint":
        body["system_fingerprint"] = first.json["system_fingerprint"]
    again = await post(open_app(gateway), CHAT, body, **headers)
    assert (again.status, again.json["choices"]) == (200, first.json["choices"])
    sampled = [call.json["usage"]["airdraft"]["sampling"] for call in (first, again)]
    assert sampled[0] == sampled[1] == asdict(own.sampling)


async def test_a_machine_that_is_busy_while_the_mesh_is_asked_refuses_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when the event loop is held by other work for longer than any answer takes."""
    loop = asyncio.get_running_loop()
    now = loop.time

    class Busy(FakeMesh):
        async def nodes(self) -> NodesReply:
            monkeypatch.setattr(loop, "time", lambda: now() + 10)
            for _ in range(3):
                await asyncio.sleep(0)
            return await super().nodes()

    await Models(Busy()).check_ready()


async def test_all_who_look_are_shown_one_status() -> None:
    mesh, clock = FakeMesh(), Clock()
    status = Looking(mesh, clock).status
    assert await asyncio.gather(*(status.latest() for _ in range(20))) == [STATUS] * 20
    for clock.now, num_requests in ((0.99, 1), (1.0, 2)):
        await asyncio.gather(status.latest(), status.latest())
        assert mesh.num_status_requests == num_requests
    # Without a coordinator there is none at all, and the next coordinator's is another.
    mesh.is_joined = False
    with pytest.raises(ApiError, match="cannot be reached"):
        await status.latest()
    mesh.is_joined = True
    await status.latest()
    assert mesh.num_status_requests == 3
    # A fault is told to all and asked for again.
    mesh.shown, clock.now = RequestFailedError("internal", "not understood"), 2.0
    found = await asyncio.gather(status.latest(), status.latest(), return_exceptions=True)
    assert [(type(each), str(each)) for each in found] == [(ApiError, "not understood")] * 2
    mesh.shown = STATUS
    assert await status.latest() == STATUS
    assert mesh.num_status_requests == 5


async def test_who_leaves_takes_it_from_nobody_and_nothing_is_left_when_it_stops() -> None:
    gate = asyncio.Event()

    class Held(FakeMesh):
        async def status(self) -> Status:
            await gate.wait()
            return await super().status()

    looking = Looking(Held())
    first, second = (asyncio.create_task(looking.status.latest()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    gate.set()
    assert await second == STATUS
    gate.clear()
    looking = Looking(Held())
    asking = asyncio.create_task(looking.status.latest())
    await asyncio.sleep(0)
    for _ in range(2):
        await looking.status.stop()
    await asyncio.gather(asking, return_exceptions=True)
    assert asking.cancelled()


async def test_the_document_has_the_last_minutes() -> None:
    mesh, clock = FakeMesh(), Clock()
    looking = Looking(mesh, clock)
    for second in range(4):
        clock.now = float(second)
        mesh.shown = replace(STATUS, at_s=STATUS.at_s + second)
        found = json.loads(await looking.document({"version": "1"}))
    assert found["status"] == json.loads(encode_status(mesh.shown))
    assert found["gateway"] == {"version": "1"}
    assert found["history"] == [[STATUS.at_s + second, 0.0, None] for second in (1, 2, 3)]


async def test_it_is_for_keys_with_the_scope_admin(tmp_path: Path) -> None:
    mesh = FakeMesh()
    app = keyed_app(mesh, tmp_path, max_concurrent=9)
    for path in ("/api/status", "/metrics"):
        assert (await get(app, path)).status == 401
        refused = await get(app, path, authorization="Bearer ad-guest")
        assert refused.status == 403
        assert "this API key lacks the scope 'admin'" in refused.json["error"]["message"]
    assert mesh.num_status_requests == 0
    call = await get(app, "/api/status", authorization="Bearer ad-looker")
    assert call.headers["content-type"] == "application/json"
    assert call.json["status"]["cluster"] == "airdraft"
    assert call.json["gateway"]["max_requests"] == 9
    mesh.is_joined = False
    call = await get(app, "/api/status", authorization="Bearer ad-looker")
    assert (call.status, call.headers["retry-after"]) == (503, "2")
