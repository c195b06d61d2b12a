"""The default pair behind a gateway: a mesh for each file of tests that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.cli.default_pair import CANARY, UP
from tests.cli.serving import Serving, serving


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
