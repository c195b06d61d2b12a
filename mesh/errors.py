"""Errors of the mesh: local ones are our bug, remote ones are the peer's."""


class MeshError(Exception):
    """Base of everything this package raises on purpose."""


class LocalProtocolError(MeshError):
    """This side broke the protocol: a bug here, not something to survive."""


class RemoteProtocolError(MeshError):
    """The peer broke the protocol: count it, log it with the peer, drop the message."""

    def __init__(self, reason: str, peer: bytes | None = None) -> None:
        super().__init__(reason)
        self.peer = peer


class DecodeError(RemoteProtocolError):
    """Received frames are not a message of this protocol version."""


class VersionError(DecodeError):
    """A message of another version of the protocol. is_hello: of who wants to join."""

    def __init__(self, version: int, own: int, *, is_hello: bool) -> None:
        super().__init__(f"protocol version {version}, this side speaks {own}")
        self.version = version
        self.is_hello = is_hello


class EndpointError(MeshError):
    """An endpoint is malformed or cannot be used on this machine."""

    def __init__(self, endpoint: str, reason: str) -> None:
        super().__init__(f"endpoint {endpoint!r}: {reason}")
        self.endpoint = endpoint


class InsecureEndpointError(MeshError):
    """An endpoint that other machines reach, without keys."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(
            f"{endpoint} is not loopback, and links to other machines need keys: "
            f"`airdraft keys init` on the coordinator's machine, `airdraft join` on others"
        )
        self.endpoint = endpoint


class KeysError(MeshError):
    """A key or a file of keys is missing, malformed, or open to others; the text says the mend."""


class SecurityError(MeshError):
    """What keeps strangers out has failed: this process must not go on."""


class AddressInUseError(MeshError):
    """Another process, or a file that is no stale socket, holds the endpoint."""

    def __init__(self, endpoint: str, remedy: str = "stop the process that holds it") -> None:
        super().__init__(f"endpoint {endpoint!r} is in use: {remedy}, or choose another endpoint")
        self.endpoint = endpoint


class BackpressureError(MeshError):
    """The peer's queue is full, or there is no connection yet; nothing was queued."""

    def __init__(self, peer: bytes | None = None) -> None:
        super().__init__("no room to send: the queue is full or the peer is not connected")
        self.peer = peer


class PeerGoneError(MeshError):
    """The server has no connection of this peer id (any more)."""

    def __init__(self, peer: bytes) -> None:
        super().__init__(f"peer {peer.hex()} is not connected")
        self.peer = peer
