"""What a run of a pure cluster is made of: its case, and the processes of its nodes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from nodes.engine.toy import ToyConfig
from policies.latency import NodeCosts
from tests.nodes.pure_mesh import DraftCase, StreamCase
from tests.nodes.pure_node import PureNode


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterCase:
    """A run; num_choices: of each stream's request. num_deaths: of targets, below what ends a
    request. num_restarts: of the coordinator. num_commands: drains, undrains and drops.
    plans_later: as the live coordinator does. ways: how each request comes, as text or as ids,
    whole or in pieces. moves: as in pure_mesh.Case. num_lost: messages that get lost; fewer than it
    takes to end a stream."""

    target: ToyConfig
    num_targets: int
    drafts: tuple[DraftCase, ...]
    streams: tuple[StreamCase, ...]
    num_choices: tuple[int, ...]
    num_deaths: int
    num_draft_deaths: int
    num_moves: int
    has_wild_policy: bool
    has_lookup: bool
    moves: bytes
    move_seed: int
    num_restarts: int = 0
    num_commands: int = 0
    plans_later: bool = False
    num_lost: int = 0
    role: str = "client"
    ways: tuple[tuple[bool, bool], ...] = ()


@dataclass(slots=True)
class NodeProcess:
    """peer: its connection, a new one each time; b"" while it has none.
    is_in: what comes before its Welcome it does not take. is_of_old_epoch: what it says before is
    nobody's."""

    name: str
    role: str
    costs: NodeCosts
    engine: PureNode | None = None
    peer: bytes = b""
    is_in: bool = False
    is_of_old_epoch: bool = False
    inbox: deque[Any] = field(default_factory=deque)
    outbox: deque[Any] = field(default_factory=deque)
