"""What a mesh over a bad link has shown: a row of a table, and what must not happen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.harness.report import head, row
from bench.harness.streams import Heard, counted

LEAST_RATIO: Final = 0.95
NOTICED_WITHIN_S: Final = 3.0
HEALED_WITHIN_S: Final = 5.0
STUCK_S: Final = 5.0
HEAD: Final = head(
    *("link", "packets lost, connections reset", "texts wrong, complete, failed", "nodes lost"),
    *("outages: noticed s, max", "nodes back s, max"),
    *("near: ms between tokens, p50 p99 max", "far"),
    *("near: tokens/s, ratio to target alone", "threads, descriptors kept"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFigures:
    """Results of one link.

    plain: what the near streams received without draft nodes. deaths: nodes that left without
    cause, with reasons; may_die: whether the link excuses them. noticed_s, healed_s: times of nodes
    in outages; a node that moves is noticed when it comes back, if not before. growth: threads and
    descriptors of the coordinator that stayed after the link was bad, with the same members. notes:
    other faults.
    """

    link: str
    kind: str
    near: Heard
    far: Heard
    plain: tuple[Heard, ...] = ()
    deaths: list[str] = field(default_factory=list)
    may_die: bool = False
    is_moved: bool = False
    noticed_s: list[float] = field(default_factory=list)
    healed_s: list[float] = field(default_factory=list)
    lost_share: float = 0.0
    num_resets: int = 0
    growth: tuple[int, int] = (0, 0)
    notes: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Ratio of the near streams' tokens per second with draft nodes to those without."""
        plain_tokens = sum(heard.num_tokens for heard in self.plain)
        if not plain_tokens:
            return float("inf")
        return self.near.tokens_per_s / plain_tokens * sum(heard.seconds for heard in self.plain)

    @property
    def heard(self) -> tuple[Heard, ...]:
        return *self.plain, self.near, self.far

    def faults(self) -> list[str]:
        """Returns what must not happen with this link; empty if all is well."""
        near, found = self.near, list(self.notes)
        if not all(heard.num_tokens for heard in self.heard):
            found.append("a place received no tokens, so the run shows nothing")
        if not near.num_texts:
            found.append("no text was finished at the hub, so the run shows nothing")
        if num_wrong := sum(heard.num_wrong for heard in self.heard):
            found.append(f"{num_wrong} wrong texts")
        if self.deaths and not self.may_die:
            found.append(f"{len(self.deaths)} false deaths: {', '.join(sorted(set(self.deaths)))}")
        if self.ratio < LEAST_RATIO:
            found.append(f"{self.ratio:.2f} of the speed of the target alone")
        if not self.is_moved and (latest_s := max(self.noticed_s, default=0.0)) > NOTICED_WITHIN_S:
            found.append(f"an outage was noticed after {latest_s:.1f} s")
        if (slowest_s := max(self.healed_s, default=0.0)) > HEALED_WITHIN_S:
            found.append(f"a node was back after {slowest_s:.1f} s")
        if near.failures:
            found.append(f"requests at the hub failed: {dict(near.failures)}")
        if (waits_s := max(near.waits_s, default=0.0)) > STUCK_S:
            found.append(f"a stream at the hub has waited for {waits_s:.1f} s")
        if max(self.growth) > 0:
            found.append("the coordinator kept {} threads and {} descriptors".format(*self.growth))
        return [f"{self.link}: {fault}" for fault in found]

    def row(self) -> str:
        """Returns the row below HEAD."""
        # Runs over a proxy measure nothing without draft nodes.
        ratio = f"{self.ratio:.2f}" if self.plain else "-"
        return row(
            self.link,
            f"{self.lost_share:.1%}, {self.num_resets}",
            counted(self.heard),
            len(self.deaths),
            *map(_most, (self.noticed_s, self.healed_s)),
            self.near.between_ms(),
            self.far.between_ms(),
            f"{self.near.tokens_per_s:.1f}, {ratio}",
            "{:+}, {:+}".format(*self.growth),
        )


def _most(seconds: Sequence[float]) -> str:
    return f"{max(seconds):.1f}" if seconds else "-"
