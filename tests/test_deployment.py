"""The guides of deployment say what is true; the Debian package is made of what it should be."""

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from nodes.cli.main import cli
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


def blocks(text):
    """Its code blocks: lines of four spaces that follow one another."""
    return [
        "\n".join(code_lines(block))
        for block in re.findall(r"(?:^    .*\n)+", text, flags=re.MULTILINE)
    ]


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


@pytest.mark.parametrize("words", [["keys", "invent"], ["join", "--nmae", "x"], ["nodes", "lost"]])
def test_a_command_that_is_none_is_found(words):
    with pytest.raises(click.UsageError):
        parse(words)


def test_the_guide_has_the_commands_that_matter():
    said = {" ".join(words[:2]) for words in COMMANDS}
    assert {"keys init", "keys invite", "join TOKEN", "models pull", "install-units"} <= said


def test_each_file_that_the_guide_links_or_names_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (GUIDES / link).exists()] == []
    named = re.findall(r"(?<![\w/.])(?:bench|docs|systemd|packaging)/[\w./@-]*\w", TEXT)
    assert "packaging/try-in-container" in named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_samples_that_the_guide_copies_are_shipped(debian):
    copied = re.search(r"examples/\{([\w,]+)\}\.toml", TEXT)[1].split(",")
    copied += re.findall(r"examples/(\w+)\.toml", TEXT)
    assert sorted(copied) == sorted(path.stem for path in ROOT.glob("systemd/etc/*.toml"))
    for name in copied:
        tomllib.loads((ROOT / "systemd" / "etc" / f"{name}.toml").read_text())
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
    made = verified(units, {unit for unit, *_ in found})
    assert (made.returncode, made.stderr) == (0, "")


def test_blocks_of_the_guide_are_shell():
    for block in blocks(TEXT):
        subprocess.run(["bash", "-n"], input=block.encode(), check=True, timeout=60)


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


def test_glibc_is_what_the_libraries_ask_for(debian):
    libraries = [b"\0GLIBC_2.9\0GLIBC_2.34\0", b"\0GLIBC_2.38\0GLIBCXX_3.4.99\0", b"nothing"]
    assert debian.least_glibc(libraries) == "2.38"


def test_llama_cpp_is_compiled_for_other_machines_unless_told_otherwise(debian):
    flags = debian.cmake_args("amd64").split()
    wanted = {"-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DLLAVA_BUILD=OFF"}
    assert wanted <= set(flags)
    assert "-DGGML_NATIVE=OFF" in debian.cmake_args("arm64")
    assert "-DGGML_NATIVE=OFF" in debian.cmake_args("riscv64")
    assert debian.cmake_args("amd64", "-DGGML_NATIVE=ON") == "-DLLAVA_BUILD=OFF -DGGML_NATIVE=ON"


def test_units_user_directories_and_samples_go_where_the_system_looks(build_deb):
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


def test_a_file_that_is_missing_is_found(build_deb, tmp_path):
    with pytest.raises(LookupError, match="packaging/airdraft"):
        build_deb.copies(tmp_path)


def test_the_command_is_isolated_and_units_start_it(debian):
    launcher = (PACKAGING / "airdraft").read_text()
    assert launcher.startswith(f"#!/{debian.HOME}/bin/python3 -I\n")
    for unit in ROOT.glob("systemd/*.service"):
        assert "ExecStart=/usr/bin/airdraft " in unit.read_text()


def test_the_system_s_own_packages_are_not_seen(debian):
    assert "include-system-site-packages = false\n" in debian.pyvenv((3, 13))


def test_maintainer_scripts_are_shell_and_can_be_run(debian):
    for name in (*debian.MAINTAINER_SCRIPTS, "airdraft", "try-in-container"):
        assert os.access(PACKAGING / name, os.X_OK), name
    for name in (*debian.MAINTAINER_SCRIPTS, "try-in-container"):
        shell = "bash" if name == "try-in-container" else "sh"
        subprocess.run([shell, "-n", str(PACKAGING / name)], check=True, timeout=60)
