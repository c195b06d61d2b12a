"""A target that computes embeddings of texts. It has no streams."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from typing import Any, Final

from mesh.messages import Welcome
from mesh.transport import ClientTransport
from nodes.engine.embedding import EmbeddingModel
from nodes.engine.protocol import InvalidInputError
from nodes.messages import (
    EMBEDDING,
    LinkFields,
    ProbeReply,
    ProbeRequest,
    TokenizeReply,
    TokenizeRequest,
)
from nodes.target.text_reader import TextReader, tokenize
from nodes.worker.link import STOPS, Link
from nodes.worker.profile import encode_profile
from policies.latency import CostTable, NodeCosts

logger = logging.getLogger(__name__)

_PROBE_TOKENS: Final = 16


class EmbeddingNode:
    """Serves one embedding model to one coordinator."""

    def __init__(
        self,
        transport: ClientTransport,
        model: EmbeddingModel,
        *,
        endpoint: str,
        node: str,
        join_timeout_s: float | None = 10.0,
        declared: LinkFields | None = None,
    ) -> None:
        """declared: properties of the link that the settings state."""
        self._model = model
        longest_s = model.pass_s()
        table = CostTable((1, model.max_tokens), (longest_s / model.max_tokens, longest_s))
        self._make_link: Callable[[], Link] = lambda: Link(
            transport,
            self,
            endpoint=endpoint,
            node=node,
            role="target",
            profile=encode_profile(model.info, NodeCosts(table, table), link=declared),
            progress=lambda: self._texts.num_read,
            join_timeout_s=join_timeout_s,
        )

    async def run(self) -> None:
        """Serve until cancelled; raises what the link raises."""
        self._texts = TextReader(self._read, lambda reply: self._link.send(reply))
        self._link = self._make_link()
        try:
            async with asyncio.TaskGroup() as group:
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
        """Whether no text takes longer than limit_s. Only valid once run() has begun."""
        return not self._texts.is_stuck(limit_s)

    def on_joined(self, welcome: Welcome) -> None:
        logger.info("joined cluster %s as %s", welcome.cluster, welcome.node)
        self._texts.forget_all()

    def on_message(self, message: Any) -> None:
        match message:
            case TokenizeRequest():
                self._texts.ask(message)
            case ProbeRequest(seed=seed):
                # Embeddings are not promised to be bit-identical, so no node compares this digest.
                drawn = seed.to_bytes(8, "little")
                self._link.send(ProbeReply(seed, hashlib.sha256(drawn).hexdigest()))
            case _:
                logger.warning(
                    "ignored a message of unexpected type %s from the coordinator",
                    type(message).__name__,
                )

    def _read(self, request: TokenizeRequest) -> TokenizeReply:
        """Tokenize a text and compute its embedding if wanted; TextReader calls it in a thread."""
        if request.wants != EMBEDDING:
            return tokenize(self._model.tokenizer, request)
        reply = TokenizeReply(request.request_id, "", request.token_ids)
        if not request.token_ids:
            reply = tokenize(self._model.tokenizer, request)
        if reply.error:
            return reply
        try:
            vector = self._model.embed(list(reply.prompt_token_ids))
        except InvalidInputError as error:
            return TokenizeReply(request.request_id, str(error), ())
        content = vector.astype("<f4").tobytes()
        return TokenizeReply(request.request_id, "", reply.prompt_token_ids, b"", content)
