"""Handles what happens to members: they join, leave, are drained, and are asked for proofs."""

from __future__ import annotations

from collections.abc import Iterable

from airdraft.mesh.messages import Bye, Ping, Pong
from airdraft.nodes.coordinator.data import Data, Sender
from airdraft.nodes.coordinator.members import operators
from airdraft.nodes.coordinator.members.record import DraftRecord, StageRecord, TargetRecord
from airdraft.nodes.coordinator.members.roster import ClientOut, NodeLives, NodeOut, RosterEvent
from airdraft.nodes.coordinator.requests import followers, running
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages import (
    NodeCommandRequest,
    NodesReply,
    NodesRequest,
    ProbeReply,
    StageNotice,
    StatusRequest,
    TraceRequest,
)


def changed(data: Data, events: Iterable[RosterEvent], now: float) -> list[Send]:
    """Carry out membership changes in their order; none of them makes further ones."""
    out: list[Send] = []
    for event in events:
        match event:
            case Send():
                out.append(event)
            case TargetRecord():
                out += _target_in(data, event, now)
            case DraftRecord():
                data.reporting.node_in(event)
                out += followers.draft_in(data, event, now)
            case StageRecord():
                data.reporting.node_in(event)
            case NodeOut():
                out += _node_out(data, event, now)
            case ClientOut(peer=peer):
                data.uploads.gone(peer)
                # A client that still reads gets an error: it must not take its text for complete.
                for request in data.requests.of_client(peer):
                    reason = "the client left or was silent"
                    out += running.fail(data, request, "left", reason, now)
            case NodeLives(name=name, incarnation=incarnation):
                out += running.target_lives(data, (name, incarnation), now)
    return out


def _target_in(data: Data, target: TargetRecord, now: float) -> list[Send]:
    data.reporting.node_in(target)
    out = data.owners.for_target(target)
    for draft in data.roster.drafts():
        if draft.can_draft_for(target):
            draft.draft_for(target.scheduler)
    data.tracing.target_joined(target)
    data.classes.target_came(target, now)
    data.requests.due.targets = True
    # No stream is placed on it until it has answered.
    probe = data.challenges.ask(target, now)
    return [*out, probe, *running.target_lives(data, (target.name, target.member.incarnation), now)]


def _node_out(data: Data, event: NodeOut, now: float) -> list[Send]:
    node, reason, has_died = event.record, event.reason, event.has_died
    data.reporting.node_out(node, reason, now)
    if isinstance(node, TargetRecord):
        data.requests.due.targets = True
        return running.target_out(data, node, reason, has_died=has_died, now=now)
    if isinstance(node, DraftRecord):
        return followers.draft_out(data, node, has_died=has_died, now=now)
    return []


def probed(data: Data, sender: Sender, reply: ProbeReply, _: float) -> list[Send]:
    """Let streams go to a target that answered its probe, by the class that it has proven."""
    if data.challenges.answered(sender.target, reply):
        data.requests.due.targets = True
    else:
        data.reporting.num_stale += 1
    return []


def stage_told(data: Data, sender: Sender, notice: StageNotice, _: float) -> list[Send]:
    assert isinstance(sender.node, StageRecord)
    data.stages.told(sender.node, notice)
    return []


# -- messages of any member ------------------------------------------------------------------------


def said_bye(data: Data, sender: Sender, bye: Bye, now: float) -> list[Send]:
    events = data.roster.remove(sender.peer, f"said bye: {bye.reason}", has_died=False)
    return changed(data, events, now)


def pinged(_: Data, sender: Sender, ping: Ping, __: float) -> list[Send]:
    return [Send(sender.peer, Pong(ping.seq, 0))]


def ponged(data: Data, sender: Sender, pong: Pong, now: float) -> list[Send]:
    data.roster.pong(sender.peer, pong, now)
    return []


# -- queries and commands of clients ---------------------------------------------------------------


def nodes_asked(data: Data, sender: Sender, message: NodesRequest, _: float) -> list[Send]:
    return [Send(sender.peer, NodesReply(message.request_id, data.roster.fields()))]


def status_asked(data: Data, sender: Sender, message: StatusRequest, now: float) -> list[Send]:
    return [Send(sender.peer, data.reporting.answer(message, now))]


def trace_asked(data: Data, sender: Sender, message: TraceRequest, now: float) -> list[Send]:
    return [Send(sender.peer, data.tracing.answer(message, data.roster.targets(), now))]


def commanded(data: Data, sender: Sender, message: NodeCommandRequest, now: float) -> list[Send]:
    reply, events = operators.command(data.roster, message)
    data.requests.due.targets = data.requests.due.moves = True
    return [Send(sender.peer, reply), *changed(data, events, now)]
