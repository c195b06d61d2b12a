"""The joint planner as a policy, and how any cycle becomes a plan with its numbers and reasons."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies.acceptance import Floats
from policies.ahead import ahead_gains_s, cycle_gain_s
from policies.airtime import grant_order
from policies.cuts import candidates
from policies.cycle import CycleCost, CyclePlan, seconds_at
from policies.plan import (
    Batch,
    BatchTimes,
    Kind,
    Observation,
    Option,
    Plan,
    Prediction,
    Rejected,
    kind_of,
)
from policies.play import kind_of_cycle, meets_on_air, messages_air_s, played_cost
from policies.problem import CATCH_UP_TOKENS, CycleProblem, problem_of
from policies.stops import stop_chances

# The least of noisy estimates is too good to be true: guesses must promise this much more. Whoever
# plans again and again knows better, and has the plan of the other kind as well.
_MARGIN = 0.05
# The more there is to choose from, the truer that is: what streams seem to differ by is partly
# noise, and plans that give each its own number of guesses must promise this much more.
_UNEQUAL_MARGIN = 0.02
# Plans of each kind and number of batches that are looked at more closely, the cheapest by sums
# first; of all that have many batches together.
_MOST_PLAYED = 2


def joint_plan(observation: Observation) -> Plan:
    """Batches, speculation lengths and grants together (DESIGN section 5).

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
    ahead = _ahead(observation, problem, cycle, cost)

    def plan() -> Plan:
        made = describe(observation, problem, cycle, "joint", cost, ahead=ahead)
        return replace(made, is_cheapest=True)

    price_s = cost.price_s * (1.0 - ahead[1])
    return Option(kind_of_cycle(cycle), price_s, cost.cycle_s, plan)


def _margin_of(plan: CyclePlan) -> float:
    """How many times its price a plan must be worth beside those with equal guesses for all."""
    some = plan.gammas[plan.gammas > 0]
    return 1.0 + _UNEQUAL_MARGIN * bool(len(some) and some.min() < some.max())


def trivial_plan(observation: Observation, name: str) -> Plan | None:
    """The plan where nothing is to be computed: no streams, or a target of unknown costs."""
    if observation.streams and observation.target is not None:
        return None
    plain = tuple(view.stream_id for view in observation.streams)
    return Plan(plain=plain, reasons=dict.fromkeys(plain, "draft off: no costs"), policy=name)


def price_of(observation: Observation, plan: Plan) -> float:
    """The price of a plan under an observation, which may be newer than what it was made for.

    Streams that the plan does not know are taken as plain, those that left are ignored.
    """
    return _cost_of(problem_of(observation), plan)[2].price_s


def repriced(observation: Observation, plan: Plan) -> Plan:
    """The plan with its prediction and reasons made anew, for its streams in its own order."""
    return Priced.of(observation, plan, problem_of(observation)).described()


@dataclass(frozen=True, slots=True)
class Priced:
    """A plan under an observation as far as its price: most of those that are compared need no
    more. price_s: with what drafting ahead saves."""

    observation: Observation
    plan: Plan
    problem: CycleProblem
    cycle: CyclePlan
    cost: CycleCost
    ahead: tuple[Floats, float] | None

    @classmethod
    def of(cls, observation: Observation, plan: Plan, problem: CycleProblem) -> Priced:
        """problem: of the observation."""
        turned, cycle, cost = _cost_of(problem, plan)
        may_go_ahead = plan.is_cheapest and plan.overlap and not plan.equal_shares
        ahead = _ahead(observation, turned, cycle, cost) if may_go_ahead else None
        return cls(observation, plan, turned, cycle, cost, ahead)

    @property
    def price_s(self) -> float:
        return self.cost.price_s * (1.0 - (self.ahead[1] if self.ahead is not None else 0.0))

    @property
    def num_batches(self) -> int:
        """In which somebody guesses."""
        bounds, gammas = self.cycle.bounds, self.cycle.gammas
        return sum(bool(gammas[a:b].any()) for a, b in itertools.pairwise(bounds))

    @property
    def kind(self) -> Kind:
        return kind_of(self.num_batches, int((self.cycle.gammas == 0).sum()))

    def described(self) -> Plan:
        plan = self.plan
        made = describe(
            self.observation,
            self.problem,
            self.cycle,
            plan.policy,
            self.cost,
            plan.rejected,
            ahead=self.ahead,
        )
        return replace(
            made,
            overlap=plan.overlap,
            equal_shares=plan.equal_shares,
            is_cheapest=plan.is_cheapest,
        )


