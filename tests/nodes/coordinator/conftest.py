from __future__ import annotations

import pytest

from tests.nodes.coordinator.script import Mesh, make_mesh


@pytest.fixture
def mesh() -> Mesh:
    """One target and one client."""
    return make_mesh()
