"""Plans whose making cannot end the coordinator."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from nodes.scheduler.planning import Made, Planning
from policies.plan import Plan

logger = logging.getLogger(__name__)
REASON = "draft off: no plan could be made, the coordinator's log says why"
# Told with where it happened; after that a fault is known.
_MOST_TOLD = 16


def with_fallback(make: Callable[[Planning], Made] = Planning.make) -> Callable[[Planning], Made]:
    """Make plans, but where that fails no stream waits for another: a fault costs speed.

    Guesses never change a text, so no plan is worth the streams of a whole mesh.
    """
    told: set[str] = set()

    def made(planning: Planning) -> Made:
        try:
            return make(planning)
        except Exception as error:
            streams = planning.observation.streams
            what = f"{type(error).__name__}: {error}"
            if what not in told and len(told) < _MOST_TOLD:
                told.add(what)
                logger.exception("no plan for %d streams: %s", len(streams), what)
            plain = tuple(view.stream_id for view in streams)
            plan = Plan((), plain, dict.fromkeys(plain, REASON))
            return Made(planning.observation, plan, math.inf, 0.0)

    return made
