"""Tokenizes texts in a thread, one after the other, so that no pass waits for a long text."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from airdraft.nodes.engine.protocol import InvalidInputError, Tokenizer
from airdraft.nodes.messages import (
    MAX_PROMPT_TOKENS,
    MAX_TEXT_BYTES,
    TokenizeReply,
    TokenizeRequest,
)
from airdraft.nodes.worker.threads import run_to_end

logger = logging.getLogger(__name__)

Read = Callable[[TokenizeRequest], TokenizeReply]
# The coordinator sends only a few at a time.
MAX_WAITING: Final = 64


class TextReader:
    """Answers TokenizeRequests. run() needs a task; ask() is called on the same event loop.

    read: called in a thread. num_read: texts that are finished.
    """

    def __init__(self, read: Read, answer: Callable[[TokenizeReply], object]) -> None:
        self._read = read
        self._answer = answer
        # By request id, the current one first.
        self._waiting: dict[int, TokenizeRequest] = {}
        self._is_asked = asyncio.Event()
        self._began_at: float | None = None
        self.num_read = 0

    def is_stuck(self, limit_s: float) -> bool:
        """Whether the current text has taken longer than limit_s."""
        return self._began_at is not None and time.monotonic() - self._began_at > limit_s

    def ask(self, request: TokenizeRequest) -> None:
        """Queue a text, or refuse it at once if too many wait.

        The coordinator repeats a request that takes long; the text is read only once.
        """
        if request.request_id in self._waiting:
            return
        if len(self._waiting) > MAX_WAITING:
            reason = f"{MAX_WAITING} texts already wait to be tokenized: try again later"
            self._answer(TokenizeReply(request.request_id, reason, ()))
            return
        self._waiting[request.request_id] = request
        self._is_asked.set()

    def forget_all(self) -> None:
        """Drop all requests of a membership that has ended; the next one reuses their ids."""
        self._waiting.clear()

    async def run(self) -> None:
        """Serve until cancelled; on cancellation the current text is finished first."""
        while True:
            await self._is_asked.wait()
            self._is_asked.clear()
            while self._waiting:
                request, reply = next(iter(self._waiting.values())), None
                self._began_at = time.monotonic()
                try:
                    reply = await run_to_end(self._read, request)
                except (OSError, RuntimeError) as error:
                    # For example, memory, files or threads are lacking for a template's process.
                    # The streams of this node go on, and the coordinator repeats the request.
                    logger.warning("could not tokenize a text, the request is repeated: %s", error)
                finally:
                    self._began_at = None
                    self.num_read += 1
                # Otherwise its membership has ended meanwhile.
                if self._waiting.get(request.request_id) is request:
                    del self._waiting[request.request_id]
                    if reply is not None:
                        self._answer(reply)


def tokenize(tokenizer: Tokenizer, request: TokenizeRequest) -> TokenizeReply:
    """Returns the token ids of a text or conversation, or the reason why there are none."""
    try:
        if request.token_ids:
            return _of_token_ids(tokenizer, request)
        if request.messages:
            messages = [(m.role, m.content) for m in request.messages]
            token_ids = tokenizer.encode_chat(messages, date=request.date, tools=request.tools)
        else:
            token_ids = tokenizer.encode(request.prompt)
    except InvalidInputError as error:
        return TokenizeReply(request.request_id, str(error)[:1024], ())
    if len(token_ids) > MAX_PROMPT_TOKENS:
        reason = f"the prompt has {len(token_ids)} tokens, limit {MAX_PROMPT_TOKENS}"
        return TokenizeReply(request.request_id, reason, ())
    return TokenizeReply(request.request_id, "", tuple(token_ids))


def _of_token_ids(tokenizer: Tokenizer, request: TokenizeRequest) -> TokenizeReply:
    """Returns the text of a prompt that is given as token ids. Raises InvalidInputError."""
    text = b"".join(map(tokenizer.piece, request.token_ids))
    if len(text) > MAX_TEXT_BYTES:
        raise InvalidInputError(f"the text has {len(text)} bytes, limit {MAX_TEXT_BYTES}")
    return TokenizeReply(request.request_id, "", request.token_ids, text)
