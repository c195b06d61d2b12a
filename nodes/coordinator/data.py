"""The coordinator's data: what its functions read and change."""

from __future__ import annotations

from dataclasses import dataclass

from airdraft.mesh.grants import Air
from airdraft.mesh.messages import Welcome
from airdraft.nodes.config.settings import LimitSettings
from airdraft.nodes.coordinator.members.challenge import Challenges
from airdraft.nodes.coordinator.members.owners import Owners
from airdraft.nodes.coordinator.members.record import DraftRecord, NodeRecord, TargetRecord
from airdraft.nodes.coordinator.members.roster import Roster
from airdraft.nodes.coordinator.members.stages import Stages
from airdraft.nodes.coordinator.requests.book import Requests
from airdraft.nodes.coordinator.requests.classes import Classes
from airdraft.nodes.coordinator.requests.suspects import Remembered
from airdraft.nodes.coordinator.requests.uploads import Uploads
from airdraft.nodes.coordinator.status.document import Reporting
from airdraft.nodes.coordinator.tracing import Tracing
from airdraft.nodes.messages.access import Caller
from airdraft.nodes.scheduler.drafts import Drafts


@dataclass(frozen=True, slots=True)
class Data:
    """Everything that the coordinator knows, but for keys, credits and rate limits.

    secret: random bytes, from which seeds and the aliases of clients are derived.
    """

    secret: bytes
    welcome: Welcome
    limits: LimitSettings
    roster: Roster
    stages: Stages
    owners: Owners
    challenges: Challenges
    requests: Requests
    classes: Classes
    remembered: Remembered
    uploads: Uploads
    drafts: Drafts
    air: Air
    reporting: Reporting
    tracing: Tracing


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent a message, in which role, and how many bytes it had.

    node: None for clients. name: under which its requests share prefixes.
    """

    peer: bytes
    role: str
    caller: Caller
    node: NodeRecord | None
    num_bytes: int
    name: str

    @property
    def target(self) -> TargetRecord:
        assert isinstance(self.node, TargetRecord)
        return self.node

    @property
    def draft(self) -> DraftRecord:
        assert isinstance(self.node, DraftRecord)
        return self.node
