"""Carries out an operator's commands to remove a node gradually or at once. Pure.

A drained target takes no new streams. Its streams move to other targets of their class that have
room, or end where they are, as do texts that are only read; then it is dismissed. A draft node
holds no data that is not elsewhere too, and leaves at once.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence

from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import DRAINED, DROPPED, Roster, RosterEvent
from nodes.coordinator.sends import Send
from nodes.coordinator.serving import Serving
from nodes.messages import NodeCommandReply, NodeCommandRequest

logger = logging.getLogger(__name__)

# Interval between attempts to move streams off drained targets.
_LOOK_S = 0.25
_MAX_NAMES_SHOWN = 8


class Drains:
    """Handles commands about nodes, and dismisses drained targets once they are empty."""

    def __init__(self, roster: Roster, serving: Serving) -> None:
        self._roster = roster
        self._serving = serving
        self._next_look = 0.0

    def command(
        self, request: NodeCommandRequest, now: float
    ) -> tuple[NodeCommandReply, Sequence[RosterEvent]]:
        """Return the reply, and the membership events and messages to other members."""
        record = self._roster.node(request.node)
        if record is None:
            return self._error(request, self._no_such(request.node)), ()
        done = NodeCommandReply(request.request_id, "", len(record.streams))
        match request.command:
            case "drop":
                return done, self._roster.dismiss(record, DROPPED)
            case "drain" if record.role == "draft":
                return done, self._roster.dismiss(record, DRAINED)
            case "drain":
                return done, self._set_draining(record, True, now)
            case "undrain":
                if not record.is_draining:
                    return self._error(request, f"{record.name} is not being drained"), ()
                return done, self._set_draining(record, False, now)
        accepted = "drain, undrain and drop are accepted"
        return self._error(request, f"command {request.command!r}: {accepted}"), ()

    def _set_draining(self, record: NodeRecord, is_draining: bool, now: float) -> list[Send]:
        """Limit how long streams wait for targets that take no new ones, and place the others."""
        if record.is_draining != is_draining:
            what = "is draining" if is_draining else "takes streams again"
            logger.info("%s %s %s", record.role, record.name, what)
        record.is_draining = is_draining
        self._serving.targets_changed(now)
        return self._serving.evacuate(now)

    def tick(self, now: float) -> list[RosterEvent]:
        """Move streams off drained targets, and dismiss those that have become empty."""
        draining = [n for n in self._roster.nodes("target") if n.is_draining]
        events: list[RosterEvent] = []
        if draining and now >= self._next_look:
            self._next_look = now + _LOOK_S
            events += self._serving.evacuate(now)
        tokenizing = self._serving.ledger.tokenizing
        for record in draining:
            if not (record.streams or tokenizing.ends_at(record.name)):
                events += self._roster.dismiss(record, DRAINED)
        return events

    def _no_such(self, name: str) -> str:
        names = [record.name for record in self._roster.nodes()]
        near = difflib.get_close_matches(name, names, n=1)
        if near:
            return f"no node is named {name}, did you mean {near[0]}?"
        shown = ", ".join(names[:_MAX_NAMES_SHOWN]) or "none"
        return f"no node is named {name}; present nodes: {shown}"

    @staticmethod
    def _error(request: NodeCommandRequest, error: str) -> NodeCommandReply:
        return NodeCommandReply(request.request_id, error[:1024], 0)
