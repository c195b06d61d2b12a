"""Connections in virtual time: in order within each, as late as one likes between them."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from airdraft.mesh.errors import BackpressureError, PeerGoneError
from airdraft.mesh.transport import Frames

# So few that a member that does not read is soon taken for gone.
MAX_QUEUED_MESSAGES = 100


@dataclass(frozen=True, slots=True)
class Disorder:
    """Each message comes 1 to most_copies times, and before others of a window.

    of_nodes_only: or of what clients send, too. How those put in order what they hear is another
    matter.
    """

    random: random.Random
    most_copies: int
    window: int
    of_nodes_only: bool = True


class Connection:
    """Of a member with the coordinator, which knows it as `peer`.

    queues: frames on their way "up", to the coordinator, or "down", and when they arrive at the
    earliest. is_broken: what is sent goes nowhere, whether that is known or not. gone_at: when the
    coordinator's side sees that; is_gone: it has. disorder: by way.
    """

    def __init__(self, peer: bytes, disorder: dict[str, Disorder]) -> None:
        self.peer = peer
        self.disorder = disorder
        self.queues: dict[str, deque[tuple[float, Frames]]] = {"up": deque(), "down": deque()}
        self.delay_s = 0.0
        self.is_broken = False
        self.gone_at = math.inf
        self.is_gone = False

    def send(self, way: str, frames: Frames, now: float) -> None:
        if self.is_broken:
            return
        queue = self.queues[way]
        # None overtakes those before it, though the way has become shorter.
        due = max(now + self.delay_s, queue[-1][0] if queue else 0.0)
        disorder = self.disorder.get(way)
        copies = disorder.random.randint(1, disorder.most_copies) if disorder is not None else 1
        queue.extend([(due, frames)] * copies)

    def has_arrived(self, way: str, now: float) -> bool:
        queue = self.queues[way]
        return bool(queue) and queue[0][0] <= now

    def take(self, way: str) -> Frames:
        queue, place = self.queues[way], 0
        if (disorder := self.disorder.get(way)) is not None:
            place = disorder.random.randrange(min(disorder.window, len(queue)))
        frames = queue[place][1]
        del queue[place]
        return frames

    def cut(self, *, loses: bool, gone_at: float = 0.0) -> None:
        """Nothing is sent any more; what is on its way up may arrive yet, where it is not lost."""
        if not self.is_broken:
            self.gone_at = gone_at
        self.is_broken = True
        self.queues["down"].clear()
        if loses:
            self.queues["up"].clear()


class Network:
    """All connections there are, and the coordinator's end of them: a ServerTransport.

    disorder: where connections keep no order. took: is told what arrives, and on which way.
    """

    endpoint = "virtual"

    def __init__(self, clock: Callable[[], float], disorder: Disorder | None = None) -> None:
        self._clock = clock
        self._disorder = disorder
        self.took: Callable[[Connection, str, Frames], None] = lambda *_: None
        self._peers = count(1)
        self.connections: dict[bytes, Connection] = {}

    def dial(self, *, is_node: bool) -> Connection:
        disorder, ways = self._disorder, ("up", "down") if is_node else ("up",)
        if disorder is None or not (is_node or not disorder.of_nodes_only):
            ways = ()
        connection = Connection(b"peer%d" % next(self._peers), dict.fromkeys(ways, disorder))
        self.connections[connection.peer] = connection
        return connection

    def quiet_s(self, _peer: bytes) -> float | None:
        """Parts of messages do not arrive here."""
        return None

    def send(self, peer: bytes, frames: Frames) -> None:
        connection = self.connections.get(peer)
        if connection is None or connection.is_gone:
            raise PeerGoneError(peer)
        if len(connection.queues["down"]) >= MAX_QUEUED_MESSAGES:
            raise BackpressureError(peer)
        connection.send("down", frames, self._clock())

    def arrived(self) -> list[Connection]:
        """Connections with something for the coordinator."""
        now = self._clock()
        return [c for c in self.connections.values() if c.has_arrived("up", now)]

    def next_arrival(self) -> float | None:
        """When something arrives that has not, at either end."""
        now = self._clock()
        queues = (queue for c in self.connections.values() for queue in c.queues.values() if queue)
        return min((queue[0][0] for queue in queues if queue[0][0] > now), default=None)

    def take(self, connection: Connection, way: str) -> Frames:
        """The next message of a connection, on its way "up" or "down"."""
        frames = connection.take(way)
        self.took(connection, way, frames)
        return frames

    def restart(self) -> None:
        """The coordinator's process is another: none of its connections is left."""
        self.connections.clear()

    def tick(self) -> None:
        """The coordinator's side sees which connections are gone."""
        now = self._clock()
        for peer, connection in list(self.connections.items()):
            is_read = not connection.queues["up"]
            if connection.is_broken and is_read and now >= connection.gone_at:
                connection.is_gone = True
                del self.connections[peer]
