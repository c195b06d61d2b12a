"""Which of several drafts suits a stream: seconds a token, were all streams served like it."""

from __future__ import annotations

from policies.acceptance import AcceptanceEstimate
from policies.confidence import Spread
from policies.latency import CostTable
from policies.plan import MAX_AUTO_GAMMA, DraftView

# What is measured of a few rounds is noisy, and a move costs the new draft node the whole text.
MOVE_GAIN = 0.1
_MOST_STREAMS = 16
_STOPS = tuple(percent / 100 for percent in range(0, 100, 10))


def expected_acceptance(
    target: CostTable, draft: DraftView, spread: Spread, num_streams: int
) -> AcceptanceEstimate:
    """What to expect of a draft model that was measured, where it stops as suits these costs."""
    found = []
    for stop in _STOPS:
        earned, sent = spread.expected_round(stop, MAX_AUTO_GAMMA)
        alpha = _ratio_of(earned - 1.0)
        estimate = AcceptanceEstimate(alpha, 1.0 - alpha).told(_ratio_of(sent))
        found.append((token_s(target, draft, estimate, num_streams), -stop, estimate))
    # Of equals the one that guesses least.
    _, _, best = min(found, key=lambda item: item[:2])
    return best


def _ratio_of(total: float) -> float:
    """The ratio whose powers 1 to MAX_AUTO_GAMMA sum up to `total`."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        powers = sum(middle**power for power in range(1, MAX_AUTO_GAMMA + 1))
        low, high = (middle, high) if powers < total else (low, middle)
    return (low + high) / 2


def plain_token_s(target: CostTable, num_streams: int) -> float:
    """Seconds a token without any guesses."""
    return target.at(_together(num_streams))


def _together(num_streams: int) -> int:
    return max(1, min(num_streams, _MOST_STREAMS))


def token_s(
    target: CostTable, draft: DraftView, acceptance: AcceptanceEstimate, num_streams: int
) -> float:
    """Seconds a token in the best of rounds without overlap, and in plain passes.

    num_streams: drafted and verified together, all as this one.
    """
    together = _together(num_streams)
    alphas, alpha, kept = acceptance.alphas, acceptance.alpha, acceptance.kept
    # Either nobody makes a guess, or as many are made as are then expected.
    likely = 1.0 - (1.0 - acceptance.starts) ** together
    best_s = plain_token_s(target, num_streams)
    draft_s = draft.link.rtt_s
    so_far, earned, going, sent = 1.0, 1.0, 1.0, 0.0
    for position in range(draft.max_gamma):
        draft_s += draft.costs.decode.at(together, draft.used_cells) * going
        so_far *= alphas[position] if position < len(alphas) else alpha
        earned += so_far
        going *= kept if position else acceptance.starts
        sent += going
        verify_s = (1.0 - likely) * target.at(together)
        verify_s += likely * target.at(together * (1.0 + sent / likely))
        best_s = min(best_s, (draft_s + verify_s) / earned)
    return best_s
