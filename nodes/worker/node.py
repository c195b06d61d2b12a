"""A node that serves one engine to one coordinator, whatever its role."""

from __future__ import annotations

import abc
import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol, Required, TypedDict, Unpack

from airdraft.mesh.messages import Welcome
from airdraft.mesh.transport import ClientTransport
from airdraft.nodes.worker.connection import STOPS, Connection

logger = logging.getLogger(__name__)


class Part(Protocol):
    """A part of a node that runs in a task of its own."""

    async def run(self) -> None: ...


class Engine(Part, Protocol):
    """The part that may be stuck in a call of the engine."""

    def is_stuck(self, limit_s: float) -> bool: ...


class Joining(TypedDict, total=False):
    """The coordinator's endpoint, the node's name, the longest time to join; as in Connection."""

    endpoint: Required[str]
    node: Required[str]
    join_timeout_s: float | None


class Node(abc.ABC):
    """Runs the parts of a node beside its link. A subclass handles the messages.

    It is made on the event loop. profile: the encoded EngineProfile. progress: returns the finished
    pieces of work.
    """

    def __init__(
        self,
        transport: ClientTransport,
        engine: Engine,
        *parts: Part,
        role: str,
        profile: bytes,
        progress: Callable[[], int],
        **joining: Unpack[Joining],
    ) -> None:
        self._stuck = engine.is_stuck
        self._link = Connection(
            transport, self, role=role, profile=profile, progress=progress, **joining
        )
        self._parts = (engine, *parts, self._link)

    async def run(self) -> None:
        """Serve until cancelled; raises what the link or the engine raises.

        On cancellation the running pass is finished and its result sent, so that its streams
        continue elsewhere from there.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for part in self._parts:
                    group.create_task(part.run())
        except asyncio.CancelledError:
            self._link.say_bye(STOPS)
            raise

    @property
    def is_joined(self) -> bool:
        """Whether the node is joined to the coordinator."""
        return self._link.is_joined

    def is_well(self, limit_s: float) -> bool:
        """Whether no engine call takes longer than limit_s."""
        return not self._stuck(limit_s)

    def on_joined(self, welcome: Welcome) -> None:
        logger.info("joined cluster %s as %s", welcome.cluster, welcome.node)
        self.forget_all()

    @abc.abstractmethod
    def forget_all(self) -> None:
        """Drop all work of an earlier membership, of which the coordinator knows nothing."""

    def on_message(self, message: Any) -> None:
        logger.warning(
            "ignored a message of unexpected type %s from the coordinator", type(message).__name__
        )
