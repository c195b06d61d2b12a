"""The Python library: connect to a mesh, complete, chat and stream, with or without asyncio.

See docs/reference/python-library.md. Names that are not in __all__ may change at any time.
"""

from nodes.api.answers import Choice, Completion, Piece, Usage
from nodes.api.blocking import SyncClient, SyncStream, open_client
from nodes.api.client import Conversation, MeshClient, Options, Stream, connect
from nodes.api.errors import (
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
from nodes.messages import ChatMessage

__all__ = [
    "AirdraftError",
    "AnswerTimeoutError",
    "ChatMessage",
    "Choice",
    "Completion",
    "ConnectError",
    "ConnectionLostError",
    "Conversation",
    "InternalError",
    "InvalidRequestError",
    "MeshClient",
    "Options",
    "OverloadedError",
    "Piece",
    "RequestError",
    "Stream",
    "SyncClient",
    "SyncStream",
    "UnavailableError",
    "Usage",
    "connect",
    "open_client",
]
