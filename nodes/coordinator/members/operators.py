"""Carries out an operator's commands to remove a node gradually or at once. Pure.

A drained target takes no new streams. Its streams move to other targets of their class that have
room, or end where they are, as do texts that are only read; then it is dismissed. A draft node
holds no data that is not elsewhere too, and leaves at once.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from typing import Final

from airdraft.nodes.coordinator.members.record import NodeRecord, TargetRecord
from airdraft.nodes.coordinator.members.roster import DRAINED, DROPPED, Roster, RosterEvent
from airdraft.nodes.messages import NodeCommandReply, NodeCommandRequest

logger = logging.getLogger(__name__)

_MAX_NAMES_SHOWN: Final = 8
_MAX_ERROR: Final = 1024


def command(
    roster: Roster, request: NodeCommandRequest
) -> tuple[NodeCommandReply, Sequence[RosterEvent]]:
    """Carry out a command. Returns the reply, and the membership events that follow."""
    record = roster.node(request.node)
    if record is None:
        return _error(request, _no_such(roster, request.node)), ()
    done = NodeCommandReply(request.request_id, "", record.num_streams)
    match request.command:
        case "drop":
            return done, roster.dismiss(record, DROPPED)
        case "drain" if not isinstance(record, TargetRecord):
            return done, roster.dismiss(record, DRAINED)
        case "drain":
            _set_draining(record, True)
            return done, ()
        case "undrain":
            if not record.is_draining:
                return _error(request, f"{record.name} is not being drained"), ()
            _set_draining(record, False)
            return done, ()
    accepted = "drain, undrain and drop are accepted"
    return _error(request, f"command {request.command!r}: {accepted}"), ()


def _set_draining(record: NodeRecord, is_draining: bool) -> None:
    if record.is_draining != is_draining:
        what = "is draining" if is_draining else "takes streams again"
        logger.info("%s %s %s", record.role, record.name, what)
    record.is_draining = is_draining


def _no_such(roster: Roster, name: str) -> str:
    names = [record.name for record in roster.nodes()]
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"no node is named {name}, did you mean {near[0]}?"
    shown = ", ".join(names[:_MAX_NAMES_SHOWN]) or "none"
    return f"no node is named {name}; present nodes: {shown}"


def _error(request: NodeCommandRequest, error: str) -> NodeCommandReply:
    return NodeCommandReply(request.request_id, error[:_MAX_ERROR], 0)
