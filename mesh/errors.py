"""Errors of the mesh. Local protocol errors are our bugs, decode errors the peer's."""


class MeshError(Exception):
    """Base of all errors that this package raises on purpose."""


class LocalProtocolError(MeshError):
    """This side violated the protocol. It is a bug and need not be survived."""


class DecodeError(MeshError):
    """Received frames are not a message of this protocol version.

    The peer violated the protocol: count it, log it with the peer and drop the message.
    """


class VersionError(DecodeError):
    """A message of another protocol version. is_asking: it asks to join or to enrol a key."""

    def __init__(self, version: int, own: int, *, is_asking: bool) -> None:
        super().__init__(f"protocol version {version}, but this side speaks {own}")
        self.version = version
        self.is_asking = is_asking


class EndpointError(MeshError):
    """An endpoint is malformed or cannot be used on this machine."""

    def __init__(self, endpoint: str, reason: str) -> None:
        super().__init__(f"endpoint {endpoint!r}: {reason}")


class InsecureEndpointError(MeshError):
    """An endpoint that other machines can reach has no keys."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(
            f"{endpoint} is not loopback, and links to other machines need keys: run "
            f"`airdraft keys init` on the coordinator's machine, `airdraft join` on others"
        )


class KeysError(MeshError):
    """A key or key file is missing, malformed or open to others; the message names the remedy."""


class SecurityError(MeshError):
    """The authentication of peers has failed: this process must end."""


class AddressInUseError(MeshError):
    """Another process, or a file that is not a stale socket, occupies the endpoint."""

    def __init__(self, endpoint: str, remedy: str = "stop the process that holds it") -> None:
        super().__init__(f"endpoint {endpoint!r} is in use: {remedy}, or choose another endpoint")


class BackpressureError(MeshError):
    """The message was not queued: the peer's queue is full, or there is no connection yet."""

    def __init__(self, peer: bytes | None = None) -> None:
        super().__init__("no room to send: the queue is full or the peer is not connected")
        self.peer = peer


class PeerGoneError(MeshError):
    """The server has no connection, or no longer one, with this peer id."""

    def __init__(self, peer: bytes) -> None:
        super().__init__(f"peer {peer.hex()} is not connected")
        self.peer = peer
