"""Builds the status document of the coordinator. Pure; building it changes nothing observed.

Events are counted where they happen: by schedulers (`telemetry/counts.py`), with requests
(`requests/book.py`) and with bytes (Traffic). This module combines the counts.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import Final

from airdraft.mesh.grants import Air
from airdraft.mesh.latest import Latest
from airdraft.mesh.messages import PROTOCOL_VERSION
from airdraft.nodes.coordinator.members.record import NodeRecord, TargetRecord
from airdraft.nodes.coordinator.members.roster import Roster
from airdraft.nodes.coordinator.requests.book import OUTCOMES, Requests
from airdraft.nodes.coordinator.status import parts
from airdraft.nodes.messages import StatusReply, StatusRequest
from airdraft.nodes.scheduler.drafts import Drafts
from airdraft.nodes.scheduler.in_force import observed_price_s
from airdraft.nodes.scheduler.reasons import why_plain
from airdraft.nodes.scheduler.stream import ReadingText
from airdraft.nodes.telemetry.counts import Counts
from airdraft.nodes.telemetry.status import (
    MediumStatus,
    NodeStatus,
    ObservedStatus,
    Status,
    StreamStatus,
    TargetStatus,
    Totals,
    WaitingStatus,
    WireTotal,
    encode_status,
)

# Requests within this time get the same document, because building it takes some milliseconds.
_FRESH_S: Final = 0.5
# Nodes that left are shown for this long.
_LEFT_S: Final = 300.0
# Passes and messages with guesses are shown for this long.
_SPANS_S: Final = 10.0
_MAX_LEFT: Final = 32
# Streams for which a text explains why they decode without guesses; the others have only a label.
_MAX_WHY: Final = 64
_MAX_STREAMS, _MAX_TARGETS, _MAX_MEDIA = 512, 32, 32


STEP_S: Final = 1.0
WINDOW_S: Final = 10.0


class Recent:
    """Keeps the totals at each of the last ten seconds."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, dict[Hashable, float]]] = deque(
            maxlen=round(WINDOW_S / STEP_S) + 1
        )

    def is_due(self, now: float) -> bool:
        return not self._kept or now >= self._kept[-1][0] + STEP_S

    def keep(self, totals: dict[Hashable, float], now: float) -> None:
        self._kept.append((now, totals))

    def forget(self, name: Hashable) -> None:
        """Forget a total that begins again."""
        for _, totals in self._kept:
            totals.pop(name, None)

    def rate(self, name: Hashable, total: float, now: float) -> float:
        """Returns a total's growth per second over the kept time; 0.0 for a new total."""
        for at, totals in self._kept:
            if now - at <= WINDOW_S + STEP_S and now > at and name in totals:
                return max(0.0, total - float(totals[name])) / (now - at)
        return 0.0


class Traffic:
    """Totals by direction and message class, of which the protocol has only a few."""

    def __init__(self) -> None:
        self._num_messages = Counter[tuple[str, type]]()
        self._num_bytes = Counter[tuple[str, type]]()

    def note(self, direction: str, kind: type, num_bytes: int) -> None:
        """Count a message. direction: "in" if the coordinator received it, otherwise "out"."""
        self._num_messages[direction, kind] += 1
        self._num_bytes[direction, kind] += num_bytes

    def totals(self) -> Iterator[WireTotal]:
        for key in sorted(self._num_messages, key=lambda key: key[0]):
            direction, kind = key
            numbers = self._num_messages[key], self._num_bytes[key]
            yield WireTotal(kind.__name__, direction, *numbers)


