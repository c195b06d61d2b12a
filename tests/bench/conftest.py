from multiprocessing import forkserver

import pytest

import bench.harness.processes  # noqa: F401 - says what the fork server imports


@pytest.fixture(scope="session", autouse=True)
def _fork_server() -> None:
    """Start it before any test looks for what it leaves behind."""
    forkserver.ensure_running()
