"""`python -m bench two-machines`: two network namespaces, joined by a cable with a listener on it.

One runs a coordinator and a target, the other a draft node and a client; only documented commands
start them. The listener must not find prompt or answer on the cable. That it hears the links of the
mesh is shown by their greetings, which are in the clear. The other machine's monotonic clocks are a
day ahead, because no two machines agree on them. Needs root, `ip` and `unshare`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from airdraft.nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET
from bench.netns import NamespacesError, inside, ip, namespaces

HERE, THERE = "10.99.7.1", "10.99.7.2"
_A_DAY_AHEAD = (
    *("unshare", "--time", "--monotonic=86400", "--boottime=86400"),
    *("--fork", "--kill-child=SIGKILL"),
)
_START_LIMIT_S = 120.0
_MAX_TOKENS = 48
# After this time the last packets are in the file.
_PACKETS_S = 0.3
# A link greets with the name of its mechanism, in the clear.
_GREETING = b"CURVE".ljust(20, b"\0")


@dataclass(frozen=True, slots=True)
class Machine:
    """One namespace that stands for a machine. command: runs `airdraft` in it.

    ends: ends what was started.
    """

    name: str
    command: Sequence[str]
    keys: Path
    ends: contextlib.ExitStack

    def _settings(self, arguments: Sequence[str]) -> dict[str, Any]:
        return {
            "args": inside(self.name, [*self.command, *arguments]),
            "env": {**os.environ, "AIRDRAFT_KEYS": str(self.keys)},
            "stdin": subprocess.DEVNULL,
            "text": True,
        }

    def run(self, *arguments: str) -> str:
        """Run a command to its end and return its output. Raises NamespacesError if it fails."""
        done = subprocess.run(**self._settings(arguments), capture_output=True, timeout=120)
        if done.returncode:
            raise NamespacesError(f"airdraft {arguments[0]}: {done.stderr.strip()}")
        return str(done.stdout.strip())

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that runs until the end."""
        process = subprocess.Popen(
            **self._settings(arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.ends.enter_context(process)
        self.ends.callback(process.kill)
        return process


_SNIFF = """
import socket, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.bind((sys.argv[1], 0))
print("up", flush=True)
with open(sys.argv[2], "wb", buffering=0) as out:
    while True:
        out.write(raw.recv(65536))
"""


@contextlib.contextmanager
def sniffing(namespace: str, interface: str, path: Path) -> Iterator[None]:
    """Record every packet of an interface in a file."""
    command = [sys.executable, "-c", _SNIFF, interface, str(path)]
    with subprocess.Popen(inside(namespace, command), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def cabled() -> Iterator[tuple[str, str, str]]:
    """Make two joined namespaces; yield their names and that of their interface."""
    with namespaces(2) as (here, there):
        cable = f"ve{secrets.token_hex(2)}"
        ip("link", "add", cable, "netns", here, "type", "veth", "peer", cable, "netns", there)
        for name, address in ((here, HERE), (there, THERE)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
        yield here, there, cable


@click.command("two-machines")
@click.option("--airdraft", help="Command to test. Default: that of this installation.")
@click.option("--target", default=DEFAULT_TARGET, help="Target model.")
@click.option("--draft", default=DEFAULT_DRAFT, help="Draft model.")
def two_machines_command(airdraft: str | None, target: str, draft: str) -> None:
    """Make a mesh of two network namespaces by invitation.

    The traffic between them is recorded and searched. This needs root.

    \b
    Example:
      python -m bench two-machines --airdraft /opt/airdraft/bin/airdraft
    """
    command = [airdraft] if airdraft else [sys.executable, "-m", "airdraft"]
    click.echo(mesh_by_invitation(command, target, draft))


def mesh_by_invitation(command: Sequence[str], target: str, draft: str) -> str:
    """Start the mesh, send requests from the other machine, and search the cable for the texts.

    Returns a report. Raises AssertionError if a part of a text was found, NamespacesError if the
    run fails.
    """
    prompt = f"The heron {secrets.token_hex(8)} waits beside the water because"
    with (
        tempfile.TemporaryDirectory() as folder,
        cabled() as (here, there, cable),
        contextlib.ExitStack() as ends,
    ):
        hub = Machine(here, command, Path(folder) / "hub", ends)
        nano = Machine(there, [*_A_DAY_AHEAD, *command], Path(folder) / "nano", ends)
        packets = Path(folder) / "packets"
        with sniffing(here, cable, packets):
            joined, answer = _serve(hub, nano, prompt, target, draft)
            time.sleep(_PACKETS_S)
        data, pieces = packets.read_bytes(), _pieces(prompt) | _pieces(answer["text"])
    if _GREETING not in data:
        raise NamespacesError("the listener did not hear the links of the mesh")
    if found := [part for part in pieces if part in data]:
        raise AssertionError(f"{len(found)} pieces of the texts were on the cable")
    return (
        f"{joined}; {_MAX_TOKENS} tokens requested from the other machine, {answer['num_rounds']} "
        f"passes with {answer['num_accepted_tokens']} guesses accepted; {len(data)} bytes on the "
        f"cable, greetings of links among them, hold none of {len(pieces)} pieces of prompt and "
        f"answer"
    )


def _serve(
    hub: Machine, nano: Machine, prompt: str, target: str, draft: str
) -> tuple[str, dict[str, Any]]:
    """Returns what joining printed, and the answer to a request."""
    endpoint = f"tcp://{HERE}:7411"
    hub.run("keys", "init", "--name", "hub")
    coordinator = hub.start("coordinator", "--listen", endpoint)
    assert coordinator.stdout is not None
    if "listening" not in (line := coordinator.stdout.readline()):
        raise NamespacesError(f"the coordinator did not start: {line}")
    token = hub.run("keys", "invite", "--role", "draft", "--role", "client", "--endpoint", endpoint)
    joined = nano.run("join", token, "--name", "nano")
    hub.start("target", "--connect", endpoint, "--model", target)
    nano.start("draft", "--model", draft)
    length = ("--max-tokens", str(_MAX_TOKENS))
    ask = ("generate", "--raw", prompt, *length, "--gamma", "3", "--json")
    give_up_at = time.monotonic() + _START_LIMIT_S
    # The first tries fail or have no guesses while the nodes load their models.
    while time.monotonic() < give_up_at:
        with contextlib.suppress(NamespacesError):
            answer = json.loads(nano.run(*ask))
            if answer["num_rounds"]:
                return joined, answer
        time.sleep(0.3)
    raise NamespacesError(f"no pass with guesses within {_START_LIMIT_S:g} s")


def _pieces(text: str) -> set[bytes]:
    """Returns all substrings of 12 bytes; shorter ones would be found by chance."""
    data = text.encode()
    return {data[at : at + 12] for at in range(len(data) - 11)}
