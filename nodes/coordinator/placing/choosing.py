"""Chooses the model and the numerics class that a request goes to. Pure.

The choice does not depend on load, because texts must not depend on it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import DRAINED, DROPPED, NodeOut, Roster
from nodes.coordinator.placing.classes import (
    Standings,
    ambiguous,
    classes_in_order,
    standings_of,
)
from nodes.coordinator.placing.room import is_meant_by, is_of_kind
from nodes.coordinator.placing.stranded import STRANDED_LIMIT_S
from nodes.coordinator.requests.models import hashes_in_order, suits
from nodes.coordinator.requests.request import Request
from nodes.messages import EngineProfile

logger = logging.getLogger(__name__)

# A target that left counts as present for this long, because it may only be restarting.
LATELY_S = 300.0
_MOST_LEFT = 256


@dataclass(frozen=True, slots=True)
class _Left:
    """A target that left. is_expected: no operator removed it, so it may return soon."""

    profile: EngineProfile
    at: float
    is_expected: bool


class Choosing:
    """Chooses among the targets that are present or left recently.

    weights: weights of numerics classes, by prefixes of their names.
    """

    def __init__(self, roster: Roster, weights: Mapping[str, int]) -> None:
        self._roster = roster
        self._weights = weights
        # Targets that left, by name.
        self._left: dict[str, _Left] = {}
        self._known: list[EngineProfile] = []
        self._known_standings: Standings = {}

    def came(self) -> None:
        """After a target joined, warn if one prefix in the weights matches several classes."""
        names = [node.profile.numerics_class for node in self._roster.nodes("target")]
        for beginning, several in ambiguous(names, self._weights).items():
            logger.warning(
                "classes.weights: %s is a prefix of %s, and each has this weight: give longer "
                "prefixes",
                beginning,
                " and ".join(several),
            )

    def left(self, gone: NodeOut, now: float) -> None:
        """Note that a target left; its profile counts as present for a while."""
        target = gone.record
        self._left.pop(target.name, None)
        is_expected = gone.reason not in (DRAINED, DROPPED)
        self._left[target.name] = _Left(target.profile, now, is_expected)
        if len(self._left) > _MOST_LEFT:
            del self._left[next(iter(self._left))]

    def known(self, now: float) -> list[EngineProfile]:
        """Returns the profiles of the targets that are present or left recently."""
        here = self._roster.nodes("target")
        names = {node.name for node in here}
        lately = [
            left.profile
            for name, left in self._left.items()
            if name not in names and now - left.at <= LATELY_S
        ]
        return [*(node.profile for node in here), *lately]

    def expects_for(self, request: Request, now: float) -> bool:
        """Whether a target that could serve a request left so recently that the request may wait
        for it, as requests that have begun do."""
        expected = [
            left.profile
            for left in self._left.values()
            if left.is_expected and now - left.at < STRANDED_LIMIT_S
            if is_meant_by(request, left.profile)
        ]
        return bool(hashes_in_order(expected, request.submit.model))

    def _standings(self, now: float) -> Standings:
        # When a target joins or leaves, many requests may wait: compute this once for all of them.
        known = self.known(now)
        if known != self._known:
            self._known, self._known_standings = known, standings_of(known)
        return self._known_standings

    def of_first_class(
        self, targets: Sequence[NodeRecord], request: Request, now: float
    ) -> list[NodeRecord]:
        """Returns those of the targets that have the class that a request goes to.

        targets: all have the same model.
        """
        names = {target.profile.numerics_class for target in targets}
        if len(names) > 1:
            model_hash = targets[0].profile.model_hash
            wanted = model_hash, request.conversation, self._weights
            ordered = classes_in_order(self._standings(now), *wanted)
            names = {next(name for name in ordered if name in names)}
        return [target for target in targets if target.profile.numerics_class in names]

    def reader_of(self, request: Request, now: float) -> NodeRecord | None:
        """Returns the target that reads the prompt of a request, if there is one."""
        # A target without a scheduler yet replaces one of its name whose loss is being handled.
        able = [n for n, _ in self._roster.schedulers() if is_of_kind(n, request)]
        staying = [n for n in able if not n.is_draining]
        if request.is_resumed and request.model_hash:
            # It must continue with the model it began with, for which a draining target will do.
            staying = staying or able
        else:
            staying = suits(staying, self.known(now), request.submit.model)
        found = self.of_first_class(staying, request, now)
        return min(found, key=lambda n: n.used_cells, default=None)
