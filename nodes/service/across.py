"""Opens a target's model on several machines: finds their stages, and decides who has what."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

from airdraft.mesh.endpoints import check_connect, check_secure
from airdraft.mesh.keys import ClientKeys
from airdraft.mesh.whole_files import write_whole
from airdraft.nodes.catalog import default_cache_dir
from airdraft.nodes.catalog.cuts import CutError
from airdraft.nodes.catalog.gguf import GgufError, declared_by
from airdraft.nodes.catalog.sample import sample_of
from airdraft.nodes.catalog.stages import embedding_of, layers_of, part_file, part_name, part_path
from airdraft.nodes.config.settings import ConfigError, TargetEngine
from airdraft.nodes.config.sources import environment
from airdraft.nodes.engine.calibrate import Progress
from airdraft.nodes.engine.cores import available_memory
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.load import OpenedModel, open_split
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.engine.split.embedding import Embedding
from airdraft.nodes.engine.split.last import SplitModel
from airdraft.nodes.engine.thinking import find_thinking
from airdraft.nodes.keys.asking import ask
from airdraft.nodes.keys.keyring import Keyring
from airdraft.nodes.messages.stages import (
    MOST_STAGES,
    StageFactsRequest,
    StageFields,
    StagesReply,
    StagesRequest,
)
from airdraft.nodes.service.passes import measured_passes
from airdraft.nodes.stage.asking import Facts, StageAddress, facts_of
from airdraft.nodes.stage.links import StageLinks
from airdraft.nodes.stage.outgoing import PartFiles
from airdraft.nodes.stage.parts import Part
from airdraft.nodes.worker.engines import checked_model, llama_config
from airdraft.policies.layers import (
    LAYERS_OF_FREE,
    Layers,
    Machine,
    cuts_for,
    slowest_s,
    told_no_room,
    told_plan,
)

_ASK_S: Final = 1.0
# A stage that ended is back within some seconds; on a spare, texts have to be read again, and
# perhaps a part has to be sent.
_SPARE_AFTER_S: Final = 10.0
# Beside other work the rates of twelve measurements differed by up to 1.36 (two threads of a shared
# Xeon; 1.03 with one), which changes the time of two equal machines by 1.19. With other parts their
# files would have to be sent.
_KEPT_WITHIN: Final = 1.25


def open_with_stages(
    settings: TargetEngine,
    ring: Keyring,
    connect: str,
    limit_s: float,
    progress: Progress | None,
    tell: Callable[[str], None],
) -> OpenedModel:
    """Open a target's model, the last stage of a split one, and links to the others.

    connect: the endpoint of the coordinator, which knows where stages are. limit_s: how long to
    wait for a stage that has joined, or that is no member. tell: gets who has what. Raises
    ConfigError, EngineError, KeysError, EndpointError and MeshError.
    """
    report = progress or (lambda *_: None)
    find = partial(_find, settings, ring, connect, report)
    stages = find(None)
    cache = default_cache_dir(environment())
    path, model_hash = checked_model(settings, cache)
    declared = declared_by(path)
    model_hash = declared.model_hash or model_hash
    folder, whole = cache / "stages", None
    parts = fixed_parts(stages, facts_of(stages, StageFactsRequest(), limit_s), model_hash)
    if declared.blocks is None:
        whole = path
        layers = layers_of(path)
        if not parts:
            plan = part_path(folder, model_hash, "plan.json")
            machines = machines_of(path, model_hash, settings, stages, limit_s, plan.parent)
            parts = planned_parts(path, model_hash, layers, machines, plan, tell)
        path = part_file(path, f"{parts[-1].end}-{len(layers.sizes)}", model_hash, folder, report)
    else:
        if not parts:
            raise ConfigError(
                f"engine.model = {settings.model!r} is a part of a model: start the stages with "
                f"the others, airdraft stage FILE, or name the whole model here"
            )
        end = parts[-1].end
        if end != declared.blocks.first or not declared.blocks.are_last:
            raise ConfigError(
                f"engine.model = {settings.model!r} has the blocks from {declared.blocks.first} to "
                f"{declared.blocks.end - 1}, and the stages end before block {end}"
            )

    def cut(part: Part) -> tuple[Path, bool]:
        assert whole is not None
        is_new = not part_path(folder, model_hash, part.file).exists()
        try:
            made = part_file(whole, f"{part.first}-{part.end}", model_hash, folder, report)
        except (CutError, GgufError, OSError) as error:
            raise EngineError(str(error)) from error
        return made, is_new

    files = PartFiles(cut if whole is not None else None, report)

    def make(config: LlamaConfig) -> SplitModel:
        links = StageLinks(parts, find, limit_s, files)
        embedding = Embedding(embedding_of(path))
        return SplitModel(config, links, embedding, model_hash=model_hash)

    chain = [(stage.name, part.first, part.end) for stage, part in zip(stages, parts, strict=True)]
    digest = hashlib.sha256(json.dumps(chain).encode()).hexdigest()[:16]
    kept = part_path(folder, model_hash, f"chain-{digest}")
    opened = open_split(llama_config(settings, path), make, kept, progress)
    find_thinking(opened.model)
    return opened


# -- who has what ----------------------------------------------------------------------------------


def fixed_parts(
    stages: Sequence[StageAddress], facts: Sequence[Facts], model_hash: str
) -> list[Part]:
    """Returns the parts that the stages have been started with; [] if they take any."""
    fixed = [each.fixed for each in facts if each.fixed is not None]
    if not fixed:
        return []
    if len(fixed) < len(facts):
        free = next(s.name for s, each in zip(stages, facts, strict=True) if each.fixed is None)
        raise ConfigError(f"stage {free} has no part, and others have: start all with --part")
    at = 0
    for stage, part in zip(stages, fixed, strict=True):
        if part.model_hash != model_hash:
            raise EngineError(f"stage {stage.name}: this is a stage of another model")
        if part.first != at:
            raise EngineError(
                f"stage {stage.name} begins with block {part.first} and not {at}: "
                f"name the stages in the order of their blocks"
            )
        at = part.end
    return fixed


def machines_of(
    path: Path,
    model_hash: str,
    settings: TargetEngine,
    stages: Sequence[StageAddress],
    limit_s: float,
    folder: Path,
) -> dict[str, Machine]:
    """Returns what each machine has, by its name; each measures passes of some of the blocks.

    The last one is this machine. folder: for files. Raises CutError and EngineError.
    """
    sample = sample_of(path, model_hash)
    asked = StageFactsRequest(sample.header, sample.file_bytes)
    found = dict[str, Machine]()
    for stage, facts in zip(stages, facts_of(stages, asked, limit_s), strict=True):
        if facts.passes is None:
            raise EngineError(f"stage {stage.name} measured no passes")
        byte_s = facts.passes.scaled(1 / sample.block_bytes)
        found[stage.name] = Machine(LAYERS_OF_FREE * facts.free_bytes, byte_s, facts.rtt_s)
    room = LAYERS_OF_FREE * available_memory()
    passes = measured_passes(sample.header, sample.file_bytes, settings, folder)
    found["this machine"] = Machine(room, passes.scaled(1 / sample.block_bytes))
    return found


def planned_parts(
    path: Path,
    model_hash: str,
    layers: Layers,
    found: dict[str, Machine],
    plan: Path,
    tell: Callable[[str], None],
) -> list[Part]:
    """Returns the parts with which all machines take about the same time, and tells them.

    found: the machines by name, in the order of their layers. plan: the file of the last plan, so
    that machines keep their parts if that is about as good. Raises ConfigError.
    """
    machines = list(found.values())
    cuts = cuts_for(layers, machines)
    if not cuts:
        raise ConfigError(f"{path.name}: {told_no_room(layers, found)}")
    cuts = _kept_cuts(plan, layers, machines, cuts)
    bounds = [0, *cuts]
    tell(told_plan(layers, found, cuts))
    return [
        Part(model_hash, part_name(path, first, end), first, end) for first, end in pairwise(bounds)
    ]


def _kept_cuts(
    plan: Path, layers: Layers, machines: Sequence[Machine], best: Sequence[int]
) -> list[int]:
    """Returns the cuts of the last plan if they are about as good as the best ones for these
    machines, and else keeps the best ones."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        cuts = [int(cut) for cut in json.loads(plan.read_text(encoding="utf-8"))["cuts"]]
        limit_s = _KEPT_WITHIN * slowest_s(layers, machines, best)
        is_of_as_many = len(cuts) == len(best) and set(cuts) <= set(layers.cuts)
        if is_of_as_many and slowest_s(layers, machines, cuts) <= limit_s:
            return cuts
    plan.parent.mkdir(parents=True, exist_ok=True)
    write_whole(plan, json.dumps({"cuts": list(best)}).encode())
    return list(best)


