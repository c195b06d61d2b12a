"""Routes that read texts without generating: tokens of a text, text of tokens, and embeddings."""

import asyncio
import base64
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from airdraft.nodes.client.generation import GenerateOptions, Prompt
from airdraft.nodes.gateway.anthropic import MESSAGES, MessagesBody
from airdraft.nodes.gateway.apikeys import ApiKey
from airdraft.nodes.gateway.bodies import Body, SomeItems, Text, parse_json, read, wrong
from airdraft.nodes.gateway.chat import ChatBody, MessageBody, job_of_chat
from airdraft.nodes.gateway.completions import Prompts, TokenIds, prompts_of
from airdraft.nodes.gateway.config import GatewayLimits
from airdraft.nodes.gateway.generate import Shared, body_of, limits_of, owner_of
from airdraft.nodes.gateway.guard import key_of
from airdraft.nodes.gateway.running import result_of
from airdraft.nodes.gateway.sending import JsonInPieces
from airdraft.nodes.gateway.shape import encoded, new_id
from airdraft.nodes.gateway.tools import ToolList
from airdraft.nodes.messages import EMBEDDING, TEXT, TOKENS, ReadNotice

# The limit of OpenAI's API.
_MAX_INPUTS: Final = 2048
# The number of texts of one body that the mesh reads at a time.
_MOST_AT_A_TIME: Final = 8
_VECTOR_TYPE: Final = np.dtype("<f4")

_Model = Annotated[Text, Field(max_length=256)]


class EmbeddingsBody(Body):
    input: Prompts
    model: _Model | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: Annotated[Text, Field(max_length=200)] | None = None


class TokenizeBody(Body):
    """content is llama.cpp's field; prompt and messages are vLLM's. A text is tokenized as for
    /v1/completions, with the model's begin-of-text token."""

    refused: ClassVar = {
        "add_special": (True,),
        "add_special_tokens": (True,),
        "add_generation_prompt": (True,),
        "parse_special": (False,),
        "with_pieces": (False,),
        "return_token_strs": (False,),
    }

    content: Text | None = None
    prompt: Text | None = None
    messages: SomeItems[MessageBody] | None = None
    tools: ToolList | None = None
    model: _Model | None = None


class DetokenizeBody(Body):
    tokens: TokenIds
    model: _Model | None = None


class CountTokensBody(MessagesBody):
    """A body of /v1/messages in which max_tokens is optional."""

    max_tokens: int = 1


@dataclass(frozen=True, slots=True)
class Asking:
    """The key and limits of a request. read: Client.read, by which the mesh reads a prompt."""

    limits: GatewayLimits
    key: ApiKey
    read: Callable[[Prompt, GenerateOptions, str], Awaitable[ReadNotice]]

    def options(self, model: str | None, user: str | None = None) -> GenerateOptions:
        owner = owner_of(self.key, user)
        return GenerateOptions(chat=False, model=model or "", user=owner)


async def _embeddings(body: EmbeddingsBody, asking: Asking) -> Iterator[bytes]:
    prompts = prompts_of(body.input, "input", asking.limits, _MAX_INPUTS)
    found = await _vectors(prompts, asking.options(body.model, body.user), asking)
    num_tokens = sum(len(notice.prompt_token_ids) for notice in found)
    num_dimensions = len(found[0].embedding) // _VECTOR_TYPE.itemsize
    if body.dimensions not in (None, num_dimensions):
        reason = f"the model's vectors have {num_dimensions} numbers and cannot be shortened"
        raise wrong("dimensions", reason, "unsupported_parameter")
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return _embedded(found, usage, is_packed=body.encoding_format == "base64")


def _embedded(
    found: Sequence[ReadNotice], usage: dict[str, int], *, is_packed: bool
) -> Iterator[bytes]:
    """Write vectors one after another: numbers of a large one take some milliseconds."""
    separator = b'{"object":"list","data":['
    for index, notice in enumerate(found):
        embedding: object = base64.b64encode(notice.embedding).decode()
        if not is_packed:
            embedding = np.frombuffer(notice.embedding, _VECTOR_TYPE).tolist()
        fields = {"object": "embedding", "index": index, "embedding": embedding}
        yield separator + encoded(fields)
        separator = b","
    yield b"]," + encoded({"model": found[0].model, "usage": usage})[1:]


