"""Runs a stage of a split model, and opens a target's model with its stages."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from airdraft.mesh.endpoints import check_connect, check_secure, ipc_path
from airdraft.mesh.keys import ClientKeys, is_key
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.catalog import default_cache_dir
from airdraft.nodes.catalog.gguf import Declared, declared_by
from airdraft.nodes.catalog.stages import embedding_of, part_file
from airdraft.nodes.config.settings import ConfigError, EngineSettings, StageConfig, TargetEngine
from airdraft.nodes.config.sources import environment
from airdraft.nodes.engine.calibrate import Progress
from airdraft.nodes.engine.cores import available_memory
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.load import OpenedModel, open_split
from airdraft.nodes.engine.metadata import Blocks
from airdraft.nodes.engine.split.embedding import Embedding
from airdraft.nodes.engine.split.last import SplitModel
from airdraft.nodes.engine.split.stage import StageModel
from airdraft.nodes.engine.thinking import find_thinking
from airdraft.nodes.keys.keyring import Keyring, keyring_of
from airdraft.nodes.messages.access import Role
from airdraft.nodes.service.runtime import in_loading_thread
from airdraft.nodes.service.systemd import Manager
from airdraft.nodes.stage.links import StageAddress, StageLinks
from airdraft.nodes.stage.node import StageNode
from airdraft.nodes.worker.engines import checked_model, llama_config

logger = logging.getLogger(__name__)

# The share of the free memory that saved texts may take in a stage.
_SAVED_OF_FREE: Final = 0.25


async def run_stage(config: StageConfig, on_bound: Callable[[str], None]) -> None:
    """Load a stage and serve it until cancelled. on_bound: gets its endpoint.

    Raises ConfigError for a file that is no stage, EngineError, KeysError or EndpointError.
    """
    ring, manager = keyring_of(config.keys, environment()), Manager(environment())
    keys = ring.server_keys(config.listen)
    model, blocks = await in_loading_thread(partial(_open_stage, config))
    with contextlib.closing(model), ZmqContext() as context:
        transport = context.bind(config.listen, keys)
        allowed = ring.authorized()

        def may_use(key: str) -> bool:
            entry = allowed.nodes().get(key)
            return keys is None or (entry is not None and Role.TARGET in entry.roles)

        node = StageNode(
            transport, model, blocks, may_use, int(_SAVED_OF_FREE * available_memory())
        )
        on_bound(transport.endpoint)
        async with manager.attending(lambda: True):
            await node.run()


def _open_stage(config: StageConfig) -> tuple[StageModel, Blocks]:
    path, declared = _part_of(config.engine, config.engine.part, lambda *_: None)
    if declared.blocks is None or declared.blocks.are_last:
        raise ConfigError(
            f"engine.model = {config.engine.model!r}: a stage other than the last one is wanted: "
            f"name a part of a whole model, such as --part 1/2, or a file of `models split`"
        )
    model = StageModel(llama_config(config.engine, path), model_hash=declared.model_hash)
    return model, declared.blocks


def open_with_stages(
    settings: TargetEngine, ring: Keyring, limit_s: float, progress: Progress | None = None
) -> OpenedModel:
    """Open a target's model, the last stage of a split one, and links to the others.

    limit_s: How long to wait for a stage. Raises ConfigError, EngineError, KeysError and
    EndpointError.
    """
    num_parts = 1 + len(settings.stages.split(","))
    part = settings.part or f"{num_parts}/{num_parts}"
    path, declared = _part_of(settings, part, progress or (lambda *_: None))
    if declared.blocks is None or not declared.blocks.are_last:
        raise ConfigError(
            f"engine.model = {settings.model!r}: with engine.stages it has to be the last stage"
        )
    addresses = [_address(text, ring) for text in settings.stages.split(",")]

    def make(config: LlamaConfig) -> SplitModel:
        links, embedding = StageLinks(addresses, limit_s), Embedding(embedding_of(path))
        return SplitModel(config, links, embedding, model_hash=declared.model_hash)

    opened = open_split(llama_config(settings, path), make, progress)
    find_thinking(opened.model)
    return opened


def _part_of(settings: EngineSettings, part: str, progress: Progress) -> tuple[Path, Declared]:
    """Returns the file of the settings or, if that is a whole model, of a part of it."""
    cache = default_cache_dir(environment())
    path, model_hash = checked_model(settings, cache)
    declared = declared_by(path)
    if part and declared.blocks is None:
        path = part_file(path, part, model_hash, cache / "stages", progress)
        declared = declared_by(path)
    return path, declared


def _address(text: str, ring: Keyring) -> StageAddress:
    endpoint, _, key = text.strip().partition(" ")
    check_connect(endpoint)
    if not key:
        check_secure(endpoint)
        return StageAddress(endpoint, None)
    own = ring.own()
    if not is_key(key.strip()) or own is None or ipc_path(endpoint) is not None:
        reason = "this machine has no key: run `airdraft join`" if own is None else "no public key"
        raise ConfigError(f"engine.stages: {endpoint}: {reason}")
    return StageAddress(endpoint, ClientKeys(own, key.strip()))
