"""Models that Ollama and LM Studio have on this machine, which are used where they are.

Ollama keeps manifests/HOST/NAMESPACE/MODEL/TAG, JSON with a list of layers, and blobs/sha256-HASH.
LM Studio keeps PUBLISHER/REPO/FILE.gguf.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from airdraft.nodes.catalog.entries import FIRST_PART, Entry, LocalFile, is_model

_MODEL_LAYER: Final = "application/vnd.ollama.image.model"
_OLLAMA: Final = (
    "~/.ollama/models",
    # Of the service that its installer for Linux makes.
    "/usr/share/ollama/.ollama/models",
)
_LM_STUDIO: Final = ("~/.lmstudio/models", "~/.cache/lm-studio/models")


def models_of_programs() -> dict[str, Path]:
    """Return files by ollama:[NAMESPACE/]MODEL:TAG and lmstudio:PUBLISHER/REPO/FILE."""
    return dict([*_ollama(), *_lm_studio()])


def program_entry(name: str) -> Entry | None:
    """Return an entry for a name of models_of_programs(), where :latest may be left out; None for
    any other name."""
    owner = {"ollama": "Ollama", "lmstudio": "LM Studio"}.get(name.partition(":")[0])
    if owner is None:
        return None
    files = models_of_programs()
    name = name if name in files else f"{name}:latest"
    if (path := files.get(name)) is None:
        return None
    return Entry(
        name=name,
        source=LocalFile(path),
        sha256=path.name.removeprefix("sha256-") if owner == "Ollama" else None,
        size_bytes=path.stat().st_size,
        licence="see its page",
        summary=f"a file of {owner}",
    )


def _ollama() -> Iterator[tuple[str, Path]]:
    named = os.environ.get("OLLAMA_MODELS")
    for folder in map(_expanded, (named,) if named else _OLLAMA):
        for manifest in folder.glob("manifests/registry.ollama.ai/*/*/*"):
            try:
                layers = json.loads(manifest.read_bytes())["layers"]
                digests = [each["digest"] for each in layers if each["mediaType"] == _MODEL_LAYER]
            except (OSError, ValueError, TypeError, KeyError):
                continue
            namespace, model, tag = manifest.parts[-3:]
            name = model if namespace == "library" else f"{namespace}/{model}"
            for digest in digests[:1]:
                blob = folder / "blobs" / str(digest).replace(":", "-")
                if os.access(blob, os.R_OK):
                    yield f"ollama:{name}:{tag}", blob


def _lm_studio() -> Iterator[tuple[str, Path]]:
    for folder in map(_expanded, _LM_STUDIO):
        for path in folder.glob("*/*/*.gguf"):
            if is_model(path.name) and FIRST_PART not in path.name:
                yield f"lmstudio:{path.relative_to(folder)}", path


def _expanded(folder: str) -> Path:
    return Path(os.path.expanduser(folder))
