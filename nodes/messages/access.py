"""Roles, and who may join in which. The coordinator's dispatch says what each role may send."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class ForbiddenError(Exception):
    """A member sent what its role may not send."""


class Role(StrEnum):
    """What a member joins as."""

    TARGET = "target"
    DRAFT = "draft"
    # Some layers of a model that a target runs the last ones of.
    STAGE = "stage"
    CLIENT = "client"
    # A client that sends requests for many users.
    GATEWAY = "gateway"
    ADMIN = "admin"


# The role of an invitation's key, until its machine has enrolled its own key. Nobody joins in it.
GUEST: Final = "guest"
GATEWAY: Final[str] = Role.GATEWAY.value
ROLES: Final = frozenset(role.value for role in Role)
# Roles with an engine, and those without.
NODE_ROLES: Final = frozenset({Role.TARGET.value, Role.DRAFT.value, Role.STAGE.value})
CLIENT_ROLES: Final = ROLES - NODE_ROLES
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

    def node_name(self, wanted: str) -> str:
        """Returns a node's full name, which begins with its key's name if there are keys.

        So no key can take the name of another key's node.
        """
        return f"{self.name}/{wanted}"[:_MAX_NAME_CHARS] if self.name else wanted


def key_name(node: str) -> str:
    """Returns the name of the key of a node with this full name; without keys each has its own."""
    return node.partition("/")[0]


ANYBODY: Final = Caller()
