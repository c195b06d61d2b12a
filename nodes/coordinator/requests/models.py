"""Finds the model that a request names. A model is identified by its file's content. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import MAX_MODEL_CHARS
from nodes.messages import EngineProfile
from nodes.messages.fingerprint import is_named, model_ids


def _is_named(profile: EngineProfile, name: str) -> bool:
    """Whether a name means this model, in full or as shown to clients."""
    shown = profile.model[:MAX_MODEL_CHARS]
    return any(is_named(name, (found, profile.model_hash)) for found in (profile.model, shown))


def shown_ids(profiles: Iterable[EngineProfile]) -> list[str]:
    """Returns the ids of the models of these profiles, as clients see them."""
    models = {(profile.model[:MAX_MODEL_CHARS], profile.model_hash) for profile in profiles}
    return sorted(model_ids(models).values())


def hashes_in_order(known: Sequence[EngineProfile], name: str) -> list[str]:
    """Returns hashes of the models that a name may mean, the preferred one first.

    name: "" for any. known: profiles of targets that are present or left recently. The model whose
    targets have the most KV cells goes first. The order does not depend on load, nor on a target
    that is absent for a moment.
    """
    cells = Counter[str]()
    names: dict[str, str] = {}
    for profile in known:
        model_hash = profile.model_hash
        cells[model_hash] += profile.num_cells
        names[model_hash] = min(profile.model, names.get(model_hash, profile.model))
    named = {profile.model_hash for profile in known if not name or _is_named(profile, name)}
    return sorted(named, key=lambda h: (-cells[h], names[h], h))


def suits(
    targets: Iterable[NodeRecord], known: Sequence[EngineProfile], name: str
) -> list[NodeRecord]:
    """Returns the targets of the first model in hashes_in_order() that any of them has."""
    by_hash: dict[str, list[NodeRecord]] = {}
    for target in targets:
        by_hash.setdefault(target.profile.model_hash, []).append(target)
    hashes = hashes_in_order(known, name)
    return next((by_hash[found] for found in hashes if found in by_hash), [])
