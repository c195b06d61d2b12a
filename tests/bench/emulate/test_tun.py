"""Namespaces of our own, and a cell of them and TUN devices; nothing is left behind."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.emulate.cell import DOWN, UP, Cell, Station
from bench.emulate.tun import HUB, TunCell, tun_cell
from bench.netns import inside, ip, namespaces, remove
from tests.cli.commands import wait_until

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and `ip`"
)
needs_tun = pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no /dev/net/tun here")


def there() -> set[str]:
    return {line.split()[0] for line in ip("netns", "list").splitlines()}


def test_namespaces_go_with_the_processes_in_them() -> None:
    script = "print('up', flush=True); import time; time.sleep(60)"
    with namespaces(2) as names:
        assert set(names) <= there()
        argv = inside(names[1], [sys.executable, "-c", script])
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            remove(names)
            assert process.wait(60) == -9
    assert not set(names) & there()


CELL = Cell(
    stations=(Station(name="far", rate_bps=1e6), Station(name="near", rate_bps=1e7)),
    shares=(0.5, 0.5),
    frame_s=0.001,
)
LISTEN = """
import socket, sys
with socket.create_server((sys.argv[1], 7400)) as server:
    print("up", flush=True)
    for _ in range(2):
        link, _ = server.accept()
        with link:
            data = b"".join(iter(lambda: link.recv(4096), b""))
            link.sendall(b"%d from %s" % (len(data), link.getpeername()[0].encode()))
"""
CALL = """
import socket, sys
with socket.create_connection((sys.argv[1], 7400), 60) as link:
    link.sendall(bytes(5392))
    link.shutdown(socket.SHUT_WR)
    print(link.recv(100).decode())
"""


def call(live: TunCell, station: str) -> str:
    argv = live.command(station, [sys.executable, "-c", CALL, live.hub_host])
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout


def sent(live: TunCell, station: str) -> int:
    """Segments of TCP that a station has sent, some of them again, as its kernel counts them."""
    argv = live.command(station, ["cat", "/proc/net/snmp"])
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    names, counts = (line.split() for line in text.splitlines() if line.startswith("Tcp:"))
    found = dict(zip(names, counts, strict=True))
    return int(found["OutSegs"]) + int(found["RetransSegs"])


@needs_tun
def test_stations_reach_the_hub_and_their_air_is_counted() -> None:
    with tun_cell(CELL) as live:
        argv = live.command(HUB, [sys.executable, "-c", LISTEN, live.hub_host])
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as hub:
            assert hub.stdout is not None
            hub.stdout.readline()
            assert call(live, "far") == "5392 from 10.77.0.2\n"
            assert call(live, "near") == "5392 from 10.77.0.3\n"
            assert hub.wait(60) == 0
        for name in ("far", "near"):
            # Those that TCP sends again where this machine is slow, too.
            wait_until(lambda name=name: live.counters()[name, UP].num_frames == sent(live, name))
        assert asyncio.run(live.dial("far", 7400)) == ("10.77.0.1", 7400)
        counters = live.counters()
    for name, rate_bps in (("far", 1e6), ("near", 1e7)):
        for way, at_least in ((UP, 5392), (DOWN, 20)):
            found = counters[name, way]
            assert found.num_bytes > at_least
            assert found.num_dropped == found.num_lost == found.num_collided == 0
            air_s = found.num_frames * 0.001 + found.num_bytes * 8 / rate_bps
            assert found.air_s == pytest.approx(air_s)
        # SYN, its acknowledgement, four segments, FIN, and acknowledgements of what the hub says.
        assert counters[name, UP].num_frames >= 7
    assert not set(live.places.values()) & there()


USER = """
import sys
from pydantic import TypeAdapter
from bench.emulate.cell import Cell
from bench.emulate.tun import tun_cell
with tun_cell(TypeAdapter(Cell).validate_json(sys.argv[1])) as live:
    print(*live.places.values(), flush=True)
    sys.stdin.read()
"""


@needs_tun
def test_nothing_is_left_when_the_user_is_killed() -> None:
    argv = [sys.executable, "-c", USER, json.dumps(asdict(CELL))]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        names = set(user.stdout.readline().split())
        assert len(names & there()) == 3
        user.kill()
    wait_until(lambda: not names & there())
