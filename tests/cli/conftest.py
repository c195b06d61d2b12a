from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Commands
from tests.nodes.catalog.fakes import hub

__all__ = ["commands", "hub"]


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    """Commands of which nothing may be left at the end, neither processes nor files."""
    made = Commands(tmp_path)
    try:
        yield made
        assert made.alive() == {}
        assert {path.name for path in made.tmp.iterdir()} <= {"keys"}
    finally:
        made.kill_all()
