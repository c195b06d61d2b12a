"""The POST route of each API: checks a body, sends it to the mesh and returns the answer."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from dataclasses import dataclass, field, replace
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import common_sampling
from airdraft.nodes.engine.chat.tools import HERMES
from airdraft.nodes.engine.metadata import HARMONY
from airdraft.nodes.engine.traits import OPENAI_SAMPLING, ModelTraits
from airdraft.nodes.gateway import idempotency
from airdraft.nodes.gateway.apikeys import ApiKey
from airdraft.nodes.gateway.bodies import BodyReader, Hint, parse_json, read, wrong
from airdraft.nodes.gateway.config import GatewayConfig, GatewayLimits
from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.exchange import Exchange
from airdraft.nodes.gateway.fields import Job, with_sampling
from airdraft.nodes.gateway.guard import CLIENT_LEFT, connection_of, key_of, metrics_of
from airdraft.nodes.gateway.idempotency import Keyed, KeyedRequests, Remembered
from airdraft.nodes.gateway.json_size import JsonSize
from airdraft.nodes.gateway.models import Models
from airdraft.nodes.gateway.request_rate import RequestRate
from airdraft.nodes.gateway.running import Running
from airdraft.nodes.gateway.scores import HeldScores, fitted
from airdraft.nodes.gateway.shape import Api, new_id
from airdraft.nodes.gateway.tools import in_style
from airdraft.nodes.messages import ChatMessage, NodeFields
from airdraft.nodes.messages.fingerprint import parts_of

logger = logging.getLogger(__name__)

_REMOVED_HEADER: Final = "Last-Event-ID"


@dataclass(frozen=True, slots=True)
class Shared:
    """What all requests of a gateway share."""

    mesh: MeshClient
    config: GatewayConfig
    models: Models
    running: Running
    keyed: KeyedRequests
    scores: HeldScores
    bodies: BodyReader
    rate: RequestRate


class Generate:
    """The route of one API."""

    def __init__(self, shared: Shared, api: Api) -> None:
        self._shared = shared
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = key_of(scope, "infer")
        record = _Record(new_id(self._api.prefix), key.name)
        try:
            await self._answer(scope, receive, send, key, record)
        except ApiError as error:
            record.status = error.status
            raise
        except ClientDisconnect:
            record.status = CLIENT_LEFT
        finally:
            metrics_of(scope).finished(record.status)
            record.log()

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, key: ApiKey, record: _Record
    ) -> None:
        shared, limits = self._shared, limits_of(self._shared.config.limits, key)
        if _values(scope, _REMOVED_HEADER):
            # Who goes on after an event would take the whole answer for the rest of it.
            reason = "answers come whole: ask again with the Idempotency-Key alone"
            raise wrong(_REMOVED_HEADER, reason)
        chosen = idempotency.of_headers(_values(scope, idempotency.HEADER))
        keyed = None if chosen is None else Keyed(key.name, chosen)
        async with contextlib.AsyncExitStack() as until_sent, contextlib.AsyncExitStack() as stack:
            # This comes first, so that the limit of requests also bounds the memory of bodies.
            entered = shared.running.entered(
                record.request_id, key.name, limits.max_concurrent_per_key
            )
            run = stack.enter_context(entered)
            shared.rate.take(key)
            content = await body_of(Request(scope, receive), limits.max_body_bytes)
            shared.rate.take_body(key, len(content))
            read_body = functools.partial(self._job_of, content, limits, keyed)
            job = await shared.bodies.run(len(content), read_body)
            record.ignored = job.ignored
            job = job.with_options(user=owner_of(key, job.options.user))
            scores = until_sent.enter_context(shared.scores.entered(job, key.name))
            # The traits are those of the model that answered before, so this comes first.
            job = _pinned(job, shared.keyed.fingerprint_of(keyed))
            candidates = await shared.models.candidates(job.options.model, job.options.model_hash)
            job = _for_model(job, self._traits(job, candidates))
            hashes = frozenset(target.model_hash for target in candidates)
            job = replace(job, model_hashes=hashes)
            if keyed is not None:
                holding = shared.keyed.entered(keyed, scope["path"], content, connection_of(scope))
                remembered = await stack.enter_async_context(holding)
                record.request_id = run.request_id = keyed.request_id(self._api.prefix)
                # An earlier request with this key may have ended only now.
                job = _pinned(job, remembered.fingerprint)
            # Free the memory of the body before the answer is generated.
            del content, read_body
            exchange = Exchange(shared.mesh, job, self._api, run, scores, scope)
            record.exchange = exchange
            if keyed is not None:
                stack.callback(_remember, exchange, remembered)
            if job.stream:
                rest = await exchange.stream(receive, send, limits.max_unsent_bytes)
            else:
                rest = await exchange.whole(receive)
            await stack.aclose()
            # Its key is free by now: a client that has the whole answer may ask again at once.
            await rest(scope, receive, send)
            record.status = 200 if exchange.failure is None else exchange.failure.status

    def _job_of(self, content: bytes, limits: GatewayLimits, keyed: Keyed | None) -> Job:
        """Read a body, apart from what depends on the model. Raises ApiError."""
        body, api = parse_json(content), self._api
        asked, ignored = read(api.body, body, strict_fields=self._shared.config.strict_fields)
        job = api.job(asked, limits)
        job = fitted(replace(job, ignored=(*job.ignored, *ignored)), limits.max_scores)
        if keyed is not None and body.get("seed") is None:
            job = job.with_options(seed=keyed.seed)
        return job

    def _traits(self, job: Job, candidates: list[NodeFields]) -> ModelTraits:
        """The traits of the job's model. Raises ApiError if the body must name a model first."""
        found = [target.traits for target in candidates]
        kinds = {
            (t.tool_style if job.tools is not None else "", t.thinking_if(job.thinks))
            for t in found
        }
        if len(kinds) > 1 and _is_chat(job):
            reason = "name one model: the models served here differ in how they call tools or think"
            raise ApiError(400, f"model: {reason}", param="model", code="invalid_value")
        # If the body names no model, use the traits of the first that may answer.
        traits = found[0] if found else ModelTraits(HERMES)
        usual = common_sampling(candidates)
        if self._shared.config.openai_defaults:
            usual = OPENAI_SAMPLING
        return replace(traits, sampling=usual)


