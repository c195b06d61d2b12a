"""What a draft node's guesses are worth to streams that nothing is known of yet. Pure."""

from __future__ import annotations

import math

from nodes.scheduler.drafting.draft_node import DraftNode
from nodes.scheduler.drafting.tries import Tries
from policies.acceptance import AcceptanceEstimate
from policies.drafter import plain_token_s, token_s
from policies.latency import CostTable

# Guesses of a model that were judged: then what is expected of a stream says more than some trials.
_KNOWN_GUESSES = 40
# What the guesses of very good draft models come to.
_BEST = AcceptanceEstimate(successes=9.0, failures=1.0)
# Few streams are better than their mean by more standard deviations.
_DEVIATIONS = 2.0


def expect(
    tries: Tries,
    node: DraftNode,
    guesses: AcceptanceEstimate,
    target: CostTable,
    num_streams: int,
) -> None:
    """Tell a stream's trials what is expected of its guesses; target: what its passes cost."""
    plain_s, view = plain_token_s(target, num_streams), node.view()
    gain = plain_s / token_s(target, view, guesses, num_streams)
    tries.expect(
        1.0 if node.acceptance.is_untried else gain,
        at_best=plain_s / token_s(target, view, _BEST, num_streams),
        is_known=_is_known(node),
    )


def _is_known(node: DraftNode) -> bool:
    """Whether its model is known by so many guesses that plans can go by them."""
    return node.acceptance.judged[1] >= _KNOWN_GUESSES


def pays_nobody(node: DraftNode, target: CostTable, num_streams: int) -> bool:
    """Whether even a stream that suits its model far better than most would gain nothing, alone or
    among others that all guess, once the node has read all texts."""
    if not _is_known(node):
        return False
    known = node.acceptance
    spread = math.sqrt(known.alpha * (1.0 - known.alpha) / (node.model.population.weight + 1.0))
    likely = min(1.0, known.alpha + _DEVIATIONS * spread)
    best = AcceptanceEstimate(likely, 1.0 - likely).told(max(likely, known.kept))
    view = node.view(is_reading=False)
    return all(
        token_s(target, view, best, together) >= plain_token_s(target, together)
        for together in {1, num_streams}
    )
