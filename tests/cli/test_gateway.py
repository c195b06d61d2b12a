"""The gateway as processes, asked by what people ask with."""

from __future__ import annotations

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

from nodes.engine.traits import SamplingDefaults
from tests.cli.commands import LIMIT_S, Commands, stopped, told, wait_until
from tests.cli.serving import Serving, serving
from tests.nodes.api.toy_mesh import alone

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


# What is left open of sampling is as of a model whose file says nothing of it.
LEFT_OPEN: dict[str, Any] = asdict(SamplingDefaults())


def test_completions(client: openai.OpenAI) -> None:
    found = client.completions.create(
        model=MODEL, prompt=f"{CANARY} hi", max_tokens=40, seed=3, n=3, temperature=0.8
    )
    left_open = {**LEFT_OPEN, "temperature": 0.8}
    wanted = [alone(f"{CANARY} hi", 40, **left_open, seed=3, choice=c) for c in range(3)]
    expected = [each.text.decode() for each in wanted]
    assert [choice.text for choice in found.choices] == expected
    assert len(set(expected)) == 3
    assert {choice.finish_reason for choice in found.choices} == {"length"}
    assert found.usage is not None
    assert found.usage.model_extra is not None
    assert found.usage.completion_tokens == 120
    details = found.usage.completion_tokens_details
    assert details is not None
    guessed = found.usage.model_extra["airdraft"]
    assert details.accepted_prediction_tokens == guessed["accepted"]
    assert details.rejected_prediction_tokens == guessed["drafted"] - guessed["accepted"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl(mesh: Serving) -> None:
    body = json.dumps({"prompt": "hi", "max_tokens": 5, "temperature": 0})
    command = ["curl", "-sS", f"{mesh.url}/completions", "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, "-d", body], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["text"] == alone("hi", 5).text.decode()


# -- a process of its own --------------------------------------------------------------------------


@contextlib.contextmanager
def started(commands: Commands, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with commands.started("gateway", "--listen", "127.0.0.1:0", *arguments) as process:
        yield process, told(process, "OpenAI API at ")


def test_a_gateway_of_its_own_with_keys(commands: Commands, mesh: Serving) -> None:
    key = commands.printed("apikeys", "add", "laptop")
    with started(commands, "--coordinator", mesh.endpoint) as (process, url):
        wait_until(lambda: get(f"{url}/models").status_code == 401)
        root = url.removesuffix("/v1")
        headers = {"authorization": f"Bearer {key}"}
        wait_until(lambda: get(f"{root}/readyz", headers=headers).status_code == 200)
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
            found = client.completions.create(model=MODEL, prompt="hi", max_tokens=5, temperature=0)
            assert found.choices[0].text == alone("hi", 5).text.decode()
            commands.run("apikeys", "remove", "laptop")
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
        assert get(f"{root}/healthz").status_code == 200
        stopped(process)


def test_a_gateway_without_a_coordinator_says_so(commands: Commands) -> None:
    with started(commands, "--connect", "tcp://127.0.0.1:9") as (process, url):
        answer = post(f"{url}/completions", json={"prompt": "hi"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        stopped(process, signal.SIGINT, 130)


def test_a_second_signal_ends_it_at_once(commands: Commands, slow_mesh: Serving) -> None:
    with started(commands, "--connect", slow_mesh.endpoint) as (process, url):
        root = url.removesuffix("/v1")
        wait_until(lambda: get(f"{root}/readyz").status_code == 200)
        body = {"prompt": "hi", "max_tokens": 3000, "stream": True}
        with httpx.stream("POST", f"{url}/completions", json=body, timeout=LIMIT_S) as answer:
            lines = answer.iter_lines()
            next(lines)
            # Nothing more comes from the mesh meanwhile.
            os.kill(slow_mesh.pid, signal.SIGSTOP)
            try:
                process.terminate()
                wait_until(lambda: refuses(url))
                stopped(process, signal.SIGTERM, 128 + signal.SIGTERM)
            finally:
                os.kill(slow_mesh.pid, signal.SIGCONT)
            rest: list[str] = []
            with pytest.raises(httpx.HTTPError):
                rest.extend(lines)
            assert not any("error" in line or "[DONE]" in line for line in rest)


def refuses(url: str) -> bool:
    try:
        return post(f"{url}/completions", json={"prompt": "hi"}).status_code == 503
    except httpx.HTTPError:
        return True


def test_a_key_that_is_no_gateways_is_refused_in_one_line(
    commands: Commands, tmp_path: Path
) -> None:
    here, there = ("--keys", str(tmp_path / "here")), str(tmp_path / "there")
    commands.printed("keys", "init", *here)
    with commands.listening("coordinator", "--listen", "tcp://127.0.0.1:0", *here) as (_, endpoint):
        for role, is_let_in in (("client", False), ("gateway", True)):
            keys = ("--keys", f"{there}-{role}")
            invite = ("keys", "invite", "--role", role, "--endpoint", endpoint)
            commands.printed("join", commands.printed(*invite, *here), *keys, "--name", "box")
            with started(commands, *keys) as (process, url):
                if is_let_in:
                    models = f"{url}/models"
                    wait_until(lambda url=models: get(url).status_code == 200)
                    stopped(process)
                else:
                    _, errors = process.communicate(timeout=LIMIT_S)
                    assert process.returncode == 77
                    (line,) = errors.splitlines()
                    assert "lacks the role 'gateway' (it has client)" in line


def test_the_coordinator_of_up_has_limits(commands: Commands) -> None:
    up = (*SLOW_UP, "--max-gateway-requests", "1", "--http", "127.0.0.1:0")
    with commands.listening(*up) as (process, _):
        url = told(process, "OpenAI API at ")
        assert post(f"{url}/completions", json={"prompt": "a"}).status_code == 200
        # Each prompt is a request to the mesh.
        refused = post(f"{url}/completions", json={"prompt": ["a", "b"]})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        stopped(process)
