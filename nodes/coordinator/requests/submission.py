"""Validates submitted requests, and makes the streams of those whose token ids are known. Pure."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from airdraft.mesh.json_form import copied_from
from airdraft.nodes.coordinator.requests.request import Committed, Request
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.messages import (
    DEFAULT_PRIORITY,
    EMBEDDING,
    MAX_GAMMA,
    MAX_PROMPT_TOKENS,
    TEXT,
    WANTS,
    EngineProfile,
    SubmitRequest,
)
from airdraft.nodes.worker.stream import StreamId, StreamSpec, cells_needed

_MAX_REASON: Final = 1024
_DIGEST_BYTES: Final = 16


class RefusedRequestError(Exception):
    """A request is refused. The message is one line for its sender; code: as in
    RequestFailedNotice."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason[:_MAX_REASON])
        self.code = code


class BadRequestError(RefusedRequestError):
    """The request can never be served as it is."""

    def __init__(self, reason: str) -> None:
        super().__init__("bad_request", reason)


def new_request(client: bytes, submit: SubmitRequest, drawn_seed: int) -> Request:
    """Validate a submitted request. drawn_seed: used if the client gave none, and sent to it later.

    Raises BadRequestError.
    """
    seed = submit.seed if submit.seed >= 0 else drawn_seed
    prompt, committed = _split(submit)
    if any(committed):
        # All prompt scores were sent before the first token.
        submit = replace(submit, scores_prompt=False)
    request = Request(client, submit, seed, prompt=prompt, committed=committed)
    request.digest = _digest_of(submit)
    request.model_hash, request.numerics_class = submit.model_hash, submit.numerics_class
    if request.is_resumed:
        # A request announced as exact stays exact; another one may become exact.
        request.is_exact = True if submit.is_exact else None
    sampling_of(request, 0)
    if not (submit.prompt or prompt or submit.messages):
        raise BadRequestError("the prompt is empty: give some text or token ids")
    if submit.wants:
        if submit.wants not in WANTS:
            raise BadRequestError(f"wants: accepted values are {', '.join(WANTS)}")
        if (submit.wants == TEXT) != bool(prompt) and submit.wants != EMBEDDING:
            raise BadRequestError(
                "wants: `text` needs token ids as the prompt, `tokens` a text or a conversation"
            )
    elif submit.max_tokens == 0 and not submit.scores_prompt:
        raise BadRequestError("max_tokens is 0: it must be at least 1 unless the prompt is scored")
    return request


def _split(submit: SubmitRequest) -> tuple[tuple[int, ...], tuple[Committed, ...]]:
    """Returns the prompt's token ids, if any, and the tokens that the client has of each choice."""
    ids, counts = submit.prompt_token_ids, submit.resume_from
    if not counts:
        return ids, ((),) * submit.num_choices
    if len(counts) != submit.num_choices or max(counts) < 0:
        raise BadRequestError("resume_from: give one number per choice, at least one not negative")
    if max(counts) >= max(1, submit.max_tokens):
        raise BadRequestError("resume_from: one choice already has max_tokens tokens")
    begin = len(ids) - sum(max(0, count) for count in counts)
    if begin < 0:
        raise BadRequestError("resume_from: its numbers exceed the number of token ids")
    prompt, committed = ids[:begin], list[Committed]()
    for count in counts:
        committed.append(None if count < 0 else ids[begin : begin + count])
        begin += max(0, count)
    return prompt, tuple(committed)


def sampling_of(request: Request, choice: int) -> Sampling:
    """Returns a choice's sampling parameters. Raises BadRequestError naming one out of range."""
    try:
        return copied_from(request.submit, Sampling, seed=request.seed, choice=choice)
    except ValueError as error:
        raise BadRequestError(str(error)) from error


def specs_of(
    request: Request, first_id: int, prompt: tuple[int, ...], target: EngineProfile
) -> list[StreamSpec]:
    """Returns the streams of a request. Raises BadRequestError if its target cannot hold them."""
    submit = request.submit
    if not prompt:
        raise BadRequestError("the prompt is empty: give some text or token ids")
    largest = max(max(prompt), *(max(ids or (), default=0) for ids in request.committed))
    if largest >= target.num_vocab:
        raise BadRequestError(f"token id {largest} is outside the vocabulary of {target.model}")
    for entry in submit.rules.logit_bias:
        if entry.token_id >= target.num_vocab:
            raise BadRequestError(
                f"logit_bias: token id {entry.token_id} is outside the vocabulary of {target.model}"
            )
    max_tokens = submit.max_tokens
    if submit.fits:
        room = min(target.context_length, MAX_PROMPT_TOKENS, target.num_cells - MAX_GAMMA)
        # A client that resumes has these tokens already.
        least = 1 + max((len(ids or ()) for ids in request.committed), default=0)
        max_tokens = min(max_tokens, max(room - len(prompt), least))
    left = [(index, ids) for index, ids in enumerate(request.committed) if ids is not None]
    specs = [
        StreamSpec(
            stream_id=StreamId(first_id + number),
            generation=1,
            owner=request.owner,
            sampling=sampling_of(request, index),
            max_tokens=max_tokens,
            stops=submit.stops,
            ignore_eog=submit.ignore_eog,
            num_prompt_tokens=len(prompt),
            token_ids=prompt + ids,
            num_logprobs=submit.num_logprobs,
            # All choices share the prompt, so only the first stream scores it.
            scores_prompt=submit.scores_prompt and number == 0,
            num_leased=1,
            weight=submit.priority / DEFAULT_PRIORITY,
            num_guesses=submit.gamma,
        )
        for number, (index, ids) in enumerate(left)
    ]
    wanted = f"context overflow: {len(prompt)} prompt tokens + {max_tokens} to generate"
    if len(prompt) + max_tokens > target.context_length:
        raise BadRequestError(
            f"{wanted} exceed the {target.context_length} of {target.model}: "
            f"shorten the prompt or lower --max-tokens"
        )
    if len(prompt) + max_tokens > MAX_PROMPT_TOKENS:
        # One message must hold the whole stream when another target continues it.
        raise BadRequestError(
            f"{wanted} exceed the {MAX_PROMPT_TOKENS} tokens of a message: "
            f"shorten the prompt or lower --max-tokens"
        )
    # A resumed request did fit a target: one with as many KV cells may still join.
    if not request.is_resumed and cells_needed(specs[0]) > target.num_cells:
        raise BadRequestError(
            f"{wanted} + {MAX_GAMMA} guesses exceed the {target.num_cells} cells of "
            f"{target.model}: shorten the prompt, lower --max-tokens or raise --cells"
        )
    return specs


def _digest_of(submit: SubmitRequest) -> bytes:
    """Returns a digest of a target's input, prompt and rules, whatever the seed and the client."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    parts = submit.model, submit.prompt, submit.messages, submit.tools, submit.rules
    digest.update(repr(parts).encode())
    digest.update(array("I", submit.prompt_token_ids).tobytes())
    return digest.digest()


def prompt_hash(prompt: Sequence[int]) -> str:
    """Returns a digest of a prompt's token ids, which shows whether a resumed text still has them.

    They may change with time, for example when a chat template includes the date.
    """
    return hashlib.blake2b(array("I", prompt).tobytes(), digest_size=_DIGEST_BYTES).hexdigest()
