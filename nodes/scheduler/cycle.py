"""The plan in force: when it is made anew, which of its batches may start."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from nodes.scheduler.advantage import NOTHING_KNOWN, Advantage
from nodes.scheduler.planning import Hope, Made, Planning
from nodes.scheduler.yields import Yields
from nodes.stream import StreamId
from policies.plan import BatchTimes, Observation, Plan, Policy, Slowness

# Acceptance that drifted this far is worth a look, but not before some passes.
_DRIFT = 0.05
_MIN_PASSES = 8
_MAX_PASSES = 128
# What cycles take beyond what was predicted, as an average over some of them.
_LAP_RATE = 0.02
_PASS_RATE = 0.02
_AHEAD_RATE = 0.05
_OVERRUN_MEMORY_S = 15.0
_MAX_OVERRUN = 1.5
# Parts of the streams of which some always wait for their draft node, or have prompts to be read.
_MOST_WAITING, _MOST_OPENING = 0.25, 0.1


@dataclass(slots=True)
class Circulating:
    """A batch of the plan in force. round_id: its last round. not_before: of its next one.

    stops: least chances of acceptance at which guesses are made, of streams that have one. ahead:
    as in policies.plan.Batch. grants: draft nodes in the order of their turns.
    """

    gammas: dict[StreamId, int]
    stops: dict[StreamId, float] = field(default_factory=dict)
    round_id: int | None = None
    not_before: float = 0.0
    ahead: bool = False
    grants: tuple[str, ...] = ()

    def turn_of(self, node: str) -> int:
        """A draft node's place in the batch's turns on the air."""
        return self.grants.index(node) if node in self.grants else len(self.grants)


@dataclass(slots=True)
class CycleState:
    """Keeps the plan, and keeps it steady: the least of noisy estimates is always too good."""

    policy: Policy
    plan: Plan = field(default_factory=Plan)
    batches: list[Circulating] = field(default_factory=list)
    _planned_alphas: dict[int, float] = field(default_factory=dict)
    _planned_share: float = 0.0
    _is_stale: bool = False
    _has_drifted: bool = False
    _num_passes: int = 0
    _lap_ratio: float = 1.0
    _lap_seen: float = 0.0
    _pass_ratio: float = 1.0
    # The same of laps of batches that were drafted ahead; the lap ratio knows the others only.
    _ahead_ratio: float = 1.0
    _ahead_seen: float = 0.0
    _yields: Yields = field(default_factory=Yields)
    _advantage: Advantage = NOTHING_KNOWN
    # Since when there are as many batches as there are, since when plans are of their kind; and
    # when the last one was begun.
    _grouped_at: float = -math.inf
    _switched_at: float = -math.inf
    _begun_at: float = -math.inf

    @property
    def plain(self) -> tuple[int, ...]:
        return self.plan.plain

    @property
    def is_due(self) -> bool:
        """Whether a new plan is worth its while: who takes part has changed, or what is known."""
        if self._is_stale or self._num_passes >= _MAX_PASSES:
            return True
        return self._has_drifted and self._num_passes >= _MIN_PASSES

    @property
    def cycle_s(self) -> float:
        """Predicted seconds of a cycle of the plan in force."""
        made = self.plan.prediction
        return made.cycle_s * (1.0 - made.ahead_gain) if made is not None else 0.0

    @property
    def phase_s(self) -> float:
        """Seconds between the starts of two batches in an even cycle."""
        return self.cycle_s / max(1, len(self.batches))

    def lap_s(self, prompts_s: Callable[[int], float]) -> float:
        """Predicted seconds of a lap that starts now; prompts_s: that prompts add to a pass of so
        many other tokens.

        A plan counts prompts as a share of the target's time: now there are some or there are not.
        """
        made = self.plan.prediction
        if made is None:
            return 0.0
        passes: Sequence[BatchTimes] = made.batches
        if made.bound != "target" and len(passes) > 1:
            passes = [max(passes, key=lambda batch: batch.verify_s)]
        passes_s = sum(batch.verify_s for batch in passes)
        added_s = sum(prompts_s(batch.num_tokens) for batch in passes)
        return self.cycle_s - self._planned_share * passes_s + added_s

    def lap_done(self, seconds: float, predicted_s: float, now: float, *, ahead: bool) -> None:
        """A batch is back: learn how much longer than predicted its cycle took."""
        if predicted_s <= 0:
            return
        ratio = min(_MAX_OVERRUN, seconds / predicted_s)
        if ahead:
            self._ahead_ratio = 1.0 + self._ahead_excess(now)
            self._ahead_ratio += _AHEAD_RATE * (ratio - self._ahead_ratio)
            self._ahead_seen = now
        else:
            # What has been forgotten by now stays forgotten.
            self._lap_ratio = self._pass_ratio * (1.0 + self._excess(now))
            self._lap_ratio += _LAP_RATE * (ratio - self._lap_ratio)
            self._lap_seen = now

    def pass_done(self, seconds: float, predicted_s: float) -> None:
        """The target ran a pass: prompts and the like make all of them longer, plain ones too."""
        if seconds > 0 and predicted_s > 0:
            ratio = min(_MAX_OVERRUN, max(1.0 / _MAX_OVERRUN, seconds / predicted_s))
            self._pass_ratio += _PASS_RATE * (ratio - self._pass_ratio)

    @property
    def slowness(self) -> Slowness:
        """What plans with guesses have yielded of late of what they promise."""
        return self._yields.slowness

    def ahead_overrun(self, now: float) -> float:
        """How much more cycles that are drafted ahead overrun than others, at least 1."""
        others = max(1.0, self._pass_ratio * (1.0 + self._excess(now)))
        return max(1.0, (1.0 + self._ahead_excess(now)) / others)

    def _ahead_excess(self, now: float) -> float:
        age = max(0.0, now - self._ahead_seen)
        return (self._ahead_ratio - 1.0) * math.exp(-age / _OVERRUN_MEMORY_S)

    def _excess(self, now: float) -> float:
        age = max(0.0, now - self._lap_seen)
        excess = self._lap_ratio / self._pass_ratio - 1.0
        return excess * math.exp(-age / _OVERRUN_MEMORY_S)

    def members_changed(self) -> None:
        """A stream or a draft node came, went, or became able or unable to guess."""
        self._is_stale = True

    def yielded(
        self, num_tokens: int, now: float, num_waiting: int = 0, num_opening: int = 0
    ) -> None:
        """A target pass committed so many tokens.

        num_waiting: streams that shall guess, but cannot yet; num_opening: whose prompts are still
        to be read. Where these are many no plan is what tokens are as many or few as.
        """
        num_planned = sum(len(batch.gammas) for batch in self.batches)
        if num_opening > _MOST_OPENING * (num_planned + len(self.plan.plain)):
            self._yields.pause(now)
            return
        is_followed = num_waiting <= _MOST_WAITING * num_planned
        self._yields.committed(num_tokens, self.plan, now, is_followed=is_followed)

    def committed(self, alphas: Iterable[tuple[int, float]]) -> None:
        """A target pass committed; alphas: present estimates of the streams in it."""
        self._num_passes += 1
        for stream_id, alpha in alphas:
            planned = self._planned_alphas.get(stream_id, alpha)
            self._has_drifted = self._has_drifted or abs(alpha - planned) > _DRIFT

    def why_plain(self, stream_id: int) -> str:
        """Why the plan in force has a stream decoded plainly; "" if it makes guesses."""
        if stream_id not in self.plan.plain:
            return ""
        kept = "draft off: guesses have gained too little of late"
        return self.plan.reasons.get(stream_id, kept)

    def begin(self, observation: Observation, now: float, hope: Hope | None = None) -> Planning:
        """What the next plan is to be made of; what changes from now on is for the one after it."""
        self._begun_at = now
        if not observation.streams:
            self._yields.pause()
        self._planned_alphas = {view.stream_id: view.alpha for view in observation.streams}
        self._is_stale = self._has_drifted = False
        self._num_passes = 0
        # Gammas of a batch are replaced as a whole, never changed.
        batches = [batch.gammas for batch in self.batches]
        ages_s = now - self._grouped_at, now - self._switched_at
        known = self._advantage, now
        return Planning(observation, self.policy, self.plan, batches, *ages_s, hope, *known)

    def take(self, made: Made) -> None:
        """Put a plan in force."""
        self._planned_share = made.observation.prefill_share
        self._advantage = made.advantage
        if len(made.plan.batches) != len(self.batches):
            self._grouped_at = self._begun_at
        if made.plan.kind is not self.plan.kind:
            self._switched_at = self._begun_at
        self.plan = made.plan
        self._circulate()

    def _circulate(self) -> None:
        """Batches of the plan, each going on from the one in force that most of it was in."""
        before = {s: batch for batch in self.batches for s in batch.gammas}
        taken: list[Circulating] = []
        no_turns = ((),) * len(self.plan.batches)
        for batch, grants in zip(self.plan.batches, self.plan.grants or no_turns, strict=False):
            members = {
                StreamId(s): gamma for s, gamma in zip(batch.stream_ids, batch.gammas, strict=True)
            }
            known = [before[s] for s in members if s in before]
            known = [old for old in known if not any(old is other for other in taken)]
            votes = Counter(map(id, known))
            old = max(known, key=lambda batch: votes[id(batch)], default=None)
            current = Circulating(members) if old is None else old
            current.gammas = members
            current.stops = dict(zip(members, batch.stops, strict=False))
            current.ahead, current.grants = batch.ahead, grants
            taken.append(current)
        self.batches = taken
