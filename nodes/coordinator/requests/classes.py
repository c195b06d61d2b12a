"""Chooses the model and the numerics class that a request goes to. Pure.

The choice follows from the present targets and from the request, never from load, because a text
depends on its class. A repeated request, or the next turn of a conversation, gets the same class.

What has served once stays in force as long as a target of it is up. So a target that joins later
takes over nothing, whatever it says of itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from airdraft.mesh.latest import Latest
from airdraft.nodes.coordinator.members.record import TargetRecord
from airdraft.nodes.coordinator.members.roster import DRAINED, DROPPED, MAX_MODEL_CHARS, Roster
from airdraft.nodes.coordinator.requests.request import Request
from airdraft.nodes.coordinator.requests.texts import Texts
from airdraft.nodes.messages import EMBEDDING, EngineProfile
from airdraft.nodes.messages.fingerprint import is_meant, is_named, model_ids
from airdraft.nodes.worker.profile import costs_of

# A request that no target can serve is kept for this long, because a target may restart.
STRANDED_LIMIT_S = 30.0
# A target that left counts as present for this long, because it may only be restarting.
LATELY_S = 300.0
_MOST_LEFT = 256
# So long after the first target has joined, what joins may still take over: after a restart of the
# coordinator all targets join again within two seconds, and their order must not decide.
SETTLED_S = 4.0
_MOST_SEEN = 64
# More than the names of 64 models with all abbreviations of their hashes.
_MOST_IN_FORCE = 4096

# By model hash and name of the class: whether any of its targets is not exact, and the calibrated
# seconds of a pass of one token on the fastest of them.
Standings: TypeAlias = dict[str, dict[str, tuple[bool, float]]]


def fits_request(profile: EngineProfile, request: Request) -> bool:
    """Returns whether a target with this profile has the model and class that a request names or
    began with, and is as exact as its StartedNotice said."""
    is_same = is_meant(request.model_hash, profile.model_hash)
    is_same = is_same and is_meant(request.numerics_class, profile.numerics_class)
    # Any model can tokenize a text.
    if request.submit.wants in ("", EMBEDDING):
        is_same = is_same and profile.traits.embeds == (request.submit.wants == EMBEDDING)
    return is_same and request.is_exact in (None, profile.exact)


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


def standings_of(profiles: Iterable[EngineProfile]) -> Standings:
    """Returns the standing of each class of each model in these profiles."""
    found: Standings = {}
    for profile in profiles:
        mine = not profile.exact, costs_of(profile).decode.at(1)
        classes = found.setdefault(profile.model_hash, {})
        other = classes.get(profile.numerics_class, mine)
        classes[profile.numerics_class] = mine[0] or other[0], min(mine[1], other[1])
    return found


def classes_in_order(standings: Standings, model_hash: str, in_force: str = "") -> list[str]:
    """Returns the numerics classes of a model in the order in which requests try them.

    in_force: the class that has served so far, which goes first. Then come the others: exact ones
    first, then the fastest, then by name.
    """
    classes = standings[model_hash]
    return sorted(classes, key=lambda name: (name != in_force, *classes[name], name))


@dataclass(frozen=True, slots=True)
class _Left:
    """A target that left. is_expected: no operator removed it, so it may return soon."""

    profile: EngineProfile
    at: float
    is_expected: bool


class Classes:
    """Chooses among the targets that are present or left recently."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        # Targets that left, by name.
        self._left = Latest[str, _Left](_MOST_LEFT)
        self._known: list[EngineProfile] = []
        self._known_standings: Standings = {}
        # The model in force of each name that requests have used, and of requests for embeddings;
        # and the class in force of each model.
        self._models = Latest[tuple[str, bool], str](_MOST_IN_FORCE)
        self._classes = Latest[str, str](_MOST_IN_FORCE)
        # The models of targets since the coordinator started, by name and hash.
        self._seen = Latest[tuple[str, str], EngineProfile](_MOST_SEEN)
        # When the first target joined.
        self._began_at = math.inf

    def target_came(self, target: TargetRecord, now: float) -> None:
        profile = target.profile
        self._seen[profile.model, profile.model_hash] = profile
        self._began_at = min(self._began_at, now)

    def has_seen(self, model: str) -> bool:
        """Whether any target has had this model since the coordinator started."""
        return bool(hashes_in_order(list(self._seen.values()), model))

    def left(self, target: TargetRecord, reason: str, now: float) -> None:
        """Note that a target left; its profile counts as present for a while."""
        is_expected = reason not in (DRAINED, DROPPED)
        self._left[target.name] = _Left(target.profile, now, is_expected)

    def known(self, now: float) -> list[EngineProfile]:
        """Returns the profiles of the targets that are present or left recently."""
        here = self._roster.targets()
        names = {node.name for node in here}
        lately = [
            left.profile
            for name, left in self._left.items()
            if name not in names and now - left.at <= LATELY_S
        ]
        return [*(node.profile for node in here), *lately]

    def expects_for(self, request: Request, now: float) -> bool:
        """Whether a target that could serve a request left so recently that the request may wait
        for it, as requests that have begun do."""
        expected = [
            left.profile
            for left in self._left.values()
            if left.is_expected and now - left.at < STRANDED_LIMIT_S
            if fits_request(left.profile, request)
        ]
        return bool(hashes_in_order(expected, request.submit.model))

    def _standings(self, now: float) -> Standings:
        # When a target joins or leaves, many requests may wait: compute this once for all of them.
        known = self.known(now)
        if known != self._known:
            self._known, self._known_standings = known, standings_of(known)
        return self._known_standings

    def of_first_class(
        self, targets: Sequence[TargetRecord], request: Request, now: float
    ) -> list[TargetRecord]:
        """Returns those of the targets that have the class that a request goes to.

        targets: all have the same model.
        """
        names = {target.profile.numerics_class for target in targets}
        if not names:
            return []
        model_hash, is_settled = targets[0].profile.model_hash, now >= self._began_at + SETTLED_S
        standings, in_force = self._standings(now), self._classes.get(model_hash, "")
        proven = {n.profile.numerics_class for n in targets if n.unverified_since is None}
        if is_settled:
            names = proven or names
        kept = in_force if is_settled else ""
        order = classes_in_order(standings, model_hash, kept)
        first = next(each for each in order if each in names)
        if not request.is_pinned and first in proven and kept not in standings[model_hash]:
            self._classes[model_hash] = first
        return [target for target in targets if target.profile.numerics_class == first]

    def _of_first_model(
        self, targets: Iterable[TargetRecord], request: Request, now: float
    ) -> list[TargetRecord]:
        """Returns those of the targets that have the model that a request goes to."""
        by_hash: dict[str, list[TargetRecord]] = {}
        for target in targets:
            by_hash.setdefault(target.profile.model_hash, []).append(target)
        key = request.submit.model, request.submit.wants == EMBEDDING
        hashes = hashes_in_order(self.known(now), request.submit.model)
        kept = ""
        if len(hashes) > 1 and now >= self._began_at + SETTLED_S:
            kept = self._models.get(key, "")
            # A name that is new may mean a model that has served under another one.
            served = {*self._models.values()}
            hashes.sort(key=lambda found: (found != kept, found not in served))
        if hashes:
            self._models[key] = hashes[0]
        return next((by_hash[found] for found in hashes if found in by_hash), [])

    def reader_of(self, request: Request, texts: Texts, now: float) -> TargetRecord | None:
        """Returns the target that reads the prompt of a request, if there is one.

        Targets take turns. Those that have not answered their probe, or do not answer texts, are
        chosen only if there are no others.
        """
        able = [n for n in self._roster.targets() if fits_request(n.profile, request)]
        staying = [n for n in able if not n.is_draining]
        if request.is_resumed and request.model_hash:
            # It must continue with the model it began with, for which a draining target will do.
            staying = staying or able
        else:
            staying = self._of_first_model(staying, request, now)
        staying = [n for n in staying if n.unverified_since is None] or staying
        answering = [n for n in staying if n not in texts.silent]
        found = self.of_first_class(answering or staying, request, now)
        return min(found, key=texts.turn_of, default=None)
