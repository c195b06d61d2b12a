from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes.api.toy_mesh import ToyMesh, toy_mesh


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ToyMesh]:
    monkeypatch.setenv("AIRDRAFT_KEYS", str(tmp_path / "keys"))
    with toy_mesh() as made:
        yield made
