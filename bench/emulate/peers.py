"""The programs of `python -m bench air`: a hub that receives batches over TCP, and its stations.

    python -m bench.emulate.peers hub HOST NUM_STATIONS BATCH_BYTES
    python -m bench.emulate.peers station NAME HOST PORT BATCH_BYTES

A station sends its batch after a line `go` on its standard input or a grant from the hub.

After a line of station names on its standard input, perhaps of none, the hub waits for a batch of
every station. It sends a grant to each named station, the next one when a batch has arrived. It
prints a line of JSON: when each batch arrived, on the machine's monotonic clock. Both programs end
with their input.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections.abc import Sequence

GRANT = b"g"
_LIMIT_S = 60.0


def hub(host: str, num_stations: int, batch_bytes: int) -> None:
    with socket.create_server((host, 0)) as server:
        server.settimeout(_LIMIT_S)
        print(server.getsockname()[1], flush=True)
        links: dict[str, socket.socket] = {}
        while len(links) < num_stations:
            link, _ = server.accept()
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            links[link.recv(100).decode()] = link
    print("all here", flush=True)
    for line in sys.stdin:
        print(json.dumps(_take_batches(links, line.split(), batch_bytes)), flush=True)
    for link in links.values():
        link.close()


def _take_batches(
    links: dict[str, socket.socket], turns: Sequence[str], batch_bytes: int
) -> dict[str, float]:
    waiting = list(turns)
    left = dict.fromkeys(links, batch_bytes)
    arrived_s: dict[str, float] = {}
    if waiting:
        links[waiting.pop(0)].sendall(GRANT)
    while len(arrived_s) < len(links):
        names = {link: name for name, link in links.items() if left[name]}
        ready, _, _ = select.select(list(names), [], [], _LIMIT_S)
        if not ready:
            raise TimeoutError(f"no byte within {_LIMIT_S} s, bytes missing: {left}")
        for link in ready:
            data = link.recv(left[names[link]])
            if not data:
                raise ConnectionError(f"{names[link]} has disconnected, bytes missing: {left}")
            left[names[link]] -= len(data)
            if not left[names[link]]:
                arrived_s[names[link]] = time.monotonic()
                if waiting:
                    links[waiting.pop(0)].sendall(GRANT)
    return arrived_s


def station(name: str, host: str, port: int, batch_bytes: int) -> None:
    batch = bytes(batch_bytes)
    with socket.create_connection((host, port), _LIMIT_S) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.sendall(name.encode())
        while True:
            for ready in select.select([link, sys.stdin], [], [])[0]:
                said = link.recv(1) if ready is link else sys.stdin.readline().encode()
                if not said:
                    return
                link.sendall(batch)


def main(role: str, *arguments: str) -> None:
    if role == "hub":
        host, num_stations, batch_bytes = arguments
        hub(host, int(num_stations), int(batch_bytes))
    else:
        name, host, port, batch_bytes = arguments
        station(name, host, int(port), int(batch_bytes))


if __name__ == "__main__":
    main(*sys.argv[1:])
