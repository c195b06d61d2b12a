"""Laps of batches played through, from the definition: processes that ask for resources in turn."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

GOLDEN = (5**0.5 - 1) / 2
# What a process asks for: seconds of a resource, or (without one) just seconds.
Step = tuple[str, float]


@dataclass
class Batch:
    """Of one lap. nodes: name, medium, rtt and seconds of a message and of drafting, of each. way:
    medium of the target and seconds of a message there."""

    nodes: Sequence[tuple[str, str, float, float, float]]
    verify_s: float
    way: tuple[str, float]
    ends: list[float] = field(default_factory=list)


@dataclass
class Play:
    """Resources serve whoever asks first. plain_s: half a pass of the plain streams."""

    batches: Sequence[Batch]
    plain_s: float
    apart_s: float
    free: dict[str, float] = field(default_factory=dict)
    waiting: list[tuple[float, int, Iterator[Step]]] = field(default_factory=list)
    now: float = 0.0
    num_processes: int = 0
    num_laps: int = 0

    def lap_s(self, before: int = 4, counted: int = 10) -> float:
        """Mean seconds of so many laps of each batch, after some others."""
        for k, batch in enumerate(self.batches):
            self.begin(self.lap(batch), k * self.apart_s)
        while any(len(batch.ends) < before + counted for batch in self.batches):
            first = min(self.waiting, key=lambda entry: entry[:2])
            self.waiting.remove(first)
            self.now, _, process = first
            self.go_on(process)
        laps = [
            (batch.ends[before + counted - 1] - batch.ends[before - 1]) / counted
            for batch in self.batches
        ]
        return sum(laps) / len(laps)

    def begin(self, process: Iterator[Step], at_s: float) -> None:
        self.waiting.append((at_s, self.num_processes, process))
        self.num_processes += 1

    def go_on(self, process: Iterator[Step]) -> None:
        for resource, seconds in process:
            start = max(self.now, self.free.get(resource, 0.0)) if resource else self.now
            if resource:
                self.free[resource] = start + seconds
            self.begin(process, start + seconds)
            return

    def lap(self, batch: Batch) -> Generator[Step, None, None]:
        self.num_laps += 1
        size = 1 + 0.4 * (2 * (self.num_laps * GOLDEN % 1) - 1)
        left = [len(batch.nodes)]
        # The one with the least to send comes first.
        for node in sorted(batch.nodes, key=lambda node: node[3]):
            self.go_on(self.draft(batch, node, size, left))
        yield from ()

    def draft(
        self,
        batch: Batch,
        node: tuple[str, str, float, float, float],
        size: float,
        left: list[int],
    ) -> Generator[Step, None, None]:
        name, medium, rtt_s, message_s, draft_s = node
        yield medium, size * message_s
        yield "", rtt_s / 2
        yield f"node {name}", draft_s
        yield medium, size * message_s
        yield "", rtt_s / 2
        left[0] -= 1
        if not left[0]:
            medium, message_s = batch.way
            if message_s:
                yield medium, size * message_s
            self.free["target"] = max(self.free.get("target", 0.0), self.now + self.plain_s)
            yield "target", batch.verify_s
            if message_s:
                yield medium, size * message_s
            batch.ends.append(self.now)
            self.begin(self.lap(batch), self.now)
