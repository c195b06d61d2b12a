"""The joint planner as a policy: the cheapest plan of each kind, and which of them it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from policies.ahead import ahead_of
from policies.cuts import candidates
from policies.cycle import CycleCost, CyclePlan
from policies.describe import describe, trivial_plan
from policies.plan import Kind, Observation, Option, Plan, Rejected
from policies.play import kind_of_cycle, meets_on_air, played_cost
from policies.problem import CycleProblem, problem_of

# The least of noisy estimates is too good to be true: guesses must promise this much more. Whoever
# plans again and again knows better, and has the plan of the other kind as well.
_MARGIN = 0.05
# The more there is to choose from, the truer that is: what streams seem to differ by is partly
# noise, and plans that give each its own number of guesses must promise this much more.
_UNEQUAL_MARGIN = 0.02
# How many guesses are made in a lap varies, and the more may be made the more it does; whoever is
# there first waits for the others. Expected times leave that out: a guess more must promise this.
_MORE_MARGIN = 0.01
# Plans of each kind and number of batches that are looked at more closely, the cheapest by sums
# first; of all that have many batches together.
_MOST_PLAYED = 2


def joint_plan(observation: Observation) -> Plan:
    """Batches, speculation lengths and grants together.

    Plain decoding of all streams (of those whose client did not ask for guesses) is kept unless
    guesses are predicted to be better by 5 %.
    """
    early = trivial_plan(observation, "joint")
    if early is not None:
        return early
    problem = problem_of(observation)
    options = _cheapest_by_kind(observation, problem)
    plain = next((each for each in options if each.kind is Kind.PLAIN), None)
    guesses = [each for each in options if each is not plain]
    best = min(guesses, key=lambda each: each.price_s, default=None)
    if plain is None or best is None:
        (chosen,) = [each for each in (plain, best) if each is not None]
    else:
        chosen = best if best.price_s / (1.0 - _MARGIN) < plain.price_s else plain
    return chosen_of(options, chosen.kind)


def chosen_of(options: Sequence[Option], kind: Kind) -> Plan:
    """The plan of a kind, with the others beside it."""
    (chosen,) = [each for each in options if each.kind is kind]
    others = tuple(each for each in options if each is not chosen)
    plan = chosen.plan()
    name = "guesses" if kind is Kind.PLAIN else "no guesses"
    prices_s = [each.price_s for each in others if (each.kind is Kind.PLAIN) is bool(plan.batches)]
    rejected = Rejected(name, min(prices_s)) if prices_s else None
    return replace(plan, others=others, rejected=rejected)


def options_of_kinds(plan: Plan) -> tuple[Option, ...]:
    """All that was compared, the plan itself first."""
    cycle_s = plan.prediction.cycle_s if plan.prediction is not None else 0.0
    return Option(plan.kind, plan.price_s, cycle_s, lambda: plan), *plan.others


def _cheapest_by_kind(observation: Observation, problem: CycleProblem) -> list[Option]:
    """The cheapest plan of each kind that is found, at what it costs as far as that is known."""
    least = CyclePlan((0, problem.num_streams), problem.least)
    best = {kind_of_cycle(least): (least, played_cost(problem, least))}
    found = [each for each in candidates(problem) if each.plan.gammas.any()]
    found.sort(key=lambda each: each.price_s * _margin_of(each.plan))
    num_seen = Counter[tuple[Kind, int]]()
    seen = set()
    for each in found:
        plan = each.plan
        kind, key = kind_of_cycle(plan), (plan.bounds, plan.gammas.tobytes())
        size = kind, 0 if kind is Kind.CROWDED else len(plan.bounds)
        # What batches wait for tells plans apart that look alike in sums.
        if key in seen or num_seen[size] >= _MOST_PLAYED:
            continue
        seen.add(key)
        cost = played_cost(problem, plan)
        num_seen[size] = num_seen[size] + 1 if meets_on_air(cost) else _MOST_PLAYED
        price_s = cost.price_s * _margin_of(plan)
        if kind not in best or price_s < best[kind][1].price_s * _margin_of(best[kind][0]):
            best[kind] = plan, cost
    return [_option(observation, problem, *each) for each in best.values()]


def _option(
    observation: Observation, problem: CycleProblem, cycle: CyclePlan, cost: CycleCost
) -> Option:
    ahead = ahead_of(observation, problem, cycle, cost)

    def plan() -> Plan:
        made = describe(observation, problem, cycle, "joint", cost, ahead=ahead)
        return replace(made, is_cheapest=True)

    price_s = cost.price_s * (1.0 - ahead[1])
    return Option(kind_of_cycle(cycle), price_s, cost.cycle_s, plan)


def _margin_of(plan: CyclePlan) -> float:
    """How many times its price a plan must be worth beside one without guesses."""
    some = plan.gammas[plan.gammas > 0]
    if not len(some):
        return 1.0
    most = int(some.max())
    return 1.0 + _UNEQUAL_MARGIN * bool(some.min() < most) + _MORE_MARGIN * most
