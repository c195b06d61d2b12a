"""All ready streams together, one gamma for those the policy may choose for.

The gamma is the one that makes a token cheapest by the measured costs, plain decoding included;
a client's own gamma is taken as it is. The joint planner of DESIGN section 5 will stand here.
"""

from __future__ import annotations

from policies.acceptance import expected_tokens
from policies.latency import NodeCosts
from policies.plan import Batch, Observation, Plan, StreamView

MAX_AUTO_GAMMA = 8
# The least of noisy estimates is too good to be true: guesses must promise this much more.
_MARGIN = 0.03


def uniform_plan(observation: Observation) -> Plan:
    """One batch of the streams that guess, once no round is under way; the rest go plainly."""
    reasons: dict[int, str] = {}
    gammas: dict[int, int] = {}
    free = []
    for view in observation.ready:
        if view.fixed_gamma == 0:
            gammas[view.stream_id] = 0
            reasons[view.stream_id] = "draft off: gamma 0 was asked for"
        elif view.draft is None:
            gammas[view.stream_id] = 0
            reasons[view.stream_id] = "draft off: no draft node holds the stream"
        elif view.fixed_gamma is not None:
            gammas[view.stream_id] = min(view.fixed_gamma, max(0, view.tokens_left - 1))
        else:
            free.append(view)
    if free:
        gamma, reason = cheapest_gamma(free, observation)
        for view in free:
            gammas[view.stream_id] = min(gamma, max(0, view.tokens_left - 1))
            if gamma == 0:
                reasons[view.stream_id] = reason
    plain = [stream_id for stream_id, gamma in gammas.items() if gamma == 0]
    guessing = [stream_id for stream_id, gamma in gammas.items() if gamma > 0]
    batches = []
    if plain:
        batches.append(Batch(tuple(plain), (0,) * len(plain)))
    if guessing and observation.num_rounds_in_flight == 0:
        batches.append(Batch(tuple(guessing), tuple(gammas[s] for s in guessing)))
    return Plan(tuple(batches), reasons)


def cheapest_gamma(views: list[StreamView], observation: Observation) -> tuple[int, str]:
    """The uniform gamma with the least seconds a token, and why it is 0 if it is.

    Draft and verify follow one another: seconds = gamma draft passes + rtt + one verify pass.
    """
    target, draft = observation.target, views[0].draft
    if target is None or draft is None:
        return 0, "draft off: no measured costs"
    num_streams = len(views)
    alpha = sum(view.alpha for view in views) / num_streams
    plain_s = target.decode.at(num_streams)
    best_gamma, best_price = 0, plain_s
    second: tuple[float, int, float] | None = None
    for gamma in range(1, MAX_AUTO_GAMMA + 1):
        seconds = _round_seconds(target, draft, num_streams, gamma, observation.rtt_s)
        price = seconds / expected_tokens(alpha, gamma)
        if price < best_price:
            best_gamma, best_price = gamma, price
        if second is None or price < second[0]:
            second = (price, gamma, seconds)
    if best_gamma and best_price < plain_s * (1.0 - _MARGIN):
        return best_gamma, ""
    assert second is not None
    _, gamma, seconds = second
    return 0, (
        f"draft off: {gamma} guesses make a round of {seconds * 1e3:.0f} ms worth "
        f"{expected_tokens(alpha, gamma):.2f} tokens at acceptance {alpha:.2f}, "
        f"a plain step takes {plain_s * 1e3:.0f} ms"
    )


def _round_seconds(
    target: NodeCosts, draft: NodeCosts, num_streams: int, gamma: int, rtt_s: float
) -> float:
    draft_s = gamma * draft.decode.at(num_streams)
    return draft_s + rtt_s + target.decode.at(num_streams * (gamma + 1))
