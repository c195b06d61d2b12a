"""What the Debian package of airdraft is made of. Pure: texts and lists, nothing is read or run."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

# A virtual environment of the system's Python; everything airdraft imports lies in it.
HOME = PurePosixPath("usr/lib/airdraft")
# Of the repository -> where it goes. Units and the like are the package's, not to be edited.
FILES = (
    ("packaging/airdraft", "usr/bin/airdraft"),
    ("packaging/copyright", "usr/share/doc/airdraft/copyright"),
    ("systemd/*.service", "usr/lib/systemd/system/"),
    ("systemd/*.socket", "usr/lib/systemd/system/"),
    ("systemd/*.target", "usr/lib/systemd/system/"),
    ("systemd/sysusers.d/*.conf", "usr/lib/sysusers.d/"),
    ("systemd/tmpfiles.d/*.conf", "usr/lib/tmpfiles.d/"),
    ("systemd/etc/*.toml", "usr/share/doc/airdraft/examples/"),
    ("systemd/README.md", "usr/share/doc/airdraft/"),
    ("docs/**/*.md", "usr/share/doc/airdraft/docs/"),
)
MAINTAINER_SCRIPTS = ("postinst", "prerm", "postrm")

# What llama.cpp is compiled for, unless it is told otherwise: code that other machines of the
# architecture can run. amd64: processors since 2013 (x86-64-v3, without LZCNT and MOVBE being
# asked for); arm64: Raspberry Pi 5 and Jetson Orin, not Raspberry Pi 4.
_PORTABLE = {
    "amd64": "-DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON "
    "-DGGML_BMI2=ON",
    "arm64": "-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16",
}
# Not needed at run time: headers, what CMake wants, commands of dependencies.
LEFT_OUT = ("bin", "include", "lib", "share")

_CONTROL = """\
Package: airdraft
Version: {version}
Architecture: {architecture}
Maintainer: airdraft <airdraft@example.invalid>
Installed-Size: {installed_kib}
Depends: {depends}
Section: net
Priority: optional
Description: several edge devices as one private LLM endpoint
 Coordinator, target, draft and gateway nodes of a mesh that decodes with
 llama.cpp and distributed speculation, and their units of systemd. Nothing is
 started by the installation: see docs/guides/deploy.md in
 /usr/share/doc/airdraft.
"""


def control(
    version: str, architecture: str, python: tuple[int, int], glibc: str, installed_kib: int
) -> str:
    """The control file. python: the minor version that the package was built for; glibc: the
    least that its libraries ask for."""
    major, minor = python
    depends = (
        f"python3 (>= {major}.{minor}~)",
        f"python3 (<< {major}.{minor + 1}~)",
        f"libc6 (>= {glibc})",
        "libgomp1",
        "libstdc++6",
        "systemd | systemd-standalone-sysusers",
        "systemd | systemd-standalone-tmpfiles",
    )
    return _CONTROL.format(
        version=version,
        architecture=architecture,
        installed_kib=installed_kib,
        depends=", ".join(depends),
    )


def pyvenv(python: tuple[int, int]) -> str:
    """pyvenv.cfg: without the system's own site-packages, and without anybody's."""
    version = f"{python[0]}.{python[1]}"
    return f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n"


def site_packages(python: tuple[int, int]) -> PurePosixPath:
    return HOME / "lib" / f"python{python[0]}.{python[1]}" / "site-packages"


def cmake_args(architecture: str, wanted: str = "") -> str:
    """CMAKE_ARGS of llama.cpp. wanted: instead of the portable flags, such as -DGGML_NATIVE=ON."""
    portable = f"-DGGML_NATIVE=OFF {_PORTABLE.get(architecture, '')}".strip()
    return f"-DLLAVA_BUILD=OFF {wanted or portable}"


def least_glibc(libraries: Iterable[bytes]) -> str:
    """The newest version of glibc's symbols that shared libraries ask for."""
    found = {(2, 17)}
    for library in libraries:
        for match in re.finditer(rb"\bGLIBC_(\d+)\.(\d+)\b", library):
            found.add((int(match[1]), int(match[2])))
    return ".".join(str(part) for part in max(found))


def split_lock(text: str, name: str) -> tuple[str, str]:
    """A lock file as two: the requirements of that name, and all the others. Raises LookupError."""
    # A requirement begins a line; its hashes and comments are indented below it.
    entries = re.findall(r"^[\w.-]+(?:\[.*?\])?==.*\n(?:[ \t].*\n)*", text, flags=re.MULTILINE)
    own = [entry for entry in entries if entry.startswith(f"{name}==")]
    if not own:
        raise LookupError(f"no version of {name} is locked")
    return "".join(own), "".join(entry for entry in entries if entry not in own)


def record_of(text: str, is_there: Callable[[str], bool]) -> str:
    """A RECORD of installed files without those that are not there.

    The lines of files that were left out hold hashes of texts with paths of the build in them.
    """
    out = io.StringIO()
    rows = sorted(row for row in csv.reader(io.StringIO(text)) if row and is_there(row[0]))
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
