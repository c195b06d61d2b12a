"""Runs a stage, which lends its machine to a target for some layers of a model."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from airdraft.mesh.endpoints import check_secure, reached_at
from airdraft.mesh.security import ServerKeys
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.catalog import Catalog, CatalogError, default_cache_dir
from airdraft.nodes.catalog.cuts import CutError
from airdraft.nodes.catalog.gguf import GgufError, declared_by
from airdraft.nodes.catalog.stages import part_file, part_path
from airdraft.nodes.config.settings import (
    STAGE_ENDPOINT,
    STAGE_ENDPOINT_FOR_ALL,
    ConfigError,
    StageConfig,
    StageEngine,
)
from airdraft.nodes.config.sources import environment
from airdraft.nodes.engine.calibrate import Progress
from airdraft.nodes.engine.cores import available_memory
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.engine.split.stage import StageModel
from airdraft.nodes.keys.keyring import keyring_of
from airdraft.nodes.service.passes import measured_passes
from airdraft.nodes.service.runtime import beside
from airdraft.nodes.service.systemd import Manager
from airdraft.nodes.stage.member import StageMember
from airdraft.nodes.stage.node import StageNode
from airdraft.nodes.stage.parts import Part
from airdraft.nodes.worker.engines import checked_model, llama_config
from airdraft.policies.latency import CostTable

# The share of the free memory that saved texts may take in a stage.
_SAVED_OF_FREE: Final = 0.25
_PART_NAME: Final = re.compile(r"\w[\w.+-]{0,90}\.gguf", re.ASCII)
_HASH: Final = re.compile(r"[0-9a-f]{64}")


async def run_stage(
    config: StageConfig, on_bound: Callable[[str], None], progress: Progress
) -> None:
    """Serve a stage until cancelled. on_bound: gets its endpoint.

    It joins a mesh if the settings name one, or this machine has joined one; otherwise only
    programs of this machine can use it. Raises ConfigError for a file that is no stage,
    EngineError, KeysError or EndpointError.
    """
    ring, manager = keyring_of(config.keys, environment()), Manager(environment())
    joins = bool(config.connect) or ring.known_coordinator() is not None
    link = ring.link(config.connect) if joins else None
    keys = link[1] if link is not None else None
    parts = await asyncio.to_thread(StageParts, config.engine, progress)
    listen = config.listen or (STAGE_ENDPOINT if keys is None else STAGE_ENDPOINT_FOR_ALL)
    member: StageMember | None = None
    server_keys = None
    if keys is not None:
        server_keys = ServerKeys(keys.own, lambda key: member is not None and member.may_use(key))
    else:
        check_secure(listen)
    with ZmqContext() as context:
        transport = context.bind(listen, server_keys)
        if link is not None:
            member = StageMember(
                context.connect(link[0], keys),
                reached_at(transport.endpoint, link[0]),
                "" if keys is None else keys.own.public,
                endpoint=link[0],
                node=config.name,
                join_timeout_s=config.join_timeout_s,
            )
        may_use = member.may_use if member is not None and keys is not None else lambda _key: True
        say = member.say_part if member is not None else lambda _file: None
        node = StageNode(transport, parts, may_use, say)
        on_bound(transport.endpoint)
        async with manager.attending(lambda: member is None or member.is_joined):
            joined = [asyncio.create_task(member.run())] if member is not None else []
            try:
                await beside(joined, node.run())
            finally:
                for task in joined:
                    task.cancel()
                await asyncio.gather(*joined, return_exceptions=True)


class StageParts:
    """Implements Parts with the model of the settings, the catalogue and the folder of parts."""

    def __init__(self, settings: StageEngine, progress: Progress) -> None:
        """Raises ConfigError for a model that is no stage's, CatalogError, GgufError, OSError."""
        self._settings, self.progress = settings, progress
        self._cache = default_cache_dir(environment())
        self._folder = self._cache / "stages"
        self.fixed: Part | None = None
        # A whole model that the user named, and its hash.
        self._whole: tuple[Path, str] | None = None
        if not settings.model:
            return
        path, model_hash = checked_model(settings, self._cache)
        if settings.part and declared_by(path).blocks is None:
            path = part_file(path, settings.part, model_hash, self._folder, progress)
        declared = declared_by(path)
        if declared.blocks is None:
            self._whole = path, model_hash
        elif declared.blocks.are_last:
            raise ConfigError(
                f"engine.model = {settings.model!r} is the last part, which a target has"
            )
        else:
            blocks = declared.blocks
            self.fixed = Part(declared.model_hash, path.name, blocks.first, blocks.end)
            self._fixed_path = path

    def free_bytes(self, loaded: Part | None) -> int:
        held = 0
        if loaded is not None and (path := self._here(loaded)) is not None:
            held = path.stat().st_size
        return available_memory() + held

    def measure(self, sample: bytes, file_bytes: int) -> CostTable:
        return measured_passes(sample, file_bytes, self._settings, self._folder)

    def refusal(self, part: Part) -> str:
        if not _PART_NAME.fullmatch(part.file) or not _HASH.fullmatch(part.model_hash):
            return "this is no part of a model"
        fixed = self.fixed
        if fixed is None or fixed.is_same_as(part):
            return ""
        if fixed.model_hash != part.model_hash:
            return "this is a stage of another model"
        return f"it has the blocks {fixed.first} to {fixed.end - 1}"

    def find(self, part: Part) -> Path | None:
        if (here := self._here(part)) is not None:
            return here
        for path, model_hash in self._wholes():
            if model_hash == part.model_hash:
                blocks = f"{part.first}-{part.end}"
                try:
                    return part_file(path, blocks, model_hash, self._folder, self.progress)
                except (CutError, GgufError, OSError) as error:
                    raise EngineError(str(error)) from error
        return None

    def _here(self, part: Part) -> Path | None:
        if self.fixed is not None:
            return self._fixed_path
        path = self.place(part)
        with contextlib.suppress(GgufError, OSError):
            declared = declared_by(path)
            blocks = declared.blocks
            if blocks is not None and declared.model_hash == part.model_hash:
                return path if (blocks.first, blocks.end) == (part.first, part.end) else None
        return None

    def _wholes(self) -> list[tuple[Path, str]]:
        if self._whole is not None:
            return [self._whole]
        catalog, found = Catalog(self._cache), list[tuple[Path, str]]()
        for name in catalog.installed():
            with contextlib.suppress(CatalogError):
                if (model_hash := catalog.sha256(name)) is not None:
                    found.append((catalog.path(name), model_hash))
        return found

    def place(self, part: Part) -> Path:
        return part_path(self._folder, part.model_hash, part.file)

    def open(self, path: Path, max_sequences: int, *, keeps_states: bool) -> StageModel:
        settings = replace(self._settings, max_streams=max_sequences)
        config = replace(llama_config(settings, path), takes_back=keeps_states)
        model_hash = declared_by(path).model_hash
        model = StageModel(config, model_hash=model_hash)
        if keeps_states and not model.keeps_states:
            model.close()
            told = f"no memory for second states of {max_sequences} streams"
            raise EngineError(f"{told}: lower engine.max_streams of the target")
        return model

    def most_saved_bytes(self) -> int:
        return int(_SAVED_OF_FREE * available_memory())
