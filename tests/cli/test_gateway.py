"""The gateway as processes, asked by what people ask with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyTokenizer
from nodes.engine.traits import SamplingDefaults
from tests.cli.commands import LIMIT_S, Commands, wait_until
from tests.cli.serving import Serving, serving
from tests.nodes.reference import Reference, reference

UP = ("up", "--model", "toy:1", "--draft", "toy:0.8", "--listen", "tcp://127.0.0.1:*")
# A long text takes many seconds: it is not there yet when it is to be interrupted.
SLOW_UP = ("up", "--model", "toy:1@20ms", "--draft", "toy:0.8", "--listen", "tcp://127.0.0.1:*")
get, post, delete = (partial(f, timeout=LIMIT_S) for f in (httpx.get, httpx.post, httpx.delete))
CANARY = "CANARY-7f3a"
MODEL = "toy-1"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The mesh that most tests of this file ask."""
    with serving(tmp_path_factory.mktemp("mesh"), UP) as made:
        yield made
        # Of a worker that got but one of the tests this may be the only request.
        asked = {"model": MODEL, "prompt": "hi", "max_tokens": 1}
        assert post(f"{made.url}/completions", json=asked).status_code == 200
    # After everything that this file has asked.
    log = made.log.read_text()
    assert CANARY not in log
    assert "status 200" in log


@pytest.fixture(scope="module")
def slow_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("slow"), SLOW_UP) as made:
        yield made


@pytest.fixture
def client(mesh: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=mesh.url, api_key="none", max_retries=0) as made:
        yield made


def alone(prompt: str, max_tokens: int, **sampling: Any) -> Reference:
    """What is left open of sampling is as of a model whose file says nothing of it."""
    config = ToyConfig()
    ids = ToyTokenizer(config.num_vocab).encode(prompt)
    made = Sampling(**{**asdict(SamplingDefaults()), **sampling})
    return reference(config, ids, made, max_tokens=max_tokens)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("none")
    assert caught.value.code == "model_not_found"


def test_completions(client: openai.OpenAI) -> None:
    found = client.completions.create(
        model=MODEL, prompt="hi", max_tokens=40, seed=3, n=3, temperature=0.8
    )
    expected = [alone("hi", 40, temperature=0.8, seed=3, choice=c).text.decode() for c in range(3)]
    assert [choice.text for choice in found.choices] == expected
    assert len(set(expected)) == 3
    assert {choice.finish_reason for choice in found.choices} == {"length"}
    assert found.usage is not None
    assert found.usage.model_extra is not None
    assert (found.usage.completion_tokens, found.usage.prompt_tokens) == (120, 2)
    details = found.usage.completion_tokens_details
    assert details is not None
    guessed = found.usage.model_extra["airdraft"]
    assert details.accepted_prediction_tokens == guessed["accepted"]
    assert details.rejected_prediction_tokens == guessed["drafted"] - guessed["accepted"]


def test_chat_streams_roles_texts_reasons_and_usage(client: openai.OpenAI) -> None:
    asked: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": [{"type": "text", "text": f"{CANARY} hi"}]}],
        "max_tokens": 30,
        "seed": 4,
    }
    whole = client.chat.completions.create(**asked)
    text, reasons, roles, usages = "", [], [], []
    options = {"include_usage": True}
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options=options):
        if chunk.usage is not None:
            usages.append(chunk.usage)
        for choice in chunk.choices:
            roles.append(choice.delta.role)
            text += choice.delta.content or ""
            reasons.append(choice.finish_reason)
    assert text == whole.choices[0].message.content
    assert whole.choices[0].message.role == "assistant"
    assert (roles[0], set(roles[1:])) == ("assistant", {None})
    assert (reasons[-1], set(reasons[:-1])) == ("length", {None})
    (usage,) = usages
    assert whole.usage is not None
    assert usage.total_tokens == whole.usage.total_tokens
    assert usage.model_extra is not None
    assert usage.model_extra["airdraft"]["seed"] == 4


def test_a_text_ends_before_a_stop(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "prompt": "hi", "max_tokens": 40, "temperature": 0}
    text = client.completions.create(**asked).choices[0].text
    stop = text[30:34]
    for stream in (False, True):
        found = client.completions.create(**asked, stop=[stop, CANARY], stream=stream)
        choices = [c.choices[0] for c in found] if stream else [found.choices[0]]
        assert "".join(choice.text for choice in choices) == text[: text.index(stop)]
        assert choices[-1].finish_reason == "stop"


