"""Says of each message who may send it and who handles it.

A class of the protocol that is forgotten here is an error when this module is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

from airdraft.mesh.messages import (
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
from airdraft.nodes import messages
from airdraft.nodes.coordinator import membership
from airdraft.nodes.coordinator.data import Data, Sender
from airdraft.nodes.coordinator.requests import followers, intake, running
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages.access import CLIENT_ROLES, GUEST, ROLES, Caller, Role

M = TypeVar("M")
Handler: TypeAlias = Callable[[Data, Sender, M, float], list[Send]]


@dataclass(frozen=True, slots=True)
class Row(Generic[M]):
    """A message class of members in these roles, with its handler."""

    kind: type[M]
    roles: frozenset[str]
    handler: Handler[M]


def _on(kind: type[M], handler: Handler[M], *roles: str) -> Row[M]:
    """Returns the row of a message that all members may send, or those in some roles."""
    return Row(kind, frozenset(roles) or ROLES, handler)


def _handled_before(_: Data, __: Sender, ___: object, ____: float) -> list[Send]:
    """The service or the state has handled it: keys, credits, joining, and what may come before."""
    return []


_ROWS: Final[tuple[Row[Any], ...]] = (
    _on(Hello, _handled_before),
    _on(EnrolRequest, _handled_before, *ROLES, GUEST),
    _on(messages.StagesRequest, _handled_before, Role.TARGET),
    _on(Credit, _handled_before),
    _on(Ping, membership.pinged),
    _on(Pong, membership.ponged),
    _on(Bye, membership.said_bye),
    _on(messages.ProbeReply, membership.probed, Role.TARGET),
    _on(messages.TokenizeReply, intake.tokenized, Role.TARGET),
    _on(messages.CommitReply, running.committed, Role.TARGET),
    _on(messages.PromptScoresNotice, running.scored, Role.TARGET),
    _on(messages.StreamReadyNotice, running.ready, Role.TARGET),
    _on(messages.StreamFailedNotice, running.failed, Role.TARGET),
    _on(messages.StreamParkedNotice, running.parked, Role.TARGET),
    _on(messages.DraftInsideNotice, running.draft_inside, Role.TARGET),
    _on(messages.GuessNotice, followers.guessed, Role.DRAFT),
    _on(messages.StreamReadyNotice, followers.ready, Role.DRAFT),
    _on(messages.StreamFailedNotice, followers.failed, Role.DRAFT),
    _on(messages.StageNotice, membership.stage_told, Role.STAGE),
    _on(messages.SubmitRequest, intake.submitted, *CLIENT_ROLES),
    _on(messages.CancelRequest, intake.cancelled, *CLIENT_ROLES),
    _on(messages.UploadOffer, intake.offered, *CLIENT_ROLES),
    _on(messages.UploadPiece, intake.uploaded, *CLIENT_ROLES),
    _on(messages.NodesRequest, membership.nodes_asked, *CLIENT_ROLES),
    # The replies show the streams of all users: how many tokens each has had, and when. A gateway
    # needs the status for its status page and metrics, which require the scope admin.
    _on(messages.StatusRequest, membership.status_asked, Role.GATEWAY, Role.ADMIN),
    _on(messages.TraceRequest, membership.trace_asked, Role.ADMIN),
    _on(messages.NodeCommandRequest, membership.commanded, Role.ADMIN),
)
# Without keys every client may request these, because it could join as admin.
_OBSERVING: Final = frozenset({messages.StatusRequest, messages.TraceRequest})
# What the coordinator sends and never receives.
_SENT_ONLY: Final = frozenset(
    {
        *(Welcome, Refuse, EnrolReply),
        *(messages.OpenStreamRequest, messages.CloseStreamNotice, messages.TokenizeRequest),
        *(messages.LeaseRequest, messages.ProbeRequest, messages.HoldNotice),
        messages.OwnersNotice,
        *(messages.CommitNotice, messages.NodeCommandReply, messages.StartedNotice),
        *(messages.TokensNotice, messages.OutputNotice, messages.FinishedNotice),
        *(messages.RequestFailedNotice, messages.NodesReply, messages.PromptLogprobsNotice),
        *(messages.StagesReply, messages.StageUserNotice),
        *(messages.UploadGrant, messages.ReadNotice, messages.StatusReply, messages.TraceReply),
    }
)

# What a target and its stages send to each other, and never to the coordinator.
_OF_STAGES: Final = frozenset(
    {
        *(messages.StageOpenRequest, messages.StageOpenReply),
        *(messages.StagePassRequest, messages.StagePassReply),
        *(messages.StageFactsRequest, messages.StageFactsReply),
        *(messages.StageFileRequest, messages.StageFileReply),
    }
)


def _by_kind() -> dict[type, dict[str, Handler[Any]]]:
    found: dict[type, dict[str, Handler[Any]]] = {}
    for row in _ROWS:
        handlers = found.setdefault(row.kind, {})
        assert not handlers.keys() & row.roles, f"{row.kind.__name__} has two handlers for a role"
        handlers |= dict.fromkeys(row.roles, row.handler)
    specs = filter(None, map(spec_of_tag, range(1, MAX_TAG + 1)))
    for kind in (spec.layout.cls for spec in specs):
        if not kind.__module__.startswith("airdraft."):
            # Tests declare some of their own.
            continue
        places = kind in found, kind in _SENT_ONLY, kind in _OF_STAGES
        assert sum(places) == 1, f"say in {__name__} who handles {kind}"
    return found


_HANDLERS: Final = _by_kind()


def may_send(caller: Caller, role: str, kind: type) -> bool:
    """Whether a member that joined in `role` may send messages of this class now."""
    if caller.roles is None and role in CLIENT_ROLES and kind in _OBSERVING:
        return True
    return caller.may_join_as(role) and role in _HANDLERS.get(kind, {})


def kinds_of(role: str) -> frozenset[type]:
    """Returns the classes that a member in this role may send."""
    return frozenset(kind for kind, handlers in _HANDLERS.items() if role in handlers)


def handle(data: Data, sender: Sender, message: object, now: float) -> list[Send]:
    """Handle a message that its sender may send."""
    handlers = _HANDLERS[type(message)]
    # Without keys a client may observe what only others may with keys.
    handler = handlers.get(sender.role) or next(iter(handlers.values()))
    return handler(data, sender, message, now)
