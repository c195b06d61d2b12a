"""Replaces a plan that cannot be made by plain decoding, so that the coordinator goes on."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from nodes.scheduler.planning import Made, Planning
from policies.plan import Plan

logger = logging.getLogger(__name__)
REASON = "draft off: no plan could be made; see the coordinator's log"
# Different errors that are logged with a traceback; later ones are not logged.
_MAX_LOGGED = 16


def with_fallback() -> Callable[[Planning], Made]:
    """Return a function that makes plans and, where that fails, returns a plan without guesses.

    A fault then costs only speed. Guesses never change a text, so a failed plan must not end the
    streams of a whole mesh.
    """
    logged: set[str] = set()

    def made(planning: Planning) -> Made:
        try:
            return planning.make()
        except Exception as error:
            streams = planning.observation.streams
            what = f"{type(error).__name__}: {error}"
            if what not in logged and len(logged) < _MAX_LOGGED:
                logged.add(what)
                logger.exception("no plan could be made for %d streams: %s", len(streams), what)
            plain = tuple(view.stream_id for view in streams)
            plan = Plan((), plain, dict.fromkeys(plain, REASON))
            return Made(planning.observation, plan, math.inf, 0.0)

    return made
