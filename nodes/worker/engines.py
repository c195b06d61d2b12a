"""Opens engines by their names in the settings: model files, and models of other kinds."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any, Final, Protocol

from airdraft.mesh.whole_files import write_whole
from airdraft.nodes.catalog import Catalog, CatalogError, default_cache_dir
from airdraft.nodes.catalog.compact import compact_copy
from airdraft.nodes.catalog.gguf import declared_by
from airdraft.nodes.config.settings import (
    AUTO_DRAFT,
    NO_DRAFT,
    ConfigError,
    DraftEngine,
    EngineSettings,
    TargetEngine,
    draft_engine,
)
from airdraft.nodes.config.sources import environment
from airdraft.nodes.engine.calibrate import Progress
from airdraft.nodes.engine.cores import available_memory, usable_cores
from airdraft.nodes.engine.embedding import MOST_EMBEDDED_TOKENS, EmbeddingModel
from airdraft.nodes.engine.grammar import Piece
from airdraft.nodes.engine.llama_abi import hash_file
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.load import Opened, OpenedModel, in_tokens_of, open_model, open_toy
from airdraft.nodes.engine.protocol import Model, Sequences
from airdraft.nodes.engine.split.last import SplitModel
from airdraft.nodes.engine.thinking import find_thinking
from airdraft.nodes.engine.toy import ToyConfig
from airdraft.nodes.messages import MAX_GAMMA
from airdraft.policies.acceptance import CALIBRATION_KEY, DraftCalibration

logger = logging.getLogger(__name__)

# Architectures whose states are so small that one for each guess costs nothing: 0.16 MB in LFM2,
# where Qwen3.5-4B has 53 MB.
_SMALL_STATES: Final = ("lfm2", "lfm2moe")
# What a draft node guesses besides, for all its streams (nodes/draft/branches.py).
BRANCHES: Final = 16
# libllama's limit, without one for the engine itself.
_MOST_SEQUENCES: Final = 255
CANNOT_DRAFT = "this model cannot take wrong guesses back: choose another draft model"

_TOY = "toy:"
_SLOWEST_TOY_MS = 10_000.0
_TOY_CELLS = 8192
# The share of the free memory that ended texts may take.
_PREFIXES_OF_FREE: Final = 0.125
_DISK_OF_FREE: Final = 0.1
_MOST_DISK_BYTES: Final = 8_000_000_000


class Opener(Protocol):
    """Opens the engine of a node by its settings. is_draft: for a draft node."""

    def __call__(self, settings: EngineSettings, *, is_draft: bool) -> Opened: ...


def open_engine(
    settings: EngineSettings, progress: Progress | None = None, *, is_draft: bool = False
) -> Opened:
    """Open the engine that the settings name: a catalogue model, a GGUF path, or `toy:AGREEMENT` or
    `toy:AGREEMENT@NUMBERms` for tests.

    is_draft: a compact copy of the file may be used. Raises ConfigError for a wrong toy, and what
    checked_model(), open_model() and other OPENERS raise.
    """
    if opener := opener_of(settings.model):
        return opener(settings, is_draft=is_draft)
    cache = default_cache_dir(environment())
    path, model_hash = checked_model(settings, cache)
    if is_draft and settings.weights == "auto":
        path, model_hash = compact_copy(path, model_hash, cache, progress)
    branches = min(BRANCHES, _MOST_SEQUENCES - settings.max_streams) if is_draft else 0
    return _open_file(settings, path, model_hash, cache, progress, num_branches=branches)


def _open_file(
    settings: EngineSettings,
    path: Path,
    model_hash: str,
    cache: Path,
    progress: Progress | None,
    **ways: Any,
) -> OpenedModel:
    config = llama_config(settings, path, **ways)
    return open_model(config, cache / "calibration", progress, model_hash=model_hash)


def llama_config(settings: EngineSettings, path: Path, **ways: Any) -> LlamaConfig:
    """Returns how a file runs by the settings. ways: of guesses, other fields of the result."""
    return LlamaConfig(
        path=path,
        profile="exact" if settings.profile == "exact" else "fast",
        num_cells=settings.cells,
        max_sequences=settings.max_streams,
        num_threads=_num_threads(settings),
        gpu_layers=settings.gpu_layers,
        **ways,
    )


def _num_threads(settings: EngineSettings) -> int:
    if settings.threads > (num_cpus := len(os.sched_getaffinity(0))):
        logger.warning(
            "engine.threads is %d, but this process may use %d CPUs: fewer threads are faster",
            settings.threads,
            num_cpus,
        )
    return settings.threads or usable_cores()


def open_target(
    settings: TargetEngine, progress: Progress | None = None
) -> Opened | EmbeddingModel:
    """Open the engine of a target, whose model may be an embedding model.

    Raises what open_engine raises.
    """
    if opener_of(settings.model):
        return open_engine(settings, progress)
    cache = default_cache_dir(environment())
    path, model_hash = checked_model(settings, cache)
    declared = declared_by(path)
    if declared.blocks is not None:
        raise ConfigError(
            f"engine.model = {settings.model!r} is a stage of a split model: name the stages "
            f"before it with engine.across, or run it with `airdraft stage` if it is not the last"
        )
    if not declared.traits.embeds:
        # A draft goes back by more tokens than those of its last pass, which have snapshots.
        num_snapshots = MAX_GAMMA if declared.architecture in _SMALL_STATES else 0
        # A head is a draft that nobody has to choose.
        has_head = settings.draft == AUTO_DRAFT
        ways = {"num_snapshots": num_snapshots, "has_head": has_head}
        opened = _open_file(settings, path, model_hash, cache, progress, **ways)
        find_thinking(opened.model)
        return opened
    return EmbeddingModel(
        path,
        max_tokens=min(settings.cells or MOST_EMBEDDED_TOKENS, MOST_EMBEDDED_TOKENS),
        num_threads=_num_threads(settings),
        gpu_layers=settings.gpu_layers,
        model_hash=model_hash,
    )


def prefix_cache_bytes(settings: TargetEngine, model: Model) -> int:
    """Returns the host memory in which a target keeps the prefixes of ended texts."""
    wanted: float = settings.prefix_cache_mb * 1_000_000
    if settings.prefix_cache_mb < 0:
        wanted = _PREFIXES_OF_FREE * available_memory()
    if isinstance(model, SplitModel):
        # Another stage may have more blocks, or less memory.
        wanted = min(wanted, model.most_saved_bytes)
    return int(wanted)


def prefix_disk_bytes(settings: TargetEngine, model: Model, folder: Path) -> int:
    """Returns the disk space for texts that are kept over restarts; 0 for a model that cannot.

    Raises OSError.
    """
    # Other stages have a part of each text in their memory.
    if isinstance(model, SplitModel):
        return 0
    if settings.prefix_disk_mb >= 0:
        return settings.prefix_disk_mb * 1_000_000
    return min(_MOST_DISK_BYTES, int(_DISK_OF_FREE * shutil.disk_usage(folder).free))


def draft_for(settings: TargetEngine) -> DraftEngine | None:
    """Returns the settings of the draft model that goes with a target's model, if any."""
    name = settings.draft
    if name == AUTO_DRAFT:
        name = Catalog(default_cache_dir(environment())).draft_of(settings.model) or NO_DRAFT
    if name == NO_DRAFT:
        return None
    are_files = not opener_of(settings.model) and not opener_of(name)
    return draft_engine(settings, name, settings.model if are_files else "")


