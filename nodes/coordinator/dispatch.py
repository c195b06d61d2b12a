"""Says of each message who may send it and who handles it.

A class of the protocol that is forgotten here is an error when this module is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from mesh.messages import (
    MAX_TAG,
    Bye,
    Credit,
    EnrolReply,
    EnrolRequest,
    Hello,
    Ping,
    Pong,
    Refuse,
    Welcome,
    spec_of_tag,
)
from nodes import messages
from nodes.coordinator import membership
from nodes.coordinator.data import Data, Sender
from nodes.coordinator.members.record import DraftRecord, NodeRecord, TargetRecord
from nodes.coordinator.requests import followers, intake, running
from nodes.coordinator.sends import Send
from nodes.messages.access import CLIENT_ROLES, GUEST, ROLES, Caller, Role

M = TypeVar("M")
Handler: TypeAlias = Callable[[Data, Sender, NodeRecord | None, Any, float], list[Send]]
OfMember: TypeAlias = Callable[[Data, Sender, M, float], list[Send]]
OfTarget: TypeAlias = Callable[[Data, Sender, TargetRecord, M, float], list[Send]]
OfDraft: TypeAlias = Callable[[Data, Sender, DraftRecord, M, float], list[Send]]


@dataclass(frozen=True, slots=True)
class Row:
    """A message class of members in these roles, with its handler."""

    kind: type
    roles: frozenset[str]
    handler: Handler


def _of_members(kind: type[M], handler: OfMember[M], roles: frozenset[str] = ROLES) -> Row:
    def handle(data: Data, sender: Sender, _: NodeRecord | None, m: M, now: float) -> list[Send]:
        return handler(data, sender, m, now)

    return Row(kind, roles, handle)


def _of_clients(kind: type[M], handler: OfMember[M], *roles: Role) -> Row:
    return _of_members(kind, handler, frozenset(roles) or CLIENT_ROLES)


def _of_targets(kind: type[M], handler: OfTarget[M]) -> Row:
    def handle(data: Data, sender: Sender, node: NodeRecord | None, m: M, now: float) -> list[Send]:
        assert isinstance(node, TargetRecord)
        return handler(data, sender, node, m, now)

    return Row(kind, frozenset({Role.TARGET}), handle)


def _of_drafts(kind: type[M], handler: OfDraft[M]) -> Row:
    def handle(data: Data, sender: Sender, node: NodeRecord | None, m: M, now: float) -> list[Send]:
        assert isinstance(node, DraftRecord)
        return handler(data, sender, node, m, now)

    return Row(kind, frozenset({Role.DRAFT}), handle)


def _handled_before(_: Data, __: Sender, ___: object, ____: float) -> list[Send]:
    """The service or the state has handled it: keys, credits, and joining."""
    return []


_ROWS: Final = (
    _of_members(Hello, _handled_before),
    _of_members(EnrolRequest, _handled_before, ROLES | {GUEST}),
    _of_members(Credit, _handled_before),
    _of_members(Ping, membership.pinged),
    _of_members(Pong, membership.ponged),
    _of_members(Bye, membership.said_bye),
    _of_targets(messages.ProbeReply, membership.probed),
    _of_targets(messages.TokenizeReply, intake.tokenized),
    _of_targets(messages.CommitReply, running.committed),
    _of_targets(messages.PromptScoresNotice, running.scored),
    _of_targets(messages.StreamReadyNotice, running.ready),
    _of_targets(messages.StreamFailedNotice, running.failed),
    _of_targets(messages.StreamParkedNotice, running.parked),
    _of_targets(messages.DraftInsideNotice, running.draft_inside),
    _of_drafts(messages.GuessNotice, followers.guessed),
    _of_drafts(messages.StreamReadyNotice, followers.ready),
    _of_drafts(messages.StreamFailedNotice, followers.failed),
    _of_clients(messages.SubmitRequest, intake.submitted),
    _of_clients(messages.CancelRequest, intake.cancelled),
    _of_clients(messages.UploadOffer, intake.offered),
    _of_clients(messages.UploadPiece, intake.uploaded),
    _of_clients(messages.NodesRequest, membership.nodes_asked),
    # The replies show the streams of all users: how many tokens each has had, and when. A gateway
    # needs the status for its status page and metrics, which require the scope admin.
    _of_clients(messages.StatusRequest, membership.status_asked, Role.GATEWAY, Role.ADMIN),
    _of_clients(messages.TraceRequest, membership.trace_asked, Role.ADMIN),
    _of_clients(messages.NodeCommandRequest, membership.commanded, Role.ADMIN),
)
# Without keys every client may request these, because it could join as admin.
_OBSERVING: Final = frozenset({messages.StatusRequest, messages.TraceRequest})
# What the coordinator sends and never receives.
_SENT_ONLY: Final = frozenset(
    {
        *(Welcome, Refuse, EnrolReply),
        *(messages.OpenStreamRequest, messages.CloseStreamNotice, messages.TokenizeRequest),
        *(messages.LeaseRequest, messages.ProbeRequest, messages.HoldNotice),
        *(messages.CommitNotice, messages.NodeCommandReply, messages.StartedNotice),
        *(messages.TokensNotice, messages.OutputNotice, messages.FinishedNotice),
        *(messages.RequestFailedNotice, messages.NodesReply, messages.PromptLogprobsNotice),
        *(messages.UploadGrant, messages.ReadNotice, messages.StatusReply, messages.TraceReply),
    }
)


def _by_kind() -> dict[type, dict[str, Handler]]:
    found: dict[type, dict[str, Handler]] = {}
    for row in _ROWS:
        handlers = found.setdefault(row.kind, {})
        assert not handlers.keys() & row.roles, f"{row.kind.__name__} has two handlers for a role"
        handlers |= dict.fromkeys(row.roles, row.handler)
    specs = filter(None, map(spec_of_tag, range(1, MAX_TAG + 1)))
    for kind in (spec.layout.cls for spec in specs):
        if not kind.__module__.startswith(("mesh.", "nodes.")):
            # Tests declare some of their own.
            continue
        assert (kind in found) != (kind in _SENT_ONLY), f"say in {__name__} who handles {kind}"
    return found


_HANDLERS: Final = _by_kind()


def may_send(caller: Caller, role: str, kind: type) -> bool:
    """Whether a member that joined in `role` may send messages of this class now."""
    if caller.roles is None and role in CLIENT_ROLES and kind in _OBSERVING:
        return True
    return caller.may_join_as(role) and role in _HANDLERS.get(kind, {})


def kinds_of(role: str) -> frozenset[type]:
    """Return the classes that a member in this role may send."""
    return frozenset(kind for kind, handlers in _HANDLERS.items() if role in handlers)


def handle(
    data: Data, sender: Sender, node: NodeRecord | None, message: object, now: float
) -> list[Send]:
    """Handle a message that its sender may send. node: the sender's record, if it is a node."""
    handlers = _HANDLERS[type(message)]
    # Without keys a client may observe what only others may with keys.
    handler = handlers.get(sender.role) or next(iter(handlers.values()))
    return handler(data, sender, node, message, now)
