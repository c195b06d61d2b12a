"""Serves /v1/completions: turns bodies into jobs and writes answers in this API's form."""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Final

from pydantic import Discriminator, Field, Tag

from airdraft.mesh.shared_numbers import shared
from airdraft.nodes.client.generation import Prompt
from airdraft.nodes.gateway.answers import Answers, Delta
from airdraft.nodes.gateway.bodies import PLAIN, TEXTS, TOKEN_LISTS, TOKENS, Text, wrong
from airdraft.nodes.gateway.config import GatewayLimits
from airdraft.nodes.gateway.fields import Job, OpenAiBody, job_of
from airdraft.nodes.gateway.scored import ScoredToken
from airdraft.nodes.gateway.shape import Api, ChunkWriter, list_pieces
from airdraft.nodes.messages import MAX_PROMPT_TOKENS, MAX_TOP_LOGPROBS

# The default of OpenAI's API.
_DEFAULT_MAX_TOKENS: Final = 16
# Also the maximum for embeddings; a gateway's limits may be lower.
_MAX_PROMPTS: Final = 2048

_TextPrompt = Annotated[Text, Field(min_length=1)]
_TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[
    list[_TokenId], Field(min_length=1, max_length=MAX_PROMPT_TOKENS, fail_fast=True)
]


def _kind_of_prompt(value: object) -> str:
    if not isinstance(value, list):
        return PLAIN
    first = value[0] if value else ""
    if isinstance(first, str):
        return TEXTS
    return TOKEN_LISTS if isinstance(first, list) else TOKENS


Prompts = Annotated[
    Annotated[_TextPrompt, Tag(PLAIN)]
    | Annotated[
        list[_TextPrompt], Field(min_length=1, max_length=_MAX_PROMPTS, fail_fast=True), Tag(TEXTS)
    ]
    | Annotated[TokenIds, Tag(TOKENS)]
    | Annotated[list[TokenIds], Field(max_length=_MAX_PROMPTS, fail_fast=True), Tag(TOKEN_LISTS)],
    Discriminator(_kind_of_prompt),
]


class CompletionBody(OpenAiBody):
    """prompt: a text, token ids, or a list of either."""

    refused: ClassVar = {**OpenAiBody.refused, "best_of": (1,), "suffix": ("",)}

    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None


def _job(body: CompletionBody, limits: GatewayLimits) -> Job:
    if body.max_tokens is not None and body.max_tokens > limits.max_tokens:
        raise wrong("max_tokens", f"at most {limits.max_tokens} are accepted")
    max_tokens = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    max_tokens = min(max_tokens, limits.max_tokens)
    echo = bool(body.echo)
    if max_tokens == 0 and not echo:
        raise wrong("max_tokens", "0 is accepted only with echo: true")
    prompts = prompts_of(body.prompt, "prompt", limits)
    # A prompt of token ids is echoed from its scores, which contain the bytes of its tokens.
    scores_prompt = echo and (
        body.logprobs is not None or max_tokens == 0 or not isinstance(prompts[0], str)
    )
    options = {
        "max_tokens": max_tokens,
        "num_logprobs": 0 if scores_prompt and body.logprobs is None else body.logprobs,
        "scores_prompt": scores_prompt,
    }
    has_logprobs = body.logprobs is not None
    return job_of(body, limits, prompts, options, echo=echo, has_logprobs=has_logprobs)


def prompts_of(
    found: str | Sequence[Any], name: str, limits: GatewayLimits, max_prompts: int | None = None
) -> tuple[Prompt, ...]:
    """The prompts of a field. max_prompts: replaces the limit for completions.

    Raises ApiError naming the prompt that is wrong.
    """
    prompts = list[Prompt]()
    most = limits.max_prompts if max_prompts is None else max_prompts
    is_one = isinstance(found, str) or isinstance(found[0], int)
    each: Sequence[Any] = [found] if is_one else found
    if len(each) > most:
        raise wrong(name, f"at most {most} prompts are accepted")
    for place, prompt in enumerate(each):
        path = name if is_one else f"{name}[{place}]"
        if isinstance(prompt, str):
            if len(prompt) > limits.max_prompt_chars:
                raise wrong(path, f"at most {limits.max_prompt_chars} characters are accepted")
            prompts.append(prompt)
            continue
        if len(prompt) > limits.max_prompt_tokens:
            raise wrong(path, f"at most {limits.max_prompt_tokens} tokens are accepted")
        prompts.append(shared(prompt))
    return tuple(prompts)


class CompletionLogprobs:
    """Writes the shape of completions, which is parallel lists, and counts the text's length."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_chars = 0

    def lists(self, tokens: Sequence[ScoredToken]) -> dict[str, Iterator[object]]:
        """The lists of the next tokens, each made as it is read. text_offset: the number of
        characters before each token."""
        return {
            "tokens": (_token_text(token.scores.chosen.piece) for token in tokens),
            "token_logprobs": (
                None if token.is_first else token.scores.chosen.logprob for token in tokens
            ),
            "top_logprobs": (None if token.is_first else _top(token) for token in tokens),
            "text_offset": self._offsets(tokens),
        }

    def of(self, tokens: Sequence[ScoredToken]) -> dict[str, list[object]]:
        return {name: list(values) for name, values in self.lists(tokens).items()}

    def _offsets(self, tokens: Iterable[ScoredToken]) -> Iterator[int]:
        for token in tokens:
            yield self._num_chars
            self._num_chars += len(self._decoder.decode(token.scores.chosen.piece))


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


class CompletionShape(ChunkWriter):
    kind = chunk_kind = "text_completion"

    def __init__(self, answers: Answers) -> None:
        super().__init__(answers)
        self._logprobs: dict[int, CompletionLogprobs] = {}

    def chunks(self, delta: Delta) -> bytes:
        logprobs = None
        if self._job.has_logprobs and delta.tokens:
            of_choice = self._logprobs.setdefault(delta.index, CompletionLogprobs())
            logprobs = of_choice.of(delta.tokens)
        return self.choice({**_choice(delta), "logprobs": logprobs}, delta.tokens)

    def whole_choice(self, choice: Delta) -> dict[str, Any]:
        return _choice(choice)

    def logprobs_pieces(self, tokens: Sequence[ScoredToken]) -> Iterator[bytes]:
        """The same as CompletionLogprobs, list after list."""
        written = CompletionLogprobs()
        begin = b"{"
        for name, values in written.lists(tokens).items():
            yield begin + b'"%b":' % name.encode()
            yield from list_pieces(values)
            begin = b","
        yield b"}"


def _choice(delta: Delta) -> dict[str, Any]:
    return {"index": delta.index, "text": delta.text, "finish_reason": delta.finish_reason}


COMPLETIONS: Final = Api("cmpl", CompletionBody, "Continue a prompt", _job, CompletionShape)
