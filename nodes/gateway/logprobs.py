"""Log-probabilities in the two shapes that OpenAI's APIs have for them."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any

from nodes.gateway.answers import ScoredToken
from nodes.messages import Score


def chat_logprobs(tokens: Iterable[ScoredToken]) -> dict[str, Any]:
    """The shape of chat completions: an object for each token."""
    content = []
    for token in tokens:
        entry = _chat_score(token.scores.chosen)
        entry["top_logprobs"] = [_chat_score(score) for score in token.scores.top]
        content.append(entry)
    return {"content": content, "refusal": None}


def _chat_score(score: Score) -> dict[str, Any]:
    return {
        "token": score.piece.decode("utf-8", "replace"),
        "logprob": score.logprob,
        "bytes": list(score.piece),
    }


class CompletionLogprobs:
    """The shape of completions: lists beside each other. Knows how long the text is so far."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_chars = 0

    def skip(self, tokens: Iterable[ScoredToken]) -> None:
        """Tokens of the text that an answer told which this one goes on."""
        for token in tokens:
            self._num_chars += len(self._decoder.decode(token.scores.chosen.piece))

    def of(self, tokens: Iterable[ScoredToken]) -> dict[str, Any]:
        """The next tokens of the text; text_offset: characters of it before each of them."""
        texts: list[str] = []
        logprobs: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for token in tokens:
            chosen = token.scores.chosen
            texts.append(_token_text(chosen.piece))
            offsets.append(self._num_chars)
            self._num_chars += len(self._decoder.decode(chosen.piece))
            logprobs.append(None if token.is_first else chosen.logprob)
            tops.append(None if token.is_first else _top(token))
        return {
            "tokens": texts,
            "token_logprobs": logprobs,
            "top_logprobs": tops,
            "text_offset": offsets,
        }


def _top(token: ScoredToken) -> dict[str, float]:
    """By the text of a token; the one that was chosen is always among them."""
    found: dict[str, float] = {}
    for score in (*token.scores.top, token.scores.chosen):
        # Where two tokens have one text, the likelier one stands for it.
        text = _token_text(score.piece)
        found[text] = max(score.logprob, found.get(text, score.logprob))
    return found


def _token_text(piece: bytes) -> str:
    """Bytes that are no text by themselves are written as `bytes:\\xe2\\x82`."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