def _for_model(job: Job, traits: ModelTraits) -> Job:
    """Fill options that the body leaves open from the model's traits. Raises ApiError if the model
    does not support tools."""
    options = with_sampling(job.options, job.sampling, traits.sampling)
    has_grammar = bool(options.rules.grammar.kind)
    must_call = job.tools is not None and job.tools.is_required
    # A grammar leaves no room for thoughts.
    may_think = _is_chat(job) and not (has_grammar or must_call)
    thinking = traits.thinking_if(job.thinks) if may_think else ""
    style = ""
    if job.tools is not None:
        style = traits.tool_style
        # A message of a channel may be any text, so the grammar need not know of channels.
        known = "" if thinking == HARMONY else thinking
        options = in_style(options, job.tools, style, known)
    return replace(
        job,
        options=options,
        tool_style=style,
        thinking=thinking,
        has_format=has_grammar and not must_call,
    )


def _is_chat(job: Job) -> bool:
    return isinstance(job.prompts[0][0], ChatMessage)


def _values(scope: Scope, name: str) -> list[bytes]:
    wanted = name.lower().encode()
    return [value for found, value in scope["headers"] if found == wanted]


def _pinned(job: Job, answered: str) -> Job:
    """Pin the job to the model and numerics class of its earlier answer: no other makes that text.

    answered: the fingerprint of the last answer with its key; "" if there was none.
    """
    if not answered or job.options.numerics_class:
        return job
    model_hash, numerics_class = parts_of(answered)
    return job.with_options(model_hash=model_hash, numerics_class=numerics_class)


def _remember(exchange: Exchange, remembered: Remembered) -> None:
    if exchange.has_begun:
        remembered.fingerprint = exchange.answers.fingerprint


@dataclass(slots=True)
class _Record:
    """Collects the log line of a request, which never contains its text."""

    request_id: str
    key: str
    # The status until another one is known.
    status: int = 500
    exchange: Exchange | None = None
    ignored: tuple[Hint, ...] = ()
    started: float = field(default_factory=time.monotonic)

    def log(self) -> None:
        num_tokens = 0 if self.exchange is None else self.exchange.answers.num_tokens
        logger.info(
            "request %s of %s: status %d, %d tokens, %.3f s%s",
            self.request_id,
            self.key,
            self.status,
            num_tokens,
            time.monotonic() - self.started,
            self._ignored(),
        )

    def _ignored(self) -> str:
        """Names of known fields; unknown ones are only counted, because they may hold any text."""
        known = [hint.path for hint in self.ignored if hint.is_known]
        if num_others := len(self.ignored) - len(known):
            known.append(f"{num_others} unknown")
        return f", ignored fields: {', '.join(known)}" if known else ""


def limits_of(limits: GatewayLimits, key: ApiKey) -> GatewayLimits:
    """The limits of one key: its own where it has some, else the gateway's. Its own may be higher,
    except for limits that cover all keys."""
    return replace(
        limits,
        max_concurrent_per_key=key.max_concurrent or limits.max_concurrent_per_key,
        max_tokens=key.max_tokens or limits.max_tokens,
        max_choices=min(key.max_choices or limits.max_choices, 64),
    )


def owner_of(key: ApiKey, user: str | None) -> str:
    """Whose request it is: the key's own, or one of the users that the key's requests name."""
    return f"{key.name}/{user}" if user else key.name


async def body_of(request: Request, max_bytes: int) -> bytes:
    """Read the body of a request. Raises ApiError if it is too large, by its bytes or by what it
    holds, or not declared as JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Unlike form types, this one makes browsers send a CORS preflight for pages of other sites.
        raise ApiError(415, "Content-Type: application/json is needed", code="invalid_content_type")
    too_large = ApiError(413, f"the body has more than {max_bytes} bytes", code="body_too_large")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    body, size = bytearray(), JsonSize()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise too_large
        size.add(part)
    return bytes(body)
