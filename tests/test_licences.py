"""Whoever gets a wheel or a Debian package gets the licences of all that is in it."""

import re
import tomllib
import zipfile
from pathlib import Path

import pytest

from nodes.catalog.entries import DEFAULT_ENTRIES, FileSource
from tests.test_requirements import PLACES, versions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LICENCES = {path.name: path.read_text() for path in (ROOT / "licences").glob("*.txt")}


def test_the_wheel_has_all_licences(tmp_path):
    wheel = pytest.importorskip("hatchling.builders.wheel")
    (made,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(made) as archive:
        names = archive.namelist()
        folder = next(name for name in names if name.endswith("/licenses/LICENSE"))
        for name, text in LICENCES.items():
            shipped = archive.read(folder.replace("LICENSE", f"licences/{name}"))
            assert shipped.decode() == text


def test_the_licence_of_llama_cpp_is_that_of_the_version_that_is_compiled():
    (engine,) = (part for part in PROJECT["dependencies"] if part.startswith("llama-cpp-python"))
    text = LICENCES["llama.cpp.txt"]
    assert engine.replace("==", " ") in text
    assert "The ggml authors" in text
    assert text.count('THE SOFTWARE IS PROVIDED "AS IS"') == 2


def test_each_model_that_is_shipped_says_where_it_comes_from():
    for entry in DEFAULT_ENTRIES.values():
        for source in entry.sources if isinstance(entry.sources, tuple) else ():
            if isinstance(source, FileSource):
                text = LICENCES[f"{entry.name}.txt"]
                assert source.path.relative_to(ROOT).as_posix() in text
                assert "Apache License 2.0" in text
                assert entry.licence == "Apache-2.0"


def test_the_debian_package_names_each_package_that_it_bundles():
    text = (ROOT / "packaging" / "copyright").read_text()
    paragraphs = [part for part in text.split("\n\n") if part.startswith("Files:")]
    words = set(re.findall(r"[a-z0-9-]+", " ".join(paragraphs).lower().replace("_", "-")))
    for place in PLACES:
        for name in versions("run", place):
            assert name in words, f"packaging/copyright says nothing of {name}"


def test_each_licence_of_the_debian_package_has_its_paragraph():
    text = (ROOT / "packaging" / "copyright").read_text()
    used = set(re.findall(r"^Files:.*\n(?:.+\n)*?License: (.+)$", text, flags=re.MULTILINE))
    told = set(re.findall(r"\n\nLicense: (.+)\n ", text))
    assert used == told
