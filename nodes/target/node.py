"""The target node: it turns messages into commands for its engine, and events into messages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mesh.messages import Welcome
from mesh.transport import ClientTransport
from nodes.engine.grammar import Grammars
from nodes.engine.protocol import Model, Tokenizer
from nodes.messages import (
    CHANCE_STEPS,
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    GuessNotice,
    HoldNotice,
    LeaseRequest,
    LinkFields,
    OpenStreamRequest,
    ProbeReply,
    ProbeRequest,
    PromptScoresNotice,
    StreamParkedNotice,
    StreamReadyNotice,
    TokenizeRequest,
    parts_of,
)
from nodes.target.composing import Hold
from nodes.target.events import Committed, Event, Parked, Probed, PromptScored, ReadBeside
from nodes.target.state import TargetState
from nodes.target.stream import midway_tokens
from nodes.target.text_reader import TextReader, tokenize
from nodes.worker.engine_thread import EngineThread
from nodes.worker.events import Failed, Ready, failed_notice
from nodes.worker.link import STOPS, Link
from nodes.worker.opening import Opening
from nodes.worker.profile import encode_profile
from nodes.worker.stream import StreamId, spec_of
from policies.latency import NodeCosts

logger = logging.getLogger(__name__)


class _HoldPace:
    """Delays a pass while all its streams wait for guesses."""

    def patience_s(self, worker: TargetState, now: float) -> float:
        return worker.patience_s(now)

    def passed(self, worker: TargetState, now: float, seconds: float) -> None:
        worker.passed(seconds, now)


class TargetNode:
    """Serves one target model to one coordinator."""

    def __init__(
        self,
        transport: ClientTransport,
        model: Model,
        tokenizer: Tokenizer,
        costs: NodeCosts,
        *,
        endpoint: str,
        node: str,
        join_timeout_s: float | None = 10.0,
        declared: LinkFields | None = None,
        prefix_cache_bytes: int = 0,
        grammars: Grammars | None = None,
    ) -> None:
        """declared: properties of the link that the settings state. grammars: None to compile the
        model's grammars in this process, without isolation."""
        self._model = model
        self._tokenizer = tokenizer
        self._prefix_cache_bytes = prefix_cache_bytes
        self._costs = costs
        self._grammars = grammars or Grammars(tokenizer, model.info)
        self._midway_tokens = midway_tokens(costs.decode)
        self._make_link: Callable[[], Link] = lambda: Link(
            transport,
            self,
            endpoint=endpoint,
            node=node,
            role="target",
            profile=encode_profile(model.info, costs, link=declared),
            # A stream that waits for its grammar has no passes yet, so grammars count as well.
            progress=lambda: self._engine.num_passes + self._opening.num_compiled,
            join_timeout_s=join_timeout_s,
        )

    async def run(self) -> None:
        """Serve until cancelled; raises what the link or the engine raises.

        On cancellation the running pass is finished and its result sent, so that its streams
        continue elsewhere from there.
        """
        state = TargetState(
            self._model,
            self._tokenizer,
            self._prefix_cache_bytes,
            self._grammars,
            midway_tokens=self._midway_tokens,
            costs=self._costs,
        )
        self._engine = EngineThread(state, self._on_events, pace=_HoldPace())
        self._opening = Opening(self._grammars, self._open)
        self._texts = TextReader(
            partial(tokenize, self._tokenizer), lambda reply: self._link.send(reply)
        )
        self._link = self._make_link()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._engine.run())
                group.create_task(self._opening.run())
                group.create_task(self._texts.run())
                group.create_task(self._link.run())
        except asyncio.CancelledError:
            self._link.say_bye(STOPS)
            raise

    @property
    def is_joined(self) -> bool:
        """Whether the node is joined to the coordinator. Only valid once run() has begun."""
        return self._link.is_joined

    def is_well(self, limit_s: float) -> bool:
        """Whether no engine call takes longer than limit_s. Only valid once run() has begun."""
        return not self._engine.is_stuck(limit_s)

    def on_joined(self, welcome: Welcome) -> None:
        logger.info("joined cluster %s as %s", welcome.cluster, welcome.node)
        self._opening.forget_all()
        self._texts.forget_all()
        self._engine.post_anew(_forget_all)

    def on_message(self, message: Any) -> None:
        match message:
            case LeaseRequest():
                self._engine.post(lambda state: _lease(state, message))
            case OpenStreamRequest():
                self._opening.open(message)
            case CloseStreamNotice(stream_id=stream_id, generation=generation):
                self._opening.close(stream_id, generation)
                self._engine.post(lambda state: _close(state, stream_id, generation))
            case GuessNotice():
                self._engine.post(lambda state: take_guesses(state, message))
            case HoldNotice():
                self._engine.post(lambda state: take_holds(state, message))
            case TokenizeRequest():
                self._texts.ask(message)
            case ProbeRequest(seed=seed):
                self._engine.post(lambda state: state.probe(seed))
            case _:
                logger.warning(
                    "ignored a message of unexpected type %s from the coordinator",
                    type(message).__name__,
                )

    def _open(self, request: OpenStreamRequest) -> None:
        self._engine.post(lambda state: state.open(spec_of(request)))

    def _on_events(self, events: Sequence[object], seconds: float) -> None:
        entries: list[CommitEntry] = []
        token_ids: list[int] = []
        num_read = 0
        for event in events:
            match event:
                case Committed():
                    entries.append(commit_entry(event))
                    token_ids += event.token_ids
                case Ready(stream_id=stream_id, generation=generation):
                    progress = event.num_read, event.has_begun
                    self._link.send(StreamReadyNotice(stream_id, generation, *progress))
                case ReadBeside(num_tokens=num_tokens):
                    num_read += num_tokens
                case Failed():
                    self._link.send(failed_notice(event))
                case PromptScored(stream_id=stream_id, generation=generation, position=position):
                    self._link.send(
                        PromptScoresNotice(stream_id, generation, position, event.scores)
                    )
                case Parked(stream_id=stream_id, generation=generation):
                    self._link.send(StreamParkedNotice(stream_id, generation))
                case Probed(seed=seed, digest=digest):
                    self._link.send(ProbeReply(seed, digest))
        if entries:
            self._link.send(CommitReply(seconds, tuple(entries), tuple(token_ids), num_read))


