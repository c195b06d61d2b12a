"""The costs of a scenario's nodes, from measured tables or from a device and a model's shape."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from policies.analytic import (
    Device,
    TransformerShape,
    device_from,
    max_cells,
    node_costs,
    shape_from,
)
from policies.latency import CostTable, NodeCosts
from policies.scenario.fields import ScenarioError, Table

T = TypeVar("T")
# Contents of the TOML files that a scenario names, by the paths as written in the scenario.
Files: TypeAlias = Mapping[str, Mapping[str, Any]]

COST_KEYS = ("device", "model", "decode", "prefill", "used_cells")
MAX_CELLS = 1 << 22
_TABLE_KEYS = ("sizes", "seconds", "per_cell_s")
_MAX_SIZE = 1 << 16
_MIN_SECONDS, _MAX_SECONDS = 1e-7, 3600.0


def costs_of(node: Table, root: Table, files: Files) -> tuple[NodeCosts, int]:
    """Returns the costs of a node and the used cells of its cache. Raises ScenarioError.

    node: the table with the COST_KEYS. root: the whole scenario, which may name a file of models.
    """
    used_cells = node.integer("used_cells", 0, low=0, high=MAX_CELLS)
    if "decode" in node:
        for key in ("device", "model"):
            if key in node:
                raise node.error(key, "accepted only without measured times in decode")
        decode = _measured(node, "decode")
        # Plans do not use the times of prompts, so a scenario need not give them.
        prefill = _measured(node, "prefill") if "prefill" in node else decode
        return NodeCosts(decode, prefill), used_cells
    if "prefill" in node:
        raise node.error("prefill", "accepted only with measured times in decode")
    if "device" not in node and "model" not in node:
        raise node.error("decode", "measured times, or a device and a model, are accepted")
    device, shape = _device(node, files), _shape(node, root, files)
    if shape.weight_bytes > device.memory_bytes:
        raise node.error(
            "model",
            f"a model of up to {device.memory_bytes / 1e9:.1f} GB, the memory of {device.name}, "
            f"is accepted; this one has {shape.weight_bytes / 1e9:.1f} GB",
        )
    room = max_cells(shape, device)
    if used_cells > room:
        raise node.error("used_cells", f"0 to {room}, what fits beside the model, is accepted")
    costs = _analytic(shape, device, used_cells)
    if costs is None:
        accepted = f"figures that give passes of {_MIN_SECONDS:g} to {_MAX_SECONDS:g} s"
        raise node.error("device", f"{accepted} are accepted")
    return costs, used_cells


def _analytic(shape: TransformerShape, device: Device, used_cells: int) -> NodeCosts | None:
    """Returns costs from a device and a shape; None if they are outside the accepted range."""
    try:
        costs = node_costs(shape, device, used_cells=used_cells)
    except (ValueError, ArithmeticError):
        return None
    seconds = (*costs.decode.seconds, *costs.prefill.seconds)
    return costs if min(seconds) >= _MIN_SECONDS and max(seconds) <= _MAX_SECONDS else None


def _measured(node: Table, key: str) -> CostTable:
    table = node.table(key, _TABLE_KEYS)
    sizes = table.ascending("sizes", high=_MAX_SIZE)
    seconds = table.numbers("seconds", low=_MIN_SECONDS, high=_MAX_SECONDS)
    if len(sizes) != len(seconds):
        raise table.error("seconds", f"as many times as sizes, {len(sizes)}, are accepted")
    per_cell_s = table.number("per_cell_s", 0.0, high=_MAX_SECONDS)
    return CostTable(sizes, seconds, per_cell_s)


def _device(node: Table, files: Files) -> Device:
    accepted = "a table, or the path of a TOML file with a table [device], is accepted"
    if isinstance(node.values.get("device"), Mapping):
        return _inline(node, "device", "device", device_from)
    path = node.values.get("device")
    if not isinstance(path, str) or path not in files:
        raise node.error("device", accepted)
    table = files[path].get("device")
    if not isinstance(table, Mapping):
        raise node.error("device", f"{accepted}; this file has none")
    try:
        return device_from(table)
    except ValueError as error:
        raise node.error("device", f"in that file {error}") from None


def _shape(node: Table, root: Table, files: Files) -> TransformerShape:
    if isinstance(node.values.get("model"), Mapping):
        return _inline(node, "model", "shape", shape_from)
    name = node.values.get("model")
    if not isinstance(name, str):
        raise node.error("model", "the name of a model, or a table of its shape, is accepted")
    known = _models(root, files)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"{', '.join(known)} are accepted"
        raise node.error("model", f"no such model in {root.values['models']}, {hint}")
    try:
        return shape_from(known[name])
    except ValueError as error:
        raise node.error("model", f"in {root.values['models']} its {error}") from None


def _models(root: Table, files: Files) -> dict[str, Mapping[str, Any]]:
    """Returns the shapes by name from the file that the key `models` names."""
    path = root.text("models")
    if path not in files:
        raise root.error("models", "the path of a TOML file of models is accepted")
    entries = Table(path, "", files[path], None).tables("model", None)
    if not entries:
        raise root.error("models", "a file with tables [[model]] is accepted; this one has none")
    return {entry.text("name"): entry.table("shape", None).values for entry in entries}


def _inline(node: Table, key: str, called: str, build: Callable[[Mapping[str, Any]], T]) -> T:
    """Build an object from a table in the scenario itself.

    called: the table's name in errors of `build`, which is replaced by its path here.
    """
    try:
        return build(node.values[key])
    except ValueError as error:
        at = f"{node.path}.{key}"
        raise ScenarioError(f"{node.source}: {at}{str(error).removeprefix(called)}") from None
