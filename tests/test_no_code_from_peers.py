"""What peers and files say is never run: the lint rules say so, and are there."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("mesh", "nodes", "policies", "bench")
# Attributes that no import rule sees, whatever the socket is called.
FORBIDDEN_NAMES = {"recv_pyobj", "send_pyobj", "unsafe_load", "eval", "exec", "__import__"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
ALLOWED = {
    # Methods of torch modules: an evaluation mode, nothing that is run.
    ("bench", "eval"),
}


def offences(source: str, package: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name) if name in FORBIDDEN_NAMES:
                if (package, name) not in ALLOWED:
                    yield name
            case ast.Name(id=name) if name in FORBIDDEN_NAMES:
                yield name
            case ast.Import(names=names):
                yield from (n.name for n in names if n.name.split(".")[0] in FORBIDDEN_MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in FORBIDDEN_MODULES:
                yield module


@pytest.mark.parametrize("package", SHIPPED)
def test_no_shipped_module_runs_what_it_is_sent(package: str) -> None:
    paths = list((ROOT / package).rglob("*.py"))
    assert paths
    found = [(str(p), name) for p in paths for name in offences(p.read_text(), package)]
    assert found == []


SNIPPETS = [
    "import pickle\n",
    "from pickle import loads\n",
    "import marshal\n",
    "import yaml\n",
    "value = eval(text)\n",
    "exec(text)\n",
    "import dill\n",
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_the_linter_refuses_it(snippet: str) -> None:
    assert list(offences(snippet, "mesh"))
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "mesh/new.py", "-"]
    done = subprocess.run(
        command, cwd=ROOT, input=snippet, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    codes = ("S102", "S301", "S302", "S307", "S506", "TID251")
    assert any(code in done.stdout for code in codes)


def test_the_linter_takes_what_is_harmless() -> None:
    assert list(offences("socket.recv_pyobj()\n", "mesh")) == ["recv_pyobj"]
    assert list(offences("import json\nmodel.eval()\n", "bench")) == []
