"""What packaging/llama.cpp adds up, bit for bit as ggml's own loops do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CHANGES = Path(__file__).parents[1] / "packaging" / "llama.cpp"
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
AVX2 = {"avx2", "fma", "f16c"}
AVX512 = {*AVX2, "avx512f", "avx512vl", "avx512dq", "avx512bw"}


def cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


@pytest.mark.parametrize(
    ("wanted", "kernels"),
    [
        ({"sse2"}, []),
        (AVX2, ["attention", "products", "repacked"]),
        ({*AVX2, "avx_vnni"}, ["attention", "products", "repacked"]),
        (AVX512, ["attention", "products", "repacked"]),
        ({*AVX512, "avx512_vnni"}, ["attention", "products", "repacked"]),
    ],
    ids=["no AVX2", "AVX2", "AVX-VNNI", "AVX-512", "AVX512-VNNI"],
)
def test_no_bit_differs(tmp_path, wanted, kernels):
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    if missing := wanted - cpu_flags():
        pytest.skip(f"this processor has no {' '.join(sorted(missing))}")
    program = tmp_path / "kernels"
    flags = [f"-m{flag.replace('_', '')}" for flag in sorted(wanted)]
    source = Path(__file__).with_name("llama_kernels.cpp")
    command = [COMPILER, "-O3", "-std=c++17", "-Wall", "-Wextra", *flags]
    made = subprocess.run(
        [*command, f"-I{CHANGES}", str(source), "-o", str(program)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert made.returncode == 0, made.stderr
    assert "warning" not in made.stderr, made.stderr

    told = subprocess.run([program], capture_output=True, text=True, timeout=120, check=True).stdout

    rows = [line.split() for line in told.splitlines()]
    assert [name for name, _, _ in rows] == kernels
    assert all(int(compared) > 10_000 for _, compared, _ in rows)
    assert all(int(differing) == 0 for _, _, differing in rows)