def check_draft_inside(settings: TargetEngine) -> None:
    """Find what is wrong with a target's draft model without opening it.

    Raises ConfigError, or CatalogError if it is neither an installed catalogue name nor a file.
    """
    if (inside := draft_for(settings)) is None:
        return
    if (opener_of(settings.model) is None) != (opener_of(inside.model) is None):
        raise ConfigError(f"engine.draft = {inside.model!r}: its tokens are others")
    if opener_of(inside.model) is None:
        Catalog(default_cache_dir(environment())).path(inside.model)


def opened_inside(opened: Opened, inside: DraftEngine) -> Sequences:
    """Returns a draft model that guesses in a target's process, in the target's tokens.

    inside: as from draft_for(). Raises ConfigError, CatalogError, EngineError or ModelFileError.
    """
    model, _ = in_tokens_of_targets(opened, inside)
    if not model.info.can_take_back:
        raise ConfigError(f"engine.draft = {inside.model!r}: {CANNOT_DRAFT}")
    return model


def _open_toy(settings: EngineSettings, *, is_draft: bool) -> Opened:
    """Opens `toy:AGREEMENT` or `toy:AGREEMENT@NUMBERms`. Raises ConfigError."""
    share, has_time, pass_time = settings.model.removeprefix(_TOY).partition("@")
    try:
        agreement = float(share)
        pass_ms = float(pass_time.removesuffix("ms")) if has_time else 0.0
    except ValueError:
        agreement, pass_ms = -1.0, 0.0
    is_time = pass_time.endswith("ms") and 0.0 < pass_ms <= _SLOWEST_TOY_MS if has_time else True
    if not (0.0 <= agreement <= 1.0 and is_time):
        raise ConfigError(
            f"engine.model = {settings.model!r}: toy:0 to toy:1 is accepted, alone or with the "
            f"time of a pass, up to {_SLOWEST_TOY_MS:g} ms: toy:0.8@5ms"
        )
    return open_toy(
        ToyConfig(
            agreement=agreement,
            pass_s=pass_ms / 1e3,
            max_sequences=settings.max_streams,
            num_cells=settings.cells or _TOY_CELLS,
        )
    )


