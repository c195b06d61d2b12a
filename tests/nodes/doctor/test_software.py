"""Toolchain and engine."""

from __future__ import annotations

import pytest

from nodes.doctor import software as engine
from nodes.doctor import software as toolchain
from nodes.doctor.finding import Level, fail, has_failed, note, warn
from nodes.engine.kernels.library import Kernels
from nodes.engine.protocol import EngineError

BUILD = "0.3.36 CPU : SSE3 = 1 | AVX2 = 1 | FMA = 1 | F16C = 0 | OPENMP = 1 |"


def nothing(_name: str) -> None:
    return None


def test_only_a_fail_fails() -> None:
    assert not has_failed([note("a"), warn("b", "c")])
    assert has_failed([note("a"), fail("b", "c")])


@pytest.mark.parametrize(
    ("version", "level"), [((3, 10, 9), Level.FAIL), ((3, 11, 0), Level.OK), ((3, 14, 1), Level.OK)]
)
def test_python(version: tuple[int, int, int], level: Level) -> None:
    assert toolchain.check_python(version).level is level


def test_a_compiler_is_needed_until_llama_is_built() -> None:
    found = toolchain.check_compiler(lambda n: "/bin/x" if n == "g++" else None, is_built=False)
    assert (found.level, found.what) == (Level.OK, "C++ compiler g++")
    assert toolchain.check_compiler(nothing, is_built=True).level is Level.NOTE
    missing = toolchain.check_compiler(nothing, is_built=False)
    assert (missing.level, missing.mend) == (Level.FAIL, "sudo apt-get install g++")


def test_cmake_is_never_required() -> None:
    assert toolchain.check_cmake(lambda _: "x", is_built=False).level is Level.OK
    assert toolchain.check_cmake(nothing, is_built=False).mend == "sudo apt-get install cmake"
    assert toolchain.check_cmake(nothing, is_built=True).level is Level.NOTE


def test_without_our_kernels_all_works_and_it_is_told() -> None:
    assert engine.check_kernels(Kernels("avx2")).level is Level.OK
    finding = engine.check_kernels(Kernels("", "not built"))
    assert (finding.level, finding.mend) == (Level.NOTE, "python -m nodes.engine.kernels.build")
    assert finding.what.endswith(": not built")


def test_a_library_that_cannot_be_loaded() -> None:
    def broken() -> str:
        raise EngineError("llama-cpp-python cannot be loaded: no libgomp")

    finding, name = engine.check_library(broken)
    assert (finding.level, name) == (Level.FAIL, "")
    assert "no libgomp" in finding.what
    finding, name = engine.check_library(lambda: BUILD)
    assert (finding.level, name) == (Level.OK, BUILD)
    assert finding.what.endswith(" 0.3.36")


def test_what_the_cpu_has_and_the_build_does_not_use() -> None:
    flags = frozenset({"avx2", "fma", "f16c"})
    finding = engine.check_isa(BUILD, flags, "x86_64")
    assert (finding.level, finding.what) == (
        Level.WARN,
        "libllama was built without F16C, which this CPU supports",
    )
    assert engine.check_isa(BUILD, flags - {"f16c"}, "x86_64").what.endswith("AVX2, FMA, SSE3")
    arm = engine.check_isa("1 CPU : NEON = 1 |", frozenset({"asimd", "asimddp"}), "aarch64")
    assert "DOTPROD" in arm.what
    assert engine.check_isa("1 CPU : |", frozenset(), "riscv64").level is Level.OK


def test_spinning_threads_are_warned_of() -> None:
    assert engine.check_omp({"OMP_WAIT_POLICY": "ACTIVE"}).level is Level.WARN
    assert engine.check_omp({"OMP_NUM_THREADS": "2"}).level is Level.NOTE
    assert engine.check_omp({}).level is Level.OK


def test_more_threads_than_cores() -> None:
    finding = engine.check_threads(8, 4, "model x")
    assert finding.level is Level.WARN
    assert finding.mend.endswith("to at most 4")
    assert engine.check_threads(4, 4, "model x").level is Level.OK
