"""Checks whether streams fit on a target, by its engine's capacity and its present streams."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.placing.waiting import Kind
from nodes.coordinator.requests.request import Request
from nodes.messages import EMBEDDING, EngineProfile
from nodes.messages.fingerprint import is_meant
from nodes.scheduler.stream import Stream
from nodes.worker.stream import StreamSpec, cells_needed, cells_soon


def can_hold(target: NodeRecord, spec: StreamSpec) -> bool:
    profile = target.profile
    fits = spec.num_prompt_tokens + spec.max_tokens <= profile.context_length
    return fits and cells_needed(spec) <= profile.num_cells


def is_of_kind(profile: EngineProfile, request: Request) -> bool:
    """Returns whether a target with this profile has the model and class that a request names or
    began with, and is as exact as its StartedNotice said."""
    is_same = is_meant(request.model_hash, profile.model_hash)
    is_same = is_same and is_meant(request.numerics_class, profile.numerics_class)
    # Any model can tokenize a text.
    if request.submit.wants in ("", EMBEDDING):
        is_same = is_same and profile.traits.embeds == (request.submit.wants == EMBEDDING)
    return is_same and request.is_exact in (None, profile.exact)


def kind_of(target: NodeRecord) -> Kind:
    return target.profile.model_hash, target.profile.numerics_class


def has_room(target: NodeRecord, streams: Sequence[Stream]) -> bool:
    holds = all(can_hold(target, stream.spec) for stream in streams)
    return holds and target.has_room(cells_of(streams), len(streams))


def cells_of(streams: Iterable[Stream]) -> int:
    """Return the KV cells that streams take at first, as their target counts them."""
    return sum(cells_soon(len(s.token_ids), s.tokens_left) for s in streams)
