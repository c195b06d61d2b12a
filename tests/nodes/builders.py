"""Streams, profiles and requests with everything filled in but what a test is about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from airdraft.nodes.engine.load import TOY_COSTS
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.toy import ToyConfig, ToyModel
from airdraft.nodes.messages import EngineProfile, SubmitRequest
from airdraft.nodes.worker.profile import decode_profile, encode_profile
from airdraft.nodes.worker.stream import StreamId, StreamSpec

PROMPT = (5, 6, 7)


def make_spec(stream_id: int = 1, prompt: tuple[int, ...] = PROMPT, **changes: Any) -> StreamSpec:
    spec = StreamSpec(
        stream_id=StreamId(stream_id),
        generation=1,
        owner=f"owner-{stream_id}",
        sampling=Sampling(),
        max_tokens=8,
        stops=(),
        ignore_eog=False,
        num_prompt_tokens=len(prompt),
        token_ids=prompt,
    )
    return replace(spec, **changes)


def make_profile(agreement: float = 1.0, **changes: Any) -> EngineProfile:
    """Profile of a toy node; changes are fields of it."""
    info = ToyModel(ToyConfig(agreement=agreement)).info
    return replace(decode_profile(encode_profile(info, TOY_COSTS)), **changes)


def make_submit(request_id: int = 1, **changes: Any) -> SubmitRequest:
    submit = SubmitRequest(
        request_id=request_id,
        prompt="",
        num_choices=1,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        seed=7,
        max_tokens=8,
        stops=(),
        ignore_eog=False,
        gamma=-1,
        priority=5,
        prompt_token_ids=PROMPT,
    )
    return replace(submit, **changes)
