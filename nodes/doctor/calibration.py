"""Checks whether a model is calibrated on this device, so that the costs of passes are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nodes.doctor.finding import Finding, note, ok, warn


@dataclass(frozen=True, slots=True)
class Kept:
    """The conditions under which a stored calibration was made."""

    model_hash: str
    build: str
    device: str
    threads: int
    profile: str
    exact: bool


def read_kept(directory: Path) -> list[Kept]:
    """Read the stored calibrations; damaged files and older formats are skipped."""
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
    """Look for a calibration. name: the model's, to show. wanted: how it runs here. kept: all."""
    threads, profile = wanted.threads, wanted.profile
    mine = [k for k in kept if k.model_hash == wanted.model_hash]
    here = [k for k in mine if (k.device, k.build) == (wanted.device, wanted.build)]
    fits = [k for k in here if (k.threads, k.profile) == (threads, profile)]
    later = "nothing to do: the node calibrates when it starts, which takes a few seconds"
    if fits:
        if profile == "exact" and not any(k.exact for k in fits):
            return warn(
                f"{name}: this device failed the self-test, so its texts are not exact",
                "run it with --threads 1, or accept `exact: false`",
            )
        return ok(f"{name}: calibrated for this device")
    if here:
        return note(f"{name}: calibrated here, but with other threads or another profile", later)
    if mine:
        return note(f"{name}: calibrated only for another device or libllama", later)
    return note(f"{name}: not calibrated yet", later)
