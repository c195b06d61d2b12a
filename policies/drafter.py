"""Which of several drafts suits a stream: seconds a token, were all streams served like it."""

from __future__ import annotations

from policies.acceptance import AcceptanceEstimate
from policies.latency import CostTable
from policies.plan import MAX_AUTO_GAMMA, DraftView

# What is measured of a few rounds is noisy, and a move costs the new draft node the whole text.
MOVE_GAIN = 0.1
_MOST_STREAMS = 16


def token_s(
    target: CostTable, draft: DraftView, acceptance: AcceptanceEstimate, num_streams: int
) -> float:
    """Seconds a token in the best of rounds without overlap, and in plain passes.

    num_streams: drafted and verified together, all as this one.
    """
    together = max(1, min(num_streams, _MOST_STREAMS))
    alphas, alpha, kept = acceptance.alphas, acceptance.alpha, acceptance.kept
    best_s = target.at(together)
    draft_s = draft.link.rtt_s
    so_far, earned, going, sent = 1.0, 1.0, 1.0, 0.0
    for position in range(MAX_AUTO_GAMMA):
        draft_s += draft.costs.decode.at(together, draft.used_cells) * going
        so_far *= alphas[position] if position < len(alphas) else alpha
        earned += so_far
        going *= kept
        sent += going
        verify_s = target.at(round(together * (1.0 + sent)))
        best_s = min(best_s, (draft_s + verify_s) / earned)
    return best_s
