"""Builds and runs one node of each role from its configuration."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from airdraft.mesh.endpoints import ipc_path
from airdraft.mesh.errors import KeysError
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.catalog import default_cache_dir
from airdraft.nodes.config.settings import ConfigError, CoordinatorConfig, DraftConfig, TargetConfig
from airdraft.nodes.config.sources import environment
from airdraft.nodes.engine.calibrate import Progress
from airdraft.nodes.engine.embedding import EmbeddingModel
from airdraft.nodes.engine.load import Opened, OpenedModel
from airdraft.nodes.engine.protocol import Model
from airdraft.nodes.engine.sandbox.process import GrammarCheck
from airdraft.nodes.keys.keyring import Keyring, keyring_of, make_private
from airdraft.nodes.messages.access import GATEWAY
from airdraft.nodes.service.runtime import beside, in_loading_thread, last_act, raise_file_limit
from airdraft.nodes.service.supervision import Parent, until_parent_gone
from airdraft.nodes.service.systemd import Manager, endpoint_of, take_inherited
from airdraft.nodes.worker.engines import (
    CANNOT_DRAFT,
    calibration_of,
    check_draft_inside,
    draft_for,
    in_tokens_of_targets,
    open_engine,
    open_target,
    opener_of,
    prefix_cache_bytes,
    prefix_disk_bytes,
)

if TYPE_CHECKING:
    from airdraft.nodes.coordinator.service import Coordinator
    from airdraft.nodes.draft.node import DraftNode
    from airdraft.nodes.service.inside import Ready
    from airdraft.nodes.target.embedding import EmbeddingNode
    from airdraft.nodes.target.node import TargetNode
    from airdraft.nodes.worker.prefix_thread import PrefixFolder

    Node = TargetNode | EmbeddingNode | DraftNode

logger = logging.getLogger(__name__)

T = TypeVar("T")

NGRAM = "ngram"

# FileDescriptorName= of the coordinator's socket unit.
SOCKET_NAME = "mesh"


async def run_coordinator(config: CoordinatorConfig, on_bound: Callable[[str], None]) -> None:
    """Bind and serve until cancelled. A socket of the service manager replaces config.listen.

    on_bound: Gets the endpoint, with the port that a wildcard was resolved to.
    """
    raise_file_limit()
    ring = keyring(config.keys)
    fd = take_inherited(environment(), SOCKET_NAME)
    listen = endpoint_to_bind(ring, config.listen) if fd is None else endpoint_of(fd)
    try:
        # For the nodes of this machine.
        ring.publish()
    except (KeysError, OSError) as error:
        logger.warning("the coordinator's key cannot be published on this machine: %s", error)
    with ZmqContext() as context:
        coordinator = bound_coordinator(context, ring, listen, config, fd)
        on_bound(coordinator.endpoint)
        async with Manager(environment()).attending(lambda: True):
            try:
                await coordinator.run()
            finally:
                coordinator.say_bye()


def bound_coordinator(
    context: ZmqContext,
    ring: Keyring,
    listen: str,
    config: CoordinatorConfig,
    fd: int | None = None,
) -> Coordinator:
    """Returns a coordinator that is bound to an endpoint, or to the socket of a descriptor.

    Warns if other users than its own may join it.
    """
    from airdraft.nodes.coordinator.service import Coordinator

    secured = ring.server_keys(listen)
    coordinator = Coordinator(
        context.bind(listen, secured, interactive=config.mark_air, fd=fd),
        config,
        authorized=ring.authorized if secured is not None else None,
    )
    # After the bind: if that fails, the error is the only line.
    if secured is None and ipc_path(coordinator.endpoint) is None:
        logger.warning(
            "every user of this machine may join the mesh at %s, as a node or as its admin: "
            "run `airdraft keys init`, or use a private socket (no --listen)",
            coordinator.endpoint,
        )
    return coordinator


def endpoint_to_bind(ring: Keyring, wanted: str) -> str:
    """Returns the coordinator's endpoint and makes its folder. Raises EndpointError, KeysError."""
    listen = ring.listen(wanted)
    if listen == ring.private:
        make_private(listen)
    return listen


async def run_node(
    config: TargetConfig | DraftConfig,
    *,
    parent: Parent | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda _line: None,
    on_ready: Callable[[str], None] = lambda _endpoint: None,
) -> None:
    """Load the model, join and serve until cancelled. Raises StoppedError if the parent is gone.

    tell: gets lines for users. on_ready: gets the coordinator's endpoint once the node has joined.
    """
    work: Callable[[], Any]
    build: Callable[[Any, contextlib.ExitStack], Callable[..., Node]]
    if isinstance(config, DraftConfig):
        if config.engine.model == NGRAM:
            raise ConfigError(
                f"engine.model = {NGRAM!r}: targets do prompt lookup themselves, no node is needed"
            )
        work = partial(open_engine, config.engine, progress, is_draft=True)
        build = partial(_draft_node, config)
    else:
        work = partial(_open_pair, config, progress, tell)
        build = partial(_target_node, config)
    endpoint, keys = keyring(config.keys).link(config.connect)
    manager = Manager(environment()) if parent is None else parent

    async def serve() -> None:
        opened: Any = await _opened(work, manager)
        with contextlib.ExitStack() as stack:
            make = build(opened, stack)
            context = stack.enter_context(ZmqContext())
            node = make(
                context.connect(endpoint, keys, interactive=bool(config.link.air)),
                endpoint=endpoint,
                node=config.name,
                join_timeout_s=config.join_timeout_s,
                declared=config.link.declared(),
            )
            ready = partial(on_ready, endpoint)
            async with manager.attending(lambda: node.is_joined, node.is_well, ready):
                await node.run()

    watching = [] if parent is None else [asyncio.create_task(until_parent_gone())]
    await beside(watching, serve())


