"""Toolchain and engine."""

import pytest

from airdraft.nodes.doctor import checks
from airdraft.nodes.doctor.finding import Finding, Level
from airdraft.nodes.engine.kernels.library import Kernels

BUILD = "0.3.36 CPU : SSE3 = 1 | AVX2 = 1 | FMA = 1 | F16C = 0 | OPENMP = 1 |"
FLAGS = frozenset({"avx2", "fma", "f16c"})


@pytest.mark.parametrize(
    ("found", "level", "what", "mend"),
    [
        (checks.check_kernels(Kernels("avx2")), Level.OK, "", ""),
        (
            checks.check_kernels(Kernels("", "not built")),
            Level.NOTE,
            ": not built",
            "python -m airdraft.nodes.engine.kernels.build",
        ),
        (
            checks.check_isa(BUILD, FLAGS, "x86_64"),
            Level.WARN,
            "libllama was built without F16C, which this CPU supports",
            "",
        ),
        (checks.check_isa(BUILD, FLAGS - {"f16c"}, "x86_64"), Level.OK, "AVX2, FMA, SSE3", ""),
        (
            checks.check_isa("1 CPU : NEON = 1 |", frozenset({"asimd", "asimddp"}), "aarch64"),
            Level.WARN,
            "DOTPROD",
            "",
        ),
        (checks.check_isa("1 CPU : |", frozenset(), "riscv64"), Level.OK, "", ""),
    ],
    ids=lambda value: value.what[:40] if isinstance(value, Finding) else "",
)
def test_what_is_installed_is_judged(found: Finding, level: Level, what: str, mend: str) -> None:
    assert found.level is level
    assert what in found.what
    assert mend in found.mend