# -- where the stages are --------------------------------------------------------------------------


def _find(
    settings: TargetEngine, ring: Keyring, connect: str, report: Progress, limit_s: float | None
) -> list[StageAddress]:
    """Returns where the stages of a setting are, and has the coordinator let this target use them.

    limit_s: how long to wait for members that are not in the mesh; None for as long as it takes.
    Raises EngineError and what links raise.
    """
    words = named_stages("across", settings.across)
    spares = named_stages("spare", settings.spare, words) if settings.spare else []
    found, names = dict[str, StageAddress](), list[str]()
    for word in words:
        if "://" in word:
            check_secure(check_connect(word))
            found[word] = StageAddress(word, None, word)
        else:
            names.append(word)
    if names:
        endpoint, keys = ring.link(connect)
        stages = asyncio.run(_asked(endpoint, keys, names, spares, limit_s, report))
        for name, stage in zip(names, stages, strict=True):
            own = None
            if stage.key and keys is not None:
                own = ClientKeys(keys.own, stage.key)
            else:
                check_secure(stage.endpoint)
            found[name] = StageAddress(check_connect(stage.endpoint), own, stage.name)
    return [found[word] for word in words]


def named_stages(key: str, value: str, others: Sequence[str] = ()) -> list[str]:
    """Returns the words of a setting. others: what may not be among them. Raises ConfigError."""
    words = [word.strip() for word in value.split(",")]
    every = [*others, *words]
    if not all(words) or len(set(every)) < len(every) or len(every) > MOST_STAGES:
        accepted = f"1 to {MOST_STAGES - len(others)} different names are accepted"
        raise ConfigError(f"engine.{key} = {value!r}: {accepted}")
    return words


