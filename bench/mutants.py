"""Mutation testing: how many small faults, planted one at a time, the tests of a package find.

A fault is a change of one place of a module: another comparison or operator, a number that is off
by one, a condition turned round, a statement that is left out. The places are drawn by a seed. Each
fault runs in a process that is forked before any module of the package is imported, so that a test
run starts in a tenth of a second. Tests of the mutated module run first. A fault that makes tests
hang counts as found.
"""

from __future__ import annotations

import ast
import copy
import importlib.abc
import importlib.util
import io
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from random import Random

import click

ROOT = Path(__file__).parents[1]
_forking = multiprocessing.get_context("fork")
# By name: the mutated files, and the tests that run against them.
PACKAGES = {
    "policies": (["policies"], ["tests/policies"]),
    "scheduler": (["nodes/scheduler"], ["tests/nodes/scheduler", "tests/nodes/coordinator"]),
    "coordinator": (["nodes/coordinator"], ["tests/nodes/coordinator", "tests/nodes/scheduler"]),
    "codec": (
        [f"mesh/{name}.py" for name in ("codec", "messages", "schema", "padding")],
        [f"tests/mesh/test_{name}.py" for name in ("codec", "messages", "schema", "padding")],
    ),
    "sampling": (
        [f"nodes/engine/{name}.py" for name in ("sampling", "sampler", "noise")],
        [f"tests/engine/test_{name}.py" for name in ("sampling", "sampler", "golden")],
    ),
}
_OPPOSITES: tuple[tuple[type[ast.cmpop], type[ast.cmpop]], ...] = (
    (ast.Lt, ast.LtE),
    (ast.Gt, ast.GtE),
    (ast.Eq, ast.NotEq),
    (ast.Is, ast.IsNot),
    (ast.In, ast.NotIn),
)
_COMPARISONS = {a: b for pair in _OPPOSITES for a, b in (pair, pair[::-1])}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A module with one fault. source: of the whole module."""

    path: Path
    line: int
    what: str
    source: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.what}"


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Yields every mutant of a module; annotations, docstrings and messages are left alone."""
    tree = ast.parse(path.read_text())
    skipped = set(_left_alone(tree))
    for index, node in enumerate(ast.walk(tree)):
        if id(node) not in skipped:
            for what, change in _changes(node):
                other = copy.deepcopy(tree)
                change(list(ast.walk(other))[index])
                source = ast.unparse(ast.fix_missing_locations(other))
                yield Mutant(path, getattr(node, "lineno", 0), what, source)


def _left_alone(tree: ast.AST) -> Iterator[int]:
    """Yields the ids of all nodes of parts that say nothing of what a module does."""
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        match node:
            case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=annotation):
                parts = [annotation]
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                parts = [node.returns, *node.decorator_list]
            case ast.ClassDef(decorator_list=decorators):
                parts = [*decorators]
            case ast.Raise(exc=error):
                parts = [error]
            case ast.Assert() | ast.If(test=ast.Name(id="TYPE_CHECKING")):
                parts = [node]
        for part in parts:
            if part is not None:
                yield from map(id, ast.walk(part))


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    """Yields descriptions of changes of a node, each with a function that makes it in a copy."""
    match node:
        case ast.Compare(ops=[operator]):
            new = _COMPARISONS[type(operator)]
            yield f"{_name(operator)} becomes {new.__name__}", _set("ops", [new()])
        case ast.BinOp(op=operator) if type(operator) in _OPERATORS:
            other = _OPERATORS[type(operator)]
            yield f"{_name(operator)} becomes {other.__name__}", _set("op", other())
        case ast.BoolOp(op=ast.And()):
            yield "and becomes or", _set("op", ast.Or())
        case ast.BoolOp(op=ast.Or()):
            yield "or becomes and", _set("op", ast.And())
        case ast.UnaryOp(op=ast.Not()):
            yield "not is left out", _set("op", ast.UAdd())
        case ast.Constant(value=bool(value)):
            yield f"{value} becomes {not value}", _set("value", not value)
        case ast.Constant(value=int(value) | float(value)):
            yield f"{value} becomes {value + 1}", _set("value", value + 1)
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            turned = ast.UnaryOp(ast.Not(), test)
            yield f"not ({ast.unparse(test)})", _set("test", turned)
    body = getattr(node, "body", None)
    if isinstance(body, list) and not isinstance(node, ast.Module | ast.ClassDef):
        for k, statement in enumerate(body):
            is_call = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
            if is_call or isinstance(statement, ast.AugAssign):
                left = [ast.Pass() if j == k else each for j, each in enumerate(body)]
                yield f"without {ast.unparse(statement).splitlines()[0]}", _set("body", left)


