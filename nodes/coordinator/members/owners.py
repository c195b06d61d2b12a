"""Tells targets whose texts they may keep. Pure."""

from __future__ import annotations

from airdraft.nodes.coordinator.members.record import TargetRecord
from airdraft.nodes.coordinator.members.roster import Roster
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages import MOST_OWNERS, OwnersNotice


class Owners:
    """The names of the authorized keys, of which targets hear when they join and at each change.

    A target that was away when a key was revoked so learns of it later.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._notice: OwnersNotice | None = None

    def known(self, names: tuple[str, ...]) -> list[Send]:
        """Take the names of all authorized keys; () if they are not known."""
        self._notice = OwnersNotice(names) if 0 < len(names) <= MOST_OWNERS else None
        return [send for target in self._roster.targets() for send in self.for_target(target)]

    def for_target(self, target: TargetRecord) -> list[Send]:
        return [] if self._notice is None else [Send(target.peer, self._notice)]
