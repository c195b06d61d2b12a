"""Nodes without models: real processes on real sockets that look tokens up in a table.

    python -m bench.live.light_nodes ENDPOINT KEYS target|draft NAME PASS_MS MOST_STREAMS

As law 1 requires, a token depends only on the stream's prompt, seed, choice and position. It costs
one index into a table, so messages are most of the work and the coordinator is the limit. A pass
takes PASS_MS. The links have no keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from airdraft.mesh.messages import Welcome
from airdraft.mesh.transport import ClientTransport
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.engine.protocol import EngineInfo
from airdraft.nodes.messages import (
    CHANCE_STEPS,
    ChainPart,
    CloseStreamNotice,
    CommitEntry,
    CommitNotice,
    CommitReply,
    GuessNotice,
    LeaseRequest,
    OpenStreamRequest,
    ProbeReply,
    ProbeRequest,
    StreamReadyNotice,
    with_tokens,
)
from airdraft.nodes.target.guess_buffer import GuessBuffer, GuessFates
from airdraft.nodes.worker.connection import Connection, LostCoordinatorError
from airdraft.nodes.worker.profile import encode_profile
from airdraft.policies.latency import CostTable, NodeCosts

_NUM_VOCAB, _SIZE = 1000, 4096
_MASK = _SIZE - 1
_WRONG_IN = 10
# Guesses that a draft node keeps ahead of a stream.
_AHEAD = 6
_CHANCE = bytes([CHANCE_STEPS * (_WRONG_IN - 1) // _WRONG_IN])
_STREAMS, _CONTEXT = 256, 1 << 20
_LEAST_PASS_S = 1e-4
_JOIN_LIMIT_S = 120.0
_random = Random(1)
_TOKENS = array("H", (_random.randrange(_NUM_VOCAB) for _ in range(_SIZE)))
# Places at which a draft node's guess is wrong.
_IS_WRONG = bytes(_random.randrange(_WRONG_IN) == 0 for _ in range(_SIZE))


def key_of(prompt: Sequence[int], seed: int, choice: int) -> int:
    """Returns the place in the table at which a text begins."""
    return zlib.crc32(array("q", (*prompt, seed, choice)).tobytes()) & _MASK


def token_at(key: int, position: int) -> int:
    """Returns the token of a text at a position, which counts the prompt."""
    return _TOKENS[(key + position) & _MASK]


def guess_at(key: int, position: int) -> int:
    """Returns a draft node's guess of the token at a position, wrong in one of _WRONG_IN places."""
    place = (key + position) & _MASK
    return (_TOKENS[place] + _IS_WRONG[(place + key) & _MASK]) % _NUM_VOCAB


def _key_of(request: OpenStreamRequest) -> int:
    prompt = request.token_ids[: request.num_prompt_tokens]
    return key_of(prompt, request.sampling.seed, request.sampling.choice)


@dataclass(slots=True)
class _Text:
    """A target's stream. token_ids: prompt and committed tokens. most_guesses: most of a pass."""

    key: int
    generation: int
    token_ids: list[int]
    end: int
    most_guesses: int
    lease: int = 0
    buffer: GuessBuffer = field(default_factory=GuessBuffer)


@dataclass(slots=True)
class LightTarget:
    """State of a target: it takes messages, and each pass commits tokens of all leased streams."""

    _texts: dict[int, _Text] = field(default_factory=dict)

    def hear(self, message: Any) -> list[Any]:
        """Take a message and return the immediate replies."""
        match message:
            case ProbeRequest(seed=seed):
                return [ProbeReply(seed, f"{seed:x}")]
            case OpenStreamRequest(stream_id=stream_id, generation=generation):
                length, end = len(message.token_ids), message.num_prompt_tokens + message.max_tokens
                most = message.num_guesses if message.num_guesses >= 0 else _AHEAD
                text = _Text(_key_of(message), generation, list(message.token_ids), end, most)
                text.lease = min(end, length + message.num_leased)
                self._texts[stream_id] = text
                return [StreamReadyNotice(stream_id, generation, length, has_begun=True)]
            case CloseStreamNotice(stream_id=stream_id):
                self._texts.pop(stream_id, None)
            case GuessNotice():
                for part, guesses in with_tokens(message.parts, message.token_ids):
                    if (found := self._texts.get(part.stream_id)) is not None:
                        found.buffer.take(part, guesses, found.token_ids)
            case LeaseRequest():
                for lease in message.entries:
                    if (leased := self._texts.get(lease.stream_id)) is not None:
                        leased.lease = max(leased.lease, lease.prefix_len + lease.num_tokens)
        return []

    @property
    def has_work(self) -> bool:
        return any(text.lease > len(text.token_ids) for text in self._texts.values())

    def run_pass(self, pass_s: float) -> CommitReply:
        entries: list[CommitEntry] = []
        token_ids: list[int] = []
        for stream_id, text in list(self._texts.items()):
            if text.lease > len(text.token_ids):
                self._commit(stream_id, text, entries, token_ids)
        return CommitReply(pass_s, tuple(entries), tuple(token_ids))

    def _commit(
        self, stream_id: int, text: _Text, entries: list[CommitEntry], token_ids: list[int]
    ) -> None:
        prefix_len, num_accepted = len(text.token_ids), 0
        guesses = text.buffer.after(prefix_len)[0][: text.most_guesses]
        for guess in guesses:
            if guess != token_at(text.key, prefix_len + num_accepted):
                break
            num_accepted += 1
        num_tokens = min(num_accepted + 1, text.end - prefix_len)
        num_accepted = min(num_accepted, num_tokens)
        made = [token_at(text.key, prefix_len + k) for k in range(num_tokens)]
        text.token_ids += made
        text.buffer.compare(text.token_ids)
        fates, text.buffer.fates = text.buffer.fates, GuessFates()
        reason = "length" if len(text.token_ids) == text.end else ""
        if reason:
            del self._texts[stream_id]
        token_ids += made
        entries.append(
            CommitEntry(
                stream_id,
                text.generation,
                prefix_len,
                num_tokens,
                len(guesses),
                num_accepted,
                reason,
                b" a" * num_tokens,
                num_compared=fates.num_compared,
                num_right=fates.num_right,
                num_other=fates.num_other,
                num_late=fates.num_late,
                num_offered=len(guesses),
            )
        )


