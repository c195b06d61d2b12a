"""What the coordinator needs of a stream, whatever kind of scheduler has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from nodes.stream import StreamSpec
from policies.acceptance import AcceptanceEstimate

if TYPE_CHECKING:
    from nodes.scheduler.stream import Figures


class Follower(Protocol):
    @property
    def node(self) -> str: ...


class Journal(Protocol):
    """token_ids: prompt and committed tokens. draft: who guesses for it."""

    @property
    def spec(self) -> StreamSpec: ...
    @property
    def token_ids(self) -> list[int]: ...
    @property
    def fixed_gamma(self) -> int | None: ...
    @property
    def weight(self) -> float: ...
    @property
    def phase(self) -> object: ...
    @property
    def draft(self) -> Follower | None: ...
    @property
    def figures(self) -> Figures: ...
    @property
    def acceptance(self) -> AcceptanceEstimate: ...
    @property
    def is_parked(self) -> bool: ...
    @property
    def tokens_left(self) -> int: ...
