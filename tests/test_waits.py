"""Every wait has a limit, or a reason why it may last.

Looks at each `await`, `async for` and `async with` of mesh and nodes that waits for somebody else.
What one of our own coroutines waits for is looked at there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.allowed_waits import ALLOWED

ROOT = Path(__file__).parents[1]
PACKAGES = ("mesh", "nodes")
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
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in paths}
    own = own_coroutines(trees)
    for name, tree in trees.items():
        if name not in LEFT_OUT:
            yield from (f"{name} {wait}" for wait in waits_of(tree, own))


def test_every_wait_has_a_limit_or_a_reason() -> None:
    found, allowed = set(_all_waits()), {wait for waits in ALLOWED.values() for wait in waits}
    new, old = sorted(found - allowed), sorted(allowed - found)
    assert new == [], "give each a limit, or a reason in tests/allowed_waits.py"
    assert old == [], "these have a reason there, and are not there any more"


def test_no_wait_has_two_reasons() -> None:
    waits = [wait for waits in ALLOWED.values() for wait in waits]
    assert len(waits) == len(set(waits))


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