def _name(operator: ast.AST) -> str:
    return type(operator).__name__


def _set(attribute: str, value: object) -> Callable[[ast.AST], None]:
    return lambda node: setattr(node, attribute, value)


class _Planted(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the mutated module instead of the one on the disk."""

    def __init__(self, mutant: Mutant) -> None:
        relative = mutant.path.relative_to(ROOT).with_suffix("")
        self._name, self._mutant = ".".join(("airdraft", *relative.parts)), mutant

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=str(self._mutant.path))

    def get_source(self, fullname: str) -> str:
        return self._mutant.source


def is_found(mutant: Mutant | None, tests: Sequence[str], limit_s: float) -> bool:
    """Whether tests fail with this fault, or do not end. mutant: None for no fault."""
    testing = _forking.Process(target=_run, args=(mutant, tests))
    testing.start()
    testing.join(limit_s)
    if testing.exitcode is None:
        assert testing.pid is not None
        os.killpg(testing.pid, signal.SIGKILL)
        testing.join()
    return testing.exitcode != 0


def _run(mutant: Mutant | None, tests: Sequence[str]) -> None:
    """Run the tests up to the first that fails; ends this process with pytest's exit code."""
    import pytest

    os.setpgid(0, 0)
    if mutant is not None:
        sys.meta_path.insert(0, _Planted(mutant))
        own = [test for test in tests if f"test_{mutant.path.stem}" in test]
        tests = [*own, *(test for test in tests if test not in own)]
    options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist"]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        code = pytest.main([*options, *tests])
    os._exit(code)


@click.command("mutants")
@click.argument("package", type=click.Choice(list(PACKAGES)))
@click.option(
    "--count", type=click.IntRange(1), default=300, show_default=True, help="Faults to plant."
)
@click.option("--seed", default=1, show_default=True)
@click.option(
    "--survivors", type=click.Path(dir_okay=False, path_type=Path), help="List them here."
)
def mutants_command(package: str, count: int, seed: int, survivors: Path | None) -> None:
    """Plant faults in a package, and count those that its tests find.

    It is a module of its own, because `python -m bench` has imported the packages already.

    \b
    Example:
      python -m bench.mutants policies --count 50
    """
    sources, folders = PACKAGES[package]
    files = [f for part in sources for f in _files(ROOT / part, "*.py")]
    tests = [str(f) for part in folders for f in _files(ROOT / part, "test_*.py")]
    os.chdir(ROOT)
    import numpy  # noqa: F401

    began = time.monotonic()
    if is_found(None, tests, 3600.0):
        raise click.ClickException(f"the tests of {package} fail without a fault")
    limit_s = 10.0 + 3.0 * (time.monotonic() - began)
    every = [mutant for file in files for mutant in mutants_of(file)]
    chosen = Random(seed).sample(every, min(count, len(every)))
    left: list[Mutant] = []
    for number, mutant in enumerate(chosen, 1):
        if not is_found(mutant, tests, limit_s):
            left.append(mutant)
            click.echo(f"not found: {mutant}")
        if number % 50 == 0:
            click.echo(f"{number} of {len(chosen)}, {len(left)} not found", err=True)
    if survivors is not None:
        survivors.write_text("".join(f"{mutant}\n" for mutant in left))
    found = len(chosen) - len(left)
    took_min = (time.monotonic() - began) / 60
    click.echo(
        f"{package}: {found} of {len(chosen)} faults found ({found / len(chosen):.1%}) of "
        f"{len(every)} possible ones, in {took_min:.0f} min"
    )


def _files(path: Path, pattern: str) -> list[Path]:
    if not path.exists():
        raise click.ClickException(f"{path.relative_to(ROOT)} is gone: correct PACKAGES")
    return [path] if path.is_file() else sorted(path.rglob(pattern))


if __name__ == "__main__":
    mutants_command()
