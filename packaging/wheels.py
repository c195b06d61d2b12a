"""Builds the wheels of dist/, which install without a compiler: `make wheels`.

One is airdraft's with its kernels compiled, the other llama-cpp-python's of the locked version, in
which ggml chooses its CPU variant when it is loaded. Both run with every Python from 3.11 on Linux
with the C library of TAG or newer, on any x86-64. The same sources and tools give the same bytes in
any folder: the compiler is Zig's from PyPI, and all files have one date.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK, DIST = ROOT / "build" / "wheels", ROOT / "dist"
# The oldest C library is 2.28: Debian 10, Ubuntu 20.04 and Red Hat 8 have this one or a newer one.
_C_LIBRARY = 28
TARGET, TAG = f"x86_64-linux-gnu.2.{_C_LIBRARY}", f"py3-none-manylinux_2_{_C_LIBRARY}_x86_64"
ENGINE = "llama_cpp_python"
# Hatchling dates the files of a wheel so, too.
_DATE = (2020, 2, 2, 0, 0, 0)
_LEFT_OUT = ("APP", "COMMON", "EXAMPLES", "SERVER", "TESTS", "TOOLS")
_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "ON",
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    "CMAKE_INSTALL_RPATH": "$ORIGIN",
    # A wheel holds no links, so the libraries' names have no versions.
    "CMAKE_PLATFORM_NO_VERSIONED_SONAME": "ON",
    "GGML_BACKEND_DL": "ON",
    "GGML_CPU_ALL_VARIANTS": "ON",
    "GGML_NATIVE": "OFF",
    # Zig has no OpenMP library; see portable.h.
    "GGML_OPENMP": "OFF",
    "GGML_CCACHE": "OFF",
    **{
        f"LLAMA_BUILD_{x}": "OFF" for x in ("APP", "COMMON", "EXAMPLES", "SERVER", "TESTS", "TOOLS")
    },
}
# ggml looks for its variants beside the executable and in the current folder, where anyone may have
# put a library. These lines load them from the package alone, before anything else can ask, and
# without the line that ggml logs about it.
_LOADS_VARIANTS = """\
# airdraft's wheel: the CPU variants lie beside libllama.
from .llama_cpp import _base_path, _lib

_quiet = llama_log_callback(lambda level, text, data: None)
llama_log_set(_quiet, None)
if not _lib.ggml_backend_reg_count():
    _lib.ggml_backend_load_all_from_path(os.fsencode(_base_path))
"""
_AFTER = "from .llama_cpp import *\n"
# Zig's own library, and LLVM's for C++, are linked into what it compiles.
_COMPILER_LICENCES = {"zig": "LICENSE", "libcxx": "lib/libcxx/LICENSE.TXT"}


class WheelError(Exception):
    """The wheels cannot be built. The message says why."""


def main() -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise WheelError("wheels are built on Linux on x86-64")
    import ziglang

    zig = Path(ziglang.__file__).parent
    os.environ["ZIG_GLOBAL_CACHE_DIR"] = os.environ["ZIG_LOCAL_CACHE_DIR"] = str(WORK / "zig")
    os.environ.pop("CMAKE_ARGS", None)
    version, source = engine_source()
    licences = {name: (zig / there).read_bytes() for name, there in _COMPILER_LICENCES.items()}
    made = [
        airdraft_wheel(zig, version, source, licences),
        engine_wheel(zig, version, source, licences),
    ]
    for wheel in made:
        auditwheel = Path(sys.executable).with_name("auditwheel")
        check_tag(subprocess.check_output([auditwheel, "show", "--json", wheel], text=True))
        print(f"{wheel.relative_to(ROOT)}: {wheel.stat().st_size / 1e6:.1f} MB")


def engine_source() -> tuple[str, Path]:
    """Fetch the locked sources of llama-cpp-python; returns their version and folder."""
    lock = locked((ROOT / "requirements" / "run.txt").read_text(), "llama-cpp-python")
    version = lock.partition("==")[2].split()[0]
    folder = WORK / f"{ENGINE}-{version}"
    if not (folder / "PKG-INFO").is_file():
        WORK.mkdir(parents=True, exist_ok=True)
        (WORK / "engine.txt").write_text(lock)
        options = ["--no-deps", "--no-build-isolation", "--no-binary=:all:", "--require-hashes"]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        _run(*pip, *options, f"--dest={WORK}", f"--requirement={WORK / 'engine.txt'}")
        with tarfile.open(f"{folder}.tar.gz") as archive:
            archive.extractall(WORK, filter="data")
    return version, folder


def locked(text: str, name: str) -> str:
    """Return the lines of one package in a lock file. Raises WheelError."""
    # A requirement begins a line; its hashes are indented below it.
    found = re.search(rf"^{name}==.*\n(?:[ \t].*\n)*", text, flags=re.MULTILINE)
    if found is None:
        raise WheelError(f"no version of {name} is locked")
    return found[0]


def engine_wheel(zig: Path, version: str, source: Path, licences: Mapping[str, bytes]) -> Path:
    """Compile llama.cpp and pack it with the Python files of llama-cpp-python."""
    vendor, build = source / "vendor" / "llama.cpp", WORK / f"cmake-{version}"
    # Messages have the same names of files wherever the checkout lies.
    flags = f"-s -ffile-prefix-map={vendor}=llama.cpp -include {ROOT / 'packaging' / 'portable.h'}"
    options = {**_OPTIONS, **{f"CMAKE_{x}_FLAGS": flags for x in ("C", "CXX")}}
    # The commit is told here, so that it does not depend on whether this machine has git.
    options |= {"LLAMA_BUILD_COMMIT": version, "LLAMA_BUILD_NUMBER": "0", "GIT_EXE": "OFF"}
    environ = {**os.environ, "CC": f"{zig / 'zig'} cc -target {TARGET}"}
    environ["CXX"] = f"{zig / 'zig'} c++ -target {TARGET}"
    bin_folder = Path(sys.executable).parent
    environ["PATH"] = f"{bin_folder}{os.pathsep}{environ['PATH']}"
    defined = [f"-D{name}={value}" for name, value in options.items()]
    _run("cmake", "-G", "Ninja", "-S", vendor, "-B", build, *defined, env=environ)
    print("Compiling llama.cpp for 14 kinds of processors takes eight minutes on two cores.")
    _run("cmake", "--build", build, "--target", "llama", "ggml", env=environ)
    files = {f"llama_cpp/lib/{path.name}": path.read_bytes() for path in build.glob("bin/*.so")}
    headers = [*vendor.glob("include/*.h"), *vendor.glob("ggml/include/*.h")]
    files |= {f"llama_cpp/include/{path.name}": path.read_bytes() for path in headers}
    for path in (source / "llama_cpp").rglob("*"):
        if path.suffix in (".py", ".typed"):
            files[path.relative_to(source).as_posix()] = path.read_bytes()
    init = files["llama_cpp/__init__.py"].decode()
    files["llama_cpp/__init__.py"] = loads_variants(init).encode()
    own = {"llama-cpp-python": source / "LICENSE.md", "llama.cpp": vendor / "LICENSE"}
    own |= {path.name: path for path in (vendor / "licenses").iterdir()}
    texts = {**licences, **{name: path.read_bytes() for name, path in own.items()}}
    info = f"{ENGINE}-{version}.dist-info"
    files[f"{info}/METADATA"] = (source / "PKG-INFO").read_bytes()
    return pack(files, info, texts)


def loads_variants(init: str) -> str:
    """Return llama_cpp/__init__.py with the lines that load ggml's variants. Raises WheelError."""
    if init.count(_AFTER) != 1:
        raise WheelError(f"llama_cpp/__init__.py has no line {_AFTER!r}")
    before, after = init.split(_AFTER)
    return f"{before}import os\n\n{_AFTER}{_LOADS_VARIANTS}{after}"


