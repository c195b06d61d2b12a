"""Functions that commands share: running to an end, and reaching a mesh or its keys."""

import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from mesh.errors import KeysError
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.config.settings import LinkSettings
from nodes.keys.keyring import Keyring
from nodes.service.roles import keyring
from nodes.service.runtime import beside, run

T = TypeVar("T")


def run_to_end(work: Callable[[], Awaitable[T]], **options: Any) -> T:
    """Run a coroutine as runtime.run() does and return its result; if it fails, exit with a line
    and a code. A service that is stopped has no result and exits, too."""
    result: list[T] = []

    async def keep() -> None:
        result.append(await work())

    code = run(keep, **options)
    if code or not result:
        sys.exit(code)
    return result[0]


async def with_client(
    connect: str | None,
    keys: str | None,
    work: Callable[[Client], Awaitable[T]],
    *,
    role: str = "client",
    link: LinkSettings | None = None,
    **options: Any,
) -> T:
    """Run `work` and return its result. An error that ends the connection is raised at once.

    link: What is known of it, if anything. options: As in Client.
    """
    link = link or LinkSettings()
    endpoint, client_keys = keyring(keys).link(connect or "")
    with ZmqContext() as context:
        transport = context.connect(endpoint, client_keys, interactive=bool(link.air))
        declared = link.declared()
        client = Client(transport, endpoint=endpoint, role=role, declared=declared, **options)
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
