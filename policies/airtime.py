"""The shares of a medium with which the messages of all links on it arrive soonest.

s_k are the seconds of the medium that link k needs alone. A link that has nothing to send (s_k = 0)
needs no share.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from airdraft.policies.acceptance import Floats


def weighted_shares(airtime_s: npt.ArrayLike, weights: npt.ArrayLike) -> Floats:
    """Shares with the least weighted sum of times: phi_k = sqrt(w_k s_k) / sum_j sqrt(w_j s_j).

    airtime_s, weights: of one shape, not negative. Returns shares of that shape that sum to 1; a
    link of weight 0 gets none and never finishes. Stationary point of sum(w_k s_k / phi_k) on the
    simplex.
    """
    roots: Floats = np.sqrt(airtime_s) * np.sqrt(weights)
    total = roots.sum()
    return roots / total if total > 0.0 else np.zeros_like(roots)
