"""The plan in force: when it is made anew, which of its batches may start."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from nodes.stream import StreamId
from policies.joint import repriced
from policies.plan import Batch, Observation, Plan, Policy

# A new plan must promise this much more than the one in force.
_HYSTERESIS = 0.04
# Where it has another number of batches, they have to fall into step anew: some part of a cycle is
# lost, which pays only if the streams stay the same for long enough.
_REGROUPING_CYCLES = 0.5
_MOST_REGROUPING = 0.04
_INTERVAL_RATE = 0.1
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
    # Seconds between two changes of the streams, on average; infinite before the first.
    _interval_s: float = math.inf
    _changed_at: float = -math.inf

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

    def lap_s(self, piece_s: float) -> float:
        """Predicted seconds of a lap that starts now; piece_s: that pieces of prompts add to each
        of its passes.

        A plan counts prompts as a share of the target's time: now there are some or there are not.
        """
        made = self.plan.prediction
        if made is None:
            return 0.0
        verifies_s = [batch.verify_s for batch in made.batches] or [0.0]
        is_by_target = made.bound == "target" or len(verifies_s) == 1
        passes_s = sum(verifies_s) if is_by_target else max(verifies_s)
        num_passes = len(verifies_s) if is_by_target else 1
        return self.cycle_s - self._planned_share * passes_s + num_passes * piece_s

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

    def overrun(self, now: float) -> float:
        """How much more cycles with guesses overrun than passes do, at least 1.

        Forgotten with time, or guesses would never be tried again.
        """
        return 1.0 + max(0.0, self._excess(now))

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
        kept = f"draft off: guesses would gain less than {_HYSTERESIS:.0%}"
        return self.plan.reasons.get(stream_id, kept)

    def replan(self, observation: Observation, now: float) -> None:
        """Take the policy's plan, or as much of the plan in force as does nearly as well.

        Streams that change batches wait for one another, streams that begin to guess run a lease
        out first: so first the old plan with the new streams put in, then the old batches with
        the new gammas are preferred.
        """
        plan = self.policy(observation)
        if self._planned_alphas.keys() != {view.stream_id for view in observation.streams}:
            since_s, self._changed_at = now - self._changed_at, now
            if math.isinf(self._interval_s):
                self._interval_s = since_s
            else:
                self._interval_s += _INTERVAL_RATE * (since_s - self._interval_s)
        self._planned_alphas = {view.stream_id: view.alpha for view in observation.streams}
        self._planned_share = observation.prefill_share
        self._is_stale = self._has_drifted = False
        self._num_passes = 0
        chosen = self._steady(plan, observation)
        planned = {s for batch in chosen.batches for s in batch.stream_ids} | set(chosen.plain)
        left_out = [v.stream_id for v in observation.streams if v.stream_id not in planned]
        # Nobody waits for ever because a policy forgot it.
        self.plan = replace(chosen, plain=(*chosen.plain, *left_out)) if left_out else chosen
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

    def _steady(self, plan: Plan, observation: Observation) -> Plan:
        if plan.prediction is None or observation.target is None or not observation.streams:
            return plan
        wanted = {
            s: gamma
            for batch in plan.batches
            for s, gamma in zip(batch.stream_ids, batch.gammas, strict=True)
        }
        price_s = self._price_s(plan, observation)
        if len(self.batches) != len(plan.batches) and not plan.is_cheapest:
            return plan
        # Other policies are held to what they ask for: their gammas, their number of batches.
        kept = [self._adapted(plan, observation, wanted, keeps_gammas=False)]
        if plan.is_cheapest:
            as_it_was = self._adapted(plan, observation, wanted, keeps_gammas=True)
            # Another number of guesses costs nothing; to begin or to end guessing does.
            kept.insert(1 if set(as_it_was.plain) == set(kept[0].plain) else 0, as_it_was)
        for candidate in kept:
            gain = _HYSTERESIS
            if len(candidate.batches) != len(plan.batches):
                gain += self._regrouping(candidate)
            if self._price_s(candidate, observation) <= price_s * (1.0 + gain):
                return candidate
        return plan

    def _regrouping(self, kept: Plan) -> float:
        """Part of the time until the streams change again that is lost by changing the batches."""
        cycle_s = kept.prediction.cycle_s if kept.prediction is not None else 0.0
        if self._interval_s <= 0.0:
            return _MOST_REGROUPING
        return min(_MOST_REGROUPING, _REGROUPING_CYCLES * cycle_s / self._interval_s)

    def _adapted(
        self, plan: Plan, observation: Observation, wanted: Mapping[int, int], *, keeps_gammas: bool
    ) -> Plan:
        """The batches in force for the streams there are now; new ones join the smallest."""
        can_guess = {v.stream_id for v in observation.streams if v.draft is not None}
        was_plain = set(self.plan.plain)
        batches: list[dict[int, int]] = []
        placed: set[int] = set()
        for batch in self.batches:
            members = {
                int(s): gamma if keeps_gammas else wanted.get(s, 0)
                for s, gamma in batch.gammas.items()
                if s in can_guess
            }
            placed |= members.keys()
            batches.append({s: gamma for s, gamma in members.items() if gamma > 0})
        plain = []
        guessing = {stream_id for members in batches for stream_id in members}
        for view in observation.streams:
            stream_id = view.stream_id
            if stream_id in guessing:
                continue
            gamma = wanted.get(stream_id, 0)
            stays_plain = stream_id in placed or (keeps_gammas and stream_id in was_plain)
            if gamma and batches and not stays_plain:
                min(batches, key=len)[stream_id] = gamma
            else:
                plain.append(stream_id)
        kept = tuple(Batch(tuple(m), tuple(m.values())) for m in batches if m)
        return repriced(observation, replace(plan, batches=kept, plain=tuple(plain)))

    def _price_s(self, plan: Plan, observation: Observation) -> float:
        assert plan.prediction is not None
        price_s = plan.prediction.price_s * (1.0 - plan.prediction.ahead_gain)
        return price_s * (observation.overrun if plan.batches else 1.0)