def _open_pair(
    config: TargetConfig, progress: Progress | None, tell: Callable[[str], None]
) -> tuple[Opened | EmbeddingModel, Ready | None]:
    """Open a target's model, and the draft that it runs itself if that is no file of its own.

    A file is opened while the target serves already.
    """
    from airdraft.nodes.service.inside import Ready, head_of

    settings = config.engine
    check_draft_inside(settings)
    inside = draft_for(settings)
    ready = None
    if inside is not None and opener_of(inside.model):
        emulated = open_engine(inside, is_draft=True)
        calibration = calibration_of(emulated.model)
        ready = Ready(settings.draft, emulated.model, emulated.costs, calibration)
    opened: Opened | EmbeddingModel
    if settings.across:
        from airdraft.nodes.service.across import open_with_stages

        joining = keyring(config.keys), config.connect, config.join_timeout_s
        opened = open_with_stages(settings, *joining, progress, tell)
    else:
        opened = open_target(settings, progress)
    if isinstance(opened, OpenedModel) and opened.model.hidden is not None:
        ready = head_of(opened.model, default_cache_dir(environment()) / "inside")
    return opened, ready


def _target_node(
    config: TargetConfig,
    pair: tuple[Opened | EmbeddingModel, Ready | None],
    stack: contextlib.ExitStack,
) -> Callable[..., Node]:
    """Open what a node needs besides, on the stack; returns what makes the node of a transport."""
    from airdraft.nodes.engine.grammar import Grammars
    from airdraft.nodes.service.inside import Inside
    from airdraft.nodes.target.embedding import EmbeddingNode
    from airdraft.nodes.target.node import TargetNode

    opened, ready = pair
    if isinstance(opened, EmbeddingModel):
        opened.tokenizer.start()
        stack.enter_context(contextlib.closing(opened))
        return partial(EmbeddingNode, model=opened)
    if isinstance(opened, OpenedModel):
        opened.model.tokenizer.start()
    stack.enter_context(contextlib.closing(opened.model))
    tokenizer, info = opened.tokenizer, opened.model.info
    words = tokenizer.piece, info.num_vocab, info.eog_token_ids
    check = stack.enter_context(contextlib.closing(GrammarCheck(*words)))
    grammars = Grammars(*words, check)
    inside = None
    if ready is not None or draft_for(config.engine) is not None:
        inside = Inside(config.engine, info, grammars, ready=ready)
        stack.enter_context(contextlib.closing(inside))
        stack.enter_context(last_act(inside.release))
    folder = None
    if isinstance(opened, OpenedModel):
        folder = _prefix_folder(config, opened.model)
    return partial(
        TargetNode,
        prefix_folder=folder,
        model=opened.model,
        tokenizer=tokenizer,
        costs=opened.costs,
        prefix_cache_bytes=prefix_cache_bytes(config.engine, opened.model),
        grammars=grammars,
        inside=inside,
    )


def _prefix_folder(config: TargetConfig, model: Model) -> PrefixFolder | None:
    """Returns where a target keeps texts over restarts; None if it keeps none."""
    from airdraft.nodes.worker.prefix_thread import PrefixFolder

    endpoint, keys = keyring(config.keys).link(config.connect)
    if keys is None and ipc_path(endpoint) is None:
        # Without keys the owners of texts are connections, which nobody has after a restart.
        return None
    cache = default_cache_dir(environment())
    try:
        cache.mkdir(parents=True, exist_ok=True)
        most_bytes = prefix_disk_bytes(config.engine, model, cache)
    except OSError as error:
        logger.warning("texts are not kept on the disk: %s", error)
        return None
    if not most_bytes:
        return None
    mesh, durable = ("", GATEWAY) if keys is None else (keys.server_key, "")
    return PrefixFolder(cache / "prefixes", model.info.numerics_class, most_bytes, mesh, durable)


def _draft_node(
    config: DraftConfig, opened: Opened, stack: contextlib.ExitStack
) -> Callable[..., Node]:
    """Do what _target_node() does, for a draft node."""
    from airdraft.nodes.draft.node import DraftNode
    from airdraft.nodes.draft.output_limit import output_limit
    from airdraft.nodes.draft.state import DraftState
    from airdraft.nodes.engine.grammar import Grammars

    calibration = calibration_of(opened.model)
    model, piece = in_tokens_of_targets(opened, config.engine)
    stack.enter_context(contextlib.closing(opened.model))
    if not model.info.can_take_back:
        raise ConfigError(f"engine.model = {config.engine.model!r}: {CANNOT_DRAFT}")
    words = piece, model.info.num_vocab, model.info.eog_token_ids
    check = stack.enter_context(contextlib.closing(GrammarCheck(*words)))
    limit = output_limit(opened, model)
    state = DraftState(model, calibration, Grammars(*words, check), limit, opened.costs.decode)
    return partial(DraftNode, state=state, info=model.info, costs=opened.costs)


def keyring(directory: str | None = None) -> Keyring:
    """Returns the keyring of a directory or, without one, that of the environment."""
    return keyring_of(directory, environment())


async def _opened(work: Callable[[], T], manager: Manager) -> T:
    """Load the engine in a thread, and extend the manager's timeout meanwhile."""
    async with manager.patient("loading the model"):
        return await in_loading_thread(work)
