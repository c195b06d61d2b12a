"""Tells targets where the stages of their model are, and stages who may use them. Pure."""

from __future__ import annotations

from dataclasses import replace

from airdraft.mesh.latest import Latest
from airdraft.nodes.coordinator.members.record import StageRecord
from airdraft.nodes.coordinator.members.roster import Roster
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages import (
    StageFields,
    StageNotice,
    StagesReply,
    StagesRequest,
    StageUserNotice,
)
from airdraft.nodes.messages.access import Caller, Role, key_name

# A target that waits for stages asks once a second.
_ASKED_OF_LATE_S = 5.0
# A client is told the names that were asked for last.
_MOST_MISSED = 4


class Stages:
    """Which stages targets use, and which they wait for."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        # When a target asked last for a stage that is not here.
        self._missed_at = Latest[str, float](_MOST_MISSED)

    def told(self, stage: StageRecord, notice: StageNotice) -> None:
        stage.endpoint, stage.key = notice.endpoint, notice.key
        stage.profile = replace(stage.profile, model=notice.part)

    def asked(
        self, peer: bytes, key: str, caller: Caller, request: StagesRequest, now: float
    ) -> list[Send]:
        """Answer a target, and let it use the stages. key: of the target."""
        if not caller.may_join_as(Role.TARGET):
            reason = f"the key of {caller.name} lacks the role target, so it may use no stages"
            return [Send(peer, StagesReply(reason, ()))]
        out, found = list[Send](), list[StageFields]()
        for name in request.names:
            stage = self._stage(name)
            if stage is None:
                self._missed_at[name] = now
                found.append(StageFields(name, "", ""))
                continue
            self._missed_at.pop(name, None)
            stage.user = caller.name
            out.append(Send(stage.peer, StageUserNotice(key)))
            found.append(StageFields(name, stage.endpoint, stage.key))
        return [*out, Send(peer, StagesReply("", tuple(found)))]

    def _stage(self, name: str) -> StageRecord | None:
        """Returns the stage of a name; that of a key will do if no other node has the key."""
        stages = [each for each in self._roster.nodes() if isinstance(each, StageRecord)]
        told = [each for each in stages if each.endpoint]
        named = [each for each in told if each.name == name]
        of_key = [each for each in told if key_name(each.name) == name]
        found = named or of_key
        return found[0] if len(found) == 1 else None

    def revoked(self, name: str) -> list[Send]:
        """Take its stages from the targets of a key that is no longer authorized."""
        out = list[Send]()
        for stage in self._roster.nodes():
            if isinstance(stage, StageRecord) and stage.user == name != "":
                stage.user = ""
                out.append(Send(stage.peer, StageUserNotice("")))
        return out

    def missed(self, now: float) -> list[str]:
        """Returns the names of stages for which targets wait, in the order of the questions."""
        return [name for name, at in self._missed_at.items() if now - at <= _ASKED_OF_LATE_S]
