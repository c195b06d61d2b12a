"""Which kernels a process gets: what its environment asks for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nodes.engine.kernels.library import VARIABLE
from tests.engine.kernels.ours import runnable

_ASK = "from nodes.engine.llama_abi import kernels; print([kernels().name, kernels().missing])"


def given(wanted: str) -> str:
    """Returns what a new process gets: within one process the first call decides."""
    environ = {**os.environ, VARIABLE: wanted}
    command = [sys.executable, "-c", _ASK]
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.slow
def test_the_environment_chooses_among_them() -> None:
    assert given("") == str([runnable()[0], ""])
    assert given("any") == "['any', '']"
    assert given("none") == "['', 'switched off']"
    assert "no kernels 'avx1024'" in given("avx1024")
