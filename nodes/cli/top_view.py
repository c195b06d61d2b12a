"""The frame of `airdraft top`: formats a status as lines of a terminal. Pure."""

from collections import Counter
from collections.abc import Sequence
from textwrap import wrap
from typing import Final

from nodes.cli.cells import Column, cut, fitted, shown, table, width_of
from nodes.messages.fingerprint import model_ids
from nodes.telemetry.history import Point
from nodes.telemetry.status import NodeStatus, SpanStatus, Status, StreamStatus, TargetStatus

_NODES: Final = (
    Column("NODE", 16),
    Column("ROLE", 6),
    Column("MODEL", 18, spare=1),
    Column("STATE", 20),
    Column("BUSY", 5, right=True),
    Column("STREAMS", 7, right=True),
    Column("CELLS", 13, right=True, spare=3),
    Column("RTT", 8, right=True),
    Column("LINK", 8, right=True, spare=2),
    Column("IN/OUT", 15, right=True, spare=4),
)
_STREAMS: Final = (
    Column("STREAM", 6, right=True),
    Column("CLIENT", 10, spare=2),
    Column("PHASE", 8),
    Column("TARGET", 12, spare=3),
    Column("DRAFT", 13, spare=1),
    Column("TOKENS", 11, right=True),
    Column("TOK/S", 6, right=True),
    Column("GUESS", 5, right=True),
    Column("ACC", 4, right=True),
    Column("REASON FOR NO GUESSES", 240, needs=24),
)
_RAMP: Final = " .:-=+*#%@"
_TRACK_NAME: Final = 12
_PASSES_SHOWN: Final = 30
_LEAST_SHOWN_S, _MOST_SHOWN_S = 0.2, 10.0
# A wider timeline shows no more.
_MAX_TRACK: Final = 160


