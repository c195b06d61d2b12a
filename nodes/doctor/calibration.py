"""Whether what passes cost is known for a model on this device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nodes.doctor.finding import Finding, note, ok, warn


@dataclass(frozen=True, slots=True)
class Kept:
    """What a kept calibration says of itself."""

    model_hash: str
    build: str
    device: str
    threads: int
    profile: str
    exact: bool


def read_kept(directory: Path) -> list[Kept]:
    """Those that say what they are of; damaged and older files are left out."""
    found = []
    for path in sorted(directory.glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            about = data["about"]
            found.append(Kept(**about, exact=data["exact"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def check_calibration(name: str, wanted: Kept, kept: Sequence[Kept]) -> Finding:
    """name: of the model, for people. wanted: what it runs as here. kept: what the cache holds."""
    threads, profile = wanted.threads, wanted.profile
    mine = [k for k in kept if k.model_hash == wanted.model_hash]
    here = [k for k in mine if (k.device, k.build) == (wanted.device, wanted.build)]
    fits = [k for k in here if (k.threads, k.profile) == (threads, profile)]
    later = "nothing to do: the node calibrates when it starts, which takes some seconds"
    if fits:
        if profile == "exact" and not any(k.exact for k in fits):
            return warn(
                f"{name}: this device failed the self-test, its texts are not exact",
                "run it with --threads 1, or accept `exact: false`",
            )
        return ok(f"{name}: calibrated for this device")
    if here:
        return note(f"{name}: calibrated here, with other threads or another profile", later)
    if mine:
        return note(f"{name}: its calibration is of another device or libllama", later)
    return note(f"{name}: not calibrated yet", later)
