"""Checks the tools that airdraft is built and run with: Python, a compiler, CMake."""

from __future__ import annotations

from collections.abc import Callable

from nodes.doctor.finding import Finding, fail, note, ok

_LEAST_PYTHON = (3, 11)
_COMPILERS = ("c++", "g++", "clang++")


def check_python(version: tuple[int, int, int]) -> Finding:
    text = "Python " + ".".join(map(str, version))
    if version[:2] < _LEAST_PYTHON:
        return fail(text, "install Python 3.11 or newer, and airdraft with it")
    return ok(text)


def check_compiler(which: Callable[[str], str | None], *, is_built: bool) -> Finding:
    """Look for a compiler, which only the build of llama.cpp needs. is_built: it is installed."""
    found = next((name for name in _COMPILERS if which(name)), None)
    if found is not None:
        return ok(f"C++ compiler {found}")
    mend = "sudo apt-get install g++"
    if is_built:
        return note("no C++ compiler; it is needed only to rebuild llama.cpp", mend)
    return fail("no C++ compiler, and llama-cpp-python is not installed", mend)


def check_cmake(which: Callable[[str], str | None], *, is_built: bool) -> Finding:
    if which("cmake"):
        return ok("CMake")
    if is_built:
        return note("no CMake; it is needed only to rebuild llama.cpp, whose build can fetch it")
    return note("no CMake: the build of llama.cpp fetches one", "sudo apt-get install cmake")
