"""Compiles the kernels: `python -m airdraft.nodes.engine.kernels.build`.

It needs a C++ compiler and the headers that any build of llama-cpp-python installs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from airdraft.nodes.engine.kernels.library import PATH

_SOURCES = Path(__file__).parent
# No fast-math: each operation rounds as it is written. -O3 takes one and a half times as long to
# compile, and with it GCC 12 spills so many registers in Q5_0 that AVX2 is half as fast.
_FLAGS = (
    *("-std=c++17", "-O2", "-ftree-vectorize", "-fPIC", "-fvisibility=hidden"),
    *("-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno"),
)
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
# The instructions that the compiler may use in each file. The file to run is chosen at run time.
_OF_X86 = {
    "products_avx2.cpp": _AVX2,
    "products_avxvnni.cpp": (*_AVX2, "-mavxvnni"),
    "products_avx512.cpp": (
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"),
        *("-mfma", "-mf16c"),
    ),
}
_EVERYWHERE = ("products_any.cpp", "weights.cpp", "library.cpp", "processor.cpp")


class BuildError(Exception):
    """The build failed. The message names what is missing, or has the compiler's error."""


def build(
    into: Path = PATH,
    *,
    compiler: str = "",
    machine: str = "",
    headers: Path | None = None,
    version: str = "",
) -> None:
    """Compile all files and link them. Raises BuildError.

    compiler: A command; CXX or c++ by default. machine: The architecture to compile for; by default
    that of this machine. headers, version: The folder of ggml.h and the version of llama-cpp-python
    that it belongs to; by default those that are installed.
    """
    command = shlex.split(compiler or os.environ.get("CXX", "c++"))
    headers = headers or _headers()
    if headers is None or not (headers / "ggml.h").is_file():
        raise BuildError("ggml.h was not found: install llama-cpp-python first")
    version = version or importlib.metadata.version("llama-cpp-python")
    is_x86 = (machine or platform.machine()) in ("x86_64", "AMD64")
    files = {**dict.fromkeys(_EVERYWHERE, ()), **(_OF_X86 if is_x86 else {})}
    common = (*_FLAGS, f"-I{headers}", f'-DAIRDRAFT_LLAMA="{version}"')
    with tempfile.TemporaryDirectory() as folder:

        def compiled(name: str) -> str:
            out = f"{folder}/{name}.o"
            _run([*command, *common, *files[name], "-c", str(_SOURCES / name), "-o", out])
            return out

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            # The file that takes longest comes first.
            objects = list(pool.map(compiled, reversed(files)))
        linked = f"{folder}/{into.name}"
        _run([*command, "-shared", "-o", linked, *objects, "-ldl", "-pthread"])
        into.parent.mkdir(parents=True, exist_ok=True)
        # The file is replaced and not overwritten, because a process may have loaded it.
        temporary = into.with_suffix(".new")
        temporary.write_bytes(Path(linked).read_bytes())
        temporary.replace(into)


def _headers() -> Path | None:
    """Returns the folder of llama-cpp-python's headers; None if it is not installed."""
    package = importlib.util.find_spec("llama_cpp")
    if package is None or package.origin is None:
        return None
    # Our wheel of it has them in the package (packaging/wheels.py), others beside it.
    inside = Path(package.origin).parent / "include"
    return inside if inside.is_dir() else Path(package.origin).parents[1] / "include"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BuildError(f"the compiler {command[0]!r} was not found: install g++") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it gave no reason"]
        reason = next((line for line in lines if "error" in line), lines[0])
        raise BuildError(f"{command[0]} failed: {reason}")


if __name__ == "__main__":
    try:
        build()
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
