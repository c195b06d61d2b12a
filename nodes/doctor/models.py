"""Checks model files, the memory that they need, and the cache directory."""

import os
from pathlib import Path

from airdraft.nodes.catalog import Catalog, CatalogError
from airdraft.nodes.catalog.disk import existing
from airdraft.nodes.config.settings import EngineSettings
from airdraft.nodes.doctor.finding import Finding, fail, note, ok, warn
from airdraft.nodes.engine.cores import sizes_in
from airdraft.nodes.engine.llama_abi import hash_file
from airdraft.nodes.worker.engines import opener_of

# Memory besides the model file: the KV cache, buffers and this program.
_OVERHEAD_BYTES = 300_000_000
_SCARCE_BYTES = 1_000_000_000


def check_cache(directory: Path) -> Finding:
    """Check the directory of models."""
    present = existing(directory)
    if not present.is_dir() or not os.access(present, os.W_OK | os.X_OK):
        return fail(
            f"cache directory {directory} cannot be written",
            "chown it, or set AIRDRAFT_CACHE to another directory",
        )
    space = os.statvfs(present)
    free = space.f_bavail * space.f_frsize
    if free < _SCARCE_BYTES:
        return warn(
            f"cache directory {directory}: {free / 1e6:.0f} MB free",
            "free some space, or set AIRDRAFT_CACHE to another file system",
        )
    return ok(f"cache directory {directory}: {free / 1e9:.1f} GB free")


def check_model(settings: EngineSettings, catalog: Catalog) -> tuple[Finding, Path | None]:
    """Returns the finding, and the file if it is valid."""
    name = settings.model
    if opener_of(name):
        return note(f"model {name} is emulated and has no file"), None
    try:
        path = catalog.path(name)
        found = hash_file(path)
    except CatalogError as error:
        return fail(str(error), ""), None
    except OSError as error:
        return fail(f"model {name} cannot be read: {error.strerror}", "chmod it"), None
    wanted = catalog.sha256(name) or settings.model_sha256.lower()
    if wanted and found != wanted:
        mend = f"airdraft models rm {name}, then airdraft models pull {name}"
        if catalog.sha256(name) is None:
            mend = "download the file again, or correct engine.model_sha256"
        what = f"model {name} has SHA-256 {found[:16]}..., not {wanted[:16]}..."
        return fail(what, mend), None
    is_known = "hash is right" if wanted else "no reference hash"
    return ok(f"model {name}: {path.stat().st_size / 1e6:.0f} MB, {is_known}"), path


def check_memory(model_bytes: int, meminfo: str) -> Finding:
    """Compare memory. model_bytes: the size of all models that run on this machine. meminfo: the
    content of /proc/meminfo."""
    sizes, need = sizes_in(meminfo), model_bytes + _OVERHEAD_BYTES
    available_bytes, total_bytes = sizes["MemAvailable"], sizes["MemTotal"]
    text = f"models need about {need / 1e6:.0f} MB"
    if need > total_bytes:
        return fail(
            f"{text}, but this machine has {total_bytes / 1e6:.0f} MB",
            "use a smaller model or quantisation here, or run it on another node",
        )
    if need > available_bytes:
        return warn(
            f"{text}, but only {available_bytes / 1e6:.0f} MB of memory are free now",
            "end other programs, or use a smaller model here",
        )
    return ok(f"{text}, {available_bytes / 1e6:.0f} MB are free")
