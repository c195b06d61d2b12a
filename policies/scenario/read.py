"""Reads a scenario from a TOML file: a target, its draft nodes and links, and groups of streams.

    name = "two boxes"              # default: ""
    models = "../profiles/models.toml"
    token_bits = 16                 # bits of a token id on a link, 16 or 32; default: 32

    [target]
    device = "../profiles/mini-pc.toml"   # or a table like the [device] of such a file
    model = "qwen2.5-7b-instruct"         # from the models file, or a table like [model.shape]
    used_cells = 4096               # used cells of its cache; default: 0
    prefill_share = 0.1             # share of its time that prompts take; default: 0
    [[target.stage]]                # a machine with the first layers of the model; default: none
    name = "nano-1"                 # in the order of their layers, of which the target has the last
    device = "../profiles/jetson-orin-nano.toml"
    rtt_ms = 0.5                    # round trip from the target; default: 0
    [target.link]                   # keys as of [draft.link]; default: at the coordinator
    rate = "20 Mbit/s"

    [[draft]]
    name = "nano"
    [draft.decode]                  # measured times, instead of device and model
    sizes = [1, 2, 4, 8]            # tokens of a pass
    seconds = [0.010, 0.011, 0.012, 0.014]
    per_cell_s = 0                  # seconds for each used cell and token
    [draft.link]                    # default: on the target's machine
    rate = "20 Mbit/s"              # or a number of bit/s; default: no limit
    rtt_ms = 5                      # default: 0
    medium = "wifi"                 # shared with links of the same medium; default: its own
    frame_ms = 0.3                  # time of the medium for each message; default: 0

    [[streams]]
    count = 4                       # default: 1
    acceptance = 0.8                # of a guess
    tokens_left = 200               # default: 256
    draft = "nano"                  # default: no draft node
    gamma = 4                       # number of guesses set by the client; default: free
    weight = 1                      # default: 1

Paths are relative to the file. Streams are numbered from 1 in the order of their groups.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airdraft.policies.plan import DraftView, Link, Observation, StreamView
from airdraft.policies.scenario.costs import COST_KEYS, ReadFile, costs_of
from airdraft.policies.scenario.fields import Table, is_number
from airdraft.policies.scenario.split import Split, split_costs

_MAX_STREAMS = 1024
# The most guesses that a client may set (PROTOCOL, gamma).
_MAX_GAMMA = 16
_MAX_TOKENS = 1 << 20
_MAX_MS = 600_000.0
_MIN_WEIGHT, _MAX_WEIGHT = 1e-3, 1e3

_ROOT_KEYS = ("name", "models", "token_bits", "target", "draft", "streams")
_STREAM_KEYS = ("count", "acceptance", "tokens_left", "draft", "gamma", "weight")
_LINK_KEYS = ("rate", "rtt_ms", "medium", "frame_ms")
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kMG]?)bit/s")
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_MIN_RATE_BPS, _MAX_RATE_BPS = 1.0, 1e12


@dataclass(frozen=True, slots=True)
class Scenario:
    """name: "" if it has none. split: of the target's model; None on one machine."""

    name: str
    observation: Observation
    split: Split | None


