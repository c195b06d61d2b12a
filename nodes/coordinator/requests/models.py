"""Which targets a request may go to by the model it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import MAX_MODEL_CHARS
from nodes.messages import EngineProfile

_SUFFIX = ".gguf"


def shown_name(profile: EngineProfile) -> str:
    """A model's name as clients see it."""
    return profile.model[:MAX_MODEL_CHARS]


def _is_named(profile: EngineProfile, name: str) -> bool:
    """By its whole name, as it is shown, or without the ending of its file."""
    names = (profile.model, shown_name(profile), profile.model.removesuffix(_SUFFIX))
    return name in names


def suits(targets: Sequence[NodeRecord], name: str) -> list[NodeRecord]:
    """The targets of a model; for "" those of the model whose targets have the most cells.

    So "" means the same model whatever the load is, and again after a target was away.
    """
    if name:
        return [n for n in targets if _is_named(n.profile, name)]
    cells: Counter[tuple[str, str]] = Counter()
    for n in targets:
        cells[n.profile.model, n.profile.model_hash] += n.profile.num_cells
    widest = min(cells, key=lambda model: (-cells[model], model), default=None)
    return [n for n in targets if (n.profile.model, n.profile.model_hash) == widest]


class KnownModels:
    """Models that a target has had since the coordinator started, the last ones of many."""

    _MAX = 64

    def __init__(self) -> None:
        self._profiles: dict[str, EngineProfile] = {}

    def note(self, profile: EngineProfile) -> None:
        self._profiles.pop(profile.model, None)
        self._profiles[profile.model] = profile
        if len(self._profiles) > self._MAX:
            del self._profiles[next(iter(self._profiles))]

    def has(self, name: str) -> bool:
        return any(_is_named(profile, name) for profile in self._profiles.values())