def commit_entry(event: Committed) -> CommitEntry:
    return CommitEntry(
        stream_id=event.stream_id,
        generation=event.generation,
        prefix_len=event.prefix_len,
        num_tokens=len(event.token_ids),
        num_draft_tokens=event.num_draft_tokens,
        num_accepted_tokens=event.num_accepted_tokens,
        finish_reason=event.finish_reason,
        text=event.text,
        scores=event.scores,
        num_compared=event.num_compared,
        num_right=event.num_right,
        num_late=event.num_late,
        num_looked_up=event.num_looked_up,
        num_offered=event.num_offered,
        best_percent=round(100 * event.best_chance),
    )


def take_guesses(state: TargetState, notice: GuessNotice) -> Sequence[Event]:
    """Add the guesses of a notice to the buffers of their streams."""
    for part, token_ids in parts_of(notice):
        chances = [step / CHANCE_STEPS for step in part.chances]
        number = part.follow, part.chain
        state.guess(StreamId(part.stream_id), number, part.start, token_ids, chances)
    return ()


def take_holds(state: TargetState, notice: HoldNotice) -> Sequence[Event]:
    """Set for each stream of a notice whether it waits for guesses."""
    for entry in notice.entries:
        hold = Hold(entry.group, entry.num_guesses, entry.hold_us * 1e-6) if entry.group else None
        state.hold(StreamId(entry.stream_id), entry.generation, hold)
    return ()


def _lease(state: TargetState, request: LeaseRequest) -> Sequence[Event]:
    for entry in request.entries:
        lease = entry.generation, entry.prefix_len, entry.num_tokens
        state.lease(StreamId(entry.stream_id), *lease)
    return ()


def _forget_all(state: TargetState) -> Sequence[Event]:
    state.forget_all()
    return ()


def _close(state: TargetState, stream_id: int, generation: int) -> Sequence[Event]:
    state.close(StreamId(stream_id), generation)
    return ()
