"""What a node does with messages, without its link, its thread or a clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nodes.draft.guessing import Guessed, GuessingState
from nodes.draft.guessing_node import guess_notice, take_commits
from nodes.draft.node import draft_reply, jobs_of
from nodes.draft.state import ModelDrafter
from nodes.draft.stream import Drafted
from nodes.engine.load import TOY_COSTS
from nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from nodes.messages import (
    CloseStreamNotice,
    CommitNotice,
    CommitReply,
    DraftRequest,
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
    VerifyRequest,
)
from nodes.stream import StreamId
from nodes.target.events import Committed, Failed, Parked, Probed, PromptScored, Ready
from nodes.target.node import (
    commit_entry,
    failed_notice,
    spec_of,
    take_guesses,
    take_holds,
)
from nodes.target.state import TargetState
from tests.nodes.reference import toy_grammars


class PureNode:
    """A target or draft node on a toy engine: messages in, messages out.

    tokenize: what a target makes of a text. pass_s: how long it says that a pass took.
    """

    def __init__(
        self,
        role: str,
        config: ToyConfig,
        tokenize: Callable[[str], tuple[int, ...]],
        pass_s: Callable[[], float] = lambda: 0.0,
        prefix_cache_bytes: int = 0,
        *,
        flows: bool = False,
    ) -> None:
        self.model = ToyModel(config)
        self._tokenize = tokenize
        self._pass_s = pass_s
        # As many as there are vocabularies in all tests: compiled once.
        grammars = toy_grammars(config.num_vocab)
        self._engine: TargetState | ModelDrafter | GuessingState
        if role == "target":
            tokenizer = ToyTokenizer(config.num_vocab)
            self._engine = TargetState(
                self.model,
                tokenizer,
                prefix_cache_bytes,
                grammars,
                midway_tokens=128,
                costs=TOY_COSTS if flows else None,
            )
        elif flows:
            self._engine = GuessingState(self.model, TOY_COSTS.decode.at, grammars=grammars)
        else:
            self._engine = ModelDrafter(self.model, grammars=grammars)

    @property
    def engine(self) -> TargetState | ModelDrafter | GuessingState:
        """The pure state alone, without what tests gave it."""
        return self._engine

    @property
    def num_streams(self) -> int:
        return self._engine.num_streams

    def has_work(self) -> bool:
        return self._engine.has_work()

    def forget_all(self) -> None:
        """It is welcomed anew."""
        self._engine.forget_all()

    def take(self, message: Any) -> list[Any]:
        engine: Any = self._engine
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
                    engine.lease(
                        StreamId(e.stream_id),
                        e.generation,
                        e.prefix_len,
                        e.num_tokens,
                        beside_rounds=e.beside_rounds,
                    )
            case VerifyRequest(entries=entries, draft_token_ids=ids):
                for e in entries:
                    guesses, ids = ids[: e.num_draft_tokens], ids[e.num_draft_tokens :]
                    engine.verify(StreamId(e.stream_id), e.generation, e.prefix_len, guesses)
            case GuessNotice():
                take_guesses(engine, message)
            case HoldNotice():
                take_holds(engine, message)
            case CommitNotice():
                events = take_commits(engine, message)
            case DraftRequest():
                events = engine.draft(message.round, jobs_of(message), ahead=message.ahead)
            case _:
                raise AssertionError(f"unexpected {message}")
        return self._told(events)

    def step(self) -> list[Any]:
        return self._told(self._engine.step())

    def _told(self, events: Sequence[object]) -> list[Any]:
        told = notices(events)
        told += [guess_notice(event.parts) for event in events if isinstance(event, Guessed)]
        told += [draft_reply(event) for event in events if isinstance(event, Drafted)]
        commits = [event for event in events if isinstance(event, Committed)]
        if commits:
            token_ids = tuple(t for commit in commits for t in commit.token_ids)
            told.append(CommitReply(self._pass_s(), tuple(map(commit_entry, commits)), token_ids))
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
