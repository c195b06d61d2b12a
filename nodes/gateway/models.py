"""What the gateway asks of a mesh: its models and its status, at most once a second each."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, Final, Generic, TypeVar

from airdraft.nodes.client.client import MeshClient, RequestFailedError
from airdraft.nodes.client.generation import text_targets
from airdraft.nodes.gateway.bodies import compact
from airdraft.nodes.gateway.errors import of_exception, unavailable
from airdraft.nodes.messages import NodeFields, NodesReply
from airdraft.nodes.messages.fingerprint import Model, is_meant, is_named, model_ids
from airdraft.nodes.telemetry.history import History
from airdraft.nodes.telemetry.status import Status, encode_status

_MAX_AGE_S: Final = 1.0
# A load balancer directs requests by whether a target is ready, so this must be fresh.
_READY_MAX_AGE_S: Final = 0.25

T = TypeVar("T")


class Fresh(Generic[T]):
    """A reply of the mesh, fetched on demand and again when it is too old.

    All who wait for it at the same time share one request.
    """

    def __init__(
        self, mesh: MeshClient, ask: Callable[[], Awaitable[T]], clock: Callable[[], float]
    ) -> None:
        self._mesh = mesh
        self._ask = ask
        self._clock = clock
        # The last request, which keeps its reply, and when that came.
        self._asking: asyncio.Task[T] | None = None
        self._known_at = -math.inf

    async def latest(self, max_age_s: float = _MAX_AGE_S) -> T:
        """A reply of at most this age. Raises ApiError if the coordinator is unreachable."""
        if not self._mesh.is_joined:
            # The next coordinator has other targets, at first none, and a status of its own.
            self._known_at = -math.inf
            raise unavailable("the coordinator cannot be reached: try again when it is back")
        is_known = self._clock() - self._known_at < max_age_s
        if self._asking is None or (self._asking.done() and not is_known):
            self._asking = asyncio.create_task(self._asked())
            # This marks a failure as noticed, even if every caller has left.
            self._asking.add_done_callback(lambda asking: asking.cancelled() or asking.exception())
        # A caller that is cancelled must not cancel the request that others wait for.
        return await asyncio.shield(self._asking)

    async def _asked(self) -> T:
        # The client gives up when its heartbeats find the coordinator lost. A shorter limit here
        # would take a busy machine or a narrow link for a lost coordinator.
        self._known_at = -math.inf
        try:
            reply = await self._ask()
        except RequestFailedError as error:
            raise of_exception(error) from error
        self._known_at = self._clock()
        return reply

    async def stop(self) -> None:
        """Cancel the request under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)


class Models:
    """The models of a mesh. All methods raise ApiError if the coordinator is unreachable."""

    def __init__(self, mesh: MeshClient, clock: Callable[[], float] = time.monotonic) -> None:
        self.nodes = Fresh(mesh, lambda: mesh.nodes(), clock)
        self._num_looks = 0
        # Each model that was served, with a target that had it and the number of the last look
        # that found one.
        self._seen: dict[Model, tuple[int, NodeFields]] = {}

    async def served(self, created_unix: int) -> list[dict[str, Any]]:
        """The models that have a target which is not being drained, as JSON, sorted by id."""
        targets = _targets(await self.nodes.latest())
        ids = model_ids(map(_model_of, targets))
        found = [
            _as_json(name, [node for node in targets if _model_of(node) == model], created_unix)
            for model, name in ids.items()
        ]
        return sorted(found, key=lambda served: str(served["id"]))

    async def find(self, name: str, created_unix: int) -> dict[str, Any] | None:
        """The model of a name, by the coordinator's rules; several files with it become one."""
        targets = _targets(await self.nodes.latest())
        ids = model_ids(map(_model_of, targets))
        named = [node for node in targets if is_named(name, _model_of(node))]
        known = {ids[_model_of(node)] for node in named}
        name = known.pop() if len(known) == 1 else name
        return _as_json(name, named, created_unix) if named else None

    async def candidates(self, name: str, model_hash: str = "") -> list[NodeFields]:
        """One target of each model that generates text and matches a name and a hash; "" matches
        any.

        model_hash: in full or as in a fingerprint. If no target has such a model now, those that
        had one last, because the coordinator lets a request wait for a target that has just left.
        The list is empty if none was seen.
        """
        targets = _targets(await self.nodes.latest())
        self._num_looks += 1
        self._seen |= {_model_of(node): (self._num_looks, node) for node in targets}
        looks = [
            (look, target)
            for look, node in self._seen.values()
            if is_meant(model_hash, node.model_hash)
            for target in text_targets([node], name)
        ]
        last = max((look for look, _ in looks), default=0)
        return [target for look, target in looks if look == last]

    async def check_ready(self) -> None:
        """Raises ApiError if no target takes requests for any model."""
        reply = await self.nodes.latest(_READY_MAX_AGE_S)
        if not _targets(reply):
            has_targets = any(node.role == "target" for node in reply.nodes)
            what = "all targets are being drained" if has_targets else "the mesh has no target"
            raise unavailable(f"{what}: start one, or try again when it is back")


class Looking:
    """The status of the mesh. The history has one point for each status that was fetched."""

    def __init__(self, mesh: MeshClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._mesh = mesh
        self.status = Fresh(mesh, self._ask, clock)
        self._document = b""
        self.history = History()

    async def document(self, gateway: dict[str, object]) -> bytes:
        """JSON for the page: status, history and `gateway`, the gateway's own figures."""
        await self.status.latest()
        own = compact({"gateway": gateway, "history": list(self.history)})
        return b'{"status":' + self._document + b"," + own.encode()[1:]

    async def _ask(self) -> Status:
        status = await self._mesh.status()
        self._document = encode_status(status)
        self.history.add(status)
        return status


def _targets(reply: NodesReply) -> list[NodeFields]:
    """The targets that are not being drained."""
    return [node for node in reply.nodes if node.role == "target" and not node.is_draining]


def _model_of(node: NodeFields) -> Model:
    return node.model, node.model_hash


def _as_json(name: str, nodes: Sequence[NodeFields], created_unix: int) -> dict[str, Any]:
    """A model that these targets serve. name: its id in the API, which several files may have."""
    hashes, traits = {node.model_hash for node in nodes}, nodes[0].traits
    return {
        "id": name,
        "object": "model",
        "created": created_unix,
        "owned_by": "airdraft",
        "airdraft": {
            "exact": all(node.exact for node in nodes),
            "emulated": any(node.emulated for node in nodes),
            "num_targets": len(nodes),
            "model_hash": hashes.pop() if len(hashes) == 1 else None,
            "embeds": traits.embeds,
            "tool_style": traits.tool_style or None,
            "thinking": traits.thinking or None,
            "sampling": asdict(traits.sampling),
        },
    }
