"""The costs of a scenario's target whose model several machines run together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from airdraft.policies.analytic import SIZES, Device, TransformerShape, cost_table
from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.layers import (
    LAYERS_OF_FREE,
    Layers,
    Machine,
    Share,
    cuts_for,
    shares_of,
    told_no_room,
    told_plan,
)
from airdraft.policies.scenario.costs import MAX_CELLS, ReadFile, checked, device_of, shape_of
from airdraft.policies.scenario.fields import Table

STAGE_KEYS = ("name", "device", "rtt_ms")
_TARGET = "the target"
_MAX_STAGES = 16
# The time to find the best cuts grows with the square; the largest open models have some 130.
_MAX_LAYERS = 512
_MAX_MS = 600_000.0


@dataclass(frozen=True, slots=True)
class Split:
    """Who has which blocks, and the same in words with the predicted tokens/s."""

    shares: tuple[Share, ...]
    told: str


def split_costs(target: Table, root: Table, read: ReadFile) -> tuple[NodeCosts, int, Split]:
    """Returns the costs of a target with tables [[target.stage]], the used cells of its cache, and
    who has what. Raises ScenarioError.

    Machines are given their blocks as a target does it, and a pass takes the sum of their times
    and round trips. Prompts take as long as on the slowest machine, because all read at a time.
    """
    for key in ("decode", "prefill"):
        if key in target:
            raise target.error(key, "accepted only without stages")
    used_cells = target.integer("used_cells", 0, low=0, high=MAX_CELLS)
    shape = shape_of(target, root, read)
    if shape.layers > _MAX_LAYERS:
        raise target.error("model", f"up to {_MAX_LAYERS} layers are accepted with stages")
    stages = target.tables("stage", STAGE_KEYS)
    if not 1 <= len(stages) <= _MAX_STAGES:
        raise target.error("stage", f"1 to {_MAX_STAGES} tables are accepted")
    devices, rtts_s = dict[str, Device](), list[float]()
    for stage in stages:
        name = stage.name("name")
        if name in devices or name == _TARGET:
            raise stage.error("name", "a name that no other stage has is accepted")
        devices[name] = device_of(stage, read)
        rtts_s.append(stage.number("rtt_ms", 0.0, high=_MAX_MS) / 1e3)
    devices[_TARGET] = device_of(target, read)
    machines = {
        name: _machine(shape, device, rtt_s, used_cells)
        for (name, device), rtt_s in zip(devices.items(), [*rtts_s, 0.0], strict=True)
    }
    body, head = _part_of(shape, shape.layers), shape.hidden_size * shape.vocab_size
    layers = Layers(
        [int(body.weight_bytes / shape.layers)] * shape.layers,
        int(head * shape.bits_per_weight / 8),
        range(1, shape.layers),
    )
    cuts = cuts_for(layers, list(machines.values()))
    if not cuts:
        raise target.error("model", told_no_room(layers, machines))
    counts = [end - first for first, end in pairwise([0, *cuts, shape.layers])]
    parts = [_part_of(shape, count) for count in counts[:-1]]
    parts.append(replace(shape, layers=counts[-1]))
    pairs = list(zip(parts, devices.values(), strict=True))
    decode = [cost_table(part, device, used_cells=used_cells) for part, device in pairs]
    prefill = [
        cost_table(part, device, logits=False, used_cells=used_cells) for part, device in pairs
    ]
    slowest = max(prefill, key=lambda table: table.at(SIZES[-1], used_cells))
    costs = NodeCosts(_in_turn(decode, sum(rtts_s)), slowest)
    split = Split(tuple(shares_of(layers, machines, cuts)), told_plan(layers, machines, cuts))
    return checked(target, costs), used_cells, split


def _part_of(shape: TransformerShape, num_layers: int) -> TransformerShape:
    """Returns the shape of a stage, which has neither embedding nor output layer."""
    return replace(shape, layers=num_layers, vocab_size=0)


def _machine(shape: TransformerShape, device: Device, rtt_s: float, used_cells: int) -> Machine:
    body = _part_of(shape, shape.layers)
    cache_bytes = used_cells * shape.kv_bytes_per_token / shape.layers
    block_bytes = body.weight_bytes / shape.layers
    # The cache of a block is where the block is.
    room = LAYERS_OF_FREE * device.memory_bytes / (1 + cache_bytes / block_bytes)
    passes = cost_table(body, device, used_cells=used_cells)
    return Machine(room, passes.scaled(1 / body.weight_bytes), rtt_s)


def _in_turn(tables: Sequence[CostTable], rtt_s: float) -> CostTable:
    """Returns the times of passes for which machines work one after the other."""
    seconds = [sum(each) + rtt_s for each in zip(*(t.seconds for t in tables), strict=True)]
    return CostTable(SIZES, tuple(seconds), sum(table.per_cell_s for table in tables))