def _cost_of(problem: CycleProblem, plan: Plan) -> tuple[CycleProblem, CyclePlan, CycleCost]:
    turned, cycle = _in_plan_order(problem, plan)
    cost = played_cost(turned, cycle, equal_shares=plan.equal_shares, overlap=plan.overlap)
    return turned, cycle, cost


def _in_plan_order(problem: CycleProblem, plan: Plan) -> tuple[CycleProblem, CyclePlan]:
    at = {stream_id: k for k, stream_id in enumerate(problem.stream_ids)}
    order: list[int] = []
    gammas: list[int] = []
    bounds = [0]
    for batch in plan.batches:
        for stream_id, gamma in zip(batch.stream_ids, batch.gammas, strict=True):
            k = at.pop(stream_id, None)
            if k is not None:
                order.append(k)
                gammas.append(gamma)
        if len(order) > bounds[-1]:
            bounds.append(len(order))
    order += at.values()
    gammas += [0] * len(at)
    if len(order) > bounds[-1]:
        bounds.append(len(order))
    turned = problem.in_order(np.array(order, dtype=np.int64))
    kept = np.clip(np.array(gammas, dtype=np.int64), turned.least, turned.most)
    return turned, CyclePlan(tuple(bounds), kept)


def describe(
    observation: Observation,
    problem: CycleProblem,
    chosen: CyclePlan,
    name: str,
    cost: CycleCost | None = None,
    rejected: Rejected | None = None,
    *,
    ahead: tuple[Floats, float] | None = None,
) -> Plan:
    """A cycle as a plan: batches without guesses ride along, each plain stream gets its reason.

    ahead: seconds that each batch's lap gains by being drafted ahead, and the part of the cycle
    that saves; None where nothing is drafted ahead.
    """
    if cost is None:
        cost = played_cost(problem, chosen)
    gains_s, ahead_gain = ahead or (np.zeros(len(chosen.bounds) - 1), 0.0)
    batches, times, grants = [], [], []
    plain: list[int] = []
    stops = stop_chances(problem, chosen, cost)
    for m, (first, end) in enumerate(zip(chosen.bounds, chosen.bounds[1:], strict=False)):
        gammas = chosen.gammas[first:end].tolist()
        ids = problem.stream_ids[first:end]
        members = list(zip(ids, gammas, stops[first:end].tolist(), strict=True))
        guessing = [member for member in members if member[1] > 0]
        plain += [stream_id for stream_id, gamma, _ in members if gamma == 0]
        if guessing:
            ids, caps, least = zip(*guessing, strict=True)
            goes_ahead = bool(gains_s[m] > 0)
            batches.append(Batch(ids, caps, least if any(least) else (), goes_ahead))
            times.append(_times(cost, m))
            grants.append(_grants(problem, chosen, m))
    return Plan(
        batches=tuple(batches),
        plain=tuple(plain),
        reasons=PlainReasons(observation, problem, chosen) if plain else {},
        policy=name,
        min_cycle_s=cost.cycle_s if batches and cost.cycle_s > cost.natural_s * 1.001 else 0.0,
        grants=tuple(grants),
        prediction=Prediction(
            cost.cycle_s,
            _bound(problem, cost, bool(batches)),
            cost.price_s,
            _tokens_per_s(problem, chosen, cost),
            tuple(times),
            ahead_gain,
        ),
        rejected=rejected,
    )


def _ahead(
    observation: Observation, problem: CycleProblem, chosen: CyclePlan, cost: CycleCost
) -> tuple[Floats, float]:
    """Seconds that each batch's lap gains by drafting ahead, and the part of the cycle it saves."""
    none = np.zeros(len(chosen.bounds) - 1), 0.0
    if not chosen.gammas.any():
        return none
    gains_s = ahead_gains_s(problem, chosen, cost)
    gain_s = cycle_gain_s(cost, gains_s) if gains_s.any() else 0.0
    loss_s = (observation.ahead_overrun - 1.0) * cost.cycle_s
    return (gains_s, gain_s / cost.cycle_s) if gain_s > loss_s else none


def _times(cost: CycleCost, m: int) -> BatchTimes:
    stages = cost.stages
    return BatchTimes(
        float(stages.draft_s[:, m].max()),
        float(stages.air_s[:, m].sum()),
        float(cost.verify_s[m]),
        float(cost.lap_s[m]),
        round(float(stages.num_tokens[m])),
    )


def _grants(problem: CycleProblem, plan: CyclePlan, m: int) -> tuple[str, ...]:
    """Draft nodes of a batch in the order of their turns: least air for its weight first."""
    if len(problem.node_names) == 1:
        return problem.node_names
    first, end = plan.bounds[m], plan.bounds[m + 1]
    mine = first + np.flatnonzero(plan.gammas[first:end])
    nodes, num_nodes = problem.nodes[mine], len(problem.node_names)
    weights = np.bincount(nodes, problem.weights[mine], minlength=num_nodes)
    order = grant_order(messages_air_s(problem, plan, m), weights)
    asked = set(nodes.tolist())
    return tuple(problem.node_names[node] for node in order if node in asked)


