"""Reads a scenario from a TOML file: a target, its draft nodes and links, and groups of streams.

    name = "two boxes"              # default: ""
    models = "../profiles/models.toml"
    token_bits = 16                 # bits of a token id on a link, 16 or 32; default: 32

    [target]
    device = "../profiles/mini-pc.toml"   # or a table like the [device] of such a file
    model = "qwen2.5-7b-instruct"         # from the models file, or a table like [model.shape]
    used_cells = 4096               # used cells of its cache; default: 0
    prefill_share = 0.1             # share of its time that prompts take; default: 0
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
    acceptance = 0.8                # of a guess, or by its position: [0.9, 0.8, 0.7]
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from policies.latency import NodeCosts
from policies.plan import MAX_AUTO_GAMMA, DraftView, Link, Observation, StreamView
from policies.scenario.costs import COST_KEYS, Files, costs_of
from policies.scenario.fields import Table

MAX_STREAMS = 1024
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetNode:
    """The target. prefill_share: share of its time that prompts take, in [0, 1)."""

    costs: NodeCosts
    used_cells: int = 0
    prefill_share: float = 0.0
    link: Link = field(default_factory=Link)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamGroup:
    """Streams with equal properties.

    acceptance: acceptance of a guess by its position, given that those before were accepted; the
    last value holds for further positions. gamma: number of guesses set by the client, or None.
    """

    count: int
    acceptance: tuple[float, ...]
    tokens_left: int
    draft: str | None = None
    gamma: int | None = None
    weight: float = 1.0

    def view(self, stream_id: int) -> StreamView:
        """Returns one of the streams."""
        last = self.acceptance[-1]
        by_position = (*self.acceptance, *(last,) * (_MAX_GAMMA - len(self.acceptance)))
        differs = len(self.acceptance) > 1
        return StreamView(
            stream_id,
            _pooled(by_position[:MAX_AUTO_GAMMA]) if differs else last,
            self.tokens_left,
            fixed_gamma=self.gamma,
            draft=self.draft,
            weight=self.weight,
            alphas=by_position if differs else (),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The input of a plan. token_bits: bits of a token id on a link."""

    name: str
    target: TargetNode
    drafts: tuple[DraftView, ...] = ()
    streams: tuple[StreamGroup, ...]
    token_bits: int = 32

    def observation(self) -> Observation:
        """Returns the scenario as a policy sees it; streams are numbered from 1."""
        groups = [group for group in self.streams for _ in range(group.count)]
        return Observation(
            streams=tuple(group.view(number) for number, group in enumerate(groups, 1)),
            target=self.target.costs,
            drafts=tuple(self._with_target_rtt(draft) for draft in self.drafts),
            used_cells=self.target.used_cells,
            prefill_share=self.target.prefill_share,
            token_bits=self.token_bits,
            target_link=self.target.link,
        )

    def _with_target_rtt(self, draft: DraftView) -> DraftView:
        """Returns a draft node whose round trip includes that of the target's link."""
        rtt_s = draft.link.rtt_s + self.target.link.rtt_s
        return replace(draft, link=replace(draft.link, rtt_s=rtt_s))