def frame(status: Status, width: int, height: int, history: Sequence[Point] = ()) -> list[str]:
    """At most `height` lines of at most `width` cells: title, speed, nodes, plans, streams."""
    nodes, streams = _nodes(status, width), _streams(status, width)
    plans = [line for target in status.targets for line in _target(target, status, width)]
    head = [_title(status), *_speed(history, width)]
    room = max(0, height - len(head))
    # Streams are many and are cut first, then nodes; plans are the most important part.
    spared = len(plans) + min(len(streams), 4)
    kept_nodes = fitted(nodes, max(room - spared, min(len(nodes), max(2, room // 4))))
    kept_plans = fitted(plans, max(0, room - len(kept_nodes) - min(len(streams), 3)))
    left = room - len(kept_nodes) - len(kept_plans)
    lines = [*head, *kept_nodes, *kept_plans, *fitted(streams, left)]
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


def _speed(history: Sequence[Point], width: int) -> list[str]:
    """A line with the tokens per second of the last minutes, one character for each point."""
    most = max((point.tokens_per_s for point in history), default=0.0)
    if most <= 0.0:
        return []
    title = f"up to {most:.1f} tokens/s "
    recent = history[-max(1, width - len(title)) :]
    marks = [_RAMP[round(point.tokens_per_s / most * (len(_RAMP) - 1))] for point in recent]
    return [title + "".join(marks)]


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
        model,
        state,
        f"{node.busy:.0%}" if node.state != "left" else "",
        f"{node.num_streams}/{node.max_streams}",
        f"{node.used_cells}/{node.num_cells}" if node.role == "target" else str(node.num_cells),
        f"{node.rtt_s * 1e3:.1f} ms" if node.rtt_s is not None else "",
        _rate(node.rate_bps) + (" d" if node.rate_is == "declared" else ""),
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


def _target(target: TargetStatus, status: Status, width: int) -> list[str]:
    plan, seen = target.plan, target.observed
    if plan is None or seen is None:
        return []
    groups = ", ".join(f"{len(b.gammas)} with {_caps(b.gammas)}" for b in plan.batches)
    bound = f", bound by {shown(plan.bound)}" if plan.batches and plan.bound else ""
    in_force = "plain decoding" if plan.policy == "plain" else "open flow"
    if groups:
        in_force = f"groups of streams: {groups}{bound}"
    lines = [f"PLAN of {shown(target.name)}: {in_force}"]
    off = ", ".join(f"{name} {e.median:.0%}" for name, e in seen.errors.items() if e.num_seen)
    observed = f"  observed {seen.tokens_per_s:.1f} tokens/s, {seen.passes_per_s:.1f} passes/s"
    lines.append(f"{observed}; prediction errors: {off}" if off else observed)
    if plan.open_price_s:
        lines.append(
            f"  sum of seconds per token: open flow {_ms(plan.open_price_s)}, groups "
            f"{_ms(plan.grouped_price_s)}, observed {_ms(seen.price_s)}"
        )
    for node in status.nodes:
        if node.name == target.name and node.draft_why:
            name = shown(node.draft) or "none"
            lines.append(f"  draft model in its process: {name} ({shown(node.draft_why)})")
    lines += _learnt(target)
    return lines + _tracks(target.spans, status, _shown_s(target), width)


def _caps(gammas: Sequence[int]) -> str:
    low, high = min(gammas, default=0), max(gammas, default=0)
    return f"{low} guesses" if low == high else f"{low}-{high} guesses"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds > 0.0 else "-"


def _learnt(target: TargetStatus) -> list[str]:
    """Lines with the results of guesses."""
    counts, lines = target.counts, []
    rates = [
        f"{position} {accepted / judged:.0%}"
        for position, (judged, accepted) in enumerate(
            zip(counts.judged, counts.accepted, strict=True), 1
        )
        if judged
    ]
    if rates:
        lines.append(f"  accepted by position: {', '.join(rates[:8])}")
    if total := sum(counts.tokens.values()):
        kinds = ", ".join(f"{count / total:.0%} {kind}" for kind, count in counts.tokens.items())
        lines.append(f"  {total} tokens: {kinds}")
    fates = counts.guesses
    if counts.num_compared or fates["not_chosen"] or fates["late"]:
        lines.append(
            f"  guesses of draft nodes: {fates['taken']} taken, {fates['not_chosen']} times not "
            f"chosen, {fates['late']} late; {counts.num_right} of {counts.num_compared} compared "
            "were right"
        )
    if fates["looked_up"]:
        lines.append(f"  guesses by lookup: {fates['looked_up']} taken")
    if fates["in_turns"]:
        lines.append(f"  guesses of the draft model in its process: {fates['in_turns']} taken")
    if plain := Counter(counts.plain_steps).most_common():
        shares = ", ".join(f"{n} {label.replace('_', ' ')}" for label, n in plain if n)
        if shares:
            lines.append(f"  passes of a stream without guesses: {shares}")
    return lines


def _shown_s(target: TargetStatus) -> float:
    """The seconds that the timeline shows: about _PASSES_SHOWN passes."""
    counts = target.counts
    each_s = counts.pass_s / counts.num_passes if counts.num_passes else 0.0
    return min(_MOST_SHOWN_S, max(_LEAST_SHOWN_S, _PASSES_SHOWN * each_s))


def _tracks(spans: Sequence[SpanStatus], status: Status, shown_s: float, width: int) -> list[str]:
    """A timeline per node: # is a pass with guesses, = a plain pass, ^ a message with guesses."""
    begins = status.at_s - shown_s
    recent = [span for span in spans if span.end_s > begins]
    columns = min(width, _MAX_TRACK) - _TRACK_NAME - 4
    if not recent or columns < 10:
        return []
    tracks: dict[str, list[str]] = {}
    for span in recent:
        track = tracks.setdefault(span.node, ["."] * columns)
        mark = "^" if span.stage == "guesses" else "#" if span.num_guesses else "="
        first = int((span.start_s - begins) / shown_s * columns)
        last = int((span.end_s - begins) / shown_s * columns)
        for column in range(max(0, first), min(columns - 1, max(first, last - 1)) + 1):
            track[column] = mark
    title = f"  last {shown_s:.1f} s: # pass with guesses, = plain pass, ^ guesses arrive:"
    return [
        title,
        *(f"  {cut(shown(n), _TRACK_NAME):{_TRACK_NAME}} {''.join(t)}" for n, t in tracks.items()),
    ]


# -- streams ---------------------------------------------------------------------------------------


def _streams(status: Status, width: int) -> list[str]:
    rows = [_stream(stream) for stream in status.streams]
    lines = table(_STREAMS, rows, width)
    if any(width_of(line) > width for line in lines):
        title, *shorter = table(_STREAMS[:-1], [row[:-1] for row in rows], width)
        lines = [title]
        for line, row in zip(shorter, rows, strict=True):
            lines += [line, *_under(row[-1], width)]
    num_left = status.num_streams - len(status.streams)
    return [*lines, f"... {num_left} more"] if num_left > 0 else lines


def _under(text: str, width: int) -> list[str]:
    """A text in lines below its row, where a column for it would be too narrow."""
    if width <= 2:
        return []
    return wrap(shown(text), width, initial_indent="  ", subsequent_indent="  ")


def _stream(stream: StreamStatus) -> tuple[str, ...]:
    return (
        str(stream.stream_id),
        stream.user or stream.client,
        stream.phase,
        stream.target,
        stream.draft,
        f"{stream.num_tokens}/{stream.max_tokens}",
        f"{stream.tokens_per_s:.1f}",
        str(stream.gamma) if stream.phase == "decoding" else "",
        f"{stream.acceptance:.2f}".removeprefix("0") if stream.draft else "",
        stream.reason or stream.plain,
    )
