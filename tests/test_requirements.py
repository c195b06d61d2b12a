"""requirements/*.txt hold one version and the hashes of all that is installed, for each Python."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
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


def wanted(lines):
    for line in lines:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            yield from wanted(line for extra in requirement.extras for line in EXTRAS[extra])
        else:
            yield requirement


def asked_for(name):
    if name == "build":
        said = (ROOT / "requirements" / "build.in").read_text().splitlines()
        built = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
        return [*wanted(line for line in said if not line.startswith("#")), *wanted(built)]
    if name == "docs":
        said = (ROOT / "requirements" / "docs.in").read_text().splitlines()
        return list(wanted(line for line in said if not line.startswith("#")))
    extras = {"run": ("gateway", "grammar"), "dev": ("dev",), "bench": ("bench",)}[name]
    lines = [line for extra in extras for line in EXTRAS[extra]]
    return list(wanted([*PROJECT["dependencies"], *lines]))


NAMES = ("build", "run", "dev", "bench", "docs")


@pytest.mark.parametrize("name", NAMES)
def test_each_requirement_has_one_version_and_its_hashes(name):
    entries = locked(name)
    assert len(entries) > 5
    for requirement, num_hashes in entries:
        assert re.fullmatch(r"==[\w.!+]+", str(requirement.specifier)), requirement
        assert num_hashes > 0, requirement


@pytest.mark.parametrize("name", NAMES)
def test_no_index_and_no_host_is_named(name):
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
def test_files_that_are_installed_together_agree(place):
    known = {}
    for name in NAMES:
        for package, version in versions(name, place).items():
            assert known.setdefault(package, version) == version, f"{package} in {name}.txt"


def test_torch_is_not_locked():
    names = {canonicalize_name(r.name) for name in NAMES for r, _ in locked(name)}
    assert not names & {canonicalize_name(r.name) for r in wanted(EXTRAS["distill"])}
