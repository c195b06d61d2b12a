"""Several numerics classes and files of one name behind a gateway: law 1 between targets.

The toys compute other bits than each other, which shows in every text.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from nodes.coordinator.placing import choosing, stranded
from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyTokenizer
from nodes.gateway import models
from tests.nodes.gateway.served import serving
from tests.nodes.memory_mesh import Members, Passing
from tests.nodes.reference import reference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Eventually = Callable[..., "asyncio.Future[None]"]
Body = dict[str, Any]
AT_ONCE = 24


@pytest.fixture(autouse=True)
def _who_left_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (choosing, stranded):
        monkeypatch.setattr(module, "STRANDED_LIMIT_S", 1.0)


@dataclass(frozen=True)
class Kind:
    """What a target says it is, and the seed of what it computes."""

    model_hash: str
    numerics_class: str
    seed: int
    cells: int = 4096

    @property
    def config(self) -> ToyConfig:
        # Room for few, so that most requests wait.
        return ToyConfig(seed=self.seed, max_sequences=3, num_cells=self.cells)

    @property
    def model(self) -> Passing:
        said = {"model_hash": self.model_hash, "numerics_class": self.numerics_class}
        return Passing(self.config, **said)

    @property
    def fingerprint(self) -> str:
        return f"fp_{self.model_hash[:8]}_{self.numerics_class[:8]}"

    def text(self, body: Body) -> str:
        """What this kind answers, alone."""
        ids = ToyTokenizer(self.config.num_vocab).encode(body["prompt"])
        sampling = Sampling(temperature=body["temperature"], seed=body["seed"])
        return reference(self.config, ids, sampling, max_tokens=body["max_tokens"]).text.decode()


A = Kind("11" * 32, "aaaa" * 4, 1)
B = Kind("11" * 32, "bbbb" * 4, 2)
OTHER = Kind("22" * 32, "cccc" * 4, 3, cells=1024)


@contextlib.asynccontextmanager
async def gateway(
    tmp_path: Path, *kinds: Kind, weights: str = ""
) -> AsyncIterator[tuple[Members, httpx.AsyncClient]]:
    made = Members(ToyConfig())
    made.start_coordinator(weights)
    for kind in kinds:
        made.start_target(kind.numerics_class, kind.model)
    try:
        client = made.start_client("gateway", role="gateway")
        await made.wait_for(client, {kind.numerics_class for kind in kinds})
        async with (
            serving(client, tmp_path, openai_defaults=True) as server,
            httpx.AsyncClient(base_url=server.http.url, timeout=120) as http,
        ):
            yield made, http
        for name, task in made.tasks.items():
            assert not task.done(), f"{name} ended: {task}"
    finally:
        for task in made.tasks.values():
            task.cancel()
        await asyncio.gather(*made.tasks.values(), return_exceptions=True)


def bodies(num: int) -> list[Body]:
    return [
        {"prompt": f"question {n}", "seed": n, "max_tokens": 1 + n % 9, "temperature": 0.9}
        for n in range(num)
    ]


async def ask(http: httpx.AsyncClient, body: Body) -> tuple[str, str]:
    """Text and fingerprint; streamed or not, as the seed would have it."""
    if body["seed"] % 2:
        found = await http.post("/completions", json=body)
        assert found.status_code == 200, found.text
        answer = found.json()
        return answer["choices"][0]["text"], answer["system_fingerprint"]
    text, fingerprints = "", set()
    async with http.stream("POST", "/completions", json={**body, "stream": True}) as streamed:
        assert streamed.status_code == 200
        async for line in streamed.aiter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                text += chunk["choices"][0]["text"]
                fingerprints.add(chunk["system_fingerprint"])
    (fingerprint,) = fingerprints
    return text, fingerprint


async def ask_thrice(http: httpx.AsyncClient, asked: list[Body]) -> list[set[tuple[str, str]]]:
    """What three of each are answered, among others and in other orders."""
    found: list[set[tuple[str, str]]] = [set() for _ in asked]
    for attempt in range(3):
        order = random.Random(attempt)
        todo = iter(order.sample(range(len(asked)), len(asked)))

        async def worker(todo: Any = todo) -> None:
            for index in todo:
                found[index].add(await ask(http, asked[index]))

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(worker())
    return found


async def test_requests_have_one_text_and_fingerprint_whatever_the_load(tmp_path: Path) -> None:
    async with gateway(tmp_path, B, A) as (_made, http):
        asked = bodies(200)
        found = await ask_thrice(http, asked)
        assert found == [{(A.text(body), A.fingerprint)} for body in asked]
        asked = [{**body, "system_fingerprint": B.fingerprint} for body in bodies(30)]
        found = await ask_thrice(http, asked)
        assert found == [{(B.text(body), B.fingerprint)} for body in asked]


async def test_the_next_class_takes_over_and_the_fingerprint_tells(tmp_path: Path) -> None:
    async with gateway(tmp_path, A, B) as (made, http):
        asked = bodies(40)
        await made.kill(A.numerics_class)
        await made.wait_for(made.clients["gateway"], {B.numerics_class})
        found = await ask_thrice(http, asked)
        assert found == [{(B.text(body), B.fingerprint)} for body in asked]
        refused = await http.post(
            "/completions", json={**asked[0], "system_fingerprint": A.fingerprint}
        )
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        told = f"no target with fingerprint {A.fingerprint} is present"
        assert refused.json()["error"]["message"].startswith(told)
        made.start_target(A.numerics_class, A.model)
        await made.wait_for(made.clients["gateway"], {A.numerics_class, B.numerics_class})
        found = await ask_thrice(http, asked)
        assert found == [{(A.text(body), A.fingerprint)} for body in asked]


async def test_a_conversation_of_several_turns_stays_in_its_class(tmp_path: Path) -> None:
    async with gateway(tmp_path, A, B, weights="aaaa=1, bbbb=1") as (_made, http):

        async def talk(number: int) -> set[str]:
            """The fingerprints of all turns."""
            told = set()
            messages = [{"role": "system", "content": "be brief"}]
            for turn in range(3):
                messages.append({"role": "user", "content": f"{number} asks {turn}"})
                body = {"messages": messages, "max_tokens": 4, "seed": number}
                answer = (await http.post("/chat/completions", json=body)).json()
                told.add(answer["system_fingerprint"])
                messages.append(
                    {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}
                )
            return told

        found = await asyncio.gather(*map(talk, range(40)))
        assert all(len(told) == 1 for told in found)
        assert set().union(*found) == {A.fingerprint, B.fingerprint}


async def test_with_weights_a_request_has_one_text(tmp_path: Path) -> None:
    async with gateway(tmp_path, A, B, weights="aaaa=1, bbbb=2") as (_made, http):
        asked = bodies(80)
        found = await ask_thrice(http, asked)
        shares = {A.fingerprint: 0, B.fingerprint: 0}
        for body, answers in zip(asked, found, strict=True):
            ((text, fingerprint),) = answers
            kind = A if fingerprint == A.fingerprint else B
            assert (text, fingerprint) == (kind.text(body), kind.fingerprint)
            shares[fingerprint] += 1
        assert all(shares.values())


async def test_files_of_one_name_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_MAX_AGE_S", 0.0)
    async with gateway(tmp_path, OTHER, A) as (made, http):
        listed = (await http.get("/models")).json()["data"]
        assert [entry["id"] for entry in listed] == ["toy-1@11111111", "toy-1@22222222"]
        assert [entry["airdraft"]["model_hash"] for entry in listed] == ["11" * 32, "22" * 32]
        for entry in listed:
            assert (await http.get(f"/models/{entry['id']}")).json() == entry
        assert (await http.get("/models/toy-1")).json()["airdraft"]["num_targets"] == 2
        # A name alone is the one with more cells.
        asked = [{**body, "model": "toy-1"} for body in bodies(40)]
        found = await ask_thrice(http, asked)
        assert found == [{(A.text(body), A.fingerprint)} for body in asked]
        asked = [{**body, "model": "toy-1@22222222"} for body in bodies(40)]
        found = await ask_thrice(http, asked)
        assert found == [{(OTHER.text(body), OTHER.fingerprint)} for body in asked]
        both = {**asked[0], "system_fingerprint": A.fingerprint}
        refused = await http.post("/completions", json=both)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_request")
        await made.kill(OTHER.numerics_class)
        await made.wait_for(made.clients["gateway"], {A.numerics_class})
        listed = (await http.get("/models")).json()["data"]
        assert [entry["id"] for entry in listed] == ["toy-1"]
        assert (await http.post("/completions", json=asked[0])).status_code == 503


async def test_all_prompts_and_choices_of_a_body_have_one_class(tmp_path: Path) -> None:
    async with gateway(tmp_path, A, B, weights="aaaa=1, bbbb=1") as (_made, http):
        prompts = [f"prompt {n}" for n in range(12)]
        common = {"max_tokens": 5, "temperature": 0.9, "seed": 4}
        body = {**common, "prompt": prompts, "n": 2}
        answer = (await http.post("/completions", json=body)).json()
        (kind,) = (kind for kind in (A, B) if kind.fingerprint == answer["system_fingerprint"])
        firsts = [choice["text"] for choice in answer["choices"][::2]]
        assert firsts == [kind.text({**common, "prompt": prompt}) for prompt in prompts]
        details = answer["usage"]["airdraft"]
        found = details["model_hash"], details["numerics_class"], details["exact"]
        assert found == (kind.model_hash, kind.numerics_class, True)


async def test_what_a_key_began_goes_on_in_its_class(tmp_path: Path) -> None:
    """Though the first class has come back meanwhile, at this gateway and at another one."""
    async with gateway(tmp_path, B) as (made, http):
        body = {"prompt": "long", "max_tokens": 200, "seed": 5, "temperature": 0.9, "stream": True}
        headers = {"idempotency-key": "k"}
        text, last = "", ""
        async with http.stream("POST", "/completions", json=body, headers=headers) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("id: "):
                    last = line.removeprefix("id: ")
                elif line.startswith("data: {"):
                    text += json.loads(line[6:])["choices"][0]["text"]
                    if len(text) > 20:
                        break
        assert f"@{B.fingerprint}:" in last
        made.start_target(A.numerics_class, A.model)
        other = made.start_client("gateway-2", role="gateway")
        await made.wait_for(other, {A.numerics_class, B.numerics_class})
        async with serving(other, tmp_path, openai_defaults=True) as second:
            for url, known, more in (
                (f"{second.http.url}/completions", text, {"last-event-id": last}),
                ("/completions", "", {}),
            ):
                whole, told = known, set()
                async with http.stream(
                    "POST", url, json=body, headers={**headers, **more}
                ) as answer:
                    assert answer.status_code == 200
                    async for line in answer.aiter_lines():
                        if line.startswith("data: {"):
                            chunk = json.loads(line[6:])
                            whole += chunk["choices"][0]["text"]
                            told.add(chunk["system_fingerprint"])
                assert (whole, told) == (B.text(body), {B.fingerprint})
        # A new request goes to the first class.
        assert await ask(http, {**body, "stream": False, "seed": 7}) == (
            A.text({**body, "seed": 7}),
            A.fingerprint,
        )
        await made.kill(B.numerics_class)
        await made.wait_for(other, {A.numerics_class})
        refused = await http.post("/completions", json=body, headers=headers)
        assert refused.status_code == 503
        assert B.fingerprint in refused.json()["error"]["message"]


async def test_what_outlives_its_coordinator_stays_in_its_class(
    tmp_path: Path, eventually: Eventually
) -> None:
    async with gateway(tmp_path, B) as (made, http):
        client = made.clients["gateway"]
        body = {"prompt": "long", "max_tokens": 1500, "seed": 5, "temperature": 0.9}
        pinned = {**body, "system_fingerprint": B.fingerprint, "stream": True}
        async with http.stream("POST", "/completions", json=pinned) as answer:
            reading = aiter(answer.aiter_lines())
            lines = [await anext(reading)]
            await made.kill("coordinator")
            await eventually(lambda: not client.is_joined)
            made.start_target(A.numerics_class, A.model)
            made.start_coordinator()
            lines += [line async for line in reading]
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert {chunk["system_fingerprint"] for chunk in chunks} == {B.fingerprint}
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        assert text == B.text(body)
