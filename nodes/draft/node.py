"""The draft node: it turns messages into commands for its engine, and guesses into messages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from mesh.messages import Welcome
from mesh.transport import ClientTransport
from nodes.draft.followed import Guesses
from nodes.draft.outbox import Outbox
from nodes.draft.state import DraftState, Guessed
from nodes.engine.protocol import EngineInfo
from nodes.messages import (
    CHANCE_STEPS,
    ChainPart,
    CloseStreamNotice,
    CommitNotice,
    GuessNotice,
    LinkFields,
    OpenStreamRequest,
    StreamReadyNotice,
)
from nodes.worker.engine_thread import EngineThread
from nodes.worker.events import Failed, Ready, failed_notice
from nodes.worker.link import STOPS, Link
from nodes.worker.opening import Opening
from nodes.worker.profile import encode_profile
from nodes.worker.stream import StreamId, spec_of
from policies.latency import NodeCosts

logger = logging.getLogger(__name__)

# Bits that CURVE, TCP and IP add to a message.
_OVERHEAD_BITS: Final = 8 * 97


class DraftNode:
    """Serves one draft model to one coordinator."""

    def __init__(
        self,
        transport: ClientTransport,
        state: DraftState,
        info: EngineInfo,
        costs: NodeCosts,
        *,
        endpoint: str,
        node: str,
        join_timeout_s: float | None = 10.0,
        declared: LinkFields | None = None,
    ) -> None:
        """declared: properties of the link that the settings state."""
        self._state = state
        self._make_link: Callable[[], Link] = lambda: Link(
            transport,
            self,
            endpoint=endpoint,
            node=node,
            role="draft",
            profile=encode_profile(info, costs, declared),
            progress=lambda: self._engine.num_passes,
            join_timeout_s=join_timeout_s,
        )
        link = (declared.rate_bps, declared.frame_s) if declared is not None else ()
        self._outbox = Outbox(*link)
        # Seconds of engine passes since the last guesses were sent.
        self._busy_s = 0.0
        # The timer that sends the next guesses when the link is free.
        self._waiting: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Serve until cancelled; raises what the link or the engine raises."""
        self._engine: EngineThread[DraftState] = EngineThread(self._state, self._on_events)
        self._opening = Opening(self._state.grammars, self._open)
        self._link = self._make_link()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._engine.run())
                group.create_task(self._opening.run())
                group.create_task(self._link.run())
        except asyncio.CancelledError:
            self._link.say_bye(STOPS)
            raise
        finally:
            self._forget_waiting()

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
        self._outbox.clear()
        self._forget_waiting()
        self._engine.post_anew(_forget_all)

    def on_message(self, message: Any) -> None:
        match message:
            case CommitNotice():
                if message.rate_bps:
                    self._outbox.allot(message.rate_bps)
                self._engine.post(lambda state: take_commits(state, message))
            case OpenStreamRequest():
                self._opening.open(message)
            case CloseStreamNotice(stream_id=stream_id, generation=generation):
                self._opening.close(stream_id, generation)
                self._engine.post(lambda state: _close(state, stream_id, generation))
            case _:
                logger.warning(
                    "ignored a message of unexpected type %s from the coordinator",
                    type(message).__name__,
                )

    def _open(self, request: OpenStreamRequest) -> None:
        self._engine.post(lambda state: state.open(spec_of(request)))

    def _on_events(self, events: Sequence[object], seconds: float) -> None:
        self._busy_s += seconds
        for event in events:
            match event:
                case Guessed(parts=parts):
                    self._outbox.add(parts)
                case Ready(stream_id=stream_id, generation=generation):
                    self._link.send(StreamReadyNotice(stream_id, generation))
                case Failed():
                    self._link.send(failed_notice(event))
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
        if self._outbox.rate_bps:
            num_bits = _OVERHEAD_BITS + 8 * sum(map(len, self._link.packed(notice)))
            self._outbox.sent(num_bits, now)
        self._link.send(notice)
        self._send_guesses()

    def _link_is_free(self) -> None:
        self._waiting = None
        self._send_guesses()

    def _forget_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def guess_notice(parts: Sequence[Guesses], busy_s: float = 0.0) -> GuessNotice:
    chain_parts = tuple(
        ChainPart(
            part.stream_id,
            part.follow,
            part.chain,
            part.start,
            bytes(round(CHANCE_STEPS * chance) for chance in part.chances),
        )
        for part in parts
    )
    token_ids = tuple(t for part in parts for t in part.token_ids)
    return GuessNotice(chain_parts, token_ids, round(1e6 * busy_s))


def take_commits(state: DraftState, notice: CommitNotice) -> Sequence[object]:
    """Give the committed tokens of a notice to the state."""
    events: list[object] = []
    offset = 0
    for entry in notice.entries:
        new = notice.new_token_ids[offset : offset + entry.num_tokens]
        offset += entry.num_tokens
        events += state.committed(StreamId(entry.stream_id), entry.follow, entry.prefix_len, new)
    return events


def _close(state: DraftState, stream_id: int, generation: int) -> Sequence[object]:
    state.close(StreamId(stream_id), generation)
    return ()


def _forget_all(state: DraftState) -> Sequence[object]:
    state.forget_all()
    return ()
