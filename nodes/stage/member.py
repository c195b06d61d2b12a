"""A stage as a member of the mesh: it tells where it listens, and hears who may use it."""

from __future__ import annotations

import logging
from typing import Any, Unpack

from airdraft.mesh.messages import Welcome
from airdraft.mesh.transport import ClientTransport
from airdraft.nodes.messages.stages import StageNotice, StageUserNotice
from airdraft.nodes.worker.connection import STOPS, Connection
from airdraft.nodes.worker.node import Joining

logger = logging.getLogger(__name__)


class StageMember:
    """The link of a stage to its coordinator.

    endpoint, key: where targets reach the stage, and its public key; "" without keys.
    """

    def __init__(
        self, transport: ClientTransport, listens_at: str, key: str, **joining: Unpack[Joining]
    ) -> None:
        self._told = StageNotice(listens_at, key, "")
        self._user = ""
        self._link = Connection(transport, self, role="stage", **joining)

    async def run(self) -> None:
        """Stay joined until cancelled; raises what the link raises."""
        try:
            await self._link.run()
        finally:
            self._link.say_bye(STOPS)

    @property
    def is_joined(self) -> bool:
        return self._link.is_joined

    def may_use(self, key: str) -> bool:
        """Whether the key of a peer is that of the target which the coordinator has named last."""
        return key == self._user != ""

    def say_part(self, file: str) -> None:
        self._told = StageNotice(self._told.endpoint, self._told.key, file)
        self._link.send(self._told)

    def on_joined(self, welcome: Welcome) -> None:
        logger.info("joined cluster %s as %s", welcome.cluster, welcome.node)
        self._link.send(self._told)

    def on_message(self, message: Any) -> None:
        if isinstance(message, StageUserNotice):
            self._user = message.key
