"""Explains a plan: its figures, a reason for each group of streams, and what others would plan."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest

import numpy as np

from airdraft.policies.baselines import POLICIES
from airdraft.policies.cycle import block_sums, stages_of, verify_times
from airdraft.policies.plan import Batch, BatchTimes, Observation, Plan, Prediction, StreamView
from airdraft.policies.problem import CycleProblem, problem_of

WIDTH = 80
_ROW = "{:<11} {:>5} {:>7} {:>6} {:>7} {:>7}  {}"
_HEADER = ("streams", "gamma", "draft", "air", "pass", "round", "why; times are in ms")
_STREAMS_WIDTH = 11
_REASON_WIDTH = 30
_SAME_PRICE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedBatch(BatchTimes):
    """A batch with its predicted times; gammas in the order of its streams.

    expected_tokens: tokens that it commits in a round. reason: why its streams have guesses.
    """

    streams: tuple[int, ...]
    gammas: tuple[int, ...]
    expected_tokens: float
    reason: str


@dataclass(frozen=True, slots=True)
class PlainGroup:
    """Plain streams with the same reason."""

    reason: str
    streams: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """The figures of a policy's plan, as in Prediction.

    mean_token_s: its price as seconds a token, in the mean over streams by weight. relative: by
    what share its price is higher than the plan's, 0.1 for 10 %. same_plan: it is the plan.
    """

    name: str
    price_s: float
    mean_token_s: float
    tokens_per_s: float
    relative: float
    same_plan: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A plan with its reasons, which `airdraft plan --json` prints. Batches have numbers from 1.

    price_s, mean_token_s, tokens_per_s: as in Compared. cycle_s, bound: as in Prediction.
    plain_pass_s: seconds of a pass of the plain streams. best_rejected: name of the cheapest policy
    with another plan.
    """

    policy: str
    price_s: float
    mean_token_s: float
    tokens_per_s: float
    cycle_s: float
    bound: str
    batches: tuple[ExplainedBatch, ...]
    plain: tuple[PlainGroup, ...]
    plain_pass_s: float
    policies: tuple[Compared, ...]
    best_rejected: str | None


def explain(observation: Observation, policy: str) -> Explanation:
    """Explain the plan of a policy (a name in POLICIES) for at least one stream and a target."""
    plans = {name: make(observation) for name, make in POLICIES.items()}
    plan, problem = plans[policy], problem_of(observation)
    prediction = _prediction(plan)
    weight = sum(view.weight for view in observation.streams)
    policies = {name: _compared(name, other, plan, weight) for name, other in plans.items()}
    chosen = policies[policy]
    others = [item for item in policies.values() if not item.same_plan]
    rejected = min(others, key=lambda item: item.price_s, default=None)
    return Explanation(
        policy=policy,
        price_s=chosen.price_s,
        mean_token_s=chosen.mean_token_s,
        tokens_per_s=chosen.tokens_per_s,
        cycle_s=prediction.cycle_s,
        bound=prediction.bound,
        batches=tuple(
            _explained(observation, problem, batch, times, prediction.cycle_s)
            for batch, times in zip(plan.batches, prediction.batches, strict=True)
        ),
        plain=plain_groups(observation, problem, plan),
        plain_pass_s=float(problem.plain_pass_s(len(plan.plain))),
        policies=tuple(policies.values()),
        best_rejected=rejected.name if rejected else None,
    )


def _prediction(plan: Plan) -> Prediction:
    assert plan.prediction is not None
    return plan.prediction


def _compared(name: str, other: Plan, chosen: Plan, weight: float) -> Compared:
    made, relative = _prediction(other), _prediction(other).price_s / _prediction(chosen).price_s
    is_same = abs(relative - 1.0) <= _SAME_PRICE and _as_sets(other) == _as_sets(chosen)
    mean_token_s = made.price_s / weight
    return Compared(name, made.price_s, mean_token_s, made.tokens_per_s, relative - 1.0, is_same)


def _as_sets(plan: Plan) -> set[frozenset[tuple[int, int]]]:
    batches = {frozenset(zip(b.stream_ids, b.gammas, strict=True)) for b in plan.batches}
    return {*batches, frozenset((stream_id, 0) for stream_id in plan.plain)}


def _explained(
    observation: Observation, problem: CycleProblem, batch: Batch, times: BatchTimes, cycle_s: float
) -> ExplainedBatch:
    rows = [problem.stream_ids.index(stream_id) for stream_id in batch.stream_ids]
    earned = problem.earned[rows, batch.gammas]
    plain_s = float(problem.plain_pass_s(problem.num_streams))
    each_s = float((cycle_s / earned).mean())
    reason = f"{_ms(each_s)} ms a token, {_ms(plain_s)} ms without guesses"
    fixed = {view.stream_id for view in observation.streams if view.fixed_gamma is not None}
    if set_by_clients := fixed.intersection(batch.stream_ids):
        reason += f"; clients set the gamma of {ranges(set_by_clients)}"
    return ExplainedBatch(
        **asdict(times),
        streams=batch.stream_ids,
        gammas=batch.gammas,
        expected_tokens=float(earned.sum()),
        reason=reason,
    )


