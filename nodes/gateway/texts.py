"""What becomes of a text: its tokens, the text of tokens, and vectors of texts."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse

from nodes.client import RequestFailedError
from nodes.gateway.anthropic import MessagesApi
from nodes.gateway.apikeys import ApiKey
from nodes.gateway.bodies import Body, Text, parse_json, read, wrong
from nodes.gateway.chat import ChatApi, MessageBody
from nodes.gateway.completions import Prompts, TokenIds, prompts_of
from nodes.gateway.config import GatewayLimits
from nodes.gateway.errors import of_failure
from nodes.gateway.generate import Shared, body_of, limits_of
from nodes.gateway.guard import key_of
from nodes.gateway.shape import new_id
from nodes.gateway.tools import ToolList
from nodes.generation import GenerateOptions, Prompt
from nodes.messages import EMBEDDING, MAX_MESSAGES, TEXT, TOKENS, ReadNotice

# As OpenAI's API has it.
_MAX_INPUTS: Final = 2048
# Of one body that are asked for at a time; the others wait here.
_MOST_AT_A_TIME: Final = 8

_Model = Annotated[Text, Field(max_length=256)]


class EmbeddingsBody(Body):
    input: Prompts
    model: _Model | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: Annotated[Text, Field(max_length=200)] | None = None


class TokenizeBody(Body):
    """content as llama.cpp's server has it, prompt and messages as vLLM's. A text is read as
    /v1/completions reads it, with the first token that the model wants."""

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
    messages: (
        Annotated[list[MessageBody], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
        | None
    ) = None
    tools: ToolList | None = None
    model: _Model | None = None


class DetokenizeBody(Body):
    tokens: TokenIds
    model: _Model | None = None


class CountTokensBody(Body):
    """A body of /v1/messages; there its fields are checked."""


Answer = Callable[[dict[str, Any], GatewayLimits, ApiKey], Awaitable[dict[str, Any]]]


class Texts:
    """The routes that read texts and write none. routes: by their paths."""

    bodies: Final[Mapping[str, tuple[type[Body], str]]] = {
        "/v1/embeddings": (EmbeddingsBody, "Vectors of texts"),
        "/v1/messages/count_tokens": (CountTokensBody, "How many tokens a conversation has"),
        "/tokenize": (TokenizeBody, "The tokens of a text or conversation"),
        "/detokenize": (DetokenizeBody, "The text of tokens"),
    }

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        answers: dict[str, Answer] = {
            "/v1/embeddings": self._embeddings,
            "/v1/messages/count_tokens": self._count_tokens,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
        }
        self.routes = {path: self._route(answer) for path, answer in answers.items()}

    def _route(self, answer: Answer) -> Callable[[Request], Awaitable[JSONResponse]]:
        async def route(request: Request) -> JSONResponse:
            key, shared = key_of(request.scope, "infer"), self._shared
            limits = limits_of(shared.limits, key)
            request_id = new_id("read")
            entered = shared.running.entered(request_id, key.name, limits.max_concurrent_per_key)
            with entered:
                body = parse_json(await body_of(request, limits.max_body_bytes))
                await shared.models.served()
                try:
                    content = await answer(body, limits, key)
                except RequestFailedError as error:
                    raise of_failure(error) from error
            return JSONResponse(content, headers={"x-request-id": request_id})

        return route

    def _read(self, kind: type[Body], value: dict[str, Any]) -> Any:
        body, _ = read(kind, value, strict_fields=self._shared.strict_fields)
        return body

    async def _embeddings(
        self, value: dict[str, Any], limits: GatewayLimits, key: ApiKey
    ) -> dict[str, Any]:
        body = self._read(EmbeddingsBody, value)
        prompts = prompts_of(body.input, "input", limits, _MAX_INPUTS)
        options = _options(body.model, key, body.user)
        found = await self._all(prompts, options)
        vectors = [np.frombuffer(notice.embedding, "<f4") for notice in found]
        if body.dimensions not in (None, len(vectors[0])):
            reason = f"the model's vectors have {len(vectors[0])} numbers, and are not cut"
            raise wrong("dimensions", reason, "unsupported_parameter")
        num_tokens = sum(len(notice.prompt_token_ids) for notice in found)
        return {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": base64.b64encode(vector.tobytes()).decode()
                    if body.encoding_format == "base64"
                    else vector.tolist(),
                }
                for index, vector in enumerate(vectors)
            ],
            "model": found[0].model,
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        }

    async def _all(self, prompts: Sequence[Prompt], options: GenerateOptions) -> list[ReadNotice]:
        """The vectors of all prompts, by one model."""
        first = await self._shared.mesh.read(prompts[0], options, EMBEDDING)
        turns = asyncio.Semaphore(_MOST_AT_A_TIME)

        async def one(prompt: Prompt) -> ReadNotice:
            async with turns:
                return await self._shared.mesh.read(prompt, options, EMBEDDING)

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(one(prompt)) for prompt in prompts[1:]]
        return [first, *(task.result() for task in asked)]

    async def _tokenize(
        self, value: dict[str, Any], limits: GatewayLimits, key: ApiKey
    ) -> dict[str, Any]:
        body = self._read(TokenizeBody, value)
        given = [n for n in ("content", "prompt", "messages") if getattr(body, n) is not None]
        if len(given) != 1:
            raise wrong("content", "give one of content, prompt and messages")
        options = _options(body.model, key)
        if body.messages is not None:
            names = ("messages", "tools", "model")
            asked: dict[str, Any] = {name: value[name] for name in names if name in value}
            job = ChatApi(limits).job(asked)
            found = await self._shared.mesh.read(job.prompts[0], _as(job.options, options), TOKENS)
        else:
            (prompt,) = prompts_of(body.content or body.prompt or "", given[0], limits)
            found = await self._shared.mesh.read(prompt, options, TOKENS)
        ids = found.prompt_token_ids
        return {"tokens": ids, "count": len(ids), "model": found.model}

    async def _detokenize(
        self, value: dict[str, Any], limits: GatewayLimits, key: ApiKey
    ) -> dict[str, Any]:
        body = self._read(DetokenizeBody, value)
        (prompt,) = prompts_of(body.tokens, "tokens", limits)
        found = await self._shared.mesh.read(prompt, _options(body.model, key), TEXT)
        text = found.text.decode("utf-8", "replace")
        return {"content": text, "prompt": text, "model": found.model}

    async def _count_tokens(
        self, value: dict[str, Any], limits: GatewayLimits, key: ApiKey
    ) -> dict[str, Any]:
        job = MessagesApi(limits).job({"max_tokens": 1, **value})
        options = _as(job.options, _options(job.model, key))
        found = await self._shared.mesh.read(job.prompts[0], options, TOKENS)
        return {"input_tokens": len(found.prompt_token_ids)}


def _options(model: str | None, key: ApiKey, user: str | None = None) -> GenerateOptions:
    owner = f"{key.name}/{user}" if user else key.name
    return GenerateOptions(chat=False, model=model or "", user=owner)


def _as(asked: GenerateOptions, options: GenerateOptions) -> GenerateOptions:
    """The options of who asks, with the tools of the conversation."""
    return GenerateOptions(
        chat=False, model=options.model, user=options.user, tools=asked.tools, date=asked.date
    )
