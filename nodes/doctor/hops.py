"""Checks the link to the coordinator and the coordinator's links to nodes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from airdraft.nodes.client.client import MeshClient, RequestFailedError
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.doctor.finding import Finding, fail, note, ok, warn
from airdraft.nodes.messages import NodeFields, NodesReply

_NUM_PINGS = 5
_LARGE_CHARS = 200_000
_SLOW_RTT_S = 0.1


@dataclass(frozen=True, slots=True)
class Hop:
    """The link between this machine and the coordinator. upload_s: the time for a large request
    there and a short answer back."""

    rtt_s: float
    upload_s: float
    nodes: tuple[NodeFields, ...]


async def measure(client: MeshClient) -> Hop:
    """Measure round trips of small messages, then one of a large request that is refused."""
    times = []
    reply = NodesReply(0, ())
    for _ in range(_NUM_PINGS):
        started = time.perf_counter()
        reply = await client.nodes()
        times.append(time.perf_counter() - started)
    started = time.perf_counter()
    refused = GenerateOptions(chat=False, temperature=-1.0)
    try:
        async for _ in client.generate("x" * _LARGE_CHARS, refused):
            pass
    except RequestFailedError as error:
        if error.code != "bad_request":
            raise
    return Hop(min(times), time.perf_counter() - started, reply.nodes)


def check_hop(hop: Hop, endpoint: str) -> list[Finding]:
    rtt = f"coordinator at {endpoint}: answers in {hop.rtt_s * 1e3:.1f} ms"
    seconds = hop.upload_s - hop.rtt_s
    rate = f"sending {_LARGE_CHARS // 1000} kB to it takes "
    if seconds < hop.rtt_s / 2:
        rate += "hardly longer than a small message"
    else:
        mbits_per_s = 8 * _LARGE_CHARS / seconds / 1e6
        rate += f"{seconds * 1e3:.0f} ms more than a small message ({mbits_per_s:.1f} Mbit/s)"
    if hop.rtt_s > _SLOW_RTT_S:
        mend = "use a wired link or a nearer access point; plain decoding suffers little from it"
        return [warn(rtt, mend), ok(rate)]
    return [ok(rtt), ok(rate)]


def check_absent(endpoint: str) -> Finding:
    """The finding if no coordinator listens here and this machine has joined no other mesh."""
    text = f"no coordinator runs at {endpoint}; `airdraft run` needs none"
    return note(text, "airdraft serve, or airdraft join TOKEN for a mesh elsewhere")


def check_nodes(nodes: Sequence[NodeFields]) -> list[Finding]:
    """Check the nodes by the round trips that the coordinator has measured to them."""
    if not any(node.role == "target" for node in nodes):
        mend = "start one: airdraft target"
        return [fail("no target node is in the mesh: nothing can be served", mend)]
    findings = []
    for node in nodes:
        rtt_s = node.rtt_us / 1e6
        text = f"{node.role} {node.node}: {node.model}"
        text += f", round trip to the coordinator {rtt_s * 1e3:.1f} ms" if node.rtt_us else ""
        if node.is_draining:
            findings.append(
                note(f"{text}; it is being drained", f"airdraft nodes undrain {node.node}")
            )
        elif rtt_s > _SLOW_RTT_S:
            mend = "use a wired link, or set [link] air if nodes share a radio cell"
            findings.append(warn(text, mend))
        else:
            findings.append(ok(text))
    return findings