async def _vectors(
    prompts: Sequence[Prompt], options: GenerateOptions, asking: Asking
) -> list[ReadNotice]:
    """The embeddings of all prompts, by the model that answers the first."""
    first = await asking.read(prompts[0], options, EMBEDDING)
    options = replace(options, model_hash=first.model_hash)
    turns = asyncio.Semaphore(_MOST_AT_A_TIME)

    async def one(prompt: Prompt) -> ReadNotice:
        async with turns:
            return await asking.read(prompt, options, EMBEDDING)

    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(one(prompt)) for prompt in prompts[1:]]
    return [first, *(task.result() for task in asked)]


async def _tokenize(body: TokenizeBody, asking: Asking) -> Iterator[bytes]:
    given = [n for n in ("content", "prompt", "messages") if getattr(body, n) is not None]
    if len(given) != 1:
        raise wrong("content", "give one of content, prompt and messages")
    options = asking.options(body.model)
    if body.messages is not None:
        job = job_of_chat(ChatBody(messages=body.messages, tools=body.tools), asking.limits)
        prompt, options = job.prompts[0], replace(options, tools=job.options.tools)
    else:
        (prompt,) = prompts_of(body.content or body.prompt or "", given[0], asking.limits)
    found = await asking.read(prompt, options, TOKENS)
    ids = found.prompt_token_ids
    return _one_piece({"tokens": ids, "count": len(ids), "model": found.model})


async def _detokenize(body: DetokenizeBody, asking: Asking) -> Iterator[bytes]:
    (prompt,) = prompts_of(body.tokens, "tokens", asking.limits)
    found = await asking.read(prompt, asking.options(body.model), TEXT)
    text = found.text.decode("utf-8", "replace")
    return _one_piece({"content": text, "prompt": text, "model": found.model})


async def _count_tokens(body: CountTokensBody, asking: Asking) -> Iterator[bytes]:
    job = MESSAGES.job(body, asking.limits)
    options = replace(asking.options(job.options.model), tools=job.options.tools)
    found = await asking.read(job.prompts[0], options, TOKENS)
    return _one_piece({"input_tokens": len(found.prompt_token_ids)})


def _one_piece(answer: dict[str, Any]) -> Iterator[bytes]:
    yield encoded(answer)


@dataclass(frozen=True, slots=True)
class TextRoute:
    """A route that reads texts and generates none. answer: computes the answer to a body, as pieces
    of JSON."""

    body: type[Body]
    summary: str
    answer: Callable[[Any, Asking], Coroutine[Any, Any, Iterator[bytes]]]


TEXT_ROUTES: Final = {
    "/v1/embeddings": TextRoute(EmbeddingsBody, "Embed texts", _embeddings),
    "/v1/messages/count_tokens": TextRoute(
        CountTokensBody, "Count the tokens of a conversation", _count_tokens
    ),
    "/tokenize": TextRoute(TokenizeBody, "Tokenize a text or conversation", _tokenize),
    "/detokenize": TextRoute(DetokenizeBody, "Convert tokens to text", _detokenize),
}


class TextHandler:
    """The handler of one such route; it ends when the client leaves."""

    def __init__(self, shared: Shared, route: TextRoute) -> None:
        self._shared = shared
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key, shared = key_of(scope, "infer"), self._shared
        limits = limits_of(shared.config.limits, key)
        request_id = new_id("read")
        entered = shared.running.entered(request_id, key.name, limits.max_concurrent_per_key)
        with entered as run:
            try:
                shared.rate.take(key)
                content = await body_of(Request(scope, receive), limits.max_body_bytes)
                shared.rate.take_body(key, len(content))
                strict_fields = shared.config.strict_fields

                def read_body() -> Body:
                    kind, value = self._route.body, parse_json(content)
                    return read(kind, value, strict_fields=strict_fields)[0]

                body = await shared.bodies.run(len(content), read_body)
                await shared.models.nodes.latest()
                asking = Asking(limits, key, shared.mesh.read)
                found = await result_of(run, self._route.answer(body, asking), receive)
            except ClientDisconnect:
                return
            answer = JsonInPieces(found, {"x-request-id": request_id})
            with contextlib.suppress(ClientDisconnect):
                await answer(scope, receive, send)
