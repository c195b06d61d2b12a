"""One commit gives the same Debian package, wherever and whenever it is built."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaged import PACKAGING, build_deb, debian

__all__ = ["build_deb", "debian"]

ROOT = PACKAGING.parent
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
# That of the virtual environment, which llama.cpp is compiled with, or any.
CMAKE = shutil.which("cmake", path=Path(sys.executable).parent) or shutil.which("cmake")

LOCK = """\
# This file was made by a command
anyio==4.1 \\
    --hash=sha256:aa
    # via starlette
llama-cpp-python==0.3.36 \\
    --hash=sha256:bb \\
    --hash=sha256:cc
    # via airdraft
numpy==2.4 ; python_full_version < '3.12' \\
    --hash=sha256:dd
numpy==2.5 ; python_full_version >= '3.12' \\
    --hash=sha256:ee
"""


def test_a_lock_is_taken_apart(debian):
    own, rest = debian.split_lock(LOCK, "llama-cpp-python")
    assert own.splitlines()[0] == "llama-cpp-python==0.3.36 \\"
    assert [word for word in ("aa", "bb", "cc", "dd", "ee") if word in own] == ["bb", "cc"]
    assert own + rest != LOCK
    assert sorted((own + rest).splitlines()) == sorted(LOCK.splitlines()[1:])


def test_a_version_that_is_not_locked_is_found(debian):
    with pytest.raises(LookupError, match="llama-cpp"):
        debian.split_lock(LOCK, "llama-cpp")


def test_the_engine_is_locked(debian):
    text = (ROOT / "requirements" / "run.txt").read_text()
    own, rest = debian.split_lock(text, "llama-cpp-python")
    assert own.count("==") == 1
    assert "--hash=sha256:" in own
    assert "\nllama-cpp-python" not in rest


def test_the_record_forgets_what_was_left_out(debian):
    text = '../../bin/run,sha256=x,9\n"z,1.py",sha256=y,1\na.py,sha256=z,2\n'
    kept = debian.record_of(text, lambda name: not name.startswith(".."))
    assert kept == 'a.py,sha256=z,2\n"z,1.py",sha256=y,1\n'


def test_the_time_of_all_files_is_that_of_the_last_commit_unless_it_is_said(build_deb, tmp_path):
    assert build_deb.epoch_s({"SOURCE_DATE_EPOCH": "12"}, tmp_path) == 12
    with pytest.raises(LookupError, match="SOURCE_DATE_EPOCH"):
        build_deb.epoch_s({}, tmp_path)
    with pytest.raises(LookupError, match="SOURCE_DATE_EPOCH"):
        build_deb.epoch_s({"SOURCE_DATE_EPOCH": "today"}, tmp_path)
    environ = {"GIT_AUTHOR_DATE": "@99 +0000", "GIT_COMMITTER_DATE": "@100 +0000"}
    who = ["-c", "user.name=a", "-c", "user.email=a@example.invalid"]
    for command in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True, env=environ, timeout=10)
    assert build_deb.epoch_s({}, tmp_path) == 100


@pytest.mark.timeout(120)
@pytest.mark.skipif(CMAKE is None or COMPILER is None, reason="no CMake or no C++ compiler")
def test_libraries_do_not_say_in_which_folder_they_were_compiled(tmp_path):
    made = []
    for name in ("one", "another"):
        folder = tmp_path / name
        (folder / "vendor").mkdir(parents=True)
        (folder / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.21)\nproject(llama_cpp)\nadd_subdirectory(vendor)\n"
        )
        (folder / "vendor" / "CMakeLists.txt").write_text(
            "project(inner CXX)\nadd_library(inner SHARED ${CMAKE_CURRENT_SOURCE_DIR}/inner.cpp)\n"
        )
        (folder / "vendor" / "inner.cpp").write_text(
            'extern "C" const char *where() { return __FILE__; }'
        )
        include = f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={PACKAGING / 'paths.cmake'}"
        configure = [CMAKE, "-S", str(folder), "-B", str(folder / "build"), include]
        for command in (configure, [CMAKE, "--build", str(folder / "build")]):
            subprocess.run(command, check=True, capture_output=True, timeout=100)
        made.append((folder / "build" / "vendor" / "libinner.so").read_bytes())
    assert b"./vendor/inner.cpp" in made[0]
    assert made[0] == made[1]


@pytest.mark.timeout(60)
@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here")
def test_one_tree_is_one_package(build_deb, tmp_path):
    """Whatever the order, the times and the modes in which its files were made."""
    made = []
    for names, umask_mode in ((["b", "a", "c"], 0o600), (["c", "b", "a"], 0o664)):
        stage = tmp_path / f"stage-{len(made)}"
        for name in names:
            path = stage / "usr" / "share" / name / "file"
            path.parent.mkdir(parents=True)
            path.write_text(name)
            path.chmod(umask_mode)
        (stage / "usr" / "link").symlink_to("share/a/file")
        to = tmp_path / f"{len(made)}.deb"
        build_deb.pack(stage, to, "0.1.0", "amd64", made_at_s=1_700_000_000)
        made.append(to.read_bytes())
    assert made[0] == made[1]
