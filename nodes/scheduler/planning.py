"""A plan in the making: the policy's, or as much of the plan in force as does nearly as well.

It needs nothing but what it is given, and takes milliseconds for many streams: any thread may make
it, while messages go on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nodes.scheduler.advantage import NOTHING_KNOWN, Advantage
from nodes.stream import StreamId
from policies.joint import chosen_of, options_of_kinds
from policies.plan import Batch, Kind, Observation, Option, Plan, Policy
from policies.priced import Priced
from policies.problem import problem_of

logger = logging.getLogger(__name__)

# A new plan must promise this much more than the one in force, if it is of its kind.
HYSTERESIS = 0.04
# Where it has another number of batches, they have to fall into step anew: some part of a cycle is
# lost, which pays only if there will be as many for long enough. As long as there were, it is said.
_REGROUPING_CYCLES = 0.5
_MOST_REGROUPING = 0.04
# Streams that begin with guesses lose some cycles, for texts are told and leases run out; those
# that end them or are put into other batches about one. Whoever has just changed waits longer, or
# would try again and again.
_BEGINNING_CYCLES, _ENDING_CYCLES, _MOST_CHANGING = 2.0, 1.0, 0.08
_HOW_MANY_GUESS = {Kind.PLAIN: 0, Kind.MIXED: 1, Kind.CROWDED: 2, Kind.ONE: 2, Kind.TWO: 2}


@dataclass(frozen=True, slots=True)
class Hope:
    """What would be seen if some streams could guess that are on probation.

    It is taken for true where the plan then has most of the others guess.
    """

    observation: Observation
    stream_ids: frozenset[int]

    def is_borne_out(self, plan: Plan) -> bool:
        guessing = {stream_id for batch in plan.batches for stream_id in batch.stream_ids}
        return len(guessing - self.stream_ids) > len(set(plan.plain) - self.stream_ids)


@dataclass(frozen=True, slots=True)
class Made:
    """A plan, and what it was made for. is_hopeful: that is what was hoped for. advantage: what is
    known by now of what kinds of plans gain."""

    plan: Plan
    observation: Observation
    is_hopeful: bool = False
    advantage: Advantage = NOTHING_KNOWN


@dataclass(frozen=True, slots=True)
class Planning:
    """What a plan is made of. in_force, batches: the plan there is, and the guesses of its streams
    by batch. grouped_s: since when there are as many batches; switched_s: since when plans are of
    their kind. advantage: as it was known before; now: on its clock."""

    observation: Observation
    policy: Policy
    in_force: Plan
    batches: Sequence[Mapping[StreamId, int]]
    grouped_s: float
    switched_s: float
    hope: Hope | None = None
    advantage: Advantage = NOTHING_KNOWN
    now: float = 0.0

    def make(self) -> Made:
        """The plan to be in force.

        Streams that change batches wait for one another, streams that begin to guess run a lease
        out first: so first the old plan with the new streams put in, then the old batches with
        the new gammas are preferred.
        """
        hope = self.hope
        if hope is not None:
            plan, advantage = self._of_best_kind(self.policy(hope.observation))
            if hope.is_borne_out(self.in_force) or hope.is_borne_out(plan):
                complete = self._complete(plan, hope.observation)
                return Made(complete, hope.observation, True, advantage)
        seen = self.observation
        plan, advantage = self._of_best_kind(self.policy(seen))
        return Made(self._complete(plan, seen), seen, advantage=advantage)

    def _of_best_kind(self, plan: Plan) -> tuple[Plan, Advantage]:
        """The plan of the kind that has been best of late, and what is known of kinds by now."""
        if not plan.others:
            return plan, self.advantage
        options, current = options_of_kinds(plan), self.in_force.kind
        prices_s = {each.kind: each.price_s for each in options}
        if current not in prices_s:
            # Who has to leave a kind goes to what is most like it.
            others = [each for each in options if each.kind is not Kind.PLAIN]
            current = min(others, key=lambda each: each.price_s).kind
        advantage = self.advantage.seen(prices_s, current, self.now)
        best = advantage.best({each.kind: self._change_costs(each) for each in options})
        return (plan if best is plan.kind else chosen_of(options, best)), advantage

    def _change_costs(self, option: Option) -> float:
        """Part of the time until the next change that it takes to change to a kind."""
        begins = _HOW_MANY_GUESS[option.kind] > _HOW_MANY_GUESS[self.in_force.kind]
        cycles = _BEGINNING_CYCLES if begins else _ENDING_CYCLES
        return _part_lost(cycles * option.cycle_s, self.switched_s, _MOST_CHANGING)

    def _complete(self, plan: Plan, seen: Observation) -> Plan:
        try:
            chosen = self._steady(plan, seen)
        except Exception:
            # What is steady is faster, no more.
            logger.exception("a plan in force could not be compared with a new one")
            chosen = plan
        if chosen.others:
            chosen = replace(chosen, others=())
        planned = {s for batch in chosen.batches for s in batch.stream_ids} | set(chosen.plain)
        left_out = [view.stream_id for view in seen.streams if view.stream_id not in planned]
        # Nobody waits for ever because a policy forgot it.
        return replace(chosen, plain=(*chosen.plain, *left_out)) if left_out else chosen

    def _steady(self, plan: Plan, seen: Observation) -> Plan:
        if plan.prediction is None or seen.target is None or not seen.streams:
            return plan
        if len(self.batches) != len(plan.batches) and not plan.is_cheapest:
            return plan
        # Other policies are held to what they ask for: their gammas, their number of batches.
        kept = [self._adapted(plan, seen, keeps_gammas=False)]
        if plan.is_cheapest:
            as_it_was = self._adapted(plan, seen, keeps_gammas=True)
            # Another number of guesses costs nothing; to begin or to end guessing does.
            kept.insert(1 if set(as_it_was.plain) == set(kept[0].plain) else 0, as_it_was)
        made = plan.prediction
        problem = problem_of(seen)
        for candidate in kept:
            found = Priced.of(seen, candidate, problem)
            # Which kind it is to be has been decided.
            if plan.others and found.kind is not plan.kind:
                continue
            gain = HYSTERESIS
            if found.num_batches != len(plan.batches):
                cycle_s = max(found.cost.cycle_s, made.cycle_s)
                gain += _part_lost(_REGROUPING_CYCLES * cycle_s, self.grouped_s, _MOST_REGROUPING)
            if found.price_s <= plan.price_s * (1.0 + gain):
                return found.described()
        return plan

    def _adapted(self, plan: Plan, seen: Observation, *, keeps_gammas: bool) -> Plan:
        """The batches in force for the streams there are now; new ones join the smallest."""
        views = seen.streams
        wanted = {
            s: gamma
            for batch in plan.batches
            for s, gamma in zip(batch.stream_ids, batch.gammas, strict=True)
        }
        can_guess = {view.stream_id for view in views if view.draft is not None}
        was_plain = set(self.in_force.plain)
        batches: list[dict[int, int]] = []
        placed: set[int] = set()
        for batch in self.batches:
            members = {
                int(s): gamma if keeps_gammas else wanted.get(s, 0)
                for s, gamma in batch.items()
                if s in can_guess
            }
            placed |= members.keys()
            batches.append({s: gamma for s, gamma in members.items() if gamma > 0})
        plain = []
        guessing = {stream_id for members in batches for stream_id in members}
        for view in views:
            stream_id = view.stream_id
            if stream_id in guessing:
                continue
            gamma = wanted.get(stream_id, 0)
            stays_plain = stream_id in placed or (keeps_gammas and stream_id in was_plain)
            stays_plain = stays_plain and not view.fixed_gamma
            if gamma and batches and not stays_plain:
                min(batches, key=len)[stream_id] = gamma
            else:
                plain.append(stream_id)
        kept = tuple(Batch(tuple(m), tuple(m.values())) for m in batches if m)
        return replace(plan, batches=kept, plain=tuple(plain))


def _part_lost(seconds: float, since_s: float, most: float) -> float:
    """Part of the time until the next change that a change costs, if that comes as soon as the
    last one did: a change that costs so many seconds. most: of it."""
    return most if since_s * most <= seconds else seconds / since_s
