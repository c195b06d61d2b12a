"""What the gateway asks of a mesh, and which models it serves."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from nodes.client import Event, RequestFailedError
from nodes.gateway.errors import of_failure, unavailable
from nodes.generation import GenerateOptions, Prompt
from nodes.messages import NodeFields, NodesReply
from nodes.status import Status

_ASK_LIMIT_S: Final = 2.0
_MAX_AGE_S: Final = 1.0


class Mesh(Protocol):
    """As nodes.client.Client."""

    @property
    def is_joined(self) -> bool:
        """Whether the coordinator is there, as far as is known."""

    def generate(self, prompt: Prompt, options: GenerateOptions) -> AsyncIterator[Event]:
        """Must have aclose(), which cancels the request. Raises RequestFailedError."""

    async def nodes(self) -> NodesReply: ...

    async def status(self) -> Status: ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that targets take requests for; exact, emulated: whether any of them is not, is."""

    name: str
    exact: bool
    emulated: bool
    num_targets: int

    def as_json(self, created_unix: int) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": "model",
            "created": created_unix,
            "owned_by": "airdraft",
            "airdraft": {
                "exact": self.exact,
                "emulated": self.emulated,
                "num_targets": self.num_targets,
            },
        }


class Models:
    """The models of a mesh, asked for again when what is known is a second old."""

    def __init__(self, mesh: Mesh, clock: Callable[[], float] = time.monotonic) -> None:
        self._mesh = mesh
        self._clock = clock
        self._known: dict[str, ServedModel] = {}
        self._has_targets = False
        self._asked_at = -math.inf

    async def served(self, max_age_s: float | None = None) -> dict[str, ServedModel]:
        """By name, but for those whose targets are all being drained. max_age_s: of what is known.

        Raises ApiError where nobody can be asked.
        """
        if not self._mesh.is_joined:
            # The next coordinator's targets are others, at first none.
            self._asked_at = -math.inf
            raise unavailable("the coordinator cannot be reached: ask again when it is back")
        limit_s = _MAX_AGE_S if max_age_s is None else max_age_s
        if self._clock() - self._asked_at < limit_s:
            return self._known
        try:
            async with asyncio.timeout(_ASK_LIMIT_S):
                reply = await self._mesh.nodes()
        except TimeoutError:
            raise unavailable("the coordinator does not answer") from None
        except RequestFailedError as error:
            raise of_failure(error) from error
        targets = [node for node in reply.nodes if node.role == "target"]
        self._known = _by_name(node for node in targets if not node.is_draining)
        self._has_targets, self._asked_at = bool(targets), self._clock()
        return self._known

    async def check_ready(self, max_age_s: float | None = None) -> None:
        """Raises ApiError where no target would take a request, whatever its model."""
        if not await self.served(max_age_s):
            # One may have come since.
            self._asked_at = -math.inf
            what = "all targets are being drained" if self._has_targets else "no target is there"
            raise unavailable(f"{what}: start one, or ask again when it is back")


def _by_name(nodes: Iterable[NodeFields]) -> dict[str, ServedModel]:
    found: dict[str, ServedModel] = {}
    for node in nodes:
        known = found.get(node.model, ServedModel(node.model, True, False, 0))
        found[node.model] = ServedModel(
            node.model,
            known.exact and node.exact,
            known.emulated or node.emulated,
            known.num_targets + 1,
        )
    return found
