"""Builds build/airdraft_VERSION_ARCH.deb for the Python that runs this: `make deb`.

llama.cpp is compiled into build/deb/wheels once for each set of flags, some minutes. One commit and
one compiler give the same bytes in whatever folder: versions and hashes are those of requirements/,
and all files have the time of the last commit, or SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import debian

PACKAGING = Path(__file__).resolve().parent
ROOT = PACKAGING.parent
BUILD = ROOT / "build" / "deb"
PYTHON = sys.version_info[:2]
LOCKS = ROOT / "requirements"
ENGINE = "llama-cpp-python"
# What the staged tree must be able to import, before it is packed.
_PROBE = (
    "import pip, airdraft.nodes.gateway.server, airdraft.nodes.engine.llama, "
    "airdraft.nodes.engine.grammar"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cmake-args", default="", help="instead of the portable flags")
    given = parser.parse_args()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    architecture = _output("dpkg", "--print-architecture")
    flags = debian.cmake_args(architecture, given.cmake_args)
    # Compilers, pip's wheels, compileall and dpkg-deb look at these.
    os.environ["SOURCE_DATE_EPOCH"] = str(made_at := epoch_s(os.environ, ROOT))
    os.environ["PYTHONHASHSEED"] = "0"
    stage = BUILD / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    site = stage / debian.site_packages(PYTHON)
    pip = _pip()
    engine, rest = debian.split_lock((LOCKS / "run.txt").read_text(), ENGINE)
    _install(pip, site, _engine_wheel(pip, engine, flags), rest)
    _make_home(stage / debian.HOME)
    for source, there in copies(ROOT):
        _copy(source, stage / there)
    _run(stage / debian.HOME / "bin" / "python3", "-I", "-B", "-c", _PROBE)
    _compile(stage)
    made = ROOT / "build" / f"airdraft_{version}_{architecture}.deb"
    pack(stage, made, version, architecture, made_at)
    print(f"{made.relative_to(ROOT)}: {made.stat().st_size} bytes, llama.cpp with {flags}")


def copies(root: Path) -> list[tuple[Path, str]]:
    """The repository's own files of the package, and where each goes. Raises LookupError."""
    found = []
    for pattern, there in debian.FILES:
        matches = sorted(root.glob(pattern))
        if not matches:
            raise LookupError(f"the package needs {pattern}")
        # Below a folder of all depths, files keep their places.
        top = root / pattern.partition("**")[0] if "**" in pattern else None
        for path in matches:
            name = path.relative_to(top).as_posix() if top else path.name
            found.append((path, there + name if there.endswith("/") else there))
    return found


def epoch_s(environ: Mapping[str, str], root: Path) -> int:
    """The time of all files, in seconds since 1970: SOURCE_DATE_EPOCH, or that of the last commit.

    Raises LookupError where there is neither.
    """
    said = environ.get("SOURCE_DATE_EPOCH") or _output_or_none(
        "git", "-C", str(root), "log", "-1", "--format=%ct"
    )
    if said is None or not said.isdecimal():
        raise LookupError("without git's history SOURCE_DATE_EPOCH must be set, in seconds")
    return int(said)


def _pip() -> list[str]:
    """An environment to build in, with pip and the build backends that are locked."""
    lock = LOCKS / "build.txt"
    home = BUILD / "venv"
    pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    installed = home / "build.txt"
    if not installed.exists() or installed.read_text() != lock.read_text():
        _run(sys.executable, "-m", "venv", "--clear", home)
        _run(*pip, "install", "--quiet", "--require-hashes", "--only-binary=:all:", "-r", lock)
        shutil.copyfile(lock, installed)
    return pip


