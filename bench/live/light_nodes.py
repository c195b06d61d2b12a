"""Nodes that think nothing: real processes on real sockets whose tokens are looked up.

    python -m bench.live.light_nodes target|draft ENDPOINT NAME PASS_MS MOST_STREAMS

A token is a function of a stream's prompt, seed, choice and the position alone, as law 1 wants, and
costs an index into a table. What is left of a round is messages, so it is the coordinator's limit
that shows. A pass of the target, and a draft node's answer, take PASS_MS.
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

from mesh.messages import Welcome
from mesh.transport import ClientTransport
from mesh.zmq_transport import ZmqContext
from nodes.engine.protocol import EngineInfo
from nodes.link import Link, LostCoordinatorError
from nodes.messages import (
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    DraftReply,
    DraftRequest,
    GuessEntry,
    LeaseRequest,
    OpenStreamRequest,
    ProbeReply,
    ProbeRequest,
    StreamReadyNotice,
    VerifyRequest,
)
from nodes.profile import encode_profile
from policies.latency import CostTable, NodeCosts

_NUM_VOCAB, _SIZE = 1000, 4096
_MASK = _SIZE - 1
_WRONG_IN = 10
_STREAMS, _CONTEXT = 256, 1 << 20
_LEAST_PASS_S = 1e-4
_JOIN_LIMIT_S = 120.0
_random = Random(1)
_TOKENS = array("H", (_random.randrange(_NUM_VOCAB) for _ in range(_SIZE)))
# A draft is wrong where this is.
_IS_WRONG = bytes(_random.randrange(_WRONG_IN) == 0 for _ in range(_SIZE))


def key_of(prompt: Sequence[int], seed: int, choice: int) -> int:
    """Where in the table a text begins."""
    return zlib.crc32(array("q", (*prompt, seed, choice)).tobytes()) & _MASK


def token_at(key: int, position: int) -> int:
    """position: prompt included."""
    return _TOKENS[(key + position) & _MASK]


def guess_at(key: int, position: int) -> int:
    place = (key + position) & _MASK
    return (_TOKENS[place] + _IS_WRONG[(place + key) & _MASK]) % _NUM_VOCAB


def _key_of(request: OpenStreamRequest) -> int:
    prompt = request.token_ids[: request.num_prompt_tokens]
    return key_of(prompt, request.sampling.seed, request.sampling.choice)


@dataclass(slots=True)
class _Text:
    key: int
    generation: int
    length: int
    end: int
    lease: int = 0


@dataclass(slots=True)
class LightTarget:
    """What a target does with messages; run_pass() answers what has come since the last one."""

    _texts: dict[int, _Text] = field(default_factory=dict)
    _verifies: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)

    def hear(self, message: Any) -> list[Any]:
        """Returns what is answered at once."""
        match message:
            case ProbeRequest(seed=seed):
                return [ProbeReply(seed, f"{seed:x}")]
            case OpenStreamRequest(stream_id=stream_id, generation=generation):
                length, end = len(message.token_ids), message.num_prompt_tokens + message.max_tokens
                self._texts[stream_id] = _Text(_key_of(message), generation, length, end)
                return [StreamReadyNotice(stream_id, generation, length)]
            case CloseStreamNotice(stream_id=stream_id):
                self._texts.pop(stream_id, None)
            case VerifyRequest():
                offset = 0
                for entry in message.entries:
                    end = offset + entry.num_draft_tokens
                    guesses = message.draft_token_ids[offset:end]
                    self._verifies.append((entry.stream_id, entry.prefix_len, guesses))
                    offset = end
            case LeaseRequest():
                for lease in message.entries:
                    if (text := self._texts.get(lease.stream_id)) is not None:
                        text.lease = max(text.lease, lease.prefix_len + lease.num_tokens)
        return []

    @property
    def has_work(self) -> bool:
        return bool(self._verifies) or any(t.lease > t.length for t in self._texts.values())

    def run_pass(self, pass_s: float) -> CommitReply:
        entries: list[CommitEntry] = []
        token_ids: list[int] = []
        waiting, self._verifies = self._verifies, []
        for stream_id, prefix_len, guesses in waiting:
            text = self._texts.get(stream_id)
            if text is not None and text.length == prefix_len:
                self._commit(stream_id, text, guesses, entries, token_ids)
        verified = {stream_id for stream_id, _, _ in waiting}
        for stream_id, text in list(self._texts.items()):
            if text.lease > text.length and stream_id not in verified:
                self._commit(stream_id, text, (), entries, token_ids)
        return CommitReply(pass_s, tuple(entries), tuple(token_ids))

    def _commit(
        self,
        stream_id: int,
        text: _Text,
        guesses: tuple[int, ...],
        entries: list[CommitEntry],
        token_ids: list[int],
    ) -> None:
        prefix_len, num_accepted = text.length, 0
        for guess in guesses:
            if guess != token_at(text.key, prefix_len + num_accepted):
                break
            num_accepted += 1
        num_tokens = min(num_accepted + 1, text.end - prefix_len)
        num_accepted = min(num_accepted, num_tokens)
        made = [token_at(text.key, prefix_len + k) for k in range(num_tokens)]
        text.length += num_tokens
        reason = "length" if text.length == text.end else ""
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
            )
        )


@dataclass(slots=True)
class LightDraft:
    """What a draft node does with messages."""

    _keys: dict[int, int] = field(default_factory=dict)
    _asked: list[DraftRequest] = field(default_factory=list)

    def hear(self, message: Any) -> list[Any]:
        match message:
            case OpenStreamRequest(stream_id=stream_id, generation=generation):
                self._keys[stream_id] = _key_of(message)
                return [StreamReadyNotice(stream_id, generation, len(message.token_ids))]
            case CloseStreamNotice(stream_id=stream_id):
                self._keys.pop(stream_id, None)
            case DraftRequest():
                self._asked.append(message)
        return []

    @property
    def has_work(self) -> bool:
        return bool(self._asked)

    def run_pass(self, pass_s: float) -> DraftReply:
        asked = self._asked.pop(0)
        entries, token_ids = [], []
        for entry in asked.entries:
            key, length = self._keys.get(entry.stream_id), entry.prefix_len + entry.num_new_tokens
            if key is not None:
                token_ids += [guess_at(key, length + k) for k in range(entry.gamma)]
                entries.append(GuessEntry(entry.stream_id, entry.generation, length, entry.gamma))
        made_us = round(pass_s * 1e6)
        return DraftReply(asked.round, tuple(entries), tuple(token_ids), draft_us=made_us)


class LightNode:
    """A node's process: messages in, passes one after the other."""

    def __init__(
        self,
        role: str,
        transport: ClientTransport,
        endpoint: str,
        name: str,
        pass_s: float,
        num_streams: int,
    ) -> None:
        self._node = LightTarget() if role == "target" else LightDraft()
        self._has_work = asyncio.Event()
        self._pass_s = pass_s
        self._link = Link(
            transport,
            self,
            endpoint=endpoint,
            node=name,
            role=role,
            profile=light_profile(role, pass_s, num_streams=num_streams),
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


def light_profile(
    role: str, pass_s: float, family: str = "light", num_streams: int = _STREAMS
) -> bytes:
    """What such a node says of itself; its passes take the same whatever is in them.

    family: of models; only nodes of one have to do with one another. num_streams: it takes at most.
    """
    seconds = max(_LEAST_PASS_S, pass_s)
    info = EngineInfo(
        engine="light",
        model=f"{family}-{role}",
        model_hash=f"{family}-{role}",
        vocab_hash=family,
        num_vocab=_NUM_VOCAB,
        num_cells=_STREAMS * _CONTEXT // 64,
        max_sequences=num_streams,
        max_batch_tokens=1 << 12,
        context_length=_CONTEXT,
        eog_token_ids=frozenset(),
        exact=True,
        numerics_class=family,
        can_roll_back=True,
        emulated=True,
    )
    # A draft node answers in one pass, however many guesses.
    decode_s = seconds if role == "target" else seconds / 4
    costs = NodeCosts(CostTable((1, 2048), (decode_s, decode_s)), CostTable((32,), (1e-4,)))
    return encode_profile(info, costs)


async def run(role: str, endpoint: str, name: str, pass_s: float, num_streams: int) -> None:
    with ZmqContext() as context:
        node = LightNode(role, context.connect(endpoint), endpoint, name, pass_s, num_streams)
        await node.run()


def main() -> None:
    role, endpoint, name, pass_ms, num_streams = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt, LostCoordinatorError):
        asyncio.run(run(role, endpoint, name, float(pass_ms) / 1e3, int(num_streams)))


if __name__ == "__main__":
    main()
