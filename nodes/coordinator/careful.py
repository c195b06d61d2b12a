"""A policy that cannot end its coordinator."""

from __future__ import annotations

import logging

from policies.plan import Observation, Plan, Policy

logger = logging.getLogger(__name__)
REASON = "draft off: no plan could be made, the coordinator's log says why"
# Told with where it happened; after that a fault is known.
_MOST_TOLD = 16


def careful(policy: Policy) -> Policy:
    """The policy, but where it fails all streams are decoded plainly: a fault of it costs speed.

    Guesses never change a text, so no plan is worth the streams of a whole mesh.
    """
    told: set[str] = set()

    def planned(observation: Observation) -> Plan:
        try:
            return policy(observation)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            if what not in told and len(told) < _MOST_TOLD:
                told.add(what)
                logger.exception("no plan for %d streams: %s", len(observation.streams), what)
            plain = tuple(view.stream_id for view in observation.streams)
            return Plan((), plain, dict.fromkeys(plain, REASON))

    return planned
