"""Opens an emulated node from a TOML file: a recording, and the times of passes on a device.

    recording = "../recordings/smollm2-135m.json.z"
    draft = "smollm2-draft"       # a draft of the recording; its target if this is left out
    models = "../../profiles/models.toml"

    [costs]                       # as those of a node in a scenario
    device = "../../profiles/jetson-agx-orin.toml"
    model = "llama-3.1-8b"        # its times are emulated, whichever model was recorded
    used_cells = 4000             # the times are most exact with so many cells in use
    per_own_cell_s = 0            # is added for each token and cell of its own sequence

Measured times may take the place of device and model: [costs.decode] and [costs.prefill] with
`sizes`, `seconds` and `per_cell_s`. Paths are relative to the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nodes.engine.protocol import ModelFileError
from nodes.engine.recording import read_recording
from nodes.engine.replay import ReplayConfig, ReplayModel, ReplayTokenizer
from policies.latency import NodeCosts
from policies.scenario.costs import COST_KEYS, Files, costs_of
from policies.scenario.fields import ScenarioError, Table

_OWN = "per_own_cell_s"
_MAX_OWN_S = 1.0


@dataclass(frozen=True, slots=True)
class OpenedReplay:
    model: ReplayModel
    tokenizer: ReplayTokenizer
    costs: NodeCosts


def open_replay(path: Path, *, num_cells: int, max_sequences: int) -> OpenedReplay:
    """Open the emulated node of a TOML file. Raises ModelFileError, one line."""
    values = _toml(path, f"emulated node {path}")
    try:
        root = Table(str(path), "", values, ("recording", "draft", "models", "costs"))
        costs = _costs(root, _files_named(path, values))
        recording = read_recording(path.parent / root.text("recording"))
        draft = root.text("draft") if "draft" in root else ""
        if draft not in ("", *(model.name for model in recording.drafts)):
            known = ", ".join(model.name for model in recording.drafts) or "none"
            raise root.error("draft", f"a draft of the recording is accepted: {known}")
    except ScenarioError as error:
        raise ModelFileError(str(error)) from None
    config = ReplayConfig(
        name=path.stem,
        recording=recording,
        costs=costs,
        draft=draft,
        num_cells=num_cells,
        max_sequences=max_sequences,
    )
    return OpenedReplay(ReplayModel(config), ReplayTokenizer(recording), costs)


def _costs(root: Table, files: Files) -> NodeCosts:
    table = root.table("costs", (*COST_KEYS, _OWN))
    costs, _ = costs_of(table, root, files)
    own_s = table.number(_OWN, 0.0, high=_MAX_OWN_S)
    return NodeCosts(
        replace(costs.decode, per_own_cell_s=own_s), replace(costs.prefill, per_own_cell_s=own_s)
    )


def _files_named(path: Path, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read the TOML files that the costs may need; returns them by their paths as written."""
    costs = values.get("costs")
    named = {"models": values.get("models")}
    if isinstance(costs, Mapping):
        named["costs.device"] = costs.get("device")
    return {
        name: _toml(path.parent / name, f"{path}: {key} = {name!r}")
        for key, name in named.items()
        if isinstance(name, str)
    }


def _toml(path: Path, where: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ModelFileError(f"{where}: {reason}; the path of a TOML file is accepted") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{where}: not valid TOML: {error}") from error
