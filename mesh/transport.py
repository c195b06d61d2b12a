"""The interface that carries frames between one server and its clients, whatever they contain."""

from typing import Final, NamedTuple, Protocol, TypeAlias

Frames: TypeAlias = list[bytes]

MAX_FRAMES: Final = 3
MAX_QUEUED_MESSAGES: Final = 1000


class Received(NamedTuple):
    """A message and its sender. key: the sender's proven public key, "" on links without keys."""

    peer: bytes
    frames: Frames
    key: str = ""


class ServerTransport(Protocol):
    """The side that binds. Peers are ids that the transport has made up."""

    endpoint: str  # as bound, with a wildcard port resolved

    async def recv(self) -> Received:
        """Wait for the next message. Only one task may call it; cancelling it loses nothing.

        Raises SecurityError once the authentication of peers has failed.
        """

    async def lost_peers(self) -> list[bytes]:
        """Wait for and return peers whose connections seem to have closed since the last call.

        It covers peers that sent something since the first call. Only one task may call it. The
        result is not certain: if it is true, a send raises PeerGoneError at most a moment later.
        """

    def quiet_s(self, peer: bytes) -> float | None:
        """Returns the seconds since a peer sent any bytes, even part of a message; None if unknown.

        While much data is in transit to the peer, bytes that it acknowledges count as well.
        """

    def send(self, peer: bytes, frames: Frames) -> None:
        """Queue a message without waiting. Raises PeerGoneError or BackpressureError."""

    def close(self) -> None:
        """Release the endpoint. A task waiting in recv gets LocalProtocolError."""


class ClientTransport(Protocol):
    """The side that connects. It reconnects automatically after a loss."""

    async def recv(self) -> Frames:
        """Wait for the next message. Only one task may call it; cancelling it loses nothing."""

    async def lost(self) -> None:
        """Wait until a connection closes, even one that was never open. One task only.

        Connections that closed before the first call are not reported.
        """

    def quiet_s(self) -> float | None:
        """Like ServerTransport.quiet_s(), for the other side of this connection."""

    def send(self, frames: Frames) -> None:
        """Queue a message without waiting. Raises BackpressureError if full or not connected."""

    def retry(self) -> None:
        """Connect again, because a connection refused for its key is not retried automatically."""

    def close(self) -> None:
        """Close the connection. A task waiting in recv gets LocalProtocolError."""