def _engine_wheel(pip: Sequence[str], requirement: str, flags: str) -> Path:
    """pip's own cache is not asked: what it holds may have been compiled for this machine only."""
    includes = {"ggml": PACKAGING / "library_only.cmake", "llama_cpp": PACKAGING / "paths.cmake"}
    sources = "".join(path.read_text() for path in includes.values())
    name = hashlib.sha256(f"{requirement} {flags} {sources}".encode()).hexdigest()[:12]
    folder = BUILD / "wheels" / name
    if not list(folder.glob("*.whl")):
        print(f"compiling {ENGINE} with {flags}", flush=True)
        locked = _written("engine.txt", requirement)
        options = ["--no-deps", "--no-cache-dir", "--no-build-isolation", f"--no-binary={ENGINE}"]
        given = [
            shlex.quote(f"-DCMAKE_PROJECT_{project}_INCLUDE={path}")
            for project, path in includes.items()
        ]
        environ = {**os.environ, "CMAKE_ARGS": " ".join([flags, *given])}
        options += ["--require-hashes", f"--wheel-dir={folder}"]
        _run(*pip, "wheel", *options, "-r", locked, env=environ)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _install(pip: Sequence[str], site: Path, engine: Path, rest: str) -> None:
    """Into `site`: the locked packages, the engine's wheel, and airdraft itself."""
    into = [*pip, "install", "--quiet", "--no-compile", "--no-deps", f"--target={site}"]
    locked = _written("rest.txt", rest)
    _run(*into, "--require-hashes", "--only-binary=:all:", "-r", locked)
    _run(*into, "--no-build-isolation", engine, ROOT)
    # All instruction sets are in it: which one runs is decided where it runs.
    environ = {**os.environ, "PYTHONPATH": str(site)}
    _run(pip[0], "-m", "airdraft.nodes.engine.kernels.build", env=environ)
    for name in debian.LEFT_OUT:
        shutil.rmtree(site / name, ignore_errors=True)
    # Where this was built is nobody's business.
    for url in site.glob("*.dist-info/direct_url.json"):
        url.unlink()
    for record in site.glob("*.dist-info/RECORD"):
        record.write_text(debian.record_of(record.read_text(), lambda n: (site / n).exists()))
    for library in sorted((site / "llama_cpp" / "lib").glob("*.so*"), reverse=True):
        twins = [p for p in library.parent.glob(f"{library.name}.*") if _same(p, library)]
        if twins:
            library.unlink()
            library.symlink_to(max(twins, key=lambda path: len(path.name)).name)


def _written(name: str, text: str) -> Path:
    path = BUILD / name
    path.write_text(text)
    return path


def _same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def _make_home(home: Path) -> None:
    (home / "bin").mkdir()
    (home / "bin" / "python3").symlink_to("/usr/bin/python3")
    (home / "pyvenv.cfg").write_text(debian.pyvenv(PYTHON))


def _copy(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)
    to.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def _compile(stage: Path) -> None:
    """Services cannot write below /usr: without this each start would compile everything."""
    shown = ["-s", stage, "-p", "/", "--invalidation-mode=unchecked-hash"]
    _run(sys.executable, "-m", "compileall", "-q", "-f", *shown, stage / debian.HOME / "lib")


def pack(stage: Path, to: Path, version: str, architecture: str, made_at_s: int) -> None:
    """Writes the package of a tree, where each file gets the one time, in seconds since 1970."""
    files = [path for path in stage.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in [stage, *stage.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    installed_kib = sum(-(-path.stat().st_size // 1024) for path in files)
    libraries = (path.read_bytes() for path in files if re.search(r"\.so(\.|$)", path.name))
    glibc = debian.least_glibc(libraries)
    text = debian.control(version, architecture, PYTHON, glibc, installed_kib)
    folder = stage / "DEBIAN"
    folder.mkdir()
    (folder / "control").write_text(text)
    for name in debian.MAINTAINER_SCRIPTS:
        _copy(ROOT / "packaging" / name, folder / name)
    for path in [stage, *stage.rglob("*")]:
        os.utime(path, (made_at_s, made_at_s), follow_symlinks=False)
    # dpkg-deb sorts the files, and says this time of the archive's own members.
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(made_at_s)}
    command = ["dpkg-deb", "--root-owner-group", "--build", str(stage), str(to)]
    subprocess.run(command, check=True, env=environ)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _output_or_none(*command: str) -> str | None:
    try:
        return _output(*command)
    except (OSError, subprocess.CalledProcessError):
        return None


def _run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=BUILD.parent, env=env)


if __name__ == "__main__":
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        main()
    except (LookupError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
