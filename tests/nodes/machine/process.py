"""A member's process in virtual time: its link, as nodes/worker/link.py keeps one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mesh.codec import decode, encode
from mesh.messages import Bye, Credit, Hello, Ping, Pong, Refuse, Welcome
from mesh.transport import Frames
from tests.nodes.machine.network import Connection, Network

_HELLO_S = 0.3

# A small window, so that a member that does not read is out of credit; what it tells to have read.
WINDOW = 100
_GRANT = 8


class Process:
    """A member. is_stopped: as by SIGSTOP. pace_s: between two messages that it reads.

    reconnects_at: while its connection is broken.
    """

    def __init__(
        self,
        network: Network,
        clock: Callable[[], float],
        hello: Hello,
        *,
        rejoins: bool = True,
    ) -> None:
        self._network, self.clock = network, clock
        self.hello = hello
        self._rejoins = rejoins
        self.connection = self._dial()
        self.reconnects_at = 0.0
        self.welcome: Welcome | None = None
        self.is_stopped = self.has_ended = False
        # Whether something was done to it that may end what it is part of.
        self.had_trouble = False
        self.pace_s = self._reads_at = 0.0
        self._heard_at = clock()
        self._due_at = 0.0
        self._num_read = 0

    def _dial(self) -> Connection:
        return self._network.dial(is_node=self.hello.role in ("target", "draft"))

    @property
    def name(self) -> str:
        return self.hello.node

    @property
    def role(self) -> str:
        return self.hello.role

    # -- the link ----------------------------------------------------------------------------------

    def send(self, message: Any) -> bool:
        """False while there is no membership."""
        welcome = self.welcome
        if welcome is None:
            return False
        self._put(encode(message, cluster=welcome.cluster, epoch=welcome.epoch))
        return True

    def _put(self, frames: Frames) -> None:
        self.connection.send_up(frames, self.clock())

    def can_read(self) -> bool:
        now, down = self.clock(), self.connection.down
        is_awake = not self.is_stopped and now >= self._reads_at
        return is_awake and bool(down) and down[0][0] <= now

    def read(self) -> None:
        now = self.clock()
        self._reads_at = now + self.pace_s
        envelope = decode(self._network.take(self.connection, "down"))
        self._heard_at = now
        self._num_read += 1
        if self._num_read >= _GRANT:
            self._num_read = 0
            self.send(Credit(_GRANT))
        self._on_envelope(envelope.cluster, envelope.epoch, envelope.message)

    def _on_envelope(self, cluster: str, epoch: int, message: Any) -> None:
        match message:
            case Welcome():
                if self.welcome is None:
                    self.welcome, self._num_read = message, 0
                    self.on_joined()
            case Refuse():
                self.end(loses=False)
            case Bye():
                self._lose()
            case _ if self.welcome is None or (
                (cluster, epoch) != (self.welcome.cluster, self.welcome.epoch)
            ):
                pass
            case Ping(seq=seq):
                self.send(Pong(seq, self.progress()))
            case _:
                self.on_message(message)

    def tick(self) -> None:
        """What is due by now."""
        now = self.clock()
        if self.is_stopped or self.has_ended:
            return
        if self.connection.is_broken and now >= self.reconnects_at:
            self.come_back(carries=False)
        if now < self._due_at:
            return
        welcome = self.welcome
        if welcome is None:
            self._put(encode(self.hello))
            self._due_at = now + _HELLO_S
        elif now - self._heard_at > welcome.heartbeat_timeout_s:
            self._lose()
        else:
            self._due_at = now + welcome.heartbeat_interval_s

    def leave(self) -> None:
        self.send(Bye("done"))
        self.end(loses=False)

    def _lose(self) -> None:
        self.send(Bye("lost"))
        self.welcome = None
        self._due_at = 0.0
        self.on_lost()
        if not self._rejoins:
            self.end(loses=False)

    def end(self, *, loses: bool) -> None:
        """The process is gone; loses: what it has sent last, too."""
        self.has_ended = True
        self.welcome = None
        self.connection.cut(loses=loses)
        self.on_lost()

    def next_read(self) -> float | None:
        """When it may read what has arrived, if it waits for that."""
        is_waiting = bool(self.connection.down) and not self.is_stopped
        return self._reads_at if is_waiting and self._reads_at > self.clock() else None

    def come_back(self, *, carries: bool) -> None:
        """Its socket connects anew, as another peer; carries: with what had not left it yet."""
        left = list(self.connection.up) if carries else []
        self.connection.cut(loses=carries)
        self.connection = self._dial()
        self.connection.up.extend(left)

    # -- what is behind ----------------------------------------------------------------------------

    def progress(self) -> int:
        return 0

    def on_joined(self) -> None: ...

    def on_lost(self) -> None: ...

    def on_message(self, message: Any) -> None: ...
