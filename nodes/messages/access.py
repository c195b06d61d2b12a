"""Access rules: roles by key, messages by role. A message that is not listed is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mesh.messages import Bye, Credit, EnrolRequest, Hello, Ping, Pong
from nodes.messages import (
    CancelRequest,
    CommitReply,
    DraftInsideNotice,
    GuessNotice,
    NodeCommandRequest,
    NodesRequest,
    ProbeReply,
    PromptScoresNotice,
    StatusRequest,
    StreamFailedNotice,
    StreamParkedNotice,
    StreamReadyNotice,
    SubmitRequest,
    TokenizeReply,
    TraceRequest,
    UploadOffer,
    UploadPiece,
)


class ForbiddenError(Exception):
    """A member sent what its role may not send."""


# The role of an invitation's key, until its machine has enrolled its own key.
GUEST: Final = "guest"
# A client that sends requests for many users.
GATEWAY: Final = "gateway"
_OF_MEMBERS: Final = frozenset({Hello, Ping, Pong, Bye, Credit})
_OF_CLIENTS: Final = _OF_MEMBERS | {
    SubmitRequest,
    CancelRequest,
    NodesRequest,
    EnrolRequest,
    UploadOffer,
    UploadPiece,
}
# The replies show the streams of all users: how many tokens each has had, and when.
_OBSERVING: Final = frozenset({StatusRequest, TraceRequest})
MAY_SEND: Final[Mapping[str, frozenset[type]]] = {
    "target": _OF_MEMBERS
    | {CommitReply, TokenizeReply, StreamReadyNotice, StreamFailedNotice, EnrolRequest}
    | {StreamParkedNotice, PromptScoresNotice, ProbeReply, DraftInsideNotice},
    "draft": _OF_MEMBERS | {GuessNotice, StreamReadyNotice, StreamFailedNotice, EnrolRequest},
    "client": _OF_CLIENTS,
    # A gateway needs the status for its status page and metrics, which require the scope admin.
    GATEWAY: _OF_CLIENTS | {StatusRequest},
    "admin": _OF_CLIENTS | _OBSERVING | {NodeCommandRequest},
    GUEST: frozenset({EnrolRequest}),
}
ROLES: Final = frozenset(MAY_SEND) - {GUEST}
# Roles without an engine.
CLIENT_ROLES: Final = ROLES - {"target", "draft"}
_MAX_NAME_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a message. roles: of its key; None without keys, where senders choose roles."""

    name: str = ""
    roles: frozenset[str] | None = None

    @property
    def is_guest(self) -> bool:
        return self.roles == frozenset({GUEST})

    def may_join_as(self, role: str) -> bool:
        return role in ROLES and (self.roles is None or role in self.roles)

    def may_send(self, role: str, message: object) -> bool:
        """Whether a member that joined in `role` may send this message now.

        Without keys every client may request status and traces, because it could join as admin.
        """
        if self.roles is None and role in CLIENT_ROLES and type(message) in _OBSERVING:
            return True
        return self.may_join_as(role) and type(message) in MAY_SEND[role]

    def node_name(self, wanted: str) -> str:
        """Return a node's full name, which begins with its key's name if there are keys.

        So no key can take the name of another key's node.
        """
        return f"{self.name}/{wanted}"[:_MAX_NAME_CHARS] if self.name else wanted


def key_name(node: str) -> str:
    """Return the name of the key of a node with this full name; without keys each has its own."""
    return node.partition("/")[0]


ANYBODY: Final = Caller()
