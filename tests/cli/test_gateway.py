"""The gateway as processes, asked by what people ask with."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial

import httpx
import openai
import pytest

from tests.cli.commands import LIMIT_S, Commands, stopped, told, wait_until
from tests.cli.serving import Serving, serving
from tests.nodes.api.toy_mesh import alone

# A long text takes many seconds: it is not there yet when it is to be interrupted.
UP = ("serve", "--model", "toy:1@20ms", "--draft", "toy:0.8", "--listen", "tcp://127.0.0.1:*")
get, post = (partial(f, timeout=LIMIT_S) for f in (httpx.get, httpx.post))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The mesh that tests of this file ask; a gateway may have one request in it."""
    limits = {"AIRDRAFT_LIMITS__MAX_GATEWAY_REQUESTS": "1"}
    with serving(tmp_path_factory.mktemp("mesh"), UP, **limits) as made:
        yield made


@contextlib.contextmanager
def started(commands: Commands, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with commands.started("gateway", "--listen", "127.0.0.1:0", *arguments) as process:
        yield process, told(process, "OpenAI API at ")


def test_a_gateway_of_its_own_with_keys(commands: Commands, mesh: Serving) -> None:
    limits = ("--max-concurrent", "4", "--scope", "infer")
    key = commands.printed("apikeys", "add", "laptop", *limits)
    assert commands.printed("apikeys", "list") == "laptop  infer  concurrent <= 4"
    with started(commands, "--connect", mesh.endpoint) as (process, url):
        wait_until(lambda: get(f"{url}/models").status_code == 401)
        root = url.removesuffix("/v1")
        headers = {"authorization": f"Bearer {key}"}
        wait_until(lambda: get(f"{root}/readyz", headers=headers).status_code == 200)
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
            found = client.completions.create(
                model="toy-1", prompt="hi", max_tokens=5, temperature=0
            )
            assert found.choices[0].text == alone("hi", 5).text.decode()
            commands.printed("apikeys", "remove", "laptop")
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
        stopped(process)


def test_a_gateway_without_a_coordinator_says_so(commands: Commands) -> None:
    with started(commands, "--connect", "tcp://127.0.0.1:9") as (process, url):
        answer = post(f"{url}/completions", json={"prompt": "hi"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        stopped(process, signal.SIGINT, 130)


def test_a_second_signal_ends_it_at_once(commands: Commands, mesh: Serving) -> None:
    with started(commands, "--connect", mesh.endpoint) as (process, url):
        root = url.removesuffix("/v1")
        wait_until(lambda: get(f"{root}/readyz").status_code == 200)
        body = {"prompt": "hi", "max_tokens": 3000, "stream": True}
        with httpx.stream("POST", f"{url}/completions", json=body, timeout=LIMIT_S) as answer:
            lines = answer.iter_lines()
            next(lines)
            # Nothing more comes from the mesh meanwhile.
            os.kill(mesh.pid, signal.SIGSTOP)
            try:
                process.terminate()
                wait_until(lambda: refuses(url))
                stopped(process, signal.SIGTERM, 128 + signal.SIGTERM)
            finally:
                os.kill(mesh.pid, signal.SIGCONT)
            rest: list[str] = []
            with pytest.raises(httpx.HTTPError):
                rest.extend(lines)
            assert not any("error" in line or "[DONE]" in line for line in rest)


def refuses(url: str) -> bool:
    try:
        return post(f"{url}/completions", json={"prompt": "hi"}).status_code == 503
    except httpx.HTTPError:
        return True


def test_the_coordinator_has_the_limits_of_the_environment(mesh: Serving) -> None:
    assert post(f"{mesh.url}/completions", json={"prompt": "a"}).status_code == 200
    # Each prompt is a request to the mesh.
    refused = post(f"{mesh.url}/completions", json={"prompt": ["a", "b"]})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