def airdraft_wheel(zig: Path, version: str, source: Path, licences: Mapping[str, bytes]) -> Path:
    """Build airdraft's wheel and add the kernels."""
    sys.path.insert(0, str(ROOT))
    from airdraft.nodes.engine.kernels.build import build
    from airdraft.nodes.engine.kernels.library import PATH

    kernels = WORK / PATH.name
    headers = source / "vendor" / "llama.cpp" / "ggml" / "include"
    flags = f"-s -ffile-prefix-map={ROOT}=airdraft -ffile-prefix-map={WORK}=build"
    compiler = f"{shlex.quote(str(zig / 'zig'))} c++ -target {TARGET} {flags}"
    build(kernels, compiler=compiler, headers=headers, version=version)
    plain = WORK / "plain"
    shutil.rmtree(plain, ignore_errors=True)
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", plain, cwd=ROOT)
    (wheel,) = plain.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (place,) = [name for name in files if name.endswith("/engine/kernels/library.py")]
    files[str(Path(place).with_name(PATH.name))] = kernels.read_bytes()
    return pack(files, f"{'-'.join(wheel.name.split('-')[:2])}.dist-info", licences)


def pack(files: Mapping[str, bytes], info: str, licences: Mapping[str, bytes]) -> Path:
    """Write a wheel for TAG to dist/. info: its folder of metadata, in which METADATA is there."""
    files = dict(files)
    names = [f"{name}.txt" for name in sorted(licences)]
    files |= {f"{info}/licenses/{name}": licences[name[:-4]] for name in names}
    fields, blank, text = files[f"{info}/METADATA"].decode().partition("\n\n")
    fields += "".join(f"\nLicense-File: {name}" for name in names)
    files[f"{info}/METADATA"] = f"{fields}{blank}{text}".encode()
    files[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: airdraft\nRoot-Is-Purelib: false\nTag: {TAG}\n"
    ).encode()
    files[f"{info}/RECORD"] = record(files, f"{info}/RECORD")
    DIST.mkdir(exist_ok=True)
    wheel = DIST / f"{info.removesuffix('.dist-info')}-{TAG}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        # The metadata come last, as the format recommends.
        for name in sorted(files, key=lambda name: (name.startswith(info), name)):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name], zipfile.ZIP_DEFLATED, 9)
    return wheel


def record(files: Mapping[str, bytes], own: str) -> bytes:
    """Return the content of RECORD, which lists all files with their hashes. own: Its name."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    for name in sorted({*files} - {own}):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=")
        rows.writerow([name, f"sha256={digest.decode()}", len(files[name])])
    rows.writerow([own, "", ""])
    return out.getvalue().encode()


def check_tag(audit: str) -> None:
    """Raise WheelError unless a wheel runs where its tag says. audit: `auditwheel show --json`."""
    granted = json.loads(audit)["overall_tag"]
    found = re.fullmatch(r"manylinux_2_(\d+)_x86_64", granted)
    if found is None or int(found[1]) > _C_LIBRARY:
        raise WheelError(f"auditwheel grants {granted}, which is not {TAG}:\n{audit}")


def _run(*command: object, **options: object) -> None:
    subprocess.run([str(part) for part in command], check=True, **options)  # type: ignore[call-overload]


if __name__ == "__main__":
    try:
        main()
    except WheelError as error:
        sys.exit(f"error: {error}")
