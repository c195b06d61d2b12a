"""No lease, deadline or back-off knows the wall clock, which may be set at any time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Where it is what is meant, and why.
ALLOWED = {
    "nodes/catalog/compact.py": "which copies were used last, of which the others go",
    "mesh/authorized.py": "an invitation expires at an hour that people were told",
    "nodes/cli/keys.py": "the same, as it is made and shown",
    "nodes/gateway/shape.py": "answers of the API say when they were made",
    "nodes/client/client.py": "a request says on which day it was made, for chat templates",
    "nodes/engine/chat/template.py": "writes that day in the form that a template wants",
}
_OF_TIME = frozenset(
    {
        *("time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime", "mktime"),
        *("clock_gettime", "clock_gettime_ns", "CLOCK_REALTIME"),
    }
)
# Of files: whole seconds of it are compared with nothing; the ones in ns tell contents apart.
_OF_FILES = frozenset({"st_mtime", "st_atime", "st_ctime", "getmtime", "getatime", "getctime"})


def uses(source: str) -> Iterator[str]:
    """Whatever reads the wall clock, by line."""
    modules: set[str] = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name == "time":
                    modules.add(name.asname or "time")
                if name.name == "datetime":
                    yield f"line {node.lineno}: datetime"
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            if node.module == "datetime":
                yield f"line {node.lineno}: datetime"
            if node.module == "time":
                for name in node.names:
                    if name.name in _OF_TIME:
                        yield f"line {node.lineno}: time.{name.name}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        if isinstance(node.value, ast.Name) and node.value.id in modules and node.attr in _OF_TIME:
            yield f"line {node.lineno}: time.{node.attr}"
        if node.attr in _OF_FILES:
            yield f"line {node.lineno}: {node.attr}"


@pytest.mark.parametrize("package", ["mesh", "nodes", "policies"])
def test_the_wall_clock_is_read_where_it_is_meant_only(package: str) -> None:
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        if read := list(uses(path.read_text(encoding="utf-8"))):
            found[str(path.relative_to(ROOT))] = read
    allowed = {name for name in ALLOWED if name.startswith(package)}
    assert found.keys() - allowed == set(), found
    assert allowed - found.keys() == set()


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndeadline = time.time() + 5",
        "import time as clock\nclock.time_ns()",
        "from time import time as now",
        "import datetime",
        "from datetime import datetime",
        "import time\ndef f(clock=time.time): pass",
        "import time\ntime.clock_gettime(time.CLOCK_REALTIME)",
        "age = path.stat().st_mtime",
    ],
)
def test_reading_it_is_found(source: str) -> None:
    assert list(uses(source))


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.monotonic()",
        "from time import monotonic",
        "loop.time()",
        "import time\ntime.sleep(1)",
        "stamp = info.st_mtime_ns",
        "from .time import time",
    ],
)
def test_other_clocks_are_not(source: str) -> None:
    assert not list(uses(source))
