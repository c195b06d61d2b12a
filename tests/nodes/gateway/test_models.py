from __future__ import annotations

import asyncio

import pytest

from nodes.client.client import RequestFailedError
from nodes.gateway import models
from nodes.gateway.errors import ApiError
from nodes.gateway.models import Models
from nodes.messages import NodesReply
from tests.nodes.gateway.fake_mesh import FakeMesh


async def test_models_are_those_of_targets() -> None:
    mesh = FakeMesh(models=["b", "a", "b"])
    served = await Models(mesh).served()
    assert [(entry.id, entry.num_targets) for entry in served] == [("a", 1), ("b", 2)]
    found = served[1].as_json(7)
    assert (found["id"], found["object"], found["created"]) == ("b", "model", 7)


async def test_files_that_are_called_alike_are_told_apart() -> None:
    mesh = FakeMesh(models=["a.gguf", "b.gguf", "b.gguf"])
    mesh.hashes = {"target-2": "ff" * 32}
    made = Models(mesh)
    served = {entry.id: entry for entry in await made.served()}
    assert set(served) == {"a.gguf", "b.gguf@01234567", "b.gguf@ffffffff"}
    assert served["b.gguf@ffffffff"].as_json(7)["airdraft"]["model_hash"] == "ff" * 32
    for name in ("b.gguf@ffffffff", "b@FFFFFFFFFF", "b@" + "ff" * 32):
        assert await made.find(name) == served["b.gguf@ffffffff"]
    assert await made.find("a") == await made.find("a.gguf@01234567") == served["a.gguf"]
    both = await made.find("b.gguf")
    assert both is not None
    assert (both.id, both.num_targets) == ("b.gguf", 2)
    assert both.as_json(7)["airdraft"]["model_hash"] is None
    for name in ("b@ffffff", "b@eeeeeeee", "c", "@ffffffff"):
        assert await made.find(name) is None


async def test_the_mesh_is_asked_once_a_second() -> None:
    now = [0.0]
    mesh = FakeMesh()
    made = Models(mesh, lambda: now[0])
    for _ in range(3):
        await made.check_ready()
    assert mesh.num_node_requests == 1
    now[0] = 1.0
    await made.check_ready()
    assert mesh.num_node_requests == 2


async def test_who_wants_to_know_at_once_hears_nothing_old() -> None:
    now = [0.0]
    mesh = FakeMesh()
    made = Models(mesh, lambda: now[0])
    await made.check_ready(0.25)
    mesh.models.clear()
    now[0] = 0.2
    await made.check_ready(0.25)
    now[0] = 0.25
    await made.check_ready()
    with pytest.raises(ApiError, match="no target"):
        await made.check_ready(0.25)


async def test_targets_that_are_drained_serve_no_model() -> None:
    mesh = FakeMesh(models=["a", "b"])
    mesh.draining = {"a"}
    now = [0.0]
    made = Models(mesh, lambda: now[0])
    assert [entry.id for entry in await made.served()] == ["b"]
    await made.check_ready()
    mesh.draining = {"a", "b"}
    now[0] = 1.0
    with pytest.raises(ApiError, match="being drained") as caught:
        await made.check_ready()
    assert (caught.value.status, caught.value.retry_after_s) == (503, 2)


async def test_a_target_that_comes_is_seen_at_once() -> None:
    mesh = FakeMesh(models=[])
    made = Models(mesh, lambda: 0.0)
    with pytest.raises(ApiError) as caught:
        await made.check_ready()
    assert (caught.value.status, caught.value.retry_after_s) == (503, 2)
    mesh.models.append("toy-1")
    await made.check_ready()


async def test_without_a_coordinator_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = FakeMesh()
    made = Models(mesh)
    await made.check_ready()
    mesh.is_joined = False
    with pytest.raises(ApiError, match="cannot be reached") as caught:
        await made.check_ready()
    assert caught.value.status == 503
    mesh.is_joined = True

    async def silent() -> NodesReply:
        await asyncio.Event().wait()
        raise AssertionError

    async def lost() -> NodesReply:
        raise RequestFailedError("unavailable", "the coordinator was lost")

    monkeypatch.setattr(models, "_ASK_LIMIT_S", 0.01)
    for nodes, message in ((silent, "does not answer"), (lost, "was lost")):
        monkeypatch.setattr(mesh, "nodes", nodes)
        with pytest.raises(ApiError, match=message) as caught:
            await Models(mesh).check_ready()
        assert caught.value.status == 503


async def test_what_was_known_is_not_known_of_the_next_coordinator() -> None:
    mesh = FakeMesh()
    made = Models(mesh, lambda: 0.0)
    await made.check_ready()
    mesh.is_joined = False
    with pytest.raises(ApiError):
        await made.check_ready()
    mesh.is_joined = True
    mesh.models.clear()
    with pytest.raises(ApiError, match="the mesh has no target"):
        await made.check_ready()