def test_a_drawn_seed_repeats_a_text(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "prompt": f"hi {CANARY}", "max_tokens": 30}
    first = client.completions.create(**asked)
    assert first.usage is not None
    assert first.usage.model_extra is not None
    seed = first.usage.model_extra["airdraft"]["seed"]
    assert client.completions.create(**asked, seed=seed).choices[0].text == first.choices[0].text
    assert client.completions.create(**asked).choices[0].text != first.choices[0].text


def test_errors_have_the_classes_of_the_official_client(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": CANARY}]}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**asked, temperature=3)
    assert (caught.value.param, caught.value.code) == ("temperature", "invalid_value")
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**asked, tools=[tool])
    assert caught.value.param == "tools"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**{**asked, "model": "gpt-4o"})


async def test_the_async_client_asks_for_many_at_a_time(mesh: Serving) -> None:
    async with openai.AsyncOpenAI(base_url=mesh.url, api_key="none") as client:

        async def ask(seed: int) -> str:
            stream = await client.completions.create(
                model=MODEL, prompt="hi", max_tokens=30, seed=seed, stream=True
            )
            return "".join([chunk.choices[0].text async for chunk in stream])

        texts = await asyncio.gather(*(ask(seed) for seed in range(8)))
    assert texts == [alone("hi", 30, seed=s).text.decode() for s in range(8)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl(mesh: Serving) -> None:
    body = json.dumps({"prompt": "hi", "max_tokens": 5, "temperature": 0})
    command = ["curl", "-sS", f"{mesh.url}/completions", "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, "-d", body], capture_output=True, text=True, check=True)
    assert (
        json.loads(done.stdout)["choices"][0]["text"]
        == alone("hi", 5, temperature=0.0).text.decode()
    )


def test_one_may_cancel_a_stream_by_its_id(slow_mesh: Serving) -> None:
    with openai.OpenAI(base_url=slow_mesh.url, api_key="none", max_retries=0) as client:
        stream = client.completions.create(model=MODEL, prompt="hi", max_tokens=3000, stream=True)
        first = next(stream)
        assert delete(f"{slow_mesh.url}/completions/{first.id}").json()["cancelled"] is True
        rest: list[Any] = []
        with pytest.raises(openai.APIError, match="cancelled"):
            rest.extend(stream)
    assert all(chunk.choices[0].finish_reason is None for chunk in rest)


# -- a process of its own --------------------------------------------------------------------------


@contextlib.contextmanager
def started(commands: Commands, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with commands.started("gateway", "--listen", "127.0.0.1:0", *arguments) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("OpenAI API at http://")
        yield process, line.removeprefix("OpenAI API at ").strip()


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    try:
        yield made
        assert made.alive() == {}
    finally:
        made.kill_all()


def test_a_gateway_of_its_own_with_keys(commands: Commands, mesh: Serving) -> None:
    key = commands.run("apikeys", "add", "laptop").stdout.strip()
    with started(commands, "--coordinator", mesh.endpoint) as (process, url):
        wait_until(lambda: get(f"{url}/models").status_code == 401)
        root = url.removesuffix("/v1")
        headers = {"authorization": f"Bearer {key}"}
        wait_until(lambda: get(f"{root}/readyz", headers=headers).status_code == 200)
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
            found = client.completions.create(model=MODEL, prompt="hi", max_tokens=5, temperature=0)
            assert found.choices[0].text == alone("hi", 5, temperature=0.0).text.decode()
            commands.run("apikeys", "remove", "laptop")
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
        assert get(f"{root}/healthz").status_code == 200
        process.terminate()
        assert process.wait(LIMIT_S) == 0


def test_a_gateway_without_a_coordinator_says_so(commands: Commands) -> None:
    with started(commands, "--connect", "tcp://127.0.0.1:9") as (process, url):
        answer = post(f"{url}/completions", json={"prompt": "hi"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 128 + signal.SIGINT


def test_a_stream_is_told_that_the_gateway_stops(
    commands: Commands, slow_mesh: Serving, tmp_path: Path
) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("[limits]\nstop_timeout_s = 0\n")
    with started(commands, "--connect", slow_mesh.endpoint, "--config", str(config)) as (
        process,
        url,
    ):
        root = url.removesuffix("/v1")
        wait_until(lambda: get(f"{root}/readyz").status_code == 200)
        body = {"prompt": "hi", "max_tokens": 3000, "stream": True}
        with httpx.stream("POST", f"{url}/completions", json=body, timeout=LIMIT_S) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.terminate()
            rest = [line for line in lines if line]
        assert "the gateway is stopping" in rest[-1]
        assert process.wait(LIMIT_S) == 0


def test_a_second_signal_ends_it_at_once(commands: Commands, slow_mesh: Serving) -> None:
    with started(commands, "--connect", slow_mesh.endpoint) as (process, url):
        root = url.removesuffix("/v1")
        wait_until(lambda: get(f"{root}/readyz").status_code == 200)
        body = {"prompt": "hi", "max_tokens": 3000, "stream": True}
        with httpx.stream("POST", f"{url}/completions", json=body, timeout=LIMIT_S) as answer:
            lines = answer.iter_lines()
            next(lines)
            with paused(slow_mesh.pid):
                process.terminate()
                wait_until(lambda: refuses(url))
                os.kill(process.pid, signal.SIGTERM)
                assert process.wait(LIMIT_S) == 128 + signal.SIGTERM
            rest: list[str] = []
            with pytest.raises(httpx.HTTPError):
                rest.extend(lines)
            assert not any("error" in line or "[DONE]" in line for line in rest)


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """Nothing more comes from the mesh meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def refuses(url: str) -> bool:
    try:
        return post(f"{url}/completions", json={"prompt": "hi"}).status_code == 503
    except httpx.HTTPError:
        return True


def test_a_key_that_is_no_gateways_is_refused_in_one_line(
    commands: Commands, tmp_path: Path
) -> None:
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    assert commands.run("keys", "init", "--keys", here).returncode == 0
    with commands.started("coordinator", "--listen", "tcp://127.0.0.1:0", "--keys", here) as hub:
        assert hub.stdout is not None
        endpoint = hub.stdout.readline().split()[-1]
        for role, is_let_in in (("client", False), ("gateway", True)):
            keys = f"{there}-{role}"
            invite = ("keys", "invite", "--role", role, "--endpoint", endpoint, "--keys", here)
            token = commands.run(*invite).stdout.strip()
            joined = commands.run("join", token, "--keys", keys, "--name", f"{role}-box")
            assert joined.returncode == 0, joined.stderr
            with started(commands, "--keys", keys) as (process, url):
                if is_let_in:
                    models = f"{url}/models"
                    wait_until(lambda url=models: get(url).status_code == 200)
                    process.terminate()
                    assert process.wait(LIMIT_S) == 0
                else:
                    assert process.wait(LIMIT_S) == 77
                    assert process.stderr is not None
                    (line,) = process.stderr.read().splitlines()
                    assert "lacks the role 'gateway' (it has client)" in line


def test_the_coordinator_of_up_has_limits(commands: Commands) -> None:
    limits = ("--max-gateway-requests", "1")
    with commands.started(*SLOW_UP, *limits, "--http", "127.0.0.1:0") as process:
        assert process.stdout is not None
        url = [process.stdout.readline() for _ in range(2)][1].split()[-1]
        assert post(f"{url}/completions", json={"prompt": "a"}).status_code == 200
        # Each prompt is a request to the mesh.
        refused = post(f"{url}/completions", json={"prompt": ["a", "b"]})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        process.terminate()
        assert process.wait(LIMIT_S) == 0
    done = commands.run(*UP, "--max-waiting", "0")
    assert done.returncode == 78
    (line,) = done.stderr.splitlines()
    assert "limits.max_waiting" in line


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--listen", "0.0.0.0:0"), 78, "apikeys add"),
        (("--allowed-host", "airdraft.lan"), 78, "allowed_hosts needs some"),
        (("--cors-origin", "https://a.example"), 78, "cors_origins needs some"),
        (("--listen", "nonsense"), 78, "HOST:PORT"),
        (("--tls-cert", "x"), 78, "both or neither"),
        (("--config", "none.toml"), 78, "not found"),
        (("--connect", "tcp://10.0.0.1:7411"), 78, "keys"),
    ],
)
def test_errors_are_one_line(
    commands: Commands, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = commands.run("gateway", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert message in line


def test_an_address_that_is_taken(commands: Commands, mesh: Serving) -> None:
    address = mesh.url.removeprefix("http://").removesuffix("/v1")
    for arguments in (("gateway", "--listen", address), (*UP, "--http", address)):
        done = commands.run(*arguments)
        assert done.returncode == 1
        # A mesh on loopback without keys has said before who may join.
        line = done.stderr.splitlines()[-1]
        assert "Address already in use" in line