@dataclass(slots=True)
class _Followed:
    """A draft node's stream. length: committed tokens. end: position after the chain's guesses."""

    key: int
    number: int
    length: int
    end: int
    chain: int = 1


@dataclass(slots=True)
class LightDraft:
    """State of a draft node: each pass makes one more guess for every stream that needs some."""

    _streams: dict[int, _Followed] = field(default_factory=dict)

    def hear(self, message: Any) -> list[Any]:
        match message:
            case OpenStreamRequest(stream_id=stream_id, generation=generation):
                length = len(message.token_ids)
                followed = _Followed(_key_of(message), generation, length, length)
                self._streams[stream_id] = followed
                return [StreamReadyNotice(stream_id, generation, length)]
            case CloseStreamNotice(stream_id=stream_id):
                self._streams.pop(stream_id, None)
            case CommitNotice(entries=entries):
                for entry in entries:
                    if (stream := self._streams.get(entry.stream_id)) is not None:
                        self._advance(stream, entry.prefix_len + entry.num_tokens)
        return []

    def _advance(self, stream: _Followed, length: int) -> None:
        key, known = stream.key, range(stream.length, min(stream.end, length))
        is_right = all(guess_at(key, k) == token_at(key, k) for k in known)
        stream.length = length
        if not is_right or stream.end < length:
            stream.end = length
            stream.chain += 1

    @property
    def has_work(self) -> bool:
        return any(stream.end < stream.length + _AHEAD for stream in self._streams.values())

    def run_pass(self, pass_s: float) -> GuessNotice:
        parts, token_ids = [], []
        for stream_id, stream in self._streams.items():
            if stream.end < stream.length + _AHEAD:
                place = stream_id, stream.number, stream.chain, stream.end
                parts.append(ChainPart(*place, _CHANCE))
                token_ids.append(guess_at(stream.key, stream.end))
                stream.end += 1
        return GuessNotice(tuple(parts), tuple(token_ids), round(pass_s * 1e6))


class LightNode:
    """The process of a node: it receives messages and runs passes one after the other."""

    def __init__(
        self,
        transport: ClientTransport,
        endpoint: str,
        role: str,
        name: str,
        pass_s: float,
        most: int,
    ) -> None:
        """most: most streams."""
        self._node = LightTarget() if role == "target" else LightDraft()
        self._has_work = asyncio.Event()
        self._pass_s = pass_s
        self._link = Connection(
            transport,
            self,
            endpoint=endpoint,
            node=name,
            role=role,
            profile=_profile(role, pass_s, most),
            join_timeout_s=_JOIN_LIMIT_S,
            rejoins=False,
        )

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._link.run())
            group.create_task(self._work())

    def on_joined(self, _welcome: Welcome) -> None:
        pass

    def on_message(self, message: Any) -> None:
        for answer in self._node.hear(message):
            self._link.send(answer)
        if self._node.has_work:
            self._has_work.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._has_work.wait()
            began = loop.time()
            await asyncio.sleep(self._pass_s)
            self._link.send(self._node.run_pass(loop.time() - began))
            if not self._node.has_work:
                self._has_work.clear()


def _profile(role: str, pass_s: float, most: int) -> bytes:
    """Returns the encoded profile of a node of `most` streams, with equal costs for all passes."""
    seconds = max(_LEAST_PASS_S, pass_s)
    info = EngineInfo(
        engine="light",
        model=f"light-{role}",
        model_hash=f"light-{role}",
        vocab_hash="light",
        num_vocab=_NUM_VOCAB,
        num_cells=_STREAMS * _CONTEXT // 64,
        max_sequences=most,
        max_batch_tokens=1 << 12,
        context_length=_CONTEXT,
        eog_token_ids=frozenset(),
        exact=True,
        numerics_class="light",
        can_cut=True,
        can_take_back=True,
        emulated=True,
    )
    costs = NodeCosts(CostTable((1, 2048), (seconds, seconds)), CostTable((32,), (1e-4,)))
    return encode_profile(info, costs)


async def run(endpoint: str, _keys: str, role: str, name: str, pass_ms: str, most: str) -> None:
    with ZmqContext() as context:
        transport = context.connect(endpoint)
        node = LightNode(transport, endpoint, role, name, float(pass_ms) / 1e3, int(most))
        await node.run()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, LostCoordinatorError):
        asyncio.run(run(*sys.argv[1:]))
