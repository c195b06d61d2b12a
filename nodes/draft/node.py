"""The draft node: it turns messages into commands for its engine, and guesses into messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Unpack

from airdraft.mesh.transport import ClientTransport
from airdraft.nodes.draft.followed import Guesses
from airdraft.nodes.draft.outbox import Outbox
from airdraft.nodes.draft.state import DraftState, Event, Guessed
from airdraft.nodes.engine.protocol import EngineInfo
from airdraft.nodes.messages import (
    CloseStreamNotice,
    CommitNotice,
    GuessNotice,
    LinkFields,
    OpenStreamRequest,
    with_tokens,
)
from airdraft.nodes.worker.engine_thread import EngineThread
from airdraft.nodes.worker.grammar_queue import GrammarQueue
from airdraft.nodes.worker.mask_thread import MaskThread
from airdraft.nodes.worker.node import Joining, Node
from airdraft.nodes.worker.profile import encode_profile
from airdraft.nodes.worker.stream import StreamId
from airdraft.policies.latency import NodeCosts

# Bits that CURVE, TCP and IP add to a message.
_OVERHEAD_BITS: Final = 8 * 97


class DraftNode(Node):
    """Serves one draft model to one coordinator."""

    def __init__(
        self,
        transport: ClientTransport,
        state: DraftState,
        info: EngineInfo,
        costs: NodeCosts,
        *,
        declared: LinkFields | None = None,
        **joining: Unpack[Joining],
    ) -> None:
        """declared: properties of the link that the settings state."""
        self._engine = EngineThread(state, self._on_events)
        self._masks = MaskThread(lambda: self._engine.post(lambda _: None))
        state.compute_masks_by(self._masks)
        self._grammar_queue = GrammarQueue(
            state.grammars,
            lambda request: self._engine.post(lambda state: state.open(request)),
            lambda notice: self._link.send(notice),
        )
        link = (declared.rate_bps, declared.frame_s) if declared is not None else ()
        self._outbox = Outbox(*link)
        if declared is not None and declared.air:
            state.branches.forbid()
        # Seconds of engine passes since the last guesses were sent.
        self._busy_s = 0.0
        # The timer that sends the next guesses when the link is free.
        self._waiting: asyncio.TimerHandle | None = None
        super().__init__(
            transport,
            self._engine,
            self._grammar_queue,
            self._masks,
            role="draft",
            profile=encode_profile(info, costs, declared),
            progress=lambda: self._engine.num_passes,
            **joining,
        )

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            self._forget_waiting()

    def forget_all(self) -> None:
        self._grammar_queue.forget_all()
        self._outbox.clear()
        self._forget_waiting()
        # The coordinator counts from the joining on.
        self._busy_s = 0.0
        self._engine.post_anew(lambda state: state.forget_all())

    def on_message(self, message: Any) -> None:
        match message:
            case OpenStreamRequest():
                self._grammar_queue.open(message)
            case CloseStreamNotice(stream_id=stream_id, generation=generation):
                self._grammar_queue.close(stream_id, generation)
                self._engine.post(lambda state: apply(state, message))
            case CommitNotice():
                if message.rate_bps:
                    self._outbox.allot(message.rate_bps)
                    self._engine.post(lambda state: state.branches.forbid())
                for e, new in with_tokens(message.entries, message.new_token_ids):
                    self._grammar_queue.add(e.stream_id, e.follow, e.prefix_len, new)
                self._engine.post(lambda state: apply(state, message))
            case _:
                super().on_message(message)

    def _on_events(self, events: Sequence[object], seconds: float) -> None:
        self._busy_s += seconds
        for event in events:
            if isinstance(event, Guessed):
                self._outbox.add(event.parts, event.live)
            else:
                self._link.send(event)
        self._send_guesses()

    def _send_guesses(self) -> None:
        """Send the waiting guesses, or set a timer if the link is still busy with earlier ones."""
        if not self._outbox or self._waiting is not None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now < self._outbox.free_at:
            self._waiting = loop.call_at(self._outbox.free_at, self._link_is_free)
            return
        notice = guess_notice(self._outbox.take(), self._busy_s)
        self._busy_s = 0.0
        self._outbox.sent(_OVERHEAD_BITS + 8 * self._link.send(notice), now)
        self._send_guesses()

    def _link_is_free(self) -> None:
        self._waiting = None
        self._send_guesses()

    def _forget_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def guess_notice(parts: Sequence[Guesses], busy_s: float = 0.0) -> GuessNotice:
    token_ids = tuple(token_id for _, of_part in parts for token_id in of_part)
    return GuessNotice(tuple(part for part, _ in parts), token_ids, round(1e6 * busy_s))


def apply(state: DraftState, message: Any) -> Sequence[Event]:
    """Apply a message about streams to the state of a draft node and return the events."""
    events: list[Event] = []
    match message:
        case OpenStreamRequest():
            return state.open(message)
        case CloseStreamNotice(stream_id=stream_id, generation=generation):
            state.close(StreamId(stream_id), generation)
        case CommitNotice():
            for e, new in with_tokens(message.entries, message.new_token_ids):
                events += state.committed(StreamId(e.stream_id), e.follow, e.prefix_len, new)
    return events
