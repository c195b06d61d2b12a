"""What the gateway asks of a mesh, and which models it serves."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from nodes.client.client import Event, RequestFailedError
from nodes.client.generation import GenerateOptions, Prompt, traits_of_nodes
from nodes.engine.traits import ModelTraits
from nodes.gateway.errors import of_failure, unavailable
from nodes.messages import NodeFields, NodesReply, ReadNotice
from nodes.messages.fingerprint import Model, is_named, model_ids
from nodes.telemetry.status import Status

_ASK_LIMIT_S: Final = 2.0
_MAX_AGE_S: Final = 1.0


class Mesh(Protocol):
    """As nodes.client.client.Client."""

    @property
    def is_joined(self) -> bool:
        """Whether the coordinator is there, as far as is known."""

    def generate(self, prompt: Prompt, options: GenerateOptions) -> AsyncIterator[Event]:
        """Must have aclose(), which cancels the request. Raises RequestFailedError."""

    async def read(self, prompt: Prompt, options: GenerateOptions, wants: str) -> ReadNotice:
        """Raises RequestFailedError."""

    async def nodes(self) -> NodesReply: ...

    async def status(self) -> Status: ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that targets take requests for; exact, emulated: whether any of them is not, is.

    id: what names it. hashes: of its content; several where id is a name that several files have.
    traits: what its file says of how it is to be used.
    """

    id: str
    hashes: tuple[str, ...]
    exact: bool
    emulated: bool
    num_targets: int
    traits: ModelTraits

    def as_json(self, created_unix: int) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "model",
            "created": created_unix,
            "owned_by": "airdraft",
            "airdraft": {
                "exact": self.exact,
                "emulated": self.emulated,
                "num_targets": self.num_targets,
                "model_hash": self.hashes[0] if len(self.hashes) == 1 else None,
                "embeds": self.traits.embeds,
                "tool_style": self.traits.tool_style or None,
                "thinking": self.traits.thinking or None,
                "sampling": asdict(self.traits.sampling),
            },
        }


class Models:
    """The models of a mesh, asked for again when what is known is a second old."""

    def __init__(self, mesh: Mesh, clock: Callable[[], float] = time.monotonic) -> None:
        self._mesh = mesh
        self._clock = clock
        # Targets that take requests.
        self._known: Sequence[NodeFields] = ()
        self._has_targets = False
        self._asked_at = -math.inf

    async def served(self) -> list[ServedModel]:
        """All but those whose targets are all being drained, by id. Raises ApiError where nobody
        can be asked."""
        targets = await self._targets(_MAX_AGE_S)
        ids = model_ids(map(_model_of, targets))
        found = [
            _served(name, [node for node in targets if _model_of(node) == model])
            for model, name in ids.items()
        ]
        return sorted(found, key=lambda served: served.id)

    async def find(self, name: str) -> ServedModel | None:
        """What a name stands for, as the coordinator reads it; of several files all together.

        Raises ApiError where nobody can be asked.
        """
        targets = await self._targets(_MAX_AGE_S)
        ids = model_ids(map(_model_of, targets))
        named = [node for node in targets if is_named(name, _model_of(node))]
        known = {ids[_model_of(node)] for node in named}
        return _served(known.pop() if len(known) == 1 else name, named) if named else None

    async def traits(self, name: str) -> list[ModelTraits]:
        """Of all models that make text and that a name may mean; "" for any. The list is empty
        where there is no such model; whether there soon will be one, the coordinator knows best.

        Raises ApiError where nobody can be asked.
        """
        return traits_of_nodes(await self._targets(_MAX_AGE_S), name)

    async def _targets(self, max_age_s: float) -> Sequence[NodeFields]:
        """Those that take requests. max_age_s: of what is known."""
        if not self._mesh.is_joined:
            # The next coordinator's targets are others, at first none.
            self._asked_at = -math.inf
            raise unavailable("the coordinator cannot be reached: ask again when it is back")
        if self._clock() - self._asked_at < max_age_s:
            return self._known
        try:
            async with asyncio.timeout(_ASK_LIMIT_S):
                reply = await self._mesh.nodes()
        except TimeoutError:
            raise unavailable("the coordinator does not answer") from None
        except RequestFailedError as error:
            raise of_failure(error) from error
        targets = [node for node in reply.nodes if node.role == "target"]
        self._known = [node for node in targets if not node.is_draining]
        self._has_targets, self._asked_at = bool(targets), self._clock()
        return self._known

    async def check_ready(self, max_age_s: float = _MAX_AGE_S) -> None:
        """Raises ApiError where no target would take a request, whatever its model."""
        if not await self._targets(max_age_s):
            # One may have come since.
            self._asked_at = -math.inf
            what = "all targets are being drained" if self._has_targets else "no target is there"
            raise unavailable(f"{what}: start one, or ask again when it is back")


def _model_of(node: NodeFields) -> Model:
    return node.model, node.model_hash


def _served(name: str, nodes: Sequence[NodeFields]) -> ServedModel:
    return ServedModel(
        name,
        tuple(sorted({node.model_hash for node in nodes})),
        exact=all(node.exact for node in nodes),
        emulated=any(node.emulated for node in nodes),
        num_targets=len(nodes),
        traits=nodes[0].traits,
    )
