"""A member's process in virtual time: its link, as nodes/worker/connection.py keeps one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.credits import Meter
from airdraft.mesh.messages import Bye, Credit, Hello, Ping, Pong, Refuse, Welcome
from airdraft.mesh.transport import Frames
from tests.nodes.machine.network import Connection, Network
from tests.nodes.pure_node import PureNode

_HELLO_S = 0.3


class Process:
    """A member. is_stopped: as by SIGSTOP. pace_s: between two messages that it reads.

    reconnects_at: while its connection is broken.
    """

    def __init__(
        self, network: Network, clock: Callable[[], float], hello: Hello, *, rejoins: bool = True
    ) -> None:
        self._network, self.clock = network, clock
        self.hello = hello
        self.rejoins = rejoins
        self.connection = self._dial()
        self.reconnects_at = 0.0
        self.welcome: Welcome | None = None
        self.is_stopped = self.has_ended = False
        # Whether something was done to it that may end what it is part of.
        self.had_trouble = False
        self.pace_s = self._reads_at = 0.0
        self._heard_at = clock()
        self._due_at = 0.0
        self._meter = Meter()

    def _dial(self) -> Connection:
        return self._network.dial(is_node=self.hello.role in ("target", "draft"))

    @property
    def name(self) -> str:
        return self.hello.node

    @property
    def role(self) -> str:
        return self.hello.role

    # -- the link ----------------------------------------------------------------------------------

    def send(self, message: Any) -> None:
        """Say something to the coordinator; nothing is said while there is no membership."""
        welcome = self.welcome
        if welcome is not None:
            self._put(encode(message, cluster=welcome.cluster, epoch=welcome.epoch))

    def _put(self, frames: Frames) -> None:
        self.connection.send("up", frames, self.clock())

    def can_read(self) -> bool:
        now = self.clock()
        is_awake = not self.is_stopped and now >= self._reads_at
        return is_awake and self.connection.has_arrived("down", now)

    def read(self) -> None:
        now = self.clock()
        self._reads_at = now + self.pace_s
        frames = self._network.take(self.connection, "down")
        envelope = decode(frames)
        self._heard_at = now
        if granted := self._meter.read(sum(map(len, frames))):
            self.send(Credit(granted))
        self._on_envelope(envelope.cluster, envelope.epoch, envelope.message)

    def _on_envelope(self, cluster: str, epoch: int, message: Any) -> None:
        match message:
            case Welcome():
                if self.welcome is None:
                    self.welcome = message
                    self._meter.reset()
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
        if self.rejoins:
            self.on_lost()
        else:
            self.end(loses=False)

    def end(self, *, loses: bool) -> None:
        """The process is gone; loses: what it has sent last, too."""
        self.has_ended = True
        self.welcome = None
        self.connection.cut(loses=loses)
        self.on_lost()

    def next_read(self) -> float | None:
        """When it may read what has arrived, if it waits for that."""
        is_waiting = bool(self.connection.queues["down"]) and not self.is_stopped
        return self._reads_at if is_waiting and self._reads_at > self.clock() else None

    def come_back(self, *, carries: bool) -> None:
        """Its socket connects anew, as another peer; carries: with what had not left it yet."""
        left = list(self.connection.queues["up"]) if carries else []
        self.connection.cut(loses=carries)
        self.connection = self._dial()
        self.connection.queues["up"].extend(left)

    # -- what is behind ----------------------------------------------------------------------------

    def progress(self) -> int:
        return 0

    def on_joined(self) -> None: ...

    def on_lost(self) -> None: ...

    def on_message(self, message: Any) -> None: ...


class NodeProcess(Process):
    """A target or draft node."""

    def __init__(
        self, network: Network, clock: Callable[[], float], hello: Hello, node: PureNode
    ) -> None:
        super().__init__(network, clock, hello)
        self.node = node
        self._num_passes = 0

    def progress(self) -> int:
        return self._num_passes

    def on_joined(self) -> None:
        self.node.forget_all()

    def on_message(self, message: Any) -> None:
        for answer in self.node.take(message):
            self.send(answer)

    def can_step(self) -> bool:
        next_step = self.next_step()
        return next_step is not None and next_step <= self.clock()

    def next_step(self) -> float | None:
        return None if self.is_stopped else self.node.next_step(self.clock())

    def step(self) -> None:
        self._num_passes += 1
        for message in self.node.step(self.clock()):
            self.send(message)
