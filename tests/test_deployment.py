"""The guides of deployment say what is true; the Debian package is what it should be, always."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from airdraft.nodes.cli.main import cli
from tests.nodes.service.test_units import needs_systemd, units, verified
from tests.packaged import PACKAGING, build_deb, debian

__all__ = ["build_deb", "debian", "units"]

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "docs" / "guides"
# What was one page: the commands, what comes after them, and machines of other kinds.
TEXT = "\n".join(
    (GUIDES / name).read_text() for name in ("deploy.md", "operate.md", "gpu-and-jetson.md")
)
_COMMANDS = ("airdraft", "/opt/airdraft/bin/airdraft")


# -- the guide ---------------------------------------------------------------------------------


def code_lines(text):
    return [line[4:] for line in text.splitlines() if line.startswith("    ")]


def split(line):
    """Words of a line of shell, a pipe one of them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|")
    lexer.whitespace_split = True
    return lexer


def airdraft_commands(text):
    """Arguments of each airdraft command in code blocks, and in `single quotes` of the prose."""
    said = code_lines(text) + re.findall(r"`(airdraft [^`]+)`", text)
    for line in said:
        try:
            words = list(split(line))
        except ValueError:  # A quote that a later line closes: no command of ours has one.
            continue
        for index, word in enumerate(words):
            before = words[:index]
            is_first = not before or before[-1] == "sudo" or before[-2:-1] == ["as_role"]
            if word in _COMMANDS and is_first:
                rest = words[index + 1 :]
                yield rest[: rest.index("|")] if "|" in rest else rest


def parse(arguments):
    """Click's own parsing, without running anything. Groups have no options but --help."""
    command, rest, name = cli, list(arguments), "airdraft"
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(click.Context(command, info_name=name), rest)
    command.make_context(name, rest)


