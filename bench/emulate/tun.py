"""A cell of network namespaces joined by TUN devices: real TCP, one medium in user space."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from bench.emulate.cell import Cell, Counters, CountersOf, Direction
from bench.emulate.relay import address
from bench.harness.processes import HUB, Places
from bench.netns import NamespacesError, entered, inside, ip, namespaces

MTU = 1400
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


@dataclass(frozen=True)
class TunCell(Places):
    """A running cell. places: the namespaces of the hub (HUB) and of each station, by name. relay:
    the process that carries packets between them.
    """

    cell: Cell
    places: dict[str, str]
    relay: subprocess.Popen[str]

    kind = "TUN devices in network namespaces"
    hub_host = address(0)

    def command(self, place: str, argv: Sequence[str]) -> list[str]:
        """Returns a command that runs argv at a place; programs left at the end are killed."""
        return inside(self.places[place], argv)

    def entered(self, place: str) -> contextlib.AbstractContextManager[None]:
        return entered(self.places[place])

    def counters(self) -> CountersOf:
        """Returns the counters of each station and direction so far.

        Raises NamespacesError if the relay has ended.
        """
        assert self.relay.stdout is not None
        self._send_line("counters")
        if not (line := self.relay.stdout.readline()):
            raise NamespacesError(f"the cell's relay has ended, status {self.relay.wait()}")
        return {(name, way): Counters(**values) for name, way, values in json.loads(line)}

    def cut(self, station: str, directions: Sequence[Direction], *, ends: bool = False) -> None:
        """Lose every packet in these directions of a station's link, until the cut ends."""
        for direction in directions:
            self._send_line(f"{'mend' if ends else 'cut'} {station} {direction}")

    def _send_line(self, line: str) -> None:
        assert self.relay.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(line, file=self.relay.stdin, flush=True)


@contextlib.contextmanager
def tun_cell(cell: Cell) -> Iterator[TunCell]:
    """Make namespaces, devices and the relay; all are removed at the end, and after a SIGKILL.

    Raises NamespacesError if namespaces or devices cannot be made.
    """
    with contextlib.ExitStack() as stack:
        names = stack.enter_context(namespaces(len(cell.stations) + 1))
        fds = []
        for place, name in enumerate(names):
            fds.append(_open_tun(name))
            stack.callback(os.close, fds[-1])
            _set_up(name, place)
        relay = _start_relay(cell, names, fds)
        stack.callback(_stop_relay, relay)
        assert relay.stdout is not None
        if relay.stdout.readline() != "ready\n":
            raise NamespacesError(f"the cell's relay did not start, status {relay.wait()}")
        stations = [station.name for station in cell.stations]
        yield TunCell(cell, dict(zip([HUB, *stations], names, strict=True)), relay)


def _open_tun(name: str) -> int:
    """Make a device in the present namespace, which exists as long as it is open."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NamespacesError(f"/dev/net/tun: {error.strerror}") from error
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        raise NamespacesError(f"a TUN device cannot be made: {error.strerror}") from error
    return fd


def _set_up(name: str, place: int) -> None:
    """Move the device into the namespace of its name; its file descriptor stays valid."""
    ip("link", "set", name, "netns", name)
    ip("-n", name, "addr", "add", f"{address(place)}/24", "dev", name)
    ip("-n", name, "link", "set", name, "mtu", str(MTU), "up")


def _start_relay(cell: Cell, names: list[str], fds: list[int]) -> subprocess.Popen[str]:
    order = {"cell": asdict(cell), "namespaces": names, "fds": fds}
    # A session of its own, so that Ctrl-C reaches only the user of the cell, which ends the relay.
    return subprocess.Popen(
        [sys.executable, "-m", "bench.emulate.relay", json.dumps(order)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=fds,
        start_new_session=True,
    )  # fmt: skip


def _stop_relay(relay: subprocess.Popen[str]) -> None:
    # If its input ended first, it would take this process for gone.
    relay.kill()
    relay.communicate()
