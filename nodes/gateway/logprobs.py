"""Writes log-probabilities in the two shapes of OpenAI's APIs."""

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
    """Writes the shape of completions, which is parallel lists, and counts the text's length."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_chars = 0

    def skip(self, tokens: Iterable[ScoredToken]) -> None:
        """Count tokens that the reader of a resumed stream already has."""
        for token in tokens:
            self._num_chars += len(self._decoder.decode(token.scores.chosen.piece))

    def of(self, tokens: Iterable[ScoredToken]) -> dict[str, Any]:
        """Write the next tokens. text_offset: the number of characters before each token."""
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
    """Text of a token -> log-probability; the chosen token is always included."""
    found: dict[str, float] = {}
    for score in (*token.scores.top, token.scores.chosen):
        # If two tokens have the same text, the likelier one is kept.
        text = _token_text(score.piece)
        found[text] = max(score.logprob, found.get(text, score.logprob))
    return found


def _token_text(piece: bytes) -> str:
    """The text of a token; bytes that are not UTF-8 become, for example, `bytes:\\xe2\\x82`."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
