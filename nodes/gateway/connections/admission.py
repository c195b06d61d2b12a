"""Which connections a gateway admits, by the number of all and of those of their address."""

import logging
from collections.abc import Callable

from airdraft.nodes.gateway.connections.seldom import SeldomWarnings
from airdraft.nodes.gateway.connections.strangers import Origin, Strangers

logger = logging.getLogger(__name__)


class Admission:
    """max_connections: of all addresses together. clock: seconds, for the interval between log
    lines."""

    def __init__(
        self, max_connections: int, strangers: Strangers, clock: Callable[[], float]
    ) -> None:
        self.max_connections = max_connections
        self._strangers = strangers
        self._clock = clock
        self._warnings = SeldomWarnings(logger)

    def enter(self, host: str, num_connections: int) -> tuple[Origin | None, int]:
        """Admit or refuse a connection from an address; num_connections includes it.

        Returns what it is counted by, for leave(), and by how many it is over a limit: at most 0 if
        it is admitted.
        """
        num_over = num_connections - self.max_connections
        if num_over > 0:
            self._warn("refusing connections: the limit is %d", self.max_connections)
        origin = self._strangers.origin(host)
        if origin is not None:
            num_of_address = self._strangers.enter(origin)
            if num_of_address > 0:
                most = self._strangers.most
                self._warn("refusing connections without an API key: an address may have %d", most)
            num_over = max(num_over, num_of_address)
        return origin, num_over

    def leave(self, origin: Origin) -> None:
        """A connection has ended, or is a stranger's no more."""
        self._strangers.leave(origin)

    def _warn(self, text: str, most: int) -> None:
        self._warnings.write(self._clock(), text, most)