def scenario_from(mapping: Mapping[str, Any], source: str, read: ReadFile) -> Scenario:
    """Returns what the contents of a TOML file say (module docstring).

    source: the file's name for errors. Raises ScenarioError.
    """
    root = Table(source, "", mapping, _ROOT_KEYS)
    name = root.name("name", "")
    token_bits = root.integer("token_bits", 32, low=16, high=32)
    if token_bits not in (16, 32):
        raise root.error("token_bits", "16 or 32 is accepted")
    target = root.table("target", (*COST_KEYS, "stage", "prefill_share", "link"))
    split = None
    if "stage" in target:
        costs, used_cells, split = split_costs(target, root, read)
    else:
        costs, used_cells = costs_of(target, root, read)
    link = _link_of(target, "the target")
    drafts: dict[str, DraftView] = {}
    for table in root.tables("draft", ("name", *COST_KEYS, "link")):
        draft = _draft(table, root, read)
        if draft.name in drafts:
            raise table.error("name", "a name that no other draft node has is accepted")
        # Guesses also wait for the round trip of the target's link.
        rtt_s = draft.link.rtt_s + link.rtt_s
        drafts[draft.name] = replace(draft, link=replace(draft.link, rtt_s=rtt_s))
    observation = Observation(
        streams=_streams(root, list(drafts)),
        target=costs,
        drafts=tuple(drafts.values()),
        used_cells=used_cells,
        prefill_share=target.number("prefill_share", 0.0, high=0.99),
        token_bits=token_bits,
        target_link=link,
    )
    return Scenario(name, observation, split)


def _draft(table: Table, root: Table, read: ReadFile) -> DraftView:
    name = table.name("name")
    costs, used_cells = costs_of(table, root, read)
    return DraftView(name, costs, _link_of(table, name), used_cells)


def _link_of(node_table: Table, node: str) -> Link:
    if "link" not in node_table:
        return Link()
    table = node_table.table("link", _LINK_KEYS)
    return Link(
        rate_bps=_rate_bps(table, node) if "rate" in table else math.inf,
        rtt_s=table.number("rtt_ms", 0.0, high=_MAX_MS) / 1e3,
        medium=table.name("medium", ""),
        frame_s=table.number("frame_ms", 0.0, high=_MAX_MS) / 1e3,
    )


def _rate_bps(table: Table, node: str) -> float:
    rate_bps = table.values["rate"]
    if isinstance(rate_bps, str) and (match := _RATE.fullmatch(rate_bps.strip())):
        rate_bps = float(match[1]) * _UNITS[match[2]]
    if not is_number(rate_bps):
        raise table.error("rate", 'a number of bit/s or a text like "500 kbit/s" is accepted')
    if rate_bps == 0:
        reason = f"the link of {node} would carry nothing; 1 bit/s or more is accepted"
        raise table.error("rate", reason)
    if not _MIN_RATE_BPS <= rate_bps <= _MAX_RATE_BPS:
        raise table.error("rate", "1 bit/s to 1000 Gbit/s is accepted")
    return float(rate_bps)


def _streams(root: Table, drafts: Sequence[str]) -> tuple[StreamView, ...]:
    """Returns the streams of all groups, numbered from 1."""
    views: list[StreamView] = []
    for table in root.tables("streams", _STREAM_KEYS):
        views += [_view(table, drafts)] * table.integer("count", 1, low=1, high=_MAX_STREAMS)
    if not views:
        raise root.error("streams", "one table [[streams]] or more is accepted")
    if len(views) > _MAX_STREAMS:
        raise root.error("streams", f"up to {_MAX_STREAMS} in all are accepted, not {len(views)}")
    return tuple(replace(view, stream_id=number) for number, view in enumerate(views, 1))


def _view(table: Table, drafts: Sequence[str]) -> StreamView:
    draft = table.name("draft") if "draft" in table else None
    if draft is not None and draft not in drafts:
        near = difflib.get_close_matches(draft, drafts, n=1)
        hint = f"did you mean {near[0]}?" if near else f"accepted: {', '.join(drafts) or 'none'}"
        raise table.error("draft", f"no [[draft]] has this name, {hint}")
    return StreamView(
        stream_id=0,
        alpha=table.number("acceptance", high=1.0),
        tokens_left=table.integer("tokens_left", 256, low=1, high=_MAX_TOKENS),
        fixed_gamma=table.integer("gamma", low=0, high=_MAX_GAMMA) if "gamma" in table else None,
        draft=draft,
        weight=table.number("weight", 1.0, low=_MIN_WEIGHT, high=_MAX_WEIGHT),
    )