# -- why streams have no guesses -------------------------------------------------------------------


def plain_groups(
    observation: Observation, problem: CycleProblem, plan: Plan
) -> tuple[PlainGroup, ...]:
    """Returns the plain streams of a plan by their reasons. problem: that of the observation."""
    views = {view.stream_id: view for view in observation.streams}
    groups: dict[str, list[int]] = {}
    for stream_id in sorted(plan.plain):
        reason = _reason(problem, views[stream_id], len(plan.plain))
        groups.setdefault(f"draft off: {reason}", []).append(stream_id)
    return tuple(PlainGroup(reason, tuple(ids)) for reason, ids in groups.items())


def _reason(problem: CycleProblem, view: StreamView, num_plain: int) -> str:
    if view.fixed_gamma == 0:
        return "the request sets gamma to 0"
    if view.draft not in problem.node_names:
        return "no draft node holds the stream"
    if view.tokens_left <= 1:
        return "one token is left"
    return _price_of_guessing(problem, problem.stream_ids.index(view.stream_id), num_plain)


def _price_of_guessing(problem: CycleProblem, k: int, num_plain: int) -> str:
    """Returns the time and tokens of the best gamma if only stream k guessed."""
    gammas = np.arange(1, int(problem.most[k]) + 1)
    options = np.zeros((len(gammas), problem.num_streams), dtype=np.int64)
    options[:, k] = gammas
    sums = block_sums(problem, options, (0, problem.num_streams))
    stages = stages_of(problem, sums.counts[:, :, 1], sums.guesses[:, 1], sums.weight_per_token[1])
    # Its guesses are verified in a pass with all other plain streams.
    verify_s, _ = verify_times(problem, stages, np.array(num_plain - 1))
    round_s = stages.head_s + verify_s
    earned = problem.earned[k, gammas]
    best = int((round_s / earned).argmin())
    plain_s = float(problem.plain_pass_s(num_plain))
    guesses = f"{best + 1} guesses make" if best else "1 guess makes"
    text = (
        f"{guesses} a round of {round_s[best] * 1e3:.0f} ms, which gives "
        f"{earned[best]:.2f} tokens at acceptance {problem.alphas[k]:.2f}, "
        f"and a plain step takes {plain_s * 1e3:.0f} ms"
    )
    if round_s[best] / earned[best] < plain_s:
        text += "; the guesses would slow the other streams down"
    return text


# -- as text ---------------------------------------------------------------------------------------


def text_of(explanation: Explanation, title: str) -> str:
    """Returns a plan and its reasons as one table of 80 columns. title: name of the scenario."""
    head = (
        f"{title}, policy {explanation.policy}: {_ms(explanation.mean_token_s)} ms a token, "
        f"{explanation.tokens_per_s:.1f} tokens/s; a cycle of {_ms(explanation.cycle_s)} ms, "
        f"bound by {explanation.bound}"
    )
    lines = [*textwrap.wrap(head, WIDTH), "", _ROW.format(*_HEADER), "-" * WIDTH]
    for batch in explanation.batches:
        seconds = batch.draft_s, batch.air_s, batch.verify_s, batch.round_s
        pairs = list(zip(batch.streams, batch.gammas, strict=True))
        by_gamma = [(g, [s for s, other in pairs if other == g]) for g in sorted({*batch.gammas})]
        lines += _rows(by_gamma, list(map(_ms, seconds)), batch.reason)
    for group in explanation.plain:
        pass_ms = _ms(explanation.plain_pass_s)
        lines += _rows([(0, group.streams)], ["-", "-", pass_ms, pass_ms], group.reason)
    for item in explanation.policies:
        if item.name == explanation.best_rejected:
            dearer = f"{abs(item.relative):.1%} {'dearer' if item.relative >= 0 else 'cheaper'}"
            other = f"best other plan: {item.name}, {_ms(item.mean_token_s)} ms a token, {dearer}"
            lines += ["", other]
    return "\n".join(lines)


def ranges(numbers: Iterable[int]) -> str:
    """Returns numbers as text, such as 1-4,7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in runs)


def _rows(
    by_gamma: Iterable[tuple[int, Sequence[int]]], figures: list[str], reason: str
) -> Iterator[str]:
    """Yields the rows of a batch, the first with its figures; streams and the reason continue
    below where they do not fit."""
    streams: list[str] = []
    gammas: list[object] = []
    for gamma, stream_ids in by_gamma:
        pieces = textwrap.wrap(ranges(stream_ids).replace(",", ", "), _STREAMS_WIDTH)
        streams += [piece.replace(", ", ",") for piece in pieces]
        gammas += [gamma, *[""] * (len(pieces) - 1)]
    words = textwrap.wrap(reason, _REASON_WIDTH)
    for piece, cell, says in zip_longest(streams, gammas, words, fillvalue=""):
        yield _ROW.format(piece, cell, *figures, says).rstrip()
        figures = [""] * len(figures)


def _ms(seconds: float) -> str:
    milliseconds = seconds * 1e3
    digits = ".1f" if milliseconds < 1e3 else ".0f" if milliseconds < 1e5 else ".2g"
    return f"{milliseconds:{digits}}"
