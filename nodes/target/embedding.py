"""A target that computes embeddings of texts. It has no streams."""

from __future__ import annotations

import hashlib
from typing import Any, Unpack

from airdraft.mesh.transport import ClientTransport
from airdraft.nodes.engine.embedding import EmbeddingModel
from airdraft.nodes.engine.protocol import InvalidInputError
from airdraft.nodes.messages import (
    EMBEDDING,
    LinkFields,
    OwnersNotice,
    ProbeReply,
    ProbeRequest,
    TokenizeReply,
    TokenizeRequest,
)
from airdraft.nodes.target.text_reader import TextReader, tokenize
from airdraft.nodes.worker.node import Joining, Node
from airdraft.nodes.worker.profile import encode_profile
from airdraft.policies.latency import CostTable, NodeCosts


class EmbeddingNode(Node):
    """Serves one embedding model to one coordinator."""

    def __init__(
        self,
        transport: ClientTransport,
        model: EmbeddingModel,
        *,
        declared: LinkFields | None = None,
        **joining: Unpack[Joining],
    ) -> None:
        """declared: properties of the link that the settings state."""
        self._model = model
        longest_s = model.pass_s()
        table = CostTable((1, model.max_tokens), (longest_s / model.max_tokens, longest_s))
        self._texts = TextReader(self._read, lambda reply: self._link.send(reply))
        super().__init__(
            transport,
            self._texts,
            role="target",
            profile=encode_profile(model.info, NodeCosts(table, table), link=declared),
            progress=lambda: self._texts.num_read,
            **joining,
        )

    def forget_all(self) -> None:
        self._texts.forget_all()

    def on_message(self, message: Any) -> None:
        match message:
            case TokenizeRequest():
                self._texts.ask(message)
            case ProbeRequest(seed=seed):
                # Embeddings are not promised to be bit-identical, so no node compares this digest.
                drawn = seed.to_bytes(8, "little")
                self._link.send(ProbeReply(seed, hashlib.sha256(drawn).hexdigest()))
            case OwnersNotice():
                # It keeps no texts.
                pass
            case _:
                super().on_message(message)

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
