"""The frame of `airdraft top`: formats a status as lines of a terminal. Pure."""

from collections import Counter
from collections.abc import Sequence
from textwrap import wrap
from typing import Final

from airdraft.nodes.cli.cells import Column, cut, fitted, shown, table
from airdraft.nodes.messages.fingerprint import model_ids
from airdraft.nodes.telemetry.status import (
    CountStatus,
    NodeStatus,
    Status,
    StreamStatus,
    TargetStatus,
)

# The most important columns come first. A narrow terminal has no room for the last ones.
_NODES: Final = (
    Column("NODE", 16),
    Column("ROLE", 6),
    Column("STATE", 20),
    Column("BUSY", 5, right=True),
    Column("STREAMS", 7, right=True),
    Column("RTT", 8, right=True),
    Column("MODEL", 18),
    Column("LINK", 8, right=True),
    Column("CELLS", 13, right=True),
    Column("IN/OUT", 15, right=True),
)
_STREAMS: Final = (
    Column("STREAM", 6, right=True),
    Column("PHASE", 8),
    Column("TOKENS", 11, right=True),
    Column("TOK/S", 6, right=True),
    Column("GUESS", 5, right=True),
    Column("ACC", 4, right=True),
    Column("DRAFT", 13),
    Column("CLIENT", 10),
    Column("TARGET", 12),
)


def frame(status: Status, width: int, height: int) -> list[str]:
    """At most `height` lines of at most `width` cells: title, nodes, plans, streams."""
    nodes, streams = _nodes(status, width), _streams(status, width)
    plans = [line for target in status.targets for line in _target(target, status)]
    room = max(0, height - 1)
    # Streams are many and are cut first, then nodes; plans are the most important part.
    spared = len(plans) + min(len(streams), 4)
    kept_nodes = fitted(nodes, max(room - spared, min(len(nodes), max(2, room // 4))))
    kept_plans = fitted(plans, max(0, room - len(kept_nodes) - min(len(streams), 3)))
    left = room - len(kept_nodes) - len(kept_plans)
    lines = [_title(status), *kept_nodes, *kept_plans, *fitted(streams, left)]
    return [cut(line, width) for line in lines[:height]]


def _title(status: Status) -> str:
    speed = sum(target.observed.tokens_per_s for target in status.targets if target.observed)
    states = Counter(node.state for node in status.nodes)
    told = [f"{states[state]} {state}" for state in ("ok", "silent", "left") if states[state]]
    waiting = status.waiting.num_streams + status.waiting.num_tokenizing
    num_placed = status.num_streams - status.waiting.num_streams
    return (
        f"{shown(status.cluster)}, up {_clock(status.uptime_s)}: "
        f"{speed:.1f} tokens/s, {num_placed} streams, {waiting} waiting; "
        f"nodes: {', '.join(told) or 'none'}"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


# -- nodes -----------------------------------------------------------------------------------------


def _nodes(status: Status, width: int) -> list[str]:
    ids = model_ids((node.model, node.model_hash) for node in status.nodes)
    rows = [_node(node, ids[node.model, node.model_hash]) for node in status.nodes]
    return table(_NODES, rows, width)


def _node(node: NodeStatus, model: str) -> tuple[str, ...]:
    state = node.state if node.state == "ok" else f"{node.state} {node.silent_s:.0f} s"
    state += " emulated" if node.emulated else ""
    return (
        node.name,
        node.role,
        state,
        f"{node.busy:.0%}" if node.state != "left" else "",
        f"{node.num_streams}/{node.max_streams}",
        f"{node.rtt_s * 1e3:.1f} ms" if node.rtt_s is not None else "",
        model,
        _rate(node.rate_bps) + (" d" if node.rate_is == "declared" else ""),
        f"{node.used_cells}/{node.num_cells}" if node.role == "target" else str(node.num_cells),
        f"{_size(node.bytes_in)}/{_size(node.bytes_out)}",
    )


def _rate(bps: float | None) -> str:
    if bps is None:
        return ""
    return f"{bps / 1e6:.1f}M" if bps >= 1e6 else f"{bps / 1e3:.0f}k"


def _size(num_bytes: int) -> str:
    value, units = float(num_bytes), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    while value >= 1000 and (larger := next(units, "")):
        value, unit = value / 1000, larger
    return f"{value:.0f}{unit}" if unit == "B" else f"{value:.1f}{unit}"


# -- targets ---------------------------------------------------------------------------------------


def _target(target: TargetStatus, status: Status) -> list[str]:
    plan, seen = target.plan, target.observed
    if plan is None or seen is None:
        return []
    groups = ", ".join(f"{len(gammas)} with {_caps(gammas)}" for gammas in plan.groups)
    bound = f", bound by {shown(plan.bound)}" if plan.groups and plan.bound else ""
    in_force = "plain decoding" if plan.policy == "plain" else "open flow"
    if groups:
        in_force = f"groups of streams: {groups}{bound}"
    lines = [f"PLAN of {shown(target.name)}: {in_force}"]
    off = ", ".join(f"{name} {e.median:.0%}" for name, e in seen.errors.items() if e.num_seen)
    observed = f"  observed {seen.tokens_per_s:.1f} tokens/s, {seen.passes_per_s:.1f} passes/s"
    lines.append(f"{observed}; prediction errors: {off}" if off else observed)
    for node in status.nodes:
        if node.name == target.name and node.draft_why:
            name = shown(node.draft) or "none"
            lines.append(f"  draft model in its process: {name} ({shown(node.draft_why)})")
    return lines + _results(target.counts)


def _caps(gammas: Sequence[int]) -> str:
    low, high = min(gammas, default=0), max(gammas, default=0)
    return f"{low} guesses" if low == high else f"{low}-{high} guesses"


def _results(counts: CountStatus) -> list[str]:
    """Lines with the results of guesses."""
    lines = []
    if total := sum(counts.tokens.values()):
        kinds = ", ".join(f"{count / total:.0%} {kind}" for kind, count in counts.tokens.items())
        lines.append(f"  {total} tokens: {kinds}")
    fates = ", ".join(f"{count} {fate.replace('_', ' ')}" for fate, count in counts.guesses.items())
    if any(counts.guesses.values()):
        lines.append(f"  guesses: {fates}; {counts.num_right} of {counts.num_compared} were right")
    plain = [(n, label.replace("_", " ")) for label, n in counts.plain_steps.items() if n]
    if shares := ", ".join(f"{n} {label}" for n, label in sorted(plain, reverse=True)):
        lines.append(f"  passes of a stream without guesses: {shares}")
    return lines


# -- streams ---------------------------------------------------------------------------------------


def _streams(status: Status, width: int) -> list[str]:
    title, *rows = table(_STREAMS, [_stream(stream) for stream in status.streams], width)
    lines = [title]
    for stream, row in zip(status.streams, rows, strict=True):
        lines.append(row)
        if (why := stream.reason or stream.plain) and width > 2:
            lines += [f"  {line}" for line in wrap(f"no guesses: {shown(why)}", width - 2)]
    num_left = status.num_streams - len(status.streams)
    return [*lines, f"... {num_left} more"] if num_left > 0 else lines


def _stream(stream: StreamStatus) -> tuple[str, ...]:
    return (
        str(stream.stream_id),
        stream.phase,
        f"{stream.num_tokens}/{stream.max_tokens}",
        f"{stream.tokens_per_s:.1f}",
        str(stream.gamma) if stream.phase == "decoding" else "",
        f"{stream.acceptance:.2f}".removeprefix("0") if stream.draft else "",
        stream.draft,
        stream.user or stream.client,
        stream.target,
    )
