"""Modules of packaging/, which is no package, as fixtures."""

import importlib.util
import sys
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[1] / "packaging"


def load(name, monkeypatch):
    monkeypatch.syspath_prepend(str(PACKAGING))
    spec = importlib.util.spec_from_file_location(name, PACKAGING / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def release(monkeypatch):
    return load("release", monkeypatch)


@pytest.fixture
def wheels(monkeypatch):
    return load("wheels", monkeypatch)
