"""Functions that commands share: reaching a mesh, and the keys of its coordinator."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from airdraft.mesh.errors import KeysError
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.config.settings import LinkSettings
from airdraft.nodes.keys.keyring import Keyring
from airdraft.nodes.service.roles import keyring
from airdraft.nodes.service.runtime import beside

T = TypeVar("T")


async def with_client(
    connect: str | None,
    keys: str | None,
    work: Callable[[MeshClient], Awaitable[T]],
    *,
    role: str = "client",
    link: LinkSettings | None = None,
    **options: Any,
) -> T:
    """Run `work` and return its result. An error that ends the connection is raised at once.

    link: What is known of it, if anything. options: As in MeshClient.
    """
    link = link or LinkSettings()
    endpoint, client_keys = keyring(keys).link(connect or "")
    with ZmqContext() as context:
        transport = context.connect(endpoint, client_keys, interactive=bool(link.air))
        declared = link.declared()
        client = MeshClient(transport, endpoint=endpoint, role=role, declared=declared, **options)
        async with client.running() as running:
            return await beside([running], work(client))


def coordinator_keyring(keys: str | None) -> Keyring:
    """The keys of this machine's coordinator; only its service may be able to read the secret key.

    Raises KeysError if there are none.
    """
    ring = keyring(keys)
    if ring.coordinator_public() is None:
        raise KeysError(
            f"{ring.directory} has no coordinator's key: run `airdraft keys init` first"
        )
    return ring
