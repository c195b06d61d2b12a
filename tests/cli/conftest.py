"""The default pair behind a gateway: a mesh for each file of tests that asks for it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from tests.cli.commands import LIMIT_S, Commands
from tests.cli.default_pair import CANARY, UP


@dataclass(frozen=True, slots=True)
class Started:
    """A mesh with its gateway. endpoint: where nodes join it. url: of the API."""

    commands: Commands
    endpoint: str
    url: str


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("pair")
    commands = Commands(folder)
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            commands._command(UP),
            cwd=Path(__file__).parents[2],
            env=commands._environment({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        assert lines[1].startswith("OpenAI API at http://127.0.0.1:"), log.read_text()
        endpoint = lines[0].removeprefix("listening on ").strip()
        yield Started(commands, endpoint, lines[1].removeprefix("OpenAI API at ").strip())
        process.terminate()
        assert process.wait(LIMIT_S) == 0
        assert commands.alive() == {}
        # After everything that this file has asked.
        assert CANARY not in log.read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        commands.kill_all()


@pytest.fixture(scope="module")
def url(started: Started) -> str:
    return started.url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made
