"""The gateway in front of a real coordinator, target and draft, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from nodes.client.client import Client, Event
from nodes.client.generation import GenerateOptions, Prompt
from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from nodes.gateway import app, models
from nodes.gateway.apikeys import ApiKey, ApiKeys, digest
from nodes.messages import TokensNotice
from tests.nodes.gateway.served import Served, serving
from tests.nodes.held import held
from tests.nodes.memory_mesh import Members, mesh
from tests.nodes.reference import Reference, reference

PROMPT = "several devices"
Eventually = Callable[..., "asyncio.Future[None]"]


@contextlib.asynccontextmanager
async def gateway(tmp_path: Path) -> AsyncIterator[tuple[Members, Served, httpx.AsyncClient]]:
    async with mesh(0.8) as made:
        client = made.start_client("gateway", role="gateway")
        await made.wait_for(client, {"target", "draft-0"})
        async with (
            serving(client, tmp_path, openai_defaults=True) as server,
            httpx.AsyncClient(base_url=server.http.url, timeout=120) as http,
        ):
            yield made, server, http


def alone(max_tokens: int, *, ignore_eog: bool = False, **sampling: float) -> Reference:
    config = ToyConfig()
    ids = ToyTokenizer(config.num_vocab).encode(PROMPT)
    made = Sampling(**sampling)  # type: ignore[arg-type]
    return reference(config, ids, made, max_tokens=max_tokens, ignore_eog=ignore_eog)


async def test_the_text_is_that_of_the_model_alone(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (_made, _server, http):
        body = {"prompt": PROMPT, "max_tokens": 60, "seed": 5, "temperature": 0.9, "n": 3}
        found = (await http.post("/completions", json=body)).json()
        expected = [alone(60, temperature=0.9, seed=5, choice=c).text.decode() for c in range(3)]
        assert [choice["text"] for choice in found["choices"]] == expected
        assert found["usage"]["completion_tokens"] == 180
        assert found["usage"]["airdraft"]["exact"] is True
        streamed = ["", "", ""]
        async with http.stream("POST", "/completions", json={**body, "stream": True}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    (choice,) = json.loads(line[6:])["choices"]
                    streamed[choice["index"]] += choice["text"]
        assert streamed == expected


async def test_what_the_mesh_refuses_is_a_400(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (_made, _server, http):
        answer = await http.post("/completions", json={"prompt": [95, 96], "max_tokens": 4})
        assert answer.status_code == 400
        assert "vocabulary" in answer.json()["error"]["message"]
        answer = await http.post("/completions", json={"prompt": "a", "max_tokens": 32_768})
        assert answer.status_code == 400
        assert "context overflow" in answer.json()["error"]["message"]
        # As many characters as may be, but not as many bytes.
        wide = await http.post("/completions", json={"prompt": "\u8a9e" * 262_144})
        assert (wide.status_code, wide.json()["error"]["code"]) == (413, "request_too_large")
        body = {"prompt": "a", "max_tokens": 4, "grammar": "root ::= ("}
        for stream in (False, True):
            answer = await http.post("/completions", json={**body, "stream": stream})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
            asked = {"prompt": "a", "max_tokens": 4, "model": "other", "stream": stream}
            answer = await http.post("/completions", json=asked)
            error = answer.json()["error"]
            found = answer.status_code, error["code"], error["param"]
            assert found == (404, "model_not_found", "model")


async def test_what_is_asked_while_the_target_is_away_waits_for_it(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (made, server, http):
        body = {"prompt": PROMPT, "max_tokens": 60, "temperature": 0}
        ready = server.http.url.removesuffix("/v1") + "/readyz"
        assert (await http.get(ready)).status_code == 200
        await made.kill("target")
        await made.wait_for(made.clients["gateway"], {"draft-0"})
        away = await http.get(ready)
        while away.status_code == 200:
            # What is known may be a moment old.
            away = await http.get(ready)
        assert (away.status_code, away.headers["retry-after"]) == (503, "2")
        asking = [
            asyncio.create_task(http.post("/completions", json=asked))
            for asked in (body, {**body, "stream": True})
        ]
        num_waiting = 0
        while num_waiting < len(asking):
            await asyncio.sleep(0.001)
            assert not any(answer.done() for answer in asking)
            num_waiting = (await made.clients["gateway"].status()).waiting.num_tokenizing
        made.model = ToyModel(made.config)
        made.start_target()
        whole, streamed = [await answer for answer in asking]
        assert whole.json()["choices"][0]["text"] == alone(60).text.decode()
        assert streamed.status_code == 200
        assert streamed.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("num_read", [1, 3, 9])
async def test_a_stream_goes_on_at_another_gateway(tmp_path: Path, num_read: int) -> None:
    """Guesses are accepted in other passes the second time: pieces are cut elsewhere."""
    async with gateway(tmp_path) as (made, _server, http):
        other = made.start_client("gateway-2", role="gateway")
        await made.wait_for(other, {"target", "draft-0"})
        key = {"idempotency-key": f"k-{num_read}"}
        body = {"prompt": PROMPT, "max_tokens": 120, "n": 2, "stream": True, "ignore_eos": True}
        texts, last, seed = ["", ""], "", 0
        async with http.stream("POST", "/completions", json=body, headers=key) as answer:
            seed = int(answer.headers["x-airdraft-seed"])
            lines = answer.aiter_lines()
            for _ in range(num_read):
                last = await _read_event(lines, texts)
        async with serving(other, tmp_path, openai_defaults=True) as second:
            url = f"{second.http.url}/completions"
            headers = {**key, "last-event-id": last}
            async with http.stream("POST", url, json=body, headers=headers) as answer:
                assert answer.status_code == 200
                lines = answer.aiter_lines()
                while await _read_event(lines, texts):
                    pass
        sampling = {"temperature": 1.0, "seed": seed}
        expected = [alone(120, **sampling, choice=c, ignore_eog=True) for c in range(2)]
        assert texts == [found.text.decode() for found in expected]


async def _read_event(lines: AsyncIterator[str], texts: list[str]) -> str:
    """Add an event to the texts; its id, "" of the last one."""
    event_id = ""
    async for line in lines:
        if line.startswith("id: "):
            event_id = line.removeprefix("id: ")
        elif line.startswith("data: {"):
            (choice,) = json.loads(line[6:])["choices"]
            texts[choice["index"]] += choice["text"]
            return event_id
        elif line:
            assert line == "data: [DONE]"
            return ""
    raise AssertionError("the stream has no end")


async def test_each_commit_is_an_event_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[TokensNotice] = []
    generate = Client.generate

    async def counted(
        client: Client, prompt: Prompt, options: GenerateOptions
    ) -> AsyncIterator[Event]:
        async for event in generate(client, prompt, options):
            if isinstance(event, TokensNotice):
                notices.append(event)
            yield event

    monkeypatch.setattr(Client, "generate", counted)
    async with gateway(tmp_path) as (_made, _server, http):
        body = {"prompt": PROMPT, "max_tokens": 60, "temperature": 0, "stream": True, "logprobs": 0}
        texts: list[str] = []
        async with http.stream("POST", "/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    (choice,) = json.loads(line[6:])["choices"]
                    texts.append(choice["text"])
    # The last one says why it ended.
    assert texts == [*(notice.text.decode() for notice in notices), ""]
    assert len(notices) > 60 / 17


async def test_requests_have_the_owner_that_their_key_and_user_make(tmp_path: Path) -> None:
    ApiKeys(tmp_path / "apikeys.toml").add(ApiKey(name="ann", sha256=digest("ad-1")))
    async with gateway(tmp_path) as (made, _server, http):
        admin = made.start_client("admin", role="admin")
        http.headers["authorization"] = "Bearer ad-1"
        body = {"prompt": PROMPT, "max_tokens": 30, "user": "bob"}
        with held(made.model):
            asking = asyncio.create_task(http.post("/completions", json=body))
            status = await admin.status()
            while not status.streams:
                await asyncio.sleep(0.01)
                status = await admin.status()
            users = {stream.user for stream in status.streams}
        assert (await asking).status_code == 200
        # A digest: nobody in the mesh has a use for names.
        assert len(users) == 1
        assert not users & {"", "ann", "bob", "ann/bob"}


async def test_it_is_not_ready_while_all_targets_are_drained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_MAX_AGE_S", 0.0)
    monkeypatch.setattr(app, "_READY_MAX_AGE_S", 0.0)
    async with gateway(tmp_path) as (made, server, http):
        admin = made.start_client("admin", role="admin")
        root = server.http.url.removesuffix("/v1")
        assert (await http.get(f"{root}/readyz")).status_code == 200
        body = {"prompt": PROMPT, "max_tokens": 60, "n": 4, "ignore_eos": True}
        # A target that is drained leaves when it has nothing more to do.
        with held(made.model):
            asking = asyncio.create_task(http.post("/completions", json=body))
            num_streams = 0
            while not num_streams:
                await asyncio.sleep(0.001)
                num_streams = sum(n.num_streams for n in (await admin.nodes()).nodes)
            await admin.command_node("drain", "target")
            answer = await http.get(f"{root}/readyz")
            assert answer.status_code == 503
            assert "being drained" in answer.json()["error"]["message"]
            assert (await http.get("/models")).json()["data"] == []
            refused = await http.post("/completions", json={"prompt": "a", "max_tokens": 2})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            await admin.command_node("undrain", "target")
            assert (await http.get(f"{root}/readyz")).status_code == 200
        assert (await asking).status_code == 200


async def test_who_hangs_up_frees_cells_on_the_target(
    tmp_path: Path, eventually: Eventually
) -> None:
    async with gateway(tmp_path) as (made, _server, http):
        body = {"prompt": PROMPT, "max_tokens": 3000, "stream": True}
        async with http.stream("POST", "/completions", json=body) as answer:
            async for _line in answer.aiter_lines():
                break
            assert made.model.free_cells() < made.config.num_cells
        await eventually(lambda: made.model.free_cells() == made.config.num_cells)


@pytest.mark.slow
async def test_a_coordinator_that_is_lost_and_comes_back(
    tmp_path: Path, eventually: Eventually
) -> None:
    async with gateway(tmp_path) as (made, server, http):
        body = {"prompt": PROMPT, "max_tokens": 3000, "temperature": 0, "stream": True}
        root = server.http.url.removesuffix("/v1")
        async with http.stream("POST", "/completions", json=body) as answer:
            reading = aiter(answer.aiter_lines())
            lines = [await anext(reading)]
            await made.kill("coordinator")
            await eventually(lambda: not made.clients["gateway"].is_joined)
            refused = await http.post("/completions", json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            assert (await http.get(f"{root}/healthz")).status_code == 200
            assert (await http.get(f"{root}/readyz")).status_code == 503
            made.start_coordinator()
            # Whoever reads the answer sees nothing of it but a pause.
            lines += [line async for line in reading]
        assert [line for line in lines if line][-1] == "data: [DONE]"
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        assert text == alone(3000).text.decode()
        status = 0
        while status != 200:
            status = (await http.get(f"{root}/readyz")).status_code
            await asyncio.sleep(0.01)
        body = {"prompt": PROMPT, "max_tokens": 20, "temperature": 0}
        found = (await http.post("/completions", json=body)).json()
        assert found["choices"][0]["text"] == alone(20).text.decode()
