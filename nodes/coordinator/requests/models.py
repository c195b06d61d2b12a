"""Which models a request may go to by the name it gives. A model is the content of its file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import MAX_MODEL_CHARS
from nodes.fingerprint import is_beginning, model_id
from nodes.messages import EngineProfile

_SUFFIX = ".gguf"


def _shown_name(profile: EngineProfile) -> str:
    """A model's name as clients see it."""
    return profile.model[:MAX_MODEL_CHARS]


def _is_named(profile: EngineProfile, name: str) -> bool:
    """By its whole name, as it is shown, or without the ending of its file; alone, or with the
    first digits of the hash of its content behind an @."""
    names = (profile.model, _shown_name(profile), profile.model.removesuffix(_SUFFIX))
    alone, _, digits = name.rpartition("@")
    return name in names or (alone in names and is_beginning(digits, profile.model_hash))


def shown_ids(profiles: Sequence[EngineProfile]) -> list[str]:
    """What names each model: its file's name, with its hash where several are called so."""
    models = {(_shown_name(profile), profile.model_hash) for profile in profiles}
    num_of_name = Counter(name for name, _ in models)
    return sorted(name if num_of_name[name] == 1 else model_id(name, h) for name, h in models)


def hashes_in_order(known: Sequence[EngineProfile], name: str) -> list[str]:
    """Hashes of the models that a name may mean, the one first that it means if it is there.

    name: "" for any. known: profiles of targets that are here or were here lately. The model whose
    targets have the most cells goes first, whatever the load is, and while one of these is away for
    a moment.
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
    """Those of the targets that have the first of the models that a name may mean."""
    by_hash: dict[str, list[NodeRecord]] = {}
    for target in targets:
        by_hash.setdefault(target.profile.model_hash, []).append(target)
    hashes = hashes_in_order(known, name)
    return next((by_hash[found] for found in hashes if found in by_hash), [])


class KnownModels:
    """Models that a target has had since the coordinator started, the last ones of many."""

    _MAX = 64

    def __init__(self) -> None:
        self._profiles: dict[tuple[str, str], EngineProfile] = {}

    def note(self, profile: EngineProfile) -> None:
        key = profile.model, profile.model_hash
        self._profiles.pop(key, None)
        self._profiles[key] = profile
        if len(self._profiles) > self._MAX:
            del self._profiles[next(iter(self._profiles))]

    def has(self, name: str) -> bool:
        return any(_is_named(profile, name) for profile in self._profiles.values())
