"""What the source must not use: the wall clock, what waits or draws in pure modules, and sockets
that unpickle."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("mesh", "nodes", "policies")


def uses(tree: ast.Module) -> set[str]:
    """What a module imports, wherever in it ("import time"); what it takes of modules
    ("time.time"); attributes of whatever object (".st_mtime"); and names."""
    found, modules = set(), {}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                modules |= {each.asname or each.name: each.name for each in names}
                found |= {f"import {each.name.partition('.')[0]}" for each in names}
            case ast.ImportFrom(module=str(module), level=0, names=names):
                found |= {f"{module}.{each.name}" for each in names}
                found.add(f"import {module.partition('.')[0]}")
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=value, attr=name):
                found.add(f".{name}")
                if isinstance(value, ast.Name) and value.id in modules:
                    found.add(f"{modules[value.id]}.{name}")
            case ast.Name(id=name):
                found.add(name)
    return found


class Module(NamedTuple):
    docstring: str
    uses: set[str]


@functools.cache
def modules_of(package: str) -> dict[str, Module]:
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        tree = ast.parse(path.read_text())
        module = Module(ast.get_docstring(tree) or "", uses(tree))
        found[path.relative_to(ROOT).as_posix()] = module
    return found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os.path, time", "import os, import time"),
        ("def f():\n    from random import choice", "import random"),
        ("import time as clock\ndef f(now=clock.time): pass", "time.time"),
        ("from time import time as now", "time.time"),
        ("from datetime import datetime", "import datetime"),
        ("age = path.stat().st_mtime", ".st_mtime"),
        ("socket.recv_pyobj()", ".recv_pyobj"),
        # Other things of the same name.
        ("from . import zmq\nfrom .time import time\nloop.time()", ".time, loop"),
    ],
)
def test_uses_are_found(source: str, found: str) -> None:
    expected = set(found.split(", "))
    assert expected <= uses(ast.parse(source))
    assert not (WALL_CLOCK | {"import zmq"}) & (uses(ast.parse(source)) - expected)


# -- the wall clock may be set at any time: no lease, deadline or back-off knows it ---------------

WALL_CLOCK = {
    "import datetime",
    *(f"time.{name}" for name in ("time", "time_ns", "localtime", "gmtime", "ctime", "asctime")),
    *(f"time.{name}" for name in ("strftime", "mktime", "clock_gettime", "clock_gettime_ns")),
    # Of files: whole seconds of it are compared with nothing; the ones in ns tell contents apart.
    *(".st_mtime", ".st_atime", ".st_ctime", ".getmtime", ".getatime", ".getctime"),
}
# Where it is what is meant, and why.
CLOCKS = {
    "nodes/catalog/compact.py": "which copies were used last, of which the others go",
    "mesh/authorized.py": "an invitation expires at an hour that people were told",
    "nodes/cli/keys.py": "the same, as it is made and shown",
    "nodes/gateway/shape.py": "answers of the API say when they were made",
    "nodes/client/client.py": "a request says on which day it was made, for chat templates",
    "nodes/engine/chat/template.py": "writes that day in the form that a template wants",
}


def test_the_wall_clock_is_read_where_it_is_meant_only() -> None:
    modules = (item for package in SHIPPED for item in modules_of(package).items())
    assert {name for name, module in modules if module.uses & WALL_CLOCK} == CLOCKS.keys()


# -- what calls itself pure, and every state of a role, neither waits nor reads a clock nor draws --

# Whole packages, but for the shells in them.
PACKAGES = (
    *("nodes/coordinator", "nodes/scheduler", "nodes/target", "nodes/draft", "nodes/telemetry"),
    "policies",
)
SHELLS = {
    "nodes/coordinator/service.py",
    # Files of authorized keys are read at each message.
    "nodes/coordinator/members/authentication.py",
    "nodes/target/node.py",
    "nodes/target/embedding.py",
    "nodes/target/text_reader.py",
    "nodes/draft/node.py",
}
# Says so of itself: "... Pure." or "...; pure."
SAYS_PURE = re.compile(r"[.;:] [Pp]ure\b")
IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "queue", "select", "signal", "socket"),
    *("subprocess", "threading", "zmq"),
    *("datetime", "random", "secrets", "time", "uuid"),
}
EXCEPTIONS = {
    # The seed of a request that names none, which its client is told.
    "nodes/coordinator/requests/request.py": {"import secrets"},
    # A name that no client may know.
    "nodes/coordinator/status/document.py": {"import secrets"},
    # Defaults of arguments, which tests replace.
    "nodes/telemetry/metrics/gateway.py": {"import time"},
}


def test_pure_modules_import_nothing_that_waits_or_tells_the_time_or_draws() -> None:
    modules = {name: module for each in SHIPPED for name, module in modules_of(each).items()}
    pure = {
        name: module
        for name, module in modules.items()
        if SAYS_PURE.search(module.docstring) or (name.startswith(PACKAGES) and name not in SHELLS)
    }
    forbidden = {f"import {name}" for name in IMPURE}
    wrong = {name: module.uses & forbidden for name, module in pure.items()}
    assert {name: found for name, found in wrong.items() if found} == EXCEPTIONS
    # All of them are looked at, the states of roles and those in the mesh.
    states = {f"nodes/{role}/state.py" for role in ("coordinator", "target", "draft")}
    assert states | {"mesh/membership.py", "nodes/scheduler/scheduler.py"} <= pure.keys()
    assert modules.keys() >= SHELLS


# -- nothing that peers and files say is ever run; ruff sees modules and functions that would -----


@pytest.mark.parametrize("package", [*SHIPPED, "bench"])
def test_no_socket_unpickles_what_it_is_sent(package: str) -> None:
    """Methods, which no rule of imports sees whatever the socket is called."""
    modules, unsafe = modules_of(package), {".recv_pyobj", ".send_pyobj"}
    assert modules
    assert [name for name, module in modules.items() if module.uses & unsafe] == []
