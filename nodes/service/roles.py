"""Build and run one node of each role from its config."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mesh.endpoints import check_connect, ipc_path
from mesh.errors import KeysError
from mesh.keys import ClientKeys
from mesh.zmq_transport import ZmqContext
from nodes.config.class_weights import parsed_weights
from nodes.config.settings import (
    ConfigError,
    CoordinatorConfig,
    DraftConfig,
    LinkSettings,
    TargetConfig,
    environment,
)
from nodes.engine.calibrate import Progress
from nodes.engine.embedding import EmbeddingModel
from nodes.engine.emulation import OpenedReplay
from nodes.engine.llama_abi import hash_file
from nodes.engine.load import OpenedModel
from nodes.engine.sandbox.users import GrammarCheck
from nodes.keys.home import make_private
from nodes.keys.keyring import Keyring, keyring_of
from nodes.messages import LinkFields
from nodes.service.manager import Manager
from nodes.service.runtime import end_at_once, raise_file_limit
from nodes.service.sockets import endpoint_of, inherited
from nodes.service.supervision import Parent, parent_gone
from nodes.worker.engines import (
    calibration_of,
    in_tokens_of_targets,
    open_engine,
    open_target,
    tokenizer_of,
)

if TYPE_CHECKING:
    from nodes.draft.node import DraftNode
    from nodes.target.embedding import EmbeddingNode
    from nodes.target.node import TargetNode

logger = logging.getLogger(__name__)

T = TypeVar("T")

NGRAM = "ngram"
_POLL_S = 0.02

# FileDescriptorName= of the coordinator's socket unit.
SOCKET_NAME = "mesh"


async def run_coordinator(config: CoordinatorConfig, on_bound: Callable[[str], None]) -> None:
    """Bind and serve until cancelled. on_bound gets the endpoint, a wildcard port resolved.

    A socket that the service manager has opened takes the place of config.listen.
    """
    from nodes.coordinator.service import Coordinator
    from nodes.scheduler.planning import MODES

    raise_file_limit()
    ring = keyring(config.keys)
    fd = inherited(environment(), SOCKET_NAME)
    listen = endpoint_to_bind(ring, config.listen) if fd is None else endpoint_of(fd)
    secured = ring.server_keys(listen)
    _publish(ring)
    with ZmqContext() as context:
        coordinator = Coordinator(
            context.bind(listen, secured, interactive=config.mark_air, fd=fd),
            cluster=config.cluster,
            heartbeat_interval_s=config.heartbeat_interval_s,
            heartbeat_timeout_s=config.heartbeat_timeout_s,
            lookup=config.prompt_lookup,
            authorized=ring.authorized if secured is not None else None,
            next_key=ring.next_key_reader(secured),
            pads=config.pad_messages,
            limits=config.limits,
            class_weights=parsed_weights(config.classes.weights),
            mode=MODES[config.plan.policy],
        )
        if secured is None:
            # Not before it is bound: what keeps it from that is told in one line.
            warn_of_others(coordinator.endpoint)
        on_bound(coordinator.endpoint)
        async with Manager(environment()).attending(lambda: True):
            try:
                await coordinator.run()
            finally:
                coordinator.say_bye()


def endpoint_to_bind(ring: Keyring, wanted: str) -> str:
    """Where a coordinator binds, made ready for it. Raises EndpointError or KeysError."""
    listen = ring.listen(wanted)
    if listen == ring.private:
        make_private(listen)
    return listen


def warn_of_others(listen: str) -> None:
    """Say who may join a coordinator that asks for no keys, where that is not its user alone."""
    if ipc_path(listen) is None:
        logger.warning(
            "every user of this machine may join the mesh at %s, as a node or as its admin: "
            "`airdraft keys init`, or a private socket instead (no --listen)",
            listen,
        )


def _publish(ring: Keyring) -> None:
    """Nodes of this machine find the key that the coordinator has now, however it came to it."""
    try:
        ring.publish()
    except (KeysError, OSError) as error:
        logger.warning("nodes of this machine may not find the coordinator's key: %s", error)


async def run_target(
    config: TargetConfig, *, parent: Parent | None = None, progress: Progress | None = None
) -> None:
    """Load the model, join, serve until cancelled, or until the parent is gone."""
    async with parent_gone(parent) as gone:
        await _run_target(config, parent, progress, gone)


async def _run_target(
    config: TargetConfig,
    parent: Parent | None,
    progress: Progress | None,
    gone: asyncio.Future[Any],
) -> None:
    from nodes.engine.grammar import Grammars
    from nodes.target.node import TargetNode

    if config.engine.vocabulary:
        raise ConfigError("engine.vocabulary is for drafts: a target's tokens are its own")
    endpoint, keys = link_of(config.connect, config.keys)
    hash_of = hash_file if parent is None else parent.hash_file
    opened = await _opened(partial(open_target, config.engine, progress, hash_of), gone)
    if isinstance(opened, EmbeddingModel):
        await _run_embedding(config, (endpoint, keys), opened, parent, gone)
        return
    if isinstance(opened, OpenedReplay) and opened.model.config.draft:
        raise ConfigError(
            f"engine.model = {config.engine.model!r}: a target has no key draft there"
        )
    tokenizer = tokenizer_of(opened)
    if isinstance(opened, OpenedModel):
        opened.model.tokenizer.start()
    check = GrammarCheck(tokenizer, opened.model.info)
    with contextlib.closing(opened.model), contextlib.closing(check), ZmqContext() as context:
        node = TargetNode(
            context.connect(endpoint, keys, interactive=bool(config.link.air)),
            opened.model,
            tokenizer,
            opened.costs,
            endpoint=endpoint,
            node=config.name,
            join_timeout_s=config.join_timeout_s,
            declared=declared(config.link),
            prefix_cache_bytes=config.engine.prefix_cache_mb * 1_000_000,
            grammars=Grammars(tokenizer, opened.model.info, check),
        )
        await _serve(node, parent, gone)


async def _run_embedding(
    config: TargetConfig,
    link: tuple[str, ClientKeys | None],
    model: EmbeddingModel,
    parent: Parent | None,
    gone: asyncio.Future[Any],
) -> None:
    from nodes.target.embedding import EmbeddingNode

    endpoint, keys = link
    model.tokenizer.start()
    with contextlib.closing(model), ZmqContext() as context:
        node = EmbeddingNode(
            context.connect(endpoint, keys, interactive=bool(config.link.air)),
            model,
            endpoint=endpoint,
            node=config.name,
            join_timeout_s=config.join_timeout_s,
            declared=declared(config.link),
        )
        await _serve(node, parent, gone)


async def run_draft(
    config: DraftConfig, *, parent: Parent | None = None, progress: Progress | None = None
) -> None:
    """Load the model, join, serve until cancelled, or until the parent is gone."""
    async with parent_gone(parent) as gone:
        await _run_draft(config, parent, progress, gone)


async def _run_draft(
    config: DraftConfig,
    parent: Parent | None,
    progress: Progress | None,
    gone: asyncio.Future[Any],
) -> None:
    from nodes.draft.node import DraftNode
    from nodes.draft.state import DraftState
    from nodes.engine.grammar import Grammars

    if config.engine.model == NGRAM:
        raise ConfigError(
            f"engine.model = {NGRAM!r}: targets look guesses up themselves, no node is needed"
        )
    endpoint, keys = link_of(config.connect, config.keys)
    hash_of = hash_file if parent is None else parent.hash_file
    opened = await _opened(
        partial(open_engine, config.engine, progress, hash_of, is_draft=True), gone
    )
    if isinstance(opened, OpenedReplay) and not opened.model.config.draft:
        raise ConfigError(
            f"engine.model = {config.engine.model!r}: a draft needs the key draft there"
        )
    calibration = calibration_of(opened.model)
    model, pieces = in_tokens_of_targets(opened, config.engine)
    check = GrammarCheck(pieces, model.info)
    grammars = Grammars(pieces, model.info, check)
    with contextlib.closing(opened.model), contextlib.closing(check), ZmqContext() as context:
        transport = context.connect(endpoint, keys, interactive=bool(config.link.air))
        known = model.info, opened.costs
        state = DraftState(model, opened.costs.decode.at, calibration, grammars)
        node = DraftNode(
            transport,
            state,
            *known,
            endpoint=endpoint,
            node=config.name,
            join_timeout_s=config.join_timeout_s,
            declared=declared(config.link),
        )
        await _serve(node, parent, gone)


def keyring(directory: str) -> Keyring:
    return keyring_of(directory, environment())


def link_of(connect: str, directory: str) -> tuple[str, ClientKeys | None]:
    """Where a node or client connects, and with which keys, if any.

    Raises EndpointError, InsecureEndpointError or KeysError.
    """
    ring = keyring(directory)
    endpoint = ring.endpoint(connect)
    check_connect(endpoint)
    return endpoint, ring.client_keys(endpoint)


def declared(link: LinkSettings) -> LinkFields:
    """What a node says of its link."""
    times = link.frame_ms * 1e-3, link.rtt_ms * 1e-3
    return LinkFields(link.air, link.rate_kbps * 1e3, *times)


async def _opened(work: Callable[[], T], gone: asyncio.Future[Any]) -> T:
    """Load the engine, however long that takes: a service manager waits, a parent may go."""
    async with Manager(environment()).patient("loading the model"):
        # A thread that ends with it: while another thread keeps helpers of its own for passes,
        # libgomp believes the cores taken, and those of the engine's thread sleep instead of
        # spinning (a pass of a 1.5B model on two cores: 76 ms instead of 46).
        executor = ThreadPoolExecutor(1, "loading")
        loading = asyncio.get_running_loop().run_in_executor(executor, work)
        executor.shutdown(wait=False)
        await asyncio.wait({loading, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            gone.result()
            # A thread that loads cannot be interrupted, and nobody has to be told.
            end_at_once(0)
        return loading.result()


async def _serve(
    node: TargetNode | EmbeddingNode | DraftNode, parent: Parent | None, gone: asyncio.Future[Any]
) -> None:
    """Await a node; it also ends when its parent is gone."""
    serving = asyncio.ensure_future(node.run())
    tasks = [serving]
    if parent is not None:
        tasks.append(asyncio.ensure_future(_tell_joined(node, parent)))
    try:
        async with Manager(environment()).attending(lambda: node.is_joined, node.is_well):
            await asyncio.wait({serving, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not serving.cancelled():
        serving.result()


async def _tell_joined(node: TargetNode | EmbeddingNode | DraftNode, parent: Parent) -> None:
    is_joined = node.is_joined
    while not is_joined:
        await asyncio.sleep(_POLL_S)
        is_joined = node.is_joined
    parent.joined()
