"""What a node does with messages, without its link, its thread or a clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nodes.draft.node import guess_notice, take_commits
from nodes.draft.state import DraftState, Guessed
from nodes.engine.load import TOY_COSTS
from nodes.engine.protocol import Model, Tokenizer
from nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from nodes.messages import (
    CloseStreamNotice,
    CommitNotice,
    CommitReply,
    GuessNotice,
    HoldNotice,
    LeaseRequest,
    OpenStreamRequest,
    ProbeReply,
    ProbeRequest,
    PromptScoresNotice,
    StreamParkedNotice,
    StreamReadyNotice,
    TokenizeReply,
    TokenizeRequest,
)
from nodes.target.events import Committed, Parked, Probed, PromptScored
from nodes.target.node import commit_entry, take_guesses, take_holds
from nodes.target.state import TargetState
from nodes.worker.events import Failed, Ready, failed_notice
from nodes.worker.stream import StreamId, spec_of
from tests.nodes.reference import toy_grammars


class PureNode:
    """A target or draft node on a toy engine: messages in, messages out.

    tokenize: what a target makes of a text. pass_s: how long its next pass takes. engine: what it
    runs instead of a toy.
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
        engine: tuple[Model, Tokenizer] | None = None,
    ) -> None:
        self.model, tokenizer = engine or (ToyModel(config), ToyTokenizer(config.num_vocab))
        self._tokenize = tokenize
        self._pass_s = pass_s
        self._free_at = 0.0
        # As many as there are vocabularies in all tests: compiled once.
        grammars = toy_grammars(config.num_vocab) if has_grammars else None
        self.engine: TargetState | DraftState
        if role == "target":
            self.engine = TargetState(
                self.model,
                tokenizer,
                prefix_cache_bytes,
                grammars,
                midway_tokens=128,
                costs=TOY_COSTS,
            )
        else:
            self.engine = DraftState(self.model, grammars=grammars)

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
        return max(self._free_at, now + self.engine.patience_s(now))

    def forget_all(self) -> None:
        """It is welcomed anew."""
        self.engine.forget_all()

    def take(self, message: Any) -> list[Any]:
        engine: Any = self.engine
        events: Sequence[object] = ()
        match message:
            case TokenizeRequest(request_id=number, prompt=text):
                return [TokenizeReply(number, "", self._tokenize(text))]
            case ProbeRequest(seed=seed):
                events = engine.probe(seed)
            case OpenStreamRequest():
                events = engine.open(spec_of(message))
            case CloseStreamNotice(stream_id=s, generation=g):
                engine.close(StreamId(s), g)
            case LeaseRequest(entries=leases):
                for e in leases:
                    told = e.generation, e.prefix_len, e.num_tokens
                    engine.lease(StreamId(e.stream_id), *told)
            case GuessNotice():
                take_guesses(engine, message)
            case HoldNotice():
                take_holds(engine, message)
            case CommitNotice():
                events = take_commits(engine, message)
            case _:
                raise AssertionError(f"unexpected {message}")
        return self._told(events)

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
        told = notices(events)
        told += [guess_notice(event.parts) for event in events if isinstance(event, Guessed)]
        commits = [event for event in events if isinstance(event, Committed)]
        if commits:
            token_ids = tuple(t for commit in commits for t in commit.token_ids)
            told.append(CommitReply(pass_s, tuple(map(commit_entry, commits)), token_ids))
        return told


def notices(events: Sequence[object]) -> list[Any]:
    notices: list[Any] = []
    for event in events:
        match event:
            case Ready(stream_id=s, generation=g):
                notices.append(StreamReadyNotice(s, g, event.num_read, event.has_begun))
            case Failed():
                notices.append(failed_notice(event))
            case PromptScored(stream_id=s, generation=g, position=position, scores=scores):
                notices.append(PromptScoresNotice(s, g, position, scores))
            case Parked(stream_id=s, generation=g):
                notices.append(StreamParkedNotice(s, g))
            case Probed(seed=seed, digest=digest):
                notices.append(ProbeReply(seed, digest))
    return notices