def _bound(problem: CycleProblem, cost: CycleCost, guesses: bool) -> str:
    """Which term of C is the longest."""
    if not guesses:
        return "target"
    if cost.cycle_s > cost.natural_s * 1.001:
        return "plain streams"
    terms = [("target", float(cost.verify_s.sum()))]
    sums = zip(problem.node_names, cost.stages.draft_s.sum(axis=1), strict=True)
    terms += [(f"draft node {name}", float(seconds)) for name, seconds in sums]
    air = zip(problem.medium_names, cost.stages.air_s.sum(axis=1), strict=True)
    terms += [(name, float(seconds)) for name, seconds in air]
    slowest = int(cost.lap_s.argmax())
    # Counted as the plan's batches are: without those in which nobody guesses.
    number = int((cost.verify_s[: slowest + 1] > 0).sum())
    name, longest_s = max(terms, key=lambda term: term[1])
    # What is longer than all of these is a lap with its waits for the air.
    return name if longest_s * (1.0 + 1e-9) >= cost.natural_s else f"lap of batch {number}"


def _tokens_per_s(problem: CycleProblem, chosen: CyclePlan, cost: CycleCost) -> float:
    guessing = chosen.gammas > 0
    rows = np.flatnonzero(guessing)
    earned = problem.earned[rows, chosen.gammas[rows]].sum()
    num_plain = int((~guessing).sum())
    if not len(rows):
        return num_plain / cost.cycle_s
    if num_plain == 0:
        return float(earned / cost.cycle_s)
    passes = (cost.verify_s > 0).sum()
    passes += (cost.cycle_s - cost.verify_s.sum()) / problem.target_s[num_plain]
    return float((earned + num_plain * passes) / cost.cycle_s)


class PlainReasons(Mapping[int, str]):
    """Why each plain stream of a plan makes no guesses; a text is made when it is asked for."""

    def __init__(self, observation: Observation, problem: CycleProblem, chosen: CyclePlan) -> None:
        self._views = observation.streams
        self._problem = problem
        self._plain = {problem.stream_ids[k]: k for k in np.flatnonzero(chosen.gammas == 0)}

    def __iter__(self) -> Iterator[int]:
        return iter(self._plain)

    def __len__(self) -> int:
        return len(self._plain)

    def __getitem__(self, stream_id: int) -> str:
        k = self._plain[stream_id]
        view = next(view for view in self._views if view.stream_id == stream_id)
        if view.fixed_gamma == 0:
            return "draft off: gamma 0 was asked for"
        if view.draft not in self._problem.node_names:
            return "draft off: no draft node holds the stream"
        if view.tokens_left <= 1:
            return "draft off: one token is left"
        return _price_of_guessing(self._problem, int(k), len(self._plain))


def _price_of_guessing(problem: CycleProblem, k: int, num_plain: int) -> str:
    """What the best number of guesses would take and earn if stream k alone made them."""
    node = int(problem.nodes[k])
    gammas = np.arange(1, int(problem.most[k]) + 1)
    sent = problem.sent[k, gammas]
    steps_s = problem.sent[k, gammas - 1] * problem.draft_s[node, 1]
    draft_s = problem.draft_s[node, CATCH_UP_TOKENS] + steps_s
    air_s = problem.message_air_s[node] + problem.stream_air_s[node]
    air_s = air_s + sent * problem.token_air_s[node]
    round_s = draft_s + problem.rtt_s[node] + air_s
    # It takes its place in the pass of all plain streams, with its guesses.
    likely = 1.0 - np.exp(problem.log_none[k])
    round_s += likely * seconds_at(problem.target_s, num_plain + sent / likely)
    round_s += (1.0 - likely) * problem.target_s[num_plain]
    earned = problem.earned[k, gammas]
    best = int((round_s / earned).argmin())
    plain_s = float(problem.target_s[num_plain])
    guesses = f"{best + 1} guesses make" if best else "1 guess makes"
    text = (
        f"draft off: {guesses} a round of {round_s[best] * 1e3:.0f} ms worth "
        f"{earned[best]:.2f} tokens at acceptance {problem.alphas[k]:.2f}, "
        f"a plain step takes {plain_s * 1e3:.0f} ms"
    )
    if round_s[best] / earned[best] < plain_s:
        text += "; but they would slow the other streams down"
    return text
