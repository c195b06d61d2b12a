"""Bytes of guesses and commits on a link, with the overhead of ZeroMQ and CURVE.

A relay between two sockets with keys on loopback TCP counts the bytes on the connection: those of
the TCP stream, without the headers of its packets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from contextlib import closing
from random import Random
from typing import Any

import click

from airdraft.mesh.codec import encode
from airdraft.mesh.keys import ClientKeys
from airdraft.mesh.messages import Ping
from airdraft.mesh.security import ServerKeys, new_key_pair
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.messages import (
    AddedEntry,
    ChainPart,
    CommitEntry,
    CommitNotice,
    CommitReply,
    GuessNotice,
)
from airdraft.policies.acceptance import expected_tokens
from bench.emulate.cell import UP, Cell, Station
from bench.emulate.proxy import HEADER_BYTES, ProxyCell, proxy_cell
from bench.harness.report import head, row
from bench.options import at_least, streams_option

# Chances that a guess is right: of many, of most and of nearly all.
ALPHAS = (0.6, 0.8, 0.9)
# Typical ranges in a busy mesh: stream ids, lengths of texts in tokens, bytes of a token's text.
_IDS, _LENGTHS = (1_000, 1_200), (700, 900)
_TOKEN_BYTES = 4
# Times that each message is sent, so that a keep-alive between them does not matter.
_TIMES = 50
_LIMIT_S = 120.0
_NODE = "node"
_CELL = Cell(stations=(Station(name=_NODE, rate_bps=1e9),), shares=(1.0,))
# Other systems send, for each guess, a float64 of msgpack for every token of the vocabulary.
_FLOAT_BYTES = 9


def pass_messages(
    num_streams: int, gamma: int, alpha: float, num_vocab: int, seed: int = 1
) -> list[Any]:
    """Draw the messages around a pass: guesses, the target's commit, and that to the draft node."""
    random = Random(seed)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(random.randrange(num_vocab) for _ in range(count))

    num_new = max(1, round(expected_tokens(alpha, gamma)))
    streams = [random.randrange(*_IDS) for _ in range(num_streams)]
    lengths = [random.randrange(*_LENGTHS) for _ in range(num_streams)]
    guessed = [
        ChainPart(stream, 3, 40, length + num_new, bytes([200] * gamma))
        for stream, length in zip(streams, lengths, strict=True)
    ]
    committed = [
        CommitEntry(s, 1, n, num_new, gamma, num_new - 1, "", b"x" * _TOKEN_BYTES * num_new)
        for s, n in zip(streams, lengths, strict=True)
    ]
    added = [AddedEntry(s, 3, n, num_new) for s, n in zip(streams, lengths, strict=True)]
    new = tokens(num_streams * num_new)
    return [
        GuessNotice(tuple(guessed), tokens(num_streams * gamma), draft_us=31_234),
        CommitReply(0.0391, tuple(committed), new),
        CommitNotice(tuple(added), new),
    ]


async def measure(
    counts: Sequence[int], gamma: int, num_vocab: int, alphas: Sequence[float] = ALPHAS
) -> dict[int, list[dict[str, float]]]:
    """Returns the bytes on a connection of each message by its name, for each of alphas, by the
    number of streams."""
    async with asyncio.timeout(_LIMIT_S * len(counts) * len(alphas)):
        return {
            count: [await _sized(pass_messages(count, gamma, a, num_vocab)) for a in alphas]
            for count in counts
        }


async def _sized(messages: Sequence[Any]) -> dict[str, float]:
    server_pair, client_pair = new_key_pair(), new_key_pair()
    server_keys = ServerKeys(server_pair, {client_pair.public}.__contains__)
    client_keys = ClientKeys(client_pair, server_pair.public)
    found = {}
    async with contextlib.AsyncExitStack() as stack:
        context = stack.enter_context(ZmqContext())
        relay = await stack.enter_async_context(proxy_cell(_CELL))
        server = stack.enter_context(closing(context.bind("tcp://127.0.0.1:0", server_keys)))
        host, port = await relay.dial(_NODE, int(server.endpoint.rpartition(":")[2]))
        client = stack.enter_context(closing(context.connect(f"tcp://{host}:{port}", client_keys)))
        await client.writable()
        # The handshake is over once a message has arrived.
        client.send(encode(Ping(0, 0), cluster="airdraft", epoch=1 << 31))
        await server.recv()
        for message in messages:
            frames = encode(message, cluster="airdraft", epoch=1 << 31)
            before = _bytes_sent(relay)
            for _ in range(_TIMES):
                client.send(frames)
                await server.recv()
            found[type(message).__name__] = (_bytes_sent(relay) - before) / _TIMES
    return found


def _bytes_sent(relay: ProxyCell) -> int:
    """Returns the bytes that the node has sent so far, without the headers of packets."""
    sent = relay.counters()[_NODE, UP]
    return sent.num_bytes - sent.num_frames * HEADER_BYTES


def table(found: dict[int, list[dict[str, float]]], gamma: int) -> str:
    """Returns a table of the messages at the middle acceptance, and of the draft node's link."""
    lines = [head("streams", *found[min(found)][0], "a guess on the draft node's link, both ways")]
    for count, by_alpha in found.items():
        sizes = (f"{size:.0f}" for size in by_alpha[len(by_alpha) // 2].values())
        each = sorted(
            (sized["GuessNotice"] + sized["CommitNotice"]) / (count * gamma) for sized in by_alpha
        )
        lines.append(row(count, *sizes, f"{each[0]:.1f} to {each[-1]:.1f}"))
    return "\n".join(lines)


@click.command("wire")
@streams_option("1,4,16")
@click.option("--gamma", default=4, type=click.IntRange(1, 16))
@at_least("--vocab", 49_152, "Tokens of the vocabulary.")
def wire_command(streams: list[int], gamma: int, vocab: int) -> None:
    """Count the bytes that a pass sends over links.

    The table shows them with ZeroMQ and CURVE.

    \b
    Example:
      python -m bench wire --streams 16
    """
    click.echo(table(asyncio.run(measure(streams, gamma, vocab)), gamma))
    click.echo(
        f"\nGamma {gamma}, {vocab} tokens. A vector of probabilities for a guess, as msgpack's "
        f"float64, would be {vocab * _FLOAT_BYTES:,} bytes."
    )
