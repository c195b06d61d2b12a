"""What a node does with messages, without its link, its thread or a clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from airdraft.nodes.draft import node as draft_node
from airdraft.nodes.draft.state import DraftState, Guessed
from airdraft.nodes.engine.load import TOY_COSTS
from airdraft.nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from airdraft.nodes.messages import TokenizeReply, TokenizeRequest
from airdraft.nodes.target import node as target_node
from airdraft.nodes.target.state import TargetState
from airdraft.policies.latency import CostTable
from tests.nodes.reference import toy_grammars


class PureNode:
    """A target or draft node on a toy engine: messages in, messages out.

    tokenize: what a target makes of a text. pass_s: how long its next pass takes.
    """

    def __init__(
        self,
        role: str,
        config: ToyConfig,
        tokenize: Callable[[str], tuple[int, ...]],
        pass_s: Callable[[], float] = lambda: 0.0,
        prefix_cache_bytes: int = 0,
        *,
        has_grammars: bool = True,
    ) -> None:
        self.model = ToyModel(config)
        self._tokenize = tokenize
        self._pass_s = pass_s
        self._free_at = 0.0
        # As many as there are vocabularies in all tests: compiled once.
        grammars = toy_grammars(config.num_vocab) if has_grammars else None
        self.engine: TargetState | DraftState
        if role == "target":
            self.engine = TargetState(
                self.model,
                ToyTokenizer(config.num_vocab),
                prefix_cache_bytes,
                grammars,
                costs=TOY_COSTS,
            )
        else:
            # Hardly longer with branches, so there are some.
            costs = CostTable((1, 32), (1e-4, 1.3e-4))
            self.engine = DraftState(self.model, grammars=grammars, costs=costs)

    @property
    def num_streams(self) -> int:
        return self.engine.num_streams

    def next_step(self, now: float) -> float | None:
        """When it makes its next pass: at once, after the one before it, or when guesses have been
        waited for long enough. None while there is nothing to be done."""
        if not self.engine.has_work():
            return None
        if isinstance(self.engine, DraftState):
            return now
        return max(self._free_at, now + self.engine.schedule_pass(now))

    def forget_all(self) -> None:
        """It is welcomed anew."""
        self.engine.forget_all()

    def take(self, message: Any) -> list[Any]:
        if isinstance(message, TokenizeRequest):
            return [TokenizeReply(message.request_id, "", self._tokenize(message.prompt))]
        if isinstance(self.engine, TargetState):
            return self._told(target_node.apply(self.engine, message))
        return self._told(draft_node.apply(self.engine, message))

    def step(self, now: float) -> list[Any]:
        """One pass. What comes of it is told when it begins; those of a target take their time."""
        events = self.engine.step()
        seconds = 0.0
        if isinstance(self.engine, TargetState):
            seconds = self._pass_s()
            self._free_at = now + seconds
            self.engine.passed(seconds, self._free_at)
        return self._told(events, seconds)

    def _told(self, events: Sequence[object], pass_s: float = 0.0) -> list[Any]:
        if isinstance(self.engine, TargetState):
            return target_node.messages_of(events, pass_s)
        return [
            draft_node.guess_notice(event.parts) if isinstance(event, Guessed) else event
            for event in events
        ]
