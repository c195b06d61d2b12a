"""The results of a run of requests under faults."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness.history import Record, faults_of, write_history
from bench.harness.report import Findings, counts, spread

_MOST_REASONS = 5


@dataclass(slots=True)
class Tally(Findings):
    """Counts of a run. Every request is checked when it ends; only its faults are kept.

    folder: directory for the history of the first wrong request. disturbances: counts of kills
    and stops, by role. stalls_s: the longest gap between events of each choice. waits_s: times
    from a request to its first event.
    """

    seed: int = 0
    folder: Path = Path()
    num_tokens: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    disturbances: Counter[str] = field(default_factory=Counter)
    stalls_s: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def history(self) -> Path:
        return self.folder / f"chaos-history-{self.seed}.json"

    @property
    def num_requests(self) -> int:
        return self.ends.total()

    def add(self, record: Record) -> None:
        """Check and count a request that has ended."""
        self.ends[record.end] += 1
        if record.end == "failed":
            self.reasons[f"{record.code}: {record.reason}"] += 1
        self.num_tokens += sum(len(event.token_ids) for event in record.events)
        self.stalls_s += record.stalls_s()
        if record.events:
            self.waits_s.append(record.events[0].at_s - record.asked_at_s)
        found = faults_of(record)
        if found and not self.faults:
            write_history(self.history, self.seed, record, found)
        for fault in found:
            self.wrong(fault.kind, f"request {record.number}: {fault.text}")

    def wrong(self, kind: str, text: str) -> None:
        """Add a fault of this kind."""
        self.faults.append(f"{kind}: {text}")

    def verdict(self) -> str:
        """Return a few words about the run so far, for progress lines."""
        return f"WRONG: {self.faults[0]}" if self.faults else "nothing wrong"

    def summary(self) -> list[str]:
        reasons = self.reasons.most_common(_MOST_REASONS)
        lines = [
            f"seed {self.seed}, {self.took_s:.0f} s: " + counts(self.disturbances, "undisturbed"),
            f"{self.num_requests} requests ({counts(self.ends)})"
            # Answers over HTTP have no token ids.
            + (f", {self.num_tokens} tokens" if self.num_tokens else ""),
            f"longest gaps between events: {spread(self.stalls_s)}; waits for the first event: "
            f"{spread(self.waits_s)}",
            *self.lines,
            *(f"failed {count} x {why}" for why, count in reasons),
        ]
        if self.history.exists():
            lines.append(f"history of the first wrong request: {self.history}")
        return lines
