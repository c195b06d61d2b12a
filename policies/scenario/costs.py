"""The costs of a scenario's nodes, from measured tables or from a device and a model's shape."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeAlias

from airdraft.policies.analytic import Device, TransformerShape, max_cells, node_costs
from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.scenario.fields import Table

# Reads a TOML file that a scenario names, by the key that names it and the path as written there.
ReadFile: TypeAlias = Callable[[str, str], Mapping[str, Any]]

COST_KEYS = ("device", "model", "decode", "prefill", "used_cells")
MAX_CELLS = 1 << 22
_TABLE_KEYS = ("sizes", "seconds", "per_cell_s")
# `kind` is for people who read a device's file; no price depends on it.
_DEVICE_KEYS = (*(field.name for field in fields(Device)), "kind")
_COUNTS = ("layers", "hidden_size", "heads", "kv_heads", "head_dim", "ffn_size", "vocab_size")
_SHAPE_KEYS = (*_COUNTS, "gated_ffn", "tied_embeddings", "bits_per_weight", "kv_bits")
_MAX_SIZE = 1 << 16
_MIN_SECONDS, _MAX_SECONDS = 1e-7, 3600.0
_MAX_AMOUNT = 1e21
_LEAST_SHARE = 1e-3
_MAX_COUNT = 1 << 24
_LEAST_BITS, _MAX_BITS = 0.5, 64.0


def costs_of(node: Table, root: Table, read: ReadFile) -> tuple[NodeCosts, int]:
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
    device, shape = device_of(node, read), shape_of(node, root, read)
    if shape.weight_bytes > device.memory_bytes:
        raise node.error(
            "model",
            f"a model of up to {device.memory_bytes / 1e9:.1f} GB, the memory of {device.name}, "
            f"is accepted; this one has {shape.weight_bytes / 1e9:.1f} GB",
        )
    room = max_cells(shape, device)
    if used_cells > room:
        raise node.error("used_cells", f"0 to {room}, what fits beside the model, is accepted")
    return checked(node, node_costs(shape, device, used_cells=used_cells)), used_cells


def checked(node: Table, costs: NodeCosts) -> NodeCosts:
    """Returns computed costs if they are such as may be measured. Raises ScenarioError."""
    seconds = (*costs.decode.seconds, *costs.prefill.seconds)
    if min(seconds) < _MIN_SECONDS or max(seconds) > _MAX_SECONDS:
        accepted = f"figures that give passes of {_MIN_SECONDS:g} to {_MAX_SECONDS:g} s"
        raise node.error("device", f"{accepted} are accepted")
    return costs


def _measured(node: Table, key: str) -> CostTable:
    table = node.table(key, _TABLE_KEYS)
    sizes = table.ascending("sizes", high=_MAX_SIZE)
    seconds = table.numbers("seconds", low=_MIN_SECONDS, high=_MAX_SECONDS)
    if len(sizes) != len(seconds):
        raise table.error("seconds", f"as many times as sizes, {len(sizes)}, are accepted")
    per_cell_s = table.number("per_cell_s", 0.0, high=_MAX_SECONDS)
    return CostTable(sizes, seconds, per_cell_s)


def device_of(node: Table, read: ReadFile) -> Device:
    """Returns what the key `device` describes or names. Raises ScenarioError."""
    value = node.values.get("device")
    if not isinstance(value, str | Mapping):
        accepted = "a table, or the path of a TOML file with a table [device], is accepted"
        raise node.error("device", accepted)
    if isinstance(value, str):
        node = _named(node, "device", read)
    table = node.table("device", _DEVICE_KEYS)
    return Device(
        name=table.text("name"),
        flops_per_s=table.number("flops_per_s", low=1.0, high=_MAX_AMOUNT),
        bytes_per_s=table.number("bytes_per_s", low=1.0, high=_MAX_AMOUNT),
        compute_efficiency=table.number("compute_efficiency", low=_LEAST_SHARE, high=1.0),
        memory_efficiency=table.number("memory_efficiency", low=_LEAST_SHARE, high=1.0),
        pass_overhead_s=table.number("pass_overhead_s", high=_MAX_SECONDS),
        layer_overhead_s=table.number("layer_overhead_s", 0.0, high=_MAX_SECONDS),
        overlap=table.number("overlap", 1.0, high=1.0),
        memory_bytes=table.number("memory_bytes", low=1.0, high=_MAX_AMOUNT),
    )


def shape_of(node: Table, root: Table, read: ReadFile) -> TransformerShape:
    """Returns what the key `model` describes or names. Raises ScenarioError."""
    value = node.values.get("model")
    if isinstance(value, Mapping):
        table = node.table("model", _SHAPE_KEYS)
    elif isinstance(value, str):
        table = _model(node, value, root, read).table("shape", _SHAPE_KEYS)
    else:
        raise node.error("model", "the name of a model, or a table of its shape, is accepted")
    counts = {key: table.integer(key, low=1, high=_MAX_COUNT) for key in _COUNTS}
    if counts["heads"] % counts["kv_heads"]:
        raise table.error("kv_heads", f"a divisor of heads, {counts['heads']}, is accepted")
    return TransformerShape(
        **counts,
        gated_ffn=table.flag("gated_ffn", True),
        tied_embeddings=table.flag("tied_embeddings", False),
        bits_per_weight=table.number("bits_per_weight", 16.0, low=_LEAST_BITS, high=_MAX_BITS),
        kv_bits=table.number("kv_bits", 16.0, low=_LEAST_BITS, high=_MAX_BITS),
    )


def _model(node: Table, name: str, root: Table, read: ReadFile) -> Table:
    """Returns the table of a model in the file that the key `models` names."""
    tables = _named(root, "models", read).tables("model", None)
    models = {table.text("name"): table for table in tables}
    if not models:
        raise root.error("models", "a file with tables [[model]] is accepted; this one has none")
    if name not in models:
        near = difflib.get_close_matches(name, models, n=1)
        hint = f"did you mean {near[0]}?" if near else f"{', '.join(models)} are accepted"
        raise node.error("model", f"no such model in {root.values['models']}, {hint}")
    return models[name]


def _named(table: Table, key: str, read: ReadFile) -> Table:
    """Returns the contents of a file that a table names."""
    path = table.text(key)
    return Table(f"{table.source}: {path}", "", read(table.at(key), path), None)
