"""The Python library: connect to a mesh, complete, chat and stream, with or without asyncio.

Programs import these names from `airdraft`: see docs/reference/python-library.md.
"""

from airdraft.nodes.api.answers import Choice, Completion, Piece, Usage
from airdraft.nodes.api.blocking import Client, Stream
from airdraft.nodes.api.client import AsyncClient, AsyncStream, Conversation, Options, connect
from airdraft.nodes.api.errors import (
    AirdraftError,
    AnswerTimeoutError,
    ConnectError,
    ConnectionLostError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from airdraft.nodes.messages import ChatMessage

__all__ = [
    "AirdraftError",
    "AnswerTimeoutError",
    "AsyncClient",
    "AsyncStream",
    "ChatMessage",
    "Choice",
    "Client",
    "Completion",
    "ConnectError",
    "ConnectionLostError",
    "Conversation",
    "InternalError",
    "InvalidRequestError",
    "Options",
    "OverloadedError",
    "Piece",
    "RequestError",
    "Stream",
    "UnavailableError",
    "Usage",
    "connect",
]
