"""The draft node: messages to commands of its engine thread, guesses back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from mesh.messages import Welcome
from mesh.pacing import Pacer
from mesh.transport import ClientTransport
from nodes.draft.state import ModelDrafter
from nodes.draft.stream import Drafted, Event, Job
from nodes.engine.protocol import EngineInfo
from nodes.engine_thread import EngineThread
from nodes.link import STOPS, Link
from nodes.messages import (
    CloseStreamNotice,
    DraftReply,
    DraftRequest,
    GuessEntry,
    LinkFields,
    OpenStreamRequest,
    StreamReadyNotice,
)
from nodes.opening import Opening
from nodes.profile import encode_profile
from nodes.stream import StreamId
from nodes.target.events import Failed, Ready
from nodes.target.node import failed_notice, spec_of
from policies.confidence import Spread
from policies.latency import NodeCosts

logger = logging.getLogger(__name__)

_MOST_US = 2**31 - 1
_HELD_LIMIT_S = 0.5


class DraftNode:
    """Serves one drafter to one coordinator."""

    def __init__(
        self,
        transport: ClientTransport,
        drafter: ModelDrafter,
        info: EngineInfo,
        costs: NodeCosts,
        *,
        endpoint: str,
        node: str,
        spread: Spread | None = None,
        join_timeout_s: float | None = 10.0,
        declared: LinkFields | None = None,
    ) -> None:
        """declared: what is known of the link beforehand."""
        self._drafter = drafter
        self._make_link: Callable[[], Link] = lambda: Link(
            transport,
            self,
            endpoint=endpoint,
            node=node,
            role="draft",
            profile=encode_profile(info, costs, spread, declared),
            progress=lambda: self._engine.num_passes,
            join_timeout_s=join_timeout_s,
        )

        # Before when the answers of rounds must not go out: others have their turns.
        self._held_until: dict[int, float] = {}
        # What they keep to on a medium that is shared all the time.
        self._rates_bps: dict[int, int] = {}
        self._pacer = Pacer()
        self._held: set[asyncio.TimerHandle] = set()

    async def run(self) -> None:
        """Serve until cancelled; raises what the link or the engine raises.

        Then the rounds in hand are answered: their streams need not take a plain step.
        """
        self._engine: EngineThread[ModelDrafter] = EngineThread(
            self._drafter, self._on_events, must_finish=lambda drafter: drafter.has_rounds
        )
        self._opening = Opening(self._drafter.grammars, self._open)
        self._link = self._make_link()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._engine.run())
                group.create_task(self._opening.run())
                group.create_task(self._link.run())
        except asyncio.CancelledError:
            await self._held_sent()
            self._link.say_bye(STOPS)
            raise

    async def _held_sent(self) -> None:
        """Wait for answers whose turn is to come."""
        now = asyncio.get_running_loop().time()
        turns = [held.when() - now for held in self._held if not held.cancelled()]
        await asyncio.sleep(min(_HELD_LIMIT_S, max(turns, default=0.0)))

    @property
    def is_joined(self) -> bool:
        """Whether the coordinator knows this node at present; once run() has begun."""
        return self._link.is_joined

    def is_well(self, limit_s: float) -> bool:
        """Whether the engine has not been at one thing for longer than this; likewise."""
        return not self._engine.is_stuck(limit_s)

    def on_joined(self, welcome: Welcome) -> None:
        logger.info("joined cluster %s as %s", welcome.cluster, welcome.node)
        self._held_until.clear()
        self._opening.forget_all()
        self._rates_bps.clear()
        # Answers that are held back still are nobody's now.
        for held in self._held:
            held.cancel()
        self._held.clear()
        self._engine.post_anew(_forget_all)

    def on_message(self, message: Any) -> None:
        match message:
            case DraftRequest():
                now = asyncio.get_running_loop().time()
                # What nobody answered any more is forgotten.
                self._held_until = {r: t for r, t in self._held_until.items() if t > now}
                if message.hold_us:
                    self._held_until[message.round] = now + message.hold_us * 1e-6
                if message.rate_bps:
                    self._rates_bps[message.round] = message.rate_bps
                self._engine.post(lambda drafter: _draft(drafter, message, now))
            case OpenStreamRequest():
                self._opening.open(message)
            case CloseStreamNotice(stream_id=stream_id, generation=generation):
                self._opening.close(stream_id, generation)
                self._engine.post(lambda drafter: _close(drafter, stream_id, generation))
            case _:
                logger.warning("unexpected %s", type(message).__name__)

    def _open(self, request: OpenStreamRequest) -> None:
        self._engine.post(lambda drafter: drafter.open(spec_of(request)))

    def _on_events(self, events: Sequence[object], _seconds: float) -> None:
        for event in events:
            match event:
                case Drafted():
                    draft_s = asyncio.get_running_loop().time() - event.asked_at
                    self._send_in_turn(draft_reply(event, draft_s))
                case Ready(stream_id=stream_id, generation=generation):
                    self._link.send(StreamReadyNotice(stream_id, generation))
                case Failed():
                    self._link.send(failed_notice(event))

    def _send_in_turn(self, reply: DraftReply) -> None:
        loop = asyncio.get_running_loop()
        until = self._held_until.pop(reply.round, 0.0)
        if rate_bps := self._rates_bps.pop(reply.round, 0):
            num_bytes = sum(map(len, self._link.packed(reply)))
            until = self._pacer.send_at(num_bytes, rate_bps, max(until, loop.time()))
        if until > loop.time():
            self._held = {held for held in self._held if held.when() > loop.time()}
            self._held.add(loop.call_at(until, self._link.send, reply))
        else:
            self._link.send(reply)


def jobs_of(request: DraftRequest) -> list[Job]:
    jobs = []
    offset = 0
    for entry in request.entries:
        new_token_ids = request.new_token_ids[offset : offset + entry.num_new_tokens]
        offset += entry.num_new_tokens
        jobs.append(
            Job(
                StreamId(entry.stream_id),
                entry.generation,
                entry.prefix_len,
                new_token_ids,
                entry.gamma,
                entry.stop_percent / 100.0,
            )
        )
    return jobs


def draft_reply(event: Drafted, draft_s: float = 0.0) -> DraftReply:
    entries = tuple(
        GuessEntry(guess.stream_id, guess.generation, guess.prefix_len, len(guess.token_ids))
        for guess in event.guesses
    )
    token_ids = tuple(token_id for guess in event.guesses for token_id in guess.token_ids)
    made_us = min(_MOST_US, round(draft_s * 1e6))
    return DraftReply(event.round, entries, token_ids, event.num_ready, event.num_wasted, made_us)


def _draft(drafter: ModelDrafter, request: DraftRequest, now: float) -> Sequence[Event]:
    return drafter.draft(request.round, jobs_of(request), ahead=request.ahead, asked_at=now)


def _close(drafter: ModelDrafter, stream_id: int, generation: int) -> Sequence[Event]:
    drafter.close(StreamId(stream_id), generation)
    return ()


def _forget_all(drafter: ModelDrafter) -> Sequence[Event]:
    drafter.forget_all()
    return ()
