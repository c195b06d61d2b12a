"""The target node: it turns messages into commands for its engine, and events into messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, Unpack

from airdraft.mesh.transport import ClientTransport
from airdraft.nodes.engine.grammar import Grammars
from airdraft.nodes.engine.protocol import Model, Tokenizer
from airdraft.nodes.messages import (
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    DraftInsideNotice,
    GuessNotice,
    HoldNotice,
    LeaseRequest,
    LinkFields,
    OpenStreamRequest,
    OwnersNotice,
    ProbeRequest,
    TokenizeRequest,
    with_tokens,
)
from airdraft.nodes.target.state import TargetState
from airdraft.nodes.target.stream import Beside, Committed, Event
from airdraft.nodes.target.text_reader import TextReader, tokenize
from airdraft.nodes.target.turns import Turns
from airdraft.nodes.worker.engine_thread import EngineThread
from airdraft.nodes.worker.grammar_queue import GrammarQueue
from airdraft.nodes.worker.mask_thread import MaskThread
from airdraft.nodes.worker.node import Joining, Node, Part
from airdraft.nodes.worker.prefix_thread import PrefixFolder, open_prefixes
from airdraft.nodes.worker.profile import encode_profile
from airdraft.nodes.worker.stream import StreamId
from airdraft.policies.latency import NodeCosts


class DraftInside(Part, Protocol):
    """Opens a draft model for the node's process while the node serves."""

    def bind(
        self, attach: Callable[[Callable[[], Turns | None]], None], say: Callable[[str, str], None]
    ) -> None:
        """attach: calls its argument in the engine's thread, between two passes, and attaches the
        guesses that it returns. say: TargetNode.say_draft(), for the event loop."""


class TargetNode(Node):
    """Serves one target model to one coordinator."""

    def __init__(
        self,
        transport: ClientTransport,
        model: Model,
        tokenizer: Tokenizer,
        costs: NodeCosts,
        *,
        declared: LinkFields | None = None,
        prefix_cache_bytes: int = 0,
        prefix_folder: PrefixFolder | None = None,
        grammars: Grammars | None = None,
        inside: DraftInside | None = None,
        **joining: Unpack[Joining],
    ) -> None:
        """declared: properties of the link that the settings state. prefix_cache_bytes, grammars:
        as in TargetState. prefix_folder: where texts are kept on the disk, or None. inside: opens
        the draft model of this process, or None."""
        self._draft = DraftInsideNotice("", "")
        self._masks = MaskThread(lambda: self._engine.post(lambda _: None))
        disk = open_prefixes(
            prefix_folder,
            lambda file, saved: self._engine.post(lambda state: state.fetched(file, saved)),
        )
        state = TargetState(
            *(model, tokenizer, prefix_cache_bytes, grammars),
            costs=costs,
            masks=self._masks,
            disk=disk,
        )
        self._engine = EngineThread(state, self._on_events)
        self._grammar_queue = GrammarQueue(
            state.grammars,
            lambda request: self._engine.post(lambda state: state.open(request)),
            lambda notice: self._link.send(notice),
        )
        self._texts = TextReader(partial(tokenize, tokenizer), lambda reply: self._link.send(reply))
        if inside is not None:
            inside.bind(lambda make: self._engine.post(partial(attach, make)), self.say_draft)
        super().__init__(
            transport,
            self._engine,
            self._grammar_queue,
            self._texts,
            self._masks,
            *(part for part in (inside, disk) if part is not None),
            role="target",
            profile=encode_profile(model.info, costs, link=declared),
            # A stream that waits for its grammar or a mask has no passes, so these count as well.
            progress=lambda: (
                self._engine.num_passes
                + self._grammar_queue.num_compiled
                + self._masks.num_computed
                + (disk.num_read if disk is not None else 0)
            ),
            **joining,
        )

    def forget_all(self) -> None:
        self._grammar_queue.forget_all()
        self._texts.forget_all()
        self._engine.post_anew(lambda state: state.forget_all())
        if self._draft.why:
            self._link.send(self._draft)

    def say_draft(self, model: str, why: str) -> None:
        """Tell the coordinator, and each later one, which draft model this process has, and why.

        model: its name; "" for none.
        """
        self._draft = DraftInsideNotice(model, why)
        self._link.send(self._draft)

    def on_message(self, message: Any) -> None:
        match message:
            case OpenStreamRequest():
                self._grammar_queue.open(message)
            case CloseStreamNotice(stream_id=stream_id, generation=generation):
                self._grammar_queue.close(stream_id, generation)
                self._engine.post(lambda state: apply(state, message))
            case LeaseRequest() | GuessNotice() | HoldNotice() | ProbeRequest():
                self._engine.post(lambda state: apply(state, message))
            case OwnersNotice(names=names):
                self._engine.post(lambda state: state.forget_others(names))
            case TokenizeRequest():
                self._texts.ask(message)
            case _:
                super().on_message(message)

    def _on_events(self, events: Sequence[object], seconds: float) -> None:
        for message in messages_of(events, seconds):
            self._link.send(message)


def attach(make: Callable[[], Turns | None], state: TargetState) -> None:
    """Have the state of a target guess with what `make` returns, if it returns something."""
    if (turns := make()) is not None:
        state.attach(turns)


def apply(state: TargetState, message: Any) -> Sequence[Event]:
    """Apply a message about streams to the state of a target and return the events."""
    match message:
        case OpenStreamRequest():
            return state.open(message)
        case CloseStreamNotice(stream_id=stream_id, generation=generation):
            state.close(StreamId(stream_id), generation)
        case LeaseRequest(entries=leases):
            for e in leases:
                state.lease(StreamId(e.stream_id), e.generation, e.prefix_len, e.num_tokens)
        case GuessNotice():
            for part, token_ids in with_tokens(message.parts, message.token_ids):
                state.guess(part, token_ids)
        case HoldNotice(entries=holds):
            for hold in holds:
                state.hold(hold)
        case ProbeRequest(seed=seed):
            return state.probe(seed)
    return ()


def messages_of(events: Sequence[object], seconds: float) -> list[Any]:
    """Returns what the coordinator is sent after a command or a pass, with one reply for all that
    the pass committed. seconds: of the pass.

    Streams that had no token to decode, such as texts that were only scored, are in a reply of 0
    seconds: costs are learnt from the seconds and the streams of a reply.
    """
    commits = [event for event in events if isinstance(event, Committed)]
    beside = next((event for event in events if isinstance(event, Beside)), Beside(0, 0.0))
    out = [event for event in events if not isinstance(event, Committed | Beside)]
    decoded = [commit for commit in commits if _is_of_pass(commit.entry)]
    if decoded:
        entries = tuple(commit.entry for commit in decoded)
        token_ids = tuple(token_id for commit in decoded for token_id in commit.token_ids)
        out.append(CommitReply(seconds, entries, token_ids, beside.num_read, beside.turn_s))
    if over := tuple(commit.entry for commit in commits if not _is_of_pass(commit.entry)):
        out.append(CommitReply(0.0, over, ()))
    return out


def _is_of_pass(entry: CommitEntry) -> bool:
    return entry.num_tokens > 0 or entry.finish_reason != "length"
