"""Asks a coordinator something before this machine is one of its members."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.errors import BackpressureError, MeshError
from airdraft.mesh.keys import ClientKeys
from airdraft.mesh.messages import Refuse
from airdraft.mesh.transport import ClientTransport
from airdraft.mesh.zmq_transport import ZmqContext

T = TypeVar("T")

_RESEND_S = 1.0
_POLL_S = 0.05
# As in a node's link: a refused handshake is not tried again by ZeroMQ.
_RETRY_S = 2.0


class RefusedToAnswerError(MeshError):
    """The coordinator has another version of the protocol; the message gives the reason."""


async def ask(
    endpoint: str, keys: ClientKeys | None, request: Any, reply: type[T], limit_s: float | None
) -> T:
    """Returns the reply to a request, which is sent again and again.

    Raises TimeoutError, DecodeError or RefusedToAnswerError.
    """
    with ZmqContext() as context:
        transport = context.connect(endpoint, keys)
        async with asyncio.timeout(limit_s):
            asking = asyncio.create_task(_repeat(transport, encode(request)))
            try:
                while True:
                    message = decode(await transport.recv()).message
                    if isinstance(message, Refuse):
                        raise RefusedToAnswerError(message.reason)
                    if isinstance(message, reply):
                        return message
            finally:
                asking.cancel()


async def _repeat(transport: ClientTransport, request: list[bytes]) -> None:
    """Send the request again and again, over a new connection while there is none."""
    loop = asyncio.get_running_loop()
    connecting_since = loop.time()
    while True:
        try:
            transport.send(request)
            await asyncio.sleep(_RESEND_S)
            connecting_since = loop.time()
        except BackpressureError:
            await asyncio.sleep(_POLL_S)
            if loop.time() - connecting_since > _RETRY_S:
                connecting_since = loop.time()
                transport.retry()