async def _asked(
    endpoint: str,
    keys: ClientKeys | None,
    names: Sequence[str],
    spares: Sequence[str],
    limit_s: float | None,
    report: Progress,
) -> list[StageFields]:
    """Ask the coordinator until all stages are in the mesh; returns where those of these names, or
    spares in their places, are. Raises EngineError."""
    missing, began = "no coordinator", time.monotonic()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while True:
                wanted = tuple(names)
                # Who is asked for is lent to this target, so spares are not asked for earlier.
                if time.monotonic() - began > _SPARE_AFTER_S:
                    wanted += tuple(spares)
                reply = await ask(endpoint, keys, StagesRequest(wanted), StagesReply, limit_s)
                if reply.error:
                    raise EngineError(reply.error)
                stages, more = reply.stages[: len(names)], reply.stages[len(names) :]
                away = [stage.name for stage in stages if not stage.endpoint]
                here = [stage for stage in more if stage.endpoint]
                if len(away) <= len(here):
                    place = iter(here)
                    return [stage if stage.endpoint else next(place) for stage in stages]
                missing = ", ".join(away)
                report(f"waiting for stage {missing}: start `airdraft stage` there", 0, None)
                await asyncio.sleep(_ASK_S)
    raise EngineError(f"stage {missing} is not in the mesh (waited for {limit_s:.0f} s)")
