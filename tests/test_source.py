"""What the source must not use, and where it must not wait without a limit."""

import ast
import functools
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.allowed_waits import ALLOWED

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
                found |= {module, f"import {module.partition('.')[0]}"}
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
        ("age = path.stat().st_mtime", ".st_mtime"),
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
    "nodes/worker/prefix_files.py": "texts on the disk that nobody uses go after a while",
    "nodes/worker/inside_record.py": "a draft that did not pay is tried again a day later",
    "mesh/authorized.py": "an invitation expires at an hour that people were told",
    "nodes/cli/keys.py": "the same, as it is made and shown",
    "nodes/service/running.py": "`airdraft ps` shows when a process began",
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
    # Defaults of arguments, which tests replace.
    "nodes/telemetry/metrics/gateway.py": {"import time"}
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


# -- no module imports itself by way of others, for types neither ----------------------------------


def imports() -> dict[str, set[str]]:
    """Modules by name, each with the names of those that it imports, wherever in it."""
    found = {
        f"airdraft/{path}".removesuffix(".py").removesuffix("/__init__").replace("/", "."): (
            module.uses
        )
        for package in SHIPPED
        for path, module in modules_of(package).items()
    }
    return {
        name: {use if use in found else use.rpartition(".")[0] for use in uses} & found.keys()
        for name, uses in found.items()
    }


def test_no_imports_are_circular() -> None:
    graph = imports()
    assert "airdraft.nodes.scheduler.state" in graph["airdraft.nodes.scheduler.scheduler"]
    # Raises CycleError, which names the modules of a circle.
    TopologicalSorter(graph).prepare()


def test_nothing_is_imported_beside_the_one_name_airdraft() -> None:
    """Under another name Python would load a module a second time, with classes of its own."""
    modules = (item for each in (*SHIPPED, "bench", "tests") for item in modules_of(each).items())
    short = {f"import {package}" for package in SHIPPED}
    assert [name for name, module in modules if module.uses & short] == []


# -- nothing that peers and files say is ever run; ruff sees modules and functions that would -----


def test_no_socket_unpickles_what_it_is_sent() -> None:
    """Methods, which no rule of imports sees whatever the socket is called."""
    unsafe = {".recv_pyobj", ".send_pyobj"}
    modules = (item for package in (*SHIPPED, "bench") for item in modules_of(package).items())
    assert [name for name, module in modules if module.uses & unsafe] == []


# -- every wait has a limit, or a reason why it may last ------------------------------------------

# Of mesh and nodes: each `await`, `async for` and `async with` that waits for somebody else. What
# one of our own coroutines waits for is looked at there.
# Each of its requests has the deadline of who asks; heartbeats end the connection under all.
LEFT_OUT = {"nodes/client/client.py"}
# Whatever object they belong to, these wait for somebody: our own of that name, too, pass it on.
WAITS = {
    *("acquire", "drain", "get", "join", "read", "readexactly", "readline", "readuntil"),
    *("receive", "recv", "send", "take", "wait", "wait_closed", "writable"),
}
LIMITS = {"asyncio.timeout", "asyncio.timeout_at"}


def own_coroutines(trees: dict[str, ast.Module]) -> set[str]:
    """Names of all async functions, of which none says that it waits."""
    nodes = (node for tree in trees.values() for node in ast.walk(tree))
    return {node.name for node in nodes if isinstance(node, ast.AsyncFunctionDef)} - WAITS


class _Waits(ast.NodeVisitor):
    """Finds the waits of a module that have no limit where they are."""

    def __init__(self, own: set[str]) -> None:
        self._own = own
        self._names: list[str] = []
        self._num_limits = 0
        self.found: list[str] = []

    def _visit_named(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        # A limit is of the body that it is around, not of functions that are made there.
        num_limits, self._num_limits = self._num_limits, 0
        self._names.append(node.name)
        self.generic_visit(node)
        self._names.pop()
        self._num_limits = num_limits

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _visit_named

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        calls = [item.context_expr for item in node.items]
        is_limit = any(_called(call) in LIMITS for call in calls)
        for call in calls:
            # Of a group each task is looked at; a context of ours is a coroutine of ours.
            if _called(call) not in LIMITS | {"asyncio.TaskGroup"} and not self._is_own(call):
                self._note("async with", call)
            self.visit(call)
        self._num_limits += is_limit
        for statement in node.body:
            self.visit(statement)
        self._num_limits -= is_limit

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        if not self._is_own(node.iter):
            self._note("async for", node.iter)
        self.generic_visit(node)

    def visit_Await(self, node: ast.Await) -> None:
        if not (self._is_own(node.value) or _ends_by_itself(node.value)):
            self._note("await", node.value)
        self.generic_visit(node)

    def _is_own(self, value: ast.expr) -> bool:
        return isinstance(value, ast.Call) and _called(value).rpartition(".")[2] in self._own

    def _note(self, how: str, value: ast.expr) -> None:
        if not self._num_limits:
            what = _called(value) or ast.unparse(value)
            self.found.append(f"{'.'.join(self._names)} {how} {what}")


def _called(value: ast.expr) -> str:
    """The dotted name of what a call calls, of what can be named."""
    return ast.unparse(value.func) if isinstance(value, ast.Call) else ""


def _ends_by_itself(value: ast.expr) -> bool:
    match _called(value):
        case "asyncio.sleep" | "asyncio.wait_for":
            return True
        case "asyncio.wait":
            assert isinstance(value, ast.Call)
            return any(keyword.arg == "timeout" for keyword in value.keywords)
    return False


def waits_of(tree: ast.Module, own: set[str]) -> list[str]:
    waits = _Waits(own)
    waits.visit(tree)
    return waits.found


def _all_waits() -> Iterator[str]:
    paths = [
        path for package in ("mesh", "nodes") for path in sorted((ROOT / package).rglob("*.py"))
    ]
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in paths}
    own = own_coroutines(trees)
    for name, tree in trees.items():
        if name not in LEFT_OUT:
            yield from (f"{name} {wait}" for wait in waits_of(tree, own))


def test_every_wait_has_a_limit_or_a_reason() -> None:
    reasoned = [wait for waits in ALLOWED.values() for wait in waits]
    found, allowed = set(_all_waits()), set(reasoned)
    new, old = sorted(found - allowed), sorted(allowed - found)
    assert new == [], "give each a limit, or a reason in tests/allowed_waits.py"
    assert old == [], "these have a reason there, and are not there any more"
    assert len(reasoned) == len(allowed), "one of them has two reasons"


def test_waits_are_told_from_what_ends_by_itself() -> None:
    source = """
async def own():
    await queue.get()
    async with asyncio.timeout(3):
        await queue.get()
        async def inside():
            await event.wait()
    await asyncio.wait([a])
    await asyncio.wait([a], timeout=2)
    await asyncio.wait_for(event.wait(), 1)
    await asyncio.sleep(2)
    await own()
    await task
    async for line in stream: ...
    async for thing in own(): ...
    async with asyncio.TaskGroup(): ...
    async with lock:
        await a.join()
"""
    tree = ast.parse(source)
    assert waits_of(tree, own_coroutines({"": tree})) == [
        "own await queue.get",
        "own.inside await event.wait",
        "own await asyncio.wait",
        "own await task",
        "own async for stream",
        "own async with lock",
        "own await a.join",
    ]