class Reporting:
    """Keeps the counts that outlive members, and builds the document from all parts."""

    def __init__(
        self,
        version: str,
        secret: bytes,
        roster: Roster,
        requests: Requests,
        air: Air,
        drafts: Drafts,
    ) -> None:
        self._version, self._roster, self._requests = version, roster, requests
        self._air, self._drafts = air, drafts
        self.traffic = Traffic()
        self.num_submitted = 0
        # Messages of another cluster or epoch, and those about streams or requests that are over.
        self.num_stale = 0
        # Messages that were dropped before they reached the state.
        self.num_dropped = 0
        self._counts: dict[str, Counts] = {}
        # Nodes that left, as they were then, and when that was.
        self._left = Latest[str, tuple[NodeStatus, float]](_MAX_LEFT)
        self._recent = Recent()
        self._started_at: float | None = None
        self._made: tuple[float, bytes] | None = None
        # Makes the aliases that stand for the names of clients and users.
        self._secret = secret

    # -- events ------------------------------------------------------------------------------------

    def counts_of(self, target: str) -> Counts:
        """Returns the counts of a target name; a returning target continues its old counts."""
        if target not in self._counts and len(self._counts) >= _MAX_TARGETS:
            here = {node.name for node in self._roster.targets()}
            gone = next((name for name in self._counts if name not in here), None)
            if gone is None:
                return Counts()
            del self._counts[gone]
        return self._counts.setdefault(target, Counts())

    def node_in(self, node: NodeRecord) -> None:
        self._left.pop(node.name, None)
        self._recent.forget(("busy", node.name))

    def node_out(self, node: NodeRecord, reason: str, now: float) -> None:
        if isinstance(node, TargetRecord):
            self.num_stale += node.scheduler.num_stale
        self._left[node.name] = parts.node_status(node, state="left", reason=reason), now

    def tick(self, now: float) -> None:
        """Keep the totals once a second, for the rates of the last seconds."""
        if self._started_at is None:
            self._started_at = now
        if self._recent.is_due(now):
            self._recent.keep(dict(self._totals()), now)

    def _totals(self) -> Iterator[tuple[Hashable, float]]:
        for node in self._roster.nodes():
            yield ("busy", node.name), node.busy_s
        for name, counts in self._counts.items():
            yield ("tokens", name), counts.num_tokens
            yield ("passes", name), counts.num_passes
        for target in self._roster.targets():
            for stream in target.streams.values():
                yield stream.spec.stream_id, len(stream.token_ids)
        for medium, reserved_s in self._air.reserved_s():
            yield ("air", medium), reserved_s

    # -- answers -----------------------------------------------------------------------------------

    def answer(self, request: StatusRequest, now: float) -> StatusReply:
        if self._made is None or now - self._made[0] >= _FRESH_S:
            self._made = now, encode_status(self.status(now))
        return StatusReply(request.request_id, self._made[1])

    def status(self, now: float) -> Status:
        return Status(
            cluster=self._roster.welcome.cluster,
            # A string, because the number may exceed those of a browser.
            epoch=str(self._roster.welcome.epoch),
            version=self._version,
            protocol=PROTOCOL_VERSION,
            at_s=now,
            uptime_s=now - self._started_at if self._started_at is not None else 0.0,
            nodes=tuple(self._nodes(now)),
            num_streams=len(self._requests.streams),
            streams=tuple(self._streams(now)),
            phases=parts.phases_of(target.scheduler for target in self._roster.targets()),
            waiting=self._waiting(),
            targets=tuple(self._targets(now)),
            media=tuple(self._media(now)),
            totals=self._all(),
        )

    def _nodes(self, now: float) -> Iterator[NodeStatus]:
        for node in self._roster.shown():
            silent_s, joined_s = now - node.member.last_seen, now - node.member.joined_at
            draft = self._drafts.get(node.name)
            is_silent = silent_s > 3 * node.heartbeat.interval_s
            yield parts.node_status(
                node,
                state="silent" if is_silent else "ok",
                silent_s=silent_s,
                joined_s=joined_s,
                busy=min(1.0, self._recent.rate(("busy", node.name), node.busy_s, now)),
                num_streams=node.num_streams if draft is None else len(draft.followed),
            )
        for left, at in self._left.values():
            if now - at <= _LEFT_S:
                yield replace(left, silent_s=now - at)

    def _streams(self, now: float) -> Iterator[StreamStatus]:
        """Yield the streams, those that have a place first."""
        streams = sorted(self._requests.streams.items(), key=lambda each: not each[1].target)
        for index, (stream_id, mine) in enumerate(streams[:_MAX_STREAMS]):
            request, target = mine.request, mine.target
            aliases = self._alias("c", request.tenant), self._alias("u", request.submit.user)
            if target is None:
                yield parts.stream_status(mine, aliases, None)
                continue
            scheduler, stream = target.scheduler, target.streams[stream_id]
            plain = "" if isinstance(stream.phase, ReadingText) else stream.plain
            # Building the text is most of the work, so only the first streams get one.
            reason = why_plain(scheduler, stream, plain) if plain and index < _MAX_WHY else ""
            rate = self._recent.rate(stream_id, len(stream.token_ids), now)
            yield parts.stream_status(mine, aliases, stream, rate, (plain, reason))

    def _alias(self, kind: str, name: str) -> str:
        if not name:
            return ""
        digest = hashlib.blake2b(name.encode(), key=self._secret, digest_size=4)
        return f"{kind}-{digest.hexdigest()}"

    def _waiting(self) -> WaitingStatus:
        return WaitingStatus(
            num_streams=sum(each.target is None for each in self._requests.streams.values()),
            num_tokenizing=len(self._requests.reading),
        )

    def _targets(self, now: float) -> Iterator[TargetStatus]:
        here = {target.name: target.scheduler for target in self._roster.targets()}
        for name, counts in self._counts.items():
            scheduler = here.get(name)
            plan = observed = None
            if scheduler is not None:
                plan = parts.plan_status(scheduler)
                observed = ObservedStatus(
                    tokens_per_s=self._recent.rate(("tokens", name), counts.num_tokens, now),
                    passes_per_s=self._recent.rate(("passes", name), counts.num_passes, now),
                    price_s=observed_price_s(scheduler),
                    errors={str(stage): found for stage, found in counts.errors().items()},
                )
            yield TargetStatus(
                name=name,
                plan=plan,
                observed=observed,
                counts=parts.count_status(counts),
                spans=tuple(span for span in counts.spans if span.end_s >= now - _SPANS_S),
            )

    def _media(self, now: float) -> Iterator[MediumStatus]:
        for name, reserved_s in list(self._air.reserved_s())[:_MAX_MEDIA]:
            busy = min(1.0, self._recent.rate(("air", name), reserved_s, now))
            yield MediumStatus(parts.cut(name), reserved_s, busy)

    def _all(self) -> Totals:
        late = sum(target.scheduler.num_stale for target in self._roster.targets())
        return Totals(
            requests={outcome: self._requests.outcomes[outcome] for outcome in OUTCOMES},
            num_submitted=self.num_submitted,
            num_moved=self._requests.num_moved,
            num_stale=self.num_stale + late,
            num_dropped=self.num_dropped,
            wire=tuple(self.traffic.totals()),
        )