COMMANDS = sorted({tuple(words) for words in airdraft_commands(TEXT)})


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_command_of_the_guide_is_one(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    parse(words)


def test_the_guide_has_the_commands_that_matter():
    said = {" ".join(words[:2]) for words in COMMANDS}
    assert {"keys init", "keys invite", "join TOKEN", "models pull", "install-units"} <= said


def test_each_file_that_the_guide_names_is_there():
    named = re.findall(r"(?<![\w/.])(?:bench|docs|systemd|packaging)/[\w./@-]*\w", TEXT)
    assert "packaging/try-in-container" in named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_samples_that_the_guide_copies_are_shipped(debian):
    copied = re.search(r"examples/\{([\w,]+)\}\.toml", TEXT)[1].split(",")
    copied += re.findall(r"examples/(\w+)\.toml", TEXT)
    assert sorted(copied) == sorted(path.stem for path in ROOT.glob("systemd/etc/*.toml"))
    assert ("systemd/etc/*.toml", "usr/share/doc/airdraft/examples/") in debian.FILES


def test_units_that_the_guide_names_are_shipped():
    shipped = {path.name for path in (ROOT / "systemd").iterdir()}
    suffix = r"(?:\.service|\.socket|\.target)?"
    named = set(
        re.findall(rf"\bairdraft(?:-(?:coordinator|gateway|draft|target)@?)?{suffix}", TEXT)
    )
    assert len(named) > 3
    for name in named - {"airdraft"}:
        whole = name if "." in name else f"{name}.service"
        template = whole.replace(".service", "@.service")
        assert whole in shipped or template in shipped, name


@needs_systemd
def test_drop_ins_of_the_guide_are_what_systemd_knows(units):
    """Each with the unit that it changes."""
    form = r"cat >/etc/systemd/system/([\w@.-]+)\.d/([\w-]+\.conf) <<'END'\n(.*?)\nEND\n"
    found = re.findall(form, "\n".join(code_lines(TEXT)) + "\n", flags=re.DOTALL)
    assert len(found) >= 4
    for unit, name, text in found:
        assert (units / unit).exists()
        folder = units / f"{unit}.d"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        # In systemd 249 it implies a DeviceAllow=, with which auto allows no other device.
        assert "DevicePolicy=auto" not in text or "ProtectClock=no" in text
    made = verified(units, {unit for unit, *_ in found})
    assert (made.returncode, made.stderr) == (0, "")


def test_blocks_of_the_guide_are_shell():
    """Its code blocks: lines of four spaces that follow one another."""
    for block in re.findall(r"(?:^    .*\n)+", TEXT, flags=re.MULTILINE):
        code = "\n".join(code_lines(block)).encode()
        subprocess.run(["bash", "-n"], input=code, check=True, timeout=60)


# -- the package -------------------------------------------------------------------------------


def fields(control):
    return dict(line.split(": ", 1) for line in control.splitlines() if line[:1] != " ")


def test_the_control_file_asks_for_the_python_it_was_built_for(debian):
    found = fields(debian.control("0.1.0", "amd64", (3, 13), "2.38", 1234))
    assert found["Package"] == "airdraft"
    assert (found["Version"], found["Architecture"]) == ("0.1.0", "amd64")
    assert found["Installed-Size"] == "1234"
    depends = found["Depends"].split(", ")
    assert {"python3 (>= 3.13~)", "python3 (<< 3.14~)", "libc6 (>= 2.38)"} <= set(depends)
    assert {"libgomp1", "libstdc++6"} <= set(depends)


def test_llama_cpp_is_compiled_for_other_machines_unless_told_otherwise(debian):
    # glibc is what the libraries ask for.
    libraries = [b"\0GLIBC_2.9\0GLIBC_2.34\0", b"\0GLIBC_2.38\0GLIBCXX_3.4.99\0", b"nothing"]
    assert debian.least_glibc(libraries) == "2.38"
    flags = debian.cmake_args("amd64").split()
    wanted = {"-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DLLAVA_BUILD=OFF"}
    assert wanted <= set(flags)
    assert "-DGGML_NATIVE=OFF" in debian.cmake_args("arm64")
    assert "-DGGML_NATIVE=OFF" in debian.cmake_args("riscv64")
    assert debian.cmake_args("amd64", "-DGGML_NATIVE=ON") == "-DLLAVA_BUILD=OFF -DGGML_NATIVE=ON"


def test_units_user_directories_and_samples_go_where_the_system_looks(build_deb, tmp_path):
    there = {to for _, to in build_deb.copies(ROOT)}
    assert {
        "usr/bin/airdraft",
        "usr/lib/systemd/system/airdraft-target@.service",
        "usr/lib/systemd/system/airdraft-coordinator.socket",
        "usr/lib/systemd/system/airdraft.target",
        "usr/lib/sysusers.d/airdraft.conf",
        "usr/lib/tmpfiles.d/airdraft.conf",
        "usr/share/doc/airdraft/examples/gateway.toml",
        "usr/share/doc/airdraft/copyright",
        "usr/share/doc/airdraft/docs/guides/deploy.md",
    } <= there
    assert not any(to.startswith(("etc/", "/")) for to in there)
    # A file that is missing is found.
    with pytest.raises(LookupError, match="packaging/airdraft"):
        build_deb.copies(tmp_path)


def test_the_command_is_isolated_and_units_start_it(debian):
    launcher = (PACKAGING / "airdraft").read_text()
    assert launcher.startswith(f"#!/{debian.HOME}/bin/python3 -I\n")
    for unit in ROOT.glob("systemd/*.service"):
        assert "ExecStart=/usr/bin/airdraft " in unit.read_text()
    # The system's own packages are not seen.
    assert "include-system-site-packages = false\n" in debian.pyvenv((3, 13))


def test_maintainer_scripts_are_shell_and_can_be_run(debian):
    for name in (*debian.MAINTAINER_SCRIPTS, "airdraft", "try-in-container"):
        assert os.access(PACKAGING / name, os.X_OK), name
    for name in (*debian.MAINTAINER_SCRIPTS, "try-in-container"):
        shell = "bash" if name == "try-in-container" else "sh"
        subprocess.run([shell, "-n", str(PACKAGING / name)], check=True, timeout=60)


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
    with pytest.raises(LookupError, match="llama-cpp"):
        debian.split_lock(LOCK, "llama-cpp")
    # So is the one of the engine.
    own, _ = debian.split_lock((ROOT / "requirements" / "run.txt").read_text(), "llama-cpp-python")
    assert own.count("==") == 1
    assert "--hash=sha256:" in own


def test_the_record_forgets_what_was_left_out(debian):
    text = '../../bin/run,sha256=x,9\n"z,1.py",sha256=y,1\na.py,sha256=z,2\n'
    kept = debian.record_of(text, lambda name: not name.startswith(".."))
    assert kept == 'a.py,sha256=z,2\n"z,1.py",sha256=y,1\n'


def test_the_time_of_all_files_is_that_of_the_last_commit_unless_it_is_said(build_deb, tmp_path):
    assert build_deb.epoch_s({"SOURCE_DATE_EPOCH": "12"}, tmp_path) == 12
    for said in ({}, {"SOURCE_DATE_EPOCH": "today"}):
        with pytest.raises(LookupError, match="SOURCE_DATE_EPOCH"):
            build_deb.epoch_s(said, tmp_path)
    environ = {"GIT_AUTHOR_DATE": "@99 +0000", "GIT_COMMITTER_DATE": "@100 +0000"}
    who = ["-c", "user.name=a", "-c", "user.email=a@example.invalid"]
    for command in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True, env=environ, timeout=10)
    assert build_deb.epoch_s({}, tmp_path) == 100


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
