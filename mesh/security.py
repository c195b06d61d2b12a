"""ZeroMQ's authentication: CURVE on sockets, and the handler that accepts or refuses keys.

CURVE alone accepts every peer that knows the server's public key. A handler judges every handshake,
and ZAP_ENFORCE_DOMAIN with a domain refuses all peers if no handler answers.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import zmq
from zmq.utils import z85

from airdraft.mesh.errors import KeysError, SecurityError
from airdraft.mesh.keys import ClientKeys, KeyPair
from airdraft.mesh.messages import MAX_MESSAGE_BYTES

logger = logging.getLogger(__name__)

_ENDPOINT: Final = "inproc://zeromq.zap.01"
_DOMAIN: Final = b"airdraft"
_VERSION: Final = b"1.0"
# ZeroMQ compares its limit with a frame as it is encrypted, and CURVE adds this many bytes to it.
_CURVE_BYTES: Final = 33
_LARGEST: Final = {zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES + _CURVE_BYTES}
_NUM_REQUEST_FRAMES: Final = 7
_POLL_MS: Final = 100
_JOIN_LIMIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """The keys of a binding side. authenticate: whether to accept a peer's public key (Z85)."""

    own: KeyPair
    authenticate: Callable[[str], bool]


def new_key_pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def server_options(keys: ServerKeys) -> dict[Any, Any]:
    return {
        **_LARGEST,
        zmq.CURVE_SERVER: 1,
        zmq.CURVE_SECRETKEY: keys.own.secret.encode(),
        zmq.ZAP_DOMAIN: _DOMAIN,
        zmq.ZAP_ENFORCE_DOMAIN: 1,
    }


def client_options(keys: ClientKeys) -> dict[Any, Any]:
    return {
        **_LARGEST,
        zmq.CURVE_PUBLICKEY: keys.own.public.encode(),
        zmq.CURVE_SECRETKEY: keys.own.secret.encode(),
        zmq.CURVE_SERVERKEY: keys.server_key.encode(),
    }


class ZapHandler:
    """Answers the handshakes of one context in a separate thread.

    on_death: called from that thread if it ends without stop(); no peer is accepted from then on.
    Raises SecurityError if the context already has a handler.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        authenticate: Callable[[str], bool],
        on_death: Callable[[SecurityError], None],
    ) -> None:
        self._authenticate = authenticate
        self._on_death = on_death
        self._stopping = threading.Event()
        self._last_error = ""
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            self._socket.bind(_ENDPOINT)
        except zmq.ZMQError as error:
            self._socket.close()
            raise SecurityError(f"no handler for handshakes: {error.strerror}") from error
        self._thread = threading.Thread(target=self._run, name="zap", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(_JOIN_LIMIT_S)

    def _run(self) -> None:
        how = "it stopped"
        try:
            while not self._stopping.is_set():
                if self._socket.poll(_POLL_MS):
                    self._socket.send_multipart(self._answer(self._socket.recv_multipart()))
        except Exception as error:  # noqa: BLE001 - any failure must be reported to the process
            how = f"{type(error).__name__}: {error}"
        finally:
            self._socket.close()
            if not self._stopping.is_set():
                self._on_death(SecurityError(f"the handler for handshakes ended: {how}"))

    def _answer(self, request: list[bytes]) -> list[bytes]:
        request_id = request[1] if len(request) > 1 else b""
        user = self._user(request)
        if not user:
            return [_VERSION, request_id, b"400", b"not authorized", b"", b""]
        return [_VERSION, request_id, b"200", b"OK", user.encode(), b""]

    def _user(self, request: list[bytes]) -> str:
        """Returns the peer's public key if it is accepted, else ""."""
        if len(request) != _NUM_REQUEST_FRAMES:
            return ""
        version, _, domain, address, _, mechanism, credentials = request
        if (version, domain, mechanism) != (_VERSION, _DOMAIN, b"CURVE") or len(credentials) != 32:
            return ""
        key = str(z85.encode(credentials).decode())
        try:
            if self._authenticate(key):
                return key
        except KeysError as error:
            # Log it once, not at each of a thousand attempts.
            if str(error) != self._last_error:
                self._last_error = str(error)
                logger.error("every key is refused: %s", error)
            return ""
        logger.info("refused a handshake from %s", address.decode("ascii", "replace"))
        return ""
