"""Record texts of a target, and the guesses of drafts at each of their positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bench.emulate.recording import RecordedGuesses, RecordedModel, RecordedText, Recording
from nodes.engine.protocol import Model, Span, Tokenizer
from nodes.engine.sampling import Sampling, probability, sample

_GREEDY = Sampling()
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class PromptToRecord:
    """A prompt. kind: chat, copy, code or another label. chat: use the chat template."""

    kind: str
    text: str
    chat: bool


def record_texts(
    target: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[PromptToRecord],
    max_tokens: int,
    progress: Callable[[str, int, int], None],
) -> list[RecordedText]:
    """Return the target's greedy answers, in its own token ids, without guesses."""
    texts = []
    for done, prompt in enumerate(prompts):
        is_chat, text = prompt.chat, prompt.text
        token_ids = tokenizer.encode_chat([("user", text)]) if is_chat else tokenizer.encode(text)
        prompt_ids = tuple(token_ids)
        output_ids = greedy_output(target, prompt_ids, max_tokens)
        texts.append(
            RecordedText(prompt.kind, prompt.text, prompt.chat, prompt_ids, output_ids, ())
        )
        progress("texts of the target", done + 1, len(prompts))
    return texts


def greedy_output(target: Model, prompt_ids: Sequence[int], max_tokens: int) -> tuple[int, ...]:
    """Decode one sequence alone, one token per pass, up to the first token that ends the text."""
    _prefill(target, prompt_ids)
    output_ids: list[int] = []
    last = prompt_ids[-1]
    while len(output_ids) < max_tokens:
        start = len(prompt_ids) - 1 + len(output_ids)
        row = target.forward([Span(0, start, (last,), 1)])[0]
        last = sample(row, _GREEDY, start + 1)
        output_ids.append(last)
        if last in target.info.eog_token_ids:
            break
    target.truncate(0, 0)
    return tuple(output_ids)


def add_guesses(
    draft: Model, texts: Sequence[RecordedText], progress: Callable[[str, int, int], None]
) -> list[RecordedText]:
    """Return the texts with one more draft's guesses at each position, given the true prefix."""
    result = []
    for done, text in enumerate(texts):
        result.append(replace(text, guesses=(*text.guesses, _guesses(draft, text))))
        progress("texts of a draft", done + 1, len(texts))
    return result


def _guesses(draft: Model, text: RecordedText) -> RecordedGuesses:
    _prefill(draft, text.prompt_ids)
    inputs = [text.prompt_ids[-1], *text.output_ids[:-1]]
    token_ids: list[int] = []
    probabilities: list[float] = []
    for at in range(0, len(inputs), _CHUNK):
        piece = inputs[at : at + _CHUNK]
        start = len(text.prompt_ids) - 1 + at
        for place, row in enumerate(draft.forward([Span(0, start, piece, len(piece))])):
            token_ids.append(sample(row, _GREEDY, start + place + 1))
            probabilities.append(probability(row, token_ids[-1]))
    draft.truncate(0, 0)
    return RecordedGuesses(tuple(token_ids), tuple(probabilities))


def _prefill(model: Model, prompt_ids: Sequence[int]) -> None:
    """Read all of a prompt but its last token into sequence 0."""
    for start in range(0, len(prompt_ids) - 1, _CHUNK):
        model.forward([Span(0, start, prompt_ids[:-1][start : start + _CHUNK])])


def dense_recording(
    target: RecordedModel,
    drafts: Sequence[RecordedModel],
    texts: Sequence[RecordedText],
    tokenizer: Tokenizer,
    eog_ids: frozenset[int],
) -> Recording:
    """Return a recording with token ids renumbered to those that occur, most frequent first."""
    counts = Counter(token_id for text in texts for ids in _columns(text) for token_id in ids)
    # A replay needs a token to end texts that were cut, even if no recorded text ends by itself.
    if not any(token_id in eog_ids for token_id in counts):
        counts[min(eog_ids)] = 0
    ordered = [token_id for token_id, _ in sorted(counts.items(), key=lambda c: (-c[1], c[0]))]
    places = {token_id: place for place, token_id in enumerate(ordered)}

    def mapped(ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(places[token_id] for token_id in ids)

    dense = [
        replace(
            text,
            prompt_ids=mapped(text.prompt_ids),
            output_ids=mapped(text.output_ids),
            guesses=tuple(
                RecordedGuesses(mapped(guesses.token_ids), guesses.probabilities)
                for guesses in text.guesses
            ),
        )
        for text in texts
    ]
    return Recording(
        target=target,
        drafts=tuple(drafts),
        pieces=tuple(tokenizer.piece(token_id) for token_id in ordered),
        eog_ids=tuple(places[token_id] for token_id in ordered if token_id in eog_ids),
        texts=tuple(dense),
    )


def _columns(text: RecordedText) -> list[tuple[int, ...]]:
    return [text.prompt_ids, text.output_ids, *(guesses.token_ids for guesses in text.guesses)]
