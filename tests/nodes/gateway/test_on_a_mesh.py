"""The gateway in front of a real coordinator, target and draft, in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nodes.engine.toy import ToyModel
from nodes.gateway.apikeys import ApiKey, ApiKeys, digest
from tests.nodes.api.toy_mesh import alone
from tests.nodes.gateway.fake_mesh import Eventually
from tests.nodes.gateway.on_a_mesh import Asked, gateway_on
from tests.nodes.held import held
from tests.nodes.memory_mesh import mesh

NODES = {"target", "draft-0"}
PROMPT = "several devices"
GREEDY: dict[str, Any] = {"prompt": PROMPT, "temperature": 0}


@contextlib.asynccontextmanager
async def gateway(tmp_path: Path) -> AsyncIterator[Asked]:
    async with mesh(0.8) as members, gateway_on(members, tmp_path, names=NODES) as asked:
        yield asked


def text_alone(max_tokens: int, **options: Any) -> str:
    return alone(PROMPT, max_tokens, **options).text.decode()


async def test_the_text_is_that_of_the_model_alone(tmp_path: Path) -> None:
    body = {"prompt": PROMPT, "max_tokens": 60, "seed": 5, "temperature": 0.9, "n": 3}
    expected = [text_alone(60, temperature=0.9, seed=5, choice=c) for c in range(3)]
    async with gateway(tmp_path) as asked:
        found = await asked.answer(body)
        assert [choice["text"] for choice in found["choices"]] == expected
        assert found["usage"]["completion_tokens"] == 180
        assert found["usage"]["airdraft"]["exact"] is True
        async with asked.streamed(body) as stream:
            await stream.read()
        assert [stream.texts[choice] for choice in range(3)] == expected


async def test_what_the_mesh_refuses_is_a_400(tmp_path: Path) -> None:
    body = {"prompt": "a", "max_tokens": 4}
    schema = {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}
    # As many characters as may be, but not as many bytes.
    wide = "\u8a9e" * 262_144
    async with gateway(tmp_path) as asked:
        for changes, status, code, says in (
            ({"prompt": [95, 96]}, 400, "bad_request", "vocabulary"),
            ({"max_tokens": 32_768}, 400, "bad_request", "context overflow"),
            ({"grammar": "root ::= ("}, 400, "bad_request", "grammar"),
            ({"grammar": "root ::= (", "stream": True}, 400, "bad_request", "grammar"),
            ({"response_format": schema}, 400, "bad_request", "Invalid type: x"),
            ({"logit_bias": {"999999": 1}}, 400, "bad_request", "vocabulary"),
            ({"model": "other"}, 404, "model_not_found", "model"),
            ({"model": "other", "stream": True}, 404, "model_not_found", "model"),
            ({"prompt": wide}, 413, "request_too_large", ""),
        ):
            found, error = await asked.refused({**body, **changes})
            assert (found, error["code"], says in error["message"]) == (status, code, True), error


async def test_what_is_asked_while_the_target_is_away_waits_for_it(tmp_path: Path) -> None:
    async with gateway(tmp_path) as asked:
        members, body = asked.members, {**GREEDY, "max_tokens": 60}
        assert await asked.is_ready()
        await members.kill("target")
        await members.wait_for(asked.client, {"draft-0"})
        await asked.until_ready(False)
        asking = [
            asyncio.create_task(asked.http.post("/completions", json=each))
            for each in (body, {**body, "stream": True})
        ]
        num_waiting = 0
        while num_waiting < len(asking):
            await asyncio.sleep(0.001)
            assert not any(answer.done() for answer in asking)
            num_waiting = (await asked.client.status()).waiting.num_tokenizing
        members.model = ToyModel(members.config)
        members.start_target()
        whole, streamed = [await answer for answer in asking]
        assert whole.json()["choices"][0]["text"] == text_alone(60)
        assert streamed.status_code == 200
        assert streamed.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("num_read", [1, 3, 9])
async def test_a_stream_goes_on_at_another_gateway(tmp_path: Path, num_read: int) -> None:
    """Guesses are accepted in other passes the second time: pieces are cut elsewhere."""
    key = {"idempotency-key": f"k-{num_read}"}
    body = {"prompt": PROMPT, "max_tokens": 120, "n": 2, "ignore_eos": True}
    async with gateway(tmp_path) as asked:
        async with asked.streamed(body, **key) as first:
            await first.read(num_read)
        other = gateway_on(asked.members, tmp_path, names=NODES, name="gateway-2")
        last = {"last-event-id": first.last_id}
        async with other as there, there.streamed(body, **key, **last) as second:
            await second.read()
        texts = [first.texts.get(c, "") + second.texts[c] for c in range(2)]
    sampling = {"temperature": 1.0, "seed": first.seed, "ignore_eog": True}
    assert texts == [text_alone(120, **sampling, choice=c) for c in range(2)]


async def test_requests_have_the_owner_that_their_key_and_user_make(tmp_path: Path) -> None:
    ApiKeys(tmp_path / "apikeys.toml").add(ApiKey(name="ann", sha256=digest("ad-1")))
    async with gateway(tmp_path) as asked:
        admin = asked.members.start_client("admin", role="admin")
        body = {"prompt": PROMPT, "max_tokens": 30, "user": "bob"}
        with held(asked.members.model):
            asking = asyncio.create_task(asked.answer(body, authorization="Bearer ad-1"))
            while not (streams := (await admin.status()).streams):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            users = {stream.user for stream in streams}
        await asking
        # A digest: nobody in the mesh has a use for names.
        assert len(users) == 1
        assert not users & {"", "ann", "bob", "ann/bob"}


@pytest.mark.slow
async def test_a_coordinator_that_is_lost_and_comes_back(
    tmp_path: Path, eventually: Eventually
) -> None:
    body = {**GREEDY, "max_tokens": 3000}
    async with gateway(tmp_path) as asked:
        async with asked.streamed(body) as stream:
            await stream.read(1)
            await asked.members.kill("coordinator")
            await eventually(lambda: not asked.client.is_joined)
            status, error = await asked.refused(body)
            assert (status, error["retry"]) == (503, "2")
            assert (await asked.http.get(f"{asked.root}/healthz")).status_code == 200
            assert not await asked.is_ready()
            asked.members.start_coordinator()
            # Whoever reads the answer sees nothing of it but a pause.
            await stream.read()
        assert (stream.is_done, stream.text) == (True, text_alone(3000))
        await asked.until_ready(True)
        found = await asked.answer({**GREEDY, "max_tokens": 20})
        assert found["choices"][0]["text"] == text_alone(20)
