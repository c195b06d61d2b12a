"""What carries frames between one server and its clients; says nothing of messages."""

from typing import Final, NamedTuple, Protocol, TypeAlias

Frames: TypeAlias = list[bytes]

MAX_FRAMES: Final = 3
MAX_QUEUED_MESSAGES: Final = 1000


class Counters(Protocol):
    """Traffic so far; bytes are the sum of the frames' lengths, without framing."""

    bytes_sent: int
    bytes_received: int
    messages_sent: int
    messages_received: int
    messages_rejected: int  # received, but with no frame or more than MAX_FRAMES: dropped


class Received(NamedTuple):
    """A message and its sender. key: the public key it proved to hold, "" on links without keys."""

    peer: bytes
    frames: Frames
    key: str = ""


class ServerTransport(Counters, Protocol):
    """The side that binds, and knows its peers by ids the transport made up."""

    endpoint: str  # as bound: a wildcard port is resolved

    async def recv(self) -> Received:
        """The next message and its sender. One task only; cancelling it loses nothing.

        Raises SecurityError once strangers are no longer kept out.
        """

    async def lost_peers(self) -> list[bytes]:
        """Peers whose connections seem to have closed since the last call; waits for one.

        Of those that sent something since the first call. One task only. It is no verdict: a send
        raises PeerGoneError if it is true, a moment later at the latest.
        """

    def quiet_s(self, peer: bytes) -> float | None:
        """Seconds since anything came from a peer, parts of messages too; None if not known.

        Where much is on its way to it, also since it took some of that.
        """

    def send(self, peer: bytes, frames: Frames) -> None:
        """Queue without waiting. Raises PeerGoneError or BackpressureError."""

    def close(self) -> None:
        """Release the endpoint. A task still in recv gets LocalProtocolError."""


class ClientTransport(Counters, Protocol):
    """The side that connects, and connects again by itself after a loss."""

    async def recv(self) -> Frames:
        """The next message. One task only; cancelling it loses nothing."""

    async def lost(self) -> None:
        """Wait until a connection closes, be it one that was never open. One task only.

        Those that closed before the first call are not told.
        """

    def quiet_s(self) -> float | None:
        """As of a server's peer, of the other side."""

    async def writable(self) -> None:
        """Wait until a send has room: connected, and the queue not full. One task only."""

    def send(self, frames: Frames) -> None:
        """Queue without waiting. Raises BackpressureError when full or not connected."""

    def retry(self) -> None:
        """Connect anew: a connection that was refused for its key is not tried again by itself.

        Where the other side has said that its key will change, each call tries the other one.
        """

    def expect_key(self, next_key: str) -> None:
        """The other side said that its key will be this one; "": that it stays as it is."""

    def close(self) -> None:
        """Give the connection up. A task still in recv gets LocalProtocolError."""
