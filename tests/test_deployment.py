"""The guides of deployment say what is true."""

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from airdraft.nodes.cli.main import cli
from tests.nodes.service.test_units import needs_systemd, units, verified

__all__ = ["units"]

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "docs" / "guides"
# What was one page: the commands, what comes after them, and machines of other kinds.
TEXT = "\n".join(
    (GUIDES / name).read_text() for name in ("deploy.md", "operate.md", "gpu-and-jetson.md")
)
_COMMANDS = ("airdraft", "/opt/airdraft/bin/airdraft")


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
