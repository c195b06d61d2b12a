"""Which target reads the text of a request."""

from __future__ import annotations

from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import Roster
from nodes.coordinator.placing.room import is_of_kind
from nodes.coordinator.requests.models import suits
from nodes.coordinator.requests.request import Request


def reader(roster: Roster, model: str) -> NodeRecord | None:
    """The target that reads the next text for a model; None if there is none."""
    # Who takes the place of a lost one of its name has not been welcomed before that is heard.
    targets = [node for node, _ in roster.schedulers() if not node.is_draining]
    return min(suits(targets, model), key=lambda n: n.used_cells, default=None)


def reader_of(roster: Roster, request: Request) -> NodeRecord | None:
    """The target that reads the prompt of a request, if there is one."""
    if not request.model_hash:
        return reader(roster, request.submit.model)
    # It began as it has to go on, and a target that is being drained does for that.
    able = [n for n, _ in roster.schedulers() if is_of_kind(n, request)]
    return min(able, key=lambda n: (n.is_draining, n.used_cells), default=None)
