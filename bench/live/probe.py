"""A process that measures the delays of replies, beside the clients of a measurement.

    python -m bench.live.probe ENDPOINT KEYS SECONDS

It sends a Ping to a coordinator every 10 ms. Keys are not used. It has priority on its core if the
system permits it, so it measures only the other side's delay and the round trip. It prints a line
when it is ready. After SIGUSR1 it measures, and prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.credits import Meter
from airdraft.mesh.messages import PROTOCOL_VERSION, Credit, Hello, Ping, Pong, Welcome
from airdraft.mesh.zmq_transport import ZmqContext

_INTERVAL_S = 0.01
_PRIORITY = 1


def _first_in_line() -> bool:
    """Try to give this process and its later threads priority; return whether that worked."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except PermissionError:
        return False
    return True


async def _delays(endpoint: str, seconds: float) -> list[float]:
    """Returns how long each answer took."""
    with ZmqContext() as context:
        transport = context.connect(endpoint)
        await transport.writable()
        transport.send(encode(Hello("probe", "client", 1, PROTOCOL_VERSION, b"")))
        welcome = decode(await transport.recv()).message
        assert isinstance(welcome, Welcome)
        meter = Meter()

        def send(message: object) -> None:
            transport.send(encode(message, cluster=welcome.cluster, epoch=welcome.epoch))

        delays: list[float] = []
        end = time.perf_counter() + seconds
        while (sent := time.perf_counter()) < end:
            send(Ping(len(delays), 0))
            message = None
            while not (isinstance(message, Pong) and message.seq == len(delays)):
                message = decode(await transport.recv()).message
                if granted := meter.read():
                    send(Credit(granted))
            delays.append(time.perf_counter() - sent)
            await asyncio.sleep(_INTERVAL_S)
        return delays


def main(endpoint: str, _keys: str, seconds: str) -> None:
    is_first = _first_in_line()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    print(flush=True)
    signal.sigwait({signal.SIGUSR1})
    delays_s = asyncio.run(_delays(endpoint, float(seconds)))
    print(json.dumps({"is_first": is_first, "delays_s": delays_s}))


if __name__ == "__main__":
    main(*sys.argv[1:])
