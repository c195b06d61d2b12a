"""The calibration that a draft's file carries, from compared guesses of held-out answers."""

from __future__ import annotations

import bisect
import json
from collections.abc import Sequence

from airdraft.policies.acceptance import unknown_calibration


def binned(confidences: Sequence[float], accepted: Sequence[bool]) -> list[float]:
    """Returns (b,) shares of the compared guesses that were accepted, by the default bins.

    Rates of bins with few guesses are drawn towards the default rates.
    """
    prior = unknown_calibration()
    hits = [prior.trust * rate for rate in prior.rates]
    tries = [0] * len(prior.rates)
    for confidence, flag in zip(confidences, accepted, strict=True):
        bin_index = bisect.bisect_right(prior.edges, confidence)
        hits[bin_index] += flag
        tries[bin_index] += 1
    return [hit / (prior.trust + count) for hit, count in zip(hits, tries, strict=True)]


def calibration_json(greedy: Sequence[float], sampled: Sequence[float]) -> str:
    """Returns the line of JSON that draft files carry; greedy, sampled: rates of the bins."""
    table = {
        "edges": list(unknown_calibration().edges),
        "greedy": [round(rate, 4) for rate in greedy],
        "sampled": [round(rate, 4) for rate in sampled],
    }
    return json.dumps(table)
