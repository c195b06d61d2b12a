"""All that is installed has one locked version and its hashes, and its licence goes along."""

import re
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from airdraft.nodes.catalog.entries import DEFAULT_ENTRIES, LocalFile

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, BUILD = CONFIG["project"], CONFIG["build-system"]["requires"]
EXTRAS = PROJECT["optional-dependencies"]
ENTRY = re.compile(r"^(?![#\s])(.*?)((?: \\\n +--hash=sha256:[0-9a-f]{64})*)\n", re.MULTILINE)
PLACES = [
    {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    for python in ("3.11", "3.12", "3.13")
    for machine in ("x86_64", "aarch64")
]


def locked(name):
    """The requirements of a file, each with the number of its hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return [(Requirement(said), hashes.count("--hash")) for said, hashes in ENTRY.findall(text)]


def versions(name, place):
    """Name -> version of what a file installs in a place."""
    here = [r for r, _ in locked(name) if r.marker is None or r.marker.evaluate(place)]
    found = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in here}
    assert len(found) == len(here), "two versions at once"
    return found


def asked_for(name):
    if name in ("build", "wheels", "docs", "lock"):
        said = (ROOT / "requirements" / f"{name}.in").read_text().splitlines()
        lines = [line for line in said if not line.startswith("#")]
        return [*map(Requirement, lines + (BUILD if name == "build" else []))]
    lines = EXTRAS["dev"] if name == "dev" else []
    return [*map(Requirement, PROJECT["dependencies"] + lines)]


NAMES = ("build", "run", "dev", "wheels", "docs", "lock")


@pytest.mark.parametrize("name", NAMES)
def test_each_requirement_has_one_version_and_its_hashes(name):
    entries = locked(name)
    assert entries
    for requirement, num_hashes in entries:
        assert re.fullmatch(r"==[\w.!+]+", str(requirement.specifier)), requirement
        assert num_hashes > 0, requirement
    # No index and no host is named.
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert not re.search(r"^\s*-(?!-hash=)", text, re.MULTILINE)
    assert "://" not in text


@pytest.mark.parametrize(
    "place", PLACES, ids=lambda p: f"{p['python_version']}-{p['platform_machine']}"
)
@pytest.mark.parametrize("name", NAMES)
def test_what_the_project_asks_for_is_locked_in_the_range_that_it_allows(name, place):
    found = versions(name, place)
    for requirement in asked_for(name):
        version = found.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not locked: run `make lock`"
        assert requirement.specifier.contains(version), f"{requirement}, but {version} is locked"


@pytest.mark.parametrize("place", PLACES[::2], ids=lambda p: p["python_version"])
def test_files_that_are_installed_together_agree_and_torch_is_not_locked(place):
    known = {}
    for name in NAMES:
        for package, version in versions(name, place).items():
            assert known.setdefault(package, version) == version, f"{package} in {name}.txt"
    assert not known.keys() & {
        canonicalize_name(r.name) for r in map(Requirement, EXTRAS["distill"])
    }


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
        if isinstance(entry.source, LocalFile):
            text = LICENCES[f"{entry.name}.txt"]
            assert entry.source.path.relative_to(ROOT).as_posix() in text
            assert "Apache License 2.0" in text
            assert entry.licence == "Apache-2.0"


def test_actions_of_others_are_named_by_commit_and_version():
    steps = [
        line
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for line in path.read_text().splitlines()
        if "uses:" in line
    ]
    assert steps
    for line in steps:
        assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
