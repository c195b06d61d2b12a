"""Opens streams on an engine; a stream with a grammar waits until the grammar is compiled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from airdraft.nodes.engine.grammar import GrammarError, Grammars
from airdraft.nodes.messages import OpenStreamRequest, StreamFailedNotice
from airdraft.nodes.worker.stream import StreamId, failed_by, tenant_of
from airdraft.nodes.worker.threads import run_to_end


class GrammarQueue:
    """Compiles one grammar at a time in a thread of its own, so that passes go on meanwhile.

    grammars: None for an engine without grammars. open_stream: gives a stream to the engine.
    refuse: reports to the coordinator that a stream cannot be opened because of its grammar.
    """

    def __init__(
        self,
        grammars: Grammars | None,
        open_stream: Callable[[OpenStreamRequest], None],
        refuse: Callable[[StreamFailedNotice], object],
    ) -> None:
        self._grammars = grammars
        self._open = open_stream
        self._refuse = refuse
        # By stream, in the order in which they came. A closed stream is removed.
        self._waiting: dict[int, OpenStreamRequest] = {}
        # By tenant: how many grammars had been compiled when it came, or after its last one.
        self._turns: dict[str, int] = {}
        self._is_asked = asyncio.Event()
        self.num_compiled = 0

    async def run(self) -> None:
        """Serve until cancelled; on cancellation the current grammar is finished first."""
        while True:
            await self._is_asked.wait()
            self._is_asked.clear()
            while self._waiting:
                # Tenants take turns, so that none waits for more than one grammar of another.
                waiting = self._waiting.values()
                request = min(waiting, key=lambda each: self._turns[tenant_of(each.owner)])
                await self._compile(request)
                self._turns[tenant_of(request.owner)] = self.num_compiled
            self._turns.clear()

    async def _compile(self, request: OpenStreamRequest) -> None:
        assert self._grammars is not None
        grammar = request.sampling.rules.grammar
        failure = None
        try:
            await run_to_end(self._grammars.compile, grammar)
        except GrammarError as error:
            # The engine's thread must not try it again: a failure of this machine may take a minute
            # each time, and the passes of all streams would wait for it.
            failure = error
        except RuntimeError:
            # There is no thread for the grammar. The engine's thread compiles it, and the node goes
            # on.
            pass
        self.num_compiled += 1
        # Meanwhile it may have been closed or replaced, or its text may have grown.
        waiting = self._waiting.get(request.stream_id)
        if waiting is not None and waiting.sampling.rules.grammar == grammar:
            del self._waiting[request.stream_id]
            if failure is None:
                self._open(waiting)
            else:
                stream_id = StreamId(waiting.stream_id)
                self._refuse(failed_by(stream_id, waiting.generation, failure))

    def open(self, request: OpenStreamRequest) -> None:
        grammar = request.sampling.rules.grammar
        if not grammar.kind or self._grammars is None or self._grammars.knows(grammar):
            self._open(request)
            return
        # A later generation replaces one that is waiting.
        self._waiting.pop(request.stream_id, None)
        self._waiting[request.stream_id] = request
        self._turns.setdefault(tenant_of(request.owner), self.num_compiled)
        self._is_asked.set()

    def add(
        self, stream_id: int, generation: int, prefix_len: int, token_ids: tuple[int, ...]
    ) -> None:
        """Append tokens, committed after prefix_len others, to the text of a waiting stream.

        The engine does not know the stream yet, and would have a gap in its text later.
        """
        waiting = self._waiting.get(stream_id)
        if waiting is not None and waiting.generation == generation:
            known = waiting.token_ids
            if prefix_len <= len(known):
                new = token_ids[len(known) - prefix_len :]
                self._waiting[stream_id] = replace(waiting, token_ids=known + new)

    def close(self, stream_id: int, generation: int) -> None:
        """Remove a waiting stream. The caller also closes it on the engine."""
        waiting = self._waiting.get(stream_id)
        if waiting is not None and waiting.generation == generation:
            del self._waiting[stream_id]

    def forget_all(self) -> None:
        self._waiting.clear()
