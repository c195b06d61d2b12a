"""Which kernels a process gets: what its environment asks for."""

from __future__ import annotations

import pytest

from nodes.engine.kernels.library import VARIABLE
from tests.engine.kernels.ours import runnable
from tests.engine.printed import printed

_ASK = "from nodes.engine.llama_abi import kernels; print([kernels().name, kernels().missing])"


def given(wanted: str) -> str:
    """Returns what a new process gets: within one process the first call decides."""
    return printed(_ASK, **{VARIABLE: wanted})


@pytest.mark.slow
def test_the_environment_chooses_among_them() -> None:
    assert given("") == str([runnable()[0], ""])
    assert given("any") == "['any', '']"
    assert given("none") == "['', 'switched off']"
    assert "no kernels 'avx1024'" in given("avx1024")
