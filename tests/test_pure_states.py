"""What calls itself pure, and every state of a role, neither waits nor reads a clock nor draws."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Whole packages, but for the shells in them.
PACKAGES = (
    "nodes/coordinator",
    "nodes/scheduler",
    "nodes/target",
    "nodes/draft",
    "nodes/telemetry",
    "policies",
)
SHELLS = {
    "nodes/coordinator/service.py",
    # Files of authorized keys are read at each message.
    "nodes/coordinator/members/authentication.py",
    "nodes/coordinator/members/rotation.py",
    "nodes/target/node.py",
    "nodes/target/embedding.py",
    "nodes/target/text_reader.py",
    "nodes/draft/node.py",
}
# Says so of itself: "... Pure." or "...; pure."
SAYS_PURE = re.compile(r"[.;:] [Pp]ure\b")
FORBIDDEN = {
    *("asyncio", "concurrent", "multiprocessing", "queue", "select", "signal", "socket"),
    *("subprocess", "threading", "zmq"),
    *("datetime", "random", "secrets", "time", "uuid"),
}
EXCEPTIONS = {
    # The seed of a request that names none, which its client is told.
    "nodes/coordinator/requests/request.py": {"secrets"},
    # A name that no client may know.
    "nodes/coordinator/status/document.py": {"secrets"},
    # Defaults of arguments, which tests replace.
    "nodes/telemetry/metrics/gateway.py": {"time"},
    "nodes/client/retry.py": {"random"},
}


def _pure_modules() -> Iterator[tuple[str, ast.Module]]:
    for package in ("mesh", "nodes", "policies"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            tree = ast.parse(path.read_text())
            says_so = SAYS_PURE.search(ast.get_docstring(tree) or "")
            if says_so or (name.startswith(PACKAGES) and name not in SHELLS):
                yield name, tree


def imports_of(tree: ast.AST) -> set[str]:
    """Top-level names of what a module imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found |= {alias.name.partition(".")[0] for alias in names}
            case ast.ImportFrom(module=str(module), level=0):
                found.add(module.partition(".")[0])
    return found


def test_pure_modules_import_nothing_that_waits_or_tells_the_time_or_draws() -> None:
    names = []
    for name, tree in _pure_modules():
        names.append(name)
        assert imports_of(tree) & FORBIDDEN == EXCEPTIONS.get(name, set()), name
    # All of them are looked at, the states of roles and those in the mesh.
    assert {"nodes/coordinator/state.py", "nodes/scheduler/state.py"} <= set(names)
    assert {"nodes/target/state.py", "nodes/draft/state.py", "mesh/membership.py"} <= set(names)
    assert set(names) >= EXCEPTIONS.keys()


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_the_exceptions_are_there(shell: str) -> None:
    assert (ROOT / shell).is_file()


def test_imports_are_found_wherever_they_are() -> None:
    source = "import os.path, time\ndef f():\n    from random import choice\nfrom . import zmq\n"
    assert imports_of(ast.parse(source)) == {"os", "time", "random"}
