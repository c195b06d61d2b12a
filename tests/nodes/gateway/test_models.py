from __future__ import annotations

import asyncio

import pytest

from nodes.client.client import RequestFailedError
from nodes.gateway.errors import ApiError
from nodes.gateway.models import Models
from nodes.messages import NodesReply
from tests.nodes.gateway.fake_mesh import Clock, FakeMesh


async def test_models_are_those_of_targets() -> None:
    mesh = FakeMesh(models=["b", "a", "b"])
    served = await Models(mesh).served()
    assert [(entry.id, entry.num_targets) for entry in served] == [("a", 1), ("b", 2)]
    found = served[1].as_json(7)
    assert (found["id"], found["object"], found["created"]) == ("b", "model", 7)


async def test_files_that_are_called_alike_are_told_apart() -> None:
    mesh = FakeMesh(models=["a.gguf", "b.gguf", "b.gguf"], hashes={"target-2": "ff" * 32})
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


async def test_the_mesh_is_asked_once_a_second_or_when_somebody_must_know() -> None:
    mesh, clock = FakeMesh(), Clock()
    made = Models(mesh, clock)
    for _ in range(3):
        await made.check_ready()
    assert mesh.num_node_requests == 1
    clock.now = 1.0
    await made.check_ready()
    assert mesh.num_node_requests == 2
    mesh.models.clear()
    clock.now = 1.2
    await made.check_ready(0.25)
    clock.now = 1.25
    await made.check_ready()
    with pytest.raises(ApiError, match="no target"):
        await made.check_ready(0.25)


async def test_targets_that_are_drained_serve_no_model() -> None:
    mesh, clock = FakeMesh(models=["a", "b"]), Clock()
    mesh.draining = {"a"}
    made = Models(mesh, clock)
    assert [entry.id for entry in await made.served()] == ["b"]
    await made.check_ready()
    mesh.draining = {"a", "b"}
    clock.now = 1.0
    with pytest.raises(ApiError, match="being drained") as caught:
        await made.check_ready()
    assert (caught.value.status, caught.value.retry_after_s) == (503, 2)


async def test_a_target_that_comes_is_seen_at_once_and_so_is_another_coordinator() -> None:
    mesh = FakeMesh(models=[])
    made = Models(mesh, Clock())
    with pytest.raises(ApiError) as caught:
        await made.check_ready()
    assert caught.value.status == 503
    mesh.models.append("a")
    await made.check_ready()
    mesh.is_joined = False
    with pytest.raises(ApiError, match="cannot be reached") as caught:
        await made.check_ready()
    assert caught.value.status == 503
    mesh.is_joined = True
    mesh.models.clear()
    with pytest.raises(ApiError, match="the mesh has no target"):
        await made.check_ready()


@pytest.mark.parametrize(
    "message", [pytest.param("does not answer", marks=pytest.mark.slow), "was lost"]
)
async def test_a_coordinator_that_does_not_answer_is_not_there(message: str) -> None:
    class Mute(FakeMesh):
        async def nodes(self) -> NodesReply:
            if message == "was lost":
                raise RequestFailedError("unavailable", "the coordinator was lost")
            return await asyncio.get_running_loop().create_future()

    with pytest.raises(ApiError, match=message) as caught:
        await Models(Mute()).check_ready()
    assert caught.value.status == 503
