"""The process that carries packets between the TUN devices of a cell when the medium allows.

bench/emulate/tun.py starts it with a JSON object: the cell, its namespaces, and the file
descriptors of its devices, the hub's first. Lines on its standard input are `counters`, answered
with one line of JSON, `cut STATION up|down` and `mend STATION up|down`. If the input ends, the
process that made the namespaces is gone, and the relay removes them.
"""

from __future__ import annotations

import json
import math
import os
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from socket import inet_aton

from pydantic import TypeAdapter

from bench.emulate.cell import DOWN, UP, Cell
from bench.emulate.medium import Medium
from bench.netns import remove

# Longer than any packet: the devices' MTU is 1,400.
_PACKET_BYTES = 4096
_MOST_PACKETS_AT_ONCE = 64


def address(place: int) -> str:
    """Returns the IPv4 address of the hub (0) or of a station (1, 2, ...)."""
    return f"10.77.0.{place + 1}"


class Relay:
    """Carries packets through the medium.

    fds: non-blocking descriptors of the hub's device and the stations', in the order of the cell.
    """

    def __init__(self, cell: Cell, fds: Sequence[int]) -> None:
        self._medium = Medium(cell)
        self._hub = fds[0]
        names = [station.name for station in cell.stations]
        self._name_of = dict(zip(fds[1:], names, strict=True))
        self._fd_of = dict(zip(names, fds[1:], strict=True))
        self._at = {inet_aton(address(place + 1)): name for place, name in enumerate(names)}

    def serve(self, commands: int) -> None:
        """Carry packets until the input ends. commands: file descriptor of the commands."""
        buffered = b""
        while True:
            next_s = self._medium.next_event_s()
            wait_s = None if next_s == math.inf else max(0.0, next_s - time.monotonic())
            # select, because epoll waits for whole milliseconds.
            ready, _, _ = select.select([commands, self._hub, *self._name_of], [], [], wait_s)
            self._deliver()
            for fd in ready:
                if fd != commands:
                    self._take(fd)
            if commands in ready:
                said = os.read(commands, 4096)
                if not said:
                    return
                *lines, buffered = (buffered + said).split(b"\n")
                for line in lines:
                    self._run_command(line.decode().split())

    def _run_command(self, words: list[str]) -> None:
        match words:
            case ["counters"]:
                found = self._medium.counters().items()
                print(json.dumps([[*key, asdict(counters)] for key, counters in found]), flush=True)
            case [("cut" | "mend") as verb, station, ("up" | "down") as direction]:
                self._medium.cut(station, direction, time.monotonic(), ends=verb == "mend")

    def _take(self, fd: int) -> None:
        for _ in range(_MOST_PACKETS_AT_ONCE):
            try:
                packet = os.read(fd, _PACKET_BYTES)
            except BlockingIOError:
                return
            # Packets that no program sent (IPv6 solicitations, multicast) take no airtime.
            if packet[0] >> 4 != 4:
                continue
            to, station, direction = packet[16:20], "", UP
            if fd == self._hub:
                station, direction = self._at.get(to, ""), DOWN
            elif to == inet_aton(address(0)):
                station = self._name_of[fd]
            if station:
                self._medium.offer(station, direction, len(packet), packet, time.monotonic())

    def _deliver(self) -> None:
        for departure in self._medium.advance(time.monotonic()):
            up = departure.direction == UP
            os.write(self._hub if up else self._fd_of[departure.station], departure.payload)


def main() -> None:
    order = json.loads(sys.argv[1])
    relay = Relay(TypeAdapter(Cell).validate_python(order["cell"]), order["fds"])
    print("ready", flush=True)
    relay.serve(sys.stdin.fileno())
    remove(order["namespaces"])


if __name__ == "__main__":
    main()
