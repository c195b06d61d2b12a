"""Checks model files, the memory that they need, and the cache directory."""

from __future__ import annotations

import os
from pathlib import Path

from nodes.catalog import Catalog, CatalogError
from nodes.config.settings import EngineSettings
from nodes.doctor.finding import Finding, fail, note, ok, warn
from nodes.engine.llama_abi import hash_file

# Memory besides the model file: the KV cache, buffers and this program.
_OVERHEAD_BYTES = 300_000_000
_SCARCE_BYTES = 1_000_000_000


def check_cache(directory: Path) -> Finding:
    """Check the directory of models and calibrations."""
    present = directory
    while not present.exists() and present != present.parent:
        present = present.parent
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


def check_model(settings: EngineSettings, catalog: Catalog) -> tuple[Finding, Path | None, str]:
    """Return the finding, and the file and its SHA-256 if it is valid."""
    name = settings.model
    if name.startswith(("toy:", "replay:")):
        return note(f"model {name} is emulated and has no file"), None, ""
    try:
        path = catalog.path(name)
        found = hash_file(path)
    except CatalogError as error:
        return fail(str(error), ""), None, ""
    except OSError as error:
        return fail(f"model {name} cannot be read: {error.strerror}", "chmod it"), None, ""
    wanted = catalog.sha256(name) or settings.model_sha256.lower()
    if wanted and found != wanted:
        mend = f"airdraft models rm {name}, then airdraft models pull {name}"
        if catalog.sha256(name) is None:
            mend = "download the file again, or correct engine.model_sha256"
        return (
            fail(f"model {name} has SHA-256 {found[:16]}..., not {wanted[:16]}...", mend),
            None,
            "",
        )
    megabytes = path.stat().st_size / 1e6
    return (
        ok(
            f"model {name}: {megabytes:.0f} MB, "
            f"{'hash is right' if wanted else 'no reference hash'}"
        ),
        path,
        found,
    )


def check_memory(model_bytes: int, available_bytes: int, total_bytes: int) -> Finding:
    """Compare memory. model_bytes: the size of all models that run on this machine."""
    need = model_bytes + _OVERHEAD_BYTES
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


def memory_of(meminfo: str) -> tuple[int, int]:
    """Available and total bytes, from /proc/meminfo."""
    values = {
        line.partition(":")[0]: int(line.partition(":")[2].split()[0])
        for line in meminfo.splitlines()
        if ":" in line
    }
    return values.get("MemAvailable", 0) * 1024, values.get("MemTotal", 0) * 1024
