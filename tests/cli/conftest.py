"""Commands as processes, and the default pair behind a gateway: a mesh a file that asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.cli.commands import Commands
from tests.cli.default_pair import CANARY, UP
from tests.cli.serving import Serving, serving


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    """Commands of which nothing may be left at the end, neither processes nor open sockets."""
    made = Commands(tmp_path)
    try:
        yield made
        assert made.alive() == {}
        assert [path for path in made.tmp.rglob("*") if path.is_socket()] == []
    finally:
        made.kill_all()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("pair"), UP) as made:
        yield made
    # After everything that the file has asked.
    assert CANARY not in made.log.read_text()


@pytest.fixture(scope="module")
def url(started: Serving) -> str:
    return started.url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made