# By the prefixes of names that do not mean a model file.
OPENERS: dict[str, Opener] = {_TOY: _open_toy}


def opener_of(model: str) -> Opener | None:
    """Returns what opens a model that is not a file; None for a file or a catalogue name."""
    found = (opener for prefix, opener in OPENERS.items() if model.startswith(prefix))
    return next(found, None)


def kept_hash(path: Path, directory: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits. Raises OSError.

    It is kept in a directory, because hashing a large file takes seconds, and taken from there as
    long as the file has not been written, replaced or renamed since.
    """
    # Taken before the file is read, so that changes made meanwhile are noticed the next time.
    found = path.stat()
    state = f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
    kept = directory / f"{found.st_dev}-{found.st_ino}.sha256"
    with contextlib.suppress(OSError, ValueError):
        known, sha256 = kept.read_text(encoding="ascii").split()
        if known == state:
            return sha256
    sha256 = hash_file(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(kept, f"{state} {sha256}\n".encode(), 0o644)
    except OSError as error:
        # The calibration, which lies there as well, is warned of.
        logger.debug("the model's hash cannot be kept in %s: %s", directory, error.strerror)
    return sha256


def checked_model(settings: EngineSettings, cache: Path) -> tuple[Path, str]:
    """Returns a node's model file and its SHA-256, checked before libllama opens it.

    Raises CatalogError if the model is neither an installed catalogue name nor a good file, or if
    its SHA-256 is wrong.
    """
    catalog = Catalog(cache)
    path = catalog.path(settings.model)
    wanted = catalog.sha256(settings.model)
    found = kept_hash(path, cache / "calibration")
    for known in (wanted, settings.model_sha256 or None):
        if known is not None and found != known.lower():
            raise CatalogError(
                f"model file {path} has SHA-256 {found} instead of {known}: get the file again"
            )
    return path, found


def calibration_of(model: Model) -> DraftCalibration:
    """Returns the calibration that a draft's file carries, or the default one."""
    text = model.metadata(CALIBRATION_KEY)
    if not text:
        return DraftCalibration()
    try:
        return DraftCalibration.from_json(text)
    except ValueError as error:
        logger.warning("the calibration in the file of %s is ignored: %s", model.info.model, error)
        return DraftCalibration()


def in_tokens_of_targets(opened: Opened, settings: DraftEngine) -> tuple[Sequences, Piece]:
    """Returns a draft's model in the vocabulary of its targets, and what gives this one's pieces.

    Without engine.vocabulary this is the draft's own vocabulary. Raises ConfigError, CatalogError
    or ModelFileError.
    """
    name = settings.vocabulary
    if not name:
        return opened.model, opened.tokenizer.piece
    if not isinstance(opened, OpenedModel):
        raise ConfigError(
            f"engine.vocabulary = {name!r}: this is accepted only if engine.model is a model file"
        )
    path = Catalog(default_cache_dir(environment())).path(name)
    return in_tokens_of(path, opened.model)
