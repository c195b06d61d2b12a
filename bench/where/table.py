"""Windows as a table. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.harness.report import head, row
from bench.where.node import STEP
from bench.where.run import Clock, Window

# Consecutive parts of the work of the target's engine thread; with BETWEEN they add up to the time
# of a token.
PARTS: Final = {
    "the model's passes": "model",
    "sampling, checking guesses": "sampling",
    "choosing guesses": "choosing",
    "bytes of tokens, stops": "text",
    "cells of wrong guesses": "cache",
    "the rest of passes": STEP,
}
BETWEEN: Final = "between passes"


@dataclass(frozen=True, slots=True)
class _Row:
    """value: returns nothing for a window without a draft node or without such a link."""

    label: str
    value: Callable[[Window], float | None]
    form: str = "{:.2f}"


def num_tokens(window: Window) -> float:
    """Return the number of committed tokens, or 1 if there are none."""
    return max(1.0, window.target.get("tokens committed", 0.0))


def parts_ms(window: Window) -> dict[str, float]:
    """Return the target's milliseconds per token by part of its work; the sum is all its time."""
    each = 1e3 / num_tokens(window)
    found = {
        label: window.target.get(f"seconds in {of}", 0.0) * each for label, of in PARTS.items()
    }
    return {**found, BETWEEN: window.target["at"] * each - sum(found.values())}


def _part(label: str) -> Callable[[Window], float | None]:
    return lambda window: parts_ms(window)[label]


def _draft(value: Callable[[Window, Clock], float]) -> Callable[[Window], float | None]:
    return lambda window: None if window.draft is None else value(window, window.draft)


def _draft_ms(name: str) -> Callable[[Window], float | None]:
    return _draft(lambda w, draft: 1e3 * draft.get(f"seconds in {name}", 0.0) / num_tokens(w))


def _busy_s(clock: Clock) -> float:
    return sum(seconds for name, seconds in clock.items() if name.startswith("seconds in "))


def _cpu(role: str) -> Callable[[Window], float | None]:
    return lambda window: 1e3 * window.cpu_s[role] / num_tokens(window)


def _loop_cpu(window: Window) -> float | None:
    other = window.target["cpu_s"] - window.target["engine_cpu_s"]
    return 1e3 * other / num_tokens(window)


def _rtt(role: str) -> Callable[[Window], float | None]:
    return lambda window: 1e3 * window.rtt_s[role] if role in window.rtt_s else None


def _passes(window: Window) -> float:
    return max(1.0, window.target.get("calls of model", 0.0))


_ROWS: Final = (
    _Row("tokens/s, all streams", lambda w: num_tokens(w) / w.target["at"], "{:.1f}"),
    _Row("tokens a pass and stream", lambda w: num_tokens(w) / _passes(w) / w.num_streams),
    _Row("positions a pass", lambda w: w.target.get("tokens fed", 0.0) / _passes(w)),
    _Row("ms a pass", lambda w: 1e3 * w.target.get("seconds in model", 0.0) / _passes(w)),
    _Row("**ms a token**", lambda w: 1e3 * w.target["at"] / num_tokens(w)),
    *(_Row(f"target: {label}", _part(label)) for label in (*PARTS, BETWEEN)),
    _Row("beside: draft, its model", _draft_ms("model")),
    _Row("beside: draft, sampling", _draft_ms("sampling")),
    _Row("beside: draft, the rest of steps", _draft_ms(STEP)),
    _Row(
        "draft: ms a step",
        _draft(lambda _, draft: 1e3 * _busy_s(draft) / max(1.0, draft.get(f"calls of {STEP}", 0))),
    ),
    _Row("draft: share of the time", _draft(lambda _, draft: _busy_s(draft) / draft["at"])),
    _Row("processor: target's messages", _loop_cpu),
    _Row("processor: coordinator", _cpu("coordinator")),
    _Row("processor: gateway", _cpu("gateway")),
    _Row("link: round trip to the target, ms", _rtt("target")),
    _Row("link: round trip to the draft, ms", _rtt("draft")),
)


def _name(window: Window) -> str:
    return f"{window.num_streams}, {'plain' if window.draft is None else 'with guesses'}"


def table(windows: Sequence[Window]) -> str:
    """Return a table with a column for each window, in ms per token unless a row says otherwise."""
    lines = [head("streams", *map(_name, windows))]
    for each in _ROWS:
        values = [each.value(window) for window in windows]
        shown = ["-" if value is None else each.form.format(value) for value in values]
        lines.append(row(each.label, *shown))
    return "\n".join(lines)