def scenario_from(
    mapping: Mapping[str, Any], *, source: str, files: Files | None = None
) -> Scenario:
    """Returns the scenario in the contents of a TOML file (module docstring).

    source: the file's name for errors. files: contents of the files that `files_named` lists, by
    path. Raises ScenarioError.
    """
    root, files = Table(source, "", mapping, _ROOT_KEYS), files or {}
    name = root.name("name", "")
    token_bits = root.integer("token_bits", 32, low=16, high=32)
    if token_bits not in (16, 32):
        raise root.error("token_bits", "16 or 32 is accepted")
    table = root.table("target", (*COST_KEYS, "prefill_share", "link"))
    costs, used_cells = costs_of(table, root, files)
    prefill_share = table.number("prefill_share", 0.0, high=0.99)
    target = TargetNode(
        costs=costs,
        used_cells=used_cells,
        prefill_share=prefill_share,
        link=_link_of(table, "the target"),
    )
    drafts: list[DraftView] = []
    for table in root.tables("draft", ("name", *COST_KEYS, "link")):
        drafts.append(_draft(table, root, files))
        if any(draft.name == drafts[-1].name for draft in drafts[:-1]):
            raise table.error("name", "a name that no other draft node has is accepted")
    names = [draft.name for draft in drafts]
    groups = [_group(table, names) for table in root.tables("streams", _STREAM_KEYS)]
    if not groups:
        raise root.error("streams", "one table [[streams]] or more is accepted")
    num_streams = sum(group.count for group in groups)
    if num_streams > MAX_STREAMS:
        raise root.error("streams", f"up to {MAX_STREAMS} in all are accepted, not {num_streams}")
    return Scenario(
        name=name, target=target, drafts=tuple(drafts), streams=tuple(groups), token_bits=token_bits
    )


def files_named(mapping: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields the key and path of each file that a scenario names; malformed parts are skipped."""
    if isinstance(mapping.get("models"), str):
        yield "models", mapping["models"]
    drafts = mapping.get("draft")
    nodes = [("target", mapping.get("target"))]
    nodes += [(f"draft[{j}]", node) for j, node in enumerate(_listed(drafts))]
    for key, node in nodes:
        if isinstance(node, Mapping) and isinstance(node.get("device"), str):
            yield f"{key}.device", node["device"]


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _draft(table: Table, root: Table, files: Files) -> DraftView:
    name = table.name("name")
    costs, used_cells = costs_of(table, root, files)
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
    value = table.values["rate"]
    if isinstance(value, str):
        match = _RATE.fullmatch(value.strip())
        if match is None:
            raise table.error("rate", 'a number of bit/s or a text like "500 kbit/s" is accepted')
        rate_bps = float(match[1]) * _UNITS[match[2]]
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise table.error("rate", 'a number of bit/s or a text like "500 kbit/s" is accepted')
    else:
        rate_bps = value
    if rate_bps == 0:
        reason = f"the link of {node} would carry nothing; 1 bit/s or more is accepted"
        raise table.error("rate", reason)
    if not _MIN_RATE_BPS <= rate_bps <= _MAX_RATE_BPS:
        raise table.error("rate", "1 bit/s to 1000 Gbit/s is accepted")
    return float(rate_bps)


def _group(table: Table, drafts: Sequence[str]) -> StreamGroup:
    draft = table.name("draft") if "draft" in table else None
    if draft is not None and draft not in drafts:
        near = difflib.get_close_matches(draft, drafts, n=1)
        hint = f"did you mean {near[0]}?" if near else f"accepted: {', '.join(drafts) or 'none'}"
        raise table.error("draft", f"no [[draft]] has this name, {hint}")
    return StreamGroup(
        count=table.integer("count", 1, low=1, high=MAX_STREAMS),
        acceptance=_acceptance(table),
        tokens_left=table.integer("tokens_left", 256, low=1, high=_MAX_TOKENS),
        draft=draft,
        gamma=table.integer("gamma", low=0, high=_MAX_GAMMA) if "gamma" in table else None,
        weight=table.number("weight", 1.0, low=_MIN_WEIGHT, high=_MAX_WEIGHT),
    )


def _acceptance(table: Table) -> tuple[float, ...]:
    if not isinstance(table.values.get("acceptance"), list):
        return (table.number("acceptance", high=1.0),)
    found = table.numbers("acceptance", high=1.0)
    if len(found) > _MAX_GAMMA:
        raise table.error("acceptance", f"up to {_MAX_GAMMA} positions are accepted")
    return found


def _pooled(by_position: Sequence[float]) -> float:
    """Returns the acceptance over rounds of all these guesses: accepted / (accepted + rejected)."""
    reached = 1.0
    accepted = tried = 0.0
    for alpha in by_position:
        tried += reached
        reached *= alpha
        accepted += reached
    return accepted / tried
