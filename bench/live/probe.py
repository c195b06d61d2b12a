"""A process that sends Pings to a coordinator and measures the delay of each reply.

Its arguments are endpoint, keys (unused) and seconds. It is separate from the clients of a
measurement, and has priority on its core if the system permits it. So it measures only the
coordinator's own delay and the round trip.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time

from mesh.codec import decode, encode
from mesh.credits import Meter
from mesh.messages import PROTOCOL_VERSION, Credit, Hello, Ping, Pong, Welcome
from mesh.transport import ClientTransport
from mesh.zmq_transport import ZmqContext

INTERVAL_S = 0.01
_PRIORITY = 1


def first_in_line() -> bool:
    """Try to give this process and its later threads priority; return whether that worked."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except PermissionError:
        return False
    return True


async def _main(endpoint: str, seconds: float) -> None:
    """Print a line when ready; after SIGUSR1, ping for `seconds` and print JSON."""
    is_first = first_in_line()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    print(flush=True)
    signal.sigwait({signal.SIGUSR1})
    with ZmqContext() as context:
        transport = context.connect(endpoint)
        welcome = await _joined(transport)
        delays_s = await _delays(transport, welcome, seconds)
    print(json.dumps({"is_first": is_first, "delays_s": delays_s}))


async def _joined(transport: ClientTransport) -> Welcome:
    await transport.writable()
    transport.send(encode(Hello("probe", "client", 1, PROTOCOL_VERSION, b"")))
    welcome = decode(await transport.recv()).message
    assert isinstance(welcome, Welcome)
    return welcome


async def _delays(transport: ClientTransport, welcome: Welcome, seconds: float) -> list[float]:
    def send(message: object) -> None:
        transport.send(encode(message, cluster=welcome.cluster, epoch=welcome.epoch))

    meter = Meter()
    delays: list[float] = []
    end = time.perf_counter() + seconds
    while (sent := time.perf_counter()) < end:
        send(Ping(len(delays), 0))
        while True:
            message = decode(await transport.recv()).message
            if granted := meter.read():
                send(Credit(granted))
            if isinstance(message, Pong) and message.seq == len(delays):
                break
        delays.append(time.perf_counter() - sent)
        await asyncio.sleep(INTERVAL_S)
    return delays


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], float(sys.argv[3])))
