"""What tests of services share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes.service.fake_manager import FakeManager


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeManager]:
    with FakeManager(tmp_path / "notify") as manager:
        yield manager
